"""The plan for every node by itself, and again after a change."""

import dataclasses
from collections.abc import Mapping

from pveha.decide.placing import plan, problem
from pveha.decide.placing.index import Index


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """All that the plan for one node follows from; equal facts, equal plan."""

    nodes: tuple[problem.Node, ...]
    free: tuple[tuple[int, int], ...]
    """Bytes and thousandths of a core free on the other nodes."""
    guests: tuple[problem.Guest, ...]
    """Those to be placed, in the order of placing."""
    groups: tuple[tuple[problem.Group, tuple[tuple[int, int], ...]], ...]
    """The groups of these, with the vmid and node of each member that runs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Singles:
    """The plan for each node, thought away alone."""

    plans: Mapping[str, plan.Placement]
    facts: Mapping[str, Facts | None]
    """None: the plan follows from older facts."""
    behind: tuple[str, ...] = ()
    """The nodes whose plan does."""


def plan_each(asked: problem.Problem, before: Singles | None = None, searches: int | None = None) -> Singles:
    """Plan the loss of each node. Plans of `before` whose facts are the same, but for guests that are
    planned for where they go by now, are taken over; else the result is the same without it.

    At most `searches` plans are made that take more than a first pass, unless it is None. The others keep the
    plan of `before` while its targets take guests, or have that of the first pass; call again, and the
    `behind` are the first to be searched.
    """
    index = Index(asked)
    plans: dict[str, plan.Placement] = {}
    found: dict[str, Facts | None] = {}
    behind = before.behind if before else ()
    late = []
    for n in sorted(range(len(index.nodes)), key=lambda n: index.nodes[n].name not in behind):
        name = index.nodes[n].name
        facts = _facts(index, n)
        known = before.facts.get(name) if before else None
        if before and known and (known == facts or _is_told(known, facts, before.plans[name])):
            found[name], plans[name] = facts, before.plans[name]
            continue
        found[name] = facts
        first = plan.quick(index, 1 << n)
        if not first.left():
            plans[name] = plan.told(first)
        elif searches is None or searches > 0:
            searches = None if searches is None else searches - 1
            plans[name] = plan.of(index, frozenset((name,)))
        else:
            found[name] = None
            late.append(name)
            old = before.plans.get(name) if before else None
            plans[name] = old if old is not None and _stands(index, n, old) else plan.told(first)
    names = [node.name for node in index.nodes]
    return Singles({name: plans[name] for name in names}, {name: found[name] for name in names}, tuple(late))


def _is_told(old: Facts, new: Facts, made: plan.Placement) -> bool:
    """Whether all that has changed is that guests are now planned for where the plan `made` has them go."""
    if (old.nodes, old.free, old.groups) != (new.nodes, new.free, new.groups):
        return False
    return len(old.guests) == len(new.guests) and all(
        one == other
        or (
            other.planned == made.targets.get(other.vmid, "")
            and dataclasses.replace(one, planned=other.planned) == other
        )
        for one, other in zip(old.guests, new.guests, strict=True)
    )


def _stands(index: Index, n: int, old: plan.Placement) -> bool:
    """Whether a plan is about the guests that are there, and all of its targets take guests."""
    guests = {index.vmid[g] for g in [*index.on[n], *index.elsewhere]}
    targets = index.bits(old.targets.values())
    return guests == old.targets.keys() | old.left.keys() and not targets & ~index.accepting


def _facts(index: Index, n: int) -> Facts:
    placed = sorted([*index.on[n], *index.elsewhere])
    groups = {
        group
        for g in placed
        for kind in (index.separate, index.together, index.soft)
        for group in kind.get(g, ())
    }
    free = [*zip(index.free_memory, index.free_cpu, strict=True)]
    free[n] = (0, 0)
    return Facts(
        index.nodes,
        tuple(free),
        tuple(index.guests[g] for g in placed),
        tuple(
            (index.groups[group], tuple((index.vmid[g], index.home[g]) for g in index.members[group]))
            for group in sorted(groups)
        ),
    )
