"""What is remembered of an operation that has ended, and when it is tried again."""

import dataclasses

from pveha.api.conditions import FailoverReady
from pveha.decide import memory, storage
from pveha.model import mark, operations, snapshot

FENCE_RETRY_SECONDS = 15.0
MAY_LAND_SECONDS = 30.0
"""How long after it was given up a forced off may still be carried out (S15)."""
CLAIM_LANDS_SECONDS = 20.0
"""The same of a claim: 3 s after it was sent its last rename may begin, which waits in pmxcfs while the
members of the cluster agree on who is left (7 s with three nodes, 12 s with twenty)."""
TAKEOVER_RETRY_SECONDS = 5.0
MAX_ATTEMPTS = 3
"""Takeovers of one guest that fail before it is put back under native HA. That somebody who may run it tells
nothing is no failure of one that was moved already: it can only wait for his word (S17)."""
REFUSED_RETRY_SECONDS = 1.0
"""After a takeover that was refused as a whole, before anything was disowned, and after changes of HA
resources that were broken off, for instance because the Lease had not enough time left."""
BEGIN_RETRY_SECONDS = 5.0
EDIT_RETRY_SECONDS = 10.0
POWER_ON_AGAIN_SECONDS = 300.0
"""Before a node that has not come back is told to be switched on once more, ..."""
POWER_ON_RETRY_SECONDS = 60.0
"""... and the same where a device did not take the command."""
JOBS_RETRY_SECONDS = 60.0
"""After a replication job could not be changed."""
RULES_RETRY_SECONDS = 60.0
"""After Proxmox has declined an HA rule."""


def fold(
    memo: memory.Memory, operation: operations.Operation, outcome: operations.Outcome, seen: snapshot.Snapshot
) -> memory.Memory:
    """The memory with what came of an operation."""
    match operation:
        case operations.Begin():
            if outcome.epoch is None:
                owner = outcome.owner or memo.superseded
                retry_at = outcome.at + BEGIN_RETRY_SECONDS
                return dataclasses.replace(memo, begin_retry_at=retry_at, superseded=owner)
            return dataclasses.replace(
                memo,
                epoch=outcome.epoch,
                epoch_at=outcome.at,
                inherited=memo.inherited if memo.epoch is not None else _open_marks(seen),
                superseded="",
            )
        case operations.Fence():
            if outcome.owner is not None:
                return memory.changed(memo, epoch=None, superseded=outcome.owner)
            memo = memory.changed(memo, epoch=max(memo.epoch or 0, outcome.epoch or 0) or None)
            return _fold_fence(memo, operation, outcome)
        case operations.PowerOn():
            pause = POWER_ON_RETRY_SECONDS if outcome.error else POWER_ON_AGAIN_SECONDS
            told = dataclasses.replace(memo.node(operation.node), power_on_again_at=outcome.at + pause)
            return memory.changed(memo, nodes={**memo.nodes, operation.node: told})
        case operations.Takeover():
            return _fold_takeover(memo, operation, outcome, seen)
        case operations.EditHA():
            problems = {
                sid: text
                for sid, text in memo.edit_problems.items()
                if sid not in {e.sid for e in operation.edits}
            }
            problems |= {edit.sid: outcome.error for edit in outcome.refused}
            pause = EDIT_RETRY_SECONDS if outcome.refused else REFUSED_RETRY_SECONDS if outcome.error else 0.0
            return memory.changed(memo, edit_problems=problems, edit_retry_at=outcome.at + pause)
        case operations.EditJobs():
            pause = JOBS_RETRY_SECONDS if outcome.error else 0.0
            return memory.changed(memo, jobs_edited_at=outcome.at, jobs_retry_at=outcome.at + pause)
        case operations.EditRules():
            tried = {edit.name for edit in operation.edits}
            declined = {name: text for name, text in memo.rule_problems.items() if name not in tried}
            return memory.changed(
                memo,
                rules_edited_at=outcome.at,
                rules_retry_at=outcome.at + (RULES_RETRY_SECONDS if outcome.declined else 0.0),
                rule_problems={**declined, **outcome.declined},
            )
        case operations.Migrate():
            return memo


