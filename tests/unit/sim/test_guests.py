"""Processes: starting, its failures, migrations and what a death in the middle leaves."""

import asyncio
import dataclasses

import pytest

import sim_worlds
from pveha.model import guests
from pveha.sim import config, world

ON_PVE2 = config.Guest(101, "pve2")


async def ended(running: world.World, upid: str) -> str:
    task = running.tasks.by_upid[upid]
    await sim_worlds.until(running, lambda: task.exit_status is not None, 60)
    return task.exit_status or ""


@pytest.mark.parametrize(
    ("guest", "on", "told"),
    [
        (dataclasses.replace(ON_PVE2, running=False), "pve2", "OK"),
        (ON_PVE2, "pve2", "VM 101 already running"),
        (ON_PVE2, "pve3", "Configuration file 'nodes/pve3/qemu-server/101.conf' does not exist"),
        (dataclasses.replace(ON_PVE2, running=False, lock="migrate"), "pve2", "VM is locked (migrate)"),
        (
            config.Guest(101, "pve2", guests.GuestKind.CONTAINER, running=False, lock="backup"),
            "pve2",
            "CT is locked (backup)",
        ),
        (
            dataclasses.replace(ON_PVE2, running=False, storages=("nowhere",)),
            "pve2",
            "storage 'nowhere' does not exist",
        ),
    ],
)
def test_what_a_start_task_says(guest: config.Guest, on: str, told: str) -> None:
    async def script(running: world.World) -> None:
        task = running.guests.start(on, guest.ref)
        kind = "qmstart" if guest.kind is guests.GuestKind.VM else "vzstart"
        assert task.upid.startswith(f"UPID:{on}:")
        assert task.upid.endswith(f":{kind}:101:root@pam:")
        assert task.exit_status is None
        assert await ended(running, task.upid) == told

    sim_worlds.play(sim_worlds.build([guest]), script)


def test_a_local_disk_does_not_follow_its_configuration() -> None:
    guest = dataclasses.replace(ON_PVE2, storages=("local",), running=False)

    async def script(running: world.World) -> None:
        running.move_config(101, "pve3", by="pve1")
        told = await ended(running, running.guests.start("pve3", guest.ref).upid)
        assert told == "volume 'local:vm-101-disk-0' does not exist"

    sim_worlds.play(sim_worlds.build([guest]), script)


def test_a_dead_clients_storage_lock_outlives_it() -> None:
    storages = (config.Storage("shared", type="nfs", lock_seconds=90.0),)

    async def script(running: world.World) -> None:
        running.power_off("pve2")
        await asyncio.sleep(10)
        running.move_config(101, "pve3", by="pve1")
        told = await ended(running, running.guests.start("pve3", ON_PVE2.ref).upid)
        assert told == "start failed: QEMU exited with code 1"
        await asyncio.sleep(80)
        assert await ended(running, running.guests.start("pve3", ON_PVE2.ref).upid) == "OK"

    sim_worlds.play(sim_worlds.build([ON_PVE2], storages=storages), script)


def test_live_migration_moves_the_guest_without_a_second_writer() -> None:
    async def script(running: world.World) -> None:
        task = running.guests.migrate("pve2", ON_PVE2.ref, "pve3")
        await sim_worlds.until(running, lambda: running.guest_file(101).lock == "migrate", 3)
        assert await ended(running, task.upid) == "OK"
        assert running.guest_file(101).lock == ""
        assert running.machines["pve2"].processes == {}
        assert running.downtime(101, 0) < 1

    ran = sim_worlds.play(sim_worlds.build([ON_PVE2]), script)
    assert ran.state_of_guests()[101] == {"node": "pve3", "state": "running"}
    assert ran.double_runs == 0


def test_source_dying_before_the_move_leaves_a_locked_guest_and_an_incoming_process() -> None:
    async def script(running: world.World) -> None:
        running.guests.migrate("pve2", ON_PVE2.ref, "pve3")
        await sim_worlds.until(running, lambda: 101 in running.machines["pve3"].processes, 3)
        running.power_off("pve2")
        await asyncio.sleep(20)
        assert running.guest_file(101).node == "pve2"
        assert running.guest_file(101).lock == "migrate"
        assert running.guests.status("pve3", 101) == "inmigrate"

    assert sim_worlds.play(sim_worlds.build([ON_PVE2]), script).double_runs == 0


def test_source_dying_after_the_move_leaves_a_paused_process_on_the_target() -> None:
    async def script(running: world.World) -> None:
        running.guests.migrate("pve2", ON_PVE2.ref, "pve3")
        await sim_worlds.until(running, lambda: running.guest_file(101).node == "pve3", 6)
        running.power_off("pve2")
        await asyncio.sleep(20)
        assert running.guest_file(101).lock == "migrate"
        assert running.guests.status("pve3", 101) == "paused"

    assert sim_worlds.play(sim_worlds.build([ON_PVE2]), script).double_runs == 0


def test_target_dying_in_the_transfer_leaves_the_guest_where_it_was() -> None:
    async def script(running: world.World) -> None:
        task = running.guests.migrate("pve2", ON_PVE2.ref, "pve3")
        await sim_worlds.until(running, lambda: 101 in running.machines["pve3"].processes, 3)
        running.power_off("pve3")
        assert await ended(running, task.upid) == "migration aborted"
        await asyncio.sleep(30)

    ran = sim_worlds.play(sim_worlds.build([ON_PVE2]), script)
    assert ran.state_of_guests()[101] == {"node": "pve2", "state": "running"}
    assert ran.downtime(101, 0) == 0


def test_containers_migrate_by_restart() -> None:
    container = config.Guest(105, "pve2", guests.GuestKind.CONTAINER)

    async def script(running: world.World) -> None:
        task = running.guests.migrate("pve2", container.ref, "pve3")
        assert await ended(running, task.upid) == "OK"
        await asyncio.sleep(5)
        assert 1 < running.downtime(105, 0) < 10

    ran = sim_worlds.play(sim_worlds.build([container]), script)
    assert ran.state_of_guests()[105] == {"node": "pve3", "state": "running"}


def test_onboot_starts_what_ha_does_not_look_after_even_if_ignored() -> None:
    plain = config.Guest(101, "pve2", onboot=True)
    ignored = dataclasses.replace(config.managed(102, "pve2", sim_worlds.IGNORED), onboot=True)
    silent = config.Guest(103, "pve2")
    built = sim_worlds.build([plain, ignored, silent, config.managed(104, "pve3")], master="pve1")
    ran = sim_worlds.after(built, 120, (5, "power off pve2"), (20, "power on pve2"))
    states = {vmid: each["state"] for vmid, each in ran.state_of_guests().items()}
    assert states == {101: "running", 102: "running", 103: "stopped", 104: "running"}


def test_downtime_counts_what_nobody_covers() -> None:
    ran = sim_worlds.after(sim_worlds.build([ON_PVE2]), 100, (10, "stop guest 101"), (50, "start guest 101"))
    assert ran.downtime(101, 0) == pytest.approx(40, abs=1.5)
    assert ran.downtime(101, 60) == 0


def test_a_writer_whose_storage_path_returns_is_noticed() -> None:
    async def script(running: world.World) -> None:
        running.cut_network("pve2")
        running.cut_storage("pve2", "shared")
        await asyncio.sleep(10)
        running.move_config(101, "pve3", by="pve1")
        await ended(running, running.guests.start("pve3", ON_PVE2.ref).upid)
        assert running.double_runs == 0
        running.heal("pve2")
        assert running.double_runs == 1

    sim_worlds.play(sim_worlds.build([ON_PVE2]), script)
