"""Fence lost nodes and take their guests over (design §7)."""

import dataclasses
from collections.abc import Container, Mapping

from pveha.api import hacluster
from pveha.api.conditions import Acting, FailoverReady
from pveha.decide import (
    evidence,
    fence,
    guards,
    losses,
    memory,
    outcomes,
    placement,
    protection,
    readiness,
    recall,
    registration,
    situation,
    victims,
)
from pveha.model import cluster, operations, snapshot

MANAGER_SILENT_SECONDS = 60.0
"""A CRM silent for this long before the failure may remember anything (S7)."""
AWAITED = frozenset(
    {evidence.State.DOWN, evidence.State.ISOLATED, evidence.State.FENCING, evidence.State.FENCED}
)
"""States of a lost node whose proof may still come before native HA begins."""
PROVABLE = AWAITED | {evidence.State.FENCE_FAILED}
"""The same for a guest that native HA does not recover: its node is fenced until that succeeds."""
LRM_BUSY = frozenset({"migrate", "relocate", "request_stop", "request_start_balance"})
"""CRM states in which a live LRM works on the guest."""


@dataclasses.dataclass(frozen=True, slots=True)
class Recovery:
    """What one lost node needs: its guests with targets, and why others are left."""

    node: str
    items: Mapping[int, operations.TakeoverItem]
    targets: Mapping[int, str]
    refusals: Mapping[int, protection.Refusal]
    stranded: frozenset[int] = frozenset()
    """Guests that a migration has left between it and a live node, and that wait for its proof (S16)."""
    preempting: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Running guests to be stopped by vmid, and which guest without room gets each one's place."""

    @property
    def pending(self) -> bool:
        """Whether the proof that the node is off would bring a guest back."""
        return bool(self.items or self.stranded or self.preempting)


def recover(
    now: situation.Situation, members: evidence.Membership, allowed: guards.Permission
) -> tuple[list[operations.Operation], list[str], memory.Memory, dict[str, Recovery], readiness.Startup]:
    """Operations to start, ids to cancel, the memory, per lost node what is planned for it, and who waits for
    whom."""
    seen, spec, memo, verdicts, protected = now.seen, now.spec, now.memo, now.verdicts, now.protected
    start: list[operations.Operation] = []
    recoveries: dict[str, Recovery] = {}
    native = spec.recovery.engine is hacluster.Engine.NATIVE
    for name, verdict in verdicts.items():
        if not verdict.lost:
            continue
        recovery = Recovery(name, {}, {}, {}) if native else _recovery(name, now)
        recoveries[name] = recovery
        memo = losses.record(name, verdict, memo, seen, protected)
        if not allowed.begin or memo.epoch is None or _opening(seen) or start:
            continue
        if recovery.pending and (found := fence.fence(name, verdict, seen, spec, memo, members)):
            start.append(found)
    startup = readiness.NOTHING
    if not native:
        startable = _startable(recoveries, verdicts, protected)
        startup, memo = readiness.follow(seen, memo, verdicts, protected, startable, seen.takeovers().keys())
    if memo.epoch is not None and recall.is_current(seen, memo) and not start and not _opening(seen):
        for name, recovery in recoveries.items():
            if allowed.begin and verdicts[name].state is evidence.State.FENCED:
                batches, memo = _batches(recovery, seen, spec, memo, members, protected, startup)
                start.extend(batches)
        if allowed.finish and spec.recovery.node_shell is not None:
            claimed_only = native or not allowed.begin
            resumed, memo = _resume(
                seen, memo, members, verdicts, protected, startup, claimed_only=claimed_only
            )
            start.extend(resumed)
    memo = losses.complete(memo, seen, verdicts)
    return start, _cancellations(seen, memo, members, allowed), memo, recoveries, startup


def _startable(
    recoveries: Mapping[str, Recovery],
    verdicts: Mapping[str, evidence.Verdict],
    protected: protection.Protection,
) -> frozenset[int]:
    """Guests of nodes that are proven off, and are to run again."""
    return frozenset(
        vmid
        for name, recovery in recoveries.items()
        if verdicts[name].state is evidence.State.FENCED
        for vmid in recovery.items.keys() | recovery.stranded
        if protection.wanted_state(protected.guests[vmid]) is cluster.HAState.STARTED
    )


def _opening(seen: snapshot.Snapshot) -> bool:
    """Whether an epoch is being opened, as a fence does: claims and another fence wait for its end."""
    return any(
        isinstance(s.operation, operations.Fence | operations.Begin) and s.outcome is None
        for s in seen.operations
    )


