"""What the node shell, `pveha-node`, answers."""

import dataclasses
from collections.abc import Mapping

from pveha.model import guests


@dataclasses.dataclass(frozen=True, slots=True)
class Votes:
    """Votes of corosync (S6): from `corosync.conf` and the live `corosync-quorumtool -s`."""

    configured: Mapping[str, int]
    """Votes of each configured node."""
    qdevice: int
    expected: int
    total: int
    unsafe_options: frozenset[str]
    """Those of two_node, last_man_standing, auto_tie_breaker, allow_downscale, expected_votes that are set,
    and a QDevice's algorithm that votes for every part."""

    @property
    def trustworthy(self) -> bool:
        """Whether quorum of these votes excludes a second quorate partition."""
        return not self.unsafe_options and self.expected == sum(self.configured.values()) + self.qdevice

    @property
    def indispensable(self) -> tuple[str, ...]:
        """Nodes without any one of which the rest, with the QDevice, has no quorum."""
        wanted = sum(self.configured.values()) + self.qdevice
        return tuple(name for name, own in sorted(self.configured.items()) if wanted - own < wanted // 2 + 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Totem:
    """How corosync notices that a member is lost, from `corosync.conf`; in milliseconds."""

    token: int
    token_coefficient: int
    consensus: int
    """0: not set."""

    def loss_seconds(self, remaining: int) -> float:
        """From the loss of a member until `remaining` others have a membership without it.

        The token's timeout grows by the coefficient for each node over two, consensus is 1.2 times that;
        counted over those that remain this is the 6.6 s measured on three nodes with the defaults.
        """
        token = self.token + self.token_coefficient * max(0, remaining - 2)
        return (token + (self.consensus or token * 12 // 10)) / 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Timer:
    """The timer of `pveha-node repair` (S10): enabled, and when it last looked (None: not since boot)."""

    enabled: bool
    looked_seconds_ago: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class NodeStatus:
    """Verb `status`. `newest_epoch` is 0 before the first `begin`; `identities` are DMI UUID and serial,
    lower case. An older pveha-node does not tell what is None."""

    node: str
    version: str
    quorate: bool
    members: Mapping[str, bool]
    votes: Votes
    identities: frozenset[str]
    newest_epoch: int
    owner: str | None
    answered_at: float
    time: float | None = None
    """The node's clock, Unix seconds."""
    totem: Totem | None = None
    timer: Timer | None = None

    @property
    def lacks_qdevice(self) -> bool:
        """Whether a QDevice is configured whose vote the node does not count."""
        votes = self.votes
        members = sum(votes.configured.get(name, 0) for name, online in self.members.items() if online)
        return votes.qdevice > 0 and votes.total < members + votes.qdevice


@dataclasses.dataclass(frozen=True, slots=True)
class Network:
    """What a guest's network device asks of a node. `tag` 0: untagged."""

    bridge: str
    """A bridge, or an SDN vnet, which is one to the node."""
    tag: int = 0
    trunks: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Needs:
    """What a guest asks of the node it starts on, beside memory, storages and its own node's devices."""

    networks: frozenset[Network] = frozenset()
    mappings: frozenset[str] = frozenset()
    """Resource mappings: `pci/NAME`, `usb/NAME`, `dir/NAME`."""
    media: frozenset[str] = frozenset()
    """Volume ids in its CD drives."""
    cloudinit: frozenset[str] = frozenset()
    """Storages of its cloud-init volumes. A start makes these anew, so the storage need not be shared."""
    cpu: str = ""
    """CPU type of a VM (`host`, `x86-64-v2-AES`, `Haswell`); "" where none is asked for."""
    cpu_flags: frozenset[str] = frozenset()
    """CPU flags switched on beside the type, by QEMU's names."""
    cores: int = 0
    """vCPUs of a VM at most; 0 for containers, which a node with fewer CPUs runs too."""
    machine: str = ""
    """Machine type; one with a version (`pc-q35-9.2+pve1`) needs a QEMU that knows it."""


@dataclasses.dataclass(frozen=True, slots=True)
class GuestConfig:
    """A guest's configuration as far as failover depends on it (verb `inventory`, which reads the whole
    cluster's; or one call to the API)."""

    ref: guests.GuestRef
    node: str
    name: str
    identity: str
    """smbios1 uuid of a VM; for a container its volumes, joined: what tells a reused vmid from the guest
    protected."""
    memory_bytes: int
    storages: frozenset[str]
    """Storages of volumes the guest cannot start without, removable media and cloud-init apart."""
    lock: str | None
    template: bool
    local_devices: frozenset[str]
    """Configuration keys that bind the guest to hardware or paths of one node (hostpci0, mp0 with a path,
    ...)."""
    needs: Needs = Needs()
    cores: int = 0
    """Of a container 0: as many as its node has."""
    onboot: bool = False
    agent: bool = False
    """Whether the guest agent is switched on."""
    unreplicated: frozenset[str] | None = frozenset()
    """Storages of volumes that storage replication leaves out; None: an older pveha-node does not tell."""
    read_at: float = dataclasses.field(default=0.0, compare=False)
    """When it was read (the loop's time)."""


@dataclasses.dataclass(frozen=True, slots=True)
class GuestConfigs:
    """All configurations of the cluster that are known, and when the last of them was read."""

    guests: Mapping[int, GuestConfig]
    answered_at: float
    cycle_seconds: float = 0.0
    """Where they are read one by one (without a node shell): how long it takes to read all of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that exists on a node now, be it of a Linux or an Open vSwitch kind, or an SDN vnet."""

    name: str
    vlan_aware: bool
    vlans: tuple[tuple[int, int], ...] = ()
    """Ranges of VLANs that a VLAN-aware bridge carries to the outside; none: nothing is known of it."""
    uplink: bool = True
    """Whether a network card, a bond or a VLAN of one is among its ports."""


@dataclasses.dataclass(frozen=True, slots=True)
class Equipment:
    """What a node has that guests need of the node they start on (verb `inventory --about node`). None: not
    known, and nothing is refused over it."""

    node: str
    answered_at: float = dataclasses.field(compare=False)
    bridges: Mapping[str, Bridge] | None = None
    mappings: frozenset[str] | None = None
    """Resource mappings that lead to something on this node, as in `Needs`."""
    cpus: int | None = None
    cpu_flags: frozenset[str] | None = None
    """By the kernel's names (/proc/cpuinfo)."""
    qemu: tuple[int, int] | None = None
    """Version of the installed QEMU: the newest machine version it knows."""
    media: frozenset[str] | None = None
    """Volume ids of the ISO files on storages that are folders of this node alone."""


@dataclasses.dataclass(frozen=True, slots=True)
class GuestProcess:
    """A live QEMU or LXC process, whether or not its guest is configured on that node (S17)."""

    ref: guests.GuestRef
    pid: int
    start_time: int
    """Field 22 of /proc/PID/stat (clock ticks since boot): tells the process from a later one with the same
    pid."""
    state: str
    """QMP run state (`running`, `paused`, `inmigrate`, `postmigrate`, ...), `unknown` if QMP does not answer;
    `running` for containers."""


@dataclasses.dataclass(frozen=True, slots=True)
class NodeProcesses:
    """Verb `processes`: every live guest process of a node, with what makes the node a witness (S6)."""

    node: str
    quorate: bool
    members: Mapping[str, bool]
    newest_epoch: int
    processes: tuple[GuestProcess, ...]
    answered_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class ClaimResult:
    """What `claim` did with one guest."""

    ref: guests.GuestRef
    claimed: bool
    reason: str
    """`Claimed`, or why not: StaleEpoch, NotQuorate, NodeOnline, NotDisowned, TargetExists, SourceGone,
    TooSlow, LockHeld."""
    cleared_lock: str | None = None
