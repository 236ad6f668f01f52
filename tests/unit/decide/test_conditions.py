"""Documented reasons and reported reasons are the same."""

import re
from pathlib import Path

import pytest

import pveha
from pveha.api import conditions

SOURCES = "\n".join(
    file.read_text(encoding="utf-8")
    for file in Path(pveha.__path__[0]).rglob("*.py")
    if file.name != "conditions.py" and "sim" not in file.parts
)
SHARED = {"PolicyReady.INVALID": "ClusterReady.INVALID"}
"""Reported for objects of any kind by the word of another kind's reason."""


@pytest.mark.parametrize(
    "name",
    [
        f"{type(reasons[0]).__name__}.{member}"
        for types in conditions.BY_RESOURCE.values()
        for reasons in types.values()
        for member in type(reasons[0]).__members__
    ],
)
def test_every_documented_reason_is_reported_somewhere(name: str) -> None:
    assert re.search(rf"\b{SHARED.get(name, name)}\b", SOURCES)


def test_a_shared_word_is_the_same_word() -> None:
    assert str(conditions.PolicyReady.INVALID) == str(conditions.ClusterReady.INVALID)
