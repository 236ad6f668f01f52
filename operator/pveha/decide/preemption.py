"""Stop guests to make room for more important ones of a lost node, and start them again once there is room.

Only guests whose ProtectedVM allows it, whose HA entry is ours, and that run undisturbed. What is stopped
carries a mark in its HA entry (`[pveha preempted=...]`) with the very write that stops it, and loses it with
the very write that starts it: nobody has to remember anything. Proxmox's HA shuts the guest down, and starts
it. The guest that gets the room is taken over like any other as soon as the room is there.

Whoever sets another HA state meanwhile, or takes the mark away, has the guest as he wants it.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from pveha.api import protectedvm
from pveha.decide import (
    adoption,
    eligibility,
    evidence,
    failover,
    guards,
    hosts,
    placement,
    protection,
    situation,
    victims,
)
from pveha.model import cluster, guests, mark, operations, snapshot


def edits(
    now: situation.Situation, allowed: guards.Permission, recoveries: Mapping[str, failover.Recovery]
) -> list[operations.Edit]:
    """Changes of HA entries: guests to stop, guests to start, and marks that have lost their meaning."""
    status = now.seen.ha_status
    if now.seen.ha_config is None or status is None or not status.armed or now.seen.inventory is None:
        return []
    stopped = [*_stopped(now)]
    found = [edit for each in stopped if (edit := _overtaken(each)) is not None]
    if not _is_quiet(now, allowed):
        return found
    found += [edit for each in stopped if (edit := _misplaced(each, now)) is not None]
    places = _places(now, recoveries, stopped)
    started = [_start(each) for each, place in places.items() if place == each.seen.node]
    return [*found, *started, *_stops(now, recoveries, stopped)]


def moves(
    now: situation.Situation, allowed: guards.Permission, recoveries: Mapping[str, failover.Recovery]
) -> list[operations.Migrate]:
    """Stopped guests that have room on another node only: they are sent there, and started when they are
    there."""
    if not _is_quiet(now, allowed) or now.seen.ha_config is None:
        return []
    room = now.spec.safety.max_concurrent_migrations - len(now.memo.moves)
    found: list[operations.Migrate] = []
    for each, place in _places(now, recoveries, [*_stopped(now)]).items():
        move = now.memo.moves.get(each.ref.vmid)
        waits = move is not None and (move.sent_at is not None or move.retry_at > now.seen.now)
        if place != each.seen.node and not waits and len(found) < room:
            id_ = f"migrate.{now.memo.epoch or 0}.{each.ref.vmid}.{int(now.seen.wall)}"
            found.append(operations.Migrate(id_, each.ref, each.seen.node, place, managed=True))
    return found


def _is_quiet(now: situation.Situation, allowed: guards.Permission) -> bool:
    """Whether anything may be begun, and no takeover changes what nodes have in use."""
    armed = now.seen.ha_status is not None and now.seen.ha_status.armed
    free = armed and now.seen.inventory is not None and not now.seen.takeovers()
    owned = now.memo.epoch is not None or now.spec.recovery.registers_alone
    return free and allowed.begin and owned


def going_on(seen: snapshot.Snapshot) -> bool:
    """Whether a guest is being stopped for another."""
    if seen.ha_config is None or seen.inventory is None:
        return False
    return any(
        mark.parse(resource.comment).preempted
        and (ref := guests.parse_sid(sid)) is not None
        and ref.vmid in seen.inventory.guests
        and seen.inventory.guests[ref.vmid].status != "stopped"
        and resource.state is cluster.HAState.STOPPED
        for sid, resource in seen.ha_config.resources.items()
    )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Stopped:
    """A guest that carries the mark."""

    ref: guests.GuestRef
    resource: cluster.HAResource
    comment: mark.Comment
    seen: cluster.GuestResource
    guest: protection.Protected | None
    """None: its ProtectedVM is gone."""


def _stopped(now: situation.Situation) -> Iterable[_Stopped]:
    assert now.seen.ha_config is not None
    assert now.seen.inventory is not None
    for sid, resource in sorted(now.seen.ha_config.resources.items()):
        comment, ref = mark.parse(resource.comment), guests.parse_sid(sid)
        if comment.preempted and comment.owner == now.seen.owner and comment.mark is None and ref is not None:
            seen = now.seen.inventory.guests.get(ref.vmid)
            if seen is not None:
                yield _Stopped(ref, resource, comment, seen, now.protected.guests.get(ref.vmid))


def _overtaken(each: _Stopped) -> operations.Edit | None:
    """Take the mark off where somebody has decided otherwise."""
    plain = dataclasses.replace(each.resource, comment=_plain(each.comment))
    if each.resource.state is not cluster.HAState.STOPPED:
        return operations.Edit(each.resource.sid, each.resource, plain, "its owner has set another state")
    halted = each.guest is not None and each.guest.pvm.spec.run_strategy is protectedvm.RunStrategy.HALTED
    if halted:
        return operations.Edit(each.resource.sid, each.resource, plain, "it is to stay stopped (runStrategy)")
    return None


def _misplaced(each: _Stopped, now: situation.Situation) -> operations.Edit | None:
    """Where somebody has moved its configuration by hand the CRM would start it where it was, and fail: it is
    set aside until the CRM has dropped it (S8), stopped as it is."""
    sid, seen = each.resource.sid, now.seen
    service = seen.service(sid)
    since = now.memo.guest(sid).stale_since
    if service is None or service.state != "stopped" or service.node == each.seen.node or since is None:
        return None
    if seen.now - since < adoption.STALE_SECONDS or each.resource.state is not cluster.HAState.STOPPED:
        return None
    ours = mark.Mark(cluster.HAState.STOPPED, op=adoption.REPAIR, epoch=now.memo.epoch or 0)
    why = f"the CRM still has it on {service.node}, its file is on {each.seen.node}"
    return adoption.set_aside(sid, each.resource, each.comment, ours, why)


def _start(each: _Stopped) -> operations.Edit:
    desired = dataclasses.replace(each.resource, state=cluster.HAState.STARTED, comment=_plain(each.comment))
    return operations.Edit(each.resource.sid, each.resource, desired, "there is room for it again: started")


def _plain(comment: mark.Comment) -> str:
    return str(dataclasses.replace(comment, preempted=""))


def _places(
    now: situation.Situation, recoveries: Mapping[str, failover.Recovery], stopped: Iterable[_Stopped]
) -> dict[_Stopped, str]:
    """Where there is room for guests that are stopped to the end, none of a higher priority waiting. What
    runs counts with at least the memory it is configured with: what has just been started grows."""
    seen = now.seen
    assert seen.inventory is not None
    if any(each.items for each in recoveries.values()):
        return {}
    least = max((guest.pvm.spec.priority for guest in _waiting(now, recoveries)), default=-1)
    ready: dict[int, _Stopped] = {}
    for each in stopped:
        service, where = seen.service(each.resource.sid), now.verdicts.get(each.seen.node)
        settled = service is not None and service.state == "stopped" and service.node == each.seen.node
        online = where is not None and where.state is evidence.State.ONLINE
        priority = each.guest.pvm.spec.priority if each.guest is not None else 0
        if _overtaken(each) is not None:
            continue
        if settled and each.seen.status == "stopped" and online and priority > least:
            ready[each.ref.vmid] = each
    if not ready:
        return {}
    demands = []
    for vmid, each in ready.items():
        config = seen.config(vmid)
        movable = config is not None and not eligibility.bound_to_node(config, now.judge.shared)
        able = now.judge.everywhere(config) if config is not None and movable else frozenset[str]()
        demands.append(
            placement.Demand(
                vmid,
                each.resource.sid,
                seen.memory_of(each.seen),
                None,
                priority=each.guest.pvm.spec.priority if each.guest is not None else 0,
                rather=each.seen.node,
                kept=able | {each.seen.node},
            )
        )
    running: dict[str, int] = {}
    for guest in seen.inventory.guests.values():
        if guest.status == "running":
            running[guest.node] = running.get(guest.node, 0) + seen.memory_of(guest)
    nobody: frozenset[str] = frozenset()
    nodes = tuple(
        dataclasses.replace(node, used_memory=max(node.used_memory, running.get(node.name, 0)))
        for node in hosts.nodes(now, hosts.held_for_lost(now))
    )
    locations = placement.locations_beside(now, nobody)
    for each in ready.values():
        locations.pop(each.resource.sid, None)
    question = placement.ask(now, demands, nodes, locations)
    made = now.memo.plans.plan(question.asked)
    return {ready[vmid]: target for vmid, target in made.targets.items()}


def _waiting(
    now: situation.Situation, recoveries: Mapping[str, failover.Recovery]
) -> list[protection.Protected]:
    """Guests of nodes that are proven off for which there is no room, or that native HA is about to recover:
    it does not look for room."""
    return [
        guest
        for name, recovery in recoveries.items()
        if now.verdicts[name].state is evidence.State.FENCED
        for guest in (
            *victims.needy(recovery.refusals, now.protected),
            *victims.left_to_native(recovery.refusals, now.protected),
        )
    ]


def _stops(
    now: situation.Situation, recoveries: Mapping[str, failover.Recovery], stopped: Iterable[_Stopped]
) -> list[operations.Edit]:
    """Guests to stop for those of nodes that are proven off, unless some are being stopped yet: first is seen
    what that brings."""
    if any(each.seen.status != "stopped" for each in stopped):
        return []
    found: dict[int, operations.Edit] = {}
    for name, recovery in recoveries.items():
        if now.verdicts[name].state is not evidence.State.FENCED:
            continue
        for vmid, winner in sorted(recovery.preempting.items()):
            guest, other = now.protected.guests[vmid], now.protected.guests[winner]
            assert guest.registered is not None
            comment = str(dataclasses.replace(guest.comment, preempted=other.sid))
            desired = dataclasses.replace(guest.registered, state=cluster.HAState.STOPPED, comment=comment)
            why = f"stopped to make room for {other.sid}"
            found[vmid] = operations.Edit(guest.sid, guest.registered, desired, why)
        if found:
            break
    return list(found.values())
