"""Fresh seeds every time; `pveha simulate --seeds N --first-seed S` plays any of them again.

Safety has to hold in each; what did not come right again is told.
"""

import os
import pathlib
import secrets

from pveha.sim import chaos, invariants, simulation
from simulation import stories

SEEDS = int(os.environ.get("PVEHA_SEEDS", "12"))


def test_fresh_seeds_violate_no_rule_of_safety() -> None:
    first = secrets.randbelow(1_000_000_000)
    print(f"seeds {first} to {first + SEEDS - 1}")
    for seed in range(first, first + SEEDS):
        result = simulation.play(chaos.plan(seed))
        assert sum(result.faults.values()) >= chaos.FEWEST_FAULTS
        stories.judge(result)


def test_rules_of_safety_are_those_that_the_invariants_know() -> None:
    known = (invariants.__file__, simulation.__file__)
    text = "".join(pathlib.Path(file).read_text() for file in known)
    assert [rule for rule in stories.SAFETY if f'"{rule}"' not in text] == []
