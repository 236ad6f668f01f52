"""Lines of text that break things."""

import asyncio

import pytest

import sim_worlds
from pveha.model import cluster
from pveha.sim import config, faults, world

WORDS = {
    "add rule NAME apart|together SID,...": "add rule new apart vm:100,vm:101",
    "add rule NAME on NODE,... SID,...": "add rule new on pve1,pve2 vm:100",
    "edit rule NAME SID,...": "edit rule old vm:101",
    "rule NAME": "rule old",
    "disable|enable replication JOB": "disable replication 102-0",
    "JOB": "102-0",
    "config guest VMID KEY VALUE|none": "config guest 101 net0 virtio,bridge=vmbr1",
    "remove bridge NODE BRIDGE": "remove bridge pve2 vmbr0",
    "pci|usb|dir/NAME NODE": "pci/gpu pve2",
    "NODE LEVEL": "pve2 x86-64-v2",
    "NODE VERSION": "pve2 9.2",
    "on|off PDU NODE": "off a pve2",
    "PDU NODE NODE": "a pve1 pve2",
    "PDU": "a",
    "NODE NODE": "pve1 pve2",
    "NODE... | NODE...": "pve1 | pve2 pve3",
    "NODE by NODE": "pve3 by pve1",
    "NODE|all [api|ssh|bmc]": "all ssh",
    "NODE|all": "pve2",
    "[NODE]": "",
    "NODE": "pve2",
    "SERVICE": "pvestatd",
    "STORAGE": "shared",
    "SECONDS": "3.5",
    "COMMAND": "cycle",
    "SID": "vm:100",
    "STATE": "stopped",
    "VMID[-VMID]": "100-101",
    "TAG,...|none": "web,db",
    "POOL|none": "none",
    "VMID": "101",
    "LOCK": "backup",
    "freeze|ignore": "freeze",
    "votes N": "votes 2",
    "failback|max_restart|max_relocate N": "failback 0",
    "OPTION VALUE": "token 5000",
}


def example(usage: str) -> str:
    for word, value in WORDS.items():
        usage = usage.replace(word, value)
    return usage.strip()


@pytest.mark.parametrize("line", [example(fault.usage) for fault in faults.FAULTS if fault.usage])
def test_every_form_is_understood_and_the_world_goes_on(line: str) -> None:
    guests = [*sim_worlds.guests_on("pve2", 100), config.managed(101, "pve1")]
    guests.append(config.Guest(102, "pve3", replicas=(config.Replica("pve1"),)))
    nodes = tuple(config.Node(f"pve{number}", pdus=("a", "b")) for number in range(1, 5))
    rule = cluster.HARule("old", "node-affinity", frozenset({"vm:101"}), {"pve1": 1})
    about = config.Config(nodes, guests=tuple(guests), rules=(rule,), qdevice=config.Qdevice(), master="pve1")
    ran = sim_worlds.after(world.World(about), 300, (20, line))
    assert ran.now() == pytest.approx(300)


@pytest.mark.parametrize("line", ["power of pve2", "", "stop nothing pve2", "cut storage pve2"])
def test_what_is_not_understood_says_what_would_be(line: str) -> None:
    async def script(running: world.World) -> None:
        with pytest.raises(faults.UnknownFaultError, match="is none of: power off NODE; "):
            faults.apply(running, line)

    sim_worlds.play(sim_worlds.build(), script)


def test_what_does_not_exist_is_named() -> None:
    async def script(running: world.World) -> None:
        with pytest.raises(faults.UnknownFaultError, match="there is no 'pve9'"):
            faults.apply(running, "power off pve9")

    sim_worlds.play(sim_worlds.build(), script)


def test_partition_and_heal() -> None:
    lines = [(5, "partition pve1 | pve2 pve3"), (30, "heal")]
    ran = sim_worlds.after(sim_worlds.build(), 60, *lines)
    assert len(ran.membership.rings["pve1"]) == 3


def test_a_change_is_told_to_those_who_listen() -> None:
    told: list[float] = []

    async def script(running: world.World) -> None:
        running.on_change(lambda: told.append(running.now()))
        await asyncio.sleep(50)
        assert told == [], "nothing happens, and nothing is said"
        faults.apply(running, "power off pve2")
        await asyncio.sleep(20)

    sim_worlds.play(sim_worlds.build(), script)
    assert 50 in told
    assert pytest.approx(56.6) in told
