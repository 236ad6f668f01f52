"""What checks make of answers that the simulated data centre does not give."""

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from typing_extensions import override

from pveha import api
from pveha.doctor import examination, fencing, finding, kubernetes, patient, storages, votes
from pveha.model import cluster, errors, guests, node, power
from pveha.model.kubernetes import Manifest
from pveha.proxmox import access

DMI = {
    name: frozenset({f"4c4c4544-0042-3510-8051-b7c04f4d000{name[-1]}"}) for name in ("pve1", "pve2", "pve3")
}
VOTES = node.Votes({"pve1": 1, "pve2": 1, "pve3": 1}, 0, 3, 3, frozenset())
TOKEN = "pveha@pve!operator"


def spec(**more: Any) -> api.HAClusterSpec:
    return api.HAClusterSpec.model_validate(
        {
            "endpoints": [{"host": "pve1"}, {"host": "pve2"}],
            "credentialsSecretRef": {"name": "token"},
            "tls": {"caSecretRef": {"name": "ca"}},
            **more,
        }
    )


@dataclasses.dataclass
class Answers(patient.Patient):
    """A patient whose answers are given."""

    told_votes: node.Votes = VOTES
    bmcs: Mapping[str, power.PowerReading | errors.PvehaError] = dataclasses.field(default_factory=dict)
    kube_nodes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """systemUUID by name."""
    pods: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Kubernetes node by replica."""
    configured: tuple[node.GuestConfig, ...] = ()

    def __post_init__(self) -> None:
        self.spec = spec()
        self.status = api.HAClusterStatus()
        self.guests = {}

    @override
    async def nodes(self) -> frozenset[str]:
        return frozenset(DMI)

    @override
    async def online(self) -> frozenset[str]:
        return frozenset(DMI)

    @override
    async def statuses(self) -> patient.Asked[patient.Status]:
        return patient.Asked(
            {
                name: patient.Status(
                    node.NodeStatus(name, "1", True, {}, self.told_votes, identities, 0, None, 0.0), 0.0, 0.1
                )
                for name, identities in DMI.items()
            },
            {},
        )

    @override
    async def readings(self) -> patient.Asked[power.PowerReading]:
        return patient.Asked(
            {name: each for name, each in self.bmcs.items() if isinstance(each, power.PowerReading)},
            {name: each for name, each in self.bmcs.items() if isinstance(each, errors.PvehaError)},
        )

    @override
    async def configs(self) -> node.GuestConfigs:
        return node.GuestConfigs({each.ref.vmid: each for each in self.configured}, 0.0)

    @override
    async def machines(self) -> tuple[Manifest, ...]:
        labels = {"node-role.kubernetes.io/control-plane": "true"}
        return tuple(
            {"metadata": {"name": name, "labels": labels}, "status": {"nodeInfo": {"systemUUID": identity}}}
            for name, identity in self.kube_nodes.items()
        )

    @override
    async def replicas(self) -> tuple[Manifest, ...]:
        toleration = {"key": "node.kubernetes.io/unreachable", "tolerationSeconds": 30}
        return tuple(
            {"metadata": {"name": name}, "spec": {"nodeName": at, "tolerations": [toleration]}}
            for name, at in self.pods.items()
        )


def guest(
    vmid: int, name: str, identity: str, kind: guests.GuestKind = guests.GuestKind.VM
) -> node.GuestConfig:
    ref = guests.GuestRef(vmid, kind)
    return node.GuestConfig(ref, "pve1", name, identity, 0, frozenset({"nfs"}), None, False, frozenset())


async def only(check: examination.Check, told: patient.Patient) -> finding.Finding:
    (found,) = await check(told)
    return found


@pytest.mark.parametrize(
    ("told", "severity", "words"),
    [
        (node.Votes({"pve1": 1, "pve2": 1}, 0, 2, 2, frozenset()), "Failure", "without pve1 or without pve2"),
        (node.Votes({"pve1": 1, "pve2": 1}, 1, 3, 3, frozenset()), "OK", "each node may be lost"),
        (node.Votes({"pve1": 1, "pve2": 1}, 1, 3, 2, frozenset()), "Warning", "the QDevice is missing"),
        (
            node.Votes({"pve1": 3, "pve2": 1, "pve3": 1}, 0, 5, 5, frozenset()),
            "Failure",
            "without pve1 the rest",
        ),
        (node.Votes({}, 0, 0, 0, frozenset()), "Unknown", "does corosync run"),
    ],
)
async def test_votes(told: node.Votes, severity: str, words: str) -> None:
    found = await only(votes.votes, Answers(told_votes=told))
    assert found.severity == severity
    assert words in found.message


def reading(*identities: str, state: power.PowerState = power.PowerState.ON) -> power.PowerReading:
    return power.PowerReading(state, frozenset(identities), 0.0, 0.0)


async def test_a_bmc_that_swaps_the_bytes_of_its_uuid_is_the_nodes() -> None:
    swapped = power.swapped_uuid(next(iter(DMI["pve1"])))
    assert swapped not in DMI["pve1"]
    assert (await only(fencing.bound, Answers(bmcs={"pve1": reading(swapped)}))).severity == "OK"


async def test_a_device_without_identity_is_bound_by_a_drill_only() -> None:
    told = Answers(bmcs={"pve1": reading()})
    assert "the drill of docs/fencing.md" in (await only(fencing.bound, told)).remedy
    told.status = api.HAClusterStatus.model_validate(
        {"bindings": [{"name": "pve1", "methods": [{"name": "pdu", "drill": "x"}]}]}
    )
    assert (await only(fencing.bound, told)).severity == "OK"


async def test_a_binding_that_was_voided_fails() -> None:
    told = Answers(bmcs={"pve1": reading(*DMI["pve1"])})
    told.status = api.HAClusterStatus.model_validate(
        {
            "bindings": [
                {"name": "pve1", "methods": [{"name": "bmc", "voided": "it read off while pve1 answered"}]}
            ]
        }
    )
    found = await only(fencing.bound, told)
    assert (found.severity, found.subject) == ("Failure", "pve1")
    assert "it read off while pve1 answered" in found.message


async def test_a_node_that_is_away_stays_bound() -> None:
    told = Answers(bmcs={"pve9": reading("aa-11")})
    assert (await only(fencing.bound, told)).severity == "Unknown"
    told.status = api.HAClusterStatus.model_validate(
        {"bindings": [{"name": "pve9", "identities": ["aa-11"]}]}
    )
    assert (await only(fencing.bound, told)).severity == "OK"


async def test_nodes_without_fencing_are_named() -> None:
    found = await fencing.readable(Answers())
    assert [(each.severity, each.subject) for each in found] == [("Failure", name) for name in DMI]


async def test_what_the_mains_do_is_not_told_where_it_is_not_readable() -> None:
    assert await fencing.power_restore(Answers(bmcs={"pve1": reading()})) == []


@pytest.mark.parametrize(
    ("machines", "severity"),
    [
        ({"a": "uuid-1", "b": "elsewhere-1", "c": "elsewhere-2"}, "OK"),
        ({"a": "uuid-1", "b": "uuid-2", "c": "elsewhere-2"}, "Failure"),
        ({"a": "uuid-1", "b": "elsewhere-1"}, "Failure"),
        ({"a": next(iter(DMI["pve3"]))}, "Failure"),
        ({"ct-node": "not readable in a container"}, "Failure"),
        ({"vm-node": "elsewhere"}, "OK"),
        ({}, "Unknown"),
    ],
    ids=["minority", "majority", "half", "Proxmox node", "container by name", "VM of that name", "hosted"],
)
async def test_where_the_control_plane_is(machines: Mapping[str, str], severity: str) -> None:
    inside = (
        guest(101, "one", "uuid-1"),
        guest(102, "two", "UUID-2"),
        guest(103, "vm-node", "uuid-3"),
        guest(104, "ct-node", "nfs:104/vm-104-disk-0.raw", guests.GuestKind.CONTAINER),
    )
    told = Answers(kube_nodes=machines, configured=inside)
    assert (await only(kubernetes.control_plane, told)).severity == severity


async def test_replicas_that_fail_together_have_a_bound() -> None:
    told = Answers(kube_nodes={"a": "elsewhere"}, pods={"one": "a", "two": "a"})
    found = await only(kubernetes.spread, told)
    assert found.severity == "Warning"
    assert "all 2 replicas are on a: if a is lost" in found.message
    assert "has waited 30 s" in found.message
    assert "some 100 s in all" in found.message
    told = Answers(kube_nodes={"a": "elsewhere"}, pods={"one": "a"})
    assert (await only(kubernetes.spread, told)).message.startswith("there is one replica only")


async def test_an_operator_that_is_no_pod_is_not_known_to_be_elsewhere() -> None:
    assert (await only(kubernetes.replicas, Answers())).severity == "Unknown"


async def test_a_check_that_breaks_is_unknown() -> None:
    async def broken(_: patient.Patient) -> list[finding.Finding]:
        raise ZeroDivisionError("a bug")

    async def asks(_: patient.Patient) -> list[finding.Finding]:
        raise errors.Unreachable("nobody there")

    (bug,) = await examination._run(broken, Answers())
    assert (bug.severity, bug.remedy) == ("Unknown", "please report this")
    assert await examination._run(asks, Answers()) == [finding.unknown("nobody there")]


async def test_a_check_that_hangs_is_unknown_after_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "CHECK_SECONDS", 0.01)

    async def hangs(_: patient.Patient) -> list[finding.Finding]:
        await asyncio.sleep(60)
        return []

    assert (await examination._run(hangs, Answers())) == [finding.unknown("no answer within 0.01 s")]


def test_grants_name_the_narrow_path_where_an_acl_takes_a_privilege_away() -> None:
    everything = {need.privilege: True for need in access.ENFORCE}
    held = {"/": everything, "/vms": {**everything}, "/storage": everything, "/nodes": everything}
    held["/vms/100"] = {"VM.Audit": True}
    lacking = access.missing(held, access.ENFORCE)
    assert access.grants(held, lacking, TOKEN) == [
        'pveum role modify pveha --append 1 --privs "VM.PowerMgmt"',
        f"pveum acl modify /vms/100 --users 'pveha@pve' --tokens '{TOKEN}' --roles pveha",
    ]


async def test_a_storage_that_one_node_has_is_no_more_than_local() -> None:
    class Rows(Answers):
        @override
        async def inventory(self, *, again: bool = False) -> cluster.Inventory:
            rows = [cluster.StorageResource(name, "nfs", True, name == "pve1") for name in DMI]
            return cluster.Inventory({}, {}, tuple(rows), 0.0)

    told = Rows(configured=(guest(101, "one", "uuid-1"),))
    told.guests = {101: "web"}
    found = await only(storages.shared, told)
    assert (found.severity, found.subject) == ("Failure", "nfs")
    assert "not online on pve2, pve3: web (101)" in found.message


def test_the_worst_counts() -> None:
    results = [finding.Result("a", (finding.ok("fine"), finding.unknown("?"))), finding.Result("b", ())]
    assert finding.worst(results) == "Unknown"
    assert finding.worst([*results, finding.Result("c", (finding.warning("!", "do"),))]) == "Warning"
    assert finding.worst([]) == "OK"
