"""Talking to an API server as somebody: kubeconfigs, kubectl, accounts with the rights given."""

import base64
import dataclasses
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from pveha.devkube import errors

KUBECTL_SECONDS = 60.0
TOKEN_HOURS = 24
Rule = Mapping[str, Sequence[str]]
"""One rule of a ClusterRole: apiGroups, resources, verbs, perhaps resourceNames."""


class KubectlError(errors.DevkubeError):
    """kubectl failed; the text ends with what it printed on stderr."""


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """A kubeconfig and the kubectl to use it with."""

    program: Path
    kubeconfig: Path

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints, as this kubeconfig's user; raises KubectlError."""
        try:
            answer = subprocess.run(
                [self.program, f"--kubeconfig={self.kubeconfig}", *arguments],
                input=stdin or "",
                capture_output=True,
                text=True,
                timeout=KUBECTL_SECONDS,
            )
        except subprocess.TimeoutExpired as problem:
            text = f"kubectl {' '.join(arguments)}: no end after {KUBECTL_SECONDS:.0f} s"
            raise KubectlError(text) from problem
        if answer.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {answer.stderr.strip()}")
        return answer.stdout

    def apply(self, *objects: Mapping[str, object]) -> None:
        """Server-side apply of objects given as dictionaries."""
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(items))

    def service_account(self, namespace: str, name: str, rules: Sequence[Rule], file: Path) -> "Access":
        """A ServiceAccount that may do, cluster-wide, what the rules say; its kubeconfig becomes `file`.

        The namespace must exist. The ClusterRole and its binding are called `namespace`-`name`.
        """
        role = f"{namespace}-{name}"
        rbac = "rbac.authorization.k8s.io"
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": name, "namespace": namespace},
            },
            {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": role}, "rules": rules},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": role},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
            },
        )
        return self.as_service_account(namespace, name, file)

    def as_service_account(self, namespace: str, name: str, file: Path) -> "Access":
        """The access of an existing ServiceAccount; its kubeconfig, good for TOKEN_HOURS, is `file`."""
        token = self.kubectl("create", "token", name, "-n", namespace, f"--duration={TOKEN_HOURS}h").strip()
        view = json.loads(self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        cluster = view["clusters"][0]["cluster"]
        ca = base64.b64decode(cluster["certificate-authority-data"])
        return Access(self.program, write_kubeconfig(file, cluster["server"], ca, token))


def write_kubeconfig(file: Path, server: str, ca: bytes, token: str) -> Path:
    """A kubeconfig, readable by its owner only, of one cluster (`ca` in PEM) and one user by token."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "devkube",
                "cluster": {"server": server, "certificate-authority-data": base64.b64encode(ca).decode()},
            }
        ],
        "users": [{"name": "devkube", "user": {"token": token}}],
        "contexts": [{"name": "devkube", "context": {"cluster": "devkube", "user": "devkube"}}],
        "current-context": "devkube",
    }
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(content))
    return file
