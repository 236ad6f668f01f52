"""Virtual time: an event loop that jumps to its next timer instead of sleeping.

Nothing here touches a socket, a thread or the wall clock, so the same program takes the same steps every
time.
"""

import asyncio
import collections
import heapq
from collections.abc import Coroutine
from typing import Any, TypeVar

from typing_extensions import override

T = TypeVar("T")


class NothingScheduledError(RuntimeError):
    """The main coroutine waits, and neither a callback nor a timer is left that could wake it."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio event loop on its own clock, which starts at `start` seconds and moves only between
    callbacks."""

    _ready: collections.deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _timer_cancelled_count: int

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self._now = start
        self._broken: BaseException | None = None
        self.set_exception_handler(VirtualLoop._failed)

    @override
    def time(self) -> float:
        return self._now

    @staticmethod
    def _failed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A timer's callback that raises ends the run with its error: a simulation must not limp on."""
        loop.default_exception_handler(context)
        if "handle" in context and isinstance(loop, VirtualLoop):
            loop._broken = context.get("exception")

    def _run_once(self) -> None:
        """One turn, called by `run_forever`: move due timers to the ready queue, then run what is ready."""
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0].cancelled():
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]
        if not ready:
            if not scheduled:
                raise NothingScheduledError(f"at {self._now:.3f} s nothing is scheduled")
            self._now = max(self._now, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False  # type: ignore[attr-defined]
            ready.append(handle)
        for _ in range(len(ready)):
            handle_ = ready.popleft()
            if not handle_.cancelled():
                handle_._run()
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken

    def _write_to_self(self) -> None:
        """Called by `call_soon_threadsafe` to wake a sleeping loop; this one never sleeps."""

    def _process_events(self, event_list: list[object]) -> None:
        """There are no I/O events."""


def run(main: Coroutine[Any, Any, T], start: float = 0.0) -> T:
    """Run `main` in virtual time to its end and return its result."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(start)) as runner:
        return runner.run(main)
