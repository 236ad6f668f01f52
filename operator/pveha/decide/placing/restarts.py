"""Packs anew with those first that were left down ("squeaky wheel": who complains is served earlier next
time)."""

from collections.abc import Callable

from pveha.decide.placing import bound, greedy
from pveha.decide.placing.effort import Effort
from pveha.decide.placing.state import State

ROUNDS = 24
GUESTS_A_STEP = 2
"""A guest packed costs about half of what a step stands for."""


def pack(first: State, order: list[int], choose: Callable[[State, int], int], effort: Effort) -> State:
    """The best of several packings, the first in the order given; priorities always come first."""
    level = first.index.level
    turn = {g: float(place) for place, g in enumerate(order)}
    best: State | None = None
    for _ in range(ROUNDS):
        trial = State(first.index, first.down)
        greedy.pack(trial, sorted(trial.guests, key=lambda g: (level[g], turn[g], g)), choose)
        effort.left -= min(effort.left, len(order) // GUESTS_A_STEP)
        if best is None or trial.harm() < best.harm():
            best = trial
        if bound.reached(best) or not effort.left:
            break
        for g in trial.left():
            turn[g] = turn[g] / 2 - 1
    return best or first
