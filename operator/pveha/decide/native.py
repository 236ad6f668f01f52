"""What Proxmox's own HA would do, and what it has done: with engine Native it is all that recovers guests,
and with Fast it recovers what pveha does not."""

import dataclasses
from collections.abc import Mapping, Set

from pveha.api.conditions import FailoverReady
from pveha.decide import eligibility, evidence, ha_rules, hosts, losses, memory, protection
from pveha.model import cluster, node, snapshot

ITS_LOCKS = protection.CLEARABLE_LOCKS | {"rollback", "clone"}
"""Locks that native recovery clears (`Manager.pm`)."""
DOWNTIME_SECONDS = 140
"""From a node's death to its guests running elsewhere: 133-140 s measured, fixed by constants of Proxmox."""
DOWNTIME_OF_MASTER_SECONDS = 180
"""The same if the node is the CRM master: another one has to come first."""
ROUNDING_SECONDS = 2.0
"""Uptimes are told in whole seconds."""


def unrecoverable(
    guest: protection.Protected,
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
    judge: eligibility.Judge,
) -> protection.Refusal | None:
    """Why Proxmox's own HA would not bring this guest back if its node died now, or None."""
    if guest.registered is None:
        return protection.Refusal(
            FailoverReady.NOT_REGISTERED, "it is not registered in Proxmox HA, which would not recover it"
        )
    if refusal := protection.unmanaged(guest):
        return refusal
    if held := sorted(lock for lock in guest.locks if lock not in ITS_LOCKS):
        return protection.Refusal(
            FailoverReady.LOCK_NOT_CLEARABLE,
            f"it is locked ({', '.join(held)}): 'qm unlock {guest.vmid}' once you know why",
        )
    lrm = seen.ha_status.lrms.get(guest.seen.node) if seen.ha_status is not None else None
    if guest.seen.status == "running" and (lrm is None or lrm.state != "active"):
        text = f"the LRM of {guest.seen.node} is not active ({lrm.state if lrm else 'it reports nothing'})"
        return protection.Refusal(FailoverReady.LRM_NOT_ACTIVE, text)
    if guest.config is None:
        return None
    if bound := judge.bound(guest.config):
        return bound
    return _nowhere(guest, guest.config, judge, seen, memo, verdicts)


def _nowhere(
    guest: protection.Protected,
    config: node.GuestConfig,
    judge: eligibility.Judge,
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
) -> protection.Refusal | None:
    """Why no other node could run it, capacity apart, which native HA does not ask for either."""
    if seen.inventory is None:
        return None
    left = frozenset(
        name
        for name, verdict in verdicts.items()
        if name != guest.seen.node
        and verdict.state is evidence.State.ONLINE
        and hosts.lrm_alive(name, seen, memo)
    )
    if not left:
        return protection.Refusal(FailoverReady.NO_TARGET, "no other node is online with a live LRM")
    if not keeps_quorum({guest.seen.node}, seen, verdicts):
        text = f"without {guest.seen.node} the others would have no quorum, and native HA would do nothing"
        return protection.Refusal(FailoverReady.NO_TARGET, text)
    able = judge.able(config, left)
    if not able:
        return judge.nowhere(config, left)
    left = able
    managed = seen.ha_config.resources if seen.ha_config is not None else {}
    elsewhere = {
        each.ref.sid: each.node
        for each in seen.inventory.guests.values()
        if each.node != guest.seen.node and each.ref.sid in managed
    }
    if not ha_rules.allowed_nodes(guest.sid, left, seen.ha_rules, elsewhere):
        return protection.Refusal(
            FailoverReady.NATIVE_RULE_FORBIDS, "the HA rules of Proxmox allow none of the nodes that are left"
        )
    return None


def keeps_quorum(lost: Set[str], seen: snapshot.Snapshot, verdicts: Mapping[str, evidence.Verdict]) -> bool:
    """Whether those that are online would be quorate without `lost`; so if none tells votes."""
    told = next((shell.votes for _, shell in sorted(seen.shells.items())), None)
    if told is None or told.unsafe_options:
        return True
    online = {name for name, verdict in verdicts.items() if verdict.state is evidence.State.ONLINE} - lost
    left = sum(votes for name, votes in told.configured.items() if name in online) + told.qdevice
    return left * 2 > sum(told.configured.values()) + told.qdevice


def downtime_seconds(node: str, seen: snapshot.Snapshot) -> int:
    """About how long native HA takes to bring guests back after a node's death."""
    master = seen.ha_status.master if seen.ha_status is not None else None
    return DOWNTIME_OF_MASTER_SECONDS if node == master else DOWNTIME_SECONDS


