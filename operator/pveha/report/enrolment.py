"""Makes and deletes the ProtectedVMs that pveha owns: in the background, few at a time, while this replica
leads."""

import asyncio
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from pveha.model import decision, errors, ports

CONCURRENCY = 20
SPACING_SECONDS = 0.02
"""Between the beginnings of two writes: 50 a second leave the API server to others, and enrol 500 guests in
10 s."""
LEASE_SECONDS = 6.0
"""What must be left of the Lease when a write is sent: its deadline is 5 s."""
TOLD_SECONDS = 5.0
"""In which the watch tells of a write; after that it is done again if it still is wanted."""
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses after failed writes of one object."""
STUBBORN_SECONDS = 600.0
"""Before the same is written to the same object again: a field that is not ours alone does not change."""

Change = decision.Enrol | decision.Dismiss
log = logging.getLogger(__name__)


class Enroller:
    """Does what it was told last, again and again until it is told that it is done.

    Use as an asynchronous context manager: at its end what still waits is dropped, because the next leader
    finds it again.
    """

    def __init__(self, kubernetes: ports.Kubernetes, leadership: ports.Leadership) -> None:
        self._kubernetes = kubernetes
        self._leadership = leadership
        self._wanted: dict[str, Change] = {}
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._last: dict[str, Change] = {}
        self._busy: set[str] = set()
        self._told = asyncio.Event()
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._pump = asyncio.create_task(self._run(), name="enrolment")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._tasks, *([self._pump] if self._pump else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def submit(self, changes: Mapping[str, Change]) -> None:
        """Have these made, by name of the object, and no others. Never blocks."""
        self._wanted = dict(changes)
        for name in self._not_before.keys() - changes.keys():
            del self._not_before[name]
            self._failures.pop(name, None)
            self._last.pop(name, None)
        if changes:
            self._told.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._told.wait()
            self._told.clear()
            for name in list(self._wanted):
                change = self._wanted.get(name)
                if change is None or name in self._busy or self._waits(name, change, loop.time()):
                    continue
                await self._slots.acquire()
                self._busy.add(name)
                task = asyncio.create_task(self._write(name, change), name=f"enrolment of {name}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                await asyncio.sleep(SPACING_SECONDS)

    def _waits(self, name: str, change: Change, now: float) -> bool:
        wait = self._not_before.get(name, now)
        if isinstance(change, decision.Enrol) and change.uid and self._last.get(name) == change:
            wait += STUBBORN_SECONDS
        return wait > now

    async def _write(self, name: str, change: Change) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._leadership.remaining() >= LEASE_SECONDS:
                await self._send(change)
                self._failures.pop(name, None)
                self._last[name] = change
                self._not_before[name] = loop.time() + TOLD_SECONDS
        except errors.OutsideError as error:
            failures = self._failures.get(name, 0)
            delay = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
            level = logging.WARNING if failures == 0 else logging.DEBUG
            log.log(level, "ProtectedVM %s could not be written, next try in %.0f s: %s", name, delay, error)
            self._failures[name] = failures + 1
            self._not_before[name] = loop.time() + delay
        finally:
            self._busy.discard(name)
            self._slots.release()

    async def _send(self, change: Change) -> None:
        match change:
            case decision.Enrol():
                await self._kubernetes.apply_guest(change.manifest, ours=bool(change.uid))
            case decision.Dismiss():
                try:
                    await self._kubernetes.delete_guest(change.ref, change.resource_version)
                except (errors.NotFound, errors.Conflict):
                    # Gone, or changed a moment ago: the watch will tell, and the next decision knows.
                    return
