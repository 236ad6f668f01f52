"""What a simulated data centre consists of: frozen values, with the defaults of a real Proxmox VE 9.2
cluster.

Durations are in seconds unless the name says otherwise, memory in bytes. Numbers marked *measured* come from
a real three-node 9.2 cluster.
"""

import dataclasses
import uuid
from collections.abc import Iterable

from pveha.model import cluster, guests

GIB = 1 << 30


def stable_uuid(name: str) -> str:
    """A UUID that depends on `name` alone, lower case."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.sim.pveha.dev"))


@dataclasses.dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge of a node, or an SDN vnet. `vlans` are those of a VLAN-aware one (`2-4094`)."""

    name: str
    vlan_aware: bool = False
    vlans: str = ""
    uplink: bool = True
    """Whether a network card is among its ports."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mapping:
    """A resource mapping, `pci/NAME`, `usb/NAME` or `dir/NAME`, and the nodes on which it leads to
    something."""

    name: str
    nodes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A machine. Empty `address`, `uuid`, `serial` and zero `nodeid` are filled in by `World`'s
    configuration."""

    name: str
    address: str = ""
    memory: int = 64 * GIB
    cpus: int = 16
    uuid: str = ""
    serial: str = ""
    votes: int = 1
    nodeid: int = 0
    has_bmc: bool = True
    bmc_uuid: str | None = None
    """Identity the BMC answers with; None: the machine's own."""
    pdus: tuple[str, ...] = ()
    """PDUs with an outlet for it, one for each of its power supplies; none: it is fed otherwise."""
    chassis: str = ""
    """Machines of one chassis lose their power together when a BMC forces one of them off."""
    power_restore: str = "off"
    """After the mains return: `on`, `off` or `last`."""
    boot_seconds: float = 30.0
    """Power on to corosync, pmxcfs and the API being up."""
    clock_skew: float = 0.0
    version: str = ""
    """Of Proxmox VE; "": the configuration's."""
    bridges: tuple[Bridge, ...] = (Bridge("vmbr0"),)
    cpu: str = "x86-64-v3"
    """What its CPU can do: one of `equipment.LEVELS`."""
    cpu_flags: tuple[str, ...] = ()
    """Further CPU flags, by the kernel's names."""
    qemu: str = "10.1"
    """Version of QEMU."""
    isos: tuple[str, ...] = ()
    """Names of the ISO files on its own storage `local`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """A storage definition; `nodes` empty: on every node. `type` is Proxmox's (dir, lvm, nfs, rbd,
    zfspool...)."""

    name: str
    shared: bool = True
    type: str = "lvm"
    nodes: tuple[str, ...] = ()
    lock_seconds: float = 0.0
    """How long a dead client's lock outlives it (NFSv4 about 90, RBD 30); shared LVM has no lock at all."""


@dataclasses.dataclass(frozen=True, slots=True)
class Replica:
    """A replication job to a node, and how long before the world begins its last sync began."""

    node: str
    every_seconds: float = 900.0
    synced_ago: float = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Guest:
    """A guest as it is when the world begins. `ha` None: not registered with Proxmox's HA."""

    vmid: int
    node: str
    kind: guests.GuestKind = guests.GuestKind.VM
    name: str = ""
    memory: int = 2 * GIB
    cores: int = 2
    """0: nothing limits it; containers only."""
    storages: tuple[str, ...] = ("shared",)
    running: bool = True
    ha: cluster.HAResource | None = None
    boot_seconds: float = 10.0
    """From the start of its process until its agent (a container: its services) answers."""
    tags: tuple[str, ...] = ()
    pool: str = ""
    template: bool = False
    uuid: str = ""
    lock: str = ""
    onboot: bool = False
    agent: bool = True
    extra: tuple[tuple[str, str], ...] = ()
    """Further lines of the configuration file: (("hostpci0", "0000:01:00.0"),)."""
    replicas: tuple[Replica, ...] = ()
    """Where its volumes, which are on ZFS then, are replicated to."""
    bridge: str = "vmbr0"
    """Of its only network device; "" for none. Further ones are lines of `extra`."""

    @property
    def ref(self) -> guests.GuestRef:
        return guests.GuestRef(self.vmid, self.kind)


