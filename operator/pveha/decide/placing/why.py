"""Why a guest stays down, and what would have to change."""

import dataclasses
import enum

from pveha.decide.placing import problem, state
from pveha.decide.placing.index import MILLI
from pveha.decide.placing.state import State

SHOWN = 4
"""Names in a sentence; of more the number is given."""
MIB = 1 << 20
COARSE = 1 << 30
"""Missing memory is told in steps of so many bytes, rounded up: sentences do not follow every change of
memory in use."""


class Reason(enum.StrEnum):
    """Why there is no place."""

    NO_NODE = "NoNode"
    """No node is up that takes guests."""
    NO_ELIGIBLE_NODE = "NoEligibleNode"
    """None of those is one that it can run on."""
    SEPARATED = "Separated"
    """Every node that has room is kept from it by a guest it must be apart from."""
    TOGETHER_SPLIT = "TogetherSplit"
    """It must be where its group is, which has no room or takes no guests."""
    NO_CAPACITY = "NoCapacity"
    """No node that it can run on has the memory or CPU free."""


@dataclasses.dataclass(frozen=True, slots=True)
class Needs:
    """The least that has to become free, and where."""

    node: str
    memory: int
    """Bytes, in steps of `COARSE`, rounded up."""
    cpu: float
    """Cores."""


@dataclasses.dataclass(frozen=True, slots=True)
class Why:
    """A reason, a sentence that ends in what people can do, and what capacity is missing if that is the
    reason."""

    reason: Reason
    sentence: str
    needs: Needs | None = None
    groups: tuple[str, ...] = ()
    """The groups that are the reason."""


def why(arrangement: State, g: int) -> Why:
    """Why `g`, which is left, has no place in the arrangement."""
    if not arrangement.up:
        return Why(
            Reason.NO_NODE, "no other node is up and takes guests: bring one back, or let one take guests"
        )
    nodes = arrangement.candidates(g)
    if not nodes:
        return _no_eligible(arrangement, g)
    together = _together(arrangement, g)
    if together is not None:
        return together
    forbidden = arrangement.forbidden(g)
    roomy = [n for n in nodes if arrangement.fits(g, n)]
    if roomy or all(forbidden >> n & 1 for n in nodes):
        return _separated(arrangement, g, roomy or nodes, bool(roomy))
    return _no_capacity(arrangement, g, [n for n in nodes if not forbidden >> n & 1])


def _no_eligible(arrangement: State, g: int) -> Why:
    names = _names([node.name for n, node in _eligible(arrangement, g)])
    if not names:
        return Why(
            Reason.NO_ELIGIBLE_NODE,
            "it can run on no other node: see what ties it to its node (disks, devices, networks, rules)",
        )
    return Why(
        Reason.NO_ELIGIBLE_NODE,
        f"it can run only on {names}, and none of these is up and takes guests: bring one back, or let it "
        "run on more nodes",
    )


def _eligible(arrangement: State, g: int) -> list[tuple[int, problem.Node]]:
    mask = arrangement.index.mask[g]
    return [(n, node) for n, node in enumerate(arrangement.index.nodes) if mask >> n & 1]


def _together(arrangement: State, g: int) -> Why | None:
    """The reason, if a group that keeps together is it."""
    index = arrangement.index
    for group in index.together.get(g, ()):
        anchor = arrangement.anchors[group]
        if not anchor:
            continue
        here = [n for n in arrangement.candidates(g) if anchor >> n & 1]
        if any(arrangement.fits(g, n) for n in here):
            continue
        name = index.groups[group].name
        place = _names([index.nodes[n].name for n in state.bits(anchor)])
        rule = f"{name} wants it on {place}, where the others are"
        if not here:
            return Why(
                Reason.TOGETHER_SPLIT,
                f"{rule}, but it cannot run there now: change that, or make the node fit for it",
                groups=(name,),
            )
        needs = _needs(arrangement, g, here)
        return Why(
            Reason.TOGETHER_SPLIT,
            f"{rule}, but {_shortage(needs)}: free that there, or change the group",
            needs,
            (name,),
        )
    return None


def _separated(arrangement: State, g: int, nodes: list[int], roomy: bool) -> Why:
    index = arrangement.index
    rules, others = [], []
    for group in [*index.separate.get(g, ()), *index.together.get(g, ())]:
        if group in arrangement.taken and any(arrangement.taken[group] >> n & 1 for n in nodes):
            rules.append(index.groups[group].name)
            others += [
                str(index.vmid[each])
                for each in index.members[group]
                if each != g and (each in arrangement.node or each in set(arrangement.stayers(group)))
            ]
    which = "that has room for it" if roomy else "that it can run on"
    where = _names([index.nodes[n].name for n in nodes])
    return Why(
        Reason.SEPARATED,
        f"every node {which} ({where}) is kept from it by {' and '.join(rules) or 'its groups'} because of "
        f"{_names(sorted(set(others), key=int))}: free {index.memory[g] // MIB} MiB on another node, add a "
        "node, or change the rule",
        groups=tuple(rules),
    )


def _no_capacity(arrangement: State, g: int, nodes: list[int]) -> Why:
    index = arrangement.index
    needs = _needs(arrangement, g, nodes)
    rivals = [
        each
        for n in nodes
        if _had_room(arrangement, g, n)
        for each in arrangement.lodgers.get(n, ())
        if index.level[each] <= index.level[g]
    ]
    outranked = (
        "; guests of the same or a higher priority that fail over too take what was free" if rivals else ""
    )
    memory = any(index.memory[g] > arrangement.memory[n] for n in nodes)
    cpu = any(index.cpu[g] > arrangement.cpu[n] for n in nodes)
    wanted = [f"{index.memory[g] // MIB} MiB"] if memory else []
    wanted += [_cpus(index.cpu[g] / MILLI)] if cpu else []
    more = "memory, CPUs" if memory and cpu else "memory" if memory else "CPUs"
    return Why(
        Reason.NO_CAPACITY,
        f"it needs {' and '.join(wanted)}, and of {_names([index.nodes[n].name for n in nodes])} "
        f"none has {'both' if memory and cpu else 'that'}: {_shortage(needs)}{outranked}; free that there, "
        f"or add {more} or a node",
        needs,
    )


def _had_room(arrangement: State, g: int, n: int) -> bool:
    """Whether there was room for `g` while nobody was placed."""
    index = arrangement.index
    cpu = arrangement.cpu[n] + sum(index.cpu[each] for each in arrangement.lodgers.get(n, ()))
    return arrangement.bare[n] >= index.memory[g] and cpu >= index.cpu[g]


def _needs(arrangement: State, g: int, nodes: list[int]) -> Needs:
    """What is missing on the node of `nodes` that is nearest to having room."""
    index = arrangement.index

    def missing(n: int) -> tuple[int, int, int]:
        memory = max(0, index.memory[g] - arrangement.memory[n])
        cpu = max(0, index.cpu[g] - arrangement.cpu[n])
        return -(-memory // COARSE) * COARSE, cpu, n

    memory, cpu, n = min(missing(n) for n in nodes)
    return Needs(index.nodes[n].name, memory, cpu / MILLI)


def _shortage(needs: Needs) -> str:
    lacks = [f"about {needs.memory // MIB} MiB"] if needs.memory else []
    lacks += [_cpus(needs.cpu)] if needs.cpu else []
    return f"{needs.node} is nearest, it lacks {' and '.join(lacks)}"


def _cpus(number: float) -> str:
    return f"{number:g} CPU" if number == 1 else f"{number:g} CPUs"


def _names(names: list[str]) -> str:
    """At most `SHOWN` of them, then how many more."""
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
