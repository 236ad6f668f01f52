"""helm install, upgrade and uninstall on an API server that never saw pveha, and has no node to run pods.

What a pod would do, the operator does as a process, with the token of the chart's ServiceAccount alone.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from install import openapi, render
from pveha import api
from pveha.devkube import access, controlplane, process, target, tools

NAMESPACE = "pveha-system"
CRDS = [f"{resource.plural}.{api.GROUP}" for resource in api.RESOURCES]
OLD_VERSION = "0.0.9"

Json = Any


@pytest.fixture(scope="module")
def plane(kube: target.Target) -> Iterator[controlplane.ControlPlane]:
    """An API server of its own: definitions that other tests applied are not Helm's to take over."""
    if kube.control_plane is None:
        pytest.skip(f"--kube {kube.name} may have definitions that are not Helm's: only --kube local is ours")
    with controlplane.ControlPlane(kube.control_plane.programs) as started:
        yield started


class Helm:
    """helm with the administrator's access."""

    def __init__(self, program: Path, plane: controlplane.ControlPlane, folder: Path) -> None:
        self._program = program
        self._environ = {
            **os.environ,
            "KUBECONFIG": str(plane.admin.kubeconfig),
            "HELM_CACHE_HOME": str(folder / "cache"),
            "HELM_CONFIG_HOME": str(folder / "config"),
            "HELM_DATA_HOME": str(folder / "data"),
        }

    def __call__(self, *arguments: str, values: render.Values | None = None) -> str:
        command = [str(self._program), *arguments, "--namespace", NAMESPACE]
        if values is not None:
            command += ["--values", "-"]
        text = json.dumps(values or {})
        answer = subprocess.run(
            command, input=text, capture_output=True, text=True, env=self._environ, timeout=120
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout


@pytest.fixture(scope="module")
def helm(
    plane: controlplane.ControlPlane, tools_here: tools.Tools, tmp_path_factory: pytest.TempPathFactory
) -> Helm:
    return Helm(tools_here.helm, plane, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def earlier_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chart as of an earlier version, which did not know failback yet."""
    chart = tmp_path_factory.mktemp("earlier") / "pveha"
    shutil.copytree(render.CHART, chart)
    head = chart / "Chart.yaml"
    head.write_text(re.sub(r"(?m)^version: .*", f"version: {OLD_VERSION}", head.read_text()))
    file = chart / "files" / "crds" / "failoverpolicies.yaml"
    definition = yaml.safe_load(file.read_text())
    del spec_of(definition)["failback"]
    file.write_text(yaml.safe_dump(definition, sort_keys=False))
    return chart


def spec_of(definition: Json) -> Json:
    """The fields of the spec in a CustomResourceDefinition."""
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]


def get(admin: access.Access, *what: str) -> Json:
    return json.loads(admin.kubectl("get", *what, "-o", "json"))


def wait_for_definitions(admin: access.Access) -> None:
    names = [f"crd/{name}" for name in CRDS]
    admin.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)


@pytest.fixture(scope="module")
def installed(plane: controlplane.ControlPlane, helm: Helm, earlier_chart: Path) -> access.Access:
    """The earlier version, in a namespace that admits only restricted pods."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": NAMESPACE, "labels": labels}
    plane.admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    notes = helm("install", "pveha", str(earlier_chart), values=render.IMAGE)
    assert "serves all namespaces" in notes
    wait_for_definitions(plane.admin)
    return plane.admin


@pytest.fixture(scope="module")
def upgraded(installed: access.Access, helm: Helm) -> access.Access:
    """This version."""
    helm("upgrade", "pveha", str(render.CHART), values=render.IMAGE)
    wait_for_definitions(installed)
    return installed


def test_install_makes_two_replicas_that_a_restricted_namespace_admits(installed: access.Access) -> None:
    deployment = get(installed, "deployment", "pveha", "-n", NAMESPACE)
    assert deployment["spec"]["replicas"] == 2
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "trial", "namespace": NAMESPACE},
        "spec": deployment["spec"]["template"]["spec"],
    }
    admitted = installed.kubectl("create", "--dry-run=server", "-o", "name", "-f", "-", stdin=json.dumps(pod))
    assert admitted == "pod/trial\n"
    pod["spec"]["securityContext"]["runAsNonRoot"] = False
    with pytest.raises(access.KubectlError, match="violates PodSecurity"):
        installed.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def test_an_upgrade_brings_new_fields(installed: access.Access, helm: Helm) -> None:
    assert "failback" not in spec_of(get(installed, "crd", "failoverpolicies.pveha.dev"))
    helm("upgrade", "pveha", str(render.CHART), values=render.IMAGE)
    assert "failback" in spec_of(get(installed, "crd", "failoverpolicies.pveha.dev"))


