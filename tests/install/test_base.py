"""The kustomize base is the chart's default output."""

import subprocess

import pytest
import yaml

from install import render
from pveha.devkube import binaries, tools


def identity(obj: render.Object) -> str:
    metadata = obj["metadata"]
    return f"{obj['kind']}/{metadata.get('namespace', '')}/{metadata['name']}"


def test_generated_files_are_those_of_the_chart(
    tools_here: tools.Tools, request: pytest.FixtureRequest
) -> None:
    files = render.base(tools_here.helm)
    if request.config.getoption("--update-manifests"):
        for name, text in files.items():
            (render.BASE / name).write_text(text, encoding="utf-8")
    written = {file.name: file.read_text(encoding="utf-8") for file in render.BASE.glob("*.yaml")}
    by_hand = {"kustomization.yaml", "namespace.yaml"}
    assert {name: text for name, text in written.items() if name not in by_hand} == files, (
        "pytest tests/install --update-manifests, and commit the result"
    )


def test_kustomize_makes_of_it_what_helm_makes_of_the_chart(
    tools_here: tools.Tools, kube_binaries: binaries.Binaries
) -> None:
    """Apart from the Namespace, which Helm makes with --create-namespace."""
    text = subprocess.run(
        [kube_binaries.kubectl, "kustomize", render.BASE], check=True, capture_output=True, text=True
    ).stdout
    built = {identity(each): each for each in yaml.safe_load_all(text)}
    namespace = built.pop("Namespace//pveha")
    rendered = {identity(each): render.without_helm(each) for each in render.template(tools_here.helm)}
    assert built == rendered
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
