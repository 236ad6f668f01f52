"""Deliberate bugs of the production code are found, by the rule that they violate.

Those that need a rarer coincidence are looked for, in up to 500 seeds, with `-m long`.
"""

import pytest

from pveha.sim import chaos, simulation
from simulation import mutations

SEEDS = 25
LONG_SEEDS = 500
BUGS = {**mutations.MUTATIONS, **mutations.RARE}


@pytest.mark.parametrize(
    "bug", [*mutations.MUTATIONS, *(pytest.param(bug, marks=pytest.mark.long) for bug in mutations.RARE)]
)
def test_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, kinds, rule = BUGS[bug]
    patch(monkeypatch)
    seeds = LONG_SEEDS if bug in mutations.RARE else SEEDS
    for seed in range(seeds):
        found = simulation.play(chaos.plan(seed, kinds)).violations
        if any(violation.rule == rule for violation in found):
            print(f"{bug}: found by seed {seed}")
            return
    pytest.fail(f"{bug}: not found in {seeds} seeds")
