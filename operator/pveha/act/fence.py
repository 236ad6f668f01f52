"""Prove a node dead: live witnesses (S6), forced off, two reads of Off (S2)."""

import asyncio
import functools
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar, cast

from pveha.act import context, epoch, witness
from pveha.model import errors, operations, power

T = TypeVar("T")

READ_SECONDS = 5.0
"""Deadline of one read of a BMC or an outlet."""
OFF_SECONDS = 5.0
"""How long a forced off may take to land once it was sent. It has no token that an overtaken leader's request
would lack, so twice as much of the lease must be left when it is sent, and this much for as long as it is
waited for (S15)."""
APART_SECONDS = 3.0
"""How far apart the two reads of Off must be (S2): a power cycle reads off for 5-10 s, but not before our
command."""
CYCLE_SECONDS = 12.0
"""The same where no command was carried out, because the machine read off already: longer than a power cycle
of somebody else's."""
ALIVE_SECONDS = 2.0
"""How long a survivor has to show that it was not its power that was cut."""
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
    said = _Said()
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
            for name in (operation.node, *operation.also):
                witness.confirm_gone(name, own_epoch, told[0], len(operation.survivors), operation.alive)
        if answers and not operation.node_answered:
            raise errors.Refused(f"{operation.node} answers again")
        if answers and any(method.manual for method in operation.methods):
            raise errors.Refused(f"{operation.node} answers, so it is not off as was confirmed")
        with_.step("SwitchingOff")
        async with asyncio.timeout(operation.timeout):
            sent = await _all(_off(method, operation, own_epoch, said, with_) for method in operation.methods)
            commanded_at = loop.time()
            with_.step("ReadingBack")
            rows = await _all(
                _see_off(
                    method,
                    method.off_since if off_before else None,
                    commanded_at,
                    APART_SECONDS if was_sent else CYCLE_SECONDS,
                    with_,
                )
                for method, was_sent in zip(operation.methods, sent, strict=True)
            )
            await _object(operation, with_)
    except TimeoutError:
        devices = "BMC" if all(method.tells_who for method in operation.methods) else "power"
        error = f"its {devices} did not prove it off within {operation.timeout:g} s"
        return said.outcome(error, own_epoch)
    except errors.PvehaError as problem:
        return said.outcome(str(problem), own_epoch)
    except asyncio.CancelledError:
        return said.outcome("cancelled", own_epoch)
    first_off, last_off = max(first for first, _ in rows), min(last for _, last in rows)
    proof = operations.Proof(operation.node, first_off, last_off, operation.methods)
    return operations.Outcome(loop.time(), epoch=own_epoch, commanded=said.commanded, proof=proof)


class _Said:
    """What was sent to which device, and what of it nobody acknowledged."""

    def __init__(self) -> None:
        self.commanded: dict[str, float] = {}
        self.open: set[power.Switch] = set()

    def outcome(self, error: str, own_epoch: int) -> operations.Outcome:
        now = asyncio.get_running_loop().time()
        return operations.Outcome(
            now,
            error=error,
            epoch=own_epoch,
            commanded=self.commanded,
            may_land=bool(self.open),
        )


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results of all calls, side by side; once all have ended, raises the first error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("list[T]", results)


async def _off(
    method: operations.Method,
    operation: operations.Fence,
    own_epoch: int,
    said: _Said,
    with_: context.Context,
) -> bool:
    """Force one method off, again while its device is busy and the survivors confirm the node's absence anew;
    False if it read off and did nothing (S2)."""
    if method.manual:
        return True
    while True:
        await with_.ready(2 * OFF_SECONDS)
        said.open.add(method.switch)
        said.commanded[method.switch.method] = asyncio.get_running_loop().time()
        try:
            sent = await with_.while_leading(OFF_SECONDS, with_.power.force_off(method.switch))
        except errors.Busy:
            await asyncio.sleep(POLL_SECONDS)
            await _witness(operation, own_epoch, with_)
            continue
        except errors.OutsideError as problem:
            if not isinstance(problem, errors.Unreachable):
                said.open.discard(method.switch)
                del said.commanded[method.switch.method]
            raise
        said.open.discard(method.switch)
        return sent


