"""For how long a guest would be down: told before, learned afterwards."""

import dataclasses

from decide_scene import Scene
from pveha import api
from pveha.decide import rounds
from pveha.model import node


def expected(decision: rounds.Decision, name: str = "vm102") -> int | None:
    plan = decision.report.guests[name].failover_plan
    assert plan is not None
    return plan.expected_downtime_seconds


def test_without_a_failover_it_follows_from_corosyncs_timeouts_and_the_policys_delay() -> None:
    scene = Scene().settle()
    usual = expected(scene.step(1))
    for each in scene.nodes.values():
        each.totem = node.Totem(10_000, 650, 0)
    slow = expected(scene.step(1))
    scene.policies["late"] = {"nodeFailure": {"delaySeconds": 60}}
    scene.protected[102]["policyRef"] = {"name": "late"}
    late = expected(scene.step(1))
    assert usual is not None
    assert slow is not None
    assert late is not None
    assert 6.6 < usual <= 15
    assert slow >= 22
    assert late == slow + 60


def test_afterwards_it_is_what_the_last_failover_took() -> None:
    scene = Scene().settle()
    decision = scene.step(1)
    status = decision.report.guests["vm102"].model_copy(
        update={
            "last_failover": api.LastFailover.model_validate(
                {
                    "id": "pve2-1",
                    "from": "pve2",
                    "to": "pve1",
                    "cause": "lost",
                    "startTime": "2026-11-18T00:00:00Z",
                    "completionTime": "2026-11-18T00:00:42Z",
                    "downtimeSeconds": 42,
                    "engine": "Fast",
                }
            )
        }
    )
    wanted = scene.specs()
    learned = wanted.guests["vm102"].model_copy(update={"status": status})
    wanted = dataclasses.replace(wanted, guests={**wanted.guests, "vm102": learned})
    assert expected(rounds.decide(scene.snapshot(), wanted, scene.memory)) == 45