def follow(
    memo: memory.Memory,
    seen: snapshot.Snapshot,
    verdicts: Mapping[str, evidence.Verdict],
    protected: protection.Protection,
) -> memory.Memory:
    """Remember which guests ran on lost nodes, and note when Proxmox's own HA has brought one back."""
    if seen.inventory is None:
        return memo
    known, failovers = dict(memo.losses), dict(memo.failovers)
    for vmid in [vmid for vmid in known if vmid not in protected.guests]:
        del known[vmid]
    for vmid, guest in protected.guests.items():
        where = verdicts.get(guest.seen.node)
        if where is None:
            continue
        loss = _begun(guest, where, known.get(vmid), seen, memo, verdicts)
        if loss is None:
            known.pop(vmid, None)
            continue
        ran_at = _ran_at(guest, where, loss, seen, memo)
        if _started_by_us(guest, memo, ran_at):
            loss = dataclasses.replace(loss, ours=guest.seen.node)
        known[vmid] = loss
        pending = failovers.get(vmid)
        if pending is not None and pending.completion is not None and pending.failure == loss.failure:
            del known[vmid]
        elif ran_at is not None and guest.comment.mark is None and vmid not in seen.takeovers():
            del known[vmid]
            failovers[vmid] = memory.Failover(
                loss.failure,
                loss.node,
                guest.seen.node,
                f"node {loss.node} was lost",
                loss.start,
                max(loss.start, seen.wall - (seen.now - ran_at)),
                native=loss.ours != guest.seen.node,
            )
    return memory.changed(memo, losses=known, failovers=failovers)


def _begun(
    guest: protection.Protected,
    where: evidence.Verdict,
    known: memory.Loss | None,
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
) -> memory.Loss | None:
    """The loss of a node that took this guest down and from which it is not known to be back."""
    assert seen.inventory is not None
    wanted = protection.wanted_state(guest) is cluster.HAState.STARTED
    if not wanted or where.state is evidence.State.PLANNED_DOWN:
        return None
    remembered = memo.node(where.node)
    if where.lost and remembered.failure:
        if known is None and guest.seen.status != "running":
            return None
        return memory.Loss(
            remembered.failure,
            where.node,
            losses.timestamp(remembered) or seen.wall,
            seen.inventory.answered_at,
            uptime=guest.seen.uptime,
        )
    if known is not None and where.node != known.node:
        if where.node == known.moved_to:
            return known
        return dataclasses.replace(known, moved_to=where.node, uptime=guest.seen.uptime, found_at=seen.now)
    if known is not None:
        again = where.state is evidence.State.SUSPECT and _runs_again(guest, known)
        there = dataclasses.replace(known, seen_there_at=seen.inventory.answered_at, uptime=guest.seen.uptime)
        return None if again or where.state is evidence.State.ONLINE else there
    return _missed(guest, seen, memo, verdicts)


def _runs_again(guest: protection.Protected, loss: memory.Loss) -> bool:
    """Whether the guest runs on the node that was lost, which is a member again, for others to see."""
    ahead = guest.service is not None and guest.service.state in losses.NATIVE_AHEAD
    return not ahead and guest.seen.status == "running" and guest.seen.uptime != loss.uptime


def _missed(
    guest: protection.Protected,
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
) -> memory.Loss | None:
    """A loss of which only the status knows that the guest was there: it happened while nobody led."""
    before, reported = guest.pvm.status.node, memo.unended
    begun = guest.pvm.status.last_failover
    if begun is not None and begun.completion_time is None and begun.start_time is not None:
        if guest.vmid in memo.failovers or guest.seen.node in (begun.from_, begun.to):
            return None
        return memory.Loss(begun.id, begun.from_, begun.start_time.timestamp(), found_at=seen.now)
    if before is None or before == guest.seen.node or guest.vmid in memo.failovers:
        return None
    if reported is not None and reported.node == before:
        if begun is not None and begun.id == reported.id:
            return None
        return memory.Loss(reported.id, before, reported.start_time.timestamp(), found_at=seen.now)
    there, remembered = verdicts.get(before), memo.node(before)
    if there is None or not there.lost or not remembered.failure:
        return None
    start = losses.timestamp(remembered) or seen.wall
    return memory.Loss(remembered.failure, before, start, found_at=seen.now)


def _started_by_us(guest: protection.Protected, memo: memory.Memory, ran_at: float | None) -> bool:
    """Whether the guest runs elsewhere under the mark of a takeover, before native HA can have started it."""
    if guest.comment.mark is None or not guest.comment.mark.op or guest.registered is None:
        return False
    ignored = guest.registered.state is cluster.HAState.IGNORED
    return memo.guest(guest.sid).verified or (ignored and ran_at is not None)


def _ran_at(
    guest: protection.Protected,
    where: evidence.Verdict,
    loss: memory.Loss,
    seen: snapshot.Snapshot,
    memo: memory.Memory,
) -> float | None:
    """When the guest was started on another node than the lost one (the loop's time), or None.

    Right after a configuration has moved, what is told of the guest is still what the node told that it comes
    from; and right after its new node has come back, what that one told before it went.
    """
    assert seen.inventory is not None
    here, online_since = seen.inventory.nodes.get(where.node), memo.node(where.node).online_since
    if (
        guest.seen.node == loss.node
        or where.state is not evidence.State.ONLINE
        or online_since is None
        or seen.now - online_since < losses.TOLD_ANEW_SECONDS
        or here is None
        or (here.uptime or 0.0) < losses.TOLD_ANEW_SECONDS
        or guest.seen.status != "running"
    ):
        return None
    answered = seen.inventory.answered_at
    started = answered - guest.seen.uptime
    if loss.seen_there_at is None:
        told_anew = seen.now - loss.found_at >= losses.TOLD_ANEW_SECONDS
        lost_at = seen.now - (seen.wall - loss.start)
        return started if told_anew and started >= lost_at - ROUNDING_SECONDS else None
    if guest.seen.uptime == loss.uptime or started < loss.seen_there_at - ROUNDING_SECONDS:
        return None
    return started
