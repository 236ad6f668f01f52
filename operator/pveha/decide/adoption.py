"""Put guests back under native HA, and repair what an interrupted takeover left (S8, S9, S11).

Everything is read from the world: an HA resource that is `ignored` with our mark waits to be adopted, one
that has its state back but still the mark waits for its LRM, and one that somebody else has changed meanwhile
only loses the mark.
"""

import dataclasses
from collections.abc import Mapping

from pveha.api import hacluster
from pveha.api.conditions import FailoverReady
from pveha.decide import evidence, failover, hosts, losses, memory, outcomes, protection
from pveha.model import cluster, guests, mark, operations, snapshot

LRM_WAIT_SECONDS = 40.0
"""How long after the CRM lists an adopted guest its LRM may take to become active (S11)."""
STALE_SECONDS = 15.0
"""How long the CRM's record may name another node than the file's before that is an accident: native recovery
moves the file and flushes the record within one round of 10 s (S9)."""
SOON_SECONDS = 60.0
"""A guest that was disowned but not claimed stays so for the next try if that comes within this time: longer
would be half of what the net on the nodes allows (S10)."""
DUPLICATE = "duplicate-suspected"
"""Stands for the node in a mark that holds native HA, and the timer on the nodes (S10), back from starting a
second copy. No node is called so: it ends only when a person sets the HA state (S17)."""
REPAIR = "repair"
"""Stands for the operation in a mark that no takeover has set."""
BLOCKING = frozenset({FailoverReady.DUPLICATE_SUSPECTED, FailoverReady.NODE_SHELL_UNREACHABLE})
"""Why a guest was not started that must not be started by native HA either (S17)."""
MOVING = frozenset({"migrate", "relocate", "request_start_balance"})
"""CRM states in which a live LRM moves the guest's file before the CRM's record follows."""
ARMED = frozenset({"active", "lost_agent_lock"})
"""States of an LRM that holds its watchdog. One that has lost its lock feeds it no more, but does not let it
go: it gets the lock back, or the node is reset within the minute (PVE/HA/LRM.pm)."""
FLUSHES = 2
"""Flushes of the CRM without the guest before it is given back (S8)."""


def edits(
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
    protected: protection.Protection,
    recoveries: Mapping[str, failover.Recovery],
    recovery: hacluster.Recovery,
    may_begin: bool,
) -> list[operations.Edit]:
    """Changes of HA resources that finish, undo or repair takeovers.

    Taking a resource out of native HA that is not yet out of it is something new: only if `may_begin`. With
    engine Native that is done only to keep native HA from harm: from a second copy (S11), and from a record
    that would stop it (S9). Without a node shell a claimed guest is given back without having been started.
    """
    native = recovery.engine is hacluster.Engine.NATIVE
    if seen.ha_config is None or seen.ha_status is None or seen.inventory is None or not seen.ha_status.armed:
        return []
    in_flight = seen.takeovers()
    result = []
    for sid, resource in sorted(seen.ha_config.resources.items()):
        ref = guests.parse_sid(sid)
        comment = mark.parse(resource.comment)
        if ref is None or ref.vmid in in_flight:
            continue
        guest = seen.inventory.guests.get(ref.vmid)
        where = verdicts.get(guest.node) if guest is not None else None
        if comment.mark is None:
            if not may_begin:
                continue
            edit = _hold_back(sid, resource, comment, guest, where, seen, protected, native)
            awaited = any(ref.vmid in each.stranded for each in recoveries.values())
            if not awaited:
                edit = edit or _stale_record(sid, resource, comment, guest, verdicts, seen, memo)
        elif comment.mark.hold:
            edit = _release(sid, resource, comment, guest, verdicts, seen, memo, native)
        elif guest is None or where is None:
            edit = None
        else:
            retried = may_begin and guest.node in recoveries and ref.vmid in recoveries[guest.node].items
            ours = ref.vmid in protected.guests and recovery.node_shell is not None
            doubted = failover.doubted_source(ref.vmid, memo, verdicts)
            runs = guest.status == "running"
            misplaced = _misplaced(sid, guest.node, seen, verdicts)
            edit = _finish(
                sid, resource, comment, where, seen, memo, misplaced, retried, ours, doubted, native, runs
            )
            if may_begin:
                edit = edit or _stale_record(sid, resource, comment, guest, verdicts, seen, memo)
        if edit is not None:
            result.append(edit)
    return result


