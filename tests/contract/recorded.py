"""What was recorded on a real cluster: answers and the API's schema; absent in a plain clone.

Looked for in the folder that PVEHA_FACTS names, else in `../shared/facts` beside the checkout.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
from typing import Any

import pytest
from typing_extensions import override

_PREFIX = "/api2/json"


def folder() -> pathlib.Path:
    checkout = pathlib.Path(__file__).parents[2]
    return pathlib.Path(os.environ.get("PVEHA_FACTS", checkout.parent / "shared" / "facts"))


needed = pytest.mark.skipif(
    not (folder() / "recorded").is_dir(),
    reason="no recorded facts: set PVEHA_FACTS or put them in ../shared/facts",
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """One recorded call and its answer; `status` is None where the connection failed."""

    name: str
    method: str
    path: str
    params: dict[str, Any]
    via: str
    status: int | None
    reason: str
    body: str

    @override
    def __str__(self) -> str:
        return self.name

    @property
    def data(self) -> Any:
        return json.loads(self.body)["data"]


@functools.cache
def answers() -> tuple[Answer, ...]:
    """All recorded answers; none without the facts."""
    return tuple(_load(file) for file in sorted((folder() / "recorded").glob("*.json")))


def answer(name: str) -> Answer:
    return next(each for each in answers() if each.name == name)


def asking(pattern: str, status: int = 200) -> list[Answer]:
    """Recorded GETs whose path matches."""
    return [
        each
        for each in answers()
        if each.method == "GET" and each.status == status and re.fullmatch(pattern, each.path)
    ]


@functools.cache
def schema() -> dict[str, Any]:
    """By path template and method: parameters, returns, permissions."""
    return dict(json.loads((folder() / "pve-api-schema-ha.json").read_text())["paths"])


def template(path: str) -> str:
    """The path template of the schema that a path follows; the most literal one if there are several."""
    parts = path.split("/")
    fitting = [
        each
        for each in schema()
        if len(each.split("/")) == len(parts)
        and all(a == b or a.startswith("{") for a, b in zip(each.split("/"), parts, strict=True))
    ]
    assert fitting, f"{path} is not in the API's schema"
    return min(fitting, key=lambda each: each.count("{"))


def _load(file: pathlib.Path) -> Answer:
    raw = json.loads(file.read_text())
    return Answer(
        name=file.stem,
        method=raw["method"],
        path=raw["path"].removeprefix(_PREFIX),
        params=raw["params"] or {},
        via=raw["via_node"],
        status=raw["status"],
        reason=raw["reason"],
        body=raw["body"] or "",
    )
