"""The models as the operator uses them: parsing, defaults, what is refused, what is written."""

import copy
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from pveha import api
from pveha.api import meta, schema

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"

CLUSTER: dict[str, Any] = {
    "apiVersion": "pveha.dev/v1alpha1",
    "kind": "HACluster",
    "metadata": {"name": "dc1", "namespace": "infra", "uid": "u1", "generation": 3},
    "spec": {
        "endpoints": [{"host": "pve1.example.net"}, {"host": "192.0.2.12", "port": 443}],
        "credentialsSecretRef": {"name": "dc1-token"},
        "tls": {"caSecretRef": {"name": "dc1-ca"}},
        "fencing": {"methods": [{"name": "bmc", "redfish": {}}]},
        "nodes": [
            {
                "name": "pve1",
                "fencing": [
                    {
                        "method": "bmc",
                        "address": "https://192.0.2.21",
                        "systemID": "437XR1138R2",
                        "credentialsSecretRef": {"name": "dc1-bmc"},
                        "fingerprint": ":".join(["AB"] * 32),
                    }
                ],
            }
        ],
    },
}
GUEST: dict[str, Any] = {
    "apiVersion": "pveha.dev/v1alpha1",
    "kind": "ProtectedVM",
    "metadata": {"name": "db"},
    "spec": {"clusterRef": {"name": "dc1"}, "vmid": 101},
}


def cluster(**spec: Any) -> dict[str, Any]:
    changed = copy.deepcopy(CLUSTER)
    changed["spec"].update(spec)
    return changed


def parsed_cluster(obj: dict[str, Any]) -> api.HACluster:
    resource = api.parse(obj)
    assert isinstance(resource, api.HACluster)
    return resource


def test_a_cluster_with_its_defaults() -> None:
    resource = parsed_cluster(CLUSTER)
    spec = resource.spec
    assert resource.key == ("infra", "dc1")
    assert spec.mode is api.Mode.OBSERVE
    assert [(endpoint.host, endpoint.effective_port) for endpoint in spec.endpoints] == [
        ("pve1.example.net", 8006),
        ("192.0.2.12", 443),
    ]
    assert (spec.detection.probe_period_seconds, spec.detection.suspect_after_seconds) == (1, 2)
    assert (spec.safety.max_failed_nodes_percent, spec.safety.isolated_grace_seconds) == (34, 30)
    assert spec.recovery.node_shell is None
    method = spec.method("bmc")
    assert method is not None
    assert method.effective_timeout_seconds == 15
    node = spec.node("pve1")
    assert node is not None
    assert node.fencing[0].system_id == "437XR1138R2"
    assert spec.method("pdu") is None
    assert spec.node("pve9") is None


def test_a_guest_with_its_defaults() -> None:
    guest = api.parse(GUEST)
    assert isinstance(guest, api.ProtectedVM)
    assert guest.key == ("default", "db")
    assert guest.spec.policy_ref is None
    assert guest.spec.run_strategy is api.RunStrategy.FOLLOW
    assert guest.spec.priority == 100


@pytest.mark.parametrize("resource", api.RESOURCES)
def test_models_and_crd_have_the_same_defaults(resource: type[meta.Resource]) -> None:
    """Else an object from the API server and the same one from a file would mean different things."""
    spec = schema.crd(resource)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    minimal = {"HACluster": CLUSTER, "ProtectedVM": GUEST}.get(resource.kind_name, {}).get("spec", {})
    defaults = {name: field["default"] for name, field in spec["properties"].items() if "default" in field}
    assert defaults
    obj = {"apiVersion": api.API_VERSION, "kind": resource.kind_name, "metadata": {"name": "x"}}
    assert api.parse({**obj, "spec": minimal}) == api.parse({**obj, "spec": {**defaults, **minimal}})


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_examples_hold_no_unknown_field(file: Path) -> None:
    for document in yaml.safe_load_all(file.read_text()):
        if document["apiVersion"] == api.API_VERSION:
            assert api.parse(document, strict=True).name == document["metadata"]["name"]


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_examples_say_what_they_show(file: Path) -> None:
    assert file.read_text().startswith("# ")


