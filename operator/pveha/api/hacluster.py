"""HACluster: one Proxmox VE cluster, how to reach it, how to prove a node's death, and how bold to be."""

import functools
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, model_validator

from pveha.api.fencing import AlsoCutsOff, Fencing, FencingMethod, NodeFencing, NodeMethods
from pveha.api.meta import (
    LIST_SET,
    Column,
    Fingerprint,
    Host,
    Label,
    Matches,
    Model,
    NameRef,
    NodeName,
    Port,
    Resource,
    Rule,
    SecretRef,
    Status,
    Time,
    cel,
    list_map,
)

DEFAULT_API_PORT = 8006


class Mode(StrEnum):
    """Whether pveha acts."""

    OBSERVE = "Observe"
    ENFORCE = "Enforce"


class Engine(StrEnum):
    """Who starts the guests of a dead node."""

    FAST = "Fast"
    NATIVE = "Native"


Tag = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Matches(
        r"[A-Za-z0-9_][A-Za-z0-9_+.-]*",
        "must be one tag as Proxmox shows it: letters, digits and '_', '+', '.', '-'",
    ),
]
Pool = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Matches(
        r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,2}",
        "must be the whole name of a resource pool as Proxmox shows it, for instance prod or prod/web",
    ),
]


class Endpoint(Model):
    """One address of the Proxmox API."""

    host: Host
    """DNS name or IP address of a node, or of a load balancer in front of the nodes."""
    port: Port | None = None
    """Port of the API; absent means 8006. Set it if a proxy in front of the nodes listens elsewhere."""

    @property
    def effective_port(self) -> int:
        return self.port or DEFAULT_API_PORT


class TLS(Model):
    """How the certificates of the Proxmox API are verified. Verification cannot be switched off."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "has(self.caSecretRef) != has(self.fingerprints)",
                "set exactly one of tls.caSecretRef (a Secret with the key ca.crt, for instance the "
                "cluster's /etc/pve/pve-root-ca.pem) and tls.fingerprints: certificates are always verified",
            )
        )
    )

    ca_secret_ref: SecretRef | None = None
    """Secret with the key `ca.crt`: the authority that signed the nodes' certificates. The best choice for
    Proxmox's own authority (`/etc/pve/pve-root-ca.pem`), because new and renewed nodes are then trusted
    without a change here."""
    fingerprints: (
        Annotated[tuple[Fingerprint, ...], Field(min_length=1, max_length=32, json_schema_extra=LIST_SET)]
        | None
    ) = None
    """SHA-256 fingerprints of the nodes' certificates. Choose this if you cannot hand out the authority;
    every renewed certificate must then be added here before it is used."""

    @model_validator(mode="after")
    def _verification_is_never_off(self) -> "TLS":
        if (self.ca_secret_ref is None) == (self.fingerprints is None):
            raise ValueError("set exactly one of tls.caSecretRef and tls.fingerprints")
        return self


class NodeShell(Model):
    """How pveha reaches `pveha-node`, the program on each node that moves a dead node's guests."""

    credentials_secret_ref: SecretRef
    """Secret with the keys `ssh-privatekey` (bound on the nodes to pveha-node by a forced command) and
    `known_hosts` (the nodes' host keys: unknown hosts are refused)."""
    user: Annotated[
        str,
        Field(max_length=32),
        Matches(r"[a-z_][a-z0-9_-]*", "must be a Unix user name: lower case letters, digits, '_' and '-'"),
    ] = "root"
    """User on the nodes. Set it if your nodes let nobody log in as root; the user must be able to run
    pveha-node with the rights it needs in /etc/pve."""
    port: Port = 22
    """SSH port of the nodes."""


class Recovery(Model):
    """How a dead node's guests are brought back."""

    engine: Engine = Engine.FAST
    """Fast: pveha itself starts the guests of a node that is proven dead, within seconds. Proxmox's own HA
    stays registered underneath and recovers what pveha does not. Native: Proxmox's own HA alone recovers
    them, within minutes; pveha keeps them registered there and reports, and never fences or moves anything.
    For clusters whose nodes cannot be fenced, or where minutes are soon enough."""
    node_shell: NodeShell | None = None
    """Needed by the Fast engine: without it FastReady is False. With Native it is of use too: it tells what
    guests need and what nodes have, where the API tells less of it, and slowly."""

    @property
    def registers_alone(self) -> bool:
        """Whether there is no node shell and none is needed: no epoch is opened then."""
        return self.engine is Engine.NATIVE and self.node_shell is None