def _recovery(dead: str, now: situation.Situation) -> Recovery:
    """The guests whose configuration is on `dead` (S16; those in mid-migration are resumed where their file
    is)."""
    seen, memo, protected = now.seen, now.memo, now.protected
    refusals: dict[int, protection.Refusal] = {}
    wanted = []
    for guest in protected.guests.values():
        if guest.seen.node != dead or _just_moved(guest, dead, seen):
            continue
        refusal = protection.unrecoverable(guest, seen, memo) or _not_now(guest, dead, seen, memo)
        if refusal:
            refusals[guest.vmid] = refusal
        else:
            wanted.append(guest)
    planned = placement.plan(now, {dead}, wanted)
    waiting = victims.needy(planned.refusals, protected)
    preempting: Mapping[int, int] = {}
    if waiting:
        placed = [guest for guest in wanted if guest.vmid in planned.targets]
        preempting = victims.choose(now, {dead}, waiting, placed)
    proven = {name for name, verdict in now.verdicts.items() if verdict.state is evidence.State.FENCED}
    items = {
        guest.vmid: dataclasses.replace(
            _item(guest, dead, seen.owner, proven=proven),
            replica=situation.replica(now, guest, planned.targets[guest.vmid]),
        )
        for guest in wanted
        if guest.vmid in planned.targets
    }
    refusal = protection.provable(dead, now.spec, memo)
    state = now.verdicts[dead].state
    provable = refusal is None or refusal.reason is FailoverReady.FENCING_MANUAL
    stranded = frozenset(
        guest.vmid
        for guest in protected.guests.values()
        if provable
        and (
            (state in PROVABLE and _waits_for_proof(guest, dead, memo))
            or (
                state in AWAITED
                and _stranded(guest, {dead})
                and not protection.unrecoverable(guest, seen, memo)
                and not _not_now(guest, dead, seen, memo)
            )
        )
    )
    return Recovery(dead, items, planned.targets, {**refusals, **planned.refusals}, stranded, preempting)


def _not_now(
    guest: protection.Protected, dead: str, seen: snapshot.Snapshot, memo: memory.Memory
) -> protection.Refusal | None:
    """What speaks against disowning the guest at this moment (S7)."""
    if guest.service is not None and guest.comment.mark is None:
        if guest.service.state in losses.NATIVE_AHEAD:
            return protection.Refusal(
                FailoverReady.NATIVE_AHEAD, "Proxmox's own HA is already recovering it and is left alone"
            )
        if guest.service.state in LRM_BUSY and guest.service.node != dead:
            text = f"the live LRM of {guest.service.node} is working on it ({guest.service.state})"
            return protection.Refusal(FailoverReady.BUSY, text)
    if seen.ha_status is None or not seen.ha_status.armed:
        return protection.Refusal(
            FailoverReady.HA_NOT_HEALTHY, "Proxmox HA is disarmed: 'ha-manager crm-command arm-ha' arms it"
        )
    since = _left_at(memo.node(dead))
    if since is not None and since - memo.manager_moved_at > MANAGER_SILENT_SECONDS:
        return protection.Refusal(
            FailoverReady.HA_NOT_HEALTHY,
            "the CRM had not written its state for a minute when the node was lost",
        )
    return None


def _left_at(lost: memory.NodeMemory) -> float | None:
    """When a node left the membership (the loop's time): by the id of its loss, if an earlier leader saw it
    leave, but not before the last report of its LRM. The CRM may have been on that node, and silent since."""
    told = lost.failure.rpartition("-")[2]
    if lost.offline_since is None or not told.isdecimal():
        return lost.offline_since
    earlier = max(0.0, lost.offline_timestamp - int(told))
    return min(lost.offline_since, max(lost.offline_since - earlier, lost.lrm_moved_at))


def _just_moved(guest: protection.Protected, dead: str, seen: snapshot.Snapshot) -> bool:
    """Whether the CRM's records, read after the guests, have it elsewhere: its place is about to be read."""
    return (
        guest.comment.mark is None
        and guest.service is not None
        and guest.service.node != dead
        and guest.service.state not in LRM_BUSY
        and seen.inventory is not None
        and seen.ha_status is not None
        and seen.inventory.answered_at < seen.ha_status.answered_at
    )


