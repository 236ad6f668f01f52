"""What is generated from the models: up to date, structural, documented."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pveha import api
from pveha.api import schema
from pveha.cli import crds

ROOT = Path(__file__).parents[2]

SPECS = {
    kind.kind_name: schema.structural(type_)
    for kind, type_ in (
        (api.HACluster, api.HAClusterSpec),
        (api.FailoverPolicy, api.FailoverPolicySpec),
        (api.ProtectedVM, api.ProtectedVMSpec),
    )
}


def nodes(path: str, field: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema at and below `field`, with its path."""
    yield path, field
    for name, inner in field.get("properties", {}).items():
        yield from nodes(f"{path}.{name}", inner)
    if "items" in field:
        yield from nodes(f"{path}[]", field["items"])


ALL = [
    pytest.param(field, id=path)
    for resource in api.RESOURCES
    for version in schema.crd(resource)["spec"]["versions"]
    for part in ("spec", "status")
    for path, field in nodes(
        f"{resource.kind_name}.{part}", version["schema"]["openAPIV3Schema"]["properties"][part]
    )
]


@pytest.mark.parametrize("path", schema.generated())
def test_committed_files_are_those_the_models_generate(path: str) -> None:
    committed = (ROOT / path).read_text(encoding="utf-8")
    assert committed == schema.generated()[path], "run `pveha crds --write .` and commit the result"


@pytest.mark.parametrize("folder", ["crds", schema.CHART])
def test_no_other_file_beside_them(folder: str) -> None:
    assert {f"{folder}/{file.name}" for file in (ROOT / folder).iterdir()} == {
        path for path in schema.generated() if path.startswith(f"{folder}/")
    }


@pytest.mark.parametrize("field", ALL)
def test_schema_is_structural_and_bounded(field: dict[str, Any]) -> None:
    """Kubernetes refuses $ref and anyOf, and cannot bound the cost of CEL without maxItems and maxLength."""
    assert not {"$ref", "anyOf", "allOf", "title", "const"} & set(field)
    assert field["type"] != "number", "no floats"
    if field["type"] == "array":
        assert "maxItems" in field
        assert "x-kubernetes-list-type" in field, "two field managers would overwrite each other"
    if field["type"] == "string" and "enum" not in field and field.get("format") != "date-time":
        assert "maxLength" in field


@pytest.mark.parametrize("field", ALL)
def test_no_default_inside_list_items(field: dict[str, Any]) -> None:
    """They would show as drift in Argo CD."""
    for path, inner in nodes("", field.get("items", {"type": "object"})):
        if path.count("."):
            assert "default" not in inner, path


@pytest.mark.parametrize("field", ALL)
def test_every_field_says_why(field: dict[str, Any]) -> None:
    for name, inner in field.get("properties", {}).items():
        assert len(inner["description"]) > 10, name


@pytest.mark.parametrize("field", ALL)
def test_defaults_of_objects_are_spelled_out(field: dict[str, Any]) -> None:
    """A default that leaves out nested defaults makes a CRD with CEL rules invalid."""
    for name, inner in field.get("properties", {}).items():
        nested = {
            key: leaf["default"] for key, leaf in inner.get("properties", {}).items() if "default" in leaf
        }
        if "default" in inner and nested:
            assert inner["default"] == nested, name


def test_every_list_map_key_is_required() -> None:
    for parameter in ALL:
        (field,) = parameter.values
        assert isinstance(field, dict)
        for key in field.get("x-kubernetes-list-map-keys", ()):
            assert key in field["items"]["required"], parameter.id


def test_a_rule_in_the_schema_keeps_both_the_types_and_the_fields_own() -> None:
    cluster_ref = SPECS["ProtectedVM"]["properties"]["clusterRef"]
    assert [rule["rule"] for rule in cluster_ref["x-kubernetes-validations"]] == ["self == oldSelf"]
    assert cluster_ref["properties"]["name"]["x-kubernetes-validations"]


def test_names_in_kubernetes() -> None:
    names = {resource.kind_name: schema.crd(resource)["spec"]["names"] for resource in api.RESOURCES}
    assert {kind: name["shortNames"] for kind, name in names.items()} == {
        "HACluster": ["hac"],
        "FailoverPolicy": ["fop"],
        "ProtectedVM": ["pvm"],
    }
    assert all(name["categories"] == ["pveha"] for name in names.values())


def test_statuses_have_no_defaults() -> None:
    """What pveha did not write must not appear."""
    for parameter in ALL:
        (field,) = parameter.values
        assert isinstance(field, dict)
        assert ".status" not in str(parameter.id) or "default" not in field, parameter.id


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    crds.add_parser(parser.add_subparsers())
    args = parser.parse_args(["crds", *arguments])
    status: int = args.run(args)
    return status


def test_the_command_prints_what_kubectl_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert printed == [schema.crd(resource) for resource in api.RESOURCES]


def test_the_command_writes_the_files(tmp_path: Path) -> None:
    assert run("--write", str(tmp_path)) == 0
    written = {str(file.relative_to(tmp_path)): file.read_text() for file in tmp_path.rglob("*.*")}
    assert written == schema.generated()


def test_the_reference_names_every_field_and_reason() -> None:
    text = schema.reference()
    for kind, spec in SPECS.items():
        for path, _ in nodes("spec", spec):
            if "." in path and not path.endswith("[]"):
                assert f"`{path}`" in text or f"`{path}[]`" in text, f"{kind} {path}"
    for types in api.conditions.BY_RESOURCE.values():
        for reasons in types.values():
            for reason in reasons:
                assert f"| `{reason}` | {reason.meaning} |" in text


@pytest.mark.parametrize("resource", [api.HACluster, api.ProtectedVM], ids=lambda each: each.plural)
def test_the_readme_shows_the_columns_that_there_are(resource: type[api.HACluster | api.ProtectedVM]) -> None:
    shown = [line.split() for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    columns = [column.name.upper() for column in resource.columns if not column.priority]
    assert ["NAME", *columns] in shown
