"""What users are told of drained nodes: the condition Drained, and Events."""

from collections.abc import Iterable, Sequence

from pveha.api import conditions, hacluster
from pveha.decide import maintenance
from pveha.decide import told as told_
from pveha.model import decision

LONGEST_MESSAGE = 4000
UNDER_WAY = frozenset({maintenance.Standing.MOVING, maintenance.Standing.TURN, maintenance.Standing.WAITS})


def drained(now: told_.Round) -> told_.Told:
    """The condition Drained."""
    drains = now.drains
    wanted = [node.name for node in now.spec.nodes if node.availability is hacluster.Availability.DRAIN]
    if not wanted:
        return None, conditions.Drained.NOT_REQUESTED, "no node's availability is Drain"
    if absent := [name for name in wanted if name not in drains.left]:
        return False, conditions.Drained.WAITING, f"{', '.join(absent)} is no node that is seen"
    message = "; ".join(f"{name}: {_left(left)}" for name, left in drains.left.items())
    found = {each.standing for left in drains.left.values() for each in left}
    if now.seen.inventory is not None and not found:
        return True, conditions.Drained.OK, message
    if drains.hindered:
        reason = conditions.Drained.PRIVILEGES_MISSING if drains.lacking else conditions.Drained.WAITING
        return False, reason, f"{drains.hindered}; {message}"[:LONGEST_MESSAGE]
    if drains.refused:
        return False, conditions.Drained.CAPACITY_REFUSES, f"{drains.refused}. {message}"[:LONGEST_MESSAGE]
    if found & UNDER_WAY:
        reason = conditions.Drained.DRAINING
    elif maintenance.Standing.FAILED in found:
        reason = conditions.Drained.MIGRATION_FAILED
    else:
        reason = conditions.Drained.GUESTS_STAY
    return False, reason, message[:LONGEST_MESSAGE]


def _left(left: Sequence[maintenance.Left]) -> str:
    if not left:
        return "nothing that runs is left"
    parts = []
    for standing in (maintenance.Standing.MOVING, maintenance.Standing.TURN):
        named = [str(each.ref.vmid) for each in left if each.standing is standing]
        if standing is maintenance.Standing.MOVING and named:
            parts.append(f"{', '.join(named)} on the way")
        elif named:
            parts.append(f"{len(named)} wait for their turn")
    parts += [
        f"{each.ref.vmid} {each.standing.value}: {each.why}"
        for each in left
        if each.standing not in (maintenance.Standing.MOVING, maintenance.Standing.TURN)
    ]
    what = "1 guest is left" if len(left) == 1 else f"{len(left)} guests are left"
    return f"{what} ({'; '.join(parts)})"


def events(now: told_.Round) -> Iterable[tuple[str, decision.Event]]:
    """Each once, for as long as its cause lasts."""
    if now.drains.refused:
        yield "drain-refused", decision.Event("DrainRefused", now.drains.refused, True)
    for name, left in now.drains.left.items():
        if not left and now.seen.inventory is not None:
            yield f"drained/{name}", decision.Event("NodeDrained", f"nothing that runs is left on {name}")
        for each in left:
            guest = now.protected.guests.get(each.ref.vmid)
            if each.standing is maintenance.Standing.STAYS and guest is not None:
                text = f"{each.ref} stays on {name}, which is in Drain: {each.why}"
                yield f"stays/{name}/{each.ref.vmid}", decision.Event("NotMigrated", text, True, guest.name)
    for vmid, move in now.memo.moves.items():
        guest = now.protected.guests.get(vmid)
        about = guest.name if guest is not None else None
        if move.attempts and move.sent_at is None:
            text = f"guest {vmid} could not be moved from {move.source} to {move.target}: {move.problem}"
            key = f"migration/{vmid}/{move.source}/{move.attempts}"
            yield key, decision.Event("MigrationFailed", text, True, about)
        if move.arrived_at is not None and guest is not None:
            text = f"{guest.ref} was moved from {move.source} to {guest.seen.node}"
            yield f"moved/{vmid}/{move.arrived_at}", decision.Event("Migrated", text, name=about)
