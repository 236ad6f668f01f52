"""What a guest needs of a node, and what is said where a node lacks it."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decide_scene import GIB, THREE, Scene, condition
from pveha.api.conditions import FailoverReady, GuestCondition
from pveha.decide import cpu_models, eligibility, replicas, rounds
from pveha.decide.protection import Refusal
from pveha.model import guests, node

REF = guests.GuestRef(101, guests.GuestKind.VM)
V3 = frozenset(cpu_models.needed("x86-64-v3"))
EVERYTHING = node.Equipment(
    "pve2",
    0.0,
    bridges={
        "vmbr0": node.Bridge("vmbr0", True, ((2, 100),)),
        "vmbr1": node.Bridge("vmbr1", False),
        "internal": node.Bridge("internal", False, uplink=False),
    },
    mappings=frozenset({"pci/gpu", "usb/dongle"}),
    cpus=8,
    cpu_flags=V3,
    qemu=(9, 2),
    media=frozenset({"local:iso/debian.iso"}),
)
PLACE = eligibility.Place("pve2", frozenset({"shared", "local"}), frozenset({"shared", "fast"}), EVERYTHING)


def config(
    *, storages: set[str] | None = None, local_devices: set[str] | None = None, **needs: Any
) -> node.GuestConfig:
    return node.GuestConfig(
        REF, "pve1", "db", "uuid", GIB, frozenset(storages or {"shared"}), None, False,
        frozenset(local_devices or ()), node.Needs(**needs),
    )  # fmt: skip


def on(bridge: str, tag: int = 0, *, trunks: bool = False) -> frozenset[node.Network]:
    return frozenset({node.Network(bridge, tag, trunks)})


FITS: dict[str, node.GuestConfig] = {
    "nothing but shared storage": config(),
    "a VLAN that the bridge carries": config(networks=on("vmbr0", 100)),
    "trunks of a VLAN-aware bridge": config(networks=on("vmbr0", trunks=True)),
    "a tag on a bridge with a network card": config(networks=on("vmbr1", 7)),
    "a bridge of the node's own guests": config(networks=on("internal")),
    "mapped devices": config(mappings=frozenset({"pci/gpu", "usb/dongle"})),
    "the CPU's own level": config(cpu="x86-64-v3", cpu_flags=frozenset({"aes"}), cores=8),
    "whatever CPU the node has": config(cpu="host"),
    "a CPU type that nothing is known of": config(cpu="custom-mine"),
    "the machine version of its QEMU": config(machine="pc-q35-9.2+pve1"),
    "an older machine version": config(machine="pc-i440fx-8.1"),
    "no machine version": config(machine="q35"),
    "an ISO that is there too": config(media=frozenset({"local:iso/debian.iso"})),
    "an ISO on shared storage": config(media=frozenset({"shared:iso/windows.iso"})),
    "cloud-init on a storage that is there, shared or not": config(cloudinit=frozenset({"local"})),
}


@pytest.mark.parametrize("guest", FITS.values(), ids=FITS.keys())
def test_a_node_that_has_what_a_guest_needs_is_eligible(guest: node.GuestConfig) -> None:
    assert eligibility.eligibility(guest, PLACE) == ()


LACKS: list[tuple[node.GuestConfig, FailoverReady, str]] = [
    (config(local_devices={"hostpci0"}), FailoverReady.LOCAL_RESOURCES, "bound to its node by hostpci0"),
    (config(storages={"local"}), FailoverReady.LOCAL_DISK_ONLY, "volumes on storage local, which"),
    (
        config(storages={"shared", "fast"}),
        FailoverReady.STORAGE_UNAVAILABLE,
        "on pve2 storage fast is not available: look at `pvesm status` there",
    ),
    (
        config(cloudinit=frozenset({"local-lvm"})),
        FailoverReady.STORAGE_UNAVAILABLE,
        "on pve2 storage local-lvm is not available",
    ),
    (
        config(networks=on("vnet7")),
        FailoverReady.BRIDGE_MISSING,
        "on pve2 there is no bridge or SDN vnet vnet7: make it in System, Network",
    ),
    (
        config(networks=on("vmbr0", 101)),
        FailoverReady.VLAN_MISSING,
        "on pve2 bridge vmbr0 does not carry VLAN 101: correct it",
    ),
    (
        config(networks=on("vmbr1", trunks=True)),
        FailoverReady.VLAN_MISSING,
        "on pve2 bridge vmbr1 is not VLAN-aware, which trunks need",
    ),
    (
        config(networks=on("internal", 5)),
        FailoverReady.VLAN_MISSING,
        "on pve2 bridge internal is neither VLAN-aware nor has a network card, which VLAN 5 needs",
    ),
    (
        config(mappings=frozenset({"pci/nic", "dir/share"})),
        FailoverReady.MAPPING_MISSING,
        "on pve2 directory mapping share, PCI mapping nic leads to nothing: map a device",
    ),
    (
        config(cpu="x86-64-v4"),
        FailoverReady.CPU_UNSUPPORTED,
        "on pve2 the CPU lacks avx512bw, avx512cd, avx512dq, avx512f, avx512vl, which its CPU type x86-64-v4",
    ),
    (
        config(cpu="x86-64-v2", cpu_flags=frozenset({"nested-virt"})),
        FailoverReady.CPU_UNSUPPORTED,
        "on pve2 the CPU lacks vmx or svm",
    ),
    (config(cores=9), FailoverReady.CPU_UNSUPPORTED, "on pve2 there are 8 CPUs, and it has 9 vCPUs"),
    (
        config(machine="pc-q35-10.0"),
        FailoverReady.MACHINE_UNSUPPORTED,
        "on pve2 QEMU is 9.2, too old for its machine type pc-q35-10.0: upgrade the node",
    ),
    (
        config(media=frozenset({"local:iso/windows.iso"})),
        FailoverReady.LOCAL_MEDIA,
        "on pve2 there is no local:iso/windows.iso, which is in its CD drive: eject it",
    ),
]


@pytest.mark.parametrize(("guest", "reason", "text"), LACKS, ids=[text[:40] for _, _, text in LACKS])
def test_what_a_node_lacks_is_told_with_a_reason_and_a_remedy(
    guest: node.GuestConfig, reason: FailoverReady, text: str
) -> None:
    [refusal] = eligibility.eligibility(guest, PLACE)
    assert refusal.reason is reason
    assert text in refusal.message


def test_all_that_a_node_lacks_is_told() -> None:
    guest = config(networks=on("vnet7"), cpu="x86-64-v4", machine="pc-q35-10.0")
    reasons = [each.reason for each in eligibility.eligibility(guest, PLACE)]
    expected = [
        FailoverReady.BRIDGE_MISSING, FailoverReady.CPU_UNSUPPORTED, FailoverReady.MACHINE_UNSUPPORTED
    ]  # fmt: skip
    assert reasons == expected


def test_what_is_not_known_of_a_node_is_not_held_against_it() -> None:
    guest = config(
        networks=on("vnet7"),
        mappings=frozenset({"pci/gpu"}),
        media=frozenset({"local:iso/x.iso"}),
        cpu="x86-64-v4",
        cores=999,
        machine="pc-q35-99.0",
    )
    for equipment in (None, node.Equipment("pve2", 0.0)):
        assert eligibility.eligibility(guest, dataclasses.replace(PLACE, equipment=equipment)) == ()


OLD = Refusal(FailoverReady.REPLICA_TOO_OLD, "its replica is too old")


@pytest.mark.parametrize(
    ("nodes", "storages", "reasons"),
    [
        (("pve2",), {"local"}, []),
        (("pve2",), {"local", "shared"}, []),
        (("pve3",), {"local"}, ["ReplicaTooOld"]),
        ((), {"local"}, ["ReplicaTooOld"]),
        (("pve2",), {"local", "gone"}, ["StorageUnavailable"]),
        ((), {"shared"}, []),
    ],
)
def test_local_volumes_are_where_a_replica_may_be_used(
    nodes: tuple[str, ...], storages: set[str], reasons: list[str]
) -> None:
    usable = replicas.Usable(tuple(replicas.Replica(name, 0.0) for name in nodes), OLD)
    found = eligibility.eligibility(config(storages=storages), PLACE, usable)
    assert [str(each.reason) for each in found] == reasons


def test_devices_bind_a_guest_to_its_node_whatever_its_replicas() -> None:
    usable = replicas.Usable((replicas.Replica("pve2", 0.0),), OLD)
    guest = config(storages={"local"}, local_devices={"hostpci0"})
    assert [each.reason for each in eligibility.eligibility(guest, PLACE, usable)] == [
        FailoverReady.LOCAL_RESOURCES
    ]


MODELS = [
    ("Skylake-Server", {"avx512f", "rtm"}, True),
    ("Skylake-Server-noTSX-IBRS", {"rtm"}, False),
    ("Skylake-Server-v5", {"rtm"}, False),
    ("Haswell-noTSX", {"avx2"}, True),
    ("EPYC", {"sse4a"}, True),
    ("EPYC-Milan-v2", {"invpcid"}, True),
    ("kvm64", {"aes"}, False),
]


@pytest.mark.parametrize(("model", "flags", "needed"), MODELS)
def test_models_of_qemu_need_what_sets_their_generation_apart(
    model: str, flags: set[str], needed: bool
) -> None:
    assert (flags <= cpu_models.needed(model)) is needed


def test_the_sentence_for_all_nodes_groups_them() -> None:
    def refused(name: str, text: str, reason: FailoverReady) -> eligibility.Refusals:
        return (Refusal(reason, f"on {name} {text}"),)

    bridge, cpu = FailoverReady.BRIDGE_MISSING, FailoverReady.CPU_UNSUPPORTED
    found = {
        "pve1": refused("pve1", "there is no bridge vmbr5", bridge),
        "pve2": refused("pve2", "the CPU lacks avx2", cpu),
        "pve3": refused("pve3", "there is no bridge vmbr5", bridge),
    }
    assert eligibility.summary(found) == Refusal(
        bridge,
        "no other node can run it: on pve1, pve3 there is no bridge vmbr5; on pve2 the CPU lacks avx2",
    )
    many = {f"n{n}": refused(f"n{n}", f"storage s{n} is not available", bridge) for n in range(9)}
    assert eligibility.summary(many).message.endswith("; and 6 more nodes cannot either")


def told(decision: rounds.Decision, name: str) -> tuple[str, str, str | None]:
    status = decision.report.guests[name]
    plan = status.failover_plan
    return (*condition(status, "FailoverReady"), plan.target_node if plan else None)


def bridged(name: str, *bridges: str) -> node.Equipment:
    return dataclasses.replace(
        EVERYTHING, node=name, bridges={each: node.Bridge(each, False) for each in bridges}
    )


def test_a_guest_is_planned_onto_a_node_that_has_its_bridge() -> None:
    scene = Scene()
    scene.equipment = {name: bridged(name, "vmbr0") for name in THREE}
    scene.settle()
    assert told(scene.step(0.5), "vm101") == ("True", "OK", "pve2")
    scene.set_config(101, needs=node.Needs(networks=on("vmbr5")))
    decision = scene.step(0.5)
    assert told(decision, "vm101") == ("False", "BridgeMissing", None)
    said = decision.report.guests["vm101"].conditions
    assert any("on pve2, pve3 there is no bridge or SDN vnet vmbr5" in each.message for each in said)
    scene.equipment["pve3"] = bridged("pve3", "vmbr0", "vmbr5")
    assert told(scene.step(0.5), "vm101") == ("True", "OK", "pve3")


def test_a_lost_nodes_guest_that_no_node_can_run_is_left_with_the_reason() -> None:
    scene = Scene()
    scene.equipment = {name: bridged(name, "vmbr0") for name in THREE}
    scene.set_config(101, needs=node.Needs(mappings=frozenset({"pci/nic"})))
    scene.settle()
    scene.lose("pve1")
    assert told(scene.step(0.5), "vm101") == ("False", "MappingMissing", None)
    assert all(not decision.start for decision in (scene.step(0.5) for _ in range(20)))


BRIDGES = st.sets(st.sampled_from(("a", "b", "c")), min_size=1)


@settings(max_examples=60, deadline=None)
@given(
    needs=st.lists(BRIDGES, min_size=3, max_size=3),
    have=st.lists(BRIDGES, min_size=3, max_size=3),
    cores=st.lists(st.integers(1, 12), min_size=3, max_size=3),
)
def test_no_guest_is_planned_onto_a_node_that_lacks_what_it_needs(
    needs: list[set[str]], have: list[set[str]], cores: list[int]
) -> None:
    scene = Scene()
    scene.equipment = {
        name: bridged(name, *sorted(bridges)) for name, bridges in zip(THREE, have, strict=True)
    }
    for vmid, bridges, each in zip((101, 102, 103), needs, cores, strict=True):
        networks = frozenset(node.Network(bridge) for bridge in bridges)
        scene.set_config(vmid, needs=node.Needs(networks=networks, cores=each))
    scene.settle()
    report = scene.step(0.5).report
    for vmid, name, bridges, each in zip((101, 102, 103), THREE, needs, cores, strict=True):
        able = [
            other
            for other, there in zip(THREE, have, strict=True)
            if other != name and bridges <= there and each <= 8
        ]
        status = report.guests[f"vm{vmid}"]
        if able:
            assert status.failover_plan is not None
            assert status.failover_plan.target_node in able
        else:
            assert status.failover_plan is None
            assert condition(status, "FailoverReady")[1] in ("BridgeMissing", "CpuUnsupported")


def test_why_no_node_takes_guests_is_told_node_by_node() -> None:
    def message(scene: Scene) -> str:
        found = scene.step(0.5).report.guests["vm101"].condition(GuestCondition.FAILOVER_READY)
        assert found is not None
        return f"{found.reason}: {found.message}"

    scene = Scene()
    scene.spec["nodes"][1]["availability"] = "Pause"
    scene.nodes["pve3"].lrm_mode = "maintenance"
    scene.settle()
    assert message(scene) == (
        "NoTarget: no other node takes guests now "
        "(pve2: its availability is Pause; pve3: its LRM does not take services)"
    )
