"""Deliberate bugs of the production code are found, by the rule that they violate.

Each has a story in which it shows soon. With `-m long` three batches of other seeds are played as well, and
how many seeds each took is told at the end.
"""

import pytest

from conftest import Tell
from pveha.sim import simulation
from simulation import mutations

SEEDS = 60
LONG_SEEDS = 500
LONG_FIRST = (10_000, 20_000, 30_000)


@pytest.mark.parametrize("bug", mutations.MUTATIONS)
def test_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch, tell: Tell) -> None:
    tell(needed(bug, 0, SEEDS, monkeypatch))


@pytest.mark.long
@pytest.mark.parametrize("first", LONG_FIRST)
@pytest.mark.parametrize("bug", mutations.MUTATIONS)
def test_bug_is_found_from_any_seed(
    bug: str, first: int, monkeypatch: pytest.MonkeyPatch, tell: Tell
) -> None:
    tell(needed(bug, first, LONG_SEEDS, monkeypatch))


def needed(bug: str, first: int, most: int, patch: pytest.MonkeyPatch) -> str:
    """How soon the bug is found."""
    story = mutations.MUTATIONS[bug]
    story.bug(patch)
    for seed in range(first, first + most):
        found = simulation.play(story.plan(seed)).violations
        if any(violation.rule == story.rule for violation in found):
            return f"bug {bug!r}: found by {story.rule!r} after {seed - first + 1} seeds"
    pytest.fail(f"{bug}: not found in {most} seeds")
