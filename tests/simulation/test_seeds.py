"""Fresh seeds every time; `pveha simulate --seeds N --first-seed S` plays any of them again.

They fail on what is not safe. What does not come right by itself in them is printed: about one run in a
thousand shows something new, which then becomes a scenario or a test.
"""

import os
import secrets

import pytest

from conftest import Tell
from pveha.sim import chaos, simulation
from simulation import stories

SEEDS = int(os.environ.get("PVEHA_SEEDS", "12"))


@pytest.mark.parametrize(("nodes", "seeds"), [(None, SEEDS), (2, max(1, SEEDS // 3))])
def test_fresh_seeds_are_safe(nodes: int | None, seeds: int, tell: Tell) -> None:
    """Three to five nodes, and two with a QDevice."""
    first = secrets.randbelow(1_000_000_000)
    tell(f"pveha simulate --first-seed {first} --seeds {seeds}{f' --nodes {nodes}' if nodes else ''}")
    for seed in range(first, first + seeds):
        result = simulation.play(chaos.plan(seed, nodes=nodes))
        assert sum(result.faults.values()) >= chaos.FEWEST_FAULTS
        stories.judge_fresh(result, tell)
