"""What users are told: statuses with conditions, and events. Nothing in it changes while nothing happens."""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping

from pveha.api import conditions, failoverpolicy, hacluster, meta, protectedvm
from pveha.decide import evidence, failover, guards, memory, placement, protection
from pveha.model import decision, mark, operations, snapshot, specs

MANAGER_STUCK_SECONDS = 30.0
"""A CRM flushes its state every 10 s; longer silence with a live master is a fault (S9)."""
SHOWN_OPERATIONS = 20
PASSING = frozenset({evidence.State.SUSPECT, evidence.State.UNCONFIRMED, evidence.State.FENCING})
"""States on the way to another: status shows them, but they make no Event."""
HARMLESS = frozenset({evidence.State.ONLINE, evidence.State.PLANNED_DOWN})
CONNECTED_REASONS: Mapping[str, conditions.Connected] = {
    "SecretMissing": conditions.Connected.SECRET_MISSING,
    "SecretInvalid": conditions.Connected.SECRET_INVALID,
    "Unauthorized": conditions.Connected.UNAUTHORIZED,
    "Forbidden": conditions.Connected.PRIVILEGES_MISSING,
    "Untrusted": conditions.Connected.CERTIFICATE_MISMATCH,
    "BadAnswer": conditions.Connected.BAD_ANSWER,
}
FENCING_REASONS: Mapping[str, conditions.FencingReady] = {
    "SecretMissing": conditions.FencingReady.SECRET_MISSING,
    "SecretInvalid": conditions.FencingReady.SECRET_INVALID,
    "Unauthorized": conditions.FencingReady.UNAUTHORIZED,
    "Untrusted": conditions.FencingReady.CERTIFICATE_MISMATCH,
}
SHELL_REASONS: Mapping[str, conditions.FastReady] = {
    "SecretMissing": conditions.FastReady.SECRET_MISSING,
    "SecretInvalid": conditions.FastReady.SECRET_INVALID,
    "Unauthorized": conditions.FastReady.NODE_SHELL_DENIED,
    "Untrusted": conditions.FastReady.NODE_SHELL_DENIED,
    "Unreachable": conditions.FastReady.NODE_SHELL_UNREACHABLE,
    "BadAnswer": conditions.FastReady.NODE_SHELL_VERSION,
}

Told = tuple[bool | None, conditions.Documented, str]
"""Status (None: Unknown), reason and message of a condition."""


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """All that the report of one round is made of."""

    seen: snapshot.Snapshot
    wanted: specs.Specs
    memo: memory.Memory
    members: evidence.Membership
    verdicts: Mapping[str, evidence.Verdict]
    protected: protection.Protection
    allowed: guards.Permission
    recoveries: Mapping[str, failover.Recovery]
    plans: Mapping[str, placement.Plan]


def report(now: Round, before: memory.Memory) -> tuple[decision.Report, memory.Memory]:
    """The statuses of this round, and the events since the last one."""
    told = {
        conditions.ClusterCondition.CONNECTED: _connected(now),
        conditions.ClusterCondition.QUORATE: _quorate(now),
        conditions.ClusterCondition.OWNED: _owned(now),
        conditions.ClusterCondition.FENCING_READY: _fencing(now),
        conditions.ClusterCondition.FAST_READY: _fast(now),
        conditions.ClusterCondition.HA_HEALTHY: _ha_healthy(now),
        conditions.ClusterCondition.DEGRADED: _degraded(now),
        conditions.ClusterCondition.ACTING: _acting(now),
    }
    told[conditions.ClusterCondition.READY] = _ready(told)
    statuses = {name: _guest(pvm, now) for name, pvm in now.wanted.guests.items()}
    for name, refusal in now.protected.refused.items():
        if name in now.wanted.unreadable:
            statuses[name] = _refused(refusal, None, now)
    status = _cluster(now, told, statuses)
    events, announced = _events(now, before)
    policies = {name: _policy(policy, now) for name, policy in now.wanted.policies.items()}
    return decision.Report(status, statuses, policies, tuple(events)), dataclasses.replace(
        now.memo, announced=announced
    )


