"""Waking tasks: cheaper than an `asyncio.Event` under `asyncio.timeout`, and no ring is ever missed."""

import asyncio
import math


class Bell:
    """Many may wait for its next ring, each up to a moment of its own."""

    def __init__(self) -> None:
        self.rung = 0
        """How often it has rung."""
        self._waiting: dict[asyncio.Future[None], None] = {}

    def ring(self) -> None:
        """Wake all who wait now, and those who begin to wait for a ring later than one before this."""
        self.rung += 1
        for waiting in self._waiting:
            _wake(waiting)

    async def wait(self, rung: int, until: float = math.inf) -> bool:
        """Return when it has rung more than `rung` times, at the latest at loop time `until`; whether it
        has."""
        loop = asyncio.get_running_loop()
        if self.rung == rung and loop.time() < until:
            waiting: asyncio.Future[None] = loop.create_future()
            timer = loop.call_at(until, _wake, waiting) if until < math.inf else None
            self._waiting[waiting] = None
            try:
                await waiting
            finally:
                if timer is not None:
                    timer.cancel()
                del self._waiting[waiting]
        return self.rung != rung


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
