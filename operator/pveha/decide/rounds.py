"""One round: from a snapshot to a decision."""

import dataclasses
from collections.abc import Mapping

from pveha.api import conditions, hacluster, meta
from pveha.decide import (
    adoption,
    afterwards,
    eligibility,
    enrolment,
    evidence,
    failover,
    guards,
    history,
    holds,
    losses,
    maintenance,
    memory,
    native,
    native_rules,
    preemption,
    protection,
    quarantine,
    readiness,
    recall,
    registration,
    replicas,
    report_events,
    situation,
    storm,
)
from pveha.decide import report as reports
from pveha.decide import told as told_
from pveha.model import decision, operations, snapshot, specs

URGENT_SECONDS = 0.25
"""Time between rounds while a node is suspected or lost and something is left to do."""
CLOSE_SECONDS = 5.0
"""Time between rounds while the CRM has to take note of what we did: what it writes is news."""
CALM_SECONDS = 10.0
"""Time between rounds while nothing is in doubt: observers wake the loop at once when that changes."""
QUIET_SECONDS = 20.0
"""The same while there is nothing to say at all."""
MAX_EDITS = 50
"""Changes of HA resources in one operation: each takes about 65 ms under a cluster-wide lock."""

PASSING_SECONDS = 10.0
"""A node that has been in a passing state for longer is in no hurry: what changes is news, and wakes the loop
at once."""
PRESSING_SECONDS = 45.0
"""The same for a lost node with guests: longer than any wait before its fence."""

_UNHURRIED = frozenset({evidence.State.ONLINE, evidence.State.SUSPECT, evidence.State.PLANNED_DOWN})
"""What comes of a member, also of a silent one, is news first."""

Decision = decision.Decision[memory.Memory]


def decide(seen: snapshot.Snapshot, wanted: specs.Specs, memo: memory.Memory) -> Decision:
    """What follows from what is seen and wanted."""
    return _decide(seen, wanted, memo)[0]


def understand(seen: snapshot.Snapshot, wanted: specs.Specs, memo: memory.Memory) -> told_.Round:
    """What a round makes of what is seen and wanted."""
    return _decide(seen, wanted, memo)[1]


def _decide(
    seen: snapshot.Snapshot, wanted: specs.Specs, memo: memory.Memory
) -> tuple[Decision, told_.Round]:
    spec = wanted.cluster.spec
    before = memo
    members = evidence.membership(seen, spec.detection)
    memo = recall.recall(
        seen,
        spec,
        members,
        memo,
        _named(wanted, meta.REBIND_ANNOTATION),
        _named(wanted, meta.CONFIRM_OFF_ANNOTATION),
    )
    memo = history.follow(memo, seen, members)
    verdicts = evidence.verdicts(seen, spec, memo, members)
    memo = _states(memo, verdicts, seen)
    memo = storm.follow(seen, spec, memo, members, verdicts)
    ended = _named(wanted, meta.END_QUARANTINE_ANNOTATION)
    memo = quarantine.follow(seen, spec, memo, verdicts, ended)
    protected = protection.protect(seen, wanted, memo)
    memo = memory.changed(memo, identities=_identities(memo, wanted, protected))
    memo = losses.finished_by_others(memo, seen, verdicts, protected)
    memo = native.follow(memo, seen, verdicts, protected)
    memo = maintenance.follow(seen, spec, memo, verdicts)
    allowed = guards.permission(seen, spec, memo, members, verdicts)

    judge = eligibility.Judge(seen, replicas.usables(seen, spec, memo, protected))
    now = situation.Situation(
        seen, spec, memo, verdicts, protected, judge, situation.promised(seen, protected), ha_unused=False
    )
    start, cancel, memo, recoveries, startup = failover.recover(now, members, allowed)
    alone = spec.recovery.registers_alone
    if memo.epoch is None and not alone and (allowed.begin or _may_own(wanted, allowed)):
        start.extend(_begin(seen, wanted, memo, members))
    now = dataclasses.replace(now, memo=memo)
    moves, memo, drains = maintenance.drain(now, allowed, recoveries)
    start.extend(moves)
    now = dataclasses.replace(now, memo=memo)
    for move in preemption.moves(now, allowed, recoveries):
        memo = maintenance.sent_off(memo, move, seen)
        start.append(move)
    enrolled, memo = enrolment.enrol(seen, wanted, memo, allowed)
    named = {pvm.spec.vmid for pvm in wanted.guests.values()}
    released = enrolled.released - named
    now = dataclasses.replace(now, memo=memo)
    start.extend(_edits(now, allowed, recoveries, startup, start, released))
    mirror = native_rules.mirror(seen, protected, frozenset(named), released)
    start.extend(_rules(now, mirror, allowed, recoveries))
    start.extend(_jobs(now, allowed))
    if not start and _may_note(seen, memo, allowed) and history.left_unnoted(memo, seen, members, verdicts):
        start.extend(_begin(seen, wanted, memo, members))
    if not start:
        start.extend(afterwards.power_on(seen, spec, memo, verdicts, recoveries, allowed))
    round_ = told_.Round(
        seen,
        spec,
        memo,
        verdicts,
        protected,
        judge,
        now.promised,
        _is_ha_unused(seen),
        wanted,
        members,
        allowed,
        recoveries,
        drains,
        enrolled,
        startup,
        mirror,
    )
    events, announced = report_events.events_of(round_, before)
    memo = memory.changed(memo, announced=announced)
    drilled = _named(wanted, meta.DRILL_ANNOTATION)
    looking = _looking(round_, drilled)
    told = _told(round_, start, cancel)
    nothing = f"all {len(verdicts)} nodes are online, {len(protected.guests)} guests protected: nothing to do"
    wake_after = _wake_after(round_, looking) if told else QUIET_SECONDS
    decided = decision.Decision(
        sentence="; ".join(told) or nothing,
        start=tuple(start),
        cancel=tuple(cancel),
        events=tuple(events),
        enrolment=enrolled.changes,
        tell=lambda: reports.report(round_),
        looking=looking,
        memory=memo,
        wake_after=min(wake_after, enrolled.due_in),
    )
    return decided, round_


