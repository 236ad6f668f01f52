"""ProtectedVM: one guest, a virtual machine or a container, that is to survive the loss of its node."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pveha.api.hacluster import Engine
from pveha.api.meta import Column, Model, NameRef, ObjectName, Resource, Rule, Status, Time, cel, list_map
from pveha.api.placement import GuestPlacement


class RunStrategy(StrEnum):
    """Who decides whether the guest runs."""

    FOLLOW = "Follow"
    ALWAYS = "Always"
    HALTED = "Halted"


class Preemption(StrEnum):
    """Whether a guest may be stopped for a more important one."""

    NEVER = "Never"
    ALLOWED = "Allowed"


class Dependency(Model):
    """A guest that has to be ready before this one is started after a failure."""

    name: ObjectName
    """Name of its ProtectedVM, in the same namespace and of the same HACluster."""


class ProtectedVMSpec(Model):
    """Which guest, and what is wanted of it."""

    cluster_ref: Annotated[
        NameRef,
        Field(
            json_schema_extra=cel(
                Rule(
                    "self == oldSelf",
                    "clusterRef is immutable: delete this ProtectedVM (the guest is not touched) and create "
                    "another",
                )
            )
        ),
    ]
    """The HACluster the guest belongs to. Immutable."""
    vmid: Annotated[
        int,
        Field(
            ge=100,
            le=999_999_999,
            json_schema_extra=cel(
                Rule(
                    "self == oldSelf",
                    "vmid is immutable: delete this ProtectedVM (the guest is not touched) and create "
                    "another",
                )
            ),
        ),
    ]
    """The guest's number in Proxmox. Immutable. Numbers are reused by Proxmox: pveha records the guest's
    identity and does nothing to another guest that gets the same number."""
    policy_ref: NameRef | None = None
    """The FailoverPolicy for this guest; absent means a policy's defaults: restart at once, never move
    back."""
    run_strategy: RunStrategy = RunStrategy.FOLLOW
    """Follow: what people set in Proxmox holds; if the guest ran before the failure it runs after it. Always:
    it is kept running, also when somebody stops it in Proxmox. Halted: it is kept stopped, but still moved
    off a dead node."""
    priority: Annotated[int, Field(ge=0, le=1000)] = 100
    """Which guests come first when a node dies and not all can start at once, or not all fit: higher
    first."""
    preemption: Preemption = Preemption.NEVER
    """Allowed: when a node is lost and a guest of a higher priority finds no room, this one may be stopped
    for it. It is shut down by Proxmox's HA, within a minute or by force, and started again once there is
    room. Never: it runs on."""
    depends_on: Annotated[
        tuple[Dependency, ...], Field(max_length=32, json_schema_extra=list_map("name"))
    ] = ()
    """Guests that have to be ready before this one is started after the loss of a node: their guest agent
    answers or, without one, they have run for startup.delaySeconds of their policy. A dependency that runs
    already is no reason to wait, and one that its owner keeps stopped is not waited for."""
    placement: GuestPlacement = GuestPlacement()
    """Where it is to run: with which other guests or apart from them, and on which nodes."""


class GuestStatus(Model):
    """The guest as it was when protection began."""

    kind: Literal["VM", "Container"]
    """What it is."""
    name: Annotated[str, Field(max_length=253)] = ""
    """Its name in Proxmox."""
    identity: Annotated[str, Field(max_length=512)] = ""
    """What tells it from another guest with the same vmid: the smbios uuid of a VM, the volumes of a
    container."""


class ReplicaStatus(Model):
    """A replica of the guest's disks."""

    node: Annotated[str, Field(max_length=63)]
    """The node that has it."""
    last_sync_time: Time
    """When the last good sync to it began. A newer one is told a minute, or a tenth of
    data.maxDataLossSeconds, later at the earliest."""


class FailoverPlan(Model):
    """What would happen if the guest's node died now."""

    target_node: Annotated[str, Field(max_length=63)]
    """Where it would run."""
    expected_downtime_seconds: Annotated[int, Field(ge=0)] | None = None
    """For how long it would be down, with the time that it would wait for guests it depends on: as long as
    in its last failover, else calculated from corosync's timeouts; rounded up to 5 s. Absent if it is kept
    stopped, or a person has to confirm the node's death."""

    recovery_point_time: Time | None = None
    """What the guest wrote after this would be missing, because it would be started from the replica of the
    target node. Absent if nothing would be: its disks are on shared storage."""


