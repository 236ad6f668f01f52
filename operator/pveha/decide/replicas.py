"""From which replicas a guest on local disks may be started (S19).

Only what is on ZFS (storage type zfspool) is replicated, and only the node that holds the guest knows when a
replica was synced last: what it has told is kept in memory, and in the status of the ProtectedVM for whoever
leads next.
"""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Mapping

from pveha.api import failoverpolicy, hacluster
from pveha.api.conditions import FailoverReady
from pveha.api.meta import ACCEPT_DATA_LOSS_ANNOTATION
from pveha.decide import memory, protection
from pveha.model import node, replication, snapshot

REPLICATED_TYPE = "zfspool"
"""Of the only storages that Proxmox replicates."""
PRIVILEGE = "VM.Replicate"
"""Proxmox demands it of who disables a replication job."""
ALIKE_SECONDS = 60.0
"""Replicas that differ by no more, or by a tenth of what may be lost, are equally good: which one was synced
last changes all the time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Replica:
    """A copy of a guest's volumes: where, and when the last good sync to it began (Unix time)."""

    node: str
    synced: float


@dataclasses.dataclass(frozen=True, slots=True)
class Usable:
    """Replicas that a guest may be started from, the youngest first, and why from no others."""

    replicas: tuple[Replica, ...]
    refusal: protection.Refusal
    alike: float = ALIKE_SECONDS

    @property
    def nodes(self) -> frozenset[str]:
        return frozenset(each.node for each in self.replicas)

    @property
    def preferred(self) -> frozenset[str]:
        """Nodes whose replica is about as young as the youngest."""
        return frozenset(
            each.node for each in self.replicas if self.replicas[0].synced - each.synced <= self.alike
        )

    def on(self, name: str) -> Replica | None:
        return next((each for each in self.replicas if each.node == name), None)


Usables = Callable[[int], Usable | None]
"""By vmid; None: the guest has no replication jobs, or may not be started from a replica at all."""


def usables(
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    protected: protection.Protection,
) -> Usables:
    """What is usable of each guest, worked out when it is asked for."""
    if not seen.replicas.jobs:
        return nothing
    native = spec.recovery.engine is hacluster.Engine.NATIVE
    local = _local(seen)

    @functools.cache
    def usable(vmid: int) -> Usable | None:
        jobs, guest = seen.replicas.jobs.get(vmid), protected.guests.get(vmid)
        if jobs is None or guest is None or guest.config is None:
            return None
        if wanted(guest):
            return _usable(guest, guest.config, jobs, local, seen, memo, native=native)
        if not native:
            return None
        text = "its replication jobs lead to none of these nodes"
        refusal = protection.Refusal(FailoverReady.LOCAL_DISK_ONLY, text)
        return Usable(tuple(Replica(job.target, 0.0) for job in jobs), refusal)

    return usable


def nothing(vmid: int) -> Usable | None:
    """No guest has any."""
    return None


def wanted(guest: protection.Protected) -> bool:
    """Whether its policy lets it be started from a replica."""
    return guest.policy.data.require is failoverpolicy.DataRequirement.SHARED_OR_REPLICATED


def coarseness(guest: protection.Protected) -> float:
    """Seconds by which replicas differ that are equally young."""
    return max(ALIKE_SECONDS, guest.policy.data.max_data_loss_seconds / 10)


def known(guest: protection.Protected, seen: snapshot.Snapshot) -> tuple[Replica, ...]:
    """Its replicas as last told by the node that holds it, to this leader or an earlier one; the youngest
    first."""
    jobs = seen.replicas.jobs.get(guest.vmid, ())
    targets = {job.target for job in jobs if not job.removing} - {guest.seen.node}
    status, found = guest.pvm.status, dict[str, float]()
    if status.node == guest.seen.node:
        found = {
            each.node: each.last_sync_time.timestamp() for each in status.replicas if each.node in targets
        }
    for job in jobs:
        sync = seen.replicas.syncs.get(job.id)
        if (
            sync is not None
            and sync.last
            and sync.source == guest.seen.node
            and sync.target == job.target
            and job.target in targets
        ):
            found[sync.target] = max(sync.last, found.get(sync.target, 0.0))
    return tuple(Replica(*each) for each in sorted(found.items(), key=lambda each: (-each[1], each[0])))


def alive_at(name: str, seen: snapshot.Snapshot, memo: memory.Memory) -> float:
    """Until when guests of a node may have written, as far as anybody has seen it alive: as a member, by an
    answer of its own, or by its BMC (Unix time); now, if it is a member."""
    lost, probe = memo.node(name), seen.probes.get(name)
    if lost.offline_since is None:
        return seen.wall
    told = lost.failure.rpartition("-")[2]
    left = float(told) if told.isdecimal() else lost.offline_timestamp
    heard = [probe.answered_at] if probe is not None else []
    heard += [method.on_read_at for method in lost.methods.values()]
    return max(left, seen.wall - (seen.now - max(heard, default=float("-inf"))))


