"""Who is ready and who waits for it, from what is seen: the input of `order`, and what becomes of it.

Only guests that depend on something, and what those depend on, play a part here; with an empty memory every
clock begins anew, and nothing is known to have run before the failure, so that more is waited for.
"""

import dataclasses
from collections.abc import Collection, Mapping

from pveha.decide import evidence, losses, memory, order, protection, storm
from pveha.model import cluster, guests, mark, operations, snapshot

AGENT_PRIVILEGE = "VM.GuestAgent.Audit"
RENEW_SECONDS = 100.0
"""How old the mark of a waiting guest may become before it is set anew: the timer on the nodes returns a
guest to native HA 240 s after it first saw its mark (S10), and counts anew from each."""


@dataclasses.dataclass(frozen=True, slots=True)
class Startup:
    """Restart order of this round, by vmid."""

    waits: Mapping[int, order.Wait] = dataclasses.field(default_factory=dict)
    overdue: Mapping[int, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """As in `order.Order`."""
    asked: frozenset[tuple[guests.GuestRef, str]] = frozenset()
    """Guests whose agent is to be asked, with their nodes."""
    circles: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """ProtectedVMs that depend on themselves, by name (`order.in_circles`)."""


NOTHING = Startup()
MAY_RUN = frozenset({evidence.State.ONLINE, evidence.State.FENCED})
"""States of a guest's node in which nothing but the guest itself keeps it from running."""


def follow(
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
    protected: protection.Protection,
    startable: Collection[int],
    in_flight: Collection[int],
) -> tuple[Startup, memory.Memory]:
    """The order among the guests of proven losses, `startable` by vmid, and those claimed before. Takeovers
    of the guests `in_flight` go on. No clock begins anew because nodes were in doubt for a moment, and all do
    when quorum returns, or the nodes answer again: meanwhile nothing could be started, and nobody was asked.
    """
    dependents = [guest for guest in protected.guests.values() if guest.pvm.spec.depends_on]
    if not dependents:
        return NOTHING, memory.changed(memo, awaited={}, steady={})
    by_name = {guest.name: guest for guest in protected.guests.values()}
    circles = order.in_circles({guest.name: names_of(guest) for guest in dependents})
    involved = {guest.name: guest for guest in dependents}
    for guest in dependents:
        involved |= {name: by_name[name] for name in names_of(guest) if name in by_name}
    at_stake = {guest.vmid for guest in dependents if guest.vmid in startable or _at_stake(guest, verdicts)}
    if not at_stake:
        steady = {
            guest.vmid: guest.seen.node
            for guest in involved.values()
            if guest.seen.status == "running"
            and guest.comment.mark is None
            and guest.vmid not in memo.losses
            and _is_online(guest.seen.node, verdicts)
            and not _moved_from(guest)
        }
        return Startup(circles=circles), memory.changed(memo, awaited={}, steady=steady)
    if storm.was_unattended(seen, memo):
        memo = memory.changed(memo, awaited={})
    still = {guest.vmid for guest in involved.values() if _goes_on(guest, verdicts)}
    memo = memory.changed(memo, steady={vmid: on for vmid, on in memo.steady.items() if vmid in still})
    graph = {}
    for name, guest in involved.items():
        unready = _unready(guest, seen, memo, verdicts, guest.vmid in in_flight)
        startup = guest.policy.startup
        graph[name] = order.Guest(
            name,
            guest.order,
            frozenset(names_of(guest)),
            guest.vmid not in in_flight and (guest.vmid in startable or is_claimed(guest, memo, verdicts)),
            not unready,
            unready,
            before.unready_since if (before := memo.awaited.get(guest.vmid)) is not None else None,
            startup.ready_timeout_seconds,
            startup.on_timeout is startup.on_timeout.STOP,
        )
    planned = order.plan(graph, circles, seen.now)
    waiting = {involved[name].vmid for name in planned.waits}
    needed = {
        involved[name].vmid
        for guest in dependents
        if guest.vmid in at_stake and not memo.guest(guest.sid).verified
        for name in names_of(guest)
        if name in involved
    }
    awaited = {vmid: each for vmid, each in memo.awaited.items() if vmid in needed - waiting}
    counted = {
        name
        for name, guest in involved.items()
        if guest.vmid in needed - waiting
        and (where := verdicts.get(guest.seen.node)) is not None
        and where.state in MAY_RUN
    }
    for name in planned.awaited | counted:
        vmid = involved[name].vmid
        doubted = graph[name].unready in (_may_be_old(involved[name]), _may_be_lost(involved[name]))
        awaited[vmid] = _awaited(memo.awaited.get(vmid), graph[name].ready, doubted, seen.now)
    asked = frozenset(
        (guest.ref, guest.seen.node)
        for name, guest in involved.items()
        if guest.vmid in awaited
        and _has_agent(guest)
        and not graph[name].starting
        and not _is_steady(guest, memo)
        and guest.vmid not in in_flight
        and guest.seen.node in verdicts
        and not verdicts[guest.seen.node].lost
    )
    result = Startup(
        {involved[name].vmid: wait for name, wait in planned.waits.items()},
        {involved[name].vmid: late for name, late in planned.overdue.items()},
        asked,
        circles,
    )
    return result, memory.changed(memo, awaited=awaited)


def names_of(guest: protection.Protected) -> list[str]:
    """What it depends on."""
    return [each.name for each in guest.pvm.spec.depends_on]


def behind_agents(protected: protection.Protection) -> list[str]:
    """Guests that depend on one that is ready when its guest agent answers, by name."""
    by_name = {guest.name: guest for guest in protected.guests.values()}
    return sorted(
        guest.name
        for guest in by_name.values()
        if any(name in by_name and _has_agent(by_name[name]) for name in names_of(guest))
    )


def is_claimed(
    guest: protection.Protected, memo: memory.Memory, verdicts: Mapping[str, evidence.Verdict]
) -> bool:
    """Whether the guest is where a takeover has moved it and has not been seen to run there."""
    return (
        _is_disowned(guest)
        and protection.wanted_state(guest) is cluster.HAState.STARTED
        and _is_online(guest.seen.node, verdicts)
        and not memo.guest(guest.sid).verified
    )


def renewals(
    startup: Startup, seen: snapshot.Snapshot, memo: memory.Memory, protected: protection.Protection
) -> list[operations.Edit]:
    """Marks of waiting guests that are set anew, so that native HA gets them only if nobody does so."""
    result = []
    for vmid in sorted(startup.waits):
        guest = protected.guests[vmid]
        since = memo.guest(guest.sid).marked_at
        if guest.registered is None or guest.comment.mark is None or not _is_disowned(guest):
            continue
        if since is not None and seen.now - since < RENEW_SECONDS:
            continue
        renewed = mark.Mark(
            guest.comment.mark.was, op=f"w{memo.epoch}.{int(seen.now)}", epoch=memo.epoch or 0
        )
        comment = str(guest.comment.with_mark(renewed))
        desired = dataclasses.replace(guest.registered, comment=comment)
        result.append(operations.Edit(guest.sid, guest.registered, desired, "it still waits: marked anew"))
    return result


def _awaited(before: memory.Awaited | None, ready: bool, doubted: bool, now: float) -> memory.Awaited:
    if before is None:
        return memory.Awaited(now, None if ready or doubted else now)
    if doubted:
        return before
    if ready:
        return memory.changed(before, unready_since=None)
    return before if before.unready_since is not None else memory.changed(before, unready_since=now)


def _is_disowned(guest: protection.Protected) -> bool:
    ignored = guest.registered is not None and guest.registered.state is cluster.HAState.IGNORED
    return ignored and guest.comment.mark is not None and guest.comment.mark.op != ""


def _at_stake(guest: protection.Protected, verdicts: Mapping[str, evidence.Verdict]) -> bool:
    """Whether the guest is down with its node, or on its way back."""
    return guest.comment.mark is not None or not _is_online(guest.seen.node, verdicts)


def _is_online(name: str, verdicts: Mapping[str, evidence.Verdict]) -> bool:
    return name in verdicts and verdicts[name].state is evidence.State.ONLINE


def _has_agent(guest: protection.Protected) -> bool:
    vm = guest.ref.kind is guests.GuestKind.VM
    return vm and guest.config is not None and guest.config.agent


def _goes_on(guest: protection.Protected, verdicts: Mapping[str, evidence.Verdict]) -> bool:
    """Whether nothing says that the guest has stopped running where it is."""
    where = verdicts.get(guest.seen.node)
    return guest.seen.status == "running" and where is not None and not where.lost


def _moved_from(guest: protection.Protected) -> str:
    """The node on which the CRM still has the guest while its file is elsewhere, or an empty string: a
    migration of it has not ended, and its status may be what that node told last (S16, S17)."""
    if guest.comment.mark is not None or guest.service is None or guest.service.node == guest.seen.node:
        return ""
    return guest.service.node


def _is_steady(guest: protection.Protected, memo: memory.Memory) -> bool:
    """Whether it has run where it is since before the failure."""
    return memo.steady.get(guest.vmid) == guest.seen.node and guest.comment.mark is None


def _unready(
    guest: protection.Protected,
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
    in_flight: bool,
) -> str:
    """What a guest lacks for those that depend on it, as a clause; empty if it is ready, or not to run."""
    if protection.wanted_state(guest) is not cluster.HAState.STARTED:
        return ""
    if not _is_online(guest.seen.node, verdicts):
        where = verdicts.get(guest.seen.node)
        lost = where is None or where.lost
        return f"its node {guest.seen.node} is lost" if lost else _may_be_lost(guest)
    running = guest.seen.status == "running" or memo.guest(guest.sid).verified
    if not running or in_flight or guest.vmid in memo.losses or is_claimed(guest, memo, verdicts):
        return "it does not run yet"
    if _is_steady(guest, memo):
        return ""
    if _has_agent(guest):
        return _silent(guest, seen, memo)
    source = _moved_from(guest)
    if source in verdicts and verdicts[source].lost:
        return f"its migration from {source}, which is lost, has not ended"
    if _ran_at(guest, seen, memo) is None:
        if guest.seen.status != "running":
            return "it does not run yet"
        if seen.now - _back_at(guest, memo) < losses.TOLD_ANEW_SECONDS:
            return _may_be_old(guest)
    delay = guest.policy.startup.delay_seconds
    return f"it has to run for {delay} s" if _runs_for(guest, seen, memo) < delay else ""


def _may_be_lost(guest: protection.Protected) -> str:
    """A doubt, and no word that it does not run: no clock begins with it, and none ends."""
    return f"its node {guest.seen.node} may be lost"


def _may_be_old(guest: protection.Protected) -> str:
    """The same."""
    return f"what is shown of it may be what {guest.seen.node} told before it, or quorum, was lost"


def _silent(guest: protection.Protected, seen: snapshot.Snapshot, memo: memory.Memory) -> str:
    """An answer of the agent counts from when somebody began to wait for it: one before was of another
    start."""
    answer, awaited = seen.agents.get(guest.vmid), memo.awaited.get(guest.vmid)
    if answer is not None and answer.kind == "Forbidden":
        return f"its guest agent may not be asked: the token lacks {AGENT_PRIVILEGE} on /vms"
    if (
        answer is None
        or answer.kind
        or awaited is None
        or answer.node != guest.seen.node
        or answer.asked_at < awaited.since
    ):
        return "its guest agent does not answer yet"
    return ""


def _back_at(guest: protection.Protected, memo: memory.Memory) -> float:
    """When the guest's node, or quorum, was last back: whatever ran there before may have stopped."""
    online_since = memo.node(guest.seen.node).online_since
    return max(memo.quorate_since, float("-inf") if online_since is None else online_since)


def _ran_at(guest: protection.Protected, seen: snapshot.Snapshot, memo: memory.Memory) -> float | None:
    """When it was seen to run after a failover (the loop's time); None if it may have stopped since."""
    at = memo.guest(guest.sid).verified_at
    done = memo.failovers.get(guest.vmid)
    if done is not None and done.completion is not None:
        at = max(at, seen.now - (seen.wall - done.completion))
    return at if at > _back_at(guest, memo) else None


def _runs_for(guest: protection.Protected, seen: snapshot.Snapshot, memo: memory.Memory) -> float:
    """Seconds since it was started, at least. Its uptime may still be what its old node told last."""
    assert seen.inventory is not None
    uptime = seen.now - seen.inventory.answered_at + guest.seen.uptime
    ran_at = _ran_at(guest, seen, memo)
    if ran_at is None:
        return uptime
    return min(uptime, seen.now - ran_at) if guest.seen.uptime else seen.now - ran_at
