"""Virtual time: an event loop that jumps to its next timer instead of sleeping.

Nothing here touches a socket, a thread or the wall clock, so the same program takes the same steps every
time.
"""

import asyncio
import collections
import contextvars
import heapq
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from typing_extensions import TypeVarTuple, Unpack, override

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class NothingScheduledError(RuntimeError):
    """The main coroutine waits, and neither a callback nor a timer is left that could wake it."""


class _Handle(asyncio.Handle):
    """A callback without what a loop keeps for debugging: simulations make tens of thousands of them."""

    __slots__ = ()
    _context: contextvars.Context
    _callback: Any

    def __init__(
        self,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None

    @override
    def cancel(self) -> None:
        self._cancelled = True
        self._callback = None
        self._args = ()


class _Timer(_Handle, asyncio.TimerHandle):
    """The same for a callback at a moment."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        _Handle.__init__(self, callback, args, loop, context)
        self._when = when


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio event loop on its own clock, which starts at `start` seconds and moves only between
    callbacks."""

    _ready: collections.deque[_Handle]
    _stopping: bool

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self._now = start
        self._timers: list[tuple[float, int, _Timer]] = []
        """A heap; of timers for the same moment the one made first is first. Cancelled ones stay."""
        self._made = 0
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

    @override
    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = _Timer(when, callback, args, self, context)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, handle))
        return handle

    @override
    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    @override
    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _run_once(self) -> None:
        """One turn, called by `run_forever`: move due timers to the ready queue, then run what is ready and
        what that makes ready, until somebody stops the loop."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not ready:
            if not timers:
                raise NothingScheduledError(f"at {self._now:.3f} s nothing is scheduled")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            ready.append(heapq.heappop(timers)[2])
        while ready and not self._stopping:
            handle = ready.popleft()
            if handle._cancelled:
                continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as problem:
                told = {"message": f"exception in {handle!r}", "exception": problem, "handle": handle}
                self.call_exception_handler(told)
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
