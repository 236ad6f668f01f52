"""The restart order that `explain` tells is the one that a takeover follows."""

import re

from pveha.sim import scenario_run
from simulation.observed import asked, calm, played

BY_CHANCE_SECONDS = 2
"""What calls and starts happen to take longer than an estimate expects."""
TIERS = {
    "about": "Three tiers and guests beside them lose their node.",
    "world": {
        "guests": [
            {"vmid": 101, "node": "pve2", "boot_seconds": 25, "memory": "4G"},
            {
                "vmid": 102,
                "node": "pve2",
                "boot_seconds": 28,
                "protect": {"priority": 900, "dependsOn": [{"name": "vm101"}]},
            },
            {"vmid": 103, "node": "pve2", "protect": {"dependsOn": [{"name": "vm102"}, {"name": "vm120"}]}},
            {"vmid": 104, "node": "pve2", "protect": {"priority": 700}},
            {"vmid": 105, "node": "pve2", "memory": "8G"},
            {"vmid": 106, "node": "pve2", "agent": False, "protect": {"policyRef": {"name": "slow"}}},
            {"vmid": 107, "node": "pve2", "protect": {"dependsOn": [{"name": "vm106"}]}},
            {"vmid": 108, "node": "pve2", "running": False},
            {"vmid": "109-114", "node": "pve2", "memory": "1G"},
            {"vmid": 120, "node": "pve3"},
        ]
    },
    "policies": {"slow": {"startup": {"delaySeconds": 60}}},
    "timeline": [{"at": 0, "do": "power off pve2"}],
    "end": 240,
    "expect": {"guests": {"101-120": "running on pve1 or pve3"}},
}


def moments(result: scenario_run.Result, pattern: str) -> dict[int, float]:
    """When a line was logged of each guest, in the order of the log."""
    found = (re.match(rf"\s*([\d.]+)  qemu/(\d+): {pattern}", line) for line in result.log)
    return {int(each[2]): float(each[1]) for each in found if each}


def test_guests_start_in_the_order_that_explain_tells() -> None:
    rounds_, result = played(TIERS)
    before = calm(rounds_)
    answer = asked(*before, "pve2")
    rows = {row.vmid: row for row in answer.rows}
    steps = {vmid: row.step for vmid, row in rows.items() if row.step is not None}
    assert steps.keys() == rows.keys() - {108}
    assert rows[108].stopped
    assert {vmid: (each.wave, each.waits) for vmid, each in steps.items() if each.wave > 1} == {
        102: (2, ("vm101",)),
        103: (3, ("vm102",)),
        107: (2, ("vm106",)),
    }
    runs = moments(result, "runs on")
    assert runs.keys() == steps.keys()

    first = [vmid for vmid, each in sorted(steps.items(), key=lambda item: item[1].number) if each.wave == 1]
    moved = [vmid for vmid in moments(result, "configuration moved") if vmid in first]
    assert first[:3] == [104, 105, 101]
    assert {vmid for each in zip(first, moved, strict=True) if each[0] != each[1] for vmid in each} <= set(
        first[:2]
    )
    by_name = {f"vm{vmid}": vmid for vmid in rows}
    for vmid, each in steps.items():
        assert all(runs[by_name[name]] < runs[vmid] for name in each.waits)
        assert all(steps[by_name[name]].number < each.number for name in each.waits)
    for vmid, each in steps.items():
        assert each.seconds is not None
        assert each.seconds - 15 <= runs[vmid] <= each.seconds + BY_CHANCE_SECONDS, (vmid, runs[vmid], each)
        status = before[1].guests[f"vm{vmid}"].status.failover_plan
        assert status is not None
        assert (status.target_node, status.expected_downtime_seconds) == (rows[vmid].target, each.seconds)


def test_the_next_estimate_knows_how_long_the_database_took() -> None:
    story = {
        "about": "A database that needs minutes, and an application that waits for it.",
        "world": {
            "guests": [
                {"vmid": 101, "node": "pve2", "boot_seconds": 150},
                {"vmid": 102, "node": "pve2", "protect": {"dependsOn": [{"name": "vm101"}]}},
            ],
            "rules": [{"name": "together", "type": "resource-affinity", "sids": ["vm:101", "vm:102"]}],
        },
        "timeline": [{"at": 0, "do": "power off pve2"}, {"at": 250, "do": "power on pve2"}],
        "end": 500,
        "expect": {"guests": {"101-102": "running on pve1 or pve3"}},
    }
    rounds_, result = played(story)
    before = calm(rounds_)
    there = result.guests[101]["node"]
    (_, first), (_, then) = (
        [(row.vmid, row.downtime_seconds) for row in asked(*when, node).rows][-2:]
        for when, node in ((before, "pve2"), (rounds_[-1], there))
    )
    assert first[0] == then[0] == 102
    assert first[1] is not None
    assert then[1] is not None
    assert first[1] < 100
    assert abs(then[1] - result.downtime[102]) <= 10


def test_who_waits_for_one_that_stays_down_is_told() -> None:
    story = {
        "about": "Nowhere is room for two databases: one's dependent starts all the same, the other's not.",
        "world": {
            "nodes": [
                {"name": "pve1", "memory": "16G"},
                {"name": "pve2", "memory": "128G"},
                {"name": "pve3", "memory": "16G"},
            ],
            "guests": [
                {"vmid": 101, "node": "pve2", "memory": "40G", "protect": {"policyRef": {"name": "stop"}}},
                {"vmid": 102, "node": "pve2", "memory": "40G", "protect": {"policyRef": {"name": "go"}}},
                {"vmid": 103, "node": "pve2", "protect": {"dependsOn": [{"name": "vm101"}]}},
                {"vmid": 104, "node": "pve2", "protect": {"dependsOn": [{"name": "vm102"}]}},
            ],
        },
        "policies": {
            "stop": {"startup": {"readyTimeoutSeconds": 60, "onTimeout": "Stop"}},
            "go": {"startup": {"readyTimeoutSeconds": 60}},
        },
        "timeline": [{"at": 0, "do": "power off pve2"}],
        "end": 120,
        "expect": {"guests": {"101-104": "running on pve1 or pve3"}},
    }
    rounds_, result = played(story)
    before = calm(rounds_)
    rows = {row.vmid: row for row in asked(*before, "pve2").rows}
    assert [rows[vmid].reason for vmid in (101, 102, 103, 104)] == [
        "NoCapacity",
        "NoCapacity",
        "DependencyNotReady",
        "OK",
    ]
    assert "vm101" in rows[103].message
    step = rows[104].step
    assert step is not None
    assert step.overdue == ("vm102",)
    assert step.seconds is not None
    status = before[1].guests["vm103"].status.condition("FailoverReady")
    assert status is not None
    assert (status.status, status.reason) == ("False", "DependencyNotReady")
    assert result.guests[103]["state"] == "stopped"
    assert step.seconds - 15 <= moments(result, "runs on")[104] <= step.seconds
