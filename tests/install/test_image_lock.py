"""The image's packages: those of requirements.lock that the operator itself needs."""

import re
import tomllib

import pytest

from install import render


def entries(name: str) -> dict[str, str]:
    """Package → its pin with hashes, of a lock."""
    text = (render.ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"(?m)^\s*#.*\n", "", text)
    found = re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)==(.*(?:\n    --hash=.*)*)", text)
    return {package: re.sub(r"\s*\\\s*", " ", pin) for package, pin in found}


@pytest.fixture(scope="module")
def image() -> dict[str, str]:
    return entries("requirements.image.lock")


def test_it_pins_what_the_tests_ran_with(image: dict[str, str]) -> None:
    tested = entries("requirements.lock")
    assert {package: pin for package, pin in image.items() if tested.get(package) != pin} == {}


def test_it_has_every_dependency(image: dict[str, str]) -> None:
    project = tomllib.loads((render.ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        re.match(r"[A-Za-z0-9._-]+", each)[0].lower().replace("_", "-")  # type: ignore[index]
        for each in project["dependencies"]
    }
    assert wanted - set(image) == set(), "make requirements.image.lock anew, see CONTRIBUTING.md"


def test_it_has_nothing_for_tests(image: dict[str, str]) -> None:
    assert not {"pytest", "mypy", "ruff", "hypothesis", "sushy", "sushy-tools", "lupa"} & set(image)
