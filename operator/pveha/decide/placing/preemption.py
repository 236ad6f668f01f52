"""Stops preemptible guests of a lower priority for those that would stay down."""

from pveha.decide.placing import settle, state
from pveha.decide.placing.state import State


def make_room(arrangement: State) -> tuple[State, dict[int, int]]:
    """An arrangement in which fewer are left down, and each guest to be stopped with the one that gets its
    place.

    Of all sets of guests that would make room on some node, the one whose highest priority is the lowest is
    stopped, then the one with the fewest guests, then the one with the least memory.
    """
    for_whom: dict[int, int] = {}
    tried: set[int] = set()
    while waiting := [g for g in arrangement.left() if g not in tried]:
        g = waiting[0]
        tried.add(g)
        lower = settle.take_lower(arrangement, arrangement.index.level[g])
        found = _cheapest(arrangement, g)
        if found is not None:
            n, victims = found
            for_whom |= dict.fromkeys(victims, g)
            arrangement = _with_stopped(arrangement, frozenset(for_whom))
            arrangement.put(g, n)
        settle.put_back(arrangement, lower)
        settle.outrank(arrangement)
    return _spare(arrangement, for_whom)


def _with_stopped(arrangement: State, stopped: frozenset[int]) -> State:
    """The same arrangement with other running guests stopped."""
    twin = State(arrangement.index, arrangement.down, stopped)
    for g, n in arrangement.node.items():
        twin.put(g, n)
    return twin


def _cheapest(arrangement: State, g: int) -> tuple[int, list[int]] | None:
    """The node for `g` and whom to stop for it."""
    best: tuple[tuple[int, int, int, int], list[int]] | None = None
    for n in arrangement.candidates(g):
        victims = _on(arrangement, g, n)
        if victims is None:
            continue
        index = arrangement.index
        highest = -min((index.level[each] for each in victims), default=len(index.guests))
        cost = (highest, len(victims), sum(index.memory[each] for each in victims), n)
        if best is None or cost < best[0]:
            best = cost, victims
    return None if best is None else (best[0][3], best[1])


def _on(arrangement: State, g: int, n: int) -> list[int] | None:
    """Whom to stop so that `g` can be placed on `n`; None: stopping does not help there."""
    index = arrangement.index
    may = [
        each
        for each in reversed(index.on[n])
        if _stoppable(arrangement, each, g) and each not in arrangement.stopped
    ]
    victims = _separated(arrangement, g, n)
    if victims is None:
        return None
    memory = index.memory[g] - arrangement.memory[n]
    cpu = index.cpu[g] - arrangement.cpu[n]
    for each in victims:
        if index.home[each] == n:
            memory -= index.memory[each]
            cpu -= index.cpu[each]
    needed: list[int] = []
    for each in may:
        if memory <= 0 and cpu <= 0:
            break
        if each not in victims:
            needed.append(each)
            memory -= index.memory[each]
            cpu -= index.cpu[each]
    if memory > 0 or cpu > 0:
        return None
    for each in sorted(needed):
        if memory + index.memory[each] <= 0 and cpu + index.cpu[each] <= 0:
            needed.remove(each)
            memory += index.memory[each]
            cpu += index.cpu[each]
    return [*victims, *needed]


def _stoppable(arrangement: State, victim: int, g: int) -> bool:
    """Whether `victim` may be stopped for `g`. Not one that a group keeps together with guests to be placed:
    where it runs says where they may go."""
    index = arrangement.index
    return (
        index.guests[victim].preemptible
        and index.level[victim] > index.level[g]
        and not any(group in arrangement.anchors for group in index.together.get(victim, ()))
    )


def _separated(arrangement: State, g: int, n: int) -> list[int] | None:
    """Running guests to stop because a group keeps `g` apart from them; None: one may not be stopped, or what
    forbids `n` is something else."""
    index = arrangement.index
    found: list[int] = []
    for group in index.together.get(g, ()):
        if arrangement.anchors[group] and not arrangement.anchors[group] >> n & 1:
            return None
    for group in index.separate.get(g, ()):
        if not arrangement.taken[group] >> n & 1:
            continue
        topology = index.groups[group].topology
        if any(
            each in arrangement.node and state.same_place(index, topology, n, arrangement.node[each])
            for each in index.members[group]
        ):
            return None
        for each in arrangement.stayers(group):
            if not state.same_place(index, topology, n, index.home[each]):
                continue
            if not _stoppable(arrangement, each, g):
                return None
            if each not in found:
                found.append(each)
    return found


def _spare(arrangement: State, for_whom: dict[int, int]) -> tuple[State, dict[int, int]]:
    """Let those run on that need not be stopped after all, the most important first."""
    for g in sorted(for_whom):
        rest = {each: whom for each, whom in for_whom.items() if each != g}
        trial = _with_stopped(arrangement, frozenset(rest))
        n = trial.index.home[g]
        if trial.memory[n] >= 0 and trial.cpu[n] >= 0 and _rules_hold(trial, g):
            arrangement, for_whom = trial, rest
    return arrangement, for_whom


def _rules_hold(trial: State, g: int) -> bool:
    """Whether no placed guest is where `g`, which runs on, must not be with it."""
    index = trial.index
    for group in index.separate.get(g, ()):
        topology = index.groups[group].topology
        for each in index.members[group]:
            if each in trial.node and state.same_place(index, topology, index.home[g], trial.node[each]):
                return False
    for group in index.together.get(g, ()):
        reach = index.reach[index.groups[group].topology]
        for each in index.members[group]:
            if each in trial.node and not reach[index.home[g]] >> trial.node[each] & 1:
                return False
    return True
