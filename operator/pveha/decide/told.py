"""What one round knows, and the form in which conditions are told."""

import dataclasses
import datetime
from collections.abc import Collection, Mapping, Set

from pveha.api import conditions as words
from pveha.api import hacluster, meta
from pveha.decide import (
    eligibility,
    enrolment,
    evidence,
    failover,
    guards,
    maintenance,
    memory,
    native_rules,
    placement,
    protection,
    readiness,
)
from pveha.model import snapshot, specs

Told = tuple[bool | None, words.Documented, str]
"""Status (None: Unknown), reason and message of a condition."""


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """All that the report of one round is made of."""

    seen: snapshot.Snapshot
    wanted: specs.Specs
    memo: memory.Memory
    members: evidence.Membership
    verdicts: Mapping[str, evidence.Verdict]
    protected: protection.Protection
    allowed: guards.Permission
    recoveries: Mapping[str, failover.Recovery]
    drains: maintenance.Drains
    enrolled: enrolment.Enrolment
    judge: eligibility.Judge
    startup: readiness.Startup
    mirror: native_rules.Mirror

    @property
    def native(self) -> bool:
        """Whether Proxmox's own HA alone recovers guests."""
        return self.wanted.cluster.spec.recovery.engine is hacluster.Engine.NATIVE

    @property
    def ha_unused(self) -> bool:
        """Whether Proxmox HA has no resource: its CRM is idle then, and tells of no LRM."""
        status, config = self.seen.ha_status, self.seen.ha_config
        return status is not None and status.master is None and config is not None and not config.resources


def plan(
    now: Round, down: Set[str], guests: Collection[protection.Protected], promised: Mapping[str, int]
) -> placement.Plan:
    """Where `guests` would go if the nodes `down` were gone; `promised` is what `failover.promised` tells of
    the round."""
    return placement.plan(
        down,
        guests,
        now.seen,
        now.wanted.cluster.spec,
        now.memo,
        now.verdicts,
        promised,
        now.protected.wished,
        now.judge,
        unused=now.ha_unused,
    )


def ask_each(
    now: Round, guests: Collection[protection.Protected], promised: Mapping[str, int]
) -> placement.Each:
    """What is asked for each node: where those of `guests` that are there would go if it died now."""
    return placement.ask_each(
        guests,
        now.seen,
        now.wanted.cluster.spec,
        now.memo,
        now.verdicts,
        promised,
        now.protected.wished,
        now.judge,
        unused=now.ha_unused,
    )


def plan_each(now: Round, each: placement.Each) -> dict[str, placement.Plan]:
    """The answers."""
    return placement.plan_each(each, now.seen, now.wanted.cluster.spec, now.memo, now.verdicts)


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
    return tuple(
        meta.Condition.model_validate(
            {
                "type": str(type_),
                "status": statuses[status],
                "reason": str(reason),
                "message": message,
                "lastTransitionTime": time(wall),
                "observedGeneration": generation,
            }
        )
        for type_, (status, reason, message) in sorted(told.items())
    )
