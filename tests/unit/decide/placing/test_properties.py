"""What holds for every plan, whatever the cluster."""

import dataclasses
import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

import placing_problems as random_problems
from placing_problems import problems, with_down
from pveha.decide.placing import plan, problem, singles

Asked = tuple[problem.Problem, frozenset[str]]


@given(with_down(problems()), st.booleans())
@settings(max_examples=500, deadline=None)
def test_no_plan_breaks_a_hard_rule(drawn: Asked, preempt: bool) -> None:
    asked, down = drawn
    made = plan.plan(asked, down, preempt)
    assert random_problems.violations(asked, down, made) == []


@given(with_down(problems()), st.booleans())
@settings(max_examples=500, deadline=None)
def test_nobody_is_down_for_a_lower_priority_that_takes_its_place(drawn: Asked, preempt: bool) -> None:
    """Thought away all guests of lower priority that were placed, one left down still has no place."""
    asked, down = drawn
    made = plan.plan(asked, down, preempt)
    guests = {guest.vmid: guest for guest in asked.guests}
    for vmid in made.left:
        alone = random_problems.below(asked, guests[vmid].priority, made)
        for node in asked.nodes:
            tried = {**alone.targets, vmid: node.name}
            left = frozenset(random_problems.to_place(asked, down)) - set(tried)
            assert random_problems.violations(
                asked,
                down,
                dataclasses.replace(random_problems.hypothetical(tried, left), stopped=made.stopped),
            ), f"{vmid} could run on {node.name}"


@given(with_down(problems(nodes=3, guests=5, groups=3, priorities=2)))
@settings(max_examples=200, deadline=None)
def test_small_plans_are_the_best_there_are(drawn: Asked) -> None:
    asked, down = drawn
    made = plan.plan(asked, down)
    assert random_problems.harm(asked, frozenset(made.left)) == random_problems.least_harm(asked, down)


@given(with_down(problems(nodes=4, guests=9)), random_problems.new_nodes)
@settings(max_examples=300, deadline=None)
def test_another_node_never_leaves_more_down(drawn: Asked, new: problem.Node) -> None:
    """More of a lower priority only for one more of a higher."""
    asked, down = drawn
    before = plan.plan(asked, down)
    after = plan.plan(dataclasses.replace(asked, nodes=(*asked.nodes, new)), down)
    old, now = (random_problems.harm(asked, frozenset(each.left)) for each in (before, after))
    assert now <= old


@given(with_down(problems(guests=40)), random_problems.new_nodes)
@settings(max_examples=200, deadline=None)
def test_nor_does_it_in_a_cluster_of_any_size_that_was_planned_before(
    drawn: Asked, new: problem.Node
) -> None:
    asked, down = drawn
    before = plan.plan(asked, down)
    planned = tuple(
        dataclasses.replace(guest, planned=before.targets.get(guest.vmid, "")) for guest in asked.guests
    )
    after = plan.plan(problem.Problem((*asked.nodes, new), planned, asked.groups), down)
    old, now = (random_problems.harm(asked, frozenset(each.left)) for each in (before, after))
    assert now <= old


@given(with_down(problems()), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_equal_problems_get_equal_plans(drawn: Asked, preempt: bool, dice: random.Random) -> None:
    asked, down = drawn
    shuffled = problem.Problem(
        tuple(dice.sample(asked.nodes, len(asked.nodes))),
        tuple(dice.sample(asked.guests, len(asked.guests))),
        tuple(dice.sample(asked.groups, len(asked.groups))),
    )
    one, other = plan.plan(asked, down, preempt), plan.plan(shuffled, down, preempt)
    assert one == other
    assert list(one.left) == list(other.left)
    assert list(one.targets) == list(other.targets)


@given(with_down(problems()))
@settings(max_examples=200, deadline=None)
def test_preemption_never_leaves_a_higher_priority_worse(drawn: Asked) -> None:
    asked, down = drawn
    without, stopping = plan.plan(asked, down), plan.plan(asked, down, preempt=True)
    down_at_last = frozenset(stopping.left) | frozenset(stopping.stopped)
    assert random_problems.harm(asked, down_at_last) <= random_problems.harm(asked, frozenset(without.left))


@given(problems(), st.randoms(use_true_random=True))
@settings(max_examples=200, deadline=None)
def test_plans_made_after_a_change_are_those_made_from_scratch(
    asked: problem.Problem, dice: random.Random
) -> None:
    known = singles.plan_each(asked)
    for _ in range(3):
        asked = changed(dice, asked)
        known = singles.plan_each(asked, known)
        assert known == singles.plan_each(asked)
    for node in asked.nodes:
        assert known.plans[node.name] == plan.plan(asked, frozenset((node.name,)))


@given(problems(guests=40), st.randoms(use_true_random=True))
@settings(max_examples=100, deadline=None)
def test_plans_searched_for_one_at_a_time_are_the_same_in_the_end(
    asked: problem.Problem, dice: random.Random
) -> None:
    known = singles.plan_each(asked)
    asked = changed(dice, asked)
    searched = []
    for _ in range(len(asked.nodes) + 1):
        searched.append(len(known.behind))
        known = singles.plan_each(asked, known, searches=1)
    assert known == singles.plan_each(asked)
    assert all(after < before for before, after in itertools.pairwise(searched[1:]) if before)


def changed(dice: random.Random, asked: problem.Problem) -> problem.Problem:
    """The problem with one guest, node or group replaced, or none."""
    what = dice.choice(["guest", "guest", "node", "group", "nothing"])
    if what == "guest" and asked.guests:
        old = dice.choice(asked.guests)
        new = random_problems.guest(dice, old.vmid, [node.name for node in asked.nodes])
        return dataclasses.replace(asked, guests=tuple(new if each is old else each for each in asked.guests))
    if what == "node":
        name = dice.choice(asked.nodes).name
        node = random_problems.node(dice, name)
        return dataclasses.replace(
            asked, nodes=tuple(node if each.name == name else each for each in asked.nodes)
        )
    if what == "group" and asked.groups:
        first, *rest = asked.groups
        group = random_problems.group(dice, first.name, len(asked.guests))
        return dataclasses.replace(asked, groups=(group, *rest))
    return asked
