"""Placement: which guests belong together or apart (FailoverPolicy), and which nodes a guest is to run on
(ProtectedVM)."""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from pveha.api.meta import LIST_SET, Label, Model, NodeName, Rule, cel, list_map

DEFAULT_WEIGHT = 100


class GroupRule(StrEnum):
    """What is wished of the members of a group."""

    TOGETHER = "Together"
    SEPARATE = "Separate"


class Enforcement(StrEnum):
    """How strongly something is wished."""

    REQUIRED = "Required"
    PREFERRED = "Preferred"


class Topology(StrEnum):
    """What members of a group share, or do not share."""

    NODE = "Node"
    ZONE = "Zone"


class Group(Model):
    """Guests that are to run together, or apart from each other."""

    name: Label
    """Name of the group: ProtectedVMs with this policy join it by spec.placement.groups. Those of one
    HACluster are its members."""
    rule: GroupRule
    """Together: all on the same node, or in the same zone. Separate: each on a node, or in a zone, of its
    own."""
    enforcement: Enforcement
    """Required: a member for which there is no such place is not started, and Proxmox's own HA moves members
    that run elsewhere. Preferred: it is started all the same, and nothing is moved."""
    topology_key: Topology | None = None
    """Node (also if absent) or Zone: spec.nodes[].zone of the HACluster. Nodes without a zone count as one
    zone."""

    @property
    def topology(self) -> Topology:
        return self.topology_key or Topology.NODE


class PolicyPlacement(Model):
    """Where guests with this policy run in relation to each other."""

    groups: Annotated[tuple[Group, ...], Field(max_length=16, json_schema_extra=list_map("name"))] = ()
    """Groups that ProtectedVMs with this policy may join."""


class NodeAffinity(Model):
    """Nodes on which a guest is to run."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "!has(self.weight) || self.enforcement == 'Preferred'",
                "weight says how much a Preferred wish counts beside others, a Required one always holds: "
                "leave weight out, or set enforcement to Preferred",
                ".weight",
            )
        )
    )

    name: Label
    """Name of the wish; messages tell it."""
    nodes: Annotated[tuple[NodeName, ...], Field(min_length=1, max_length=32, json_schema_extra=LIST_SET)]
    """The nodes, as Proxmox names them."""
    enforcement: Enforcement
    """Required: it is never started elsewhere, and Proxmox's own HA moves it there. Several Required wishes
    must all hold. Preferred: it is started there if it can be."""
    weight: Annotated[int, Field(ge=1, le=1000)] | None = None
    """How much a Preferred wish counts (absent: 100). A node has the sum of the weights of the wishes that
    name it, and the guest is started on the node with most."""

    @property
    def effective_weight(self) -> int:
        return self.weight or DEFAULT_WEIGHT


class GuestPlacement(Model):
    """Where one guest is to run. pveha keeps these wishes when it starts guests elsewhere and drains nodes,
    and writes HA rules into Proxmox that say the same, as far as they can (docs/placement.md)."""

    groups: Annotated[tuple[Label, ...], Field(max_length=16, json_schema_extra=LIST_SET)] = ()
    """Groups of the guest's FailoverPolicy (spec.placement.groups there) that it is a member of."""
    node_affinity: Annotated[
        tuple[NodeAffinity, ...], Field(max_length=8, json_schema_extra=list_map("name"))
    ] = ()
    """Nodes on which it is to run."""
