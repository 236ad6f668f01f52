"""The operator as a process on a real API server: what it says, how quiet it is, how it ends."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import rights
from pveha import api
from pveha.devkube.target import Target

ROOT = Path(__file__).parents[2]
ACCOUNTS = ("operator", "poor")
KINDS = "haclusters,failoverpolicies,protectedvms"


def manifest(kind: str, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": api.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def cluster(namespace: str) -> dict[str, Any]:
    """A cluster whose Secrets do not exist."""
    return manifest(
        "HACluster",
        namespace,
        "dc1",
        endpoints=[{"host": "127.0.0.1", "port": 1}],
        credentialsSecretRef={"name": "token"},
        tls={"caSecretRef": {"name": "ca"}},
    )


def guest(namespace: str, index: int, cluster: str = "dc1") -> dict[str, Any]:
    return manifest("ProtectedVM", namespace, f"vm{index}", clusterRef={"name": cluster}, vmid=100 + index)


@dataclasses.dataclass
class Operator:
    process: subprocess.Popen[str]
    log: Path

    @property
    def port(self) -> int | None:
        found = re.search(r"http://127\.0\.0\.1:(\d+)/healthz", self.log.read_text())
        return int(found[1]) if found else None

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the health server; 0 before it is up."""
        if self.port is None:
            return 0, ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def leads(self) -> bool:
        return bool(re.search(r"^pveha_leader\{[^}]*\} 1\.0$", self.get("/metrics")[1], re.MULTILINE))

    def stop(self) -> float:
        """SIGTERM; seconds until it has ended."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)
        return time.monotonic() - begin


Start = Callable[..., Operator]


@pytest.fixture(scope="module")
def server(kube: Target) -> Target:
    kube.admin.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    names = [f"crd/{resource.plural}.{api.GROUP}" for resource in api.RESOURCES]
    kube.admin.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return kube


@pytest.fixture
def place(server: Target) -> Iterator[str]:
    """A namespace whose objects are deleted afterwards."""
    with server.namespace() as name:
        yield name
        server.admin.kubectl("delete", "--raw", f"/apis/{api.API_VERSION}/namespaces/{name}/protectedvms")
        server.admin.kubectl("delete", KINDS, "--all", "-n", name)
        roles = [f"{kind}/{name}-{who}" for kind in ("clusterrole", "clusterrolebinding") for who in ACCOUNTS]
        server.admin.kubectl("delete", "--ignore-not-found", *roles)


@pytest.fixture
def start(server: Target, place: str, tmp_path: Path) -> Iterator[Start]:
    started: list[Operator] = []

    def start_one(identity: str = "one", *arguments: str) -> Operator:
        log = tmp_path / f"{identity}.log"
        command = [sys.executable, "-m", "pveha.cli", "run", "--kubeconfig", str(server.admin.kubeconfig)]
        command += ["--namespace", place, "--health-host", "127.0.0.1", "--health-port", "0"]
        command += ["--identity", identity, *arguments]
        with log.open("w") as file:
            process = subprocess.Popen(command, stderr=file, text=True, env=os.environ)
        started.append(Operator(process, log))
        return started[-1]

    yield start_one
    for operator in started:
        operator.process.kill()
        operator.process.wait()


def until(condition: Callable[[], bool], within: float) -> float:
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > within:
            pytest.fail(f"not within {within} s")
        time.sleep(0.1)
    return time.monotonic() - begin


def objects(server: Target, place: str) -> dict[str, Any]:
    """All objects of ours in the namespace, by kind and name."""
    items = json.loads(server.admin.kubectl("get", KINDS, "-n", place, "-o", "json"))["items"]
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in items}


def reason(obj: dict[str, Any], kind: str) -> str:
    conditions = obj.get("status", {}).get("conditions", [])
    return next((str(each["reason"]) for each in conditions if each["type"] == kind), "")


def holder(server: Target, place: str) -> str:
    lease = json.loads(server.admin.kubectl("get", "lease", "pveha-dc1", "-n", place, "-o", "json"))
    return str(lease["spec"].get("holderIdentity") or "")


def test_an_orphan_is_told_and_then_its_cluster_speaks_for_it(
    server: Target, place: str, start: Start
) -> None:
    server.admin.apply(guest(place, 0))
    start()

    def said(name: str, kind: str) -> str:
        return reason(objects(server, place).get(name, {}), kind)

    until(lambda: said("ProtectedVM/vm0", "Ready") == "ClusterNotFound", 30)
    server.admin.apply(cluster(place))
    until(lambda: said("HACluster/dc1", "Connected") == "SecretMissing", 30)
    until(lambda: said("ProtectedVM/vm0", "Ready") == "ClusterNotReady", 30)
    shown = objects(server, place)
    for obj in shown.values():
        assert "finalizers" not in obj["metadata"]
        assert "annotations" not in obj["metadata"]
        for condition in obj["status"]["conditions"]:
            assert condition["observedGeneration"] == obj["metadata"]["generation"]


def test_it_ends_in_order_and_gives_the_lease_back(server: Target, place: str, start: Start) -> None:
    server.admin.apply(cluster(place))
    operator = start()
    until(operator.leads, 30)
    assert holder(server, place).startswith("one_")
    assert operator.stop() < 10
    assert operator.process.returncode == 0
    assert holder(server, place) == ""


def test_another_replica_takes_over_at_once_after_a_stop(server: Target, place: str, start: Start) -> None:
    server.admin.apply(cluster(place))
    one = start("one")
    until(one.leads, 30)
    two = start("two")
    until(lambda: two.get("/readyz")[0] == 200, 30)
    assert not two.leads()
    one.stop()
    until(two.leads, 3)


def test_health_is_served_and_a_deleted_cluster_is_let_go(server: Target, place: str, start: Start) -> None:
    server.admin.apply(cluster(place))
    operator = start("one", "--log-format", "json")
    until(operator.leads, 30)
    assert operator.get("/readyz") == (200, "ok\n")
    assert operator.get("/healthz") == (200, "ok\n")
    assert "pveha_rounds_total" in operator.get("/metrics")[1]
    server.admin.kubectl("delete", "hacluster", "dc1", "-n", place)
    until(lambda: not operator.leads(), 10)
    assert holder(server, place) == ""
    for line in operator.log.read_text().splitlines():
        assert json.loads(line)["level"] in {"info", "warning"}


def test_these_rights_are_enough(server: Target, place: str, start: Start, tmp_path: Path) -> None:
    account = server.admin.service_account(place, "operator", rights.RULES, tmp_path / "operator")
    server.admin.apply(cluster(place), guest(place, 0), guest(place, 1, "elsewhere"))
    operator = start("one", "--kubeconfig", str(account.kubeconfig))
    until(lambda: reason(objects(server, place)["HACluster/dc1"], "Connected") == "SecretMissing", 30)
    until(lambda: reason(objects(server, place)["ProtectedVM/vm1"], "Ready") == "ClusterNotFound", 30)
    server.admin.apply(guest(place, 2, "elsewhere"))
    until(lambda: reason(objects(server, place)["ProtectedVM/vm2"], "Ready") == "ClusterNotFound", 30)
    assert operator.get("/healthz") == (200, "ok\n")
    assert "cannot" not in operator.log.read_text()
    assert operator.stop() < 10


def test_missing_rights_and_definitions_are_told_in_a_sentence(
    server: Target, place: str, start: Start, tmp_path: Path
) -> None:
    poor = server.admin.service_account(place, "poor", [], tmp_path / "poor")
    operator = start("one", "--kubeconfig", str(poor.kubeconfig))
    until(lambda: "cannot list resource" in operator.log.read_text(), 30)
    status, text = operator.get("/readyz")
    assert status == 503
    assert "cannot list resource" in text
    assert operator.stop() < 10


def test_a_kubeconfig_that_is_not_there_ends_it_with_a_sentence(start: Start, tmp_path: Path) -> None:
    operator = start("one", "--kubeconfig", str(tmp_path / "none"))
    assert operator.process.wait(timeout=20) == 1
    assert "name a file with --kubeconfig" in operator.log.read_text()
    assert "Traceback" not in operator.log.read_text()
