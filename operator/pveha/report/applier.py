"""Writes statuses in the background: only changes, few at a time, the urgent ones first.

An object is written at most once in `MIN_INTERVAL` seconds; what is submitted meanwhile replaces what waits.
Nothing is compared at the server, because there an unchanged apply costs as much as a change.
"""

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pveha.model import errors, ports
from pveha.model.kubernetes import Manifest, ObjectRef

MIN_INTERVAL = 1.0
CONCURRENCY = 50
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses after failed writes of one object."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class _Object:
    """What is known of one object: what is wanted, what was written last and what the server made of it."""

    wanted: Manifest | None = None
    urgent: bool = False
    busy: bool = False
    """Queued, waiting for its time, or being written."""
    written_at: float = float("-inf")
    failures: int = 0
    written: Manifest | None = None
    stored: Manifest | None = None
    version: int = 0


class StatusApplier:
    """`seen(ref)` returns the object as the watch last showed it, or None; `written(outcome)` counts writes.

    Use as an asynchronous context manager: at its end what still waits is dropped, because the next leader
    computes it again.
    """

    def __init__(
        self,
        kubernetes: ports.Kubernetes,
        seen: Callable[[ObjectRef], Manifest | None],
        written: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._kubernetes = kubernetes
        self._seen = seen
        self._count = written
        self._objects: dict[ObjectRef, _Object] = {}
        self._urgent: collections.deque[ObjectRef] = collections.deque()
        self._calm: collections.deque[ObjectRef] = collections.deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._open = False

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        for timer in self._timers:
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stored(self, ref: ObjectRef) -> Manifest:
        """The newest status known to be stored: what the watch showed or what our last write returned."""
        known = self._objects.get(ref)
        seen = self._seen(ref)
        if seen is not None and (known is None or known.stored is None or version(seen) > known.version):
            return _status(seen)
        return known.stored if known is not None and known.stored is not None else {}

    def _version(self, ref: ObjectRef, known: _Object) -> str:
        """resourceVersion of the newest state known; "" if none is."""
        return str(max(version(self._seen(ref) or {}), known.version) or "")

    def generation(self, ref: ObjectRef) -> int:
        """metadata.generation of the object as the watch showed it; 0 if it did not."""
        return int(((self._seen(ref) or {}).get("metadata") or {}).get("generation", 0))

    def submit(self, ref: ObjectRef, status: Manifest, *, urgent: bool = False) -> None:
        """Have `status` written unless it is what is stored already. Never blocks."""
        known = self._objects.setdefault(ref, _Object())
        if known.wanted is None and not known.busy and self._is_stored(ref, known, status):
            return
        if known.wanted != status:
            known.wanted = status
        known.urgent = urgent
        if not known.busy:
            self._enqueue_after(ref, known, known.written_at + MIN_INTERVAL - self._now())

    def _is_stored(self, ref: ObjectRef, known: _Object, status: Manifest) -> bool:
        stored = self.stored(ref)
        # Fields of other managers make what is stored differ from ours for good: then our last write decides.
        return stored == status or (known.written == status and known.stored == stored)

    def forget(self, ref: ObjectRef) -> None:
        """Drop what waits for an object that is gone."""
        if known := self._objects.get(ref):
            known.wanted = None
            if not known.busy:
                del self._objects[ref]

    def known(self) -> frozenset[ObjectRef]:
        """All objects ever submitted and not forgotten."""
        return frozenset(self._objects)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _enqueue_after(self, ref: ObjectRef, known: _Object, delay: float) -> None:
        known.busy = True
        if delay <= 0:
            self._enqueue(ref, known)
            return

        def due() -> None:
            self._timers.discard(timer)
            self._enqueue(ref, known)

        timer = asyncio.get_running_loop().call_later(delay, due)
        self._timers.add(timer)

    def _enqueue(self, ref: ObjectRef, known: _Object) -> None:
        (self._urgent if known.urgent else self._calm).append(ref)
        self._start_writes()

    def _start_writes(self) -> None:
        while self._open and len(self._tasks) < CONCURRENCY and (self._urgent or self._calm):
            ref = (self._urgent or self._calm).popleft()
            task = asyncio.create_task(self._write(ref, self._objects[ref]), name=f"status of {ref}")
            self._tasks.add(task)
            task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s ended with %r", task.get_name(), error)
        self._start_writes()

    async def _write(self, ref: ObjectRef, known: _Object) -> None:
        status, known.wanted = known.wanted, None
        delay = MIN_INTERVAL
        if status is not None and not self._is_stored(ref, known, status):
            try:
                answer = await self._kubernetes.apply_status(ref, status, self._version(ref, known))
            except errors.NotFound as error:
                log.debug("status of %s dropped: %s", ref, error)
                self._count("Gone")
            except errors.Conflict:
                # Changed, perhaps made anew, a moment ago: the watch will tell, and the next decision knows.
                self._count("Outdated")
            except errors.OutsideError as error:
                delay = RETRY_SECONDS[min(known.failures, len(RETRY_SECONDS) - 1)]
                level = logging.WARNING if known.failures == 0 else logging.DEBUG
                log.log(level, "status of %s could not be written, next try in %.0f s: %s", ref, delay, error)
                known.failures += 1
                if known.wanted is None:
                    known.wanted = status
                self._count("Failed")
            else:
                known.failures = 0
                known.written, known.stored, known.version = status, _status(answer), version(answer)
                self._count("Written")
            known.written_at = self._now()
        known.busy = False
        if known.wanted is not None:
            self._enqueue_after(ref, known, delay)


def version(obj: Manifest) -> int:
    """resourceVersion as the growing number it is."""
    try:
        return int(obj["metadata"]["resourceVersion"])
    except (KeyError, TypeError, ValueError):
        return 0


def _status(obj: Manifest) -> Manifest:
    status = obj.get("status")
    return status if isinstance(status, dict) else {}
