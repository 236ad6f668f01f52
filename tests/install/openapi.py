"""JSON schemas for kubeconform, made from what an API server says of its resources (/openapi/v2)."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PREFIX = "#/definitions/"
GROUP_VERSION_KIND = "x-kubernetes-group-version-kind"
LOCATION = "{{ .Group }}/{{ .ResourceKind }}-{{ .ResourceAPIVersion }}.json"
"""Below the schemas' folder. To kubeconform, the group of the core resources is called v1."""
EVERYTHING: Mapping[str, Any] = {
    "replicas": 3,
    "watchNamespaces": ["dc1", "dc2"],
    "rbac": {"secretNamespaces": ["dc2", "vault"]},
    "imagePullSecrets": [{"name": "registry"}],
    "image": {"digest": f"sha256:{'0' * 64}"},
    "serviceAccount": {"annotations": {"example.net/role": "ha"}},
    "metrics": {"service": {"annotations": {"prometheus.io/scrape": "true"}}},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
    "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "pveha"}}}
            ]
        }
    },
    "podAnnotations": {"example.net/note": "one"},
    "podLabels": {"example.net/team": "two"},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.net:3128"}],
}
"""Values that use every part of the chart that the API server knows (it does not know ServiceMonitors)."""

Schema = dict[str, Any]


def write(openapi: Mapping[str, Any], folder: Path) -> None:
    """A self-contained schema file for each kind in `openapi`, which refuses fields that are not in it."""
    definitions: dict[str, Schema] = {name: strict(schema) for name, schema in openapi["definitions"].items()}
    for name, schema in openapi["definitions"].items():
        for kind in schema.get(GROUP_VERSION_KIND, ()):
            needed: dict[str, Schema] = {}
            collect(name, definitions, needed)
            text = json.dumps({"$ref": f"{PREFIX}{name}", "definitions": needed})
            file = f"{kind['kind']}-{kind['version']}.json".lower()
            group = folder / (kind["group"] or kind["version"])
            group.mkdir(exist_ok=True)
            (group / file).write_text(text)


def strict(schema: Schema) -> Schema:
    """The schema with `additionalProperties: false` wherever properties are listed, and what Kubernetes means
    by its own extensions."""
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return {}
    result = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    for key in ("items", "additionalProperties"):
        if isinstance(result.get(key), dict):
            result[key] = strict(result[key])
    if "properties" in result:
        result["properties"] = {name: strict(field) for name, field in result["properties"].items()}
        result.setdefault("additionalProperties", False)
    return result


def collect(name: str, definitions: Mapping[str, Schema], needed: dict[str, Schema]) -> None:
    """Puts a definition and all it refers to into `needed`."""
    if name in needed:
        return
    needed[name] = definitions[name]
    for reference in references(definitions[name]):
        collect(reference, definitions, needed)


def references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for each in schema for name in references(each)]
    if not isinstance(schema, dict):
        return []
    own = schema.get("$ref")
    found = [own.removeprefix(PREFIX)] if isinstance(own, str) else []
    return found + [name for value in schema.values() for name in references(value)]


def conform(kubeconform: Path, folder: Path, objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What kubeconform says of `objects`: {summary: {valid, invalid, ...}, resources: [{msg, ...}]}."""
    location = f"{folder}/{LOCATION}"
    command = [str(kubeconform), "-strict", "-summary", "-output", "json", "-schema-location", location]
    text = "".join(f"---\n{json.dumps(each)}\n" for each in objects)
    answer = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    assert not answer.stderr, answer.stderr
    result: dict[str, Any] = json.loads(answer.stdout)
    return result