def _finish(
    sid: str,
    resource: cluster.HAResource,
    comment: mark.Comment,
    where: evidence.Verdict,
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    misplaced: bool,
    retried: bool,
    ours: bool,
    doubted: str,
    native: bool,
    runs: bool,
) -> operations.Edit | None:
    assert comment.mark is not None
    assert seen.ha_status is not None
    remembered = memo.guest(sid)
    without_mark = str(comment.with_mark(None))
    listed = sid in seen.ha_status.services
    if resource.state is not cluster.HAState.IGNORED and misplaced:
        return _again(sid, resource, comment, seen, memo)
    if resource.state is not cluster.HAState.IGNORED and resource.state is not comment.mark.was:
        return operations.Edit(
            sid, resource, dataclasses.replace(resource, comment=without_mark), "changed by somebody else"
        )
    if resource.state is cluster.HAState.IGNORED:
        adopted = dataclasses.replace(resource, state=comment.mark.was)
        if where.state is not evidence.State.ONLINE:
            if retried and remembered.attempts < outcomes.MAX_ATTEMPTS and _retried_soon(where, seen.now):
                return None
            if (held := _hold_mark(comment.mark, where, seen, native, runs)) is not None:
                held_back = dataclasses.replace(resource, comment=str(comment.with_mark(held)))
                return operations.Edit(
                    sid, resource, held_back, f"{where.node} may still run it: native HA is held back"
                )
            record = seen.ha_status.services.get(sid)
            if (record is not None and record.node != where.node) or seen.now < remembered.may_land_until:
                return None
            if where.lost or where.state is evidence.State.PLANNED_DOWN:
                undone = dataclasses.replace(adopted, comment=without_mark)
                return operations.Edit(sid, resource, undone, "never claimed: left to native HA")
            return None
        starts = comment.mark.was is cluster.HAState.STARTED
        if remembered.problem is FailoverReady.DUPLICATE_SUSPECTED and starts:
            held = mark.Mark(comment.mark.was, hold=DUPLICATE)
            held_back = dataclasses.replace(resource, comment=str(comment.with_mark(held)))
            return operations.Edit(sid, resource, held_back, "it may run twice: only a person releases it")
        if doubted and not remembered.verified and starts:
            held = mark.Mark(comment.mark.was, hold=doubted)
            held_back = dataclasses.replace(resource, comment=str(comment.with_mark(held)))
            return operations.Edit(
                sid, resource, held_back, f"{doubted} may still run it after all: native HA is held back"
            )
        if starts and (remembered.problem in BLOCKING or not hosts.lrm_alive(where.node, seen, memo)):
            return None
        done = remembered.verified or not ours or not starts or remembered.attempts >= outcomes.MAX_ATTEMPTS
        if done and len(remembered.dropped_flushes) >= FLUSHES:
            return operations.Edit(sid, resource, adopted, "the CRM has dropped it: adopted")
        return None
    lrm = seen.ha_status.lrms.get(where.node)
    lrm_active = lrm is not None and lrm.state == "active"
    settled = listed and seen.ha_status.services[sid].node == where.node
    works = runs or resource.state is cluster.HAState.STARTED
    if settled and (lrm_active or not works):
        return operations.Edit(
            sid, resource, dataclasses.replace(resource, comment=without_mark), "adopted by the CRM"
        )
    unguarded = remembered.listed_since is not None and seen.now - remembered.listed_since > LRM_WAIT_SECONDS
    if works and not lrm_active and (unguarded or where.lost):
        ignored = dataclasses.replace(resource, state=cluster.HAState.IGNORED)
        return operations.Edit(
            sid, resource, ignored, f"the LRM of {where.node} is not active: no native HA above it"
        )
    return None


