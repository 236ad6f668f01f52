"""Conditions and status of an HACluster."""

from collections.abc import Iterable, Mapping

from pveha.api import conditions, hacluster, meta, protectedvm
from pveha.decide import (
    evidence,
    fence,
    guards,
    hosts,
    levels,
    memory,
    placement,
    protection,
    quarantine,
    report_capacity,
    report_maintenance,
    report_sound,
)
from pveha.decide import told as told_
from pveha.model import cluster, mark, operations, power, snapshot

STUCK_SECONDS = 120.0
"""A node that has just come back may be in the CRM's node status `fence` until a round or two later."""
MANAGER_STUCK_SECONDS = 30.0
"""A CRM flushes its state every 10 s; longer silence with a live master is a fault (S9)."""
SILENT_SECONDS = 10.0
"""How long a node shell may be silent before it is told: longer than corosync takes to notice a death."""
SHOWN_OPERATIONS = 20
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


def conditions_of(
    now: told_.Round, each: placement.Each | None
) -> dict[conditions.ClusterCondition, told_.Told]:
    """Every condition of the HACluster; `each` is what is asked for each node, None with engine Native."""
    told = {
        **basis(now),
        conditions.ClusterCondition.OWNED: _owned(now),
        conditions.ClusterCondition.FENCING_READY: _fencing(now),
        conditions.ClusterCondition.DEGRADED: _degraded(now),
        conditions.ClusterCondition.UNPROTECT_HELD: _unprotect_held(now),
        conditions.ClusterCondition.DRAINED: report_maintenance.drained(now),
        conditions.ClusterCondition.CAPACITY_ASSURED: report_capacity.assured(now, each),
        conditions.ClusterCondition.SOUND: report_sound.sound(now),
    }
    told[conditions.ClusterCondition.ACTING] = _acting(now, told)
    told[conditions.ClusterCondition.READY] = _ready(told, native=now.native)
    return told


def basis(now: told_.Round) -> dict[conditions.ClusterCondition, told_.Told]:
    """The conditions without which no guest is recovered at all."""
    return {
        conditions.ClusterCondition.CONNECTED: _connected(now),
        conditions.ClusterCondition.QUORATE: _quorate(now),
        conditions.ClusterCondition.FAST_READY: _fast(now),
        conditions.ClusterCondition.HA_HEALTHY: _ha_healthy(now),
    }


def _acting(now: told_.Round, told: Mapping[conditions.ClusterCondition, told_.Told]) -> told_.Told:
    if now.allowed.reason is not conditions.Acting.OK:
        return False, now.allowed.reason, now.allowed.message
    if now.native:
        text = "pveha keeps guests registered; Proxmox's own HA acts when a node dies (engine Native)"
        return True, conditions.Acting.NATIVE, text
    fast = told[conditions.ClusterCondition.FAST_READY]
    fencing = told[conditions.ClusterCondition.FENCING_READY]
    if fast[0] is False:
        return False, conditions.Acting.NOT_READY, fast[2]
    if fencing[1] is conditions.FencingReady.NOT_CONFIGURED:
        return False, conditions.Acting.NOT_READY, fencing[2]
    return True, conditions.Acting.OK, now.allowed.message


def _connected(now: told_.Round) -> told_.Told:
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
    if old := guards.unsupported(now.seen):
        return False, conditions.Connected.VERSION_UNSUPPORTED, old
    lacking = guards.lacking_privileges(now.seen)
    if lacking and now.spec.mode is hacluster.Mode.ENFORCE:
        return False, conditions.Connected.PRIVILEGES_MISSING, lacking
    return True, conditions.Connected.OK, "the Proxmox API answers"


def _quorate(now: told_.Round) -> told_.Told:
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
    old = guards.old_history(now.seen, now.spec, now.memo, now.members)
    if old is not None and old[0] is conditions.Acting.HISTORY_FORKED:
        return False, conditions.Quorate.HISTORY_FORKED, old[1]
    return True, conditions.Quorate.OK, "the nodes that answer agree"


def _owned(now: told_.Round) -> told_.Told:
    if now.memo.superseded:
        text = (
            f"the Proxmox cluster is owned by {now.memo.superseded}; to take it over, annotate the HACluster "
            f"with {meta.TAKE_OVER_ANNOTATION}={now.memo.superseded}"
        )
        return False, conditions.Owned.ANOTHER_OPERATOR, text
    if now.memo.epoch is not None:
        return True, conditions.Owned.OK, "the epoch register names this HACluster"
    if now.spec.recovery.registers_alone:
        return None, conditions.Owned.NOT_USED, "no epoch is needed: HA resources themselves name their owner"
    return None, conditions.Owned.NOT_CLAIMED, "no epoch has been opened yet"


