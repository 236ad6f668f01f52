"""The operator killed after its k-th side effect, for every k, and started again after a while or never."""

import dataclasses
import random
from collections.abc import Iterator

from pveha.sim import simulation
from simulation import stories

DELAYS: tuple[int | None, ...] = (0, 5, 30, 90, None)
"""Seconds until it runs again; None: never."""
BEFORE = 59.9
"""Just before the stories begin."""


@dataclasses.dataclass(frozen=True)
class Crash:
    """One way to disturb a story."""

    story: str
    effect: int
    delay: int | None

    @property
    def line(self) -> str:
        again = "" if self.delay is None else f" restart after {self.delay}"
        return f"kill operator a after {self.effect} effects{again}"

    def play(self) -> simulation.Result:
        plan = stories.plan(self.story, (BEFORE, self.line))
        if self.delay is None:
            calm = tuple(line for line in plan.calm if "operator a" not in line)
            plan = dataclasses.replace(plan, calm=calm)
        return simulation.play(plan)


def every(*names: str) -> Iterator[Crash]:
    """All crashes of these stories, or of all; how many effects a story has is counted by playing it
    undisturbed."""
    for story in names or stories.STORIES:
        for effect in range(1, stories.play(story).effects + 1):
            for delay in DELAYS:
                yield Crash(story, effect, delay)


def some(number: int, seed: int) -> tuple[list[Crash], int]:
    """A sample of them, and how many there are."""
    crashes = list(every())
    return random.Random(seed).sample(crashes, min(number, len(crashes))), len(crashes)
