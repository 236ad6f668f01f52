"""What users are told: statuses with conditions, and Events. Nothing in it changes while nothing happens.

`told` is the form, `report_cluster`, `report_guests` and `report_events` are the parts.
"""

import dataclasses

from pveha.decide import memory, report_cluster, report_events, report_guests
from pveha.decide import told as told_
from pveha.model import decision


def report(now: told_.Round, before: memory.Memory) -> tuple[decision.Report, memory.Memory]:
    """The statuses of this round, and the Events since the last one."""
    told = report_cluster.conditions_of(now)
    guests = {name: report_guests.status_of(pvm, now, told) for name, pvm in now.wanted.guests.items()}
    for name, refusal in now.protected.refused.items():
        if name in now.wanted.unreadable:
            guests[name] = report_guests.refused(refusal, None, now)
    policies = {name: report_guests.policy_status(policy) for name, policy in now.wanted.policies.items()}
    events, announced = report_events.events_of(now, before)
    cluster = report_cluster.status_of(now, told, guests)
    report = decision.Report(cluster, guests, policies, tuple(events))
    return report, dataclasses.replace(now.memo, announced=announced)
