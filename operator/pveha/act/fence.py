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
SAME_SECOND = 1.0
"""Membership and probe older than this are read again before the forced off (S5)."""
WITNESS_TRIES = 3
"""How often survivors are asked until enough of them show our epoch, which takes them a moment to receive."""
WITNESS_SECONDS = 0.5
"""From the beginning to the forced off, as a rule: the lease must last for that as well."""
POLL_SECONDS = 0.5
PROBE_SECONDS = 0.3
"""How long the node has to answer a last question in the second of the forced off (S5)."""


async def fence(operation: operations.Fence, with_: context.Context) -> operations.Outcome:
    """Switch `operation.node` off and prove it. Raises when anything contradicts its death."""
    loop = asyncio.get_running_loop()
    await with_.ready(2 * OFF_SECONDS + WITNESS_SECONDS)
    with_.step("Witnessing")
    asked_at = loop.time()
    commanded_at: float | None = None
    answering = asyncio.ensure_future(_answers(operation.node, with_))
    try:
        own_epoch = await _begin(operation, with_)
    except BaseException:
        answering.cancel()
        raise
    try:
        (witnesses, off_before), answers = await asyncio.gather(
            _witness(operation, own_epoch, with_), answering
        )
        if loop.time() - asked_at > SAME_SECOND:
            told, answers = await asyncio.gather(
                witness.scan(with_.shell, witnesses), _answers(operation.node, with_)
            )
            witness.confirm_gone(
                operation.node, own_epoch, told[0], len(operation.survivors), operation.alive
            )
        if answers and not operation.node_answered:
            raise errors.Refused(f"{operation.node} answers again")
        with_.step("SwitchingOff")
        with_.require(2 * OFF_SECONDS)
        async with asyncio.timeout(operation.timeout):
            await context.within(OFF_SECONDS, with_.power.force_off(operation.node))
            commanded_at = loop.time()
            with_.step("ReadingBack")
            first_off, last_off = await _see_off(
                operation, operation.off_since if off_before else None, commanded_at, with_
            )
    except TimeoutError:
        error = f"its BMC did not prove it off within {operation.timeout:g} s"
        return operations.Outcome(loop.time(), error=error, epoch=own_epoch, commanded_at=commanded_at)
    except errors.PvehaError as problem:
        error = str(problem)
        return operations.Outcome(loop.time(), error=error, epoch=own_epoch, commanded_at=commanded_at)
    proof = operations.Proof(operation.node, commanded_at, first_off, last_off)
    return operations.Outcome(loop.time(), epoch=own_epoch, commanded_at=commanded_at, proof=proof)


async def _witness(
    operation: operations.Fence, own_epoch: int, with_: context.Context
) -> tuple[tuple[str, ...], bool]:
    """Names of the witnesses that confirm the node's absence, and whether its BMC (S1) reads off already."""
    left = WITNESS_TRIES
    while True:
        (told, _), _, reading = await asyncio.gather(
            witness.scan(with_.shell, operation.survivors),
            witness.check_votes(with_.shell, operation.survivors),
            _read(operation, with_),
        )
        left -= 1
        try:
            witness.confirm_gone(operation.node, own_epoch, told, len(operation.survivors), operation.alive)
        except witness.TooFewWitnesses:
            if not left:
                raise
            await asyncio.sleep(POLL_SECONDS)
        else:
            return tuple(told), reading.state is power.PowerState.OFF


async def _see_off(
    operation: operations.Fence, first_off: float | None, commanded_at: float, with_: context.Context
) -> tuple[float, float]:
    """Times of the first and the last of an unbroken row of reads of Off that proves it (S2)."""
    while True:
        try:
            reading = await _read(operation, with_)
        except errors.Unreachable:
            await asyncio.sleep(POLL_SECONDS)
            continue
        if reading.state is not power.PowerState.OFF:
            first_off = None
        elif reading.asked_at >= commanded_at:
            first_off = reading.answered_at if first_off is None else first_off
            if reading.answered_at - first_off >= APART_SECONDS:
                return first_off, reading.answered_at
        await asyncio.sleep(POLL_SECONDS)


async def _begin(operation: operations.Fence, with_: context.Context) -> int:
    """Open an epoch on the first survivor that can: the write that shows which witnesses are alive (S6)."""
    last: errors.OutsideError = errors.Unreachable("no survivor is left to open an epoch on")
    for name in operation.survivors:
        with_.require(epoch.BEGIN_SECONDS)
        try:
            return await with_.shell.begin(name, operation.owner)
        except (errors.Unreachable, errors.NoQuorum) as problem:
            last = problem
    raise last


async def _answers(name: str, with_: context.Context) -> bool:
    """Whether the node's API or its node shell answers, be it with an error: pmxcfs being restarted is no
    death."""
    asked = (
        context.within(PROBE_SECONDS, with_.hypervisor.membership(name)),
        context.within(PROBE_SECONDS, with_.shell.status(name)),
    )
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(answer, BaseException) and not isinstance(answer, errors.PvehaError):
            raise answer
        told = isinstance(answer, errors.OutsideError) and not isinstance(answer, errors.Unreachable)
        if told or not isinstance(answer, BaseException):
            return True
    return False


async def _read(operation: operations.Fence, with_: context.Context) -> power.PowerReading:
    """Read the BMC; raises Refused if it is not the node's (S1)."""
    reading = await context.within(READ_SECONDS, with_.power.read(operation.node))
    if not power.same_machine(reading.identities, operation.identities):
        raise errors.Refused(
            f"the BMC of {operation.node} shows another machine than the node told of itself"
        )
    return reading
