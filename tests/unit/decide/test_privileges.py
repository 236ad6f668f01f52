"""A token that may look but not act: in mode Enforce that is told, and nothing is begun."""

import dataclasses

import pytest

from pveha.api import hacluster
from pveha.api.conditions import Acting, ClusterCondition, Connected, FailoverReady, GuestCondition
from pveha.decide import rounds
from pveha.model import cluster
from unit.decide import moment

ALL = frozenset({"Sys.Audit", "Sys.Console", "VM.Audit", "VM.PowerMgmt", "Datastore.Audit"})


def with_token(now: moment.Moment, lacking: str, mode: hacluster.Mode) -> rounds.Decision:
    held = ALL - {lacking}
    privileges = cluster.Privileges(held, held, held, {"": "9.2"})
    spec = now.wanted.cluster.spec.model_copy(update={"mode": mode})
    wanted = dataclasses.replace(now.wanted, cluster=now.wanted.cluster.model_copy(update={"spec": spec}))
    seen = dataclasses.replace(now.seen, privileges=privileges)
    return dataclasses.replace(now, seen=seen, wanted=wanted).decide()


def connected(decision: rounds.Decision) -> tuple[str, str, str]:
    condition = decision.report.cluster.condition(ClusterCondition.CONNECTED)
    assert condition is not None
    return condition.status, condition.reason, condition.message


@pytest.mark.parametrize("lacking", ["Sys.Console on /", "VM.PowerMgmt on /vms"])
def test_enforce_needs_more_than_looking(lacking: str) -> None:
    decision = with_token(moment.moment(), lacking.partition(" ")[0], hacluster.Mode.ENFORCE)
    status, reason, message = connected(decision)
    assert (status, reason) == ("False", Connected.PRIVILEGES_MISSING)
    assert lacking in message
    acting = decision.report.cluster.condition(ClusterCondition.ACTING)
    assert acting is not None
    assert acting.reason == Acting.NOT_CONNECTED
    for guest in decision.report.guests.values():
        ready = guest.condition(GuestCondition.FAILOVER_READY)
        assert ready is not None
        assert (ready.status, ready.reason) == ("False", FailoverReady.FAST_NOT_READY)


def test_nothing_is_begun_for_a_lost_node() -> None:
    now = moment.moment((40.0, "power off pve2"), until=47.0)
    now = dataclasses.replace(now, seen=dataclasses.replace(now.seen, operations=()))
    whole, lacking = (with_token(now, name, hacluster.Mode.ENFORCE) for name in ("none", "VM.PowerMgmt"))
    assert whole.start
    assert not lacking.start


def test_looking_is_enough_to_observe() -> None:
    decision = with_token(moment.moment(), "VM.PowerMgmt", hacluster.Mode.OBSERVE)
    assert connected(decision)[0] == "True"
