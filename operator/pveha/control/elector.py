"""Who leads a cluster: an elector on a Lease, on monotonic clocks only.

The holder counts from *before* it sent the renewal that succeeded, everybody else from *after* they first saw
it, and each waits for the duration that the Lease states. So our time always ends before theirs, whatever
requests take and whatever wall clocks say; `MARGIN` covers clocks that run at different speeds.

Limit: who deletes a Lease by hand takes this protection away for one renewal. What a leader does to a cluster
is fenced by the epoch register (S13, S14) as well.
"""

import asyncio
import dataclasses
import enum
import logging
import zlib
from collections.abc import Callable, Coroutine
from typing import Any

from typing_extensions import override

from pveha.model import errors, ports
from pveha.model.kubernetes import Lease

DURATION_SECONDS = 15
MARGIN = 1 / 15
"""Part of the duration that we do not use."""
RENEW = 2 / 15
"""Part of the duration between two renewals: every 2 s, as Kubernetes' own components do with 15 s."""
TRY = 1 / 5
"""Part of the duration that one request may take."""
LOOK = 1 / 10
"""Part of the duration between two looks at somebody else's Lease, and between two tries after an error; what
was not answered in time is tried again at once."""
WIND_UP = 1 / 5
"""Part of the duration that is kept for ending the work in order before leadership ends."""
RELEASE_SECONDS = 2.0
INSIST_SECONDS = 5.0
"""Work that has not ended is cancelled again after so long."""

log = logging.getLogger(__name__)

Work = Callable[[ports.Leadership], Coroutine[Any, Any, None]]


class _Lost(enum.Enum):
    """How leadership ended."""

    EXPIRING = "it could not be renewed in time"
    TAKEN = "another replica has taken it"
    DELETED = "the Lease was deleted"


@dataclasses.dataclass(frozen=True, slots=True)
class _Sighting:
    """A Lease (None: absent) and when it was first seen like this, by our clock."""

    lease: Lease | None
    at: float


