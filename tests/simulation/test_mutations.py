"""Deliberate bugs of the production code are found, by the rule that they violate.

`PVEHA_LONG=1` looks for the rare ones too, in 500 seeds each.
"""

import os

import pytest

from pveha.sim import chaos, simulation
from simulation import mutations

LONG = os.environ.get("PVEHA_LONG", "") == "1"
SEEDS = 500 if LONG else 25
BUGS = {**mutations.MUTATIONS, **(mutations.RARE if LONG else {})}


@pytest.mark.parametrize("bug", BUGS)
def test_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, kinds, rule = BUGS[bug]
    patch(monkeypatch)
    for seed in range(SEEDS):
        found = simulation.play(chaos.plan(seed, kinds)).violations
        if any(violation.rule == rule for violation in found):
            print(f"{bug}: found by seed {seed}")
            return
    pytest.fail(f"{bug}: not found in {SEEDS} seeds")
