"""Take a batch of guests over to one node: scan, disown, claim, start, verify (design §7; S2, S7, S14, S17,
S18)."""

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping

from pveha.act import context, fence, jobs, witness
from pveha.api.conditions import FailoverReady
from pveha.model import cluster, errors, guests, mark, node, operations

PROOF_SECONDS = 5.0
"""A reading of Off this old is taken again before guests are claimed: with the claim's own deadline of 5 s
that keeps the 10 s of S2."""
DISOWN_SECONDS = 10.0
DISOWN_TRIES = 3
"""Attempts when somebody else changes the file in between."""
CLAIM_SECONDS = 5.0
START_SECONDS = 60.0
"""How long a guest may take from the start call until its process runs."""
POLL_SECONDS = 0.2
TAKING_OVER = "TakingOver"
"""Step in which claims may be under way."""
KILLABLE = frozenset({"inmigrate", "postmigrate", "paused", "prelaunch"})
"""States of what a broken migration leaves behind (S17)."""
WRITE_SECONDS = 10.0

Results = dict[guests.GuestRef, operations.GuestResult]


async def take_over(operation: operations.Takeover, with_: context.Context) -> operations.Outcome:
    """Carry the batch as far as it goes; each guest has its own result, and none waits for a slower one."""
    results: Results = {}
    with_.step("Scanning")
    proof = _LastOff(operation.off_read_at)
    # An HA configuration that cannot be read refuses the batch as a whole, before anything is disowned; each
    # guest's resource is read anew when its turn comes.
    _, (told, silent), _ = await asyncio.gather(
        proof.refresh(operation, with_),
        witness.scan(with_.shell, operation.survivors),
        with_.hypervisor.ha_config(),
    )
    if any(not item.claimed for item in operation.items):
        witness.confirm_gone(operation.dead, operation.epoch, told, len(operation.survivors), operation.alive)
    results.update(await _processes(operation, told, silent, with_))
    items = [item for item in operation.items if item.ref not in results]
    running = _running_there(operation, told)

    with_.step(TAKING_OVER)
    async with asyncio.TaskGroup() as group:

        def start(ready: Iterable[operations.TakeoverItem]) -> None:
            for item in ready:
                group.create_task(_start(operation, item, item.ref.vmid in running, results, with_))

        start(item for item in items if item.claimed)
        claimable = [item for item in items if not item.claimed]
        disowned: asyncio.Queue[operations.TakeoverItem] = asyncio.Queue()
        for item in claimable:
            group.create_task(_disown(operation, item, disowned, results, with_))
        left = len(claimable)
        while left:
            batch = [await disowned.get()]
            while not disowned.empty():
                batch.append(disowned.get_nowait())
            left -= len(batch)
            batch = [item for item in batch if item.ref not in results]
            start(await _claim(operation, batch, proof, results, with_))
    return operations.Outcome(asyncio.get_running_loop().time(), guests=tuple(results.values()))


class _LastOff:
    """When the BMC of the lost node was last read, so that every batch of claims has a fresh reading (S2)."""

    def __init__(self, read_at: float) -> None:
        self._read_at = read_at

    async def refresh(self, operation: operations.Takeover, with_: context.Context) -> None:
        """Read the BMC again unless that was just done; raises Refused if the machine is not off."""
        now = asyncio.get_running_loop().time()
        if now - self._read_at <= PROOF_SECONDS or all(item.claimed for item in operation.items):
            return
        self._read_at = await fence.refresh(operation.proven_by, operation.dead, with_)


async def _processes(
    operation: operations.Takeover,
    told: Mapping[str, node.NodeProcesses],
    silent: Mapping[str, str],
    with_: context.Context,
) -> Results:
    """Guests that must not be started because of what runs, or may run, on a survivor (S17)."""
    blocked: Results = {}
    running = _running_there(operation, told)
    for item in operation.items:
        runs = item.claimed and item.ref.vmid in running
        unknown = sorted({*item.last_seen, *(silent if item.lock else ())} - told.keys())
        if unknown and not runs:
            text = f"{', '.join(unknown)} does not tell its processes and may still run it"
            blocked[item.ref] = operations.GuestResult(item.ref, FailoverReady.NODE_SHELL_UNREACHABLE, text)
            continue
        for name, answer in told.items():
            for process in answer.processes:
                if process.ref.vmid != item.ref.vmid or (
                    (item.claimed or item.here) and _is_itself(process, name, operation)
                ):
                    continue
                try:
                    await _clear(process, name, item, operation, with_)
                except errors.Refused as problem:
                    reason = FailoverReady.DUPLICATE_SUSPECTED
                    blocked[item.ref] = operations.GuestResult(item.ref, reason, str(problem))
                except errors.OutsideError as problem:
                    reason = FailoverReady.NODE_SHELL_UNREACHABLE
                    blocked[item.ref] = operations.GuestResult(item.ref, reason, str(problem))
    return blocked


