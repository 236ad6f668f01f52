"""The API server that the other cluster tests stand on."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pveha.devkube import access, binaries, controlplane, errors, target

HOLD = """
import sys, time
from pathlib import Path
from pveha.devkube import binaries, controlplane
plane = controlplane.ControlPlane(binaries.Binaries(Path(sys.argv[1])))
plane.__enter__()
print(plane.api_server_pid, plane.folder, flush=True)
time.sleep(600)
"""


@pytest.fixture
def toys(kube: target.Target) -> Iterator[str]:
    """The plural of a definition with one bounded field."""
    group = f"toys-{secrets.token_hex(3)}.example.com"
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "maximum": 9}}}},
    }
    name = f"toys.{group}"
    kube.admin.apply(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": name},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"plural": "toys", "singular": "toy", "kind": "Toy"},
                "versions": [
                    {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
                ],
            },
        }
    )
    kube.admin.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
    yield name
    kube.admin.kubectl("delete", "crd", name)


def toy(kind: str, size: int) -> dict[str, object]:
    group = kind.partition(".")[2]
    return {"apiVersion": f"{group}/v1", "kind": "Toy", "metadata": {"name": "ball"}, "spec": {"size": size}}


def put(kube: target.Target, namespace: str, thing: dict[str, object]) -> None:
    kube.admin.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", stdin=json.dumps(thing))


def test_server_tells_its_version(kube: target.Target) -> None:
    version = json.loads(kube.admin.kubectl("version", "-o", "json"))
    assert int(version["serverVersion"]["minor"].rstrip("+")) >= 30


def test_custom_resource_is_stored_and_a_bad_one_refused(
    kube: target.Target, namespace: str, toys: str
) -> None:
    put(kube, namespace, toy(toys, 3))
    assert (
        json.loads(kube.admin.kubectl("get", toys, "ball", "-n", namespace, "-o", "json"))["spec"]["size"]
        == 3
    )
    with pytest.raises(access.KubectlError, match="less than or equal to 9"):
        put(kube, namespace, toy(toys, 10))


def test_account_may_do_what_its_rules_say_and_no_more(
    kube: target.Target, namespace: str, tmp_path: Path
) -> None:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]
    account = kube.admin.service_account(namespace, "reader", rules, tmp_path / "reader.kubeconfig")
    try:
        account.kubectl("get", "configmaps", "-n", namespace)
        with pytest.raises(access.KubectlError, match="Forbidden"):
            account.kubectl("get", "secrets", "-n", namespace)
    finally:
        kube.admin.kubectl("delete", "clusterrole,clusterrolebinding", f"{namespace}-reader")


def test_namespace_is_deleted_after_its_test(kube: target.Target) -> None:
    with kube.namespace() as name:
        assert name in kube.admin.kubectl("get", "namespaces", "-o", "name")
    active = kube.admin.kubectl("get", "namespaces", "--field-selector=status.phase=Active", "-o", "name")
    assert name not in active
    if kube.control_plane is not None:
        assert name not in kube.admin.kubectl("get", "namespaces", "-o", "name")


def test_data_and_accounts_survive_a_killed_api_server(
    kube: target.Target, control_plane: controlplane.ControlPlane, namespace: str, toys: str
) -> None:
    put(kube, namespace, toy(toys, 5))
    before = control_plane.api_server_pid
    control_plane.kill_api_server()
    with pytest.raises(access.KubectlError, match="refused"):
        kube.admin.kubectl("get", "namespaces")
    control_plane.start_api_server()
    assert control_plane.api_server_pid != before
    assert (
        json.loads(kube.admin.kubectl("get", toys, "ball", "-n", namespace, "-o", "json"))["spec"]["size"]
        == 5
    )


def test_nothing_outlives_a_killed_owner(kube_binaries: binaries.Binaries) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(kube_binaries.folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        os.kill(int(pid), 0)
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    deadline = time.monotonic() + 10
    while is_alive(int(pid)) or Path(folder).exists():
        assert time.monotonic() < deadline, "the API server or its data outlived the process that started it"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_control_planes_live_side_by_side(kube_binaries: binaries.Binaries, kube: target.Target) -> None:
    with controlplane.ControlPlane(kube_binaries) as other:
        other.admin.kubectl("create", "namespace", "only-there")
        assert "only-there" not in kube.admin.kubectl("get", "namespaces", "-o", "name")
    assert not other.folder.exists()


def test_kind_cluster_is_made_and_deleted_even_if_its_tests_fail(
    kube: target.Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    kind = tmp_path / "kind"
    kind.write_text(f"""#!/bin/sh
echo "$@" >> {calls}
[ "$1" = delete ] || cp {kube.admin.kubeconfig} "$6"
""")
    kind.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def test_that_fails() -> None:
        with target.open_target("kind") as opened:
            assert "kube-system" in opened.admin.kubectl("get", "namespaces")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        test_that_fails()
    created, deleted = calls.read_text().splitlines()
    name = created.split()[3]
    assert created.startswith(f"create cluster --name {name} --kubeconfig ")
    assert deleted.startswith(f"delete cluster --name {name} --kubeconfig ")


def test_context_is_copied_not_switched(
    kube: target.Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads(kube.admin.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
    config["contexts"][0]["name"] = "mine"
    config["current-context"] = "another"
    file = tmp_path / "config"
    file.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    with target.open_target("context:mine") as opened:
        assert "kube-system" in opened.admin.kubectl("get", "namespaces")
    assert json.loads(file.read_text())["current-context"] == "another"
    with pytest.raises(errors.DevkubeError, match="nobody"), target.open_target("context:nobody"):
        pass
