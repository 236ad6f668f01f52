"""The API server that cluster tests run against, by the words of `--kube`.

`local` (a control plane of ours), `kind` (the user's own kind; a cluster of our name, made and deleted),
`context:NAME` (a context of the user's kubeconfig; only namespaces and definitions of ours are touched).
"""

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pveha.devkube import access, binaries, cache, controlplane, errors

KIND_SECONDS = 600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """An API server with its administrator's access; `control_plane` only if it is ours and may be cut."""

    name: str
    admin: access.Access
    folder: Path
    control_plane: controlplane.ControlPlane | None = None

    @contextlib.contextmanager
    def namespace(self, prefix: str = "pveha-test") -> Iterator[str]:
        """A namespace of an unused name, deleted afterwards."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.admin.kubectl("create", "namespace", name)
        try:
            yield name
        finally:
            self.delete_namespace(name)

    def delete_namespace(self, name: str) -> None:
        """Deletes a namespace; on our own control plane in the place of the controller that would finish it.

        Without that controller the namespace's contents stay in etcd: delete custom resources first.
        """
        self.admin.kubectl("delete", "namespace", name, "--wait=false")
        if self.control_plane is None:
            return
        namespace = json.loads(self.admin.kubectl("get", "namespace", name, "-o", "json"))
        namespace["spec"]["finalizers"] = []
        path = f"/api/v1/namespaces/{name}/finalize"
        self.admin.kubectl("replace", "--raw", path, "-f", "-", stdin=json.dumps(namespace))


@contextlib.contextmanager
def open_target(kube: str, say: cache.Say = cache.say_on_stderr) -> Iterator[Target]:
    """The target that `kube` names: local, kind or context:NAME."""
    with tempfile.TemporaryDirectory(prefix="pveha-target-") as name:
        folder = Path(name)
        if kube == "local":
            with controlplane.ControlPlane(binaries.ensure(say)) as plane:
                yield Target("local", plane.admin, folder, plane)
        elif kube == "kind":
            with _kind(folder, say) as target:
                yield target
        elif kube.startswith("context:"):
            yield _context(kube.removeprefix("context:"), folder)
        else:
            raise errors.DevkubeError(f"--kube {kube} is none of local, kind, context:NAME")


@contextlib.contextmanager
def _kind(folder: Path, say: cache.Say) -> Iterator[Target]:
    kind = shutil.which("kind")
    if kind is None:
        raise errors.DevkubeError("--kube kind needs kind on the PATH: install it, or use --kube local.")
    name = f"pveha-{secrets.token_hex(4)}"
    kubeconfig = folder / "kind.kubeconfig"
    say(f"kind creates the cluster {name}")
    try:
        _run([kind, "create", "cluster", "--name", name, "--kubeconfig", str(kubeconfig), "--wait", "120s"])
        yield Target("kind", access.Access(_kubectl(), kubeconfig), folder)
    finally:
        _run([kind, "delete", "cluster", "--name", name, "--kubeconfig", str(kubeconfig)])


def _context(name: str, folder: Path) -> Target:
    """A private copy of one context, so that nothing depends on, or changes, the user's current context."""
    program = _kubectl()
    command = [str(program), "config", "view", "--raw", "--flatten", "--minify", "--context", name]
    file = folder / "context.kubeconfig"
    file.touch(mode=0o600)
    file.write_text(_run(command))
    target = access.Access(program, file)
    target.kubectl("config", "use-context", name)
    return Target(f"context:{name}", target, folder)


def _kubectl() -> Path:
    """The user's kubectl, which fits the user's cluster; ours if there is none."""
    own = shutil.which("kubectl")
    return Path(own) if own else binaries.ensure().kubectl


def _run(command: list[str]) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, timeout=KIND_SECONDS, env=os.environ)
    if answer.returncode:
        raise errors.DevkubeError(f"{' '.join(command)} failed:\n{answer.stderr.strip()}")
    return answer.stdout
