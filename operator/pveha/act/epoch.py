"""Open an epoch (S13)."""

import asyncio

from pveha.act import context
from pveha.model import operations

BEGIN_SECONDS = 5.0
"""Deadline of the node shell's `begin`."""


async def begin(operation: operations.Begin, with_: context.Context) -> operations.Outcome:
    """Open an epoch on `operation.on`; raises AnotherOwner, NoQuorum, Unreachable."""
    with_.require(BEGIN_SECONDS)
    epoch = await with_.shell.begin(operation.on, operation.owner, operation.take_over)
    return operations.Outcome(asyncio.get_running_loop().time(), epoch=epoch)
