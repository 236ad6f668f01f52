"""Who owns a configuration: rename as compare-and-swap, quorum, and what nodes read that were away."""

import asyncio
import errno
from collections.abc import Callable

import pytest

import sim_worlds
from pveha.model import guests
from pveha.sim import config, guestfile, world

SOURCE, TARGET = "nodes/pve2/qemu-server/101.conf", "nodes/pve3/qemu-server/101.conf"


def play(script: sim_worlds.Script) -> world.World:
    return sim_worlds.play(sim_worlds.build([config.Guest(101, "pve2"), config.Guest(102, "pve3")]), script)


def test_of_two_renames_one_wins_and_the_other_finds_nothing() -> None:
    async def script(running: world.World) -> None:
        running.fs.rename("pve1", SOURCE, "nodes/pve1/qemu-server/101.conf")
        with pytest.raises(FileNotFoundError):
            running.fs.rename("pve3", SOURCE, TARGET)

    assert play(script).guest_file(101).node == "pve1"


def test_rename_onto_another_guests_configuration_replaces_it_silently() -> None:
    async def script(running: world.World) -> None:
        running.fs.rename("pve3", SOURCE, "nodes/pve3/qemu-server/102.conf")
        assert guestfile.value(running.fs.read("pve1", "nodes/pve3/qemu-server/102.conf"), "name") == "vm101"
        with pytest.raises(FileNotFoundError):
            running.fs.read("pve1", SOURCE)

    play(script)


def test_a_second_configuration_of_a_vmid_is_refused_everywhere() -> None:
    async def script(running: world.World) -> None:
        for path in (TARGET, "nodes/pve1/lxc/101.conf"):
            with pytest.raises(FileExistsError):
                running.fs.write("pve3", path, "name: second\n")

    play(script)


def test_without_quorum_nothing_can_be_written_and_the_old_state_is_read() -> None:
    async def script(running: world.World) -> None:
        running.cut_network("pve1")
        await asyncio.sleep(10)
        attempts: tuple[Callable[[], None], ...] = (
            lambda: running.fs.rename("pve1", SOURCE, TARGET),
            lambda: running.fs.mkdir("pve1", "priv/pveha"),
            lambda: running.fs.write("pve1", "priv/x", ""),
        )
        for attempt in attempts:
            with pytest.raises(PermissionError) as refused:
                attempt()
            assert refused.value.errno == errno.EACCES
        running.fs.rename("pve3", SOURCE, TARGET)
        assert running.fs.exists("pve1", SOURCE), "it was away when the rename happened"
        running.heal()
        await asyncio.sleep(10)
        assert running.fs.exists("pve1", TARGET)
        assert not running.fs.exists("pve1", SOURCE)

    play(script)


def test_writes_wait_while_membership_changes() -> None:
    async def script(running: world.World) -> None:
        await asyncio.sleep(1)
        running.power_off("pve2")
        assert running.fs.blocked("pve1")
        await running.fs.settle("pve1")
        assert running.now() == pytest.approx(1 + 6.6)

    play(script)


def test_each_epoch_directory_is_made_by_exactly_one() -> None:
    async def script(running: world.World) -> None:
        running.fs.mkdir("pve1", "priv/pveha")
        running.fs.mkdir("pve1", "priv/pveha/e1")
        with pytest.raises(FileExistsError):
            running.fs.mkdir("pve2", "priv/pveha/e1")
        assert running.fs.listdir("pve3", "priv/pveha") == ["e1"]
        running.fs.write("pve3", "priv/pveha/.owner.new", "me\n")
        running.fs.rename("pve3", "priv/pveha/.owner.new", "priv/pveha/owner")
        assert running.fs.read("pve1", "priv/pveha/owner") == "me\n"
        with pytest.raises(OSError, match="not empty"):
            running.fs.rmdir("pve1", "priv/pveha")

    play(script)


def test_a_file_renamed_over_a_configuration_becomes_its_text() -> None:
    async def script(running: world.World) -> None:
        running.fs.write("pve2", f"{SOURCE}.tmp", "name: new\n")
        running.fs.rename("pve2", f"{SOURCE}.tmp", SOURCE)
        assert running.guest_file(101).text == "name: new\n"

    play(script)


def test_pmxcfs_down_is_not_connected() -> None:
    async def script(running: world.World) -> None:
        running.stop_pmxcfs("pve1")
        with pytest.raises(OSError, match="not connected") as down:
            running.fs.read("pve1", ".members")
        assert down.value.errno == errno.ENOTCONN
        assert not running.membership.sees("pve2", "pve1")

    play(script)


def test_lock_of_a_dead_owner_is_taken_over_120_seconds_after_it_was_noticed() -> None:
    async def script(running: world.World) -> None:
        assert running.fs.lock("pve1", "some", "a")
        assert running.fs.lock("pve1", "some", "a")
        await asyncio.sleep(50)
        assert not running.fs.lock("pve2", "some", "b"), "noticed only now"
        await asyncio.sleep(119)
        assert not running.fs.lock("pve2", "some", "b")
        await asyncio.sleep(1)
        assert running.fs.lock("pve2", "some", "b")
        running.fs.unlock("pve1", "some", "a")
        assert not running.fs.lock("pve1", "some", "a")

    play(script)


def test_containers_have_a_folder_of_their_own() -> None:
    built = sim_worlds.build([config.Guest(105, "pve2", guests.GuestKind.CONTAINER)])

    async def script(running: world.World) -> None:
        assert running.fs.listdir("pve1", "nodes/pve2/lxc") == ["105.conf"]
        assert running.fs.listdir("pve1", "nodes/pve2/qemu-server") == []

    sim_worlds.play(built, script)
