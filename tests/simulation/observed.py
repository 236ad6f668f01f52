"""What the operator saw and wanted in a run, for questions about it afterwards."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from pveha.decide import explain, recall, rounds
from pveha.model import snapshot, specs
from pveha.sim import scenario, scenario_run

T = TypeVar("T")
Moment = tuple[snapshot.Snapshot, specs.Specs]


def noted(play: Callable[[], T]) -> tuple[list[Moment], T]:
    """All that the operator saw and wanted while `play` ran, and what that returned."""
    found: list[Moment] = []
    decide = rounds.decide

    def note(*args: Any) -> rounds.Decision:
        found.append((args[0], args[1]))
        return decide(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "decide", note)
        return found, play()


def played(story: dict[str, object]) -> tuple[list[Moment], scenario_run.Result]:
    """The same of a scenario."""
    return noted(lambda: scenario_run.play(scenario.Scenario.model_validate(story)))


def calm(moments: list[Moment]) -> Moment:
    """The last one before the timeline began."""
    return [each for each in moments if each[0].now < 60.0][-1]


def asked(seen: snapshot.Snapshot, wanted: specs.Specs, *nodes: str) -> explain.Explanation:
    """What `pveha explain` would have said."""
    now = rounds.understand(seen, wanted, recall.first(wanted.cluster.status))
    return explain.explain(now, frozenset(nodes))
