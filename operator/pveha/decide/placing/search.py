"""Rearranges the guests being placed on a few nodes at a time, or all of them when they are few, by trying
everything (depth first, cut off as soon as a try can no longer be better)."""

import itertools
from collections.abc import Iterator

from pveha.decide.placing import state, widen
from pveha.decide.placing.effort import Effort, Spent
from pveha.decide.placing.state import State

WHOLE = 14
"""With at most so many guests to place, everything is tried."""
NEAR = 6
"""Nodes with the most room for a guest, of which neighbourhoods are made."""
NEIGHBOURHOOD_STEPS = 400


def improve(arrangement: State, effort: Effort) -> None:
    """Make the arrangement better where that is found within `effort`."""
    if len(arrangement.guests) <= WHOLE:
        _retry(arrangement, list(arrangement.guests), arrangement.up, effort, effort.left)
        return
    progress = True
    while progress and effort.left > 0:
        progress = False
        for g in arrangement.left():
            if g in arrangement.node:
                continue
            if widen.insert(arrangement, g, effort) or _around(arrangement, g, effort):
                progress = True


def _around(arrangement: State, g: int, effort: Effort) -> bool:
    """Look for a place for `g` by rearranging two to four of the nodes that it could go to."""
    for nodes in _neighbourhoods(arrangement, g):
        if effort.left <= 0:
            return False
        here = [each for n in state.bits(nodes) for each in arrangement.lodgers.get(n, ())]
        if _retry(arrangement, sorted([*here, g]), nodes, effort, NEIGHBOURHOOD_STEPS):
            return True
    return False


def _neighbourhoods(arrangement: State, g: int) -> Iterator[int]:
    """Sets of nodes with enough room for `g` in sum, the fewest nodes first."""
    memory = arrangement.memory
    own = sorted(arrangement.candidates(g), key=lambda n: (-memory[n], n))
    around = sorted(state.bits(arrangement.up), key=lambda n: (-memory[n], n))[:NEAR]
    for size in (2, 3, 4):
        for first in own[:NEAR]:
            for others in itertools.combinations([n for n in around if n != first], size - 1):
                if memory[first] + sum(memory[n] for n in others) >= arrangement.index.memory[g]:
                    yield 1 << first | sum(1 << n for n in others)


def _retry(arrangement: State, guests: list[int], nodes: int, effort: Effort, steps: int) -> bool:
    """Place `guests` (in the order of placing) anew on `nodes` such that less harm is left."""
    mark = len(arrangement.log)
    bound = state.harm(arrangement.index, [g for g in guests if g not in arrangement.node])
    for g in guests:
        if g in arrangement.node:
            arrangement.take(g)
    part = effort.part(steps)
    try:
        better = _deepen(arrangement, guests, nodes, bound, part)
    except Spent:
        better = False
    effort.back(part)
    if not better:
        arrangement.undo(mark)
    return better


def _deepen(
    arrangement: State, guests: list[int], nodes: int, bound: tuple[int, ...], effort: Effort
) -> bool:
    """The best arrangement whose harm is below `bound`; applied when found."""
    best: list[tuple[int, int]] | None = None
    mark = len(arrangement.log)
    while bound:
        tree = _Tree(arrangement, guests, nodes, effort)
        try:
            found = tree.grow(0, bound)
        except Spent:
            found = False
        if not found:
            break
        best = [(g, arrangement.node[g]) for g in guests if g in arrangement.node]
        bound = tuple(tree.loss)
        arrangement.undo(mark)
    arrangement.undo(mark)
    for g, n in best or ():
        arrangement.put(g, n)
    return best is not None


class _Tree:
    """The tries to place `guests` one by one on `nodes`, or to leave them."""

    def __init__(self, arrangement: State, guests: list[int], nodes: int, effort: Effort):
        index = arrangement.index
        self.arrangement, self.guests, self.effort = arrangement, guests, effort
        self.nodes = list(state.bits(nodes))
        self.lowest = -max(index.level[g] for g in guests)
        self.loss: list[int] = []
        self.memory = _suffix_sums([index.memory[g] for g in guests])
        self.cpu = _suffix_sums([index.cpu[g] for g in guests])
        self.largest = [max(index.memory[g] for g in guests[place:]) for place in range(len(guests))]
        self.most_cpu = [max(index.cpu[g] for g in guests[place:]) for place in range(len(guests))]

    def hopeless(self, place: int, bound: tuple[int, ...]) -> bool:
        """Whether what is left to place cannot fit such that less than `bound` is left in the end."""
        loss = tuple(self.loss)
        if loss >= bound:
            return True
        if place == len(self.guests) or loss != bound[: len(loss)] or bound[len(loss)] != self.lowest:
            return False  # a higher priority may run for many lower ones: numbers prove nothing
        spare = len(bound) - len(self.loss) - 1
        memory, cpu = self.arrangement.memory, self.arrangement.cpu
        return (
            self.memory[place] - spare * self.largest[place] > sum(max(memory[n], 0) for n in self.nodes)
            or self.cpu[place] - spare * self.most_cpu[place] > sum(max(cpu[n], 0) for n in self.nodes)
        )  # fmt: skip

    def grow(self, place: int, bound: tuple[int, ...]) -> bool:
        """Whether a way to do less harm than `bound` was found; it is in place then."""
        if self.hopeless(place, bound):
            return False
        if place == len(self.guests):
            return True
        self.effort.step()
        arrangement, g = self.arrangement, self.guests[place]
        forbidden = arrangement.forbidden(g)
        mask = arrangement.open(g) & ~forbidden
        targets = [n for n in self.nodes if mask >> n & 1 and arrangement.fits(g, n)]
        targets.sort(key=lambda n: (arrangement.slack(n), n))
        for n in targets:
            arrangement.put(g, n)
            if self.grow(place + 1, bound):
                return True
            arrangement.take(g)
            del arrangement.log[-2:]
        self.loss.append(-arrangement.index.level[g])
        if self.grow(place + 1, bound):
            return True
        self.loss.pop()
        return False


def _suffix_sums(values: list[int]) -> list[int]:
    return list(itertools.accumulate(reversed(values)))[::-1]
