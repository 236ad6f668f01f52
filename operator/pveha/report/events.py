"""Events: repetitions become a series, and no object can flood the cluster with them."""

import asyncio
import collections
import dataclasses
import hashlib
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pveha.model import errors, kubernetes, ports

SERIES_SECONDS = 600.0
"""The same Event within this time of its last occurrence continues the series."""
REFRESH_SECONDS = 60.0
"""How often the count of a series is written."""
BURST = 25
REFILL_SECONDS = 10.0
"""Different Events about one object: `BURST` at once, then one in `REFILL_SECONDS`; more are only logged."""
BACKLOG = 1000
"""Events that wait for an API server that does not answer; the oldest are dropped."""
RETRY_SECONDS = 2.0
NOTE_LIMIT = 1024
"""Length of an Event's note that Kubernetes allows."""

log = logging.getLogger(__name__)

_Key = tuple[kubernetes.ObjectRef, str, str]


@dataclasses.dataclass(slots=True)
class _Series:
    occurrence: kubernetes.Occurrence
    last_at: float
    written_at: float


@dataclasses.dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class EventRecorder:
    """Records Events in the background; an asynchronous context manager. `instance` names the replica."""

    def __init__(self, port: ports.Kubernetes, instance: str, wall_now: Callable[[], float]) -> None:
        self._kubernetes = port
        self._instance = instance
        self._wall_now = wall_now
        self._series: dict[_Key, _Series] = {}
        self._buckets: dict[kubernetes.ObjectRef, _Bucket] = {}
        self._backlog: collections.deque[kubernetes.Occurrence] = collections.deque(maxlen=BACKLOG)
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._write(), name="events")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def record(
        self, regarding: kubernetes.ObjectRef, reason: str, message: str, *, warning: bool = False
    ) -> None:
        """Record that something happened. Never blocks."""
        now, wall = asyncio.get_running_loop().time(), self._wall_now()
        self._forget_old(now)
        message = message if len(message) <= NOTE_LIMIT else message[: NOTE_LIMIT - 1] + "…"
        key = (regarding, reason, message)
        series = self._series.get(key)
        if series is not None:
            series.last_at = now
            series.occurrence = dataclasses.replace(
                series.occurrence, count=series.occurrence.count + 1, last_timestamp=wall
            )
            if now - series.written_at < REFRESH_SECONDS:
                return
            series.written_at = now
        else:
            log.log(logging.WARNING if warning else logging.INFO, "%s: %s: %s", regarding, reason, message)
            if not self._allowed(regarding, now):
                return
            digest = hashlib.sha256(f"{key}{regarding.uid}{self._instance}{wall}".encode()).hexdigest()
            name = f"{regarding.name[:200]}.{digest[:16]}"
            occurrence = kubernetes.Occurrence(
                name, regarding, reason, message, warning, self._instance, wall, wall
            )
            series = self._series[key] = _Series(occurrence, now, now)
        self._backlog.append(series.occurrence)
        self._more.set()

    def _allowed(self, regarding: kubernetes.ObjectRef, now: float) -> bool:
        bucket = self._buckets.setdefault(regarding, _Bucket(BURST, now))
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) / REFILL_SECONDS)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _forget_old(self, now: float) -> None:
        for key in [key for key, series in self._series.items() if now - series.last_at > SERIES_SECONDS]:
            del self._series[key]
        full = BURST * REFILL_SECONDS
        for ref in [ref for ref, bucket in self._buckets.items() if now - bucket.at > full]:
            del self._buckets[ref]

    async def _write(self) -> None:
        while True:
            self._more.clear()
            while self._backlog:
                occurrence = self._backlog[0]
                try:
                    await self._kubernetes.record(occurrence)
                except errors.Unreachable:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                except errors.OutsideError as error:
                    log.warning("event %s of %s is lost: %s", occurrence.reason, occurrence.regarding, error)
                if self._backlog and self._backlog[0] is occurrence:
                    self._backlog.popleft()
            await self._more.wait()