def test_unknown_fields_are_ignored_from_the_server_and_refused_in_files() -> None:
    newer = cluster(balancing={"mode": "Automatic"})
    newer["spec"]["endpoints"][0]["weight"] = 1
    assert parsed_cluster(newer) == parsed_cluster(CLUSTER)
    with pytest.raises(api.ManifestError) as refusal:
        api.parse(newer, strict=True)
    assert "HACluster dc1" in str(refusal.value)
    assert "balancing" in str(refusal.value)
    assert "endpoints[0].weight" in str(refusal.value)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"tls": {}}, "spec.tls: Value error, set exactly one of tls.caSecretRef and tls.fingerprints"),
        ({"tls": {"caSecretRef": {"name": "a"}, "fingerprints": [":".join(["AB"] * 32)]}}, "set exactly one"),
        ({"tls": {"fingerprints": ["AB:CD"]}}, "spec.tls.fingerprints[0]: must be a SHA-256 fingerprint"),
        (
            {"endpoints": [{"host": "https://pve1"}]},
            "spec.endpoints[0].host: must be a DNS name or an IP address only",
        ),
        ({"endpoints": []}, "spec.endpoints: "),
        ({"mode": "Aggressive"}, "spec.mode: "),
        ({"safety": {"isolatedGraceSeconds": 45}}, "spec.safety.isolatedGraceSeconds: "),
    ],
)
def test_what_is_refused_names_object_and_field(spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(api.ManifestError) as refusal:
        api.parse(cluster(**spec))
    assert str(refusal.value).startswith("HACluster dc1: ")
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    "address", ["http://192.0.2.21", "192.0.2.21", "https://user:pw@192.0.2.21", "https://h/x"]
)
def test_a_bmc_is_addressed_by_https_only(address: str) -> None:
    obj = copy.deepcopy(CLUSTER)
    obj["spec"]["nodes"][0]["fencing"][0]["address"] = address
    with pytest.raises(api.ManifestError, match="must be an https:// URL"):
        api.parse(obj)


@pytest.mark.parametrize("host", ["pve1", "pve1.example.net", "192.0.2.1", "2001:db8::1", "::1"])
def test_hosts(host: str) -> None:
    assert parsed_cluster(cluster(endpoints=[{"host": host}])).spec.endpoints[0].host == host


@pytest.mark.parametrize("host", ["pve1:8006", "pve1/", "a b", "-pve1", "[::1]", "ab:8006", "pve1\n"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(api.ManifestError, match="must be a DNS name or an IP address only"):
        api.parse(cluster(endpoints=[{"host": host}]))


def test_a_bmc_without_verification_is_refused() -> None:
    obj = copy.deepcopy(CLUSTER)
    del obj["spec"]["nodes"][0]["fencing"][0]["fingerprint"]
    with pytest.raises(api.ManifestError, match="set exactly one of fingerprint and caSecretRef"):
        api.parse(obj)


@pytest.mark.parametrize(
    "obj",
    [{}, {"kind": "Pod", "apiVersion": "v1"}, {"kind": "HACluster", "apiVersion": "pveha.dev/v2"}],
)
def test_what_is_none_of_ours(obj: dict[str, Any]) -> None:
    with pytest.raises(api.ManifestError, match="pveha knows HACluster, FailoverPolicy, ProtectedVM"):
        api.parse(obj)


@pytest.mark.parametrize("metadata", [None, {}, {"name": None}])
def test_an_object_without_a_name(metadata: Any) -> None:
    with pytest.raises(api.ManifestError, match="metadata"):
        api.parse({**GUEST, "metadata": metadata})


def test_models_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        api.parse(GUEST).metadata.name = "other"  # type: ignore[misc]


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    written = parsed_cluster(CLUSTER).spec.manifest()
    assert written["nodes"][0]["fencing"][0]["systemID"] == "437XR1138R2"
    assert "nodeShell" not in written["recovery"], "absent, not null"
    assert parsed_cluster(cluster(**written)).spec == parsed_cluster(CLUSTER).spec


def test_times_are_written_as_kubernetes_writes_them() -> None:
    start = datetime(2025, 3, 30, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    failover = api.LastFailover(id="1", from_="pve1", to="pve2", cause="power", start_time=start)
    assert failover.manifest() == {
        "id": "1",
        "from": "pve1",
        "to": "pve2",
        "cause": "power",
        "startTime": "2025-03-30T10:00:00Z",
    }
    assert api.LastFailover.model_validate(failover.manifest()).start_time == datetime(
        2025, 3, 30, 10, tzinfo=UTC
    )


def test_a_condition_by_its_type() -> None:
    ready = api.Condition(type="Ready", status="True", reason="OK", message="")
    status = api.ProtectedVMStatus(conditions=(ready,))
    assert status.condition(api.conditions.GuestCondition.READY) == ready
    assert status.condition(api.conditions.GuestCondition.FAILOVER_READY) is None
