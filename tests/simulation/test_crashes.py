"""The operator is killed after its k-th side effect, and started again after a while or never.

A fresh sample each time, whose seed is printed; `-m long` plays every (story, k, delay). Whatever the moment,
every rule holds and everything comes right: by the next leader, or without one by the timer on the nodes.
"""

import secrets

import pytest

from conftest import Tell
from simulation import crashes, stories

SAMPLE = 25


def test_killed_at_any_effect_all_is_safe(tell: Tell) -> None:
    seed = secrets.randbelow(1_000_000)
    chosen, all_of_them = crashes.some(SAMPLE, seed)
    tell(f"killed at an effect: {len(chosen)} of {all_of_them} (story, effect, delay) triples, sample {seed}")
    for crash in chosen:
        print(crash)
        stories.judge_fresh(crash.play(), tell)


@pytest.mark.long
@pytest.mark.parametrize("story", stories.STORIES)
def test_killed_at_every_effect_the_next_one_finishes(story: str, tell: Tell) -> None:
    chosen = list(crashes.every(story))
    tell(f"killed at every effect: {len(chosen)} (story, effect, delay) triples of {story}")
    broken = [f"{crash}: {rule}" for crash in chosen for rule in crash.play().violations]
    assert not broken, "\n".join(broken)
