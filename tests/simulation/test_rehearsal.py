"""A saved cluster is simulated as it was, and its loss is played as it would happen."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from pveha.cli import __main__ as command
from pveha.control import saved
from pveha.model import power, snapshot
from pveha.sim import rebuilt, rehearsal
from simulation.observed import Moment, asked, calm, noted, played

CLUSTER = {
    "about": "Every kind of thing that a node or a guest can have.",
    "world": {
        "nodes": [
            {"name": "pve1", "memory": "32G", "isos": ["debian.iso"], "bmc_uuid": "somebody else's"},
            {"name": "pve2", "cpu": "x86-64-v4", "bridges": [{"name": "vmbr0"}, {"name": "dmz"}]},
            {
                "name": "pve3",
                "cpu": "x86-64-v2-AES",
                "qemu": "9.2",
                "bridges": [{"name": "vmbr0", "vlan_aware": True, "vlans": "2-100 200"}, {"name": "dmz"}],
            },
            {"name": "pve4", "has_bmc": False, "pdus": ["a", "b"]},
        ],
        "storages": [
            {"name": "shared"},
            {"name": "local", "shared": False, "type": "dir"},
            {"name": "zfs", "shared": False, "type": "zfspool"},
            {"name": "nfs", "type": "nfs", "nodes": ["pve2", "pve3"], "lock_seconds": 90},
        ],
        "mappings": [{"name": "pci/gpu", "nodes": ["pve2", "pve4"]}],
        "rules": [
            {"name": "apart", "type": "resource-affinity", "sids": ["vm:101", "vm:113"], "positive": False}
        ],
        "qdevice": {},
        "guests": [
            {"vmid": 101, "node": "pve2", "memory": "4G", "tags": ["web"], "pool": "prod"},
            {"vmid": 102, "node": "pve2", "protect": {"dependsOn": [{"name": "vm101"}]}},
            {"vmid": 103, "node": "pve2", "storages": ["nfs"], "bridge": "dmz"},
            {"vmid": 104, "node": "pve2", "extra": {"hostpci0": "mapping=gpu,pcie=1", "cpu": "x86-64-v3"}},
            {"vmid": 105, "node": "pve2", "extra": {"hostpci0": "0000:01:00.0"}},
            {"vmid": 106, "node": "pve2", "storages": ["local"]},
            {"vmid": 107, "node": "pve2", "kind": "ct", "onboot": True},
            {"vmid": 108, "node": "pve2", "extra": {"ide2": "local:iso/debian.iso,media=cdrom"}},
            {
                "vmid": 109,
                "node": "pve2",
                "extra": {"net1": "virtio,bridge=vmbr0,tag=50", "machine": "pc-q35-10.1"},
            },
            {"vmid": 110, "node": "pve2", "running": False, "agent": False, "lock": "backup"},
            {
                "vmid": 111,
                "node": "pve2",
                "storages": ["zfs"],
                "replicas": [{"node": "pve1"}],
                "protect": False,
            },
            {"vmid": 112, "node": "pve1", "ha": "ignored"},
            {"vmid": 113, "node": "pve3"},
            {"vmid": 114, "node": "pve4"},
        ],
    },
    "policies": {"gold": {"nodeFailure": {"delaySeconds": 5}}},
    "timeline": [{"at": 0, "do": "power off pve2"}],
    "end": 200,
    "expect": {"guests": {}},
}


@pytest.fixture(scope="module")
def moment() -> Moment:
    return calm(played(CLUSTER)[0])


@pytest.fixture
def file(moment: Moment, tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "dc1.json"
    saved.write(path, *moment)
    return path


def test_the_likeness_is_seen_as_the_cluster_was(moment: Moment) -> None:
    seen, wanted = moment
    again, wants = calm(noted(lambda: rehearsal.play(seen, wanted, ("pve4",)))[0])
    for part in ("version", "equipment", "ha_rules"):
        assert getattr(again, part) == getattr(seen, part), part
    assert again.replicas.jobs == seen.replicas.jobs
    for each in (again, seen):
        assert each.inventory is not None
        assert each.configs is not None
        assert each.ha_config is not None
    assert facts(again) == facts(seen)
    assert wants.guests.keys() == wanted.guests.keys()
    for name in facts(seen)["nodes"]:
        assert asked(again, wants, name) == asked(seen, wanted, name)


def facts(seen: snapshot.Snapshot) -> dict[str, Any]:
    """What should be the same in a likeness."""
    inventory, configs, resources = seen.inventory, seen.configs, seen.ha_config
    assert inventory is not None
    assert configs is not None
    assert resources is not None
    return {
        "nodes": {
            name: (each.online, each.max_memory, each.max_cpu) for name, each in inventory.nodes.items()
        },
        "guests": inventory.guests,
        "storages": sorted(inventory.storages, key=lambda each: (each.node, each.storage)),
        "configs": configs.guests,
        "resources": resources.resources,
        "votes": {name: each.votes for name, each in seen.shells.items()},
        "timers": {name: each.timer is not None and each.timer.enabled for name, each in seen.shells.items()},
        "power": {
            switch: (each.state, power.same_machine(each.identities, seen.shells[switch.node].identities))
            for switch, each in seen.power.items()
        },
    }


def test_the_loss_is_played_as_it_happens(file: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, real = played(CLUSTER)
    status = command.main(["simulate", str(file), "--fail", "pve2", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert {vmid: each["state"] for vmid, each in told["guests"].items()} == {
        str(vmid): each["state"] for vmid, each in real.guests.items()
    }
    back = {int(vmid): seconds for vmid, seconds in told["back"].items()}
    assert back.keys() == {*range(101, 110), 111}
    assert {vmid for vmid, seconds in back.items() if seconds is None} == {106, 111}
    assert back[105] > 130
    assert status == 1
    for vmid in (101, 103, 104, 107, 108, 109):
        assert abs(back[vmid] - real.downtime[vmid]) < (2 if vmid != 103 else 6), vmid
    assert told["fenced"] == ["pve2"]
    assert told["double_runs"] == 0
    assert told["problems"] == []
    assert any("BMCs that were read (pve1, pve2, pve3)" in each for each in told["assumed"])


def test_people_get_a_timeline_and_a_table(file: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["simulate", str(file), "--fail", "pve4"]) == 0
    text = capsys.readouterr().out
    assert "corosync: membership pve1 pve2 pve3 (quorate)" in text
    assert "Assumed:" in text
    assert "a, b switches pve4 and nothing else" in text
    assert "1 of 1 guests that ran on pve4 run again." in text


def test_several_nodes_without_quorum_come_back_for_nobody(
    file: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["simulate", str(file), "--fail", "pve2,pve3,pve4", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert set(told["back"].values()) == {None}
    assert told["fenced"] == []


def test_nodes_and_devices_that_are_away_are_away_in_the_simulation(moment: Moment) -> None:
    seen, wanted = moment
    inventory = seen.inventory
    assert inventory is not None
    away = dataclasses.replace(inventory.nodes["pve3"], online=False, max_memory=None, used_memory=None)
    storages = tuple(
        dataclasses.replace(each, available=(each.node, each.storage) != ("pve4", "shared"))
        for each in inventory.storages
    )
    readings = {switch: each for switch, each in seen.power.items() if switch.node != "pve2"}
    seen = dataclasses.replace(
        seen,
        inventory=dataclasses.replace(inventory, nodes={**inventory.nodes, "pve3": away}, storages=storages),
        power=readings,
        equipment={},
    )
    of = rebuilt.likeness(seen, wanted)
    assert set(of.before) == {"power off pve3", "cut storage pve4 shared", "kill bmc pve2"}
    told = " ".join(of.assumed)
    for text in ("pve3 is offline", "the BMC of pve2 is dead", "pve1 has the bridges"):
        assert text in told
    result = rehearsal.play(seen, wanted, ("pve2",))
    assert result.fenced == ()
    assert result.problems == ()


def test_what_cannot_be_played_is_told(file: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["simulate", str(file), "--fail", "pve9"]) == 3
    assert "pve9; the cluster has pve1, pve2, pve3, pve4" in capsys.readouterr().err
    other = file.with_name("other.json")
    other.write_text("{}", encoding="utf-8")
    assert command.main(["simulate", str(other), "--fail", "pve1"]) == 3
    assert "other.json" in capsys.readouterr().err
    for wrong in (
        ["--fail", "pve1"],
        [str(file), "--fail", "pve1", "--log"],
        ["--seeds", "1", "--fail", "pve1"],
    ):
        with pytest.raises(SystemExit):
            command.main(["simulate", *wrong])
