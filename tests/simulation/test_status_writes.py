"""What one guest does, and what a lost node's guests do, is not written into the statuses of all others."""

import asyncio
import re
from collections.abc import Awaitable, Callable

from pveha.model import cluster
from pveha.sim import clock, config, rig, wires

NODES, PER_NODE = 6, 20
VMIDS = range(100, 100 + NODES * PER_NODE)
HANDFUL = 5
STRANGER = 900


def on_a_quiet_cluster(story: Callable[[rig.Rig, list[tuple[float, str]]], Awaitable[None]]) -> None:
    """Plays a story on six nodes that are three quarters full; it is given the writes of ProtectedVMs'
    statuses from then on, with their times."""

    async def run() -> None:
        guests = [
            config.managed(vmid, f"pve{1 + vmid % NODES}", memory=2304 << 20, running=vmid != 103)
            for vmid in VMIDS
        ]
        stranger = config.Guest(STRANGER, "pve2", memory=6 << 30, running=False)
        nodes = tuple(config.Node(f"pve{number}") for number in range(1, NODES + 1))
        on = rig.Rig(config.Config(nodes, guests=(*guests, stranger), master="pve1"), protect=VMIDS)
        writes: list[tuple[float, str]] = []

        def note(effect: wires.Effect) -> None:
            kind, _, name = str(effect.subject).partition("/")
            if effect.verb == "status" and kind == "ProtectedVM":
                writes.append((on.world.now(), name))

        on.on_effect(note)
        on.world.start()
        on.start_operator()
        await asyncio.sleep(120)
        assert {name for _, name in writes} == {f"vm{vmid}" for vmid in VMIDS}
        writes.clear()
        await story(on, writes)
        assert not on.failures
        await on.kill_operator()

    clock.run(run())


def test_one_guest_that_stops_starts_or_moves_causes_a_handful_of_writes() -> None:
    async def story(on: rig.Rig, writes: list[tuple[float, str]]) -> None:
        for line in (
            "stop guest 107",
            "start guest 107",
            "set vm:103 started",
            "migrate guest 107 pve4",
            f"start guest {STRANGER}",
            f"stop guest {STRANGER}",
            "create guest 901 pve3",
        ):
            on.apply(line)
            await asyncio.sleep(60)
            told = sorted({name for _, name in writes})
            assert len(writes) <= HANDFUL, (line, told)
            if line.startswith("migrate"):
                assert told == ["vm107"]
                assert on.guest_status(107).status.node == "pve4"
            writes.clear()
        assert on.world.newest.resources["vm:103"].state is cluster.HAState.STARTED
        await asyncio.sleep(600)
        assert not writes

    on_a_quiet_cluster(story)


def test_a_failure_is_told_to_all_others_when_it_is_over() -> None:
    async def story(on: rig.Rig, writes: list[tuple[float, str]]) -> None:
        there = {f"vm{vmid}" for vmid, each in on.world.state_of_guests().items() if each["node"] == "pve2"}
        there.discard(f"vm{STRANGER}")
        meant_for_it = {
            f"vm{vmid}"
            for vmid in VMIDS
            if (plan := on.guest_status(vmid).status.failover_plan) is not None and plan.target_node == "pve2"
        }
        assert len(there) == PER_NODE
        assert meant_for_it
        began = on.world.now()
        on.apply("power off pve2")
        await asyncio.sleep(120)
        last = max(
            each.at
            for each in on.world.log
            if each.at > began and re.fullmatch(r"runs on \w+", each.text) and each.subject != "qemu/103"
        )
        assert last - began < 20
        others = [(at - began, name) for at, name in writes if at <= last and name not in there]
        assert not others, "told while guests were being started"
        assert {name for _, name in writes} >= there | meant_for_it
        counts = {name: sum(one == name for _, one in writes) for _, name in writes}
        assert max(counts[name] for name in counts.keys() - there) <= 2, counts

    on_a_quiet_cluster(story)


def test_syncs_every_minute_are_told_every_minute_and_a_half() -> None:
    """Of guests that may be started from replicas; a tenth of what may be lost is not worth a write."""

    async def run() -> None:
        copy = config.Replica("pve1", every_seconds=60.0)
        guests = [
            config.managed(vmid, "pve2", storages=("zfs",), replicas=(copy,)) for vmid in range(101, 111)
        ]
        guests.append(config.managed(111, "pve3"))
        storages = (*config.Config(()).storages, config.Storage("zfs", shared=False, type="zfspool"))
        about = config.three_nodes(guests, storages=storages, master="pve1")
        replicated = range(101, 111)
        wishes = {vmid: {"policyRef": {"name": "zfs"}} for vmid in replicated}
        on = rig.Rig(about, protect=range(101, 112), wishes=wishes)
        on.kubernetes.put(rig.policy("zfs", data={"require": "SharedOrReplicated"}))
        writes: list[str] = []
        on.on_effect(lambda effect: writes.append(effect.subject) if effect.verb == "status" else None)
        on.world.start()
        on.start_operator()
        await asyncio.sleep(120)
        writes.clear()
        await asyncio.sleep(1800)
        counts = [writes.count(f"ProtectedVM/vm{vmid}") for vmid in replicated]
        assert 1800 / 180 <= min(counts) <= max(counts) <= 1800 / 90
        assert set(writes) == {f"ProtectedVM/vm{vmid}" for vmid in replicated}
        await on.kill_operator()

    clock.run(run())