def _named(wanted: specs.Specs, annotation: str) -> frozenset[str]:
    """The nodes (or failures) that an annotation names."""
    text = wanted.cluster.metadata.annotations.get(annotation, "")
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _identities(memo: memory.Memory, wanted: specs.Specs, protected: protection.Protection) -> dict[str, str]:
    """Which guest each ProtectedVM means. One that is deleted and made anew means whatever it finds then."""
    found = {
        protection.key(protected.guests[vmid].pvm): identity
        for vmid, identity in protected.identities.items()
    }
    known = {protection.key(pvm) for pvm in wanted.guests.values()}
    return {key: identity for key, identity in {**memo.identities, **found}.items() if key in known}


def _may_own(wanted: specs.Specs, allowed: guards.Permission) -> bool:
    """Whether to ask again for a cluster that somebody else owned: the owner may have given way (S14)."""
    return (
        allowed.reason is conditions.Acting.NOT_OWNED and wanted.cluster.spec.mode is hacluster.Mode.ENFORCE
    )


def _may_note(seen: snapshot.Snapshot, memo: memory.Memory, allowed: guards.Permission) -> bool:
    """Whether a new epoch would be in nobody's way."""
    return (
        memo.epoch is not None
        and allowed.begin
        and all(state.outcome is not None for state in seen.operations)
    )


def _states(
    memo: memory.Memory, verdicts: Mapping[str, evidence.Verdict], seen: snapshot.Snapshot
) -> memory.Memory:
    nodes = dict(memo.nodes)
    for name, verdict in verdicts.items():
        node = memo.node(name)
        if fresh := {method for method in verdict.contradicted if not node.method(method).voided}:
            node = node.void(verdict.contradiction, fresh)
        if node.state != verdict.state:
            node = dataclasses.replace(
                node, state=str(verdict.state), state_since=seen.now, state_timestamp=seen.wall
            )
        nodes[name] = node
    return memory.changed(memo, nodes=nodes)


def _begin(
    seen: snapshot.Snapshot, wanted: specs.Specs, memo: memory.Memory, members: evidence.Membership
) -> list[operations.Operation]:
    running = any(isinstance(s.operation, operations.Begin) and s.outcome is None for s in seen.operations)
    if running or seen.now < memo.begin_retry_at:
        return []
    told = [
        name
        for name in evidence.survivors(members)
        if f"shell/{name}" not in seen.problems and name in seen.shells
    ]
    if not told:
        return []
    take_over = wanted.cluster.metadata.annotations.get(meta.TAKE_OVER_ANNOTATION)
    return [operations.Begin(f"begin.{int(seen.wall)}", told[0], seen.owner, take_over)]


def _is_ha_unused(seen: snapshot.Snapshot) -> bool:
    """Whether Proxmox HA has no resource: its CRM is idle then, and tells of no LRM."""
    status, config = seen.ha_status, seen.ha_config
    return status is not None and status.master is None and config is not None and not config.resources