def _misplaced(
    sid: str, file_on: str, seen: snapshot.Snapshot, verdicts: Mapping[str, evidence.Verdict]
) -> bool:
    """Whether the CRM has the guest on another node than its file is on, and not because it moves it: from a
    node that is lost it moves nothing."""
    record = seen.service(sid)
    if record is None or record.node == file_on:
        return False
    there = verdicts.get(record.node)
    return record.state not in MOVING or (there is not None and there.lost)


def _again(
    sid: str,
    resource: cluster.HAResource,
    comment: mark.Comment,
    seen: snapshot.Snapshot,
    memo: memory.Memory,
) -> operations.Edit | None:
    """Its owner gave a guest that we had moved back to the CRM before that had dropped it: with its old
    record HA of the whole cluster would stop, or the guest would never get the state its owner wants (S8). It
    is ignored once more, and then gets it."""
    assert comment.mark is not None
    since = memo.guest(sid).stale_since
    if since is None or seen.now - since < STALE_SECONDS:
        return None
    repair = mark.Mark(resource.state, op=REPAIR, epoch=memo.epoch or 0)
    ours = repair if comment.mark.hold else dataclasses.replace(comment.mark, was=resource.state)
    return set_aside(sid, resource, comment, ours, "given back too early by somebody else: ignored once more")


def set_aside(
    sid: str, resource: cluster.HAResource, comment: mark.Comment, ours: mark.Mark, why: str
) -> operations.Edit:
    """Take a resource out of native HA, under a mark of ours."""
    marked = str(comment.with_mark(ours))
    ignored = dataclasses.replace(resource, state=cluster.HAState.IGNORED, comment=marked)
    return operations.Edit(sid, resource, ignored, why)


def _in_doubt(where: evidence.Verdict, native: bool) -> bool:
    """Whether a lost node may run its guests for ever, for all that is going to be proven."""
    if native and where.lost:
        return where.state is not evidence.State.FENCED and not where.reads_off
    return where.state in (evidence.State.UNPROVABLE, evidence.State.FENCE_FAILED)


def _hold_mark(
    found: mark.Mark, where: evidence.Verdict, seen: snapshot.Snapshot, native: bool, runs: bool
) -> mark.Mark | None:
    """The mark that holds native HA back where undoing a takeover would let it start a second copy (S11).

    A proof that may yet come is waited for: the guest can be taken over then. A node down as announced
    may run its guests too: a person has stopped its LRM, and then it lost the network. Native HA had frozen
    them, but not what it has dropped since. Of a guest that its owner wants stopped, and that runs, native HA
    would move the file, and nobody would stop what runs.
    """
    unproven = _in_doubt(where, native) or (not native and where.lost)
    in_doubt = where.state is evidence.State.PLANNED_DOWN or (
        unproven and where.state is not evidence.State.FENCED
    )
    wanted = runs or found.was is cluster.HAState.STARTED
    if not in_doubt or not wanted or _will_reset(where.node, seen):
        return None
    return mark.Mark(found.was, hold=where.node)


def _will_reset(name: str, seen: snapshot.Snapshot) -> bool:
    """Whether the node's LRM held its watchdog at its last report: then that resets it without quorum."""
    lrm = seen.ha_status.lrms.get(name) if seen.ha_status is not None else None
    return lrm is not None and lrm.state in ARMED


def _retried_soon(where: evidence.Verdict, now: float) -> bool:
    """Whether the node that holds the file is proven off, or will be if it can be, within a minute."""
    if where.state in (evidence.State.FENCED, evidence.State.FENCING):
        return True
    return where.lost and where.fence_at is not None and where.fence_at - now <= SOON_SECONDS


