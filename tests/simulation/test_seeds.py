"""Fresh seeds every time; `pveha simulate --seeds N --first-seed S` plays any of them again."""

import os
import secrets

from pveha.sim import chaos, shrink, simulation

SEEDS = int(os.environ.get("PVEHA_SEEDS", "12"))


def test_fresh_seeds_violate_nothing() -> None:
    first = secrets.randbelow(1_000_000_000)
    print(f"seeds {first} to {first + SEEDS - 1}")
    for seed in range(first, first + SEEDS):
        plan = chaos.plan(seed)
        result = simulation.play(plan)
        assert sum(result.faults.values()) >= chaos.FEWEST_FAULTS
        assert not result.violations, shrink.tell(shrink.shrink(plan, tries=20))
