"""Change HA resources one after the other, each compared with what was seen before it is written."""

import asyncio

from pveha.act import context
from pveha.model import cluster, errors, guests, operations

WRITE_SECONDS = 10.0
"""Deadline of a change: pmxcfs may keep its lock for 9.9 s."""
TRIES = 3
"""Attempts when somebody else changes the file in between."""


async def edit(operation: operations.EditHA, with_: context.Context) -> operations.Outcome:
    """Make the changes; those whose resource no longer looks as expected are left and reported."""
    loop = asyncio.get_running_loop()
    refused: list[operations.Edit] = []
    problem = ""
    for number, each in enumerate(operation.edits):
        with_.step(f"{number + 1}/{len(operation.edits)}")
        await with_.ready(WRITE_SECONDS)
        try:
            await _apply(each, with_)
        except (errors.NoQuorum, errors.Unreachable, errors.Unauthorized) as error:
            refused.extend(operation.edits[number:])
            problem = str(error)
            break
        except errors.OutsideError as error:
            refused.append(each)
            problem = str(error)
    return operations.Outcome(loop.time(), error=problem, refused=tuple(refused))


async def _apply(change: operations.Edit, with_: context.Context) -> None:
    for attempt in range(TRIES):
        config = await with_.hypervisor.ha_config()
        current = config.resources.get(change.sid)
        if current == change.desired:
            return
        if current != change.expected:
            raise errors.Conflict(f"HA resource {change.sid} was changed by somebody else meanwhile")
        await _follow(change, with_)
        try:
            await _write(change, config, with_)
            return
        except errors.Conflict:
            if attempt == TRIES - 1:
                raise


async def _follow(change: operations.Edit, with_: context.Context) -> None:
    """Raise Conflict if the guest does not run, or not, as the new HA resource would have it."""
    ref = guests.parse_sid(change.sid)
    if not change.follows or ref is None or change.desired is None:
        return
    runs = (await with_.hypervisor.guest_runtime(ref, change.follows)).status == "running"
    if runs is not (change.desired.state is cluster.HAState.STARTED):
        raise errors.Conflict(f"{ref} was {'started' if runs else 'stopped'} a moment ago")


async def _write(change: operations.Edit, config: cluster.HAConfig, with_: context.Context) -> None:
    with_.require(WRITE_SECONDS)
    if change.desired is None:
        await with_.hypervisor.delete_ha_resource(change.sid)
    elif change.expected is None:
        await with_.hypervisor.create_ha_resource(change.desired)
    else:
        await with_.hypervisor.update_ha_resource(change.desired, config.digest)
