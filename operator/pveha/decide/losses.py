"""What is remembered of losses of nodes and of the failovers of their guests, from the first sign to the end,
for the status.
"""

import dataclasses
from collections.abc import Mapping

from pveha.api import hacluster, protectedvm
from pveha.decide import evidence, memory, protection
from pveha.model import cluster, operations, snapshot

NATIVE_AHEAD = frozenset({"fence", "recovery"})
"""CRM states in which native HA recovers the guest itself."""
TOLD_ANEW_SECONDS = 30.0
"""What the cluster shows of the guests of a node that has just come back is what it told before it went, and
of a guest that has just been moved what its old node told, until its node tells anew: every 10 s."""
KNOWN_AGAIN_SECONDS = 900.0
"""How long ago a loss that an earlier leader has not reported to its end may have begun to be the one seen
now."""


def timestamp(lost: memory.NodeMemory) -> float:
    """Unix time of the first sign of a node's loss: its silence, or its leaving the membership."""
    times = [lost.offline_timestamp] if lost.offline_since is not None else []
    if lost.silent_since is not None:
        times.append(lost.silent_timestamp)
    return min(times, default=0.0)


def record(
    name: str,
    verdict: evidence.Verdict,
    memo: memory.Memory,
    seen: snapshot.Snapshot,
    protected: protection.Protection,
) -> memory.Memory:
    """Remember the loss for the status, with the guests that ran on the node when it was lost.

    A leader that comes when all of them have been recovered finds none left: what its predecessor reported to
    the end stays.
    """
    remembered = memo.node(name)
    if remembered.failure == "":
        return memo
    if memo.failure is not None and memo.failure.lost_timestamp >= remembered.offline_timestamp:
        return memo
    ran = frozenset(
        vmid
        for vmid, guest in protected.guests.items()
        if guest.seen.node == name and protection.wanted_state(guest) is cluster.HAState.STARTED
    )
    ran |= {vmid for vmid, loss in memo.losses.items() if loss.node == name}
    if not ran and memo.reported_loss == name:
        return memo
    failure = memory.Failure(
        remembered.failure,
        name,
        verdict.reason,
        timestamp(remembered) or seen.wall,
        guests=ran,
        lost_timestamp=remembered.offline_timestamp,
    )
    if (begun := _known_again(name, remembered, memo)) is not None:
        done = frozenset(vmid for vmid, guest in protected.guests.items() if _recovered_in(guest, begun.id))
        failure = dataclasses.replace(
            failure,
            id=begun.id,
            cause=begun.cause,
            start=begun.start_time.timestamp(),
            guests=ran | done,
            recovered=done,
        )
        nodes = {**memo.nodes, name: dataclasses.replace(remembered, failure=begun.id)}
        losses = {
            vmid: dataclasses.replace(loss, failure=begun.id, start=failure.start)
            if loss.node == name
            else loss
            for vmid, loss in memo.losses.items()
        }
        memo = memory.changed(memo, nodes=nodes, losses=losses)
    return memory.changed(memo, failure=failure)


def _known_again(
    name: str, remembered: memory.NodeMemory, memo: memory.Memory
) -> hacluster.LastFailure | None:
    """The loss of node `name` that an earlier leader has begun to report, if it is the one seen now."""
    begun = memo.unended
    if begun is None or begun.node != name or memo.failure is not None:
        return None
    since = remembered.offline_timestamp - begun.start_time.timestamp()
    return begun if -1.0 <= since <= KNOWN_AGAIN_SECONDS else None


def _recovered_in(guest: protection.Protected, failure: str) -> bool:
    """Whether an earlier leader has reported the guest recovered in this loss."""
    last = guest.pvm.status.last_failover
    return last is not None and last.id == failure and last.completion_time is not None


def complete(
    memo: memory.Memory, seen: snapshot.Snapshot, verdicts: Mapping[str, evidence.Verdict]
) -> memory.Memory:
    """Note when the loss was proven and when nothing is left to recover."""
    failure = memo.failure
    if failure is None:
        return memo
    if failure.proven is None and memo.node(failure.node).proof is not None:
        failure = dataclasses.replace(failure, proven=seen.wall)
    in_flight = seen.takeovers()
    elsewhere = frozenset(
        vmid
        for vmid in failure.guests
        if seen.inventory is not None
        and vmid in seen.inventory.guests
        and seen.inventory.guests[vmid].node != failure.node
        and seen.inventory.guests[vmid].status == "running"
        and vmid not in in_flight
        and vmid not in memo.losses
    )
    told = {
        vmid
        for vmid, done in memo.failovers.items()
        if done.failure == failure.id and done.completion is not None
    }
    failure = dataclasses.replace(failure, recovered=failure.recovered | (failure.guests & told))
    back = verdicts.get(failure.node)
    over = failure.guests <= failure.recovered | elsewhere or (
        back is not None and back.state is evidence.State.ONLINE
    )
    if failure.completion is None and over:
        failure = dataclasses.replace(failure, completion=seen.wall, recovered=failure.recovered | elsewhere)
    return memory.changed(memo, failure=failure)


def finished_by_others(
    memo: memory.Memory,
    seen: snapshot.Snapshot,
    verdicts: Mapping[str, evidence.Verdict],
    protected: protection.Protection,
) -> memory.Memory:
    """Complete failovers that an earlier leader has begun and only the status tells of, once the guest runs.

    The time is that of finding it: at most too late. What else such a record says is not acted on, as it may
    be older than the mark on the guest.
    """
    failovers, found = dict(memo.failovers), {}
    for vmid, guest in protected.guests.items():
        begun = guest.pvm.status.last_failover
        if (
            vmid in failovers
            or begun is None
            or begun.completion_time is not None
            or not _runs_at(begun.to, guest, seen, memo, verdicts)
        ):
            continue
        found[vmid] = memo.found_running.get(vmid, seen.now)
        verified = guest.comment.mark is not None
        if verified or seen.now - found[vmid] >= TOLD_ANEW_SECONDS:
            start = begun.start_time.timestamp()
            failovers[vmid] = memory.Failover(
                begun.id,
                begun.from_,
                begun.to,
                begun.cause,
                start,
                max(start, seen.wall),
                replica=_replica(begun),
            )
    return memory.changed(memo, failovers=failovers, found_running=found)


def _replica(begun: protectedvm.LastFailover) -> operations.Replica | None:
    """The replica that an earlier leader has started a guest from."""
    point = begun.recovery_point_time
    return operations.Replica(point.timestamp(), begun.data_loss_seconds or 0) if point is not None else None


def _runs_at(
    target: str,
    guest: protection.Protected,
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
) -> bool:
    """Whether a guest is shown running at a node that has been back for long enough to tell."""
    where = verdicts.get(target)
    online_since = memo.node(target).online_since
    return (
        guest.seen.node == target
        and where is not None
        and where.state is evidence.State.ONLINE
        and online_since is not None
        and seen.now - online_since >= TOLD_ANEW_SECONDS
        and (guest.comment.mark is None or memo.guest(guest.sid).verified)
        and guest.seen.status == "running"
    )
