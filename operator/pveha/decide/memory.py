"""What one round hands to the next. Everything here can be lost: an empty memory only waits longer."""

import dataclasses
import types
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pveha.api import hacluster
from pveha.decide.placing import known
from pveha.model import operations

NOTHING: Mapping[str, "NodeMemory"] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True, slots=True)
class MethodMemory:
    """About one fencing method of one node."""

    bound: bool = False
    """It showed the node's identity while the node was Online, or a drill has shown that it switches it
    (S1)."""
    drill: str = ""
    """What was configured (`fencing.device`) when a drill bound it."""
    voided: str = ""
    """Why the binding no longer counts; a person has to clear it."""
    off_since: float | None = None
    """Since when it has read Off without interruption."""
    off_read_at: float = float("-inf")
    """When it last did."""
    on_read_at: float = float("-inf")
    """When it last read anything else."""
    commanded_at: float | None = None
    """When it was last told to switch its node off, acknowledged or not, since the node went offline."""


_UNKNOWN_METHOD = MethodMemory()


@dataclasses.dataclass(frozen=True, slots=True)
class NodeMemory:
    """About one node. Times are the loop's."""

    online_since: float | None = None
    offline_since: float | None = None
    offline_timestamp: float = 0.0
    """Unix time of `offline_since`."""
    silent_since: float | None = None
    silent_timestamp: float = 0.0
    identities: frozenset[str] = frozenset()
    """DMI identities the node last told us itself."""
    methods: Mapping[str, MethodMemory] = dataclasses.field(default_factory=dict)
    """By name of the fencing method."""
    failure: str = ""
    """Id of the loss being handled: set when it goes offline, kept until it is back."""
    may_land_until: float = float("-inf")
    """Until when a forced off that nobody acknowledged may still be carried out (S15)."""
    confirmed_at: float | None = None
    """Since when a person's confirmation that it is off has been seen, for this failure."""
    refuted: str = ""
    """What showed that this confirmation was wrong."""
    proof: operations.Proof | None = None
    returned_at: float | None = None
    """When the proof ended because the node had power again or answered."""
    fence_error: str = ""
    fence_retry_at: float = 0.0
    fence_attempts: int = 0
    tried: frozenset[int] = frozenset()
    """Levels that have failed since all of them were last tried."""
    power_on_again_at: float = float("-inf")
    """When it may be told once more to be switched on after this failure."""
    lrm_timestamp: int = 0
    lrm_moved_at: float = float("-inf")
    """When its LRM's timestamp was last seen to move."""
    state: str = ""
    state_since: float = 0.0
    state_timestamp: float = 0.0
    away: bool = False
    """It was lost, and has not been Online since."""
    returns: tuple[float, ...] = ()
    """Unix times at which it was Online again after it was lost, in the last hour."""
    quarantined_until: float | None = None
    """Unix time until which no guests are started on it."""

    def method(self, name: str) -> MethodMemory:
        return self.methods.get(name, _UNKNOWN_METHOD)

    @property
    def voided(self) -> str:
        """Why a method of it proves nothing any more, or an empty string."""
        return next((each.voided for each in self.methods.values() if each.voided), "")

    def void(self, why: str, methods: Iterable[str]) -> "NodeMemory":
        """With these methods voided, and without the proof they may have given."""
        voided = {
            name: dataclasses.replace(self.method(name), voided=self.method(name).voided or why)
            for name in methods
        }
        return dataclasses.replace(self, methods={**self.methods, **voided}, proof=None)


@dataclasses.dataclass(frozen=True, slots=True)
class GuestMemory:
    """About one HA resource that carries a mark, or a guest that is being recovered."""

    ignored_at: float | None = None
    """When its `ignored` was read back (the loop's time)."""
    ignored_seen: int | None = None
    """`manager_status.timestamp` as first read after that; None: not yet."""
    dropped_flushes: frozenset[int] = frozenset()
    """Later flushes in which the CRM did not list it (S8 wants two)."""
    listed_since: float | None = None
    """Since when the CRM lists it again after adoption (S11)."""
    stale_since: float | None = None
    """Since when the CRM has placed it elsewhere than its file is (S9)."""
    verified: bool = False
    """It runs at its new place, seen by a takeover of ours."""
    verified_at: float = float("-inf")
    """When that was (the loop's time)."""
    marked_by: str = ""
    """The operation that its mark names."""
    marked_at: float | None = None
    """When that mark was first seen; None: by an earlier leader, maybe long ago."""
    attempts: int = 0
    held_since: float | None = None
    """When a start of it first failed as if a storage held a dead client's lock (S20)."""
    retry_at: float = 0.0
    may_land_until: float = float("-inf")
    """A claim that was given up unanswered, or with its takeover, may move its file until then."""
    problem: str = ""
    problem_message: str = ""


