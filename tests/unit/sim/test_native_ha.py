"""Proxmox's own HA under random faults: slow, but on nodes with active LRMs it never makes a copy."""

import asyncio
import dataclasses
import random

import pytest

import sim_worlds
from pveha.model import cluster
from pveha.sim import config, faults, ha_place, pmxcfs, world

FORMS = ("power off {}", "cut network {}", "freeze corosync {}", "hang node {}", "reboot {}", "shutdown {}")


@pytest.mark.parametrize("seed", range(40))
def test_native_ha_never_runs_a_guest_twice(seed: int) -> None:
    rng = random.Random(seed)
    nodes = [f"pve{n}" for n in (1, 2, 3, 4, 5)]
    guests = [config.managed(100 + n, node) for n, node in enumerate(nodes)]
    about = config.Config(tuple(map(config.Node, nodes)), guests=tuple(guests), seed=seed)

    async def script(running: world.World) -> None:
        for _ in range(8):
            await asyncio.sleep(rng.uniform(0, 150))
            faults.apply(running, rng.choice(FORMS).format(rng.choice(nodes)))
            if rng.random() < 0.5:
                await asyncio.sleep(rng.uniform(0, 120))
                recover(running)
        recover(running)
        await asyncio.sleep(900)

    def recover(running: world.World) -> None:
        running.heal()
        for node in nodes:
            running.unhang_node(node)
            running.set_service(node, "corosync", "running")
            running.power_on(node)

    ran = sim_worlds.play(world.World(about), script)
    assert ran.double_runs == 0, "\n".join(map(str, ran.log))
    assert {each["state"] for each in ran.state_of_guests().values()} == {"running"}


def services(**placed: str) -> dict[str, pmxcfs.Service]:
    return {f"vm:{name[1:]}": pmxcfs.Service("started", node, "") for name, node in placed.items()}


@pytest.mark.parametrize(
    ("rules", "failback", "chosen"),
    [
        ([], True, "a"),
        ([("node-affinity", {"b": 2, "c": 1}, True)], True, "b"),
        ([("node-affinity", {"a": 1, "b": 2}, True)], True, "b"),
        ([("node-affinity", {"a": 1, "b": 2}, True)], False, "a"),
        ([("node-affinity", {"x": 1}, True)], True, None),
        ([("node-affinity", {"x": 1}, False)], True, "a"),
    ],
)
def test_choice_by_node_affinity(
    rules: list[tuple[str, dict[str, int], bool]], failback: bool, chosen: str | None
) -> None:
    made = {
        str(n): cluster.HARule(str(n), kind, frozenset({"vm:1"}), nodes, strict)
        for n, (kind, nodes, strict) in enumerate(rules)
    }
    online = frozenset("abc")
    assert ha_place.choose("vm:1", "a", online, services(v1="a"), made, failback=failback) == chosen


def test_choice_by_resource_affinity() -> None:
    apart = {"r": cluster.HARule("r", "resource-affinity", frozenset({"vm:1", "vm:2"}), positive=False)}
    together = {"r": cluster.HARule("r", "resource-affinity", frozenset({"vm:1", "vm:2"}))}
    online, placed = frozenset("bc"), services(v1="a", v2="b")
    assert ha_place.choose("vm:1", "a", online, placed, apart, failback=True) == "c"
    assert ha_place.choose("vm:1", "a", online, placed, together, failback=True) == "b"
    assert ha_place.choose("vm:1", "a", frozenset("b"), placed, apart, failback=True) is None


def test_recovery_spreads_by_the_number_of_services() -> None:
    guests = [*sim_worlds.guests_on("pve2", 100, 101, 102, 103), *sim_worlds.guests_on("pve3", 110, 111)]
    ran = sim_worlds.after(sim_worlds.build(guests, master="pve1"), 250, (20, "power off pve2"))
    nodes = [each["node"] for each in ran.state_of_guests().values()]
    assert (nodes.count("pve1"), nodes.count("pve3")) == (3, 3)