class Detection(Model):
    """How soon a node is suspected and trusted again. Its death itself is corosync's word plus a proof, never
    a timeout here."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "self.suspectAfterSeconds >= self.probePeriodSeconds",
                "suspectAfterSeconds must not be less than probePeriodSeconds, or every node would be "
                "suspected between two probes: raise suspectAfterSeconds or lower probePeriodSeconds",
            )
        )
    )

    probe_period_seconds: Annotated[int, Field(ge=1, le=10)] = 1
    """How often each node is probed. Raise it to put less load on a large cluster, at the price of later
    suspicion."""
    suspect_after_seconds: Annotated[int, Field(ge=1, le=30)] = 2
    """How long a node may be silent before preparations begin (read its BMC, open sessions to the others).
    Nothing is done to a node that is only suspected, so low values are safe. Raise it if short network pauses
    make too much noise."""
    recover_after_seconds: Annotated[int, Field(ge=0, le=3600)] = 120
    """How long a node must have been online before guests are started on it again. Raise it for nodes that
    tend to fail again soon after boot."""


class Availability(StrEnum):
    """What a node is there for."""

    ACTIVE = "Active"
    PAUSE = "Pause"
    DRAIN = "Drain"


class Node(Model):
    """What pveha cannot learn from Proxmox about one node."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "!has(self.alsoCutsOff) || !self.alsoCutsOff.exists(each, each == self.name)",
                "alsoCutsOff names the node itself: list only the others",
                ".alsoCutsOff",
            )
        )
    )

    name: NodeName
    """The node's name as Proxmox shows it."""
    address: Host | None = None
    """DNS name or IP address of the node for API and SSH. Set it if pveha cannot reach the address that
    Proxmox reports for the node, for instance because corosync has a network of its own."""
    availability: Availability | None = None
    """Active (also if absent): the node takes guests. Pause: pveha starts or moves no guest to it; those it
    has stay, and stay protected. Drain: like Pause, and its running guests are moved away, for instance
    before an upgrade; the condition Drained tells when it is empty. Back at Active nothing is moved back."""
    zone: Label | None = None
    """What the node shares with others and can lose with them, for instance its rack or fire section. Groups
    with topologyKey Zone keep their members in one, or in different ones."""
    fencing: NodeMethods = ()
    """How this node is switched off, by one or several methods. A node without any is never recovered by the
    Fast engine, because its death cannot be proven."""
    also_cuts_off: AlsoCutsOff = ()
    """Nodes that lose their power together with this one, for instance the twins in its chassis. It is then
    fenced only while all of them are lost as well."""


class Safety(Model):
    """Limits that keep a wrong picture of the cluster from doing harm."""

    max_failed_nodes_percent: Annotated[int, Field(ge=1, le=100)] = 34
    """Blast radius: if more of the nodes than this are down at once (rounded down, but at least one is
    allowed), pveha does nothing and raises an alarm, because so many deaths are more likely a fault of the
    network or of pveha's view."""
    max_concurrent_takeovers: Annotated[int, Field(ge=1, le=100)] = 20
    """How many guests are taken over at the same time. Lower it if starting many guests at once overloads
    storage or nodes."""
    max_concurrent_migrations: Annotated[int, Field(ge=1, le=16)] = 2
    """How many guests of the cluster are moved at the same time when nodes are drained, those that other
    people move included. Raise it if the network for migrations has room for more."""
    isolated_grace_seconds: Annotated[int, Field(ge=5, le=44)] = 30
    """How long a node that still answers may be out of the cluster before it is switched off: a flap of the
    cluster network must not cut healthy guests. It stays below 45 because Proxmox's own fencing starts soon
    after."""
    planned_down_seconds: Annotated[int, Field(ge=60, le=86400)] = 600
    """How long a reboot or shutdown that somebody asked for may take before a condition says so. Such a node
    is never fenced. Raise it for servers that boot slowly."""
    storm_cooldown_seconds: Annotated[int, Field(ge=0, le=86400)] = 300
    """How long after a storm (more nodes lost at once than maxFailedNodesPercent allows, or no quorum)
    nothing new is begun: nodes that come back one after the other are not dead. 0 ends the wait at once."""
    max_flaps_per_hour: Annotated[int, Field(ge=1, le=20)] = 3
    """How often a node may be lost and return within an hour before it is quarantined. Raise it for clusters
    whose network is being worked on."""
    quarantine_seconds: Annotated[int, Field(ge=60, le=604800)] = 7200
    """How long no guests are started on a node that has flapped too often. The annotation
    pveha.dev/end-quarantine ends it earlier."""


