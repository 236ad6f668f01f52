"""Where guests go when nodes are thought away."""

import dataclasses
from collections.abc import Callable, Mapping

from pveha.decide.placing import (
    bound,
    effort,
    greedy,
    preemption,
    problem,
    repair,
    restarts,
    search,
    settle,
    why,
)
from pveha.decide.placing.index import Index
from pveha.decide.placing.state import State

Beginning = Callable[[State, effort.Effort], State]


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """A plan. Guests are named by vmid."""

    targets: Mapping[int, str]
    """The node of each guest that is placed, in the order of placing."""
    left: Mapping[int, why.Why]
    """Why the others stay down, in the order of placing: the last is the least important."""
    stopped: Mapping[int, int]
    """Running guests to stop first, and which guest gets each one's place."""


def plan(asked: problem.Problem, down: frozenset[str], preempt: bool = False) -> Placement:
    """Place every guest that runs on a node of `down`, or nowhere, on the other nodes.

    `preempt`: preemptible guests of a lower priority may be stopped for those that would stay down.
    """
    return of(Index(asked), down, preempt)


def of(index: Index, down: frozenset[str], preempt: bool = False) -> Placement:
    """`plan` for a problem that is counted already."""
    arrangement = arrange(index, index.bits(down))
    for_whom: dict[int, int] = {}
    if preempt:
        arrangement, for_whom = preemption.make_room(arrangement)
    return told(arrangement, for_whom)


def told(arrangement: State, for_whom: Mapping[int, int] | None = None) -> Placement:
    """An arrangement as a plan; `for_whom`: the stopped guests, and who gets the place of each."""
    index, for_whom = arrangement.index, for_whom or {}
    vmid, nodes = index.vmid, index.nodes
    return Placement(
        {vmid[g]: nodes[arrangement.node[g]].name for g in arrangement.guests if g in arrangement.node},
        {vmid[g]: why.why(arrangement, g) for g in arrangement.left()},
        {vmid[g]: vmid[for_whom[g]] for g in sorted(for_whom)},
    )


def arrange(index: Index, down: int, budget: effort.Effort | None = None) -> State:
    """The arrangement of a plan without preemption. `budget`: of `effort.STEPS`, to see what it took."""
    first = quick(index, down)
    if bound.reached(first):
        return first
    budget = budget or effort.Effort(effort.STEPS)
    best = _attempt(_BEGINNINGS[0], index, down, budget)
    for begin in _BEGINNINGS[1:]:
        if bound.reached(best):
            break
        trial = _attempt(begin, index, down, budget)
        if trial.harm() < best.harm():
            best = trial
    if not bound.reached(best):
        search.improve(best, budget)
        repair.insert_all(best, best.left(), budget)
    settle.outrank(best)
    return best


def _attempt(begin: Beginning, index: Index, down: int, budget: effort.Effort) -> State:
    """A first pass, repaired."""
    part = budget.part(effort.STEPS // 8)
    trial = begin(State(index, down), part)
    repair.insert_all(trial, trial.left(), part)
    repair.exchange(trial, part)
    repair.insert_all(trial, trial.left(), part)
    budget.back(part)
    return trial


def quick(index: Index, down: int) -> State:
    """The first pass alone. What it leaves down is never better than what `arrange` does."""
    arrangement = State(index, down)
    greedy.fill(arrangement, arrangement.guests)
    return arrangement


def _as_planned(trial: State, _: effort.Effort) -> State:
    greedy.keep_planned(trial)
    greedy.fill(trial, trial.left())
    return trial


def _balanced(trial: State, _: effort.Effort) -> State:
    greedy.fill(trial, trial.guests)
    return trial


def _tight(trial: State, part: effort.Effort) -> State:
    return restarts.pack(trial, greedy.large_first(trial, trial.guests), greedy.tightest, part)


def _small(trial: State, part: effort.Effort) -> State:
    return restarts.pack(trial, greedy.small_first(trial, trial.guests), greedy.tightest, part)


def _even(trial: State, part: effort.Effort) -> State:
    return restarts.pack(trial, greedy.large_first(trial, trial.guests), greedy.evenest, part)


def _small_even(trial: State, part: effort.Effort) -> State:
    return restarts.pack(trial, greedy.small_first(trial, trial.guests), greedy.evenest, part)


_BEGINNINGS = (_as_planned, _balanced, _tight, _small, _even, _small_even)
"""First passes to repair and compare, of equals the first: what was planned, balance, tight packing, many
small ones."""
