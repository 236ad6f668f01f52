"""Guest after guest, each on the best node as things are."""

import math
from collections.abc import Callable, Iterable

from pveha.decide.placing import problem
from pveha.decide.placing.index import WISH_LIMIT, WISH_STEP
from pveha.decide.placing.state import State

CLEARLY_BETTER = 0.1
"""Share of a node that another must have more free than the planned one to be taken instead, so that plans do
not follow every change of memory in use."""


def fill(state: State, guests: Iterable[int]) -> list[int]:
    """Place what can be placed, in the order given; the others are returned."""
    left = []
    for g in guests:
        n = balanced(state, g)
        if n < 0:
            left.append(g)
        else:
            state.put(g, n)
    return left


def balanced(state: State, g: int) -> int:
    """The node for `g` that keeps the largest share of itself free, after wishes and rank; -1: none.

    The first of those that are equal, the planned one before all. If others must follow it, preferably a node
    that has room for all of them.
    """
    companions = state.companions(g) if g in state.index.together else []
    if companions:
        n = _balanced(state, g, companions)
        if n >= 0:
            return n
    return _balanced(state, g, [])


def _balanced(state: State, g: int, companions: list[int]) -> int:
    index = state.index
    need, cores = index.memory[g], index.cpu[g]
    memory, cpu, ceiling = state.memory, state.cpu, state.ceiling
    memory_share, cpu_share, standing = index.memory_share, index.cpu_share, index.standing
    grouped = g in index.separate or g in index.together
    forbidden = state.forbidden(g) if grouped else 0
    for each in companions:
        need += index.memory[each]
        cores += index.cpu[each]
        forbidden |= state.forbidden(each) | ~state.open(each)
    wishes = _wishes(state, g)
    planned = index.planned[g]
    if planned >= 0 and not state.open(g) >> planned & 1:
        planned = -1
    nodes = state.candidates(g)
    best, best_score = -1, -math.inf
    for n in nodes if planned < 0 else (planned, *nodes):
        bonus = wishes[n] if wishes else 0.0
        if n == planned:
            bonus += CLEARLY_BETTER
        if ceiling[n] + bonus <= best_score or memory[n] < need or cpu[n] < cores or forbidden >> n & 1:
            continue
        score = (memory[n] - need) * memory_share[n]
        if cpu_share[n]:
            score = min(score, (cpu[n] - cores) * cpu_share[n])
        score += standing[n] + bonus
        if score > best_score:
            best, best_score = n, score
    return best


def tightest(state: State, g: int) -> int:
    """The node for `g` with the least to spare; -1: none. Companions as in `balanced`."""
    companions = state.companions(g) if g in state.index.together else []
    if companions:
        n = _tightest(state, g, companions)
        if n >= 0:
            return n
    return _tightest(state, g, [])


def _tightest(state: State, g: int, companions: list[int]) -> int:
    index = state.index
    need, cores = index.memory[g], index.cpu[g]
    memory, cpu = state.memory, state.cpu
    forbidden = state.forbidden(g)
    for each in companions:
        need += index.memory[each]
        cores += index.cpu[each]
        forbidden |= state.forbidden(each) | ~state.open(each)
    best, least = -1, math.inf
    for n in state.candidates(g):
        if memory[n] < need or cpu[n] < cores or forbidden >> n & 1:
            continue
        slack = state.slack(n)
        if slack < least:
            best, least = n, slack
    return best


def evenest(state: State, g: int) -> int:
    """The node for `g` on which memory and CPU would run out together; -1: none."""
    index = state.index
    need, cores = index.memory[g], index.cpu[g]
    memory, cpu = state.memory, state.cpu
    byte, core = state.price
    forbidden = state.forbidden(g)
    best, least = -1, math.inf
    for n in state.candidates(g):
        if memory[n] < need or cpu[n] < cores or forbidden >> n & 1:
            continue
        oddness = abs((memory[n] - need) * byte - (cpu[n] - cores) * core)
        if oddness < least:
            best, least = n, oddness
    return best


def pack(state: State, guests: Iterable[int], choose: Callable[[State, int], int]) -> None:
    """Like `fill`, on the nodes that `choose` names."""
    for g in guests:
        n = choose(state, g)
        if n >= 0:
            state.put(g, n)


def keep_planned(state: State) -> None:
    """Place every guest where it was planned, if that is still allowed and has room."""
    for g in state.guests:
        n = state.index.planned[g]
        if n >= 0 and (state.open(g) & ~state.forbidden(g)) >> n & 1 and state.fits(g, n):
            state.put(g, n)


def small_first(state: State, guests: Iterable[int]) -> list[int]:
    """The order that lets most guests of each priority run when not all can."""
    return sorted(guests, key=lambda g: (state.index.level[g], state.size(g), g))


def large_first(state: State, guests: Iterable[int]) -> list[int]:
    """The order that leaves the least room unused."""
    return sorted(guests, key=lambda g: (state.index.level[g], -state.size(g), g))


def _wishes(state: State, g: int) -> list[float] | None:
    """What users would give for each node; None: nothing."""
    index, affinity = state.index, state.index.guests[g].affinity
    soft = index.soft.get(g)
    if not soft and not affinity:
        return None
    wishes = [affinity.get(node.name, 0) for node in index.nodes]
    for group in soft or ():
        _wish(state, group, wishes)
    return [WISH_STEP * max(-WISH_LIMIT, min(wish, WISH_LIMIT)) for wish in wishes]


def _wish(state: State, group: int, wishes: list[int]) -> None:
    """Add what each node is worth to a preferred group: for every guest of it that is there already."""
    asked = state.index.groups[group]
    reach = state.index.reach[asked.topology]
    weight = asked.weight if asked.rule is problem.Rule.TOGETHER else -asked.weight
    for n, count in enumerate(state.wished[group]):
        if count:
            for other in range(len(wishes)):
                if reach[n] >> other & 1:
                    wishes[other] += weight * count