class CapacityEnforcement(StrEnum):
    """What follows from too little capacity."""

    WARN = "Warn"
    ENFORCE = "Enforce"


class Capacity(Model):
    """How much has to be free for guests of nodes that are lost."""

    tolerate_node_failures: Annotated[int, Field(ge=0, le=8)] = 1
    """How many more nodes may be lost at once with room left for all their protected guests: the condition
    CapacityAssured tells whether every combination is survived. Where spec.nodes gives zones, a zone counts
    as one. 0 asks nothing."""
    memory_overcommit_percent: Annotated[int, Field(ge=0, le=300)] = 0
    """How much more memory than a node has may be in use on it. 0 plans with what nodes have. Raise it only
    if guests use much less than they are configured with, or share pages: a node that runs out of memory
    kills guests."""
    memory_reserve_mebibytes: Annotated[int, Field(ge=0, le=1_048_576)] = 512
    """How much memory of each node no guest is planned into: what a guest's process needs beside the guest's
    own memory, and the node when it has more to do. Raise it for nodes whose caches grow (ZFS, Ceph)."""
    cpu_allocation_ratio: Annotated[int, Field(ge=1, le=64)] | None = None
    """How many vCPUs of running guests each CPU of a node may carry: 1 overcommits nothing, 4 is usual.
    Without it CPUs are no limit."""
    enforcement: CapacityEnforcement = CapacityEnforcement.WARN
    """Warn: a condition and Events tell it. Enforce: pveha also begins no drain after which the nodes that
    are left could not lose so many more. Failovers are never refused."""


class AutoProtect(Model):
    """Which guests are protected without a ProtectedVM of their own."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "(has(self.tags) && self.tags.size() > 0) || (has(self.pools) && self.pools.size() > 0) || "
                "has(self.namePattern)",
                "an entry of autoProtect that selects nothing in particular would protect every guest: give "
                "tags, pools or namePattern; if every guest is what you mean, say namePattern: '*'",
            )
        )
    )

    name: Label
    """Name of the entry: the label pveha.dev/auto-protect of the ProtectedVMs it makes."""
    tags: Annotated[tuple[Tag, ...], Field(max_length=16, json_schema_extra=LIST_SET)] = ()
    """Guests that have any of these tags in Proxmox."""
    pools: Annotated[tuple[Pool, ...], Field(max_length=16, json_schema_extra=LIST_SET)] = ()
    """Guests in any of these resource pools; pools inside them do not count."""
    name_pattern: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Guests whose name matches: `*` stands for any text, `?` for one character, `[ab]` for one of these.
    Of tags, pools and namePattern all that are given must hold."""
    policy_ref: NameRef | None = None
    """The FailoverPolicy of these guests; absent means a policy's defaults."""

    @model_validator(mode="after")
    def _never_empty(self) -> "AutoProtect":
        if not (self.tags or self.pools or self.name_pattern):
            raise ValueError("an entry of autoProtect must give tags, pools or namePattern")
        return self


Levels = tuple[tuple[int, list[tuple[FencingMethod, NodeFencing]]], ...]
"""Levels of fencing in order: number, and the methods that must prove together."""