GITOPS = ("--server-side", "--field-manager=argocd-controller")


def test_the_charts_account_is_all_that_the_operator_needs_and_nothing_drifts(
    upgraded: access.Access, tools_here: tools.Tools, tmp_path: Path
) -> None:
    admin = upgraded
    admin.kubectl("create", "namespace", "dc1")
    examples = ("-n", "dc1", "-k", str(render.ROOT / "manifests" / "examples"))
    admin.kubectl("apply", *GITOPS, *examples)
    before = get(admin, "haclusters,failoverpolicies,protectedvms", "-n", "dc1")["items"]

    with operator(tmp_path, admin) as (running, ready):
        until(running, ready)
        until(running, lambda: all_tell_something(admin))
        until(running, lambda: bool(get(admin, "lease", "-n", "dc1")["items"][0]["spec"]["holderIdentity"]))
    assert "cannot" not in running.log.read_text()

    after = get(admin, "haclusters,failoverpolicies,protectedvms", "-n", "dc1")["items"]
    assert [by_hand(each) for each in after] == [by_hand(each) for each in before]
    fields = ("haclusters,protectedvms", "-n", "dc1", "--show-managed-fields")
    for each in get(admin, *fields)["items"]:
        parts = {entry["manager"]: entry.get("subresource") for entry in each["metadata"]["managedFields"]}
        assert parts == {"argocd-controller": None, "pveha": "status"}
    admin.kubectl("diff", *GITOPS, *examples)  # a difference is exit code 1
    for each in render.template(tools_here.helm, namespace=NAMESPACE):
        admin.kubectl("diff", *GITOPS, "--force-conflicts", "-f", "-", stdin=json.dumps(each))


def by_hand(obj: Json) -> Json:
    """What others than pveha wrote of an object."""
    metadata = {
        key: value
        for key, value in obj["metadata"].items()
        if key not in ("resourceVersion", "managedFields")
    }
    return {**obj, "metadata": metadata, "status": None}


def all_tell_something(admin: access.Access) -> bool:
    items = get(admin, "haclusters,protectedvms", "-n", "dc1")["items"]
    return len(items) > 1 and all(item.get("status", {}).get("conditions") for item in items)


@contextlib.contextmanager
def operator(folder: Path, admin: access.Access) -> Iterator[tuple[process.Process, Callable[[], bool]]]:
    """`pveha run` with account and arguments of the installed pod, but for the addresses; and whether the
    kubelet would call it alive and ready."""
    account = admin.as_service_account(NAMESPACE, "pveha", folder / "operator.kubeconfig")
    pod = get(admin, "deployment", "pveha", "-n", NAMESPACE)["spec"]["template"]["spec"]
    arguments = pod["containers"][0]["args"]
    (port,) = controlplane.free_ports(1)
    local = ["--kubeconfig", str(account.kubeconfig), "--health-host=127.0.0.1", f"--health-port={port}"]
    command = [sys.executable, "-m", "pveha.cli", *arguments, *local]
    running = process.Process(command, folder / "operator.log")

    def ready() -> bool:
        try:
            for path in ("healthz", "readyz"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5).close()
        except OSError:
            return False
        return True

    try:
        yield running, ready
    finally:
        running.stop()


