"""What is asked about where guests would go: the cluster as plans of one round see it."""

import dataclasses
from collections.abc import Mapping

from pveha.api import hacluster
from pveha.decide import eligibility, evidence, memory, protection, replicas
from pveha.model import cluster, operations, snapshot

MOVING_STATES = frozenset({"migrate", "relocate"})
"""Of a service that the CRM moves."""


@dataclasses.dataclass(frozen=True, slots=True)
class Situation:
    """Nodes and guests as seen, wanted and remembered when it is asked."""

    seen: snapshot.Snapshot
    spec: hacluster.HAClusterSpec
    memo: memory.Memory
    verdicts: Mapping[str, evidence.Verdict]
    protected: protection.Protection
    judge: eligibility.Judge
    """It knows `seen`."""
    promised: Mapping[str, int]
    """Bytes of memory per node that guests still on their way there will use."""
    ha_unused: bool
    """Whether Proxmox HA has no resource yet, tells of no LRM, and LRMs are taken for alive."""


def promised(seen: snapshot.Snapshot, protected: protection.Protection) -> dict[str, int]:
    """Bytes of memory per node that guests still being started there will use."""
    in_flight = seen.takeovers()
    total: dict[str, int] = {}
    for vmid, guest in protected.guests.items():
        where = in_flight[vmid].target if vmid in in_flight else guest.seen.node
        starting = vmid in in_flight or (guest.comment.mark is not None and guest.seen.status != "running")
        if starting:
            total[where] = total.get(where, 0) + guest.memory
    return total


def heading(guest: cluster.GuestResource, seen: snapshot.Snapshot, memo: memory.Memory) -> str:
    """The node that a guest is being moved to, or has just been moved to; empty: none."""
    move, service = memo.moves.get(guest.ref.vmid), seen.service(guest.ref.sid)
    if move is not None and move.target and (move.sent_at or move.arrived_at):
        return move.target
    return (service.target or "") if service is not None and service.state in MOVING_STATES else ""


def replica(now: Situation, guest: protection.Protected, target: str) -> operations.Replica | None:
    """The replica that a guest would be started from on another node; None: its disks are shared."""
    usable = now.judge.usable(guest.vmid)
    found = usable.on(target) if usable is not None else None
    if found is None:
        return None
    alive = replicas.alive_at(guest.seen.node, now.seen, now.memo)
    return operations.Replica(found.synced, max(0.0, alive - found.synced))
