"""Prove a node dead: live witnesses (S6), forced off, two reads of Off (S2)."""

import asyncio

from pveha.act import context, epoch, witness
from pveha.model import errors, operations, power

READ_SECONDS = 5.0
"""Deadline of one read of a BMC."""
OFF_SECONDS = 5.0
"""Deadline of the forced off. It has no token that an overtaken leader's request would lack, so twice as much
of the lease must be left when it is sent (S15)."""
APART_SECONDS = 3.0
"""How far apart the two reads of Off must be (S2): a power cycle reads off for 5-10 s, but not before our
command."""
POLL_SECONDS = 0.5
PROBE_SECONDS = 0.3
"""How long the node has to answer a last question in the second of the forced off (S5)."""


async def fence(operation: operations.Fence, with_: context.Context) -> operations.Outcome:
    """Switch `operation.node` off and prove it. Raises when anything contradicts its death."""
    loop = asyncio.get_running_loop()
    with_.require(epoch.BEGIN_SECONDS)
    with_.step("Witnessing")
    own_epoch, answers = await asyncio.gather(_begin(operation, with_), _answers(operation.node, with_))
    try:
        (told, _), _ = await asyncio.gather(
            witness.scan(with_.shell, operation.survivors), _identify(operation, with_)
        )
        witness.confirm_gone(operation.node, own_epoch, told, len(operation.survivors))
        if answers and not operation.node_answered:
            raise errors.Refused(f"{operation.node} answers again")
        with_.step("SwitchingOff")
        with_.require(2 * OFF_SECONDS)
        first_off = operation.off_since
        async with asyncio.timeout(operation.timeout):
            await context.within(OFF_SECONDS, with_.power.force_off(operation.node))
            commanded_at = loop.time()
            with_.step("ReadingBack")
            while True:
                try:
                    reading = await _read(operation, with_)
                except errors.Unreachable:
                    await asyncio.sleep(POLL_SECONDS)
                    continue
                if reading.state is power.PowerState.OFF and reading.asked_at >= commanded_at:
                    first_off = reading.answered_at if first_off is None else first_off
                    if reading.answered_at - first_off >= APART_SECONDS:
                        break
                elif reading.state is not power.PowerState.OFF:
                    first_off = None
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        error = f"its BMC did not prove it off within {operation.timeout:g} s"
        return operations.Outcome(loop.time(), error=error, epoch=own_epoch)
    except errors.PvehaError as problem:
        return operations.Outcome(loop.time(), error=str(problem), epoch=own_epoch)
    proof = operations.Proof(operation.node, commanded_at, first_off, reading.answered_at)
    return operations.Outcome(loop.time(), epoch=own_epoch, proof=proof)


async def _begin(operation: operations.Fence, with_: context.Context) -> int:
    """Open an epoch on the first survivor that can: the write that shows which witnesses are alive (S6)."""
    last: errors.OutsideError = errors.Unreachable("no survivor is left to open an epoch on")
    for name in operation.survivors:
        try:
            return await with_.shell.begin(name, operation.owner)
        except (errors.Unreachable, errors.NoQuorum) as problem:
            last = problem
    raise last


async def _answers(name: str, with_: context.Context) -> bool:
    try:
        await context.within(PROBE_SECONDS, with_.hypervisor.membership(name))
    except errors.OutsideError:
        return False
    return True


async def _identify(operation: operations.Fence, with_: context.Context) -> None:
    """Make sure that the BMC is the node's (S1)."""
    reading = await _read(operation, with_)
    if not power.same_machine(reading.identities, operation.identities):
        raise errors.Refused(
            f"the BMC of {operation.node} shows another machine than the node told of itself"
        )


async def _read(operation: operations.Fence, with_: context.Context) -> power.PowerReading:
    return await context.within(READ_SECONDS, with_.power.read(operation.node))