M = TypeVar("M", NodeMemory, MethodMemory, GuestMemory, "Awaited", "Memory")


def changed(about: M, **fields: Any) -> M:
    """`about` with these fields: itself where they are so already, which is nearly always."""
    for name, value in fields.items():
        if getattr(about, name) != value:
            return dataclasses.replace(about, **fields)
    return about


_UNKNOWN_NODE = NodeMemory()
_UNKNOWN_GUEST = GuestMemory()


@dataclasses.dataclass(frozen=True, slots=True)
class Failover:
    """The last failover of a guest, for its status."""

    failure: str
    dead: str
    target: str
    cause: str
    start: float
    """Unix times."""
    completion: float | None
    native: bool = False
    """Proxmox's own HA did it."""
    replica: operations.Replica | None = None
    """What it was started from, if its disks are not shared."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """The loss of a node that took a guest down, until the guest is seen to run again."""

    failure: str
    node: str
    start: float
    """Unix time."""
    seen_there_at: float | None = None
    """When the guest was last seen on the lost node (the loop's time); None: not by this leader."""
    found_at: float = float("-inf")
    """When the guest was found elsewhere, where it is now (the loop's time)."""
    uptime: float = 0.0
    """What was told last of the guest's uptime before it moved: a stale word that must not be taken for a new
    one."""
    moved_to: str = ""
    """The node that the guest was last seen to have moved to."""
    ours: str = ""
    """The node on which it ran before native HA had it back: pveha has started it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """The last loss of a node, for the status of the cluster."""

    id: str
    node: str
    cause: str
    start: float
    proven: float | None = None
    completion: float | None = None
    guests: frozenset[int] = frozenset()
    recovered: frozenset[int] = frozenset()
    lost_timestamp: float = 0.0
    """When the node left the membership: only a later loss takes this one's place."""


@dataclasses.dataclass(frozen=True, slots=True)
class Storm:
    """More losses at once than are believed to be deaths."""

    started: float
    """Unix time."""
    cause: str
    lost: int = 0
    """Nodes lost at its worst."""
    allowed: int | None = None
    """How many could have been lost without it; None: not known."""
    ended_at: float | None = None
    """When it was over (the loop's time); None: it is not."""
    ended: float | None = None
    """Unix time of `ended_at`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """The migration of one guest off a node in Drain. Times are the loop's."""

    source: str
    target: str = ""
    """Where it was last sent."""
    sent_at: float | None = None
    """When; None: it is not on its way."""
    seen_moving: bool = False
    arrived_at: float | None = None
    attempts: int = 0
    """Failures in a row."""
    retry_at: float = 0.0
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """What a node told last of the epoch register."""

    epoch: int
    at: float
    """When (the loop's time)."""
    quorate: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Awaited:
    """A guest that others wait for. Times are the loop's."""

    since: float
    """Since when."""
    unready_since: float | None
    """Since when its time runs; None: it is ready."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unprotect:
    """Guests that are to lose their protection, and the confirmation of it."""

    vmids: frozenset[int] = frozenset()
    changed_at: float = float("-inf")
    """When one was last added, or protected again."""
    annotation: str = ""
    """What the annotation said that was taken last, as long as it stands."""
    left: int = 0
    """How many may still lose it by that."""


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Everything remembered about one cluster."""

    nodes: Mapping[str, NodeMemory] = dataclasses.field(default_factory=dict)
    guests: Mapping[str, GuestMemory] = dataclasses.field(default_factory=dict)
    """By service id."""
    failovers: Mapping[int, Failover] = dataclasses.field(default_factory=dict)
    """By vmid."""
    moves: Mapping[int, Move] = dataclasses.field(default_factory=dict)
    """By vmid."""
    found_running: Mapping[int, float] = dataclasses.field(default_factory=dict)
    """By vmid: since when a guest is shown running where an earlier leader was taking it to."""
    losses: Mapping[int, Loss] = dataclasses.field(default_factory=dict)
    """By vmid."""
    awaited: Mapping[int, Awaited] = dataclasses.field(default_factory=dict)
    """By vmid: guests whose readiness matters to one that is to be started, unless they wait themselves."""
    steady: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """By vmid: where guests that others depend on ran when none of those was down last."""
    failure: Failure | None = None
    reported_loss: str = ""
    """Node whose loss an earlier leader has reported to its end."""
    unended: hacluster.LastFailure | None = None
    """The loss that an earlier leader has begun to report."""
    split_since: float | None = None
    """Since when quorate witnesses exclude each other."""
    storm: Storm | None = None
    """The storm that rages, or that has ended less than its cooldown ago."""
    unattended_since: float | None = None
    """Since when no quorate node has answered; None: one does."""
    unquorate_since: float | None = None
    """Since when nodes answer and none is quorate."""
    quorate_since: float = float("-inf")
    """When quorum was last seen to return, or two nodes were last each quorate without the other: what was
    read before may come from a node that knew nothing newer."""
    apart: bool = False
    """Whether two nodes were each quorate without the other when any was last."""
    sight_since: float | None = None
    """Since when any node has answered in each round."""
    traced: bool = False
    """Whether the traces of a storm before that have been looked for."""
    epoch: int | None = None
    epoch_at: float = 0.0
    inherited: bool = False
    """Open marks were found when the epoch began, so S15's wait applies."""
    register: Mapping[str, Heard] = dataclasses.field(default_factory=dict)
    """By node: what it tells of the epoch register."""
    newest: int = 0
    """The newest number that the register was ever known to hold."""
    newest_at: float = float("-inf")
    """When it was last known to grow."""
    whole_since: float | None = None
    """Since when every node is a member."""
    in_doubt: bool = False
    """Whether the quorate nodes were last not known to have the newest history."""
    superseded: str = ""
    """Why nobody of this owner may act: another owner, or a newer epoch than ours."""
    acted_at: float = float("-inf")
    """When the last takeover or change of HA resources ended: what was read before says nothing about now."""
    begin_retry_at: float = 0.0
    edit_retry_at: float = 0.0
    edit_problems: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By service id: why the last change of its HA resource was declined."""
    rules_edited_at: float = float("-inf")
    """When the last change of HA rules ended: what was read before says nothing about now."""
    rules_retry_at: float = 0.0
    rule_problems: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By name of an HA rule of ours: why Proxmox declined its last change."""
    jobs_edited_at: float = float("-inf")
    """When the last change of replication jobs ended: what was read before says nothing about now."""
    jobs_retry_at: float = 0.0
    manager_timestamp: int = 0
    manager_moved_at: float = float("-inf")
    identities: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By `protection.key` of the ProtectedVM: identity of the guest when protection began."""
    registered: frozenset[str] = frozenset()
    """Service ids of the HA resources that were there last."""
    vanished: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """By service id: when an HA resource was found gone. Its vmid may belong to another guest since."""
    counter: int = 0
    rebound: frozenset[str] | None = None
    """Nodes whose rebind annotation has been honoured and still stands; None: none was looked at yet."""
    ended: frozenset[str] | None = None
    """Nodes that the annotation to end their quarantine names, as of the last round; None: not looked yet."""
    unprotect: Unprotect = Unprotect()
    announced: frozenset[str] = frozenset()
    """Events told already, by key, until their cause ends."""
    plans: known.Known = dataclasses.field(default_factory=known.Known, compare=False)
    """Saves time, and nothing else."""

    def node(self, name: str) -> NodeMemory:
        return self.nodes.get(name, _UNKNOWN_NODE)

    def guest(self, sid: str) -> GuestMemory:
        return self.guests.get(sid, _UNKNOWN_GUEST)
