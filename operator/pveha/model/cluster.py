"""What the Proxmox VE API shows of a cluster, after validation by shape."""

import dataclasses
import enum
import itertools
from collections.abc import Mapping

from pveha.model import guests


@dataclasses.dataclass(frozen=True, slots=True)
class MembershipView:
    """Corosync membership as one node (the witness) tells it: `GET /cluster/status`, asked directly."""

    witness: str
    quorate: bool
    online: Mapping[str, bool]
    """Every configured node and whether the witness sees it as a member."""
    addresses: Mapping[str, str]
    """Cluster address of each node."""
    answered_at: float

    @property
    def members(self) -> frozenset[str]:
        return frozenset(name for name, online in self.online.items() if online)


@dataclasses.dataclass(frozen=True, slots=True)
class NodeResource:
    """A node's entry in `/cluster/resources`. Memory is in bytes; None where a node that is not online hides
    it, and its CPUs."""

    name: str
    online: bool
    max_memory: int | None
    used_memory: int | None
    uptime: float | None = None
    """Seconds since boot."""
    max_cpu: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class GuestResource:
    """A guest's entry in `/cluster/resources`; `node` is where its configuration file is.

    `status` is the QMP state (`running`, `stopped`, `paused`, `postmigrate`, ...) as last reported by `node`:
    it is stale when that node is not online, and right after a configuration has moved.
    """

    ref: guests.GuestRef
    node: str
    status: str
    name: str
    max_memory: int
    template: bool
    lock: str | None
    ha_state: str | None
    tags: frozenset[str] = frozenset()
    pool: str | None = None
    uptime: float = dataclasses.field(default=0.0, compare=False)
    """Seconds since its process was started, as last reported; stale like `status`."""
    max_cpu: float = 0.0
    """CPUs it may use at most: of a container without a limit those of its node. 0 where they are hidden."""


@dataclasses.dataclass(frozen=True, slots=True)
class StorageResource:
    """A storage on one node; `available` as that node last reported it."""

    node: str
    storage: str
    shared: bool
    available: bool
    type: str = ""
    """Proxmox's storage plugin (`nfs`, `rbd`, `lvmthin`, ...)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Inventory:
    """`GET /cluster/resources`: everything in one answer."""

    nodes: Mapping[str, NodeResource]
    guests: Mapping[int, GuestResource]
    storages: tuple[StorageResource, ...]
    answered_at: float


class HAState(enum.StrEnum):
    """Requested state of an HA resource (`ha/resources`, property `state`)."""

    STARTED = "started"
    STOPPED = "stopped"
    DISABLED = "disabled"
    IGNORED = "ignored"


@dataclasses.dataclass(frozen=True, slots=True)
class HAResource:
    """One entry of `ha/resources.cfg`. Absent properties have Proxmox's defaults."""

    sid: str
    state: HAState = HAState.STARTED
    comment: str = ""
    failback: bool = True
    max_restart: int = 1
    max_relocate: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class HAConfig:
    """`GET /cluster/ha/resources`; `digest` is the compare-and-swap of the whole file ("" for an empty
    list)."""

    resources: Mapping[str, HAResource]
    digest: str
    answered_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class HARule:
    """An HA rule. Node affinity: `nodes` with priorities, `strict`. Resource affinity: `positive`."""

    name: str
    type: str
    """`node-affinity` or `resource-affinity`; rules of other types are kept so that they can be refused."""
    sids: frozenset[str]
    nodes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    strict: bool = False
    positive: bool = True
    comment: str = ""
    disabled: bool = False
    """Kept in the configuration, and not applied."""


NODE_AFFINITY = "node-affinity"
RESOURCE_AFFINITY = "resource-affinity"


@dataclasses.dataclass(frozen=True, slots=True)
class HARuleConfig:
    """`GET /cluster/ha/rules`; `digest` is the compare-and-swap of the whole file ("" for an empty list)."""

    rules: Mapping[str, HARule]
    digest: str
    answered_at: float

    @property
    def enabled(self) -> tuple[HARule, ...]:
        return tuple(rule for rule in self.rules.values() if not rule.disabled)


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What the CRM remembers of a service (`manager_status.service_status`)."""

    state: str
    node: str
    target: str | None = None
    uid: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class LRMStatus:
    """What a node's LRM last reported. `state`: active, wait_for_agent_lock, ...; `mode`: active, shutdown,
    restart, ..."""

    state: str
    mode: str
    timestamp: int


@dataclasses.dataclass(frozen=True, slots=True)
class HAStatus:
    """`GET /cluster/ha/status/manager_status`."""

    master: str | None
    timestamp: int
    """Unix time of the CRM master's last flush (every 10 s while a master is active); 0 before the first."""
    node_status: Mapping[str, str]
    services: Mapping[str, ServiceStatus]
    lrms: Mapping[str, LRMStatus]
    armed: bool
    """False while HA is disarmed or disarming."""
    answered_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class GuestRuntime:
    """`GET /nodes/NODE/KIND/VMID/status/current`: what a live node says of a guest it holds."""

    status: str
    qmp_status: str | None
    """None for containers."""
    uptime: float
    lock: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class TaskStatus:
    """A task by its UPID; `exit_status` is None while it runs, "OK" (or "WARNINGS: n") on success."""

    upid: str
    running: bool
    exit_status: str | None

    @property
    def succeeded(self) -> bool:
        return self.exit_status is not None and (
            self.exit_status == "OK" or self.exit_status.startswith("WARNINGS")
        )


@dataclasses.dataclass(frozen=True, slots=True)
class CephMonitors:
    """Ceph's monitors, which Proxmox calls as the nodes that they are on."""

    quorum: frozenset[str]
    """Those that are in quorum."""
    count: int
    """How many there are."""
    answered_at: float

    def last_without(self, name: str) -> bool:
        """Whether this one is in quorum, and the others that are would not be a majority."""
        return name in self.quorum and 2 * (len(self.quorum) - 1) <= self.count


@dataclasses.dataclass(frozen=True, slots=True)
class Privileges:
    """What the token may do: privileges on `/`, `/vms` and `/storage`; and the versions asked beside them."""

    root: frozenset[str]
    vms: frozenset[str]
    storage: frozenset[str]
    versions: Mapping[str, str]
    """Of Proxmox VE, by node (by address where no node has told its name), as each last told itself."""

    @property
    def version(self) -> str:
        """The oldest."""
        return min(self.versions.values(), key=_release, default="")


def _release(version: str) -> tuple[int, ...]:
    """For comparison: "9.2.11" is (9, 2, 11). What is no number ends it."""
    return tuple(int(part) for part in itertools.takewhile(str.isdecimal, version.split(".")))
