"""Every combination of failures, and what each answer says of itself."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import placing_problems as random_problems
from pveha.decide.placing import admission, plan, problem

GIB = 1 << 30


def cluster(memory: int, zones: str = "aabbc") -> problem.Problem:
    """Five nodes; on each a guest of 4 GiB and one of 3 GiB, whose priority is the number of the node."""
    return problem.Problem(
        tuple(
            problem.Node(f"pve{number}", memory * GIB, zone=f"zone-{zone}")
            for number, zone in enumerate(zones, start=1)
        ),
        tuple(
            problem.Guest(100 * n + size, size * GIB, f"pve{n}", priority=n)
            for n in range(1, len(zones) + 1)
            for size in (3, 4)
        ),
    )


def by_node(asked: problem.Problem, failures: int) -> admission.Admission:
    return admission.admit(asked, failures, admission.each_node(asked))


def test_room_for_one_failure_and_not_for_two() -> None:
    asked = cluster(11)
    assert by_node(asked, 1).fits
    answer = by_node(asked, 2)
    assert not answer.fits
    assert answer.worst == ("pve4", "pve5")
    assert [vmid // 100 for vmid in answer.left] == [4]
    assert (answer.combinations, answer.checked, answer.exact) == (10, 10, True)


def test_zones_fail_as_one() -> None:
    asked = cluster(11)
    answer = admission.admit(asked, 1, admission.each_zone(asked))
    assert answer.worst == ("zone-b",)
    assert [vmid // 100 for vmid in answer.left] == [3]
    assert answer.combinations == 3
    roomy = cluster(14)
    assert admission.admit(roomy, 1, admission.each_zone(roomy)).fits


def test_as_many_failures_as_nodes_leave_one() -> None:
    assert by_node(cluster(99), 7).failures == 4
    assert by_node(problem.Problem((), ()), 1).failures == 0


def test_too_many_combinations_are_bounded_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PLACINGS", 6 * 4)
    answer = by_node(cluster(11), 2)
    assert (answer.combinations, answer.checked, answer.exact) == (10, 6, False)
    assert not answer.fits


def test_too_many_repairs_are_bounded_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "REPAIRS", 0)
    answer = by_node(cluster(11), 2)
    assert not answer.fits
    assert not answer.exact


@given(random_problems.problems(), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_exact_answers_are_those_of_planning_everything(asked: problem.Problem, failures: int) -> None:
    answer = by_node(asked, failures)
    assert answer.exact
    names = sorted(node.name for node in asked.nodes)
    harms = {
        combination: random_problems.harm(asked, frozenset(plan.plan(asked, frozenset(combination)).left))
        for combination in itertools.combinations(names, answer.failures)
    }
    nothing = random_problems.harm(asked, frozenset())
    assert harms.get(answer.worst, nothing) == max(harms.values(), default=nothing)
    assert random_problems.harm(asked, frozenset(answer.left)) == harms.get(answer.worst, nothing)
    priority = {guest.vmid: guest.priority for guest in asked.guests}
    assert [priority[vmid] for vmid in answer.left] == sorted(priority[vmid] for vmid in answer.left)
