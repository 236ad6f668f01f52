"""What users are told: statuses with conditions, and Events. Nothing in it changes while nothing happens.

`told` is the form, `report_cluster`, `report_guests` and `report_events` are the parts.
"""

from collections.abc import Iterable

from pveha.decide import placement, protection, report_cluster, report_guests, sequence, standing
from pveha.decide import told as told_
from pveha.model import decision


def report(now: told_.Round) -> decision.Report:
    """The statuses of this round."""
    now.memo.plans.unfinished = 0.0
    able = protection.recoverable(now.protected.guests.values(), now.seen, now.memo)
    each = None if now.native else placement.ask_each(now, able)
    told = report_cluster.conditions_of(now, each)
    plans = _plans(now, each, able) if each is not None else {}
    steps = sequence.of_plans(now, {name: plan.targets.keys() for name, plan in plans.items()})
    still = standing.standing(now)
    guests = {
        name: pvm.status if name in still else report_guests.status_of(pvm, now, told, plans, steps)
        for name, pvm in now.wanted.guests.items()
    }
    for name, refusal in now.protected.refused.items():
        if name in now.wanted.unreadable:
            guests[name] = report_guests.refused(refusal, None, now)
    policies = {name: report_guests.policy_status(policy) for name, policy in now.wanted.policies.items()}
    cluster = report_cluster.status_of(now, told, guests)
    return decision.Report(cluster, guests, policies, still, now.memo.plans.unfinished)


def _plans(
    now: told_.Round, each: placement.Each, able: Iterable[protection.Protected]
) -> dict[str, placement.Plan]:
    """For every node, where its guests would go if it died now."""
    plans = placement.plan_each(each)
    lost: dict[str, list[protection.Protected]] = {}
    for guest in able:
        if guest.seen.node in now.verdicts and guest.seen.node not in plans:
            lost.setdefault(guest.seen.node, []).append(guest)
    for name, guests in lost.items():
        plans[name] = placement.plan(now, {name}, guests)
    return plans