@pytest.mark.parametrize("armed_after", [200.0, 60.0])
def test_a_node_lost_before_or_while_ha_is_disarmed_is_recovered_once_it_is_armed(armed_after: float) -> None:
    """Neither a node left in fence nor a service left frozen keeps a guest down for good."""
    guests = [config.managed(101, "pve1"), config.managed(102, "pve2"), config.managed(103, "pve3")]
    fenced = world.World(config.three_nodes(guests, master="pve1"))
    frozen = world.World(config.three_nodes(guests, master="pve1"))

    async def fence_first(running: world.World) -> None:
        await asyncio.sleep(60.0)
        running.power_off("pve2")
        await asyncio.sleep(75.0)
        running.crm_command("disarm-ha", "freeze")
        await asyncio.sleep(armed_after)
        running.power_on("pve2")
        running.crm_command("arm-ha")
        await asyncio.sleep(400.0)

    async def disarm_first(running: world.World) -> None:
        await asyncio.sleep(60.0)
        running.power_off("pve2")
        running.crm_command("disarm-ha", "freeze")
        await asyncio.sleep(armed_after)
        running.crm_command("arm-ha")
        await asyncio.sleep(400.0)

    for about, script in ((fenced, fence_first), (frozen, disarm_first)):
        ran = sim_worlds.play(about, script)
        assert ran.state_of_guests()[102]["state"] == "running", "\n".join(map(str, ran.log))
        assert ran.double_runs == 0


def test_an_lrm_that_lost_its_lock_takes_it_again_though_nothing_is_left_to_do() -> None:
    """Its only service was taken from HA meanwhile. It feeds its watchdog again: the node is not reset."""
    about = config.three_nodes(sim_worlds.guests_on("pve2", 102), master="pve1")

    async def script(running: world.World) -> None:
        await asyncio.sleep(30)
        running.cut_network("pve2")
        await asyncio.sleep(10)
        running.set_ha(cluster.HAResource("vm:102", cluster.HAState.IGNORED))
        await asyncio.sleep(15)
        running.heal()
        await asyncio.sleep(120)

    ran = sim_worlds.play(world.World(about), script)
    told = [str(event) for event in ran.log if event.subject in ("pve2", "lrm pve2")]
    assert any("lost its lock" in line for line in told)
    assert not any("watchdog" in line for line in told)


def test_a_migration_that_its_source_has_forgotten_ends_in_an_error() -> None:
    """The file has moved, and the source boots before the CRM has heard of it: its LRM asks where the file is
    before it asks what is to be done (PVE/HA/LRM.pm, exec_resource_agent), and the CRM gives up."""
    about = config.three_nodes([config.managed(102, "pve2")], master="pve1")

    async def script(running: world.World) -> None:
        running.on_move(lambda *_: running.later(0.4, lose_and_boot, running))
        faults.apply(running, "migrate vm:102 pve3")
        await asyncio.sleep(230)

    def lose_and_boot(running: world.World) -> None:
        running.power_off("pve2")
        running.power_on("pve2")

    ran = sim_worlds.play(world.World(about), script)
    service = ran.newest.manager.services["vm:102"]
    assert (service.state, service.node) == ("error", "pve2")
    assert ran.state_of_guests()[102] == {"node": "pve3", "state": "running"}


@pytest.mark.parametrize("disowned", [True, False])
def test_a_round_dies_once_of_a_guest_that_is_disowned_and_moved_while_it_lasts(disowned: bool) -> None:
    """Seed 80000283: the master died with its node, whose agent lock is free when the next one fences it.
    Fence and recovery are one round, which has read the resources before. The next drops what is ignored
    first (`manage` in PVE::HA::Manager); otherwise each dies, and the log must tell that."""
    about = config.three_nodes(sim_worlds.guests_on("pve2", 102), master="pve2")
    timings = dataclasses.replace(about.timings, crm_round_takes=(1.5, 1.5))
    running = world.World(dataclasses.replace(about, timings=timings))

    async def script(running: world.World) -> None:
        missed = asyncio.Event()
        running.on_change(lambda: missed.set() if "online => unknown" in running.log[-1].text else None)
        await asyncio.sleep(60.0)
        running.power_off("pve2")
        await missed.wait()
        await asyncio.sleep(timings.fence_delay - 1.0)
        if disowned:
            running.set_ha(cluster.HAResource("vm:102", cluster.HAState.IGNORED))
        running.move_config(102, "pve3", by="pve3")
        await asyncio.sleep(60.0)

    told = [event.text for event in sim_worlds.play(running, script).log]
    assert sum("got unexpected error - " in text for text in told) == 1, "\n".join(told)
    assert any("got unexpected error once more - " in text for text in told) is not disowned
    assert any("removing stale service" in text for text in told) is disowned