def until(running: process.Process, condition: Callable[[], bool], within: float = 40.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:.0f} s:\n{running.tail()}")
        time.sleep(0.2)


def test_rights_in_one_namespace_are_enough_for_one_namespace(
    upgraded: access.Access, helm: Helm, tmp_path: Path
) -> None:
    """Comes after the test before: its HACluster is there."""
    wanted = {**render.IMAGE, "watchNamespaces": ["dc1"]}
    helm("upgrade", "pveha", str(render.CHART), values=wanted)
    role = get(upgraded, "clusterrole", "pveha")
    assert [rule["resources"] for rule in role["rules"]] == [["namespaces"]]
    spec = {"clusterRef": {"name": "dc1"}, "vmid": 999}
    metadata = {"name": "late", "namespace": "dc1"}
    late = {"apiVersion": api.API_VERSION, "kind": "ProtectedVM", "metadata": metadata, "spec": spec}
    upgraded.apply(late)
    with operator(tmp_path, upgraded) as (running, ready):
        until(running, ready)
        until(running, lambda: "leading dc1/pveha-dc1" in running.log.read_text())
        until(running, lambda: "status" in get(upgraded, "protectedvm", "late", "-n", "dc1"))
    assert "cannot" not in running.log.read_text()


def test_all_that_is_shipped_conforms_to_the_servers_own_schemas(
    upgraded: access.Access, tools_here: tools.Tools, tmp_path: Path
) -> None:
    """kubeconform -strict: an unknown field is an error, which the API server would only warn of."""
    openapi.write(json.loads(upgraded.kubectl("get", "--raw", "/openapi/v2")), tmp_path)
    shipped = render.template(tools_here.helm, {"admissionPolicy": {"oneGuestOneProtectedVM": True}})
    shipped += render.template(tools_here.helm, openapi.EVERYTHING)
    for folder in ("base", "examples", "policies"):
        for file in sorted((render.ROOT / "manifests" / folder).glob("*.yaml")):
            shipped += [each for each in yaml.safe_load_all(file.read_text()) if each]
    shipped = [each for each in shipped if each["kind"] not in ("Kustomization", "ServiceMonitor")]
    result = openapi.conform(tools_here.kubeconform, tmp_path, shipped)
    assert [each["msg"] for each in result["resources"] if each["status"] != "statusValid"] == []
    assert result["summary"] == {"valid": len(shipped), "invalid": 0, "errors": 0, "skipped": 0}

    wrong = render.one(shipped, "HACluster")
    wrong["spec"]["mdoe"] = "Enforce"
    result = openapi.conform(tools_here.kubeconform, tmp_path, [wrong])
    assert result["summary"]["invalid"] == 1
    assert "mdoe" in result["resources"][0]["msg"]


def test_uninstall_leaves_definitions_and_resources_and_installs_again(
    upgraded: access.Access, helm: Helm
) -> None:
    admin = upgraded
    metadata = {"name": "kept", "namespace": "default"}
    admin.apply({"apiVersion": api.API_VERSION, "kind": "FailoverPolicy", "metadata": metadata, "spec": {}})
    helm("uninstall", "pveha", "--wait=false")
    kinds = "deployments,services,serviceaccounts,poddisruptionbudgets,roles,rolebindings"
    assert owned(admin, kinds, "-n", NAMESPACE) == []
    assert owned(admin, "clusterroles,clusterrolebindings") == []
    assert owned(admin, "crds") == sorted(CRDS)
    assert get(admin, "failoverpolicy", "kept", "-n", "default")["spec"] is not None

    helm("install", "pveha", str(render.CHART), values=render.IMAGE)
    assert get(admin, "failoverpolicy", "kept", "-n", "default")["metadata"]["name"] == "kept"
    assert owned(admin, "clusterroles,clusterrolebindings") == ["pveha", "pveha"]


def owned(admin: access.Access, kinds: str, *arguments: str) -> list[str]:
    items = get(admin, kinds, "-l", "app.kubernetes.io/managed-by=Helm", *arguments)["items"]
    return sorted(item["metadata"]["name"] for item in items)
