"""Change replication jobs, each compared with what was seen before it is written, and disable those of a
guest before it is claimed (S19)."""

import asyncio
from collections.abc import Callable

from pveha.act import context, registration
from pveha.model import errors, operations, replication


async def edit(operation: operations.EditJobs, with_: context.Context) -> operations.Outcome:
    """Make the changes one after the other; what no longer looks as expected is left for the next read."""
    problem = ""
    for number, each in enumerate(operation.edits):
        with_.step(f"{number + 1}/{len(operation.edits)}")
        try:
            await _apply(each, with_)
        except (errors.NoQuorum, errors.Unreachable, errors.Unauthorized) as error:
            problem = str(error)
            break
        except errors.OutsideError as error:
            problem = str(error)
    return operations.Outcome(asyncio.get_running_loop().time(), error=problem)


async def hold(operation: operations.Takeover, vmid: int, with_: context.Context) -> None:
    """Disable every replication job of a guest that is to be started from a replica; one that its owner has
    disabled stays as it is. Refused if the target's job, and with it the replica, is gone."""
    wanted = replication.Hold(operation.failure)

    def held(job: replication.Job) -> replication.Job:
        if job.hold is not None and job.hold.left:
            raise errors.Refused(f"replication job {job.id} is held for {job.hold.failure}")
        held = job if job.disabled and job.hold is None else job.held(wanted)
        if len(held.comment) > replication.COMMENT_LIMIT:
            raise errors.Refused(f"the comment of replication job {job.id} leaves no room for our mark")
        return held

    jobs = [job for job in await with_.hypervisor.replication_jobs() if job.vmid == vmid]
    if not any(job.target == operation.target and not job.removing for job in jobs):
        raise errors.Refused(f"it has no replication job to {operation.target} any more")
    for job in jobs:
        await _change(job.id, held, with_)


async def _apply(change: operations.JobEdit, with_: context.Context) -> None:
    def desired(current: replication.Job) -> replication.Job:
        if current not in (change.expected, change.desired):
            raise errors.Conflict(f"replication job {current.id} was changed by somebody else meanwhile")
        return change.desired

    await _change(change.expected.id, desired, with_)


async def _change(
    id_: str, desired: Callable[[replication.Job], replication.Job], with_: context.Context
) -> None:
    """Write what a job is to be by compare-and-swap, unless it is so already."""
    for attempt in range(registration.TRIES):
        await with_.ready(registration.WRITE_SECONDS)
        current, digest = await with_.hypervisor.replication_job(id_)
        wanted = desired(current)
        if wanted == current:
            return
        with_.require(registration.WRITE_SECONDS)
        try:
            await with_.hypervisor.update_replication_job(wanted, digest)
            return
        except errors.Conflict:
            if attempt == registration.TRIES - 1:
                raise
