"""What users are told of capacity: the condition CapacityAssured, and its Events."""

import math
from collections.abc import Iterable

from pveha.api import conditions
from pveha.decide import capacity, evidence, placement
from pveha.decide import told as told_
from pveha.model import decision

LONGEST_MESSAGE = 4000
UNDECIDED = evidence.PASSING | {evidence.State.DOWN}
UNDECIDED_SECONDS = 15.0
"""How long a node may be on its way to another state."""
RETURNED_SECONDS = 30.0
"""How long after nodes answer again, or quorum is back, some may still seem to take no guests: their LRMs and
node shells are read one after the other."""
STANDING = {
    str(reason): reason
    for reason in (
        conditions.CapacityAssured.OK,
        conditions.CapacityAssured.INSUFFICIENT_CAPACITY,
        conditions.CapacityAssured.TOO_FEW_NODES,
    )
}
"""Reasons that stand until they are found to be wrong."""


def assured(now: told_.Round, each: placement.Each | None) -> told_.Told:
    """The condition CapacityAssured. While guests are being recovered it stays what it was."""
    spec = now.spec
    if now.native or each is None:
        text = "Proxmox's own HA recovers guests (engine Native), and does not look at memory"
        return None, conditions.CapacityAssured.NOT_USED, text
    if not spec.capacity.tolerate_node_failures:
        text = "spec.capacity.tolerateNodeFailures is 0"
        return None, conditions.CapacityAssured.NOT_REQUESTED, text
    whole = now.members.quorate and now.seen.inventory is not None and now.seen.configs is not None
    if not whole or now.allowed.reason is conditions.Acting.STARTING:
        return _as_before(now, "the cluster has not been seen whole yet")
    if any(each.items for each in now.recoveries.values()) or now.seen.takeovers():
        return _as_before(now, "guests are being recovered")
    memo, at = now.memo, now.seen.now
    if at - max(memo.quorate_since, at if memo.sight_since is None else memo.sight_since) < RETURNED_SECONDS:
        return _as_before(now, "the cluster has not been seen for long enough")
    if unsettled := [name for name in now.verdicts if _is_unsettled(name, now)]:
        return _as_before(now, f"{', '.join(unsettled)} may be on the way to another state")
    guests = now.protected.guests
    found = capacity.assess("now", each.question.asked, spec, now.memo, now.verdicts, guests)
    if found.too_few:
        text = f"{', '.join(sorted(found.units))}: not more than the {found.losses} that may be lost"
        return False, conditions.CapacityAssured.TOO_FEW_NODES, text[:LONGEST_MESSAGE]
    if found.answer is None:
        return _as_before(now, "it is being worked out")
    extent = capacity.extent(found.answer)
    if harm := capacity.harm(found, guests):
        text = f"{harm} ({extent})"
        return False, conditions.CapacityAssured.INSUFFICIENT_CAPACITY, text[:LONGEST_MESSAGE]
    others = len(guests) - len(each.question.demands)
    more = (
        f"; not counted: {others} that pveha would not start elsewhere (see FailoverReady)" if others else ""
    )
    text = f"there is room for the guests of any {found.losses} ({extent}){more}"
    return True, conditions.CapacityAssured.OK, text


def _is_unsettled(name: str, now: told_.Round) -> bool:
    """Whether a node takes no guests now, for a reason that may be over in a moment: it does not answer, or
    has just come back."""
    about, probe = now.memo.node(name), now.seen.probes.get(name)
    if now.verdicts[name].state is not evidence.State.ONLINE:
        passing = now.verdicts[name].state in UNDECIDED
        return passing and now.seen.now - about.state_since < UNDECIDED_SECONDS
    since = probe.failed_since if probe is not None else None
    silent_for = now.seen.now - since if since is not None else math.inf
    least = now.spec.detection.recover_after_seconds
    back = about.online_since is None or now.seen.now - about.online_since < least
    return back or silent_for < UNDECIDED_SECONDS


def _as_before(now: told_.Round, why: str) -> told_.Told:
    before = now.wanted.cluster.status.condition(conditions.ClusterCondition.CAPACITY_ASSURED)
    if before is None or before.reason not in STANDING:
        return None, conditions.CapacityAssured.UNKNOWN, why
    return before.status == "True", STANDING[before.reason], before.message


def events(now: told_.Round) -> Iterable[tuple[str, decision.Event]]:
    """When it is lost, once for each reason, and when it is back: by the condition as it was written."""
    told = now.wanted.cluster.status.condition(conditions.ClusterCondition.CAPACITY_ASSURED)
    if told is not None and told.status == "False":
        yield f"{LOST}/{told.reason}", decision.Event("CapacityNotAssured", told.message, True)


LOST = "capacity"


def back(now: told_.Round, announced: frozenset[str]) -> Iterable[decision.Event]:
    """That capacity is assured again, if it was `announced` that it is not."""
    told = now.wanted.cluster.status.condition(conditions.ClusterCondition.CAPACITY_ASSURED)
    lost = any(key.startswith(f"{LOST}/") for key in announced)
    if lost and told is not None and told.status == "True":
        yield decision.Event("CapacityAssured", told.message)