class LastFailover(Model):
    """The last time the guest was started elsewhere because its node had died."""

    id: Annotated[str, Field(max_length=64)]
    """The operation's identity; the HACluster's lastFailure.id is the same."""
    from_: Annotated[str, Field(max_length=63, alias="from")]
    """The node that was lost."""
    to: Annotated[str, Field(max_length=63)]
    """The node it runs on since."""
    cause: Annotated[str, Field(max_length=1024)]
    """What was observed."""
    start_time: Time
    """When the node was first seen missing."""
    completion_time: Time | None = None
    """When the guest ran again; absent while it does not."""
    downtime_seconds: Annotated[int, Field(ge=0)] | None = None
    """From the first sign of the loss until it ran again, in whole seconds."""
    engine: Engine | None = None
    """Who started it again: pveha (Fast) or Proxmox's own HA (Native); absent while it does not run."""
    recovery_point_time: Time | None = None
    """When the replica was synced that it was started from; absent if its disks are on shared storage."""
    data_loss_seconds: Annotated[int, Field(ge=0)] | None = None
    """From that until the lost node was last seen alive: what the guest wrote in this time is missing."""


class ProtectedVMStatus(Status):
    """What pveha sees and plans. It is rebuilt from the world, except for the guest's identity."""

    node: Annotated[str, Field(max_length=63)] | None = None
    """Where the guest's configuration is."""
    guest: GuestStatus | None = None
    """The guest as it was when protection began."""
    replicas: Annotated[
        tuple[ReplicaStatus, ...], Field(max_length=64, json_schema_extra=list_map("node"))
    ] = ()
    """Replicas of a guest whose policy lets it be started from one (data.require), as last told by its
    node."""
    failover_plan: FailoverPlan | None = None
    """What would happen if the node died now; absent if it would not be recovered by pveha."""
    last_failover: LastFailover | None = None
    """The last failover of this guest."""


class ProtectedVM(Resource):
    """One guest that is to survive the loss of its node. Whoever may create it has power over that guest
    through the cluster's token, so it lives in the namespace of the HACluster."""

    kind_name: ClassVar[str] = "ProtectedVM"
    plural: ClassVar[str] = "protectedvms"
    short_name: ClassVar[str] = "pvm"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
        Column(
            "Status",
            ".status.conditions[?(@.type=='Ready')].reason",
            description="Protected, or why it is not",
        ),
        Column(
            "Failover",
            ".status.conditions[?(@.type=='FailoverReady')].reason",
            description="OK, or why it would not survive",
        ),
        Column("Node", ".status.node"),
        Column("Fails-Over-To", ".status.failoverPlan.targetNode"),
        Column(
            "RPO",
            ".status.failoverPlan.recoveryPointTime",
            "date",
            description="What would be lost: so long ago the replica was synced. Empty: nothing",
        ),
        Column("VMID", ".spec.vmid", "integer"),
        Column("Cluster", ".spec.clusterRef.name"),
        Column("Guest", ".status.guest.name", priority=1),
        Column("Policy", ".spec.policyRef.name", priority=1),
        Column("Priority", ".spec.priority", "integer", priority=1),
        Column(
            "Downtime", ".status.lastFailover.downtimeSeconds", "integer", 1, "seconds, of the last failover"
        ),
        Column("Age", ".metadata.creationTimestamp", "date"),
    )
    selectable: ClassVar[tuple[str, ...]] = (".spec.clusterRef.name", ".spec.vmid", ".spec.policyRef.name")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.spec.dependsOn) || self.spec.dependsOn.all(each, each.name != self.metadata.name)",
            "spec.dependsOn names this ProtectedVM itself, which cannot be ready before it is started: name "
            "only others",
        ),
    )

    spec: ProtectedVMSpec
    status: ProtectedVMStatus = ProtectedVMStatus()
