"""How much work a plan may take. Counted in steps and not in seconds: equal problems get equal plans."""

STEPS = 12_000
"""Tries of one plan to place guests that the first pass left down; a try takes 3-8 µs."""


class Spent(Exception):
    """No steps are left."""


class Effort:
    """Steps left."""

    __slots__ = ("left",)

    def __init__(self, steps: int):
        self.left = steps

    def step(self) -> None:
        if self.left <= 0:
            raise Spent
        self.left -= 1

    def part(self, steps: int) -> "Effort":
        """At most `steps` of what is left, to be paid back with `back`."""
        part = Effort(min(steps, self.left))
        self.left -= part.left
        return part

    def back(self, part: "Effort") -> None:
        self.left += part.left
        part.left = 0
