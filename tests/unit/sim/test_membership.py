"""Corosync: timeouts by size, partial partitions, votes, freezing."""

import asyncio

import pytest

import sim_worlds
from pveha.sim import config, world


def members(running: world.World, node: str) -> list[str]:
    return sorted(name for name in running.machines if running.membership.sees(node, name))


@pytest.mark.parametrize(("remaining", "seconds"), [(1, 6.6), (2, 6.6), (4, 7.15), (31, 14.575)])
def test_loss_shows_after_token_and_consensus(remaining: int, seconds: float) -> None:
    assert config.Corosync().loss_seconds(remaining) == pytest.approx(seconds, abs=0.002)


def test_a_single_broken_link_leaves_a_majority_that_agrees() -> None:
    ran = sim_worlds.after(sim_worlds.build(), 60, (5, "cut link pve2 pve3"))
    rings = {name: members(ran, name) for name in ran.machines}
    assert rings["pve1"] in (["pve1", "pve2"], ["pve1", "pve3"])
    partner = next(name for name in rings["pve1"] if name != "pve1")
    assert rings[partner] == rings["pve1"]
    left = next(name for name in ran.machines if name not in rings["pve1"])
    assert rings[left] == [left]
    assert not ran.membership.quorate(left)
    assert ran.membership.quorate("pve1")


def test_two_halves_of_four_nodes_are_both_without_quorum() -> None:
    built = world.World(config.Config(tuple(config.Node(f"pve{n}") for n in range(1, 5))))
    ran = sim_worlds.after(built, 60, (5, "partition pve1 pve2 | pve3 pve4"))
    assert members(ran, "pve1") == ["pve1", "pve2"]
    assert not any(ran.membership.quorate(name) for name in ran.machines)


def test_lowered_expected_votes_make_a_lonely_node_quorate() -> None:
    ran = sim_worlds.after(sim_worlds.build(), 60, (5, "cut network pve1"), (20, "expected votes 1"))
    assert ran.membership.quorate("pve1")
    assert ran.membership.quorate("pve2")
    assert "Expected votes:   1" in ran.membership.quorumtool("pve1")


def test_two_node_option_keeps_both_halves_quorate() -> None:
    about = config.Config((config.Node("a"), config.Node("b")), corosync=config.Corosync(two_node=True))
    ran = sim_worlds.after(world.World(about), 60, (5, "cut network a"))
    assert ran.membership.quorate("a")
    assert ran.membership.quorate("b")
    assert ran.membership.unsafe_options == {"two_node"}
    assert "two_node: 1" in ran.membership.corosync_conf()


def test_a_frozen_corosync_keeps_saying_what_it_said() -> None:
    async def script(running: world.World) -> None:
        await asyncio.sleep(5)
        running.freeze_corosync("pve1")
        await asyncio.sleep(20)
        assert members(running, "pve2") == ["pve2", "pve3"]
        assert members(running, "pve1") == ["pve1", "pve2", "pve3"]
        assert running.membership.quorate("pve1")
        assert running.fs.blocked("pve1"), "but its writes never come back"

    sim_worlds.play(sim_worlds.build(), script)


def test_corosync_stopped_shows_at_once() -> None:
    async def script(running: world.World) -> None:
        await asyncio.sleep(5)
        running.set_service("pve2", "corosync", "stopped")
        assert members(running, "pve1") == ["pve1", "pve3"]

    sim_worlds.play(sim_worlds.build(), script)


def test_a_node_that_stood_still_writes_nothing_before_it_has_joined_again() -> None:
    async def script(running: world.World) -> None:
        await asyncio.sleep(5)
        running.hang_node("pve1")
        await asyncio.sleep(30)
        running.unhang_node("pve1")
        await asyncio.sleep(1)
        assert running.membership.quorate("pve1")
        assert members(running, "pve2") == ["pve2", "pve3"]
        assert running.fs.blocked("pve1")
        assert not running.fs.blocked("pve2")
        await asyncio.sleep(10)
        assert members(running, "pve2") == ["pve1", "pve2", "pve3"]
        assert not running.fs.blocked("pve1")

    sim_worlds.play(sim_worlds.build(), script)