def _fold_fence(
    memo: memory.Memory, operation: operations.Fence, outcome: operations.Outcome
) -> memory.Memory:
    old = memo.node(operation.node)
    if outcome.may_land:
        old = dataclasses.replace(old, may_land_until=outcome.at + MAY_LAND_SECONDS)
    if old.failure != operation.failure:
        return memory.changed(memo, nodes={**memo.nodes, operation.node: old})
    used = frozenset(method.switch.method for method in operation.methods if not method.manual)
    commanded = {
        name: dataclasses.replace(old.method(name), commanded_at=at) for name, at in outcome.commanded.items()
    }
    old = dataclasses.replace(old, methods={**old.methods, **commanded})
    voided = any(old.method(name).voided for name in used)
    if outcome.proof is not None and not voided:
        new = dataclasses.replace(old, proof=outcome.proof, fence_error="", returned_at=None)
    else:
        attempts = old.fence_attempts + 1
        level = frozenset({operation.level})
        new = dataclasses.replace(
            old,
            fence_error=outcome.error or "its BMC contradicts what the cluster shows",
            fence_attempts=attempts,
            tried=level if level <= old.tried else old.tried | level,
            fence_retry_at=outcome.at + FENCE_RETRY_SECONDS * min(attempts, 4),
        )
    return memory.changed(memo, nodes={**memo.nodes, operation.node: new})


def _fold_takeover(
    memo: memory.Memory, operation: operations.Takeover, outcome: operations.Outcome, seen: snapshot.Snapshot
) -> memory.Memory:
    recovering = dict(memo.guests)
    failovers = dict(memo.failovers)
    failure = memo.failure
    claimed = {item.ref for item in operation.items if item.claimed}
    stale = operation.epoch == memo.epoch and any(r.reason == "StaleEpoch" for r in outcome.guests)
    if not outcome.guests:
        for item in operation.items:
            waiting = dataclasses.replace(
                memo.guest(item.ref.sid), retry_at=outcome.at + REFUSED_RETRY_SECONDS
            )
            if outcome.may_land:
                waiting = dataclasses.replace(waiting, may_land_until=outcome.at + CLAIM_LANDS_SECONDS)
            recovering[item.ref.sid] = waiting
    for result in outcome.guests:
        old = memo.guest(result.ref.sid)
        done = result.reason in ("Running", "Claimed")
        if result.reason in ("StaleEpoch", "Waiting"):
            continue
        if done:
            recovering[result.ref.sid] = dataclasses.replace(
                old,
                verified=True,
                verified_at=outcome.at if result.running_at is None else result.running_at,
                attempts=0,
                retry_at=0.0,
                held_since=None,
                problem="",
                problem_message="",
            )
        elif _is_held(result, seen):
            recovering[result.ref.sid] = _held(old, result, outcome.at)
        else:
            waits = result.ref in claimed and result.reason == FailoverReady.NODE_SHELL_UNREACHABLE
            recovering[result.ref.sid] = dataclasses.replace(
                old,
                may_land_until=outcome.at + CLAIM_LANDS_SECONDS if result.may_land else old.may_land_until,
                attempts=min(old.attempts + 1, MAX_ATTEMPTS - 1) if waits else old.attempts + 1,
                retry_at=outcome.at + TAKEOVER_RETRY_SECONDS * (old.attempts + 1),
                problem=result.reason,
                problem_message=result.message,
            )
        if done and result.ref.vmid in failovers and failovers[result.ref.vmid].completion is None:
            running_at = result.running_at if result.running_at is not None else outcome.at
            failovers[result.ref.vmid] = dataclasses.replace(
                failovers[result.ref.vmid],
                target=operation.target,
                completion=seen.wall - (seen.now - running_at),
            )
        if done and failure is not None and result.ref.vmid in failure.guests:
            failure = dataclasses.replace(failure, recovered=failure.recovered | {result.ref.vmid})
    epoch = None if stale else memo.epoch
    return memory.changed(memo, guests=recovering, failovers=failovers, failure=failure, epoch=epoch)


def _is_held(result: operations.GuestResult, seen: snapshot.Snapshot) -> bool:
    config = seen.config(result.ref.vmid)
    volumes_on = config.storages if config is not None else ()
    return result.reason == "StartFailed" and storage.may_be_held(result.message, volumes_on, seen.inventory)


def _held(old: memory.GuestMemory, result: operations.GuestResult, at: float) -> memory.GuestMemory:
    """Try again for as long as a dead client's lock may last, and not any more after that (S20)."""
    since = at if old.held_since is None else old.held_since
    over = at - since >= storage.WAIT_SECONDS
    return dataclasses.replace(
        old,
        attempts=MAX_ATTEMPTS if over else old.attempts,
        held_since=since,
        retry_at=at + storage.RETRY_SECONDS,
        problem=result.reason,
        problem_message=result.message,
    )


def _open_marks(seen: snapshot.Snapshot) -> bool:
    return seen.ha_config is None or any(
        mark.parse(resource.comment).mark for resource in seen.ha_config.resources.values()
    )
