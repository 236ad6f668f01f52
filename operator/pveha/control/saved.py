"""A cluster's observed state in a file: `pveha snapshot` writes it, `explain` and `simulate` read it.

It holds what was seen and what is wanted, and no secrets: manifests only name their Secrets. What was under
way is left out.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pydantic

from pveha import api
from pveha.model import errors, power, snapshot, specs

FORMAT = "pveha.dev/snapshot/v1"


class _File(pydantic.BaseModel):
    """The file. The model's dataclasses as they are; JSON has no word for infinity, so that is a string."""

    model_config = pydantic.ConfigDict(ser_json_inf_nan="strings")

    format: str
    cluster: dict[str, Any]
    policies: list[dict[str, Any]]
    guests: list[dict[str, Any]]
    seen: snapshot.Snapshot
    power: list[tuple[power.Switch, power.PowerReading]]
    """Apart from `seen`: a switch cannot be a key of JSON."""


def write(path: pathlib.Path, seen: snapshot.Snapshot, wanted: specs.Specs) -> None:
    """Save. Raises OSError."""
    file = _File(
        format=FORMAT,
        cluster=_manifest(wanted.cluster),
        policies=[_manifest(each) for each in wanted.policies.values()],
        guests=[_manifest(each) for each in wanted.guests.values()],
        seen=dataclasses.replace(seen, power={}, operations=()),
        power=list(seen.power.items()),
    )
    path.write_text(file.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read(path: pathlib.Path) -> tuple[snapshot.Snapshot, specs.Specs]:
    """Load. Raises InvalidConfiguration for what is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
    except OSError as error:
        raise errors.InvalidConfiguration(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise errors.InvalidConfiguration(f"{path} is no file of `pveha snapshot`: {error}") from error
    told = document.get("format") if isinstance(document, dict) else None
    if told != FORMAT:
        was = f"its format is {told}, not {FORMAT}" if told else "it names no format"
        raise errors.InvalidConfiguration(
            f"{path} is no file of this version's `pveha snapshot` ({was}): save it anew"
        )
    try:
        file = _File.model_validate_json(text)
        cluster = _parsed(file.cluster, api.HACluster)
        policies = [_parsed(each, api.FailoverPolicy) for each in file.policies]
        guests = [_parsed(each, api.ProtectedVM) for each in file.guests]
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise errors.InvalidConfiguration(
            f"{path} was saved by another version of pveha, or is damaged ({where}: {first['msg']}; "
            f"{error.error_count()} such places): save it anew with `pveha snapshot` of this version"
        ) from error
    except (ValueError, api.ManifestError) as error:
        raise errors.InvalidConfiguration(
            f"{path} has a manifest that this version does not read: {error}; save it anew"
        ) from error
    wanted = specs.Specs(
        cluster,
        {each.metadata.name: each for each in policies},
        {each.metadata.name: each for each in guests},
    )
    return dataclasses.replace(file.seen, power=dict(file.power)), wanted


def _manifest(resource: api.Resource) -> dict[str, Any]:
    whole: Mapping[str, Any] = resource.manifest()
    return {"apiVersion": api.API_VERSION, "kind": resource.kind_name, **whole}


def _parsed(manifest: Mapping[str, Any], kind: type[Any]) -> Any:
    parsed = api.parse(manifest)
    if not isinstance(parsed, kind):
        raise ValueError(f"{manifest.get('kind')} where a {kind.__name__} belongs")
    return parsed
