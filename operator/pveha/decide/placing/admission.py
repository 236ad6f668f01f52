"""Whether every combination of failures still fits, and who is left down in the worst."""

import dataclasses
import itertools
import math
from collections.abc import Generator, Mapping

from pveha.decide.placing import effort, plan, problem, state
from pveha.decide.placing.index import Index

PLACINGS = 3_000_000
"""Guests placed by first passes in one answer, counted over all combinations: 2-4 µs each."""
REPAIRS = 60
"""Combinations, the worst first, whose plan is made in full rather than by a first pass."""

Units = Mapping[str, frozenset[str]]
"""What fails as one, by name: nodes."""


def each_node(asked: problem.Problem) -> Units:
    return {node.name: frozenset((node.name,)) for node in asked.nodes}


def each_zone(asked: problem.Problem) -> Units:
    """A node without a zone is a zone of its own."""
    found: dict[str, set[str]] = {}
    for node in asked.nodes:
        found.setdefault(node.zone or node.name, set()).add(node.name)
    return {zone: frozenset(names) for zone, names in found.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Admission:
    """The worst that the loss of `failures` nodes or zones does."""

    failures: int
    worst: tuple[str, ...]
    """The units whose loss leaves most guests down, those of the highest priority first; empty: no
    combination leaves any."""
    left: tuple[int, ...]
    """Their vmids: the least important, which would be left down first, comes first."""
    combinations: int
    """How many there are."""
    checked: int
    """How many of them were planned."""
    exact: bool
    """Whether all were, each in full or with the proof that it is not the worst. Otherwise only those of the
    largest units were, or `left` may hold guests that a longer search would place."""

    @property
    def fits(self) -> bool:
        return not self.worst


def admit(asked: problem.Problem, failures: int, units: Units) -> Admission:
    """Plan the loss of every combination of `failures` units. Losses of more than there are: all but one."""
    work = admitting(asked, failures, units)
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Admission = end.value
            return found


def admitting(asked: problem.Problem, failures: int, units: Units) -> Generator[int, None, Admission]:
    """`admit` in steps; each yields how many placings it took, or as many as took its time."""
    index = Index(asked)
    members = {name: index.bits(nodes) for name, nodes in units.items()}
    failures = max(0, min(failures, len(members) - 1))
    total = math.comb(len(members), failures)
    chosen = _largest(index, members, failures)
    screened = []
    for names in itertools.combinations(sorted(chosen), failures):
        down = 0
        for name in names:
            down |= members[name]
        first = plan.quick(index, down)
        harm = first.harm()
        if harm:
            screened.append((harm, names, down))
        yield len(first.guests)
    screened.sort(key=lambda each: each[1])
    screened.sort(key=lambda each: each[0], reverse=True)
    worst, left, proven = yield from _worst(index, screened)
    checked = math.comb(len(chosen), failures)
    return Admission(
        failures,
        worst,
        tuple(index.vmid[g] for g in reversed(left)),
        total,
        checked,
        proven and checked == total,
    )


def _worst(
    index: Index, screened: list[tuple[tuple[int, ...], tuple[str, ...], int]]
) -> Generator[int, None, tuple[tuple[str, ...], list[int], bool]]:
    """The worst combination, whom it leaves down, and whether that is proven.

    A full plan does no more harm than its first pass, so the search ends where first passes do less harm than
    the worst full plan so far.
    """
    worst: tuple[str, ...] = ()
    worst_harm: tuple[int, ...] = ()
    left: list[int] = []
    for number, (harm, names, down) in enumerate(screened):
        if harm <= worst_harm:
            break
        if number == REPAIRS:
            if worst:
                return worst, left, False
            return names, plan.quick(index, down).left(), False
        budget = effort.Effort(effort.STEPS)
        arrangement = plan.arrange(index, down, budget)
        if arrangement.harm() > worst_harm:
            worst, worst_harm, left = names, arrangement.harm(), arrangement.left()
        yield effort.STEPS - budget.left + len(arrangement.guests)
    return worst, left, True


def _largest(index: Index, members: dict[str, int], failures: int) -> list[str]:
    """The units to combine: all, or as many of the largest as `PLACINGS` allows."""

    def size(name: str) -> int:
        """Bytes that are lost to guests with the unit: what is free there and what its guests need
        elsewhere."""
        return sum(
            max(index.free_memory[n], 0) + sum(index.memory[g] for g in index.on[n])
            for n in state.bits(members[name])
        )

    ranked = sorted(members, key=lambda name: (-size(name), name))
    guests = [sum(len(index.on[n]) for n in state.bits(members[name])) for name in ranked]
    count = failures
    for more in range(failures, len(ranked) + 1):
        mean = sum(guests[:more]) / more if more else 0.0
        if math.comb(more, failures) * max(1.0, mean * failures + len(index.elsewhere)) > PLACINGS:
            break
        count = more
    return ranked[:count]
