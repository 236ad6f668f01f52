"""The resources on a real API server: what is accepted, what is refused with which sentence, how it shows."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from pveha import api
from pveha.api import protectedvm
from pveha.devkube.access import KubectlError
from pveha.devkube.target import Target

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "manifests" / "examples"
POLICIES = ROOT / "manifests" / "policies"
INVALID = sorted((Path(__file__).parent / "invalid").glob("*.yaml"))
KINDS = "haclusters,failoverpolicies,protectedvms"
POLICY_SECONDS = 30.0
"""A new ValidatingAdmissionPolicy takes effect after some seconds, when the API server has compiled it."""


@pytest.fixture(scope="module")
def server(kube: Target) -> Target:
    kube.admin.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    names = [f"crd/{resource.plural}.{api.GROUP}" for resource in api.RESOURCES]
    kube.admin.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return kube


@pytest.fixture
def namespace(server: Target) -> Iterator[str]:
    with server.namespace("pveha-crds") as name:
        yield name
        server.admin.kubectl("delete", KINDS, "--all", "-n", name)


@pytest.fixture(scope="module")
def examples(server: Target) -> Iterator[str]:
    """A namespace in which all examples are."""
    with server.namespace("pveha-examples") as name:
        server.admin.kubectl("apply", "--server-side", "-n", name, "-k", str(EXAMPLES))
        yield name
        server.admin.kubectl("delete", KINDS, "--all", "-n", name)


def guest(name: str, vmid: int, cluster: str = "dc1") -> str:
    return json.dumps(
        {
            "apiVersion": api.API_VERSION,
            "kind": "ProtectedVM",
            "metadata": {"name": name},
            "spec": {"clusterRef": {"name": cluster}, "vmid": vmid},
        }
    )


def table(text: str) -> list[dict[str, str]]:
    """What `kubectl get` prints, by column; columns are found by where their heads begin."""
    head, *lines = text.splitlines()
    starts = [i for i, char in enumerate(head) if char != " " and (i == 0 or head[i - 2 : i] == "  ")]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    return [{head[a:b].strip(): line[a:b].strip() for a, b in spans} for line in lines]


def write_status(server: Target, namespace: str, kind: str, name: str, status: api.Status) -> None:
    """As pveha writes it: server-side apply on the status subresource."""
    body = {
        "apiVersion": api.API_VERSION,
        "kind": kind,
        "metadata": {"name": name},
        "status": status.manifest(),
    }
    flags = ["--server-side", "--subresource=status", "--field-manager=pveha", "-n", namespace]
    server.admin.kubectl("apply", *flags, "-f", "-", stdin=json.dumps(body))


def read(server: Target, namespace: str, kind: str, name: str) -> Any:
    return api.parse(json.loads(server.admin.kubectl("get", kind, name, "-n", namespace, "-o", "json")))


def test_definitions_are_in_order(server: Target) -> None:
    """NonStructuralSchema or a name conflict would be a condition, not a refusal."""
    for resource in api.RESOURCES:
        text = server.admin.kubectl("get", "crd", f"{resource.plural}.{api.GROUP}", "-o", "json")
        conditions = {item["type"]: item["status"] for item in json.loads(text)["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_example_is_accepted_as_it_is(server: Target, namespace: str, file: Path) -> None:
    if file.name == "kustomization.yaml":
        server.admin.kubectl("apply", "-n", namespace, "-k", str(EXAMPLES))
    else:
        server.admin.kubectl("apply", "-n", namespace, "-f", str(file))


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_invalid_manifests_are_refused_with_a_sentence_that_helps(
    server: Target, examples: str, file: Path
) -> None:
    sentence = file.read_text().splitlines()[0].removeprefix("# refused: ")
    with pytest.raises(KubectlError) as refusal:
        server.admin.kubectl("apply", "--dry-run=server", "-n", examples, "-f", str(file))
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client", "server"])
def test_a_guest_that_depends_on_itself_is_refused(
    server: Target, examples: str, flags: tuple[str, ...]
) -> None:
    spec = {"clusterRef": {"name": "dc1"}, "vmid": 101, "dependsOn": [{"name": "db"}, {"name": "myself"}]}
    metadata = {"name": "myself"}
    manifest = {"apiVersion": api.API_VERSION, "kind": "ProtectedVM", "metadata": metadata, "spec": spec}
    with pytest.raises(KubectlError, match="names this ProtectedVM itself, which cannot be ready before"):
        server.admin.kubectl("apply", *flags, "-n", examples, "-f", "-", stdin=json.dumps(manifest))


def test_invalid_manifests_are_refused_by_server_side_apply_too(server: Target, examples: str) -> None:
    """Argo CD's and Flux's way; it words some refusals differently."""
    manifests = []
    for number, file in enumerate(INVALID):
        manifest = yaml.safe_load(file.read_text())
        manifest["metadata"]["name"] += f"-{number}"
        manifest["metadata"]["labels"] = {"pveha.dev/test": "invalid"}
        manifests.append(manifest)
    with pytest.raises(KubectlError):
        server.admin.kubectl(
            "apply", "--server-side", "-n", examples, "-f", "-", stdin=yaml.safe_dump_all(manifests)
        )
    left = server.admin.kubectl("get", KINDS, "-n", examples, "-l", "pveha.dev/test=invalid", "-o", "name")
    assert left == ""


@pytest.mark.parametrize(
    ("patch", "sentence"),
    [
        ({"vmid": 102}, "vmid is immutable: delete this ProtectedVM (the guest is not touched)"),
        ({"clusterRef": {"name": "dc2"}}, "clusterRef is immutable: delete this ProtectedVM"),
    ],
)
def test_which_guest_it_is_cannot_be_changed(
    server: Target, examples: str, patch: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(KubectlError) as refusal:
        server.admin.kubectl(
            "patch", "pvm", "database", "-n", examples, "--type=merge", "-p", json.dumps({"spec": patch})
        )
    assert sentence in str(refusal.value)
    server.admin.kubectl(
        "patch", "pvm", "database", "-n", examples, "--type=merge", "-p", '{"spec": {"priority": 901}}'
    )


def test_defaults_are_those_of_the_models(server: Target, namespace: str) -> None:
    """The object that the API server completes means what the operator would have understood without it."""
    for document in (
        {
            "kind": "HACluster",
            "spec": {
                "endpoints": [{"host": "pve1"}],
                "credentialsSecretRef": {"name": "token"},
                "tls": {"caSecretRef": {"name": "ca"}},
                "recovery": {"nodeShell": {"credentialsSecretRef": {"name": "ssh"}}},
                "detection": {"recoverAfterSeconds": 60},
            },
        },
        {"kind": "FailoverPolicy", "spec": {}},
        {"kind": "ProtectedVM", "spec": {"clusterRef": {"name": "dc1"}, "vmid": 101}},
    ):
        obj = {"apiVersion": api.API_VERSION, "metadata": {"name": "plain"}, **document}
        server.admin.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(obj))
        stored = read(server, namespace, str(document["kind"]), "plain")
        assert stored.spec == api.parse(obj).spec


def test_the_set_of_short_names_and_the_category(server: Target, examples: str) -> None:
    assert server.admin.kubectl("get", "hac", "-n", examples, "-o", "name").split() == [
        "hacluster.pveha.dev/dc1"
    ]
    everything = server.admin.kubectl("get", "pveha", "-n", examples, "-o", "name").split()
    assert {name.split(".")[0] for name in everything} == {"hacluster", "failoverpolicy", "protectedvm"}


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("spec.vmid=111", ["web-1"]),
        ("spec.clusterRef.name=dc1,spec.policyRef.name=gold", ["database", "web-1", "web-2"]),
        ("spec.clusterRef.name=dc2", []),
    ],
)
def test_guests_are_found_by_field(server: Target, examples: str, selector: str, names: list[str]) -> None:
    found = server.admin.kubectl("get", "pvm", "-n", examples, f"--field-selector={selector}", "-o", "name")
    assert [name.split("/")[1] for name in found.split()] == names


NOW = datetime(2026, 5, 1, 12, 0, 5, tzinfo=UTC)


def condition(kind: str, status: str, reason: str) -> api.Condition:
    return api.Condition.model_validate(
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": f"{reason}.",
            "lastTransitionTime": NOW,
            "observedGeneration": 1,
        }
    )


GUEST_STATUS = api.ProtectedVMStatus(
    observed_generation=1,
    conditions=(condition("Ready", "True", "Protected"), condition("FailoverReady", "False", "NoCapacity")),
    node="pve1",
    guest=api.GuestStatus(kind="VM", name="db", identity="0d4a2d3c"),
    replicas=(protectedvm.ReplicaStatus(node="pve2", last_sync_time=NOW),),
    failover_plan=api.FailoverPlan(target_node="pve2", recovery_point_time=NOW),
    last_failover=api.LastFailover(
        id="f1",
        from_="pve3",
        to="pve1",
        cause="power",
        start_time=NOW,
        completion_time=NOW,
        downtime_seconds=8,
        recovery_point_time=NOW,
        data_loss_seconds=600,
    ),
)
CLUSTER_STATUS = api.HAClusterStatus(
    observed_generation=1,
    conditions=(
        condition("Ready", "True", "OK"),
        condition("Acting", "False", "Paused"),
        condition("Degraded", "True", "NodeDown"),
        condition("CapacityAssured", "False", "InsufficientCapacity"),
    ),
    version="9.2",
    epoch=17,
    nodes=api.NodeCounters(total=3, online=2),
    not_online=(api.NotOnline(name="pve3", state="Fenced", reason="off", since=NOW),),
    guests=api.GuestCounters(total=40, protected=5, failover_ready=4),
    operations=(api.OperationStatus(id="f1", kind="Takeover", node="pve3", step="claim", start_time=NOW),),
    last_failure=api.LastFailure(
        id="f1", node="pve3", cause="power", start_time=NOW, proven_time=NOW, guests=5, recovered=4
    ),
)
POLICY_STATUS = api.FailoverPolicyStatus(
    observed_generation=1, conditions=(condition("Ready", "True", "OK"),)
)


@pytest.mark.parametrize(
    ("kind", "name", "status"),
    [
        ("HACluster", "dc1", CLUSTER_STATUS),
        ("FailoverPolicy", "gold", POLICY_STATUS),
        ("ProtectedVM", "database", GUEST_STATUS),
    ],
)
def test_a_status_is_read_back_as_it_was_written(
    server: Target, examples: str, kind: str, name: str, status: api.Status
) -> None:
    write_status(server, examples, kind, name, status)
    first = read(server, examples, kind, name)
    assert first.status == status
    write_status(server, examples, kind, name, status)
    again = read(server, examples, kind, name)
    assert again.metadata.resource_version == first.metadata.resource_version


def test_a_condition_needs_its_transition_time(server: Target, examples: str) -> None:
    bare = api.Condition(type="Ready", status="True", reason="OK", message="")
    with pytest.raises(KubectlError, match=r"lastTransitionTime: Required value"):
        write_status(
            server, examples, "FailoverPolicy", "native", api.FailoverPolicyStatus(conditions=(bare,))
        )


def test_what_people_see_of_guests(server: Target, examples: str) -> None:
    write_status(server, examples, "ProtectedVM", "database", GUEST_STATUS)
    rows = {row["NAME"]: row for row in table(server.admin.kubectl("get", "pvm", "-n", examples))}
    assert re.fullmatch(r"\d+[smhdy]\S*", rows["database"].pop("RPO"))
    assert rows["wiki"]["RPO"] == "", "nothing would be lost"
    assert {column: value for column, value in rows["database"].items() if column != "AGE"} == {
        "NAME": "database",
        "READY": "True",
        "STATUS": "Protected",
        "FAILOVER": "NoCapacity",
        "NODE": "pve1",
        "FAILS-OVER-TO": "pve2",
        "VMID": "101",
        "CLUSTER": "dc1",
    }
    assert rows["wiki"]["READY"] == ""
    wide = {
        row["NAME"]: row for row in table(server.admin.kubectl("get", "pvm", "-n", examples, "-o", "wide"))
    }
    assert (wide["database"]["POLICY"], wide["wiki"]["POLICY"]) == ("gold", "")
    assert wide["database"]["DOWNTIME"] == "8"


def test_what_people_see_of_clusters_and_policies(server: Target, examples: str) -> None:
    write_status(server, examples, "HACluster", "dc1", CLUSTER_STATUS)
    (row,) = table(server.admin.kubectl("get", "hac", "-n", examples))
    assert {column: value for column, value in row.items() if column != "AGE"} == {
        "NAME": "dc1",
        "MODE": "Enforce",
        "READY": "True",
        "ACTING": "Paused",
        "DEGRADED": "True",
        "NODES": "3",
        "ONLINE": "2",
        "GUESTS": "5",
        "FAILOVER-READY": "4",
        "CAPACITY": "InsufficientCapacity",
    }
    rows = table(server.admin.kubectl("get", "fop", "-n", examples))
    assert [(row["NAME"], row["ACTION"], row["FAILBACK"]) for row in rows] == [
        ("gold", "Restart", "Never"),
        ("native", "Native", "Automatic"),
    ]


def test_fields_say_what_they_are_for(server: Target) -> None:
    text = server.admin.kubectl("explain", "pvm.spec.runStrategy")
    assert "ENUM" in text
    assert "what people set in Proxmox holds" in " ".join(text.split())


@pytest.fixture(scope="module")
def policy(server: Target) -> Iterator[None]:
    """The optional policy; without it the operator says DuplicateClaim."""
    file = str(POLICIES / "one-guest-one-protectedvm.yaml")
    server.admin.kubectl("apply", "-f", file)
    yield
    server.admin.kubectl("delete", "-f", file)


def test_one_guest_one_protectedvm(server: Target, namespace: str, policy: None) -> None:
    create = ("create", "-n", namespace, "-f", "-")
    server.admin.kubectl(*create, stdin=guest("first", 101))
    refusal = refused_in_time(server, namespace)
    assert "guest 101 of dc1 already has the ProtectedVM first" in refusal
    assert "change that one, or delete it first" in refusal
    server.admin.kubectl(*create, stdin=guest("second", 102))
    server.admin.kubectl(*create, stdin=guest("elsewhere", 101, cluster="dc2"))
    server.admin.kubectl("annotate", "pvm", "first", "-n", namespace, "note=changing-is-allowed")
    server.admin.kubectl("delete", "pvm", "first", "-n", namespace)
    deadline = time.monotonic() + POLICY_SECONDS
    while refusal and time.monotonic() < deadline:
        refusal = attempt(server, namespace)
    assert not refusal, "free again after the deletion"


@pytest.mark.parametrize(
    ("there", "new", "admitted"),
    [
        ("owned", "hand-written", True),
        ("owned", "owned", False),
        ("hand-written", "owned", False),
        ("adopted", "hand-written", False),
        ("labelled", "hand-written", False),
        ("of another cluster", "hand-written", False),
    ],
)
def test_a_hand_written_one_wins_over_one_that_pveha_made(
    server: Target, namespace: str, policy: None, there: str, new: str, admitted: bool
) -> None:
    """One whose label somebody took off, or that has the label alone, is a hand-written one."""
    create = ("create", "-n", namespace, "-f", "-")
    owners = {}
    for name in ("dc1", "dc2"):
        server.admin.kubectl(*create, stdin=hacluster(name))
        uid = server.admin.kubectl("get", "hac", name, "-n", namespace, "-o", "jsonpath={.metadata.uid}")
        owners[name] = {"apiVersion": api.API_VERSION, "kind": "HACluster", "name": name, "uid": uid}
    server.admin.kubectl(*create, stdin=made(guest("there", 101), there, owners))
    server.admin.kubectl(*create, stdin=guest("hers", 102))
    wait_for_policy(server, namespace)
    refusal = attempt(server, namespace, made(guest("new", 101), new, owners))
    assert refusal == "" if admitted else "already has the ProtectedVM there" in refusal


def hacluster(name: str) -> str:
    spec = {
        "endpoints": [{"host": "pve1"}],
        "credentialsSecretRef": {"name": "token"},
        "tls": {"caSecretRef": {"name": "ca"}},
    }
    about = {"apiVersion": api.API_VERSION, "kind": "HACluster", "metadata": {"name": name}, "spec": spec}
    return json.dumps(about)


def made(manifest: str, how: str, owners: Mapping[str, Any]) -> str:
    """The manifest with what tells that pveha made it, or a part of that."""
    owner = owners["dc2" if how == "of another cluster" else "dc1"]
    obj = json.loads(manifest)
    if how not in ("adopted", "hand-written"):
        obj["metadata"]["labels"] = {"pveha.dev/auto-protect": "gold"}
    if how not in ("labelled", "hand-written"):
        obj["metadata"]["ownerReferences"] = [owner]
    return json.dumps(obj)


def wait_for_policy(server: Target, namespace: str) -> None:
    """Until a second one for guest 102 is refused."""
    deadline = time.monotonic() + POLICY_SECONDS
    while not attempt(server, namespace, guest("his", 102)):
        assert time.monotonic() < deadline, f"the policy did not take effect within {POLICY_SECONDS:.0f} s"


def attempt(server: Target, namespace: str, manifest: str = "") -> str:
    """Why it (a duplicate of vmid 101) is refused; empty if it would be accepted."""
    manifest = manifest or guest("again", 101)
    try:
        server.admin.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", stdin=manifest)
    except KubectlError as error:
        return str(error)
    return ""


def refused_in_time(server: Target, namespace: str) -> str:
    deadline = time.monotonic() + POLICY_SECONDS
    while time.monotonic() < deadline:
        if refusal := attempt(server, namespace):
            return refusal
    pytest.fail(f"the policy did not take effect within {POLICY_SECONDS:.0f} s")