def _is_itself(process: node.GuestProcess, where: str, operation: operations.Takeover) -> bool:
    """A guest that already runs where its file is, at its target, is what we want, not a duplicate."""
    return where == operation.target and process.state == "running"


async def _clear(
    process: node.GuestProcess,
    where: str,
    item: operations.TakeoverItem,
    operation: operations.Takeover,
    with_: context.Context,
) -> None:
    """End what a broken migration left on a survivor, or refuse the guest."""
    if item.lock != "migrate" or process.state not in KILLABLE:
        raise errors.Refused(
            f"a process of {item.ref} (pid {process.pid}, {process.state}) lives on {where}: look "
            "at it, end the wrong one"
        )
    await with_.ready(WRITE_SECONDS)
    await with_.shell.kill(where, operation.epoch, process)


def _running_there(operation: operations.Takeover, told: Mapping[str, node.NodeProcesses]) -> frozenset[int]:
    there = told.get(operation.target)
    processes = there.processes if there is not None else ()
    return frozenset(
        process.ref.vmid for process in processes if _is_itself(process, operation.target, operation)
    )


async def _disown(
    operation: operations.Takeover,
    item: operations.TakeoverItem,
    done: asyncio.Queue[operations.TakeoverItem],
    results: Results,
    with_: context.Context,
) -> None:
    """Disable the replication jobs of a guest that is started from a replica (S19), set its HA resource to
    ignored with our mark (S7) and hand it on, with a result if that failed."""
    problem, reason = "", FailoverReady.BUSY
    try:
        async with with_.disowning.turn((int(item.waits != ""), *item.rank)):
            if item.replica is not None:
                await _hold(operation, item, with_)
            for attempt in range(DISOWN_TRIES):
                try:
                    await _mark(operation, item, with_)
                    break
                except errors.Conflict:
                    if attempt == DISOWN_TRIES - 1:
                        raise
    except _NotHeldError as refusal:
        problem, reason = str(refusal), FailoverReady.REPLICATION_NOT_HELD
    except errors.Refused as refusal:
        problem = str(refusal)
    except errors.PvehaError as error:
        problem = f"not disowned: {error}"
    if problem:
        results[item.ref] = operations.GuestResult(item.ref, reason, problem)
    done.put_nowait(item)


class _NotHeldError(errors.Refused):
    """A replication job could not be disabled."""


async def _hold(
    operation: operations.Takeover, item: operations.TakeoverItem, with_: context.Context
) -> None:
    """Nothing copies back to the lost node from a guest that is started from a replica (S19)."""
    try:
        await jobs.hold(operation, item.ref.vmid, with_)
    except errors.PvehaError as problem:
        raise _NotHeldError(f"its replication job could not be disabled: {problem}") from problem


async def _mark(
    operation: operations.Takeover, item: operations.TakeoverItem, with_: context.Context
) -> None:
    """Compare the resource with what was decided upon, and write by compare-and-swap: Conflict if anybody
    changed the file meanwhile, Refused if this resource is no longer what it was."""
    await with_.ready(DISOWN_SECONDS)
    config = await with_.hypervisor.ha_config()
    resource = config.resources.get(item.ref.sid)
    if _changed(resource, item):
        raise errors.Refused("its HA resource was changed by somebody else meanwhile")
    ours = _ours(operation, item, resource)
    if len(ours.comment) > mark.COMMENT_LIMIT:
        raise errors.Refused("the comment of its HA resource leaves no room for our mark")
    with_.require(DISOWN_SECONDS)
    if resource is None:
        await with_.hypervisor.create_ha_resource(ours)
    else:
        await with_.hypervisor.update_ha_resource(ours, config.digest)


def _changed(resource: cluster.HAResource | None, item: operations.TakeoverItem) -> bool:
    """Whether the owner changed the resource since the decision; his text does not matter, his state does."""
    expected = item.registered
    if resource is None or expected is None:
        return resource is not expected
    return (
        resource.state is not expected.state
        or mark.parse(resource.comment).mark != mark.parse(expected.comment).mark
    )


def _ours(
    operation: operations.Takeover, item: operations.TakeoverItem, resource: cluster.HAResource | None
) -> cluster.HAResource:
    base = resource or item.entry
    ours = mark.Mark(item.was, op=operation.id, epoch=operation.epoch)
    comment = str(mark.parse(base.comment).with_mark(ours))
    return dataclasses.replace(base, state=cluster.HAState.IGNORED, comment=comment)