def _acting(now: Round) -> Told:
    if now.allowed.reason is not conditions.Acting.OK:
        return False, now.allowed.reason, now.allowed.message
    fast, fencing = _fast(now), _fencing(now)
    for told in (fast, fencing):
        if told[0] is False and (told is fast or told[1] is conditions.FencingReady.NOT_CONFIGURED):
            return False, conditions.Acting.NOT_READY, told[2]
    return True, conditions.Acting.OK, now.allowed.message


def _time(timestamp: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(timestamp, datetime.UTC)


def _conditions(
    told: Mapping[conditions.ClusterCondition, Told]
    | Mapping[conditions.GuestCondition, Told]
    | Mapping[conditions.PolicyCondition, Told],
    generation: int,
    wall: float,
) -> tuple[meta.Condition, ...]:
    words: dict[bool | None, str] = {True: "True", False: "False", None: "Unknown"}
    return tuple(
        meta.Condition.model_validate(
            {
                "type": str(type_),
                "status": words[status],
                "reason": str(reason),
                "message": message,
                "lastTransitionTime": _time(wall),
                "observedGeneration": generation,
            }
        )
        for type_, (status, reason, message) in sorted(told.items())
    )


def _connected(now: Round) -> Told:
    for source in ("hypervisor", "privileges", "inventory", "ha_config", "ha_status"):
        problem = now.seen.problems.get(source)
        if problem is not None:
            reason = CONNECTED_REASONS.get(problem.kind, conditions.Connected.UNREACHABLE)
            return False, reason, problem.message
    if not now.members.reachable:
        if not now.seen.probes:
            return None, conditions.Connected.STARTING, "no endpoint has been asked yet"
        silent = sorted(
            f"{name}: {probe.problem}" for name, probe in now.seen.probes.items() if probe.problem
        )
        return (
            False,
            conditions.Connected.UNREACHABLE,
            "no node answers: " + ("; ".join(silent) or "no answer yet"),
        )
    if now.seen.version and int(now.seen.version.partition(".")[0] or 0) < 9:
        return (
            False,
            conditions.Connected.VERSION_UNSUPPORTED,
            f"Proxmox VE {now.seen.version} has no HA rules: pveha needs 9",
        )
    return True, conditions.Connected.OK, "the Proxmox API answers"


def _quorate(now: Round) -> Told:
    if not now.members.reachable:
        return None, conditions.Quorate.UNKNOWN, "no node answers"
    if not now.members.quorate:
        return (
            False,
            conditions.Quorate.NO_QUORUM,
            "no node that answers is quorate: pveha does nothing until one is",
        )
    if now.members.split:
        return False, conditions.Quorate.SPLIT_VIEW, now.members.split
    return True, conditions.Quorate.OK, "the nodes that answer agree"


def _owned(now: Round) -> Told:
    if now.memo.superseded:
        text = (
            f"the Proxmox cluster is owned by {now.memo.superseded}; to take it over, annotate the HACluster "
            f"with {meta.TAKE_OVER_ANNOTATION}={now.memo.superseded}"
        )
        return False, conditions.Owned.ANOTHER_OPERATOR, text
    if now.memo.epoch is not None:
        return True, conditions.Owned.OK, "the epoch register names this HACluster"
    return None, conditions.Owned.NOT_CLAIMED, "no epoch has been opened yet"


def _fencing(now: Round) -> Told:
    spec = now.wanted.cluster.spec
    if not spec.fencing.methods:
        return (
            False,
            conditions.FencingReady.NOT_CONFIGURED,
            "spec.fencing.methods is empty: no node's death can be proven",
        )
    if problem := now.seen.problems.get("power"):
        return False, FENCING_REASONS.get(problem.kind, conditions.FencingReady.UNREACHABLE), problem.message
    unverified = []
    for name in sorted(now.members.nodes):
        if refusal := protection.provable(name, spec, now.memo):
            if now.memo.node(name).voided:
                return False, conditions.FencingReady.FENCING_CONTRADICTED, refusal.message
            unverified.append((name, refusal))
        elif (problem := now.seen.problems.get(f"power/{name}")) and not now.verdicts[name].lost:
            reason = FENCING_REASONS.get(problem.kind, conditions.FencingReady.UNREACHABLE)
            return False, reason, f"the BMC of {name}: {problem.message}"
    unread = [
        name
        for name, _ in unverified
        if name not in now.seen.power and f"power/{name}" not in now.seen.problems
    ]
    if unread and all(_has_bmc(name, now) for name in unread):
        return None, conditions.FencingReady.UNKNOWN, f"the BMC of {', '.join(unread)} has not been read yet"
    if unverified:
        problems = [
            now.seen.problems[f"power/{name}"].message
            for name, _ in unverified
            if f"power/{name}" in now.seen.problems
        ]
        return (
            False,
            conditions.FencingReady.FENCING_UNVERIFIED,
            "; ".join([r.message for _, r in unverified] + problems)[:4000],
        )
    return True, conditions.FencingReady.OK, "every node has a BMC that is bound to it"


def _has_bmc(name: str, now: Round) -> bool:
    node = now.wanted.cluster.spec.node(name)
    return node is not None and bool(node.fencing)


def _fast(now: Round) -> Told:
    if now.wanted.cluster.spec.recovery.node_shell is None:
        return (
            False,
            conditions.FastReady.NOT_CONFIGURED,
            "spec.recovery.nodeShell is not set: nothing can be taken over",
        )
    for key in ["shell", *(f"shell/{name}" for name in evidence.survivors(now.members))]:
        if problem := now.seen.problems.get(key):
            reason = SHELL_REASONS.get(problem.kind, conditions.FastReady.NODE_SHELL_FAILED)
            where = f"node shell of {key.partition('/')[2]}: " if "/" in key else ""
            return False, reason, f"{where}{problem.message}"
    if not now.seen.shells:
        return None, conditions.FastReady.UNKNOWN, "the node shells have not answered yet"
    if unsafe := failover.votes_unsafe(now.seen, evidence.survivors(now.members)):
        return False, conditions.FastReady.VOTES_UNSAFE, unsafe
    return True, conditions.FastReady.OK, "the node shells answer and the votes are safe"


def _ha_healthy(now: Round) -> Told:
    status = now.seen.ha_status
    if status is None:
        return None, conditions.HAHealthy.UNKNOWN, "the HA state has not been read yet"
    if not status.armed:
        return (
            False,
            conditions.HAHealthy.DISARMED,
            "Proxmox HA is disarmed: 'ha-manager crm-command arm-ha' arms it",
        )
    if status.master is None:
        return (
            None,
            conditions.HAHealthy.NOT_IN_USE,
            "Proxmox HA has no master yet: it starts with the first registered guest",
        )
    master = now.verdicts.get(status.master)
    alive = master is not None and master.state is evidence.State.ONLINE
    if alive and now.seen.now - now.memo.manager_moved_at > MANAGER_STUCK_SECONDS:
        text = (
            f"the CRM master {status.master} is online but has not written its state for more than 30 s: "
            f"'journalctl -u pve-ha-crm' on {status.master} tells why"
        )
        return False, conditions.HAHealthy.HA_MANAGER_STUCK, text
    silent = [
        name
        for name, verdict in now.verdicts.items()
        if verdict.state is evidence.State.ONLINE
        and now.memo.node(name).lrm_timestamp
        and now.seen.now - now.memo.node(name).lrm_moved_at > placement.LRM_FRESH_SECONDS
    ]
    if silent:
        return False, conditions.HAHealthy.LRM_NOT_ALIVE, f"the LRM of {', '.join(silent)} does not report"
    return True, conditions.HAHealthy.OK, "the CRM makes its rounds"


def _degraded(now: Round) -> Told:
    if not now.members.quorate:
        return None, conditions.Degraded.UNKNOWN, "membership cannot be read from a quorate node"
    held = [
        sid
        for sid, resource in (now.seen.ha_config.resources.items() if now.seen.ha_config else ())
        if (found := mark.parse(resource.comment).mark) and found.hold
    ]
    reasons = {
        evidence.State.FENCE_FAILED: conditions.Degraded.FENCE_FAILED,
        evidence.State.UNPROVABLE: conditions.Degraded.NODE_UNPROVABLE,
        evidence.State.ISOLATED: conditions.Degraded.NODE_ISOLATED,
        evidence.State.FENCING: conditions.Degraded.RECOVERING,
        evidence.State.FENCED: conditions.Degraded.NODE_DOWN,
        evidence.State.DOWN: conditions.Degraded.NODE_DOWN,
    }
    for state, reason in reasons.items():
        for name, verdict in now.verdicts.items():
            if verdict.state is state:
                if state is evidence.State.UNPROVABLE and held:
                    return (
                        True,
                        conditions.Degraded.HELD_BACK,
                        f"{name}: {verdict.reason}; native HA is held back from {', '.join(held)}",
                    )
                if state is evidence.State.FENCED and _recovering(now, name):
                    return (
                        True,
                        conditions.Degraded.RECOVERING,
                        f"the guests of {name} are being started elsewhere",
                    )
                return True, reason, f"{name}: {verdict.reason}"
    for name, verdict in now.verdicts.items():
        if verdict.state is evidence.State.PLANNED_DOWN:
            since = now.memo.node(name).offline_since
            limit = now.wanted.cluster.spec.safety.planned_down_seconds
            if since is not None and now.seen.now - since > limit:
                return (
                    True,
                    conditions.Degraded.PLANNED_DOWN_TOO_LONG,
                    f"{name} went down as announced but is not back after {limit} s",
                )
            return True, conditions.Degraded.NODE_PLANNED_DOWN, f"{name}: {verdict.reason}"
    for name, verdict in now.verdicts.items():
        if verdict.path_broken:
            return True, conditions.Degraded.PATH_BROKEN, f"{name}: {verdict.reason}"
    return False, conditions.Degraded.NONE, "all nodes are online"


def _recovering(now: Round, name: str) -> bool:
    return bool(now.recoveries[name].items) if name in now.recoveries else False


def _ready(told: Mapping[conditions.ClusterCondition, Told]) -> Told:
    order = (
        (conditions.ClusterCondition.CONNECTED, conditions.ClusterReady.NOT_CONNECTED),
        (conditions.ClusterCondition.QUORATE, conditions.ClusterReady.NOT_QUORATE),
        (conditions.ClusterCondition.OWNED, conditions.ClusterReady.NOT_OWNED),
        (conditions.ClusterCondition.FAST_READY, conditions.ClusterReady.FAST_NOT_READY),
        (conditions.ClusterCondition.FENCING_READY, conditions.ClusterReady.FENCING_NOT_READY),
        (conditions.ClusterCondition.HA_HEALTHY, conditions.ClusterReady.HA_NOT_HEALTHY),
    )
    for type_, reason in order:
        status, _, message = told[type_]
        if status is False:
            return False, reason, message
    whole = (
        conditions.ClusterCondition.CONNECTED,
        conditions.ClusterCondition.FAST_READY,
        conditions.ClusterCondition.FENCING_READY,
    )
    if any(told[type_][0] is None for type_ in whole):
        return None, conditions.ClusterReady.STARTING, "the cluster has not been seen whole yet"
    return True, conditions.ClusterReady.OK, "pveha can protect this cluster's guests"


def _cluster(
    now: Round,
    told: Mapping[conditions.ClusterCondition, Told],
    statuses: Mapping[str, protectedvm.ProtectedVMStatus],
) -> hacluster.HAClusterStatus:
    generation = now.wanted.cluster.metadata.generation
    failure = now.memo.failure
    guests = now.seen.inventory.guests.values() if now.seen.inventory else ()
    return hacluster.HAClusterStatus(
        observed_generation=generation,
        conditions=_conditions(told, generation, now.seen.wall),
        version=now.seen.version or None,
        epoch=now.memo.epoch if now.memo.epoch is not None else now.wanted.cluster.status.epoch,
        nodes=hacluster.NodeCounters(
            total=len(now.verdicts),
            online=sum(verdict.state is evidence.State.ONLINE for verdict in now.verdicts.values()),
        ),
        not_online=tuple(
            hacluster.NotOnline(
                name=name,
                state=str(verdict.state),
                reason=verdict.reason[:1024],
                since=_time(now.memo.node(name).state_timestamp or now.seen.wall),
            )
            for name, verdict in now.verdicts.items()
            if verdict.state is not evidence.State.ONLINE
        ),
        guests=hacluster.GuestCounters(
            total=sum(not guest.template for guest in guests),
            protected=len(now.protected.guests),
            failover_ready=sum(
                condition is not None and condition.status == "True"
                for status in statuses.values()
                for condition in [status.condition(conditions.GuestCondition.FAILOVER_READY)]
            ),
        ),
        operations=tuple(_operation(state) for state in _shown(now.seen.operations)),
        bindings=_bindings(now),
        last_failure=_failure(failure) if failure else now.wanted.cluster.status.last_failure,
    )


def _bindings(now: Round) -> tuple[hacluster.Binding, ...]:
    return tuple(
        hacluster.Binding(name=name, identities=tuple(sorted(node.identities)), voided=node.voided or None)
        for name, node in sorted(now.memo.nodes.items())
        if (node.bound or node.voided) and node.identities
    )


def _shown(states: Iterable[operations.OperationState]) -> list[operations.OperationState]:
    """Fences and takeovers in flight: changes of HA resources end within a round and would only make
    noise."""
    shown = [
        state
        for state in states
        if state.outcome is None and isinstance(state.operation, operations.Fence | operations.Takeover)
    ]
    return shown[:SHOWN_OPERATIONS]


def _operation(state: operations.OperationState) -> hacluster.OperationStatus:
    node = (
        state.operation.node
        if isinstance(state.operation, operations.Fence)
        else getattr(state.operation, "target", "")
    )
    return hacluster.OperationStatus(
        id=state.operation.id,
        kind=type(state.operation).__name__,
        node=node,
        step=state.step,
        start_time=_time(state.started_timestamp),
    )


def _failure(failure: memory.Failure) -> hacluster.LastFailure:
    return hacluster.LastFailure(
        id=failure.id,
        node=failure.node,
        cause=failure.cause[:1024],
        start_time=_time(failure.start),
        proven_time=_time(failure.proven) if failure.proven is not None else None,
        completion_time=_time(failure.completion) if failure.completion is not None else None,
        guests=len(failure.guests),
        recovered=len(failure.recovered),
    )


def _policy(policy: failoverpolicy.FailoverPolicy, now: Round) -> failoverpolicy.FailoverPolicyStatus:
    told: dict[conditions.PolicyCondition, Told] = {
        conditions.PolicyCondition.READY: (True, conditions.PolicyReady.OK, "the policy can be used")
    }
    generation = policy.metadata.generation
    return failoverpolicy.FailoverPolicyStatus(
        observed_generation=generation, conditions=_conditions(told, generation, policy_time(policy))
    )


def policy_time(policy: failoverpolicy.FailoverPolicy) -> float:
    """A policy is ready from its creation: several clusters report the same, so no clock of theirs is
    used."""
    created = policy.metadata.creation_timestamp
    return created.timestamp() if created else 0.0


def _refused(
    refusal: protection.Refusal, pvm: protectedvm.ProtectedVM | None, now: Round
) -> protectedvm.ProtectedVMStatus:
    generation = pvm.metadata.generation if pvm else 0
    told: dict[conditions.GuestCondition, Told] = {
        conditions.GuestCondition.READY: (False, refusal.reason, refusal.message),
        conditions.GuestCondition.FAILOVER_READY: (
            False,
            conditions.FailoverReady.NOT_READY,
            "see the condition Ready",
        ),
    }
    return protectedvm.ProtectedVMStatus(
        observed_generation=generation or None,
        guest=pvm.status.guest if pvm else None,
        last_failover=pvm.status.last_failover if pvm else None,
        conditions=_conditions(told, generation, now.seen.wall),
    )


def _guest(pvm: protectedvm.ProtectedVM, now: Round) -> protectedvm.ProtectedVMStatus:
    guest = now.protected.guests.get(pvm.spec.vmid)
    if guest is None or guest.pvm is not pvm:
        refusal = now.protected.refused.get(pvm.metadata.name)
        if refusal is None:
            refusal = protection.Refusal(
                conditions.GuestReady.CLUSTER_NOT_READY, "the cluster has not been read yet"
            )
            before = pvm.status.condition(conditions.GuestCondition.READY)
            if before is None or before.reason == conditions.GuestReady.CLUSTER_NOT_FOUND:
                return _refused(refusal, pvm, now)
            return pvm.status
        return _refused(refusal, pvm, now)
    ready = _guest_ready(guest, now)
    told: dict[conditions.GuestCondition, Told] = {
        conditions.GuestCondition.READY: ready,
        conditions.GuestCondition.FAILOVER_READY: _failover_ready(guest, now),
    }
    target = None
    if told[conditions.GuestCondition.FAILOVER_READY][0] and guest.seen.node in now.plans:
        target = now.plans[guest.seen.node].targets.get(guest.vmid)
    generation = pvm.metadata.generation
    kind: dict[str, str] = {"vm": "VM", "ct": "Container"}
    return protectedvm.ProtectedVMStatus(
        observed_generation=generation,
        conditions=_conditions(told, generation, now.seen.wall),
        node=guest.seen.node,
        guest=protectedvm.GuestStatus.model_validate(
            {
                "kind": kind[guest.ref.kind.ha_type],
                "name": guest.seen.name or (pvm.status.guest.name if pvm.status.guest else ""),
                "identity": now.protected.identities.get(guest.vmid, ""),
            }
        ),
        failover_plan=protectedvm.FailoverPlan(target_node=target) if target else None,
        last_failover=_last_failover(guest, now),
    )


def _last_failover(guest: protection.Protected, now: Round) -> protectedvm.LastFailover | None:
    done = now.memo.failovers.get(guest.vmid)
    if done is None:
        return guest.pvm.status.last_failover
    return protectedvm.LastFailover.model_validate(
        {
            "id": done.failure,
            "from": done.dead,
            "to": done.target,
            "cause": done.cause,
            "startTime": _time(done.start),
            "completionTime": _time(done.completion) if done.completion is not None else None,
            "downtimeSeconds": max(0, round(done.completion - done.start))
            if done.completion is not None
            else None,
        }
    )


def _guest_ready(guest: protection.Protected, now: Round) -> Told:
    if guest.vmid in failover.running_items(now.seen):
        return True, conditions.GuestReady.TAKING_OVER, "it is being started on another node"
    if guest.service is not None and guest.service.state == "error":
        return False, conditions.GuestReady.HA_STATE_ERROR, f"Proxmox HA has {guest.sid} in state error"
    if guest.registered is None:
        if problem := now.memo.edit_problems.get(guest.sid):
            return (
                False,
                conditions.GuestReady.UNREGISTERED,
                f"it could not be registered in Proxmox HA: {problem}",
            )
        if now.wanted.cluster.spec.mode is hacluster.Mode.OBSERVE:
            return (
                False,
                conditions.GuestReady.OBSERVED,
                "it would be registered in Proxmox HA if mode were Enforce",
            )
        return False, conditions.GuestReady.PENDING, "it is about to be registered in Proxmox HA"
    wants_no_failback = guest.policy.failback.mode is failoverpolicy.FailbackMode.NEVER
    if guest.comment.owner != now.seen.owner and guest.registered.failback and wants_no_failback:
        text = (
            "its HA entry was made by somebody else and has failback on, which moves it back after a failure "
            f"in spite of its policy: 'ha-manager set {guest.sid} --failback 0'"
        )
        return True, conditions.GuestReady.FOREIGN_ENTRY, text
    return True, conditions.GuestReady.PROTECTED, "registered in Proxmox HA and watched"


def _failover_ready(guest: protection.Protected, now: Round) -> Told:
    for told, reason in (
        (_fast(now), conditions.FailoverReady.FAST_NOT_READY),
        (_ha_healthy(now), conditions.FailoverReady.HA_NOT_HEALTHY),
    ):
        if told[0] is False:
            return False, reason, told[2]
    refusal = protection.unrecoverable(guest, now.seen, now.memo) or protection.provable(
        guest.seen.node, now.wanted.cluster.spec, now.memo
    )
    if refusal is None and guest.seen.node in now.plans:
        refusal = now.plans[guest.seen.node].refusals.get(guest.vmid)
    if refusal is not None:
        return False, refusal.reason, refusal.message
    return True, conditions.FailoverReady.OK, "it would be started on another node if its node died"


def _events(now: Round, before: memory.Memory) -> tuple[list[decision.Event], frozenset[str]]:
    """Changes of node states, ends of operations, and (once a cause) what is not or would be done."""
    result = []
    for name, verdict in now.verdicts.items():
        old = before.node(name).state
        if old and old != verdict.state and verdict.state not in PASSING:
            text = f"node {name} is {verdict.state}" + (f": {verdict.reason}" if verdict.reason else "")
            result.append(decision.Event(f"Node{verdict.state}", text, verdict.state not in HARMLESS))
    for state in now.seen.operations:
        if state.outcome is not None:
            result.extend(_ended(state.operation, state.outcome, now))
    due = dict(_once(now))
    result.extend(event for key, event in due.items() if key not in before.announced)
    return result, frozenset(due)


def _ended(
    operation: operations.Operation, outcome: operations.Outcome, now: Round
) -> Iterable[decision.Event]:
    if isinstance(operation, operations.Fence):
        if outcome.proof is not None:
            yield decision.Event("Fenced", f"node {operation.node} was switched off and its BMC proves it")
        else:
            yield decision.Event(
                "FenceFailed", f"node {operation.node} could not be proven off: {outcome.error}", True
            )
    if isinstance(operation, operations.Takeover):
        for result in outcome.guests:
            guest = now.protected.guests.get(result.ref.vmid)
            name = guest.name if guest else None
            if result.reason in ("Running", "Claimed"):
                yield decision.Event(
                    "Recovered", f"{result.ref} of {operation.dead} is on {operation.target}", name=name
                )
            else:
                what = f"{result.ref} of {operation.dead}"
                text = f"{what} is not yet recovered ({result.reason}): {result.message}"
                yield decision.Event("NotRecovered", text, True, name)


def _once(now: Round) -> Iterable[tuple[str, decision.Event]]:
    for name, verdict in now.verdicts.items():
        if verdict.path_broken:
            yield f"path/{name}", decision.Event("PathBroken", f"node {name}: {verdict.reason}", True)
        if why := now.memo.node(name).voided:
            yield f"voided/{name}", decision.Event("FencingContradicted", why, True)
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
    if now.allowed.reason in failover.STOPPING and now.allowed.reason is not conditions.Acting.NOT_LEADER:
        yield f"acting/{now.allowed.reason}", decision.Event("NotActing", now.allowed.message, True)
