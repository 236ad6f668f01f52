"""Every kind of random fault finds what it breaks, and changes something."""

import asyncio

import pytest

from pveha.sim import chaos, clock, mishaps, rig

DRAWS = 6
NODES = dict.fromkeys(mishaps.OF_QDEVICES, 4)
"""How many a kind needs, if not as many as ever."""
BEFORE = {
    "power-button": ("power off pve1", "power off pve2", "power off pve3"),
    "user-edits-our-rule": ("register vm:100", "register vm:101", "add rule pveha-1 apart vm:100,vm:101"),
}
"""What must have happened for a kind."""


def shown(on: rig.Rig) -> str:
    """All that a line of a timeline can change."""
    world, tree, replicas = on.world, on.world.newest, on.operators.values()
    found: list[object] = [
        (each.powered, each.hung, each.services, each.planned, each.version, each.node_shell, each.clock_skew)
        for each in world.machines.values()
    ]
    found += [sorted(each.processes) for each in world.machines.values()]
    found += [
        world.links_down,
        world.isolated,
        world.operator_cut,
        world.deaf,
        world.lagging,
        world.replicas.refusing,
        tree.jobs,
    ]
    found += [world.bmcs.by_name, len(world.bmc_log), world.pdus.outlets, world.pdus.dead, world.storage.cut]
    found += [tree.resources, tree.rules, tree.guests, tree.files, tree.commands, len(world.tasks.by_upid)]
    found += [world.membership.expected, world.membership.unsafe_options, world.membership.qdevice.cut]
    found += [world.membership.qdevice.up, world.guests.refusing, world.guests.failing, world.timings]
    found += [on.triggers, on.standstills, on.moves, on.kubernetes.writes]
    found += [(each.runs, each.deaf, each.trip, each.wire.stands_still_until) for each in replicas]
    found += [(each.wire.kubernetes_down, each.wire.kubernetes_loses_answers) for each in replicas]
    return repr(found)


async def begin(plan: chaos.Plan, before: tuple[str, ...]) -> tuple[bool, list[str]]:
    """Whether the first line of the plan's fault changes anything, and which of its lines did not find what
    they name."""
    on = rig.Rig(plan.about, protect=plan.protect, operators=plan.operators)
    on.world.start()
    on.start_operator()
    await asyncio.sleep(20.0)
    for line in before:
        on.apply(line)
    (_, first), *others = plan.faults[0].steps
    old = shown(on)
    on.apply(first)
    changed = shown(on) != old
    for _, line in others:
        on.apply(line)
    await on.kill_operator()
    return changed, on.world.lines("timeline: ", "there is no '")


@pytest.mark.parametrize("kind", mishaps.KINDS)
def test_it_finds_what_it_breaks_and_changes_something(kind: str) -> None:
    """What people do may come too late or early for what it is about; devices are there."""
    changes = []
    for seed in range(DRAWS):
        plan = chaos.plan(seed, (kind,), NODES.get(kind), fault_count=1)
        assert plan.faults[0].kind == kind
        changed, missing = clock.run(begin(plan, BEFORE.get(kind, ())))
        assert not missing or kind.startswith("user-"), missing
        changes.append(changed)
    assert any(changes)
