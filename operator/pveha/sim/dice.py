"""What random faults are drawn from, and the shapes that most of them have.

A kind of fault is a function of dice and data centre to lines of a timeline (docs/simulation.md), at offsets
from the fault's beginning.
"""

import random
from collections.abc import Callable, Sequence

from pveha.sim import config


class Dice:
    """What a fault is drawn from."""

    def __init__(self, rng: random.Random, names: Sequence[str], vmids: Sequence[int]) -> None:
        self.rng = rng
        self.names = list(names)
        self.vmids = list(vmids)

    def node(self) -> str:
        return self.rng.choice(self.names)

    def two(self) -> tuple[str, str]:
        one, other = self.rng.sample(self.names, 2)
        return one, other

    def guest(self) -> int:
        return self.rng.choice(self.vmids)

    def sid(self, about: config.Config) -> str:
        vmid = self.guest()
        return next(guest.ref.sid for guest in about.guests if guest.vmid == vmid)

    def operator(self) -> str:
        return self.rng.choice("ab")

    def seconds(self, low: float, high: float) -> float:
        """More often short than long."""
        return round(low + (high - low) * self.rng.random() ** 2, 2)

    def sometimes(self, chance: float) -> bool:
        return self.rng.random() < chance


Lines = list[tuple[float, str]]
"""Offsets from the fault's beginning."""
Kind = Callable[[Dice, config.Config], Lines]


def nobody(dice: Dice) -> str:
    """It befalls nobody in particular."""
    return ""


def for_a_while(
    begin: str, end: str, low: float, high: float, whom: Callable[[Dice], object] = Dice.node
) -> Kind:
    """A fault that is mended after a while. In both lines {} stands for whom it befalls."""

    def draw(dice: Dice, about: config.Config) -> Lines:
        one = whom(dice)
        return [(0.0, begin.format(one)), (dice.seconds(low, high), end.format(one))]

    return draw


def service(names: Sequence[str], low: float, high: float, *how: str) -> Kind:
    """One of these services of a node is not there for a while, in one of these ways."""

    def draw(dice: Dice, about: config.Config) -> Lines:
        node, name = dice.node(), dice.rng.choice(list(names))
        verb = dice.rng.choice(list(how))
        return [(0.0, f"{verb} {name} {node}"), (dice.seconds(low, high), f"start {name} {node}")]

    return draw