def _stale_record(
    sid: str,
    resource: cluster.HAResource,
    comment: mark.Comment,
    guest: cluster.GuestResource | None,
    verdicts: Mapping[str, evidence.Verdict],
    seen: snapshot.Snapshot,
    memo: memory.Memory,
) -> operations.Edit | None:
    """A CRM record on a lost node while the file is elsewhere would stop HA for the whole cluster (S9), and
    goes on doing so when the node is back, or when the one with the file is lost too, if the CRM had begun to
    recover the guest."""
    assert seen.ha_status is not None
    record = seen.ha_status.services.get(sid)
    if (
        record is None
        or guest is None
        or record.node == guest.node
        or resource.state is cluster.HAState.IGNORED
    ):
        return None
    since = memo.guest(sid).stale_since
    if since is None or seen.now - since < STALE_SECONDS:
        return None
    there, here = verdicts.get(record.node), verdicts.get(guest.node)
    searching = record.state in losses.NATIVE_AHEAD
    gone = there is not None and (there.lost or (searching and there.state is evidence.State.ONLINE))
    if not gone or here is None:
        return None
    if here.state is not evidence.State.ONLINE and not (searching and here.lost):
        return None
    repair = mark.Mark(resource.state, op=REPAIR, epoch=memo.epoch or 0)
    why = f"the CRM still has it on {record.node}, its file is on {guest.node}"
    return set_aside(sid, resource, comment, repair, why)


def _hold_back(
    sid: str,
    resource: cluster.HAResource,
    comment: mark.Comment,
    guest: cluster.GuestResource | None,
    where: evidence.Verdict | None,
    seen: snapshot.Snapshot,
    protected: protection.Protection,
    native: bool,
) -> operations.Edit | None:
    """Keep native HA from recovering a guest of a node that nobody proves dead and no watchdog will reset
    (S11). Of one that its owner wants stopped, and that runs, native HA would move the file, and nobody would
    ever stop what runs."""
    assert seen.ha_status is not None
    if guest is None or where is None or guest.ref.vmid not in protected.guests:
        return None
    if (
        not _in_doubt(where, native)
        or _will_reset(guest.node, seen)
        or resource.state not in (cluster.HAState.STARTED, cluster.HAState.STOPPED)
        or guest.status != "running"
    ):
        return None
    hold = mark.Mark(resource.state, hold=guest.node)
    return set_aside(sid, resource, comment, hold, f"{guest.node} may still run it: native HA is held back")


def _release(
    sid: str,
    resource: cluster.HAResource,
    comment: mark.Comment,
    guest: cluster.GuestResource | None,
    verdicts: Mapping[str, evidence.Verdict],
    seen: snapshot.Snapshot,
    memo: memory.Memory,
    native: bool,
) -> operations.Edit | None:
    """End a hold when its node is back, or proven off, or when a person has set another state.

    A guest that the CRM still has on another node than its file is on is given back like any that we have
    moved (S8), also in mid-migration: the LRM of a node that has booted since knows of none, and reports an
    error that only a person ends."""
    assert comment.mark is not None
    where = verdicts.get(comment.mark.hold)
    over = where is not None and (
        where.state in (evidence.State.ONLINE, evidence.State.FENCED)
        or (native and where.lost and where.reads_off)
    )
    ignored = resource.state is cluster.HAState.IGNORED
    if ignored and not over:
        return None
    if not ignored and guest is not None and _misplaced(sid, guest.node, seen, verdicts):
        return _again(sid, resource, comment, seen, memo)
    why = f"{comment.mark.hold} is no longer in doubt"
    record = seen.service(sid)
    if ignored and guest is not None and record is not None and record.node != guest.node:
        repair = mark.Mark(comment.mark.was, op=REPAIR, epoch=memo.epoch or 0)
        waiting = dataclasses.replace(resource, comment=str(comment.with_mark(repair)))
        return operations.Edit(sid, resource, waiting, f"{why}: it waits for the CRM to drop it")
    state = comment.mark.was if ignored else resource.state
    freed = dataclasses.replace(resource, state=state, comment=str(comment.with_mark(None)))
    return operations.Edit(sid, resource, freed, why)
