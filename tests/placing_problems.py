"""Random problems for the placing engine, and an independent judge of its plans: plain loops over the rules
as docs/placing-engine.md words them, nothing shared with the engine but the values that go in and out."""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence

from hypothesis import strategies as st

from pveha.decide.placing import plan, problem

NAMES = ("a1", "a2", "b1", "b2", "c1", "c2")
NEW = "new"
GIB = 1 << 30


@st.composite
def problems(
    draw: st.DrawFn, nodes: int = 6, guests: int = 24, groups: int = 6, priorities: int = 3
) -> problem.Problem:
    """Mostly tight: guests of 1-8 GiB on nodes of 8-32. Thrown by dice from a seed that hypothesis draws:
    values drawn one by one are mostly minimal, and few groups would have guests to place."""
    dice = draw(st.randoms(use_true_random=True))
    names = NAMES[: dice.randint(1, nodes)]
    count = dice.randint(2, guests)
    return problem.Problem(
        tuple(node(dice, name) for name in names),
        tuple(guest(dice, 100 + n, names, priorities) for n in range(count)),
        tuple(group(dice, f"g{n}", count) for n in range(dice.randint(0, groups))),
    )


def node(dice: random.Random, name: str) -> problem.Node:
    return problem.Node(
        name,
        dice.randint(8, 32) * GIB,
        cpu=dice.choice([0.0, 0.0, 8.0, 16.0]),
        used_memory=dice.choice([0, 0, 2]) * GIB,
        zone=dice.choice(["", name[0], name[0]]),
        rank=dice.choice([0, 0, 0, 1]),
        accepts=dice.random() < 0.9,
    )


def guest(dice: random.Random, vmid: int, names: Sequence[str], priorities: int = 3) -> problem.Guest:
    few = frozenset(dice.choices([*names, NEW, "gone"], k=dice.randint(0, 4)))
    wishes = {name: dice.randint(-5, 5) for name in dice.choices([*names, "gone"], k=2)}
    return problem.Guest(
        vmid,
        dice.randint(1, 8) * GIB,
        dice.choice([*names, *names, ""]),
        cpu=dice.choice([0.5, 1.0, 2.5]),
        priority=dice.randrange(priorities) * 100,
        order=dice.randint(0, 1),
        eligible=dice.choice([None, None, few]),
        affinity=dice.choice([{}, {}, wishes]),
        planned=dice.choice(["", "gone", *names]),
        preemptible=dice.random() < 0.5,
    )


def group(dice: random.Random, name: str, guests: int) -> problem.Group:
    return problem.Group(
        name,
        dice.choice(list(problem.Rule)),
        frozenset(dice.choices(range(100, 100 + guests), k=dice.randint(2, 4))),
        required=dice.random() < 0.8,
        topology=dice.choice(list(problem.Topology)),
    )


new_nodes = st.randoms(use_true_random=True).map(lambda dice: node(dice, NEW))


@st.composite
def with_down(
    draw: st.DrawFn, asked: st.SearchStrategy[problem.Problem]
) -> tuple[problem.Problem, frozenset[str]]:
    """A problem and some of its nodes, mostly one."""
    drawn = draw(asked)
    names = [each.name for each in drawn.nodes]
    dice = draw(st.randoms(use_true_random=True))
    return drawn, frozenset(dice.sample(names, min(len(names), dice.choice([0, 1, 1, 1, 2, 3]))))


def to_place(asked: problem.Problem, down: frozenset[str]) -> set[int]:
    up = {node.name for node in asked.nodes} - down
    return {guest.vmid for guest in asked.guests if guest.node not in up}


def violations(asked: problem.Problem, down: frozenset[str], made: plan.Placement) -> list[str]:
    """Every hard rule that the plan breaks, as sentences."""
    placed_or_left = sorted([*made.targets, *made.left])
    if placed_or_left != sorted(to_place(asked, down)):
        return ["not every guest to be placed is placed or left, once"]
    return [*_unfit(asked, down, made), *_overfull(asked, made, down), *_broken_groups(asked, down, made)]


def locations(asked: problem.Problem, down: frozenset[str], made: plan.Placement) -> dict[int, str]:
    """Node of every guest that runs once the plan is carried out."""
    missing = to_place(asked, down)
    staying = {
        guest.vmid: guest.node
        for guest in asked.guests
        if guest.vmid not in missing and guest.vmid not in made.stopped
    }
    return staying | dict(made.targets)