def _usable(
    guest: protection.Protected,
    config: node.GuestConfig,
    jobs: tuple[replication.Job, ...],
    local: Mapping[str, str],
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    *,
    native: bool,
) -> Usable:
    if (refusal := _unreplicated(config, local)) is not None:
        return Usable((), refusal)
    if not native and (refusal := _not_to_be_held(guest, jobs, seen)) is not None:
        return Usable((), refusal)
    replicas, names = known(guest, seen), ", ".join(job.id for job in jobs)
    if not replicas:
        text = (
            f"when its replicas were last synced is not known (replication job {names}): look at "
            f"'pvesr status' on {guest.seen.node}, and at the job's log if it fails"
        )
        return Usable((), protection.Refusal(FailoverReady.REPLICA_UNKNOWN, text))
    limit = guest.policy.data.max_data_loss_seconds
    alive = alive_at(guest.seen.node, seen, memo)
    young = tuple(each for each in replicas if alive - each.synced <= limit)
    return Usable(young, OTHERS if young else _too_old(replicas[0], jobs, limit), coarseness(guest))


OTHERS = protection.Refusal(
    FailoverReady.REPLICA_TOO_OLD,
    "no replica of it there is young enough (data.maxDataLossSeconds of its policy)",
)


def _too_old(youngest: Replica, jobs: tuple[replication.Job, ...], limit: int) -> protection.Refusal:
    job = next(job.id for job in jobs if job.target == youngest.node)
    when = datetime.datetime.fromtimestamp(youngest.synced, datetime.UTC)
    return protection.Refusal(
        FailoverReady.REPLICA_TOO_OLD,
        f"its youngest replica (replication job {job}, on {youngest.node}) was synced at "
        f"{when:%Y-%m-%dT%H:%M:%SZ}, and its policy lets no more than {limit} s be lost: let the job run "
        "more often, see 'pvesr status' if it fails, or raise data.maxDataLossSeconds, which has to be the "
        "job's interval and a minute at least",
    )


def _local(seen: snapshot.Snapshot) -> dict[str, str]:
    """Storages that are not shared, and their types."""
    storages = seen.inventory.storages if seen.inventory is not None else ()
    return {each.storage: each.type for each in storages if not each.shared}


def _unreplicated(config: node.GuestConfig, local: Mapping[str, str]) -> protection.Refusal | None:
    """Why not all local volumes of a guest can be in its replicas, or None."""
    if config.unreplicated is None:
        text = f"pveha-node on {config.node} does not tell which of its volumes are replicated: update it"
        return protection.Refusal(FailoverReady.LOCAL_DISK_ONLY, text)
    other = {name for name in config.storages if local.get(name, REPLICATED_TYPE) != REPLICATED_TYPE}
    if left_out := sorted(other | (config.unreplicated & local.keys())):
        text = (
            f"it has volumes on storage {', '.join(left_out)} that are not replicated: only those on ZFS "
            "without replicate=0 are"
        )
        return protection.Refusal(FailoverReady.LOCAL_DISK_ONLY, text)
    return None


def _not_to_be_held(
    guest: protection.Protected, jobs: tuple[replication.Job, ...], seen: snapshot.Snapshot
) -> protection.Refusal | None:
    """Why its jobs could not be disabled before it is started elsewhere, or None."""
    for job in jobs:
        hold = job.hold
        if hold is not None and (hold.left or hold.node != guest.seen.node):
            text = (
                f"replication job {job.id} is disabled since the guest was started from a replica: "
                f"{hold.node} may hold newer data, which the job would overwrite. To give that up, annotate "
                f"the ProtectedVM with {ACCEPT_DATA_LOSS_ANNOTATION}={hold.failure}; to keep it, copy it "
                "first"
            )
            return protection.Refusal(FailoverReady.DATA_LOSS_NOT_ACCEPTED, text)
        if len(job.comment) + protection.MARK_ROOM > replication.COMMENT_LIMIT:
            text = f"the comment of replication job {job.id} leaves no room for pveha's mark: shorten it"
            return protection.Refusal(FailoverReady.REPLICATION_NOT_HELD, text)
    if seen.privileges is not None and PRIVILEGE not in seen.privileges.vms:
        text = (
            f"the token lacks {PRIVILEGE} on /vms, without which pveha cannot disable the guest's "
            "replication job and does not start it from a replica: add it to the role of the token and of "
            "its user"
        )
        return protection.Refusal(FailoverReady.REPLICATION_NOT_HELD, text)
    return None
