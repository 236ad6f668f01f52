"""Scenario files in real time through every socket, and under each perturbation of controllers.

A normal run plays LIVE and a sample of the perturbed ones, chosen by a seed (PVEHA_SEED; the end of the run
tells it); `-m long` plays all others, and everything to its end.
"""

import itertools
import os
import random
import secrets
from typing import Any

import pytest

from cluster.stories import live, proxy
from cluster.stories.theatre import Theatre, story

LIVE = (
    "isolated",
    "kubernetes-flap",
    "node-loss-containers",
    "operator-dies-after-claim",
    "power-back-after-claim",
    "user-sets-started-in-mid-takeover",
)
"""In real time with every normal run."""
LONG = (
    "bmc-dead",
    "bmc-lies",
    "isolated-came-back",
    "kubernetes-down",
    "master-dies-during-recovery",
    "node-loss-40-guests",
    "node-loss-hang",
    "operator-dies-after-disown",
    "paused-then-resumed",
    "protectedvm-deleted-during-takeover",
    "split-view",
    "two-of-five-in-turn",
    "user-starts-guest-after-claim",
)
PERTURBED = (
    "mode-observe-after-takeover",
    "node-loss-power",
    "operator-dies-after-claim",
    "two-operators-leader-dies-after-claim",
    "user-sets-started-in-mid-takeover",
)
SEED = int(os.environ.get("PVEHA_SEED") or secrets.randbelow(10**6))
COMBINATIONS = tuple(itertools.product(PERTURBED, proxy.TROUBLES))


def sample(seed: int) -> set[tuple[str, str]]:
    """Each scenario once; each perturbation at least once."""
    dice = random.Random(seed)
    troubles = [*proxy.TROUBLES, *dice.choices(proxy.TROUBLES, k=len(PERTURBED) - len(proxy.TROUBLES))]
    dice.shuffle(troubles)
    return set(zip(PERTURBED, troubles, strict=True))


def _live(name: str, trouble: str = "", *, long: bool) -> Any:
    async def play(on: Theatre) -> None:
        await live.play(on, name, trouble, SEED, to_the_end=long)

    play.__name__ = "test_" + "_".join([name, *filter(None, [trouble])]).replace("-", "_")
    test = story(play)
    if trouble:
        test.seed = SEED
    return pytest.mark.long(test) if long else test


for _name in (*LIVE, *LONG):
    _test = _live(_name, long=_name in LONG)
    globals()[_test.__name__] = _test
for _name, _trouble in COMBINATIONS:
    _test = _live(_name, _trouble, long=(_name, _trouble) not in sample(SEED))
    globals()[_test.__name__] = _test
