"""Corosync: timeouts by size, partial partitions, votes, freezing."""

import asyncio

import pytest

import sim_worlds
from pveha.model import errors
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


def two(**fields: object) -> world.World:
    """Two nodes and a QDevice."""
    nodes = (config.Node("a"), config.Node("b"))
    return world.World(config.Config(nodes, qdevice=config.Qdevice(), **fields))  # type: ignore[arg-type]


def test_a_dead_half_leaves_the_qdevices_vote_to_the_other_once_its_host_has_missed_it() -> None:
    ran = sim_worlds.after(two(), 60, (5, "power off a"))
    assert members(ran, "b") == ["b"]
    assert ran.membership.quorate("b")
    assert sim_worlds.when(ran, "membership b (quorate)") == pytest.approx(5 + 12.1, abs=0.01)
    assert not ran.lines("not quorate")


@pytest.mark.parametrize("fault", ["cut link a b", "partition a | b"])
def test_of_two_halves_that_live_the_lower_node_gets_the_vote(fault: str) -> None:
    ran = sim_worlds.after(two(), 60, (5, fault))
    assert ran.membership.quorate("a")
    assert not ran.membership.quorate("b")
    assert sim_worlds.when(ran, "membership a (quorate)") < 5 + 7


@pytest.mark.parametrize("gone", ["a", "b"])
def test_a_half_without_the_qdevice_loses_quorum_later_than_the_other_is_given_it(gone: str) -> None:
    ran = sim_worlds.after(two(), 90, (5, f"cut network {gone}"))
    other = "b" if gone == "a" else "a"
    assert ran.membership.quorate(other)
    assert not ran.membership.quorate(gone)
    given = sim_worlds.when(ran, f"membership {other} (quorate)")
    assert given == pytest.approx(5 + 12.1, abs=0.01)
    assert sim_worlds.when(ran, f"membership {gone} (not quorate)") == pytest.approx(5 + 36.6, abs=0.01)


@pytest.mark.parametrize("seconds", range(0, 60, 3))
@pytest.mark.parametrize(
    "second", ["cut qdevice a", "cut qdevice b", "cut link a b", "power off a", "hang node a"]
)
@pytest.mark.parametrize(
    "first", ["cut qdevice a", "cut qdevice all", "cut link a b", "cut network b", "freeze corosync a"]
)
def test_no_two_settled_memberships_are_quorate(first: str, second: str, seconds: float) -> None:
    running = two()

    def look() -> None:
        quorate = {
            running.membership.rings[name]
            for name, on in running.machines.items()
            if on.corosync_talks and running.membership.quorate(name) and not running.fs.blocked(name)
        }
        assert len(quorate) <= 1, running.log

    running.on_change(look)
    ran = sim_worlds.after(running, 200, (5, first), (5 + seconds, second), (120, "heal"))
    for name, on in ran.machines.items():
        assert ran.membership.quorate(name) or not on.corosync_talks


def test_without_its_host_two_nodes_are_quorate_and_one_is_not() -> None:
    async def script(running: world.World) -> None:
        await asyncio.sleep(5)
        running.cut_qdevice()
        await asyncio.sleep(20)
        assert running.membership.quorate("a")
        told = running.membership.quorumtool("a")
        assert "Expected votes:   3" in told
        assert "Total votes:      2" in told
        assert "Flags:            Quorate Qdevice" in told
        assert "         1          1  NA,NV,NMW a (local)" in told
        running.power_off("b")
        await asyncio.sleep(20)
        assert members(running, "a") == ["a"]
        assert not running.membership.quorate("a")
        running.heal_qdevice()
        await asyncio.sleep(20)
        assert running.membership.quorate("a")
        assert "         1          1    A,V,NMW a (local)" in running.membership.quorumtool("a")

    sim_worlds.play(two(), script)


def test_the_qdevice_is_in_the_configuration_and_in_no_list_of_members() -> None:
    ran = sim_worlds.after(two(), 1)
    text = ran.membership.corosync_conf()
    assert "  device {\n    model: net\n    net {\n      algorithm: ffsplit\n" in text
    assert list(ran.membership.members_file("a")["nodelist"]) == ["a", "b"]
    assert ran.membership.members_file("a")["cluster"]["nodes"] == 2


def test_a_node_that_boots_alone_with_an_old_state_forks_history() -> None:
    guests = [config.managed(100, "a"), config.managed(101, "b")]

    def forked(*timeline: tuple[float, str]) -> bool:
        return sim_worlds.after(two(guests=tuple(guests), master="b"), 400, *timeline).fs.forked

    off = ((5.0, "power off a"), (60.0, "set vm:101 stopped"))
    assert not forked(*off, (90, "power on a"))
    assert forked(*off, (90, "power off b"), (120, "power on a"))


def test_two_halves_of_four_nodes_with_a_qdevice() -> None:
    about = config.Config(tuple(config.Node(f"pve{n}") for n in range(1, 5)), qdevice=config.Qdevice())
    ran = sim_worlds.after(world.World(about), 60, (5, "partition pve1 pve2 | pve3 pve4"))
    assert [name for name in ran.machines if ran.membership.quorate(name)] == ["pve1", "pve2"]


def test_a_qdevice_is_for_an_even_number_of_nodes() -> None:
    with pytest.raises(ValueError, match="even number"):
        sim_worlds.build(qdevice=config.Qdevice())


def test_a_node_that_has_stood_still_takes_no_write_when_all_others_are_gone() -> None:
    stood_still = (
        (5, "hang node pve3"),
        (30, "power off pve2"),
        (30.1, "power off pve1"),
        (31, "resume node pve3"),
    )
    ran = sim_worlds.after(sim_worlds.build(), 32, *stood_still)
    assert ran.membership.quorate("pve3"), "in its own eyes, for some seconds"
    with pytest.raises(errors.NoQuorum):
        ran.set_ha(None, "vm:101")
    sim_worlds.after(sim_worlds.build(), 6, (5, "power off pve1")).set_ha(None, "vm:101")
