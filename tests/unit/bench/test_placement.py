"""The benchmark of placing: what it prints and how it ends, on a small cluster; its instances are tight."""

import importlib.util
import json

import pytest
from bench import clusters, placement


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    large = clusters.large
    monkeypatch.setattr(clusters, "large", lambda fill=0.8: large(nodes=6, guests=120, fill=fill))


@pytest.fixture
def without_ortools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("small", "without_ortools")
def test_without_ortools_quality_is_null_and_not_passed(capsys: pytest.CaptureFixture[str]) -> None:
    assert placement.main(["--json"]) == 2
    told = capsys.readouterr()
    figures = json.loads(told.out)
    assert told.out.count("\n") == 1
    assert "OR-tools is not installed" in told.err
    assert figures["left_down_vs_bound_percent"] is None
    for name, bound in placement.BOUNDS.items():
        assert figures[f"{name}_bound"] == bound
        assert name == "left_down_vs_bound_percent" or figures[name] >= 0


@pytest.mark.usefixtures("small", "without_ortools")
def test_missed_bound_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(placement.BOUNDS, "admission_k2_s", -1.0)
    assert placement.main(["--json"]) == 1


@pytest.mark.parametrize("seed", range(50))
def test_instances_are_tight_and_have_rules(seed: int) -> None:
    instance = clusters.tight(seed)
    assert instance.fill >= 0.85
    assert instance.to_place
    assert {group.topology for group in instance.asked.groups} == {"Node", "Zone"}


def test_large_cluster_is_as_large_as_promised() -> None:
    asked = clusters.large()
    assert (len(asked.nodes), len(asked.guests)) == (32, 5000)