async def _object(operation: operations.Fence, with_: context.Context) -> None:
    """Raise Refused if anything speaks against the node's death now that its level reads off.

    A device that does not say what it feeds may have cut somebody else: then a survivor is silent, or the
    node still answers.
    """
    reads = (functools.partial(with_.power.read, each.switch) for each in operation.watchers)
    asked = (context.within(ALIVE_SECONDS, read) for read in reads)
    for reading in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(reading, power.PowerReading):
            ours = power.same_machine(reading.identities, operation.watchers[0].identities)
            if ours and reading.state is not power.PowerState.OFF:
                raise errors.Refused(f"another BMC of {operation.node} reads {reading.state.value}")
        elif not isinstance(reading, errors.PvehaError):
            raise reading
    if any(method.tells_who for method in operation.methods):
        return
    names = () if all(method.manual for method in operation.methods) else operation.survivors
    lives, *alive = await asyncio.gather(
        _answers(operation.node, with_), *(_answers(name, with_, ALIVE_SECONDS) for name in names)
    )
    if lives:
        raise errors.Refused(f"{operation.node} answers although its outlets read off")
    if silent := [name for name, answers in zip(names, alive, strict=True) if not answers]:
        raise errors.Refused(
            f"{', '.join(silent)} does not answer after the outlets of {operation.node} went off: "
            "they may be its own"
        )


async def _witness(
    operation: operations.Fence, own_epoch: int, with_: context.Context
) -> tuple[tuple[str, ...], bool]:
    """Names of the witnesses that confirm the node's absence, and whether its power (S1) reads off
    already."""
    left = WITNESS_TRIES
    while True:
        (told, _), _, readings = await asyncio.gather(
            witness.scan(with_.shell, operation.survivors),
            witness.check_votes(with_.shell, operation.survivors),
            asyncio.gather(*(_read(method, with_) for method in operation.methods)),
        )
        left -= 1
        try:
            for name in (operation.node, *operation.also):
                witness.confirm_gone(name, own_epoch, told, len(operation.survivors), operation.alive)
        except witness.TooFewWitnesses:
            if not left:
                raise
            await asyncio.sleep(POLL_SECONDS)
        else:
            return tuple(told), all(reading.state is power.PowerState.OFF for reading in readings)


async def _see_off(
    method: operations.Method,
    first_off: float | None,
    commanded_at: float,
    apart: float,
    with_: context.Context,
) -> tuple[float, float]:
    """Times of the first and the last of an unbroken row of reads of Off that proves it (S2)."""
    while True:
        try:
            reading = await _read(method, with_)
        except errors.Unreachable:
            await asyncio.sleep(POLL_SECONDS)
            continue
        if reading.state is not power.PowerState.OFF:
            first_off = None
        elif reading.asked_at >= commanded_at:
            first_off = reading.answered_at if first_off is None else first_off
            if reading.answered_at - first_off >= apart:
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


async def _answers(name: str, with_: context.Context, seconds: float = PROBE_SECONDS) -> bool:
    """Whether the node's API or its node shell answers, be it with an error: pmxcfs being restarted is no
    death."""
    asked = (
        context.within(seconds, lambda: with_.hypervisor.membership(name)),
        context.within(seconds, lambda: with_.shell.status(name)),
    )
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(answer, BaseException) and not isinstance(answer, errors.PvehaError):
            raise answer
        told = isinstance(answer, errors.OutsideError) and not isinstance(answer, errors.Unreachable)
        if told or not isinstance(answer, BaseException):
            return True
    return False


async def _read(method: operations.Method, with_: context.Context) -> power.PowerReading:
    """Read the power; raises Refused if it is not the node's (S1). A person's word stands for itself."""
    if method.manual:
        now = asyncio.get_running_loop().time()
        return power.PowerReading(power.PowerState.OFF, frozenset(), now, now)
    reading = await context.within(READ_SECONDS, lambda: with_.power.read(method.switch))
    if method.identities and not power.same_machine(reading.identities, method.identities):
        raise errors.Refused(
            f"the BMC of {method.switch.node} shows another machine than the node told of itself"
        )
    return reading


async def refresh(methods: Iterable[operations.Method], node: str, with_: context.Context) -> float:
    """Read again what has proven `node` off (S2) and return when that was; raises Refused if it is not."""
    asked_at = asyncio.get_running_loop().time()
    methods = tuple(methods)
    if not methods:
        raise errors.Refused(f"nothing proves that {node} is off")
    readings = await _all(_read(method, with_) for method in methods)
    if any(reading.state is not power.PowerState.OFF for reading in readings):
        raise errors.Refused(f"{node} is powered on again")
    if any(method.manual for method in methods) and await _answers(node, with_):
        raise errors.Refused(f"{node} answers, so it is not off as was confirmed")
    return min(asked_at, *(reading.asked_at for reading in readings))