def _edits(
    now: situation.Situation,
    allowed: guards.Permission,
    recoveries: Mapping[str, failover.Recovery],
    startup: readiness.Startup,
    starting: list[operations.Operation],
    released: frozenset[int],
) -> list[operations.Operation]:
    """One operation with all changes of HA resources that are due, if none is in flight.

    Registration waits while guests are recovered, because each write holds a cluster-wide lock, and not for
    as long as a lost node stays away.
    """
    seen, memo, verdicts, protected = now.seen, now.memo, now.verdicts, now.protected
    in_flight = any(isinstance(s.operation, operations.EditHA) and s.outcome is None for s in seen.operations)
    recovery = now.spec.recovery
    owned = memo.epoch is not None or recovery.registers_alone
    if in_flight or not owned or not allowed.finish or seen.now < memo.edit_retry_at:
        return []
    if not recall.is_current(seen, memo):
        return []
    due = adoption.edits(seen, memo, verdicts, protected, recoveries, recovery, allowed.begin)
    given = {edit.sid for edit in due}
    due += [edit for edit in readiness.renewals(startup, seen, memo, protected) if edit.sid not in given]
    given |= {edit.sid for edit in due}
    due += [edit for edit in preemption.edits(now, allowed, recoveries) if edit.sid not in given]
    if allowed.begin and not _recovering(verdicts, recoveries):
        taken = {edit.sid for edit in due}
        taken |= {
            guest.sid
            for guest in protected.guests.values()
            if guest.registered is None and not protection.confirmed(guest, seen, memo)
        }
        due += [
            edit for edit in registration.edits(seen, verdicts, protected, released) if edit.sid not in taken
        ]
    busy = {
        item.ref.sid
        for operation in starting
        if isinstance(operation, operations.Takeover)
        for item in operation.items
    }
    busy |= {operation.ref.sid for operation in starting if isinstance(operation, operations.Migrate)}
    due = [edit for edit in due if edit.sid not in busy][:MAX_EDITS]
    return [operations.EditHA(f"edit.{memo.epoch or 0}.{int(seen.wall * 1000)}", tuple(due))] if due else []


def _recovering(
    verdicts: Mapping[str, evidence.Verdict], recoveries: Mapping[str, failover.Recovery]
) -> bool:
    return any(
        each.items and verdicts[name].state is not evidence.State.UNPROVABLE
        for name, each in recoveries.items()
    )


def _rules(
    now: situation.Situation,
    mirror: native_rules.Mirror,
    allowed: guards.Permission,
    recoveries: Mapping[str, failover.Recovery],
) -> list[operations.Operation]:
    """One operation with all changes of HA rules that are due, once the last ones are read back, under the
    same guards as registration, and while no node may be on the way to another state, the quorum with it."""
    seen, memo = now.seen, now.memo
    in_flight = any(
        isinstance(s.operation, operations.EditRules) and s.outcome is None for s in seen.operations
    )
    owned = memo.epoch is not None or now.spec.recovery.registers_alone
    armed = seen.ha_status is not None and seen.ha_status.armed
    if not mirror.edits or in_flight or not owned or not allowed.begin or not armed:
        return []
    assert seen.rule_config is not None
    since = max(memo.rules_edited_at, memo.quorate_since + recall.CATCH_UP_SECONDS)
    if (
        seen.now < memo.rules_retry_at
        or seen.rule_config.answered_at <= since
        or _recovering(now.verdicts, recoveries)
        or any(verdict.state in evidence.PASSING for verdict in now.verdicts.values())
        or not recall.is_current(seen, memo)
    ):
        return []
    due = mirror.edits[:MAX_EDITS]
    return [operations.EditRules(f"rules.{memo.epoch or 0}.{int(seen.wall * 1000)}", due)]


def _jobs(now: situation.Situation, allowed: guards.Permission) -> list[operations.Operation]:
    """One operation with all changes of replication jobs that are due, once the last ones are read back."""
    seen, memo = now.seen, now.memo
    if not seen.replicas.jobs:
        return []
    in_flight = any(
        isinstance(s.operation, operations.EditJobs) and s.outcome is None for s in seen.operations
    )
    owned = memo.epoch is not None or now.spec.recovery.registers_alone
    since = max(memo.jobs_edited_at, memo.acted_at, memo.quorate_since + recall.CATCH_UP_SECONDS)
    if (
        in_flight
        or not owned
        or not allowed.finish
        or seen.now < memo.jobs_retry_at
        or seen.replicas.answered_at <= since
        or not recall.is_current(seen, memo)
    ):
        return []
    due = tuple(holds.edits(now, may_begin=allowed.begin))[:MAX_EDITS]
    return [operations.EditJobs(f"jobs.{memo.epoch or 0}.{int(seen.wall * 1000)}", due)] if due else []


