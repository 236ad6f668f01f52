"""Plans one can check by eye: sizes in GiB."""

import dataclasses

from pveha.decide.placing import plan, problem, why
from pveha.decide.placing.problem import Group, Rule, Topology

GIB = 1 << 30
PVE1 = frozenset(("pve1",))


def node(name: str, memory: int, zone: str = "", **other: object) -> problem.Node:
    return dataclasses.replace(problem.Node(name, memory * GIB, zone=zone), **other)  # type: ignore[arg-type]


def guest(vmid: int, memory: int, where: str = "pve1", **other: object) -> problem.Guest:
    return dataclasses.replace(problem.Guest(vmid, memory * GIB, where), **other)  # type: ignore[arg-type]


def planned(
    nodes: list[problem.Node],
    guests: list[problem.Guest],
    *groups: Group,
    down: frozenset[str] = PVE1,
    preempt: bool = False,
) -> plan.Placement:
    return plan.plan(problem.Problem(tuple(nodes), tuple(guests), groups), down, preempt)


def three(memory: int = 32) -> list[problem.Node]:
    return [node(f"pve{n}", memory) for n in (1, 2, 3)]


def reason(made: plan.Placement, vmid: int) -> tuple[why.Reason, str]:
    return made.left[vmid].reason, made.left[vmid].sentence


def test_load_is_spread() -> None:
    made = planned(three(), [guest(vmid, 4) for vmid in range(100, 106)])
    assert sorted(made.targets.values()) == ["pve2"] * 3 + ["pve3"] * 3


def test_guests_that_run_are_not_moved_and_those_that_run_nowhere_are_placed() -> None:
    made = planned(three(), [guest(100, 4), guest(101, 30, "pve2"), guest(102, 4, ""), guest(103, 4, "gone")])
    assert made.targets == {100: "pve3", 102: "pve3", 103: "pve3"}


def test_planned_node_stays_until_another_is_clearly_better() -> None:
    kept = planned(three(), [guest(100, 4, planned="pve3"), guest(101, 3, "pve3")])
    assert kept.targets == {100: "pve3"}
    left = planned(three(), [guest(100, 4, planned="pve3"), guest(101, 4, "pve3")])
    assert left.targets == {100: "pve2"}


def test_wishes_before_rank_before_room() -> None:
    nodes = [node("pve1", 32), node("pve2", 32), node("pve3", 64), node("pve4", 99, rank=1)]
    assert planned(nodes, [guest(100, 4)]).targets == {100: "pve3"}
    assert planned(nodes, [guest(100, 4, affinity={"pve2": 1})]).targets == {100: "pve2"}
    assert planned(nodes, [guest(100, 4, affinity={"pve2": 1, "pve4": 2})]).targets == {100: "pve4"}


def test_preferred_groups_are_kept_where_that_costs_nobody_his_place() -> None:
    apart = Group("apart", Rule.SEPARATE, frozenset((100, 101)), required=False)
    nodes = [node("pve1", 8), node("pve2", 64), node("pve3", 8)]
    assert planned(nodes, [guest(100, 4), guest(101, 4, "pve2")], apart).targets == {100: "pve3"}
    assert planned(nodes, [guest(100, 16), guest(101, 4, "pve2")], apart).targets == {100: "pve2"}
    together = dataclasses.replace(apart, rule=Rule.TOGETHER)
    assert planned(nodes, [guest(100, 2), guest(101, 4, "pve3")], together).targets == {100: "pve3"}


def test_small_guests_make_room_for_a_large_one_among_those_being_placed() -> None:
    """Placing in turn would spread 100 and 101 and leave 102, which only pve2 can run, down."""
    nodes = [node("pve1", 32), node("pve2", 10), node("pve3", 10)]
    guests = [
        guest(100, 5, priority=9),
        guest(101, 5, priority=9),
        guest(102, 8, eligible=frozenset(("pve2",))),
    ]
    made = planned(nodes, guests)
    assert made.left == {}
    assert made.targets == {100: "pve3", 101: "pve3", 102: "pve2"}


def test_higher_priority_first_then_most_guests() -> None:
    nodes = [node("pve1", 32), node("pve2", 8)]
    small = [guest(vmid, 2) for vmid in (101, 102, 103, 104)]
    assert set(planned(nodes, [guest(100, 8, priority=1), *small]).targets) == {100}
    assert set(planned(nodes, [guest(100, 8), *small]).targets) == {101, 102, 103, 104}


def test_together_goes_where_all_fit() -> None:
    """pve2 has most room, and pve3 room for both."""
    nodes = [node("pve1", 32), node("pve2", 24), node("pve3", 16)]
    pair = Group("pair", Rule.TOGETHER, frozenset((100, 101)))
    guests = [guest(100, 10), guest(101, 4, eligible=frozenset(("pve1", "pve3")))]
    assert planned(nodes, guests, pair).targets == {100: "pve3", 101: "pve3"}


