"""The ports: the only ways to the outside. Each has a real and a simulated implementation.

All methods raise `errors.OutsideError` subclasses, end within their deadline (seconds, chosen by the
implementation from the constants it documents), and can be cancelled at any await. A write that raised
`Unreachable` may have had its effect.
"""

from collections.abc import Mapping
from typing import Protocol

from pveha.model import cluster, guests, kubernetes, node, power, replication


class Hypervisor(Protocol):
    """One Proxmox VE cluster through its API."""

    async def membership(self, witness: str) -> cluster.MembershipView:
        """Ask `witness` itself, never through another node; its answering is also our probe that it is
        alive."""
        ...

    async def inventory(self) -> cluster.Inventory: ...

    async def ha_config(self) -> cluster.HAConfig: ...

    async def ha_rules(self) -> cluster.HARuleConfig: ...

    async def ha_status(self) -> cluster.HAStatus: ...

    async def replication_jobs(self) -> tuple[replication.Job, ...]: ...

    async def replication_job(self, id_: str) -> tuple[replication.Job, str]:
        """One job, and the digest of the file that holds all of them. `NotFound` if there is none."""
        ...

    async def replication_syncs(self, on: str) -> tuple[replication.Sync, ...]:
        """What a node tells of the jobs of the guests that are on it."""
        ...

    async def update_replication_job(self, job: replication.Job, digest: str) -> None:
        """Write whether it is disabled, and its comment; `Conflict` if the file changed since `digest` was
        read."""
        ...

    async def privileges(self) -> cluster.Privileges: ...

    async def ceph_monitors(self) -> cluster.CephMonitors | None:
        """None: the nodes run no Ceph of Proxmox's."""
        ...

    async def certificates(self) -> Mapping[str, float]:
        """By address of the API: when the certificate that it shows now expires (Unix time). Addresses that
        do not answer are left out."""
        ...

    async def create_ha_resource(self, resource: cluster.HAResource) -> None: ...

    async def update_ha_resource(self, resource: cluster.HAResource, digest: str | None) -> None:
        """Write state, comment, failback and limits; `Conflict` if the file changed since `digest` was
        read."""
        ...

    async def delete_ha_resource(self, sid: str) -> None: ...

    async def create_ha_rule(self, rule: cluster.HARule) -> None:
        """`AlreadyExists` if there is a rule of the name; `Refused` if Proxmox finds that it contradicts
        another."""
        ...

    async def update_ha_rule(self, rule: cluster.HARule, digest: str | None) -> None:
        """Write all of it but its type, which stays; `Conflict` if the file changed since `digest` was
        read."""
        ...

    async def delete_ha_rule(self, name: str) -> None:
        """Also succeeds if there is none."""
        ...

    async def start(self, ref: guests.GuestRef, on: str) -> str:
        """Ask node `on` to start the guest; returns the UPID. Accepted is not started: follow the task."""
        ...

    async def migrate(self, ref: guests.GuestRef, source: str, target: str) -> str:
        """Move a running guest that HA does not look after: a VM live, a container by restart. Returns the
        UPID; accepted is not moved."""
        ...

    async def migrate_service(self, ref: guests.GuestRef, target: str) -> None:
        """Ask the CRM to move a guest: a VM live, a container by relocation. It looks at its next round
        (10 s)."""
        ...

    async def task(self, upid: str) -> cluster.TaskStatus: ...

    async def guest_runtime(self, ref: guests.GuestRef, on: str) -> cluster.GuestRuntime: ...

    async def guest_config(self, ref: guests.GuestRef, on: str) -> Mapping[str, str]:
        """The guest's configuration by key, as in its file; one call a guest, for want of a node shell."""
        ...

    async def equipment(self, on: str) -> node.Equipment:
        """What the node has for guests, as far as the API tells it for little: its CPUs."""
        ...

    async def ping_agent(self, ref: guests.GuestRef, on: str) -> None:
        """Returns if the guest agent of a VM answers; `Refused` if it does not (after 3 s)."""
        ...


