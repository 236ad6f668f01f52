"""What the chart renders, and the kustomize base that is made of it."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "pveha"
BASE = ROOT / "manifests" / "base"
HELM_LABELS = ("app.kubernetes.io/managed-by", "helm.sh/chart")
IMAGE = {"image": {"repository": "pveha"}}
"""The only value without which nothing is rendered; as the base has it, for kustomize's `images:`."""
HEAD = "# Made from charts/pveha: pytest tests/install --update-manifests. Do not edit."

Object = dict[str, Any]
Values = Mapping[str, Any]


class RefusedError(Exception):
    """Helm does not render these values; the text is what it says."""


def merged(values: Values, more: Values) -> dict[str, Any]:
    """`values` with `more` put over them, as Helm does it."""
    result = dict(values)
    for key, value in more.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def template(
    helm: Path, values: Values | None = None, *, release: str = "pveha", namespace: str = "pveha"
) -> list[Object]:
    """All objects of the chart for `values` beside IMAGE; raises RefusedError."""
    command = [str(helm), "template", release, str(CHART), "--namespace", namespace, "--values", "-"]
    text = json.dumps(merged(IMAGE, values or {}))
    answer = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    if answer.returncode:
        raise RefusedError(answer.stderr)
    return [each for each in yaml.safe_load_all(answer.stdout) if each]


def one(objects: list[Object], kind: str, name: str = "", namespace: str = "") -> Object:
    """The only object of a kind, by name and namespace if there are several."""
    (found,) = (
        each
        for each in objects
        if each["kind"] == kind
        and name in ("", each["metadata"]["name"])
        and namespace in ("", each["metadata"].get("namespace"))
    )
    return found


def without_helm(obj: Object) -> Object:
    """The object without what only Helm needs."""
    result: Object = json.loads(json.dumps(obj))
    metadata = result["metadata"]
    for label in HELM_LABELS:
        metadata.get("labels", {}).pop(label, None)
    if result["kind"] == "CustomResourceDefinition":
        metadata.pop("labels", None)
        metadata.pop("annotations", None)
    return result


def base(helm: Path) -> dict[str, str]:
    """The generated files of the kustomize base: name → text."""
    files: dict[str, list[Object]] = {}
    for obj in template(helm):
        group = obj["apiVersion"].rpartition("/")[0]
        if obj["kind"] == "CustomResourceDefinition":
            continue
        access = obj["kind"] == "ServiceAccount" or group == "rbac.authorization.k8s.io"
        files.setdefault("rbac" if access else obj["kind"].lower(), []).append(without_helm(obj))
    return {
        f"{name}.yaml": f"{HEAD}\n{yaml.safe_dump_all(objects, sort_keys=False, width=110)}"
        for name, objects in sorted(files.items())
    }
