"""What the engine is asked: nodes, guests, groups. Plain values; nothing here knows where they come from."""

import dataclasses
import enum
from collections.abc import Mapping


class Rule(enum.StrEnum):
    """What a group asks of its guests."""

    TOGETHER = "Together"
    SEPARATE = "Separate"


class Topology(enum.StrEnum):
    """What counts as one place; a node without a zone is a zone of its own."""

    NODE = "Node"
    ZONE = "Zone"


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A node that is up, as far as guests may use it."""

    name: str
    memory: int
    """Bytes that guests may use: its size less the reserve, overcommitment applied."""
    cpu: float = 0.0
    """Cores that guests may be promised, overcommitment applied; 0: no limit."""
    used_memory: int = 0
    """Bytes used by what stays and is not among the guests of the problem."""
    used_cpu: float = 0.0
    zone: str = ""
    rank: int = 0
    """Of nodes that are wished for alike, those of a lower rank are taken first."""
    accepts: bool = True
    """Whether guests may be started there; those it has stay."""


@dataclasses.dataclass(frozen=True, slots=True)
class Guest:
    """A guest that runs, or is to be run."""

    vmid: int
    memory: int
    """Bytes."""
    node: str = ""
    """Where it runs. Empty or none of the nodes: it runs nowhere and every plan places it."""
    cpu: float = 0.0
    """Cores."""
    priority: int = 0
    order: int = 0
    """Settles who is placed first among guests of one priority that are alike."""
    eligible: frozenset[str] | None = None
    """Nodes that it can run on; None: any."""
    affinity: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What users would give for a node, by name; negative: they would rather not. Beyond
    `index.WISH_LIMIT` all wishes are alike."""
    planned: str = ""
    """The target it had so far, which it keeps while no other is clearly better."""
    preemptible: bool = False
    """Whether it may be stopped for a guest of a higher priority."""
    stays: bool = False
    """No plan places it, even if its node goes. What it uses is counted, and its groups know where it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Guests that belong on one place, or each on another."""

    name: str
    rule: Rule
    vmids: frozenset[int]
    required: bool = True
    """Whether it is a hard rule. Otherwise keeping it is worth `weight`, on the scale of `Guest.affinity`."""
    topology: Topology = Topology.NODE
    weight: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Everything a plan follows from. The order of nodes, guests and groups does not matter; names and vmids
    are unique."""

    nodes: tuple[Node, ...]
    guests: tuple[Guest, ...]
    groups: tuple[Group, ...] = ()