class HAClusterSpec(Model):
    """What is wanted of one Proxmox VE cluster."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "!has(self.nodes) || self.nodes.all(n, !has(n.fencing) || n.fencing.all(f, "
                "has(self.fencing) && has(self.fencing.methods) && self.fencing.methods.exists(m, m.name == "
                "f.method)))",
                "every spec.nodes[].fencing[].method must name a method of spec.fencing.methods: "
                "add the method there or correct the name",
                ".nodes",
            ),
            Rule(
                "!has(self.nodes) || self.nodes.all(n, !has(n.fencing) || n.fencing.all(f, "
                "!has(self.fencing) || !has(self.fencing.methods) || self.fencing.methods.all(m, "
                "m.name != f.method || (has(m.redfish) == has(f.address) && has(m.ipmi) == has(f.host) && "
                "has(m.agent) == has(f.parameters)))))",
                "an entry of spec.nodes[].fencing does not fit its method: set address for a redfish method, "
                "host for an ipmi method, parameters for an agent, and none of them for a manual one",
                ".nodes",
            ),
            Rule(
                "!has(self.nodes) || self.nodes.all(n, !has(n.fencing) || n.fencing.all(f, "
                "!has(f.address) || self.nodes.exists_one(o, has(o.fencing) && o.fencing.exists(g, "
                "has(g.address) && g.address == f.address && has(g.systemID) == has(f.systemID) && "
                "(!has(f.systemID) || g.systemID == f.systemID)))))",
                "two nodes have the same BMC (address and systemID), so fencing one would switch off the "
                "other: give each node its own address, or its own systemID if one BMC manages several nodes",
                ".nodes",
            ),
        )
    )

    mode: Mode = Mode.OBSERVE
    """Observe: pveha watches, plans and says what it would do, and touches nothing. Enforce: it acts. Start
    with Observe and switch when the conditions say what you expect."""
    endpoints: Annotated[
        tuple[Endpoint, ...], Field(min_length=1, max_length=32, json_schema_extra=list_map("host"))
    ]
    """Where the Proxmox API answers. Name at least two nodes, so that pveha still finds the cluster when it
    starts while one is dead; the others are discovered."""
    credentials_secret_ref: SecretRef
    """Secret with the keys `tokenID` (user@realm!token) and `tokenSecret`: the API token pveha acts with."""
    tls: TLS
    """How the API's certificates are verified."""
    recovery: Recovery = Recovery()
    """How a dead node's guests are brought back."""
    detection: Detection = Detection()
    """How soon a node is suspected and trusted again. The defaults suit most clusters."""
    fencing: Fencing = Fencing()
    """How a node's death is proven."""
    nodes: Annotated[tuple[Node, ...], Field(max_length=32, json_schema_extra=list_map("name"))] = ()
    """What pveha cannot learn from Proxmox about single nodes, above all their BMCs. Nodes not listed here
    are watched too."""
    safety: Safety = Safety()
    """Limits that keep a wrong picture of the cluster from doing harm."""
    capacity: Capacity = Capacity()
    """How much has to be free for guests of nodes that are lost."""
    auto_protect: Annotated[
        tuple[AutoProtect, ...], Field(max_length=16, json_schema_extra=list_map("name"))
    ] = ()
    """Guests for which pveha makes ProtectedVMs, by tag, pool or name (docs/enrolment.md). Of several entries
    that select a guest the first counts. A ProtectedVM that somebody else wrote for the guest wins."""
    pause_requests: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        Field(max_length=16, json_schema_extra=LIST_SET),
    ] = ()
    """Reasons to pause, each by its name, for instance `network-works`. While there is any, pveha starts no
    operation; what it has begun it finishes. Names let several people pause independently: each removes only
    the own one."""

    @functools.cached_property
    def _nodes(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @functools.cached_property
    def _methods(self) -> dict[str, FencingMethod]:
        return {method.name: method for method in self.fencing.methods}

    @functools.cached_property
    def _levels(self) -> dict[str, Levels]:
        return {node.name: self._levels_of(node) for node in self.nodes}

    def _levels_of(self, node: Node) -> Levels:
        found: dict[int, list[tuple[FencingMethod, NodeFencing]]] = {}
        for entry in node.fencing:
            method = self.method(entry.method)
            if method is not None:
                found.setdefault(method.effective_level, []).append((method, entry))
        return tuple(sorted(found.items()))

    def method(self, name: str) -> FencingMethod | None:
        return self._methods.get(name)

    def node(self, name: str) -> Node | None:
        return self._nodes.get(name)

    def levels(self, name: str) -> Levels:
        """The levels of fencing of node `name`, in order, each with the methods that must prove together."""
        return self._levels.get(name, ())

    def zone(self, name: str) -> str:
        """The zone of node `name`; nodes without one count as one zone, which has no name."""
        node = self.node(name)
        return (node.zone or "") if node is not None else ""

    def availability(self, name: str) -> Availability:
        """What node `name` is there for; a node that is not listed is Active."""
        node = self.node(name)
        return node.availability or Availability.ACTIVE if node is not None else Availability.ACTIVE


class NodeCounters(Model):
    """How many nodes there are."""

    total: Annotated[int, Field(ge=0)] = 0
    """Nodes of the Proxmox cluster."""
    online: Annotated[int, Field(ge=0)] = 0
    """Nodes in state Online."""


class NotOnline(Model):
    """A node that is not Online."""

    name: Annotated[str, Field(max_length=63)]
    """The node's name."""
    state: Annotated[str, Field(max_length=64)]
    """Its state, for instance Suspect, Down, Fenced, PlannedDown."""
    reason: Annotated[str, Field(max_length=1024)] = ""
    """Why pveha thinks so and what it waits for, in a sentence."""
    since: Time | None = None
    """Since when it has been in this state."""


class GuestCounters(Model):
    """How many guests there are."""

    total: Annotated[int, Field(ge=0)] = 0
    """Guests of the Proxmox cluster, templates not counted."""
    protected: Annotated[int, Field(ge=0)] = 0
    """Guests with a valid ProtectedVM."""
    failover_ready: Annotated[int, Field(ge=0)] = 0
    """Protected guests that would survive the loss of their node."""


class OperationStatus(Model):
    """Something pveha is doing now. A new leader finds here which fences were in progress."""

    id: Annotated[str, Field(max_length=64)]
    """The operation's identity, also in the marks it leaves in Proxmox."""
    kind: Annotated[str, Field(max_length=32)]
    """What is done, for instance Fence or Takeover."""
    node: Annotated[str, Field(max_length=63)] = ""
    """The node it is done to."""
    step: Annotated[str, Field(max_length=64)] = ""
    """How far it has come."""
    start_time: Time
    """When it began."""


class LastFailure(Model):
    """The last loss of a node and what became of its guests."""

    id: Annotated[str, Field(max_length=64)]
    """The operation's identity; the ProtectedVMs' lastFailover.id is the same."""
    node: Annotated[str, Field(max_length=63)]
    """The node that was lost."""
    cause: Annotated[str, Field(max_length=1024)]
    """What was observed."""
    start_time: Time
    """When the node was first seen missing."""
    proven_time: Time | None = None
    """When its death was proven; absent while it is not."""
    completion_time: Time | None = None
    """When the last of its guests was recovered or given up."""
    guests: Annotated[int, Field(ge=0)] = 0
    """Protected guests that ran on it."""
    recovered: Annotated[int, Field(ge=0)] = 0
    """How many of them run elsewhere."""


class MethodBinding(Model):
    """A method of a node that is bound to it, or that has been contradicted."""

    name: Annotated[str, Field(max_length=63)]
    """The method."""
    drill: Annotated[str, Field(max_length=64)] | None = None
    """For a method whose device does not tell which machine it switches: what was configured when a drill
    bound it."""
    voided: Annotated[str, Field(max_length=1024)] | None = None
    """Why the binding no longer counts, until the annotation pveha.dev/rebind names the node."""


class Binding(Model):
    """What binds a node to its fencing methods: remembered here so that a new leader can prove the death of a
    node that is already gone."""

    name: Annotated[str, Field(max_length=63)]
    """The node's name."""
    identities: Annotated[
        tuple[Annotated[str, Field(max_length=128)], ...], Field(max_length=4, json_schema_extra=LIST_SET)
    ] = ()
    """UUID and serial number that the node itself told while it was online."""
    methods: Annotated[
        tuple[MethodBinding, ...], Field(max_length=8, json_schema_extra=list_map("name"))
    ] = ()
    """The methods that are bound: a BMC that showed one of these identities, an outlet by a drill."""


class Storm(Model):
    """A storm that is not over for longer than safety.stormCooldownSeconds: remembered here so that a new
    leader waits too."""

    start_time: Time
    """When it began."""
    end_time: Time | None = None
    """When it was over; absent while it is not."""
    cause: Annotated[str, Field(max_length=1024)] = ""
    """What was seen."""


class Flapping(Model):
    """A node that was lost and returned within the last hour, or that is quarantined for it."""

    name: Annotated[str, Field(max_length=63)]
    """The node's name."""
    returns: Annotated[tuple[Time, ...], Field(max_length=24, json_schema_extra=LIST_SET)] = ()
    """When it returned, in the last hour."""
    quarantined_until: Time | None = None
    """Until when no guests are started on it; absent if it is not quarantined."""


class UnprotectConfirmation(Model):
    """A confirmation that was taken: remembered here so that it counts once."""

    annotation: Annotated[str, Field(max_length=64)]
    """What the annotation pveha.dev/confirm-unprotect said."""
    left: Annotated[int, Field(ge=0)] = 0
    """How many guests may still be unprotected by it."""


class HAClusterStatus(Status):
    """What pveha sees and does. All but epoch, bindings, storm, flapping and unprotectConfirmed is rebuilt
    from the world: editing it has no effect."""

    version: Annotated[str, Field(max_length=64)] | None = None
    """Version of Proxmox VE."""
    epoch: Annotated[int, Field(ge=0)] | None = None
    """The newest number that the cluster's epoch register is known to have held: it grows with every leader
    that acts. Where it is not known, pveha does nothing."""
    nodes: NodeCounters | None = None
    """How many nodes there are."""
    not_online: Annotated[
        tuple[NotOnline, ...], Field(max_length=64, json_schema_extra=list_map("name"))
    ] = ()
    """The nodes that are not Online."""
    guests: GuestCounters | None = None
    """How many guests there are."""
    operations: Annotated[
        tuple[OperationStatus, ...], Field(max_length=20, json_schema_extra=list_map("id"))
    ] = ()
    """What pveha is doing now; at most 20 are shown."""
    bindings: Annotated[tuple[Binding, ...], Field(max_length=32, json_schema_extra=list_map("name"))] = ()
    """Nodes with methods that are bound to them."""
    storm: Storm | None = None
    """The storm that keeps pveha from beginning anything."""
    flapping: Annotated[tuple[Flapping, ...], Field(max_length=32, json_schema_extra=list_map("name"))] = ()
    """Nodes that were lost and returned lately."""
    unprotect_confirmed: UnprotectConfirmation | None = None
    """The last confirmation of a mass removal."""
    last_failure: LastFailure | None = None
    """The last loss of a node."""


class HACluster(Resource):
    """One Proxmox VE cluster that pveha watches and, in mode Enforce, keeps available."""

    kind_name: ClassVar[str] = "HACluster"
    plural: ClassVar[str] = "haclusters"
    short_name: ClassVar[str] = "hac"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Mode", ".spec.mode"),
        Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
        Column(
            "Acting",
            ".status.conditions[?(@.type=='Acting')].reason",
            description="OK, or why pveha would not act",
        ),
        Column(
            "Degraded",
            ".status.conditions[?(@.type=='Degraded')].status",
            description="True while a node is down",
        ),
        Column("Nodes", ".status.nodes.total", "integer"),
        Column("Online", ".status.nodes.online", "integer"),
        Column("Guests", ".status.guests.protected", "integer", description="protected guests"),
        Column("Failover-Ready", ".status.guests.failoverReady", "integer"),
        Column(
            "Capacity",
            ".status.conditions[?(@.type=='CapacityAssured')].reason",
            description="OK, or why the losses of spec.capacity would leave guests down",
        ),
        Column("Version", ".status.version", priority=1, description="of Proxmox VE"),
        Column("Epoch", ".status.epoch", "integer", priority=1),
        Column("Reason", ".status.conditions[?(@.type=='Ready')].message", priority=1),
        Column("Age", ".metadata.creationTimestamp", "date"),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "size(self.metadata.name) <= 63",
            "metadata.name must not be longer than 63 characters, because the Lease is named after it: "
            "choose a shorter name",
        ),
    )

    spec: HAClusterSpec
    status: HAClusterStatus = HAClusterStatus()
