"""Deliberate bugs of the production code are found. `PVEHA_LONG=1` tries all kinds of faults and 500
seeds."""

import os

import pytest

from pveha.sim import chaos, simulation
from simulation import mutations

LONG = os.environ.get("PVEHA_LONG", "") == "1"
SEEDS = 500 if LONG else 60


@pytest.mark.parametrize("bug", mutations.MUTATIONS)
def test_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, kinds = mutations.MUTATIONS[bug]
    patch(monkeypatch)
    for seed in range(SEEDS):
        found = simulation.play(chaos.plan(seed, () if LONG else kinds)).violations
        if found:
            print(f"{bug}: found by seed {seed}: {found[0]}")
            return
    pytest.fail(f"{bug}: not found in {SEEDS} seeds")


def test_the_first_seeds_are_clean_without_a_bug() -> None:
    """Or the bugs above would be found by something else."""
    for _, kinds in mutations.MUTATIONS.values():
        for seed in range(2):
            assert simulation.play(chaos.plan(seed, kinds)).violations == (), (kinds, seed)