def _fencing(now: told_.Round) -> told_.Told:
    spec = now.spec
    if not spec.fencing.methods and now.native:
        return (
            None,
            conditions.FencingReady.NOT_USED,
            "no fencing is configured, and engine Native needs none",
        )
    if not spec.fencing.methods:
        return (
            False,
            conditions.FencingReady.NOT_CONFIGURED,
            "spec.fencing.methods is empty: no node's death can be proven",
        )
    unverified, remarks = [], []
    for name in sorted(now.members.nodes):
        refusal = protection.provable(name, spec, now.memo)
        if refusal and now.memo.node(name).voided:
            return False, conditions.FencingReady.FENCING_CONTRADICTED, refusal.message
        problems = _fencing_problems(name, now)
        unable = {power.Switch(name, method) for method, _ in problems}
        works = any(
            levels.provable(level, now.memo.node(name))
            and not unable & {power.Switch(name, method.name) for method, _ in level}
            for _, level in spec.levels(name)
        )
        told = [f"the BMC of {name}: {problem.message}" for _, problem in problems]
        if works:
            remarks += told + ([refusal.message] if refusal else [])
            continue
        for (_, problem), text in zip(problems, told, strict=True):
            if not now.verdicts[name].lost and (not refusal or problem.kind in FENCING_REASONS):
                reason = FENCING_REASONS.get(problem.kind, conditions.FencingReady.UNREACHABLE)
                return False, reason, text
        if refusal:
            unverified.append((name, refusal))
    unread = [name for name, _ in unverified if not _read(name, now) and not _fencing_problems(name, now)]
    if unread and all(_has_bmc(name, now) for name in unread):
        return None, conditions.FencingReady.UNKNOWN, f"the BMC of {', '.join(unread)} has not been read yet"
    if unverified:
        heard = [problem.message for name, _ in unverified for _, problem in _fencing_problems(name, now)]
        return (
            False,
            conditions.FencingReady.FENCING_UNVERIFIED,
            "; ".join([r.message for _, r in unverified] + heard)[:4000],
        )
    text = "every node has a BMC that is bound to it"
    return True, conditions.FencingReady.OK, "; ".join([text, *remarks])[:4000]


def _fencing_problems(name: str, now: told_.Round) -> list[tuple[str, snapshot.Problem]]:
    """What is wrong with reading the node's power, with the method."""
    start = f"power/{name}/"
    return [(k.removeprefix(start), p) for k, p in sorted(now.seen.problems.items()) if k.startswith(start)]


def _read(name: str, now: told_.Round) -> bool:
    return any(switch.node == name for switch in now.seen.power)


def _has_bmc(name: str, now: told_.Round) -> bool:
    node = now.spec.node(name)
    return node is not None and bool(node.fencing)


def _fast(now: told_.Round) -> told_.Told:
    if now.spec.recovery.registers_alone:
        text = "no node shell is configured, and engine Native can do without"
        return None, conditions.FastReady.NOT_USED, text
    if now.spec.recovery.node_shell is None:
        return (
            False,
            conditions.FastReady.NOT_CONFIGURED,
            "spec.recovery.nodeShell is not set: nothing can be taken over",
        )
    for key in ["shell", *(f"shell/{name}" for name in evidence.survivors(now.members))]:
        if (problem := now.seen.problems.get(key)) and not _passes(problem, now):
            reason = SHELL_REASONS.get(problem.kind, conditions.FastReady.NODE_SHELL_FAILED)
            where = f"node shell of {key.partition('/')[2]}: " if "/" in key else ""
            return False, reason, f"{where}{problem.message}"
    if not now.seen.shells:
        return None, conditions.FastReady.UNKNOWN, "the node shells have not answered yet"
    if unsafe := fence.votes_unsafe(now.seen, evidence.survivors(now.members)):
        return False, conditions.FastReady.VOTES_UNSAFE, unsafe
    return True, conditions.FastReady.OK, f"the node shells answer and the votes are safe{_detection(now)}"


def _passes(problem: snapshot.Problem, now: told_.Round) -> bool:
    """Whether it may be a node that is dying: then its guests are told so, and not all others."""
    return problem.kind == "Unreachable" and now.seen.now - problem.since < SILENT_SECONDS


def _detection(now: told_.Round) -> str:
    """How soon corosync notices a loss, from its timeouts: no takeover begins earlier."""
    totems = [shell.totem for shell in now.seen.shells.values() if shell.totem is not None]
    if not totems:
        return ""
    remaining = max(1, len(now.members.nodes) - 1)
    seconds = max(totem.loss_seconds(remaining) for totem in totems)
    return f"; corosync notices the loss of a node after {seconds:.1f} s, and no takeover begins earlier"


