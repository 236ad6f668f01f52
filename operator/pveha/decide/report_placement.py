"""What is told about a guest's placement wishes."""

from pveha.api import hacluster, placement, protectedvm
from pveha.api.conditions import PlacementReady
from pveha.decide import evidence, protection
from pveha.decide import told as told_

_NOTHING = (True, PlacementReady.NOTHING_WISHED, "spec.placement wishes nothing")


def refused(pvm: protectedvm.ProtectedVM | None) -> told_.Told:
    """The condition PlacementReady of a ProtectedVM that stands for no guest."""
    if pvm is not None and pvm.spec.placement == placement.GuestPlacement():
        return _NOTHING
    return None, PlacementReady.PENDING, "see the condition Ready"


def told_of(guest: protection.Protected, now: told_.Round) -> told_.Told:
    """The condition PlacementReady of a guest."""
    sid, mirror = guest.sid, now.mirror
    if not now.protected.wished.wishing(sid):
        return _NOTHING
    if problems := now.protected.wished.problems.get(sid):
        return False, problems[0].reason, "; ".join(problem.message for problem in problems)
    if conflict := mirror.conflicts.get(sid):
        return False, PlacementReady.CONFLICTING_RULE, conflict
    declined = [now.memo.rule_problems.get(name, "") for name in sorted(mirror.rules_of.get(sid, ()))]
    if text := "; ".join(filter(None, declined)):
        return False, PlacementReady.RULE_REFUSED, text
    if guest.registered is None or now.seen.rule_config is None:
        return None, PlacementReady.PENDING, "its HA resource comes first: see the condition Ready"
    if mirror.pending(sid):
        names = ", ".join(sorted(mirror.rules_of[sid]))
        if now.spec.mode is hacluster.Mode.OBSERVE:
            return None, PlacementReady.OBSERVED, f"HA rule {names} would be written if mode were Enforce"
        return None, PlacementReady.PENDING, f"HA rule {names} is about to be written"
    if text := _misplaced(guest, now):
        return False, PlacementReady.NOT_KEPT, text
    if unsaid := mirror.unsaid.get(sid):
        text = f"pveha keeps all of it; Proxmox's HA rules cannot say: {'; '.join(unsaid)}"
        if now.native and sid in mirror.unsaid_hard:
            return (
                False,
                PlacementReady.NOT_EXPRESSIBLE,
                f"engine Native goes by HA rules; {'; '.join(unsaid)}",
            )
        return True, PlacementReady.NOT_EXPRESSIBLE, text
    return True, PlacementReady.OK, "its wishes are kept, and Proxmox's HA rules say the same"


def _misplaced(guest: protection.Protected, now: told_.Round) -> str:
    """How a guest that runs, all nodes being online, breaks a Required wish; an empty string if it does
    not."""
    inventory = now.seen.inventory
    online = all(verdict.state is evidence.State.ONLINE for verdict in now.verdicts.values())
    if inventory is None or not online or guest.seen.status != "running":
        return ""
    wished, where = now.protected.wished, guest.seen.node
    locations = {each.ref.sid: each.node for each in inventory.guests.values() if each.status == "running"}
    if wished.allowed(guest.sid, {where}, locations):
        return ""
    unsaid = guest.sid in now.mirror.unsaid_hard
    mover = "nothing moves it by itself: migrate it" if unsaid else "Proxmox's own HA is to move it"
    return f"it runs on {where}, against {wished.reasons(guest.sid)}; {mover}"
