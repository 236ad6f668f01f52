"""What just happened, as Events."""

from collections.abc import Iterable

from pveha.api import conditions, meta
from pveha.decide import evidence, memory, quarantine, report_capacity, report_maintenance
from pveha.decide import told as told_
from pveha.model import cluster, decision, guests, operations

PREEMPTED = "preempted"
"""Begins the key of what is announced of guests that were stopped for others."""
HARMLESS = frozenset({evidence.State.ONLINE, evidence.State.PLANNED_DOWN})


def events_of(now: told_.Round, before: memory.Memory) -> tuple[list[decision.Event], frozenset[str]]:
    """Changes of node states, ends of operations, and (once a cause) what is not or would be done."""
    result = []
    for name, verdict in now.verdicts.items():
        old = before.node(name).state
        if old and old != verdict.state and verdict.state not in evidence.PASSING:
            text = f"node {name} is {verdict.state}" + (f": {verdict.reason}" if verdict.reason else "")
            result.append(decision.Event(f"Node{verdict.state}", text, verdict.state not in HARMLESS))
    for state in now.seen.operations:
        if state.outcome is not None:
            result.extend(_ended(state.operation, state.outcome, now))
    result.extend(_recovered_by_native(now, before))
    result.extend(report_capacity.back(now, before.announced))
    result.extend(_started_again(now, before))
    due = dict(_once(now))
    result.extend(event for key, event in due.items() if key not in before.announced)
    return result, frozenset(due)


def _recovered_by_native(now: told_.Round, before: memory.Memory) -> Iterable[decision.Event]:
    for vmid, done in sorted(now.memo.failovers.items()):
        guest = now.protected.guests.get(vmid)
        if done.native and done.completion is not None and guest and before.failovers.get(vmid) != done:
            text = (
                f"{guest.ref} of {done.dead} is on {done.target}: Proxmox's own HA started it, "
                f"{done.completion - done.start:.0f} s after the first sign of the loss"
            )
            yield decision.Event("Recovered", text, name=guest.name)


def _started_again(now: told_.Round, before: memory.Memory) -> Iterable[decision.Event]:
    for guest in now.protected.guests.values():
        told = f"{PREEMPTED}/{guest.vmid}" in before.announced
        runs = guest.registered is not None and guest.registered.state is cluster.HAState.STARTED
        if told and runs and not guest.comment.preempted:
            text = f"{guest.ref}, which was stopped to make room for another guest, is started again"
            yield decision.Event("PreemptionEnded", text, name=guest.name)


def _ended(
    operation: operations.Operation, outcome: operations.Outcome, now: told_.Round
) -> Iterable[decision.Event]:
    if isinstance(operation, operations.Fence):
        if outcome.proof is not None:
            yield decision.Event("Fenced", f"node {operation.node} was switched off and its BMC proves it")
        else:
            yield decision.Event(
                "FenceFailed", f"node {operation.node} could not be proven off: {outcome.error}", True
            )
    if isinstance(operation, operations.PowerOn):
        if outcome.error:
            text = f"node {operation.node} could not be switched on again: {outcome.error}"
            yield decision.Event("PowerOnFailed", text, True)
        else:
            yield decision.Event("PoweredOn", f"node {operation.node} was switched on again")
    if isinstance(operation, operations.Takeover):
        of_node = f" of {operation.dead}" if operation.dead else ""
        for result in outcome.guests:
            guest = now.protected.guests.get(result.ref.vmid)
            name = guest.name if guest else None
            if result.reason == "Waiting":
                text = f"{result.ref}{of_node} is on {operation.target} and {result.message}"
                yield decision.Event("Waiting", text, name=name)
            elif result.reason in ("Running", "Claimed"):
                text = f"{result.ref}{of_node} is on {operation.target}" + _lost(result.ref, operation)
                yield decision.Event("Recovered", text, name=name)
            else:
                what = f"{result.ref}{of_node}"
                text = f"{what} is not yet recovered ({result.reason}): {result.message}"
                yield decision.Event("NotRecovered", text, True, name)


def _lost(ref: guests.GuestRef, operation: operations.Takeover) -> str:
    """What the guest lacks that was started from a replica."""
    replica = next((item.replica for item in operation.items if item.ref == ref), None)
    if replica is None:
        return ""
    return (
        f", from its replica there: the last {replica.lost_seconds:.0f} s of its data are missing, which "
        f"{operation.dead} may hold. Its replication jobs are disabled until the loss is accepted: annotate "
        f"its ProtectedVM with {meta.ACCEPT_DATA_LOSS_ANNOTATION}={operation.failure}"
    )


def _once(now: told_.Round) -> Iterable[tuple[str, decision.Event]]:
    for name, verdict in now.verdicts.items():
        if verdict.path_broken:
            yield f"path/{name}", decision.Event("PathBroken", f"node {name}: {verdict.reason}", True)
        for why in {each.voided: None for each in now.memo.node(name).methods.values() if each.voided}:
            yield f"voided/{name}/{why}", decision.Event("FencingContradicted", why, True)
    for name, why in quarantine.reasons(now.memo, now.spec).items():
        yield f"quarantine/{name}", decision.Event("NodeQuarantined", f"node {name}: {why}", True)
    for guest in now.protected.guests.values():
        if guest.comment.preempted:
            text = f"{guest.ref} is stopped to make room for {guest.comment.preempted} (spec.preemption)"
            yield f"{PREEMPTED}/{guest.vmid}", decision.Event("Preempted", text, True, guest.name)
    yield from report_maintenance.events(now)
    yield from report_capacity.events(now)
    for vmid, late in now.startup.overdue.items():
        text = f"it is started although {' and '.join(late)} did not become ready in time"
        name = now.protected.guests[vmid].name
        yield f"overdue/{vmid}", decision.Event("DependencyOverdue", text, True, name)
    for vmid, wait in now.startup.waits.items():
        if wait.stopped:
            name = now.protected.guests[vmid].name
            yield f"stopped/{vmid}", decision.Event("HeldDown", f"it {wait.sentence}", True, name)
    for name, recovery in now.recoveries.items():
        failure = now.memo.node(name).failure
        for vmid, refusal in recovery.refusals.items():
            guest = now.protected.guests[vmid]
            text = f"{guest.ref} of {name} is not taken over: {refusal.message}"
            yield f"{failure}/{vmid}/{refusal.reason}", decision.Event("NotTakenOver", text, True, guest.name)
        if now.allowed.begin or not recovery.items:
            continue
        moves = ", ".join(f"{vmid} to {recovery.targets[vmid]}" for vmid in sorted(recovery.items))
        if now.allowed.reason is conditions.Acting.OBSERVE:
            text = f"would fence {name} and start its guests elsewhere ({moves}); mode is Observe"
            yield f"{failure}/observe", decision.Event("WouldRecover", text)
        else:
            text = f"{name} is lost but nothing is done: {now.allowed.message}"
            yield f"{failure}/{now.allowed.reason}", decision.Event("NotActing", text, True)
    if now.enrolled.held:
        text = f"{now.enrolled.held} guests lost their ProtectedVM or selection at once: they stay registered"
        yield "unprotect", decision.Event("UnprotectHeld", text, True)
    if now.allowed.stop and now.allowed.reason is not conditions.Acting.NOT_LEADER:
        yield f"acting/{now.allowed.reason}", decision.Event("NotActing", now.allowed.message, True)
