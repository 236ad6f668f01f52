"""The Dockerfile, carried out on a root of Debian packages: for machines without a container engine.

Needs root, mmdebstrap, and the ways to Debian's mirror and the package index; takes about five minutes.
"""

import base64
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conftest import need
from install import dockerfile, render
from pveha import api
from pveha.devkube import binaries, cache, controlplane, process

SUITE = "trixie"
PACKAGES = "ca-certificates,python3,python3-venv"
"""What the base image has, by Debian's names."""


@pytest.fixture(scope="module")
def stages(
    show_progress: cache.Say, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, dockerfile.Stage]]:
    found = shutil.which("mmdebstrap") if os.geteuid() == 0 else None
    program = need("mmdebstrap", Path(found) if found else None, "install it, and run as root")
    folder = tmp_path_factory.mktemp("image")
    base = folder / "base"
    show_progress(f"making a root of {SUITE}")
    command = [str(program), "--quiet", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(base)]
    try:
        subprocess.run(command, check=True)
        yield dockerfile.build(render.ROOT, base, folder, show_progress)
    finally:
        shutil.rmtree(folder)


def output(stage: dockerfile.Stage, *arguments: str) -> str:
    command = [*dockerfile.chroot(stage), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=stage.environ).stdout


@pytest.mark.long
def test_the_operator_is_all_there_and_nobody_special(stages: dict[str, dockerfile.Stage]) -> None:
    final = stages[""]
    assert final.user == "65532:65532"
    assert output(final, "id", "-un").strip() == "pveha"
    definitions = yaml.safe_load_all(output(final, *final.entrypoint, "crds"))
    assert {each["spec"]["names"]["plural"] for each in definitions} == {
        each.plural for each in api.RESOURCES
    }
    assert not list((final.root / "opt/pveha").glob("lib/*/site-packages/pip"))
    assert not list((final.root / "opt/pveha").rglob("*.pth")), "installed, not linked to the sources"
    assert not (final.root / "src").exists()


@pytest.mark.long
def test_it_runs_as_the_charts_pod_would(
    stages: dict[str, dockerfile.Stage], kube_binaries: binaries.Binaries, tmp_path: Path
) -> None:
    """Read-only root, no capabilities, the token where a pod has it: ready on a real API server."""
    manifests = [each for file in ("rbac", "deployment") for each in _base(file)]
    (pod,) = (each["spec"]["template"]["spec"] for each in manifests if each["kind"] == "Deployment")
    (port,) = controlplane.free_ports(1)
    with controlplane.ControlPlane(kube_binaries) as plane:
        plane.admin.kubectl("apply", "--server-side", "-k", str(render.BASE))
        secrets = tmp_path / "secrets"
        secrets.mkdir()
        token = plane.admin.kubectl("create", "token", pod["serviceAccountName"], "-n", "pveha")
        (secrets / "token").write_text(token.strip())
        cluster = yaml.safe_load(plane.admin.kubeconfig.read_text())["clusters"][0]["cluster"]
        authority = cluster.get("certificate-authority-data")
        (secrets / "ca.crt").write_bytes(
            base64.b64decode(authority) if authority else Path(cluster["certificate-authority"]).read_bytes()
        )
        host, _, number = plane.url.removeprefix("https://").partition(":")
        final = stages[""]
        command = [
            *dockerfile.enter(dockerfile.SEALED, final.root, secrets),
            *dockerfile.powerless(final),
            *("/usr/bin/env", "-i", *(f"{name}={value}" for name, value in final.environ.items())),
            *(f"KUBERNETES_SERVICE_HOST={host}", f"KUBERNETES_SERVICE_PORT={number}"),
            *(*final.entrypoint, *pod["containers"][0]["args"], f"--health-port={port}"),
        ]
        running = process.Process(command, tmp_path / "operator.log")
        try:
            until_ready(running, port)
        finally:
            running.stop()
    log = running.log.read_text()
    assert f"pveha runs as {socket.gethostname()}" in log
    assert "cannot" not in log


def until_ready(running: process.Process, port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
            return
        except OSError:
            assert running.is_alive, running.tail()
            time.sleep(0.2)
    pytest.fail(f"not ready:\n{running.tail()}")


@pytest.mark.long
def test_the_other_image_has_fence_agents(stages: dict[str, dockerfile.Stage]) -> None:
    stage = stages["with-fence-agents"]
    assert stage.user == "65532:65532"
    agents = {file.name for file in (stage.root / "usr/sbin").glob("fence_*")}
    assert {"fence_apc_snmp", "fence_ipmilan"} <= agents
    assert "fence_apc_snmp" in output(stage, "/usr/sbin/fence_apc_snmp", "--help")
    assert not list((stages[""].root / "usr/sbin").glob("fence_*"))


def _base(name: str) -> list[render.Object]:
    return list(yaml.safe_load_all((render.BASE / f"{name}.yaml").read_text()))
