"""Deliberate bugs of the production code are found, by the rule that they violate.

Each has a story in which it shows soon. With `-m long` three batches of other seeds are played as well, and
how many seeds each took is printed.
"""

import pytest

from pveha.sim import simulation
from simulation import mutations

SEEDS = 60
LONG_SEEDS = 500
LONG_FIRST = (10_000, 20_000, 30_000)


@pytest.mark.parametrize("bug", mutations.MUTATIONS)
def test_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needed(bug, 0, SEEDS, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("first", LONG_FIRST)
@pytest.mark.parametrize("bug", mutations.MUTATIONS)
def test_bug_is_found_from_any_seed(bug: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    needed(bug, first, LONG_SEEDS, monkeypatch)


def needed(bug: str, first: int, most: int, patch: pytest.MonkeyPatch) -> None:
    story = mutations.MUTATIONS[bug]
    story.bug(patch)
    for seed in range(first, first + most):
        found = simulation.play(story.plan(seed)).violations
        if any(violation.rule == story.rule for violation in found):
            print(f"{bug}: found by {story.rule!r} after {seed - first + 1} seeds")
            return
    pytest.fail(f"{bug}: not found in {most} seeds")
