"""The parts that improve an arrangement, each by itself."""

import dataclasses
import random

from pveha.decide.placing import effort, plan, problem, search, settle
from pveha.decide.placing.index import Index
from pveha.decide.placing.state import State

GIB = 1 << 30


def guest(vmid: int, memory: int, **other: object) -> problem.Guest:
    return dataclasses.replace(problem.Guest(vmid, memory * GIB), **other)  # type: ignore[arg-type]


def test_higher_priority_takes_the_place_of_a_lower_which_moves_on_if_it_can() -> None:
    nodes = (problem.Node("pve1", 8 * GIB), problem.Node("pve2", 4 * GIB))
    guests = (guest(100, 6, priority=9), guest(101, 3), guest(102, 3))
    index = Index(problem.Problem(nodes, guests))
    arrangement = State(index, 0)
    for vmid in (101, 102):
        arrangement.put(index.at[vmid], 0)
    settle.outrank(arrangement)
    assert arrangement.node[index.at[100]] == 0
    assert sorted(arrangement.node.values()) == [0, 1]


def test_search_finds_the_only_way_to_place_all() -> None:
    nodes = tuple(problem.Node(f"pve{n}", 10 * GIB) for n in (1, 2, 3))
    guests = tuple(guest(100 + n, size) for n, size in enumerate((7, 6, 5, 5, 4, 3)))
    arrangement = State(Index(problem.Problem(nodes, guests)), 0)
    search.improve(arrangement, effort.Effort(1000))
    assert arrangement.left() == []
    assert arrangement.memory == [0, 0, 0]


def test_what_was_planned_is_kept_where_the_search_would_not_find_it() -> None:
    """Nodes cut into guests without a rest: hardly found again, but valid as planned."""
    dice = random.Random(7)
    nodes = tuple(problem.Node(f"pve{n:02d}", 997 * GIB) for n in range(12))
    guests: list[problem.Guest] = []
    for node in nodes:
        cuts = sorted(dice.sample(range(1, 997), 5))
        for start, end in zip([0, *cuts], [*cuts, 997], strict=True):
            guests.append(guest(100 + len(guests), end - start, planned=node.name))
    assert plan.plan(problem.Problem(nodes, tuple(guests)), frozenset()).left == {}
    forgotten = tuple(dataclasses.replace(each, planned="") for each in guests)
    assert plan.plan(problem.Problem(nodes, forgotten), frozenset()).left != {}
