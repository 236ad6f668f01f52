"""FailoverPolicy: how guests are treated; many ProtectedVMs share one."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from pveha.api.meta import Column, Model, Resource, Status
from pveha.api.placement import PolicyPlacement


class NodeFailureAction(StrEnum):
    """Who restarts a guest whose node died."""

    RESTART = "Restart"
    NATIVE = "Native"


class FailbackMode(StrEnum):
    """Whether a guest returns to a node that is back."""

    NEVER = "Never"
    AUTOMATIC = "Automatic"


class MaintenanceOfContainers(StrEnum):
    """What becomes of a running container whose node is drained."""

    RESTART = "Restart"
    STAY = "Stay"


class NodeFailure(Model):
    """What happens when the guest's node dies."""

    action: NodeFailureAction = NodeFailureAction.RESTART
    """Restart: pveha starts the guest on another node as soon as the death is proven. Native: it is left to
    Proxmox's own HA, which takes minutes; for guests of which you want to keep pveha's hands off."""
    delay_seconds: Annotated[int, Field(ge=0, le=3600)] = 0
    """How long to wait between the proof and the restart. Set it for guests that may come after the important
    ones, or whose clients need time. After about 60 s Proxmox's own HA may be faster."""


class Failback(Model):
    """What happens when the failed node is back."""

    mode: FailbackMode = FailbackMode.NEVER
    """Never: the guest stays where it is (failback=0 is written when the guest is registered). Automatic:
    Proxmox moves it back to the node its rules prefer, which for a container is a stop and a start."""


class AfterRestarts(StrEnum):
    """What happens to a guest that could not be restarted on its node."""

    RELOCATE = "Relocate"
    STOP = "Stop"


class Restart(Model):
    """Tries on the node where the guest is."""

    attempts: Annotated[int, Field(ge=0, le=10)] = 1
    """How often Proxmox starts the guest again on the same node after a failed start (`max_restart`)."""


class Relocate(Model):
    """Tries on other nodes."""

    attempts: Annotated[int, Field(ge=1, le=10)] = 1
    """On how many other nodes Proxmox tries after that (`max_relocate`). Raise it if starts fail on single
    nodes only."""


class GuestFailure(Model):
    """What happens when the guest crashes or cannot be started, while its node is well."""

    restart: Restart = Restart()
    """First it is started again where it is."""
    then: AfterRestarts = AfterRestarts.RELOCATE
    """Then, Relocate: it is tried on other nodes, as often as `relocate` says. Stop: it is left there in HA
    state error for a person to look at, for guests that run on one node only."""
    relocate: Relocate = Relocate()
    """How often other nodes are tried, if `then` is Relocate."""

    @property
    def max_relocate(self) -> int:
        """What Proxmox calls the tries on other nodes."""
        return self.relocate.attempts if self.then is AfterRestarts.RELOCATE else 0


class OnTimeout(StrEnum):
    """What becomes of guests that wait for one that does not become ready."""

    CONTINUE = "Continue"
    STOP = "Stop"


class Startup(Model):
    """When a guest is ready for those that depend on it (spec.dependsOn of ProtectedVMs)."""

    delay_seconds: Annotated[int, Field(ge=0, le=3600)] = 0
    """For how long it runs before it is ready, if it is a container or has no guest agent switched on. With
    an agent it is ready when that answers."""
    ready_timeout_seconds: Annotated[int, Field(ge=1, le=86400)] = 300
    """How long those that depend on it wait for it at most, from when it could be started itself."""
    on_timeout: OnTimeout = OnTimeout.CONTINUE
    """If it is not ready by then, Continue: they are started without it. Stop: they stay down until it is
    ready after all."""


class Maintenance(Model):
    """What happens when the guest's node is drained (spec.nodes[].availability of the HACluster)."""

    containers: MaintenanceOfContainers = MaintenanceOfContainers.RESTART
    """Containers cannot be moved while they run. Restart: they are stopped, moved and started again. Stay:
    they stay on the node, which is not drained until somebody moves or stops them. VMs are always moved
    live."""


class DataRequirement(StrEnum):
    """Where a guest's disks have to be for pveha to start it on another node."""

    SHARED = "Shared"
    SHARED_OR_REPLICATED = "SharedOrReplicated"


class Data(Model):
    """What may be lost of a guest's data when its node dies."""

    require: DataRequirement = DataRequirement.SHARED
    """Shared: nothing, so the guest's disks have to be on shared storage. SharedOrReplicated: a guest on
    local ZFS is started from the replica that a replication job of Proxmox has made of it on another node.
    What it wrote since the last sync is missing there."""
    max_data_loss_seconds: Annotated[int, Field(ge=60, le=604800)] = 900
    """How long before the node's death the replica may have been synced at most: the interval of the
    replication job and a minute at least, or the guest is not FailoverReady right before each sync. Proxmox's
    own HA asks for no age."""


class FailoverPolicySpec(Model):
    """How the guests that refer to this policy are treated."""

    node_failure: NodeFailure = NodeFailure()
    """What happens when the guest's node dies."""
    failback: Failback = Failback()
    """What happens when the failed node is back."""
    maintenance: Maintenance = Maintenance()
    """What happens when the guest's node is drained."""
    startup: Startup = Startup()
    """When the guest is ready for those that depend on it."""
    guest_failure: GuestFailure = GuestFailure()
    """What happens when the guest itself fails: Proxmox's own HA does it, with either engine. These limits
    and failback are kept in the HA resources that pveha has made."""
    data: Data = Data()
    """What may be lost of the guest's data when its node dies."""
    placement: PolicyPlacement = PolicyPlacement()
    """Which guests run together, and which apart."""


class FailoverPolicyStatus(Status):
    """What pveha judges about the policy."""


class FailoverPolicy(Resource):
    """How guests are treated when something fails. ProtectedVMs refer to it; one without a policy gets the
    defaults."""

    kind_name: ClassVar[str] = "FailoverPolicy"
    plural: ClassVar[str] = "failoverpolicies"
    short_name: ClassVar[str] = "fop"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Action", ".spec.nodeFailure.action"),
        Column("Failback", ".spec.failback.mode"),
        Column("Delay", ".spec.nodeFailure.delaySeconds", "integer", priority=1, description="seconds"),
        Column("Age", ".metadata.creationTimestamp", "date"),
    )

    spec: FailoverPolicySpec = FailoverPolicySpec()
    status: FailoverPolicyStatus = FailoverPolicyStatus()
