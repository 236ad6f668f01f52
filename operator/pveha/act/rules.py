"""Change HA rules one after the other, each compared with what was seen before it is written."""

import asyncio

from pveha.act import context, registration
from pveha.model import cluster, errors, operations


async def edit(operation: operations.EditRules, with_: context.Context) -> operations.Outcome:
    """Make the changes. Those whose rule no longer looks as expected are left; those that Proxmox does not
    take are told."""
    loop = asyncio.get_running_loop()
    declined: dict[str, str] = {}
    problem = ""
    for number, each in enumerate(operation.edits):
        with_.step(f"{number + 1}/{len(operation.edits)}")
        await with_.ready(registration.WRITE_SECONDS)
        try:
            await _apply(each, with_)
        except (errors.NoQuorum, errors.Unreachable, errors.Unauthorized) as error:
            problem = str(error)
            break
        except errors.Conflict as error:
            problem = str(error)
        except errors.OutsideError as error:
            declined[each.name] = problem = str(error)
    return operations.Outcome(loop.time(), error=problem, declined=declined)


async def _apply(change: operations.RuleEdit, with_: context.Context) -> None:
    for attempt in range(registration.TRIES):
        config = await with_.hypervisor.ha_rules()
        current = config.rules.get(change.name)
        if current == change.desired:
            return
        if current != change.expected:
            raise errors.Conflict(f"HA rule {change.name} was changed by somebody else meanwhile")
        try:
            await _write(change, config, with_)
            return
        except errors.Conflict:
            if attempt == registration.TRIES - 1:
                raise


async def _write(change: operations.RuleEdit, config: cluster.HARuleConfig, with_: context.Context) -> None:
    with_.require(registration.WRITE_SECONDS)
    if change.desired is None:
        await with_.hypervisor.delete_ha_rule(change.name)
    elif change.expected is None:
        await with_.hypervisor.create_ha_rule(change.desired)
    else:
        await with_.hypervisor.update_ha_rule(change.desired, config.digest)
