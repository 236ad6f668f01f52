"""Fresh seeds every time; `pveha simulate --seeds N --first-seed S` plays any of them again.

They fail on what is not safe. What does not come right by itself in them is printed: about one run in a
hundred shows something new, which then becomes a scenario.
"""

import os
import secrets

from pveha.sim import chaos, simulation
from simulation import stories

SEEDS = int(os.environ.get("PVEHA_SEEDS", "12"))


def test_fresh_seeds_are_safe() -> None:
    first = secrets.randbelow(1_000_000_000)
    print(f"seeds {first} to {first + SEEDS - 1}")
    for seed in range(first, first + SEEDS):
        result = simulation.play(chaos.plan(seed))
        assert sum(result.faults.values()) >= chaos.FEWEST_FAULTS
        stories.judge_fresh(result)