def _ha_healthy(now: told_.Round) -> told_.Told:
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
        and now.seen.now - now.memo.node(name).lrm_moved_at > hosts.LRM_FRESH_SECONDS
    ]
    if silent:
        return False, conditions.HAHealthy.LRM_NOT_ALIVE, f"the LRM of {', '.join(silent)} does not report"
    if stuck := _stuck_in_fence(now, status):
        text = (
            f"the CRM still holds {', '.join(stuck)} for lost and does nothing with the HA resources there, "
            "of which none is left to be fenced: switch it off for three minutes"
        )
        return False, conditions.HAHealthy.NODE_STUCK_IN_FENCE, text
    return True, conditions.HAHealthy.OK, "the CRM makes its rounds"


def _stuck_in_fence(now: told_.Round, status: cluster.HAStatus) -> list[str]:
    """Members with the node status `fence` and no service for which the CRM would fence them: it clears that
    only with one (PVE::HA::NodeStatus)."""
    fenced = {each.node for each in status.services.values() if each.state in ("fence", "recovery")}
    return [
        name
        for name, verdict in now.verdicts.items()
        if verdict.state is evidence.State.ONLINE
        and status.node_status.get(name) == "fence"
        and name not in fenced
        and now.seen.now - (now.memo.node(name).online_since or now.seen.now) > STUCK_SECONDS
    ]


def _degraded(now: told_.Round) -> told_.Told:
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
                if (state is evidence.State.UNPROVABLE or now.native) and held:
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
                if now.native and any(loss.node == name for loss in now.memo.losses.values()):
                    return (
                        True,
                        conditions.Degraded.RECOVERING,
                        f"{name}: {verdict.reason}, which takes minutes",
                    )
                return True, reason, f"{name}: {verdict.reason}"
    for name, verdict in now.verdicts.items():
        if verdict.state is evidence.State.PLANNED_DOWN:
            since = now.memo.node(name).offline_since
            limit = now.spec.safety.planned_down_seconds
            if since is not None and now.seen.now - since > limit:
                return (
                    True,
                    conditions.Degraded.PLANNED_DOWN_TOO_LONG,
                    f"{name} went down as announced but is not back after {limit} s",
                )
            return True, conditions.Degraded.NODE_PLANNED_DOWN, f"{name}: {verdict.reason}"
    for name, verdict in now.verdicts.items():
        probe = now.seen.probes.get(name)
        mute = verdict.path_broken or verdict.state is evidence.State.SUSPECT
        if mute and probe is not None and probe.kind == "Untrusted":
            return True, conditions.Degraded.NODE_UNTRUSTED, f"{name}: {probe.problem}"[:4000]
    for name, verdict in now.verdicts.items():
        if verdict.path_broken:
            return True, conditions.Degraded.PATH_BROKEN, f"{name}: {verdict.reason}"
    for name, why in _quarantined(now).items():
        return True, conditions.Degraded.NODE_QUARANTINED, f"{name}: {why}"
    if voteless := fence.without_qdevice(now.seen, evidence.survivors(now.members)):
        text = (
            f"the QDevice gives {', '.join(voteless)} no vote: 'systemctl status corosync-qdevice' there, "
            "and corosync-qnetd on the QDevice's host, tell why"
        )
        return True, conditions.Degraded.QDEVICE_SILENT, text
    return False, conditions.Degraded.NONE, "all nodes are online"


def _unprotect_held(now: told_.Round) -> told_.Told:
    held = now.enrolled.held
    if held is None:
        return None, conditions.UnprotectHeld.UNKNOWN, "guests and HA resources have not been read lately"
    if not held:
        return False, conditions.UnprotectHeld.NONE, "no guest is kept protected against its manifests"
    again = " (remove it first: what it says was taken before)" if now.memo.unprotect.annotation else ""
    message = (
        f"{held} of {now.enrolled.total} guests lost their ProtectedVM or their selection by autoProtect: "
        "so many at once stay registered in Proxmox HA. Bring back what was deleted, or annotate the "
        f"HACluster with {meta.CONFIRM_UNPROTECT_ANNOTATION}={held}{again}"
    )
    return True, conditions.UnprotectHeld.MASS_REMOVAL, message


def _quarantined(now: told_.Round) -> dict[str, str]:
    """Nodes that are Online but for their quarantine, with the reason. What is worse is shown instead."""
    return {
        name: why
        for name, why in quarantine.reasons(now.memo, now.spec).items()
        if name in now.verdicts and now.verdicts[name].state is evidence.State.ONLINE
    }


def _recovering(now: told_.Round, name: str) -> bool:
    return bool(now.recoveries[name].items) if name in now.recoveries else False


OF_FAST_ALONE = frozenset({conditions.ClusterCondition.FAST_READY, conditions.ClusterCondition.FENCING_READY})
"""What engine Native can do without."""