def _item(
    guest: protection.Protected,
    dead: str,
    owner: str,
    last_seen: frozenset[str] = frozenset(),
    proven: Container[str] = (),
    *,
    claimed: bool = False,
    here: bool = False,
) -> operations.TakeoverItem:
    """`last_seen`: nodes that may run it beside those that the CRM names (S16), but none `proven` off."""
    named = {guest.service.node, guest.service.target} if guest.service else set()
    return operations.TakeoverItem(
        guest.ref,
        protection.wanted_state(guest),
        guest.lock,
        frozenset(name for name in {*last_seen, *named} - {dead} if name and name not in proven),
        guest.registered,
        registration.entry(guest, protection.wanted_state(guest), owner),
        claimed,
        here,
        rank=guest.order[:-1],
    )


def _batches(
    recovery: Recovery,
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    members: evidence.Membership,
    protected: protection.Protection,
    startup: readiness.Startup,
) -> tuple[list[operations.Takeover], memory.Memory]:
    """One takeover per target, highest priority first, within the limit on guests in flight. Who waits for
    others is claimed when nobody is left who may start, and started later (`_resume`)."""
    remembered = memo.node(recovery.node)
    in_flight = seen.takeovers()
    room = spec.safety.max_concurrent_takeovers - len(in_flight)
    proven_for = seen.now - remembered.proof.last_off_at if remembered.proof else 0.0
    chosen: dict[str, list[operations.TakeoverItem]] = {}
    ordered = sorted(recovery.items, key=lambda each: (each in startup.waits, protected.guests[each].order))
    for vmid in ordered:
        guest = protected.guests[vmid]
        trouble = memo.guest(guest.sid)
        waiting = proven_for < guest.policy.node_failure.delay_seconds
        if (
            room <= 0
            or vmid in in_flight
            or waiting
            or trouble.retry_at > seen.now
            or trouble.attempts >= outcomes.MAX_ATTEMPTS
        ):
            continue
        item = recovery.items[vmid]
        if (wait := startup.waits.get(vmid)) is not None:
            if any(not each.waits for items in chosen.values() for each in items):
                break
            item = dataclasses.replace(item, waits=wait.sentence)
        chosen.setdefault(recovery.targets[vmid], []).append(item)
        room -= 1
    result = []
    for target, items in sorted(chosen.items()):
        takeover, memo = _takeover(recovery.node, target, tuple(items), seen, memo, members)
        result.append(takeover)
        memo = _expect(memo, takeover, remembered, seen)
    return result, memo


def _takeover(
    dead: str,
    target: str,
    items: tuple[operations.TakeoverItem, ...],
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    members: evidence.Membership,
) -> tuple[operations.Takeover, memory.Memory]:
    assert memo.epoch is not None
    remembered = memo.node(dead)
    takeover = operations.Takeover(
        id=f"t{memo.epoch}.{memo.counter}",
        failure=remembered.failure,
        dead=dead,
        target=target,
        epoch=memo.epoch,
        items=items,
        survivors=evidence.survivors(members),
        proven_by=remembered.proof.methods if remembered.proof else (),
        off_read_at=remembered.proof.last_off_at if remembered.proof else float("-inf"),
        alive=fence.alive_witnesses(dead, seen, memo, members),
    )
    return takeover, memory.changed(memo, counter=memo.counter + 1)


def _expect(
    memo: memory.Memory,
    takeover: operations.Takeover,
    lost: memory.NodeMemory,
    seen: snapshot.Snapshot,
) -> memory.Memory:
    start = losses.timestamp(lost) or seen.wall
    failovers = dict(memo.failovers)
    for item in takeover.items:
        failovers[item.ref.vmid] = memory.Failover(
            takeover.failure,
            takeover.dead,
            takeover.target,
            f"node {takeover.dead} was lost and proven off",
            start,
            None,
            replica=item.replica,
        )
    return memory.changed(memo, failovers=failovers)


