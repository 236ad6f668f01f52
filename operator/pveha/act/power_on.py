"""Give a fenced node its power back."""

import asyncio

from pveha.act import context, fence
from pveha.model import operations

ON_SECONDS = 5.0
"""How long the command may take to land; twice as much of the lease must be left (S15)."""


async def power_on(operation: operations.PowerOn, with_: context.Context) -> operations.Outcome:
    """Switch everything on by which the node was switched off, unless that now names another machine."""
    with_.step("SwitchingOn")
    await fence.refresh(operation.methods, operation.node, with_)
    for method in operation.methods:
        await with_.ready(2 * ON_SECONDS)
        await with_.while_leading(ON_SECONDS, with_.power.power_on(method.switch))
    return operations.Outcome(asyncio.get_running_loop().time())