def _ready(told: Mapping[conditions.ClusterCondition, told_.Told], *, native: bool) -> told_.Told:
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
        if status is False and not (native and type_ in OF_FAST_ALONE):
            return False, reason, message
    whole = (
        conditions.ClusterCondition.CONNECTED,
        conditions.ClusterCondition.FAST_READY,
        conditions.ClusterCondition.FENCING_READY,
    )
    if any(told[type_][0] is None and not (native and type_ in OF_FAST_ALONE) for type_ in whole):
        return None, conditions.ClusterReady.STARTING, "the cluster has not been seen whole yet"
    return True, conditions.ClusterReady.OK, "pveha can protect this cluster's guests"


def status_of(
    now: told_.Round,
    told: Mapping[conditions.ClusterCondition, told_.Told],
    statuses: Mapping[str, protectedvm.ProtectedVMStatus],
) -> hacluster.HAClusterStatus:
    generation = now.wanted.cluster.metadata.generation
    failure = now.memo.failure
    guests = now.seen.inventory.guests.values() if now.seen.inventory else ()
    quarantined = _quarantined(now)
    return hacluster.HAClusterStatus(
        observed_generation=generation,
        conditions=told_.conditions(told, generation, now.seen.wall),
        version=now.seen.version or None,
        epoch=now.memo.newest or None,
        nodes=hacluster.NodeCounters(
            total=len(now.verdicts),
            online=sum(
                verdict.state is evidence.State.ONLINE and name not in quarantined
                for name, verdict in now.verdicts.items()
            ),
        ),
        not_online=tuple(
            hacluster.NotOnline(
                name=name,
                state=evidence.State.QUARANTINED if name in quarantined else str(verdict.state),
                reason=quarantined.get(name, verdict.reason)[:1024],
                since=told_.time(now.memo.node(name).state_timestamp or now.seen.wall),
            )
            for name, verdict in now.verdicts.items()
            if verdict.state is not evidence.State.ONLINE or name in quarantined
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
        unprotect_confirmed=hacluster.UnprotectConfirmation(
            annotation=now.memo.unprotect.annotation, left=now.memo.unprotect.left
        )
        if now.memo.unprotect.annotation
        else None,
        storm=_storm(now.memo.storm) if now.memo.storm else None,
        flapping=_flapping(now),
        last_failure=_failure(failure) if failure else now.wanted.cluster.status.last_failure,
    )


def _bindings(now: told_.Round) -> tuple[hacluster.Binding, ...]:
    result = []
    for name, node in sorted(now.memo.nodes.items()):
        methods = tuple(
            hacluster.MethodBinding(name=each, drill=method.drill or None, voided=method.voided or None)
            for each, method in sorted(node.methods.items())
            if method.bound or method.voided
        )
        if methods:
            result.append(
                hacluster.Binding(name=name, identities=tuple(sorted(node.identities)), methods=methods)
            )
    return tuple(result)


def _storm(storm: memory.Storm) -> hacluster.Storm:
    return hacluster.Storm(
        start_time=told_.time(storm.started),
        end_time=told_.time(storm.ended) if storm.ended is not None else None,
        cause=storm.cause[:1024],
    )


def _flapping(now: told_.Round) -> tuple[hacluster.Flapping, ...]:
    return tuple(
        hacluster.Flapping(
            name=name,
            returns=tuple(told_.time(at) for at in node.returns),
            quarantined_until=told_.time(node.quarantined_until)
            if node.quarantined_until is not None
            else None,
        )
        for name, node in sorted(now.memo.nodes.items())
        if node.returns or node.quarantined_until is not None
    )


def _shown(states: Iterable[operations.OperationState]) -> list[operations.OperationState]:
    """Fences and takeovers in flight: changes of HA resources end within a round and would only make
    noise."""
    shown = [
        state
        for state in states
        if state.outcome is None
        and isinstance(state.operation, operations.Fence | operations.Takeover | operations.PowerOn)
    ]
    return shown[:SHOWN_OPERATIONS]


def _operation(state: operations.OperationState) -> hacluster.OperationStatus:
    node = (
        state.operation.node
        if isinstance(state.operation, operations.Fence | operations.PowerOn)
        else getattr(state.operation, "target", "")
    )
    return hacluster.OperationStatus(
        id=state.operation.id,
        kind=type(state.operation).__name__,
        node=node,
        step=state.step,
        start_time=told_.time(state.started_timestamp),
    )


def _failure(failure: memory.Failure) -> hacluster.LastFailure:
    return hacluster.LastFailure(
        id=failure.id,
        node=failure.node,
        cause=failure.cause[:1024],
        start_time=told_.time(failure.start),
        proven_time=told_.time(failure.proven) if failure.proven is not None else None,
        completion_time=told_.time(failure.completion) if failure.completion is not None else None,
        guests=len(failure.guests),
        recovered=len(failure.recovered),
    )