@dataclasses.dataclass(frozen=True, slots=True)
class Corosync:
    """`totem` and `quorum` of corosync.conf; times in milliseconds as there."""

    token: int = 3000
    token_coefficient: int = 125
    """What `pvecm create` of 9.2 writes (corosync's own default is 650)."""
    two_node: bool = False
    last_man_standing: bool = False
    auto_tie_breaker: bool = False
    allow_downscale: bool = False
    expected_votes: int = 0
    """0: not set, the sum of the nodes' votes."""

    def loss_seconds(self, remaining: int) -> float:
        """From the loss of a member to the new membership: token loss, then consensus among those that
        remain.

        3000 ms + coefficient for each node over two, and consensus = 1.2 x token. Counted over the
        `remaining` nodes it gives 6.6 s for three nodes, as measured (6.54-6.63); counted over the configured
        ones it would be 6.88.
        """
        token = self.token + self.token_coefficient * max(0, remaining - 2)
        return (token + token * 12 // 10) / 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Qdevice:
    """`quorum.device` of corosync.conf. For an even number of nodes with a vote each, as `pvecm qdevice
    setup` wants it."""

    votes: int = 1
    host: str = "192.0.2.250"


@dataclasses.dataclass(frozen=True, slots=True)
class Timings:
    """How long things take. All measured, or compile-time constants of pve-cluster and pve-ha-manager."""

    rejoin: float = 5.0
    """From a link's return to one membership."""
    crm_round: float = 10.0
    crm_round_takes: tuple[float, float] = (0.0, 0.0)
    """From a master's reading of the resources to its writing what it made of them; some 0.1 s a service."""
    crm_wait: float = 5.0
    """Round of a CRM that is not master."""
    lrm_round: float = 5.0
    lrm_idle_after: float = 600.0
    """Active LRM without services gives its lock back."""
    fence_delay: float = 60.0
    lock_lifetime: float = 120.0
    watchdog_client: float = 60.0
    watchdog_device: float = 10.0
    pvestatd_round: float = 10.0
    status_lifetime: float = 300.0
    """After this long without a report, guests and storages of a node are `unknown`."""
    newcomer_unknown: float = 8.0
    """A node that just joined is `unknown` in `/nodes` until its pvestatd reports."""
    start: tuple[float, float] = (0.85, 1.1)
    """Start task: from accepted to the process running, least and most."""
    stop: float = 1.0
    shutdown: float = 4.0
    migrate_setup: float = 0.8
    migrate_transfer: float = 2.3
    migrate_resume: float = 0.3
    migrate_cleanup: float = 1.5
    config_write: tuple[float, float] = (0.05, 0.08)
    """A PUT that takes the cluster-wide lock: this long while it holds the lock ..."""
    config_write_tail: tuple[float, float] = (0.02, 1.3)
    """... and with this probability it is starved for up to this long by others (40 writes with 8 in flight
    took 1.4 s in all, the slowest of them 1.3 s)."""
    rename: float = 0.005
    api_call: tuple[float, float] = (0.004, 0.02)
    shell_call: tuple[float, float] = (0.03, 0.08)
    bmc_call: tuple[float, float] = (0.05, 0.25)
    bmc_off: tuple[float, float] = (0.5, 2.0)
    """From the acknowledged forced off to the power being gone."""
    bmc_on: float = 1.0
    no_quorum_lock_error: float = 9.9
    proxy_timeout: float = 30.0
    auth_failure: float = 3.0


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """A data centre with one Proxmox VE cluster."""

    nodes: tuple[Node, ...]
    storages: tuple[Storage, ...] = (Storage("shared"), Storage("local", shared=False, type="dir"))
    guests: tuple[Guest, ...] = ()
    rules: tuple[cluster.HARule, ...] = ()
    mappings: tuple[Mapping, ...] = ()
    corosync: Corosync = Corosync()
    qdevice: Qdevice | None = None
    ceph: tuple[str, ...] = ()
    """Nodes with a monitor of a Ceph that has a network of its own; none: there is no Ceph."""
    timings: Timings = Timings()
    cluster_name: str = "dc1"
    shutdown_policy: str = "conditional"
    """Of datacenter.cfg: conditional, freeze, failover, migrate."""
    master: str = ""
    """CRM master when the world begins; "" takes the first node if a guest is HA-managed."""
    cold: bool = False
    """Begin with every node switched off instead of in a steady state."""
    drilled: bool = True
    """Whether the outlets were bound by a drill before the world begins."""
    version: str = "9.2.11"
    """Of Proxmox VE; 8 has no HA rules."""
    repair_timer: bool = True
    """Whether the timer of `pveha-node repair` is installed on the nodes (S10)."""
    seed: int = 0
    start_timestamp: float = 1_795_000_000.0
    """Unix time at which the world begins."""

    def completed(self) -> "Config":
        """The same with addresses, identities, names and node ids filled in. ValueError for a QDevice beside
        an odd number of nodes, or nodes that have other than one vote."""
        if self.qdevice and (len(self.nodes) % 2 or any(node.votes != 1 for node in self.nodes)):
            raise ValueError("a QDevice needs an even number of nodes with one vote each")
        nodes = tuple(
            dataclasses.replace(
                node,
                address=node.address or f"192.0.2.{10 + number}",
                uuid=(node.uuid or stable_uuid(node.name)).lower(),
                serial=(node.serial or f"sim-{node.name}").lower(),
                nodeid=node.nodeid or number,
            )
            for number, node in enumerate(self.nodes, 1)
        )
        filled = tuple(
            dataclasses.replace(
                guest,
                name=guest.name or f"{guest.kind.ha_type}{guest.vmid}",
                uuid=guest.uuid or stable_uuid(f"{self.cluster_name}-{guest.vmid}"),
            )
            for guest in self.guests
        )
        return dataclasses.replace(self, nodes=nodes, guests=filled)


def managed(
    vmid: int, node: str, state: cluster.HAState = cluster.HAState.STARTED, **fields: object
) -> Guest:
    """A guest registered with Proxmox's HA."""
    guest = Guest(vmid, node, **fields)  # type: ignore[arg-type]
    return dataclasses.replace(guest, ha=cluster.HAResource(guest.ref.sid, state))


def three_nodes(guests_on: Iterable[Guest] = (), **fields: object) -> Config:
    """The default data centre: pve1, pve2, pve3 with a shared LVM and a local directory."""
    return Config(tuple(Node(f"pve{n}") for n in (1, 2, 3)), guests=tuple(guests_on), **fields)  # type: ignore[arg-type]