class Elector:
    """Runs `work` while this replica (`identity`, unique to the process) holds the Lease `namespace`/`name`.

    `run` goes on until it is cancelled; then the work is ended first and the Lease released after it.
    """

    def __init__(
        self,
        kubernetes: ports.Kubernetes,
        namespace: str,
        name: str,
        identity: str,
        work: Work,
        wall_now: Callable[[], float],
        duration_seconds: int = DURATION_SECONDS,
    ) -> None:
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._work = work
        # No two replicas look at the same pace, so that they do not keep colliding.
        self._pace = 0.9 + 0.2 * zlib.crc32(identity.encode()) / 0xFFFFFFFF
        self._wall_now = wall_now
        self._duration = duration_seconds
        self._held: Lease | None = None
        self._held_until = float("-inf")
        self._seen: _Sighting | None = None
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the Lease cannot be read or written at present, or ""."""
        return self._problem

    @property
    def holder(self) -> str:
        """Who leads as far as we know; "" when nobody does."""
        if self._held:
            return self._identity
        return self._seen.lease.holder if self._seen and self._seen.lease else ""

    def remaining(self) -> float:
        """Seconds for which nobody else can be leader; 0 or less without leadership."""
        return self._held_until - self._now()

    async def run(self) -> None:
        """Take part in the election until cancelled."""
        while True:
            await self._acquire()
            log.info("leading %s as %s", self, self._identity)
            lost = await self._lead()
            log.warning("no longer leading %s: %s", self, lost.value)

    @override
    def __str__(self) -> str:
        return f"{self._namespace}/{self._name}"

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _acquire(self) -> None:
        """Wait until the Lease is ours."""
        while True:
            wait = self._duration * LOOK * self._pace
            try:
                async with asyncio.timeout(self._duration * TRY):
                    wait = min(wait, await self._try_to_acquire())
                self._all_well()
            except (errors.Conflict, errors.AlreadyExists):
                wait = 0.0
            except (errors.OutsideError, TimeoutError) as error:
                self._complain(error)
            if self._held:
                return
            await asyncio.sleep(wait)

    async def _try_to_acquire(self) -> float:
        """Look, and take the Lease if we may. Returns after how many seconds it may be ours."""
        lease = await self._read()
        free_at = self._sight(lease).at + max(lease.duration_seconds if lease else 0, self._duration)
        if (lease and lease.holder in ("", self._identity)) or self._now() >= free_at:
            await self._write(lease)
        return free_at - self._now()

    async def _read(self) -> Lease | None:
        try:
            return await self._kubernetes.get_lease(self._namespace, self._name)
        except errors.NotFound:
            return None

    def _sight(self, lease: Lease | None) -> _Sighting:
        before = self._seen
        if before is None:
            # If there never was a Lease, there is nobody to wait for; one known to have existed may have
            # a holder who has not noticed yet that it was deleted.
            self._seen = _Sighting(lease, self._now() if lease else float("-inf"))
        elif (lease and lease.resource_version) != (before.lease and before.lease.resource_version):
            self._seen = _Sighting(lease, self._now())
        assert self._seen
        return self._seen

    async def _write(self, lease: Lease | None) -> None:
        """Create the Lease or make it (or keep it) ours. Raises what the port raises."""
        asked_at, wall = self._now(), self._wall_now()
        ours = lease is not None and lease.holder == self._identity
        wanted = Lease(
            namespace=self._namespace,
            name=self._name,
            holder=self._identity,
            duration_seconds=self._duration,
            acquire_timestamp=lease.acquire_timestamp if lease and ours else wall,
            renew_timestamp=wall,
            transitions=(lease.transitions + (not ours)) if lease else 0,
            resource_version=lease.resource_version if lease else "",
        )
        if lease and abs(lease.renew_timestamp - wall) < 1e-5:
            wanted = dataclasses.replace(wanted, renew_timestamp=wall + 1e-4)
        if lease is None:
            written = await self._kubernetes.create_lease(wanted)
        else:
            written = await self._kubernetes.update_lease(wanted)
        if lease and written.resource_version == lease.resource_version:
            raise errors.BadAnswer(f"Lease {self}: an update that changes nothing renews nothing")
        self._held = written
        self._held_until = asked_at + self._duration * (1 - MARGIN)
        self._seen = _Sighting(written, self._now())

    async def _lead(self) -> _Lost:
        """Work and renew until leadership is lost; the work has ended when this returns or raises."""
        work = asyncio.create_task(self._work(self), name=f"work of {self}")
        renewal = asyncio.create_task(self._renew(), name=f"renewal of {self}")
        try:
            await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if renewal.done():
                return await renewal
            raise errors.PvehaError(f"the work of {self} ended by itself")
        finally:
            await _to_its_end(self._wind_up(work, renewal))

    async def _wind_up(self, work: asyncio.Task[None], renewal: asyncio.Task[_Lost]) -> None:
        renewal.cancel()
        await _end(work)
        await _end(renewal)
        await self._release()

    async def _renew(self) -> _Lost:
        """Keep the Lease until that fails for good."""
        pause = self._duration * RENEW
        while True:
            wind_up_at = self._held_until - self._duration * WIND_UP
            await asyncio.sleep(max(0.0, min(pause, wind_up_at - self._now())))
            left = wind_up_at - self._now()
            if left <= 0:
                return _Lost.EXPIRING
            try:
                async with asyncio.timeout(min(left, self._duration * TRY)):
                    lost = await self._renew_once()
            except errors.OutsideError as error:
                pause = self._duration * LOOK
                self._complain(error)
                continue
            except TimeoutError as error:
                pause = 0.0
                self._complain(error)
                continue
            if lost:
                return lost
            self._all_well()
            pause = self._duration * RENEW

    async def _renew_once(self) -> _Lost | None:
        try:
            await self._write(self._held)
        except (errors.Conflict, errors.NotFound):
            # Somebody else's change, or our own whose answer was lost.
            lease = await self._read()
            self._sight(lease)
            if lease is None or lease.holder != self._identity:
                self._held, self._held_until = None, float("-inf")
                return _Lost.TAKEN if lease else _Lost.DELETED
            await self._write(lease)
        return None

    async def _release(self) -> None:
        """Let others take the Lease at once: only called when the work has ended."""
        held, self._held, self._held_until = self._held, None, float("-inf")
        if held is None:
            return
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                lease = await self._read()
                if lease and lease.holder == self._identity:
                    self._sight(await self._kubernetes.update_lease(dataclasses.replace(lease, holder="")))
        except (errors.OutsideError, TimeoutError) as error:
            log.info("Lease %s could not be released and expires instead: %s", self, error)

    def _complain(self, error: Exception) -> None:
        problem = f"Lease {self}: {str(error) or 'no answer in time'}"
        if problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem

    def _all_well(self) -> None:
        self._problem = ""


async def _to_its_end(coroutine: Coroutine[Any, Any, None]) -> None:
    """Await all of `coroutine`, also when cancelled meanwhile; the cancellation goes on afterwards."""
    task = asyncio.create_task(coroutine)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation:
        raise cancellation
    await task


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has really ended."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=INSIST_SECONDS)
    if not task.cancelled() and (error := task.exception()):
        log.error("%s ended with %r", task.get_name(), error)