def _resume(
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    members: evidence.Membership,
    verdicts: Mapping[str, evidence.Verdict],
    protected: protection.Protection,
    startup: readiness.Startup,
    *,
    claimed_only: bool,
) -> tuple[list[operations.Takeover], memory.Memory]:
    """Start what an interrupted takeover has claimed, and unless `claimed_only`, what a migration from or to
    a lost node left behind (S16)."""
    in_flight = seen.takeovers()
    lost = {name for name, verdict in verdicts.items() if verdict.state is evidence.State.FENCED}
    chosen: dict[tuple[str, str], list[operations.TakeoverItem]] = {}
    everybody = frozenset(evidence.survivors(members))
    for guest in protected.guests.values():
        where = guest.seen.node
        trouble, wait = memo.guest(guest.sid), startup.waits.get(guest.vmid)
        if (
            guest.vmid in in_flight
            or trouble.verified
            or trouble.retry_at > seen.now
            or trouble.attempts >= outcomes.MAX_ATTEMPTS
        ):
            continue
        if where not in verdicts or verdicts[where].state is not evidence.State.ONLINE:
            continue
        ours = guest.comment.mark is not None and guest.comment.mark.op != ""
        ignored = guest.registered is not None and guest.registered.state is cluster.HAState.IGNORED
        if ours and ignored and protection.wanted_state(guest) is cluster.HAState.STARTED:
            begun = memo.failovers.get(guest.vmid)
            if doubted_source(guest.vmid, memo, verdicts) or wait is not None:
                continue
            came_from = {begun.dead} & everybody if begun is not None else everybody - {where}
            item = _item(guest, "", seen.owner, frozenset(came_from), lost, claimed=True)
            chosen.setdefault(("", where), []).append(item)
        elif (
            not claimed_only
            and (from_lost := _stranded(guest, lost))
            and not protection.unrecoverable(guest, seen, memo)
            and not _not_now(guest, from_lost, seen, memo)
        ):
            item = _item(guest, from_lost, seen.owner, proven=lost, here=True)
            if wait is not None:
                item = dataclasses.replace(item, waits=wait.sentence)
            chosen.setdefault((from_lost, where), []).append(item)
    result = []
    for (dead, target), items in sorted(chosen.items()):
        takeover, memo = _takeover(dead, target, tuple(items), seen, memo, members)
        result.append(takeover)
    return result, memo


def doubted_source(vmid: int, memo: memory.Memory, verdicts: Mapping[str, evidence.Verdict]) -> str:
    """The lost node that a claimed guest came from whose proof has been voided since, and that no other level
    has proven off, or an empty string."""
    begun = memo.failovers.get(vmid)
    if begun is None or not memo.node(begun.dead).voided:
        return ""
    where = verdicts.get(begun.dead)
    known = where is not None and where.state in (evidence.State.ONLINE, evidence.State.FENCED)
    return "" if known else begun.dead


def _waits_for_proof(guest: protection.Protected, dead: str, memo: memory.Memory) -> bool:
    """Whether a guest that was claimed is not started because `dead`, which is not proven off (any more), may
    still run it: native HA is held back from it (S11), or an earlier leader had claimed it and the CRM names
    `dead` (S17)."""
    ours = guest.comment.mark is not None and guest.comment.mark.op != ""
    ignored = guest.registered is not None and guest.registered.state is cluster.HAState.IGNORED
    if guest.comment.mark is not None and guest.comment.mark.hold == dead:
        to_run = protection.wanted_state(guest) is cluster.HAState.STARTED
        return ignored and to_run and guest.seen.node != dead
    named = guest.service is not None and dead in (guest.service.node, guest.service.target)
    blocked = memo.guest(guest.sid).problem == FailoverReady.NODE_SHELL_UNREACHABLE
    return ours and ignored and named and blocked and guest.seen.node != dead


def _stranded(guest: protection.Protected, lost: set[str]) -> str:
    """The lost node that the CRM connects with a guest that does not run where its file is, or nothing."""
    held = guest.comment.mark is not None and guest.comment.mark.hold != ""
    if guest.service is None or held or guest.seen.status == "running":
        return ""
    named = (guest.service.node, guest.service.target)
    return next((name for name in named if name and name in lost and name != guest.seen.node), "")


def _cancellations(
    seen: snapshot.Snapshot, memo: memory.Memory, members: evidence.Membership, allowed: guards.Permission
) -> list[str]:
    """Operations against a node that is back or no longer proven off, or that we may no longer run (but for
    the question whether the cluster still is another's)."""
    result = []
    for state in seen.operations:
        operation = state.operation
        if isinstance(operation, operations.Fence | operations.PowerOn):
            node = operation.node
        else:
            node = getattr(operation, "dead", "")
        returned = node in members.nodes and evidence.is_offline(node, members) is False
        unproven = isinstance(operation, operations.Takeover) and node and memo.node(node).proof is None
        asks_again = isinstance(operation, operations.Begin) and allowed.reason is Acting.NOT_OWNED
        if state.outcome is None and (returned or unproven or (allowed.stop and not asks_again)):
            result.append(operation.id)
    return result
