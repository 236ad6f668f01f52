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
    facts: Mapping[str, Facts]


def plan_each(asked: problem.Problem, before: Singles | None = None) -> Singles:
    """Plan the loss of each node. Plans of `before` whose facts are the same are taken over; the result is
    the same without it."""
    index = Index(asked)
    plans: dict[str, plan.Placement] = {}
    found: dict[str, Facts] = {}
    for n, node in enumerate(index.nodes):
        facts = _facts(index, n)
        known = before.facts.get(node.name) if before else None
        if before and known == facts:
            found[node.name], plans[node.name] = known, before.plans[node.name]
        else:
            found[node.name], plans[node.name] = facts, plan.of(index, frozenset((node.name,)))
    return Singles(plans, found)


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
