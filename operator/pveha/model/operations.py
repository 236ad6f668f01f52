"""What pveha does to the world, and how far it got.

An operation is a task that runs beside the loop; its state is part of the next snapshot. Its exit is a hint:
the next observation is truth.
"""

import dataclasses
from collections.abc import Mapping

from pveha.model import cluster, guests, power, replication


@dataclasses.dataclass(frozen=True, slots=True)
class Begin:
    """Open an epoch (S13) on node `on` before a leader's first operation."""

    id: str
    on: str
    owner: str
    take_over: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Method:
    """One method of a level, as an operation uses it."""

    switch: power.Switch
    identities: frozenset[str] = frozenset()
    """DMI identities of which a reading must show one (S1); none for an outlet, which a drill has bound."""
    timeout: float = 15.0
    manual: bool = False
    """No device: a person has confirmed that the node is off."""
    off_since: float | None = None
    """Since when it has read Off."""

    @property
    def tells_who(self) -> bool:
        """Whether its readings name the machine they are about."""
        return bool(self.identities)


@dataclasses.dataclass(frozen=True, slots=True)
class Proof:
    """A node is proven off (S2): by every method of a level two reads of Off at least 3 s apart, the later
    after the forced off was answered."""

    node: str
    first_off_at: float
    last_off_at: float
    methods: tuple[Method, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Fence:
    """Prove `node` dead by one level of methods: witnesses (S6), forced off, read-back (S2)."""

    id: str
    node: str
    failure: str
    owner: str
    survivors: tuple[str, ...]
    level: int
    methods: tuple[Method, ...]
    """All of them must prove it (S3)."""
    node_answered: bool
    """Whether the node still answered when this was decided (Isolated rather than Down)."""
    alive: frozenset[str] = frozenset()
    """Survivors seen through the API to be live quorate witnesses of the loss, for those whose node shell is
    silent."""
    also: tuple[str, ...] = ()
    """Nodes that lose power with it: none may be a member (S3)."""
    watchers: tuple[Method, ...] = ()
    """Bound methods of other levels that tell who they speak of: none may read on once this level reads
    off."""

    @property
    def timeout(self) -> float:
        return max(method.timeout for method in self.methods)


@dataclasses.dataclass(frozen=True, slots=True)
class Replica:
    """The replica that a guest is to be started from."""

    recovery_point: float
    """When the last good sync to it began (Unix time)."""
    lost_seconds: float
    """From that until the lost node was last seen alive."""


@dataclasses.dataclass(frozen=True, slots=True)
class TakeoverItem:
    """One guest of a takeover. `was` is the HA state to restore; `claimed` when its file is at the target
    already."""

    ref: guests.GuestRef
    was: cluster.HAState
    lock: str | None
    last_seen: frozenset[str]
    """Nodes on which a process may linger (S16): those that must answer the process scan, members or not."""
    registered: cluster.HAResource | None
    entry: cluster.HAResource
    """The HA resource to make if there is none."""
    claimed: bool = False
    here: bool = False
    """Its file is at the target already, moved by a migration or by somebody: what runs there is the guest
    itself."""
    waits: str = ""
    """Why it is claimed and not started: what it waits for."""
    rank: tuple[int, ...] = ()
    """Whose is smaller comes first, over all targets."""
    replica: Replica | None = None
    """Its disks at the target are a replica: its replication jobs are disabled before it is claimed (S19)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Takeover:
    """Disown, claim, start and verify a batch of guests on one target."""

    id: str
    failure: str
    dead: str
    target: str
    epoch: int
    items: tuple[TakeoverItem, ...]
    survivors: tuple[str, ...]
    proven_by: tuple[Method, ...]
    """What has proven `dead` off: read again before each batch of claims (S2)."""
    off_read_at: float
    """When they last read Off."""
    alive: frozenset[str] = frozenset()
    """As in `Fence`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Edit:
    """One change of an HA resource: `expected` is what was seen (None: absent), `desired` what to write
    (None: remove)."""

    sid: str
    expected: cluster.HAResource | None
    desired: cluster.HAResource | None
    why: str
    follows: str = ""
    """Node that must itself say that the guest runs, or not, as `desired` has it: what the cluster shows is
    up to 10 s old, and HA would stop (or start) a guest that a person has just started (or stopped)."""


@dataclasses.dataclass(frozen=True, slots=True)
class EditHA:
    """Change HA resources one after the other; what no longer looks as expected is left for the next
    round."""

    id: str
    edits: tuple[Edit, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class RuleEdit:
    """One change of an HA rule; `expected` and `desired` as in `Edit`."""

    name: str
    expected: cluster.HARule | None
    desired: cluster.HARule | None
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class EditRules:
    """Change HA rules one after the other; what no longer looks as expected is left for the next read."""

    id: str
    edits: tuple[RuleEdit, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class JobEdit:
    """One change of a replication job."""

    expected: replication.Job
    desired: replication.Job
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class EditJobs:
    """Change replication jobs one after the other; what no longer looks as expected is left for the next
    read."""

    id: str
    edits: tuple[JobEdit, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class PowerOn:
    """Give a fenced node its power back (`fencing.afterwards`)."""

    id: str
    node: str
    methods: tuple[Method, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Migrate:
    """Send a running guest to another node: a VM live, a container by restart.

    `managed`: native HA looks after it, so the CRM is asked and the operation ends when that has the command;
    what comes of it is seen later. Otherwise it ends with the task.
    """

    id: str
    ref: guests.GuestRef
    source: str
    target: str
    managed: bool


Operation = Begin | Fence | Takeover | EditHA | EditRules | EditJobs | Migrate | PowerOn


@dataclasses.dataclass(frozen=True, slots=True)
class GuestResult:
    """How far a takeover got with one guest."""

    ref: guests.GuestRef
    reason: str
    """Running, Claimed (was not to be started), Waiting (not to be started yet), or why not: a reason of
    `FailoverReady` or of a claim."""
    message: str = ""
    running_at: float | None = None
    may_land: bool = False
    """Its claim was sent and not answered: it may still be carried out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an operation: empty `error` means success."""

    at: float
    error: str = ""
    epoch: int | None = None
    owner: str | None = None
    """The present owner, when it is not us."""
    commanded: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """By fencing method: when a forced off was last sent, whatever came of it, unless it was refused."""
    may_land: bool = False
    """A forced off was sent that nobody acknowledged: it may still be carried out (S15). Of a takeover: it
    was cancelled while claims may have been under way."""
    proof: Proof | None = None
    guests: tuple[GuestResult, ...] = ()
    refused: tuple[Edit, ...] = ()
    """Edits that were not made because the resource had changed or the API declined."""
    declined: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By name of an HA rule: why Proxmox did not take it."""


@dataclasses.dataclass(frozen=True, slots=True)
class OperationState:
    """An operation in flight, or (once, in the snapshot after its end) with its outcome."""

    operation: Operation
    started_at: float
    started_timestamp: float
    step: str
    outcome: Outcome | None = None
