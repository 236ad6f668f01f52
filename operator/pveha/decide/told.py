"""What one round knows, and the form in which conditions are told."""

import dataclasses
import datetime
from collections.abc import Mapping

from pveha.api import conditions as words
from pveha.api import hacluster, meta
from pveha.decide import (
    enrolment,
    evidence,
    failover,
    guards,
    maintenance,
    native_rules,
    readiness,
    situation,
)
from pveha.model import specs

Told = tuple[bool | None, words.Documented, str]
"""Status (None: Unknown), reason and message of a condition."""


@dataclasses.dataclass(frozen=True, slots=True)
class Round(situation.Situation):
    """All that the report of one round is made of."""

    wanted: specs.Specs
    members: evidence.Membership
    allowed: guards.Permission
    recoveries: Mapping[str, failover.Recovery]
    drains: maintenance.Drains
    enrolled: enrolment.Enrolment
    startup: readiness.Startup
    mirror: native_rules.Mirror

    @property
    def native(self) -> bool:
        """Whether Proxmox's own HA alone recovers guests."""
        return self.spec.recovery.engine is hacluster.Engine.NATIVE


def time(timestamp: float) -> datetime.datetime:
    """A Unix time as the API writes times."""
    return datetime.datetime.fromtimestamp(timestamp, datetime.UTC)


def conditions(
    told: Mapping[words.ClusterCondition, Told]
    | Mapping[words.GuestCondition, Told]
    | Mapping[words.PolicyCondition, Told],
    generation: int,
    wall: float,
) -> tuple[meta.Condition, ...]:
    """Conditions of one object; `wall` is the time of this round (the writer keeps older ones that hold)."""
    statuses: dict[bool | None, str] = {True: "True", False: "False", None: "Unknown"}
    moment = time(wall)
    return tuple(
        meta.Condition.model_validate(
            {
                "type": str(type_),
                "status": statuses[status],
                "reason": str(reason),
                "message": message,
                "lastTransitionTime": moment,
                "observedGeneration": generation,
            }
        )
        for type_, (status, reason, message) in sorted(told.items())
    )