class NodeShell(Protocol):
    """`pveha-node` on every node."""

    async def status(self, on: str) -> node.NodeStatus: ...

    async def inventory(self, on: str) -> node.GuestConfigs:
        """The configurations of the whole cluster."""
        ...

    async def equipment(self, on: str) -> node.Equipment:
        """What the node has for guests."""
        ...

    async def processes(self, on: str) -> node.NodeProcesses: ...

    async def begin(self, on: str, owner: str, take_over: str | None = None) -> int:
        """Open a new epoch (S13) and return it. `AnotherOwner` unless `take_over` names the present owner."""
        ...

    async def claim(
        self, on: str, epoch: int, op: str, dead: str, refs: tuple[guests.GuestRef, ...]
    ) -> tuple[node.ClaimResult, ...]:
        """Move the configurations of `refs` from `dead` to `on` under the checks of S14."""
        ...

    async def kill(self, on: str, epoch: int, process: node.GuestProcess) -> None:
        """End a leftover migration process (S17); refused unless it still is in the state it was seen in."""
        ...


class PowerControl(Protocol):
    """The BMCs and outlets of all nodes. `Busy` is raised where trying again soon is what helps."""

    async def read(self, switch: power.Switch) -> power.PowerReading: ...

    async def force_off(self, switch: power.Switch) -> bool:
        """Returns when the command was acknowledged: proof is a later `read`.

        False: it was declined (or not even sent) because the machine reads off, be it for a moment only.
        """
        ...

    async def power_on(self, switch: power.Switch) -> None: ...


class Leadership(Protocol):
    """The right to cause side effects on one cluster."""

    def remaining(self) -> float:
        """Seconds for which nobody else can be leader; 0 or less without leadership."""
        ...


class Kubernetes(Protocol):
    """The API server that holds what users want, and where status, Leases and Events are written."""

    async def identity(self) -> str:
        """UID of the namespace kube-system: what tells two Kubernetes clusters apart (S14)."""
        ...

    async def list_objects(self, kind: str, namespace: str | None) -> kubernetes.Listing:
        """All objects of one of pveha's kinds; `namespace` None means everywhere."""
        ...

    async def apply_status(
        self, ref: kubernetes.ObjectRef, status: kubernetes.Manifest, resource_version: str = ""
    ) -> kubernetes.Manifest:
        """Make `status` all that pveha says of the object (server-side apply); returns the object as stored.

        `NotFound` if it is gone, `Conflict` if it is no longer of `resource_version` (when one is given).
        """
        ...

    async def apply_guest(self, manifest: kubernetes.Manifest, *, ours: bool) -> kubernetes.Manifest:
        """Make or change a ProtectedVM that pveha owns (server-side apply, with a field manager of its own);
        returns the object as stored.

        `ours`: it is known to be, so what somebody else wrote into the same fields gives way. Otherwise that
        is a `Conflict`.
        """
        ...

    async def delete_guest(self, ref: kubernetes.ObjectRef, resource_version: str) -> None:
        """Delete the ProtectedVM with the uid of `ref`. `NotFound` if there is none of the name, `Conflict`
        if it is another one or no longer of `resource_version`."""
        ...

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes]:
        """The decoded data of a Secret."""
        ...

    async def record(self, occurrence: kubernetes.Occurrence) -> None:
        """Write an Event, or the count of its series."""
        ...

    async def get_lease(self, namespace: str, name: str) -> kubernetes.Lease: ...

    async def create_lease(self, lease: kubernetes.Lease) -> kubernetes.Lease:
        """`AlreadyExists` if somebody was faster."""
        ...

    async def update_lease(self, lease: kubernetes.Lease) -> kubernetes.Lease:
        """Write the Lease if its `resource_version` is the stored one, else `Conflict`; make it if it is
        gone."""
        ...
