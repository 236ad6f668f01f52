"""Starts operations as tasks, cancels them, and shows how far they are."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterable

from pveha import bell
from pveha.act import context, epoch, fence, jobs, migrate, power_on, registration, rules, takeover, turns
from pveha.model import errors, operations, ports

log = logging.getLogger(__name__)

DISOWNS_IN_FLIGHT = 1
"""Each is compared with what its owner wants and written by compare-and-swap of the whole file: two in flight
would refuse each other (decision 0009)."""


@dataclasses.dataclass(slots=True)
class _Running:
    state: operations.OperationState
    task: asyncio.Task[None]


class Actor:
    """The operations of one cluster in flight. `ended` rings when one of them ends."""

    def __init__(
        self,
        hypervisor: ports.Hypervisor,
        shell: ports.NodeShell | None,
        power: ports.PowerControl | None,
        leadership: ports.Leadership,
        wall_now: Callable[[], float],
        ended: bell.Bell | None = None,
    ) -> None:
        self._with = (hypervisor, shell, power, leadership, turns.Turns(DISOWNS_IN_FLIGHT))
        self._wall_now = wall_now
        self._running: dict[str, _Running] = {}
        self.ended = ended or bell.Bell()

    async def __aenter__(self) -> "Actor":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel everything and wait for it: nothing may run on when leadership is over."""
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def states(self) -> tuple[operations.OperationState, ...]:
        """Every operation in flight, and once each that has ended."""
        states = tuple(running.state for running in self._running.values())
        for state in states:
            if state.outcome is not None:
                del self._running[state.operation.id]
        return states

    def apply(self, start: Iterable[operations.Operation], cancel: Iterable[str]) -> None:
        """Carry out a decision."""
        for id_ in cancel:
            if id_ in self._running:
                self._running[id_].task.cancel()
        loop = asyncio.get_running_loop()
        for operation in start:
            if operation.id in self._running:
                continue
            state = operations.OperationState(operation, loop.time(), self._wall_now(), "Starting")
            task = asyncio.create_task(self._run(operation), name=operation.id)
            self._running[operation.id] = _Running(state, task)

    async def _run(self, operation: operations.Operation) -> None:
        loop = asyncio.get_running_loop()

        def step(text: str) -> None:
            running = self._running[operation.id]
            running.state = dataclasses.replace(running.state, step=text)

        with_step = context.Context(*self._with, step)
        try:
            outcome = await _perform(operation, with_step)
        except errors.PvehaError as problem:
            owner = problem.owner if isinstance(problem, errors.AnotherOwner) else None
            outcome = operations.Outcome(
                loop.time(), error=str(problem) or type(problem).__name__, owner=owner
            )
        except asyncio.CancelledError:
            sent = self._running[operation.id].state.step == takeover.TAKING_OVER
            outcome = operations.Outcome(loop.time(), error="cancelled", may_land=sent)
        except Exception as problem:
            log.exception("operation %s failed", operation.id)
            outcome = operations.Outcome(loop.time(), error=f"{type(problem).__name__}: {problem}")
        running = self._running[operation.id]
        running.state = dataclasses.replace(running.state, outcome=outcome)
        level = logging.WARNING if outcome.error else logging.INFO
        log.log(level, "operation %s ended: %s", operation.id, outcome.error or "done")
        self.ended.ring()


async def _perform(operation: operations.Operation, with_: context.Context) -> operations.Outcome:
    match operation:
        case operations.Begin():
            return await epoch.begin(operation, with_)
        case operations.Fence():
            return await fence.fence(operation, with_)
        case operations.Takeover():
            return await takeover.take_over(operation, with_)
        case operations.EditHA():
            return await registration.edit(operation, with_)
        case operations.EditRules():
            return await rules.edit(operation, with_)
        case operations.EditJobs():
            return await jobs.edit(operation, with_)
        case operations.PowerOn():
            return await power_on.power_on(operation, with_)
        case operations.Migrate():
            return await migrate.migrate(operation, with_)
