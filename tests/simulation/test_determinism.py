"""The same seed takes the same steps, whatever the interpreter's hashes are, and polls that are skipped
change nothing."""

import hashlib
import os
import subprocess
import sys

import pytest

from pveha.sim import chaos, simulation
from simulation import stories

SEED = 20_261_122
PRINT = (
    "import hashlib; from pveha.sim import chaos, simulation; "
    f"log = simulation.play(chaos.plan({SEED})).log; "
    "print(hashlib.sha256('\\n'.join(log).encode()).hexdigest())"
)


def test_the_same_seed_gives_the_same_log_byte_for_byte() -> None:
    log = simulation.play(chaos.plan(SEED)).log
    here = hashlib.sha256("\n".join(log).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        told = subprocess.run(
            [sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True
        )
        assert told.stdout.strip() == here


def test_other_seeds_give_other_logs() -> None:
    assert simulation.play(chaos.plan(1)).log != simulation.play(chaos.plan(2)).log


@pytest.mark.parametrize("story", stories.STORIES)
def test_runs_with_and_without_skipped_polls_end_alike(story: str) -> None:
    skipped = simulation.play(stories.plan(story), skip_polls=True)
    whole = simulation.play(stories.plan(story), skip_polls=False)
    assert not skipped.violations, stories.told(skipped)
    assert not whole.violations, stories.told(whole)
    assert (skipped.guests, skipped.fencings, skipped.recoveries) == (
        whole.guests,
        whole.fencings,
        whole.recoveries,
    )