def test_separate_zones() -> None:
    nodes = [node("pve1", 8, "a"), node("pve2", 99, "b"), node("pve3", 99, "b"), node("pve4", 8, "c")]
    apart = Group("pg", Rule.SEPARATE, frozenset((100, 101)), topology=Topology.ZONE)
    assert planned(nodes, [guest(100, 4), guest(101, 4, "pve2")], apart).targets == {100: "pve4"}
    made = planned(nodes, [guest(100, 9), guest(101, 4, "pve2")], apart)
    assert reason(made, 100) == (
        why.Reason.SEPARATED,
        (
            "every node that has room for it (pve2, pve3) is kept from it by pg because of 101: "
            "free 9216 MiB on another node, add a node, or change the rule"
        ),
    )


def test_no_capacity_says_what_is_missing_and_where() -> None:
    made = planned(three(8), [guest(100, 6), guest(101, 4, "pve2"), guest(102, 3, "pve3")])
    assert reason(made, 100) == (
        why.Reason.NO_CAPACITY,
        (
            "it needs 6144 MiB, and of pve2, pve3 none has that: pve3 is nearest, it lacks about 1024 MiB; "
            "free that there, or add memory or a node"
        ),
    )
    assert made.left[100].needs == why.Needs("pve3", GIB, 0.0)


def test_no_capacity_for_want_of_cpu() -> None:
    nodes = [node("pve1", 8), node("pve2", 8, cpu=2.0)]
    made = planned(nodes, [guest(100, 1, cpu=1.5), guest(101, 1, "pve2", cpu=1.0)])
    assert reason(made, 100)[0] is why.Reason.NO_CAPACITY
    assert made.left[100].sentence == (
        "it needs 1.5 CPUs, and of pve2 none has that: pve2 is nearest, it lacks 0.5 CPUs; free that there, "
        "or add CPUs or a node"
    )
    assert made.left[100].needs == why.Needs("pve2", 0, 0.5)


def test_no_capacity_for_want_of_memory_here_and_cpu_there() -> None:
    nodes = [node("pve1", 8), node("pve2", 1), node("pve3", 8, cpu=1.0)]
    made = planned(nodes, [guest(100, 2, cpu=2.0)])
    assert made.left[100].sentence == (
        "it needs 2048 MiB and 2 CPUs, and of pve2, pve3 none has both: pve3 is nearest, it lacks 1 CPU; "
        "free that there, or add memory, CPUs or a node"
    )


def test_whom_others_took_only_memory_from_is_not_told_of_them() -> None:
    nodes = [node("pve1", 8), node("pve2", 8, cpu=2.0)]
    others = "guests of the same or a higher priority that fail over too take what was free"
    made = planned(nodes, [guest(100, 1, cpu=4.0), guest(101, 1, cpu=1.0)])
    assert made.left.keys() == {100}
    assert others not in made.left[100].sentence
    made = planned(nodes, [guest(100, 1, cpu=2.0), guest(101, 2, cpu=1.0, priority=9)])
    assert made.left.keys() == {100}
    assert others in made.left[100].sentence


def test_no_eligible_node() -> None:
    made = planned(three(), [guest(100, 1, eligible=PVE1), guest(101, 1, eligible=frozenset())])
    assert reason(made, 100) == (
        why.Reason.NO_ELIGIBLE_NODE,
        (
            "it can run only on pve1, and none of these is up and takes guests: bring one back, or let it "
            "run on more nodes"
        ),
    )
    assert reason(made, 101)[0] is why.Reason.NO_ELIGIBLE_NODE
    assert "it can run on no other node" in made.left[101].sentence


def test_no_node() -> None:
    made = planned([node("pve1", 8), node("pve2", 8, accepts=False)], [guest(100, 1)])
    assert reason(made, 100)[0] is why.Reason.NO_NODE


def test_together_with_guests_that_stay() -> None:
    pair = Group("pair", Rule.TOGETHER, frozenset((100, 101)))
    made = planned(three(8), [guest(100, 6), guest(101, 4, "pve2")], pair)
    assert reason(made, 100) == (
        why.Reason.TOGETHER_SPLIT,
        (
            "pair wants it on pve2, where the others are, but pve2 is nearest, it lacks about 2048 MiB: "
            "free that there, or change the group"
        ),
    )


def test_lowest_priority_is_stopped_first_and_no_more_than_needed() -> None:
    running = [
        guest(101, 4, "pve2", priority=5, preemptible=True),
        guest(102, 4, "pve2", priority=1, preemptible=True),
        guest(103, 4, "pve3", priority=1, preemptible=False),
        guest(104, 4, "pve3", priority=2, preemptible=True),
    ]
    wants = guest(100, 3, priority=9)
    assert reason(planned(three(8), [wants, *running]), 100)[0] is why.Reason.NO_CAPACITY
    made = planned(three(8), [wants, *running], preempt=True)
    assert (made.targets, made.stopped, made.left) == ({100: "pve2"}, {102: 100}, {})


def test_equals_are_not_stopped() -> None:
    running = [guest(vmid, 8, f"pve{vmid - 99}", preemptible=True) for vmid in (101, 102)]
    made = planned(three(8), [guest(100, 3), *running], preempt=True)
    assert set(made.left) == {100}
    assert made.stopped == {}