def _unfit(asked: problem.Problem, down: frozenset[str], made: plan.Placement) -> Iterator[str]:
    guests = {guest.vmid: guest for guest in asked.guests}
    nodes = {node.name: node for node in asked.nodes}
    for vmid, name in made.targets.items():
        if name in down or name not in nodes or not nodes[name].accepts:
            yield f"{vmid} is put on {name}, which takes no guests"
        eligible = guests[vmid].eligible
        if eligible is not None and name not in eligible:
            yield f"{vmid} is put on {name}, where it cannot run"
    for vmid, whom in made.stopped.items():
        if not guests[vmid].preemptible or guests[vmid].priority >= guests[whom].priority:
            yield f"{vmid} is stopped for {whom}"
        if vmid in to_place(asked, down):
            yield f"{vmid} is stopped but does not run"


def _overfull(asked: problem.Problem, made: plan.Placement, down: frozenset[str]) -> Iterator[str]:
    guests = {guest.vmid: guest for guest in asked.guests}
    where = locations(asked, down, made)
    for node in asked.nodes:
        here = [guests[vmid] for vmid, name in where.items() if name == node.name]
        if node.name not in made.targets.values():
            continue  # full already, maybe, but not by the plan
        if sum(guest.memory for guest in here) + node.used_memory > node.memory:
            yield f"{node.name} has more memory used than there is"
        if node.cpu and sum(guest.cpu for guest in here) + node.used_cpu > node.cpu + 1e-9:
            yield f"{node.name} has more CPU used than there is"


def _broken_groups(asked: problem.Problem, down: frozenset[str], made: plan.Placement) -> Iterator[str]:
    zones = {node.name: node.zone or f"only {node.name}" for node in asked.nodes}
    where = locations(asked, down, made)
    for group in asked.groups:
        if not group.required:
            continue
        wide = group.topology is problem.Topology.ZONE
        places = {vmid: zones[where[vmid]] if wide else where[vmid] for vmid in group.vmids if vmid in where}
        placed = [vmid for vmid in places if vmid in made.targets]
        staying = {place for vmid, place in places.items() if vmid not in made.targets}
        if group.rule is problem.Rule.SEPARATE:
            for vmid in placed:
                if sum(place == places[vmid] for place in places.values()) > 1:
                    yield f"{vmid} is not alone of {group.name} on {places[vmid]}"
        else:
            targets = {places[vmid] for vmid in placed}
            if not targets <= staying if staying else len(targets) > 1:
                yield f"{group.name} is split"


def harm(asked: problem.Problem, left: frozenset[int]) -> tuple[int, ...]:
    """How many guests are left down, by priority, the highest first: comparable."""
    levels = sorted({guest.priority for guest in asked.guests}, reverse=True)
    return tuple(
        sum(guest.vmid in left and guest.priority == level for guest in asked.guests) for level in levels
    )


def least_harm(asked: problem.Problem, down: frozenset[str]) -> tuple[int, ...]:
    """By trying every arrangement; for very small problems."""
    vmids = sorted(to_place(asked, down))
    names = [node.name for node in asked.nodes if node.name not in down]
    best = harm(asked, frozenset(vmids))
    for choice in itertools.product([*names, ""], repeat=len(vmids)):
        targets = {vmid: name for vmid, name in zip(vmids, choice, strict=True) if name}
        left = frozenset(vmids) - set(targets)
        tried = harm(asked, left)
        if tried < best and not violations(asked, down, hypothetical(targets, left)):
            best = tried
    return best


def hypothetical(targets: dict[int, str], left: frozenset[int]) -> plan.Placement:
    """A plan that nobody made, to be judged."""
    return plan.Placement(targets, dict.fromkeys(left), {})  # type: ignore[arg-type]  # the judge reads keys


def below(asked: problem.Problem, priority: int, made: plan.Placement) -> plan.Placement:
    """The plan without the guests of a lower priority that it places."""
    rank = {guest.vmid: guest.priority for guest in asked.guests}
    targets = {vmid: name for vmid, name in made.targets.items() if rank[vmid] >= priority}
    return dataclasses.replace(made, targets=targets)
