"""Makes room for a guest by moving others that are being placed too.

Every function either succeeds or leaves the arrangement as it was, also when the effort is spent.
"""

import itertools
from collections.abc import Iterator

from pveha.decide.placing import greedy, problem, state
from pveha.decide.placing.effort import Effort, Spent
from pveha.decide.placing.state import State

DEPTH = 3
"""Length of a chain: a guest goes where another was, which goes where another was, ..."""
PAIRS = 8
"""Of the smallest guests on a node so many are tried two by two."""


def insert_all(arrangement: State, left: list[int], effort: Effort) -> None:
    """Place as many of `left` as chains allow, short chains first."""
    for depth in range(1, DEPTH + 1):
        for g in left:
            if g not in arrangement.node:
                insert(arrangement, g, depth, effort)
    for g in left:
        if g not in arrangement.node:
            gather(arrangement, g, effort)


def insert(arrangement: State, g: int, depth: int, effort: Effort) -> bool:
    """Place `g`, moving others along a chain of at most `depth`."""
    mark = len(arrangement.log)
    try:
        if _insert(arrangement, g, depth, 0, effort):
            return True
    except Spent:
        pass
    arrangement.undo(mark)
    return False


def _insert(arrangement: State, g: int, depth: int, banned: int, effort: Effort) -> bool:
    effort.step()
    n = _direct(arrangement, g, banned)
    if n >= 0:
        arrangement.put(g, n)
        return True
    if depth == 0:
        return False
    for n in _by_shortage(arrangement, g, banned):
        for victims in _victims(arrangement, g, n):
            mark = len(arrangement.log)
            for victim in victims:
                arrangement.take(victim)
            if not arrangement.forbidden(g) >> n & 1 and arrangement.fits(g, n):
                arrangement.put(g, n)
                if all(
                    _insert(arrangement, each, depth - 1, banned | 1 << n, effort) for each in sorted(victims)
                ):
                    return True
            arrangement.undo(mark)
    return False


def _direct(arrangement: State, g: int, banned: int) -> int:
    """The tightest node that takes `g` as things are."""
    if not banned:
        return greedy.tightest(arrangement, g)
    forbidden = arrangement.forbidden(g) | banned
    best = -1
    for n in arrangement.candidates(g):
        if (
            not forbidden >> n & 1
            and arrangement.fits(g, n)
            and (best < 0 or arrangement.slack(n) < arrangement.slack(best))
        ):
            best = n
    return best


def _by_shortage(arrangement: State, g: int, banned: int) -> list[int]:
    """Nodes on which something can be moved for `g`, those with most room first."""
    nodes = [
        n
        for n in arrangement.candidates(g)
        if not banned >> n & 1 and (arrangement.lodgers.get(n) or g in arrangement.index.separate)
    ]
    nodes.sort(key=lambda n: (-arrangement.slack(n), n))
    return nodes


def _victims(arrangement: State, g: int, n: int) -> Iterator[list[int]]:
    """Sets of guests to move so that `g` has room on `n`, the smallest first."""
    blockers = _blockers(arrangement, g, n)
    if blockers is None:
        return
    index = arrangement.index
    memory = index.memory[g] - arrangement.memory[n]
    cpu = index.cpu[g] - arrangement.cpu[n]
    for blocker in blockers:
        if arrangement.node[blocker] == n:
            memory -= index.memory[blocker]
            cpu -= index.cpu[blocker]
    if memory <= 0 and cpu <= 0:
        yield blockers
        return
    others = [each for each in arrangement.lodgers.get(n, ()) if each not in blockers]
    others.sort(key=lambda each: (arrangement.size(each), each))
    for other in others:
        if index.memory[other] >= memory and index.cpu[other] >= cpu:
            yield [*blockers, other]
    pairs = [
        (index.memory[one] + index.memory[two], one, two)
        for one, two in itertools.combinations(others[:PAIRS], 2)
        if index.memory[one] + index.memory[two] >= memory and index.cpu[one] + index.cpu[two] >= cpu
    ]
    for _, one, two in sorted(pairs):
        yield [*blockers, one, two]


def _blockers(arrangement: State, g: int, n: int) -> list[int] | None:
    """Placed guests that groups of `g` keep off `n` together with it; None: one that does not move does."""
    index = arrangement.index
    found: list[int] = []
    for group in index.together.get(g, ()):
        anchor = arrangement.anchors[group]
        if anchor and not anchor >> n & 1:
            return None
    for group in index.separate.get(g, ()):
        if not arrangement.taken[group] >> n & 1:
            continue
        topology = index.groups[group].topology
        here = [
            each
            for each in index.members[group]
            if each in arrangement.node and state.same_place(index, topology, n, arrangement.node[each])
        ]
        if not here:
            return None
        found += [each for each in here if each not in found]
    return found


def gather(arrangement: State, g: int, effort: Effort) -> bool:
    """Place `g` together with the groups that it belongs to, moving them as a whole."""
    index = arrangement.index
    if g not in index.together:
        return False
    block = _block(arrangement, g)
    mark = len(arrangement.log)
    try:
        places = {
            index.reach[problem.Topology.ZONE if _wide(arrangement, block) else problem.Topology.NODE][n]
            for n in arrangement.candidates(g)
        }
        for place in sorted(places):
            for each in block:
                if each in arrangement.node:
                    arrangement.take(each)
            elsewhere = ((1 << len(index.nodes)) - 1) & ~place
            if all(
                _insert(arrangement, each, 1, elsewhere, effort)
                for each in sorted(block, key=lambda each: (-index.memory[each], each))
            ):
                return True
            arrangement.undo(mark)
    except Spent:
        pass
    arrangement.undo(mark)
    return False


def _block(arrangement: State, g: int) -> list[int]:
    """`g` and every placed guest that hard groups tie to it."""
    index = arrangement.index
    block, waiting = {g}, [g]
    while waiting:
        for group in index.together.get(waiting.pop(), ()):
            for each in index.members[group]:
                if each in arrangement.node and each not in block:
                    block.add(each)
                    waiting.append(each)
    return sorted(block)


def _wide(arrangement: State, block: list[int]) -> bool:
    """Whether zones alone tie the block."""
    index = arrangement.index
    return all(
        index.groups[group].topology is problem.Topology.ZONE
        for g in block
        for group in index.together.get(g, ())
    )


def exchange(arrangement: State, effort: Effort) -> None:
    """Leave one guest down where that lets two or more of its priority run, or is smaller."""
    index = arrangement.index
    again = True
    while again:
        again = False
        for g in greedy.large_first(arrangement, arrangement.node):
            rivals = [
                each
                for each in arrangement.left()
                if index.level[each] == index.level[g] and arrangement.size(each) < arrangement.size(g)
            ]
            if rivals and _swap(arrangement, g, greedy.small_first(arrangement, rivals), effort):
                again = True


def _swap(arrangement: State, g: int, rivals: list[int], effort: Effort) -> bool:
    """Take `g` off for as many of `rivals` as go in directly; for one only if that fits less tightly."""
    mark = len(arrangement.log)
    arrangement.take(g)
    placed = 0
    for each in rivals:
        if effort.left <= 0:
            break
        effort.step()
        n = greedy.tightest(arrangement, each)
        if n >= 0:
            arrangement.put(each, n)
            placed += 1
    if placed:
        return True
    arrangement.undo(mark)
    return False