def _looking(now: told_.Round, drilled: frozenset[str]) -> decision.Looking:
    seen, memo, verdicts, recoveries, allowed = now.seen, now.memo, now.verdicts, now.recoveries, now.allowed
    suspects = frozenset(
        name
        for name, verdict in verdicts.items()
        if verdict.state not in (evidence.State.ONLINE, evidence.State.PLANNED_DOWN)
        and not (verdict.state is evidence.State.FENCED and not recoveries[name].items)
    )
    silent = frozenset(
        name
        for name, probe in seen.probes.items()
        if probe.failed_since is not None
        and name in verdicts
        and verdicts[name].state is evidence.State.ONLINE
    )
    soon = allowed.begin or allowed.reason is conditions.Acting.STARTING
    pressing = any(
        _pressing(verdicts[name], seen.now - memo.node(name).state_since, recoveries.get(name), soon)
        for name in suspects
    ) or any(seen.now - (seen.probes[name].failed_since or 0.0) < PASSING_SECONDS for name in silent)
    busy = any(
        state.outcome is None and not isinstance(state.operation, operations.Migrate)
        for state in seen.operations
    )
    awaited = allowed.finish and (
        any(
            guest.ignored_seen is not None or guest.listed_since is not None for guest in memo.guests.values()
        )
        or any(move.sent_at is not None for move in memo.moves.values())
    )
    drilling = drilled & verdicts.keys()
    return decision.Looking(
        suspects | silent | drilling, pressing or busy, awaited or bool(drilling), now.startup.asked
    )


def _pressing(
    verdict: evidence.Verdict, since: float, recovery: failover.Recovery | None, soon: bool
) -> bool:
    """Whether something about a suspected or lost node is due soon, by the clock alone. `soon`: whether
    anything may be begun then; that quorum is back, or a pause over, is news."""
    if verdict.state is evidence.State.FENCED:
        return recovery is not None and bool(recovery.items)
    if verdict.state in evidence.PASSING and since < PASSING_SECONDS:
        return soon
    return soon and recovery is not None and bool(recovery.items) and since < PRESSING_SECONDS


def _wake_after(now: told_.Round, looking: decision.Looking) -> float:
    period = float(now.spec.detection.probe_period_seconds)
    if looking.urgent and any(verdict.state not in _UNHURRIED for verdict in now.verdicts.values()):
        return URGENT_SECONDS
    if looking.urgent or now.allowed.reason is conditions.Acting.STARTING:
        return period
    return max(period, CLOSE_SECONDS if looking.closely else CALM_SECONDS)


def _told(now: told_.Round, start: list[operations.Operation], cancel: list[str]) -> list[str]:
    """What there is to say of this round; nothing in a quiet world."""
    verdicts, guests = now.verdicts, now.protected.guests
    told = [
        f"{name} is {v.state} ({v.reason})"
        for name, v in verdicts.items()
        if v.state is not evidence.State.ONLINE
    ]
    told += [
        f"{name} is {evidence.State.QUARANTINED} ({why})"
        for name, why in quarantine.reasons(now.memo, now.spec).items()
        if name in verdicts and verdicts[name].state is evidence.State.ONLINE
    ]
    told += [f"{guests[vmid].name} {wait.sentence}" for vmid, wait in sorted(now.startup.waits.items())]
    told += [
        f"{name} is in Drain ({len(left)} guests left)" for name, left in now.drains.left.items() if left
    ]
    for operation in start:
        match operation:
            case operations.Begin():
                told.append(f"open an epoch on {operation.on}")
            case operations.Fence():
                told.append(f"fence {operation.node}")
            case operations.Takeover():
                vmids = ", ".join(str(item.ref.vmid) for item in operation.items)
                told.append(f"take over {vmids} to {operation.target}")
            case operations.PowerOn():
                told.append(f"switch {operation.node} on again")
            case operations.Migrate():
                told.append(f"move {operation.ref.vmid} from {operation.source} to {operation.target}")
            case operations.EditHA():
                told.append("; ".join(f"{edit.sid}: {edit.why}" for edit in operation.edits))
            case operations.EditJobs():
                told.append("; ".join(f"job {edit.expected.id}: {edit.why}" for edit in operation.edits))
            case operations.EditRules():
                told.append("; ".join(edit.why for edit in operation.edits))
    told += enrolment.told(now.enrolled)
    if cancel:
        told.append(f"cancel {', '.join(cancel)}")
    if now.allowed.reason is not conditions.Acting.OK:
        told.append(now.allowed.message)
    return told
