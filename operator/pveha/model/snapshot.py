"""One moment of everything observed."""

import dataclasses
from collections.abc import Mapping

from pveha.model import cluster, node, operations, power, replication
from pveha.model.operations import Takeover


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """Our own calls to a node's API: when it was last asked and last answered (-inf: never)."""

    asked_at: float
    answered_at: float
    failed_since: float | None
    """When the first of the unanswered calls since the last answer was made; None if the last one was
    answered."""
    problem: str = ""
    kind: str = ""
    """Name of the error class of `problem`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """An observation that failed: since when, what kind (name of the error class), and the sentence for the
    user."""

    kind: str
    message: str
    since: float


@dataclasses.dataclass(frozen=True, slots=True)
class AgentAnswer:
    """What came of the last question to a guest's agent, on the node where the guest runs: no `problem` if it
    answered."""

    node: str
    asked_at: float
    problem: str = ""
    kind: str = ""
    """Name of the error class of `problem`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known at `now`. Parts that were never seen are None or empty; each carries when it was
    answered."""

    now: float
    wall: float
    started_at: float
    """When this operator began to watch this cluster."""
    lease_remaining: float
    owner: str
    """How this HACluster names itself as owner of the Proxmox cluster: UID of kube-system, namespace and name
    (S14)."""
    views: Mapping[str, cluster.MembershipView]
    probes: Mapping[str, Probe]
    inventory: cluster.Inventory | None
    ha_config: cluster.HAConfig | None
    ha_status: cluster.HAStatus | None
    rule_config: cluster.HARuleConfig | None
    version: str
    power: Mapping[power.Switch, power.PowerReading]
    shells: Mapping[str, node.NodeStatus]
    configs: node.GuestConfigs | None
    problems: Mapping[str, Problem]
    """Keyed by source: `inventory`, `ha_config`, `power/NODE/METHOD`, `shell/NODE`, ..."""
    operations: tuple[operations.OperationState, ...]
    privileges: cluster.Privileges | None = None
    """What the token may do; None: not asked yet."""
    certificates: Mapping[str, float] | None = None
    """By address of the API: when the certificate shown there expires (Unix time); None: not looked yet."""
    ceph: cluster.CephMonitors | None = None
    """None: there is no Ceph, or it has not told yet."""
    equipment: Mapping[str, node.Equipment] = dataclasses.field(default_factory=dict)
    """What each node has for guests, as far as it has told."""
    replicas: replication.Replication = replication.NOTHING
    agents: Mapping[int, AgentAnswer] = dataclasses.field(default_factory=dict)
    """By vmid: guest agents that were asked (`decision.Looking.agents`)."""

    def resource(self, sid: str) -> cluster.HAResource | None:
        """A guest's entry in the configuration of Proxmox HA."""
        return self.ha_config.resources.get(sid) if self.ha_config is not None else None

    def service(self, sid: str) -> cluster.ServiceStatus | None:
        """The CRM's record of a guest."""
        return self.ha_status.services.get(sid) if self.ha_status is not None else None

    def config(self, vmid: int) -> node.GuestConfig | None:
        """A guest's configuration."""
        return self.configs.guests.get(vmid) if self.configs is not None else None

    def takeovers(self) -> dict[int, Takeover]:
        """The takeover in flight of each guest, by vmid."""
        return {
            item.ref.vmid: state.operation
            for state in self.operations
            if isinstance(state.operation, Takeover) and state.outcome is None
            for item in state.operation.items
        }

    def memory_of(self, guest: cluster.GuestResource) -> int:
        """Bytes of memory, as configured if that is known."""
        config = self.config(guest.ref.vmid)
        return config.memory_bytes if config is not None else guest.max_memory

    def cpus_of(self, guest: cluster.GuestResource) -> float:
        """vCPUs, as configured if that is known; at least one, also of a container without a limit."""
        config = self.config(guest.ref.vmid)
        return max(1.0, config.cores if config is not None else guest.max_cpu)

    @property
    def ha_rules(self) -> tuple[cluster.HARule, ...]:
        """The HA rules that Proxmox applies, as far as they were read."""
        return self.rule_config.enabled if self.rule_config is not None else ()
