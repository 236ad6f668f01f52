"""Makes room on one node step by step: guests there change places with smaller ones elsewhere, as long as
that brings the node nearer to having room for a guest that is left down."""

from collections.abc import Iterator

from pveha.decide.placing.effort import Effort, Spent
from pveha.decide.placing.state import State

TARGETS = 8
"""Nodes tried for a guest, those nearest to having room first."""
MOVES = 8
"""Of the moves possible, how many are tried: groups may forbid the best."""

Move = tuple[float, int, int, int]
"""How near the node comes, a guest there, where it goes, and whom it changes places with (-1: nobody)."""


def insert(arrangement: State, g: int, effort: Effort) -> bool:
    """Place `g`, after any number of changes on one node."""
    forbidden = arrangement.forbidden(g)
    nodes = [n for n in arrangement.candidates(g) if not forbidden >> n & 1]
    nodes.sort(key=lambda n: (-_nearness(arrangement, g, arrangement.memory[n], arrangement.cpu[n]), n))
    mark = len(arrangement.log)
    try:
        for n in nodes[:TARGETS]:
            while not arrangement.fits(g, n):
                if not _widen(arrangement, g, n, effort):
                    break
            else:
                if not arrangement.forbidden(g) >> n & 1:
                    arrangement.put(g, n)
                    return True
            arrangement.undo(mark)
    except Spent:
        pass
    arrangement.undo(mark)
    return False


def _nearness(arrangement: State, g: int, memory: int, cpu: int) -> float:
    """1 or more: there is room for `g`."""
    index = arrangement.index
    return min(memory / max(index.memory[g], 1), cpu / index.cpu[g] if index.cpu[g] else 1.0)


def _widen(arrangement: State, g: int, n: int, effort: Effort) -> bool:
    """Make the change that brings `n` nearest to having room for `g`."""
    moves = sorted(_moves(arrangement, g, n, effort), key=lambda move: (-move[0], *move[1:]))
    return any(_apply(arrangement, n, move) for move in moves[:MOVES])


def _moves(arrangement: State, g: int, n: int, effort: Effort) -> Iterator[Move]:
    index = arrangement.index
    memory, cpu = arrangement.memory, arrangement.cpu
    now = _nearness(arrangement, g, memory[n], cpu[n])
    for one in arrangement.lodgers.get(n, ()):
        its_memory, its_cpu = index.memory[one], index.cpu[one]
        alone = _nearness(arrangement, g, memory[n] + its_memory, cpu[n] + its_cpu)
        if alone <= now:
            continue
        for other_node in arrangement.candidates(one):
            if other_node == n:
                continue
            effort.step()
            spare_memory, spare_cpu = memory[other_node] - its_memory, cpu[other_node] - its_cpu
            if spare_memory >= 0 and spare_cpu >= 0:
                yield alone, one, other_node, -1
            for other in arrangement.lodgers.get(other_node, ()):
                more_memory, more_cpu = index.memory[other], index.cpu[other]
                if spare_memory + more_memory < 0 or spare_cpu + more_cpu < 0:
                    continue
                room = memory[n] + its_memory - more_memory
                cores = cpu[n] + its_cpu - more_cpu
                if room < 0 or cores < 0:
                    continue
                near = _nearness(arrangement, g, room, cores)
                if near > now and arrangement.open(other) >> n & 1:
                    yield near, one, other_node, other


def _apply(arrangement: State, n: int, move: Move) -> bool:
    """Make a move if groups allow it."""
    _, one, other_node, other = move
    mark = len(arrangement.log)
    arrangement.take(one)
    if other >= 0:
        arrangement.take(other)
    if not arrangement.forbidden(one) >> other_node & 1:
        arrangement.put(one, other_node)
        if other < 0:
            return True
        if not arrangement.forbidden(other) >> n & 1:
            arrangement.put(other, n)
            return True
    arrangement.undo(mark)
    return False