def _is_disowned(
    operation: operations.Takeover, item: operations.TakeoverItem, config: cluster.HAConfig, results: Results
) -> bool:
    resource = config.resources.get(item.ref.sid)
    found = mark.parse(resource.comment).mark if resource is not None else None
    if (
        resource is not None
        and resource.state is cluster.HAState.IGNORED
        and found
        and found.op == operation.id
    ):
        return True
    text = "its HA resource does not read back as ignored with our mark"
    results[item.ref] = operations.GuestResult(item.ref, FailoverReady.BUSY, text)
    return False


async def _claim(
    operation: operations.Takeover,
    items: list[operations.TakeoverItem],
    proof: _LastOff,
    results: Results,
    with_: context.Context,
) -> list[operations.TakeoverItem]:
    """Read the disowned resources back, then have the target move the configurations under its own checks
    (S14)."""
    if not items:
        return []
    sent = False
    try:
        after = await with_.hypervisor.ha_config()
        items = [item for item in items if _is_disowned(operation, item, after, results)]
        await proof.refresh(operation, with_)
        with_.require(CLAIM_SECONDS)
        refs = tuple(item.ref for item in items)
        sent = bool(refs)
        answers = (
            await with_.shell.claim(operation.target, operation.epoch, operation.id, operation.dead, refs)
            if refs
            else ()
        )
    except errors.PvehaError as problem:
        lands = sent and not isinstance(problem, errors.Refused)
        for item in items:
            results[item.ref] = operations.GuestResult(
                item.ref, type(problem).__name__, str(problem), may_land=lands
            )
        return []
    by_ref = {answer.ref: answer for answer in answers}
    claimed = []
    for item in items:
        answer = by_ref.get(item.ref)
        if answer is not None and answer.claimed:
            claimed.append(item)
        else:
            reason = answer.reason if answer is not None else "NotAnswered"
            text = f"{operation.target} did not claim it: {reason}"
            results[item.ref] = operations.GuestResult(item.ref, reason, text)
    return claimed


async def _start(
    operation: operations.Takeover,
    item: operations.TakeoverItem,
    runs: bool,
    results: Results,
    with_: context.Context,
) -> None:
    """Start one guest and see it run. A guest that was stopped stays so, and one that waits waits on."""
    loop = asyncio.get_running_loop()
    if item.was is not cluster.HAState.STARTED:
        results[item.ref] = operations.GuestResult(item.ref, "Claimed")
        return
    if item.waits:
        results[item.ref] = operations.GuestResult(item.ref, "Waiting", item.waits)
        return
    try:
        async with asyncio.timeout(START_SECONDS):
            started_at = float("-inf") if runs else loop.time()
            if not runs:
                await with_.ready(WRITE_SECONDS)
                upid = await with_.hypervisor.start(item.ref, operation.target)
                if await _follow(upid, with_):
                    started_at = float("-inf")
            await _see_running(item.ref, operation.target, started_at, with_)
    except (errors.PvehaError, TimeoutError) as problem:
        text = str(problem) or f"it did not run within {START_SECONDS:g} s"
        results[item.ref] = operations.GuestResult(item.ref, "StartFailed", text)
    else:
        results[item.ref] = operations.GuestResult(item.ref, "Running", running_at=loop.time())


async def _follow(upid: str, with_: context.Context) -> bool:
    """Wait for a start task; True if the guest ran already, which the process scan has shown to be no
    duplicate."""
    while True:
        status = await with_.hypervisor.task(upid)
        if not status.running:
            break
        await asyncio.sleep(POLL_SECONDS)
    if "already running" in (status.exit_status or ""):
        return True
    if not status.succeeded:
        raise errors.Refused(f"the start task failed: {status.exit_status}")
    return False


async def _see_running(ref: guests.GuestRef, target: str, started_at: float, with_: context.Context) -> None:
    """A VM runs when QMP says so with an uptime no longer than since our start; a container with a live init
    (S17)."""
    loop = asyncio.get_running_loop()
    while True:
        runtime = await with_.hypervisor.guest_runtime(ref, target)
        young = runtime.uptime <= loop.time() - started_at + 1.0
        if ref.kind is guests.GuestKind.VM and runtime.qmp_status == "running" and young:
            return
        if (
            ref.kind is guests.GuestKind.CONTAINER
            and runtime.status == "running"
            and await _has_init(ref, target, with_)
        ):
            return
        await asyncio.sleep(POLL_SECONDS)


async def _has_init(ref: guests.GuestRef, target: str, with_: context.Context) -> bool:
    answer = await with_.shell.processes(target)
    return any(process.ref.vmid == ref.vmid for process in answer.processes)
