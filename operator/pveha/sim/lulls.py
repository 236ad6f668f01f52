"""The time in which nothing is told of a world: polls need not be made in it."""

import asyncio
import bisect
import dataclasses
from collections.abc import Callable

from pveha.model import snapshot
from pveha.sim import world

LULL_SECONDS = 1.5
"""After this long without a line in the world's log, polls are skipped."""
LEFT_OUT = 4
"""Slow polls that are left out one after the other, at most."""


class Lull:
    """Times are the loop's, whose beginning is the world's.

    What changes without a line (the times that the CRM and LRMs write) is seen when the poll comes that was
    put off.
    """

    def __init__(self, about: world.World, period: Callable[[str], float]) -> None:
        """`period`: seconds between two polls of a slow source."""
        self._world = about
        self._period = period
        self._waiting: list[asyncio.Future[None]] = []
        self._lines = 0
        self._last = float("-inf")
        self._done: list[float] = []
        """When something was done."""
        about.on_change(self._look)

    async def pass_by(self, seconds: float) -> None:
        """Return when something is told, or after `seconds`; at once if something was told lately."""
        if not self.lasts_since(_now() - LULL_SECONDS):
            return
        loop = asyncio.get_running_loop()
        happens: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _finish, happens)
        self._waiting.append(happens)
        try:
            await happens
        finally:
            timer.cancel()

    async def leave_out(self, source: str, age: float) -> None:
        """Let the period of a slow poll pass up to LEFT_OUT times, while nothing has been told or done in the
        `age` seconds before and since."""
        period = self._period(source)
        since = _now() - age
        for _ in range(LEFT_OUT):
            if not self.lasts_since(since):
                return
            await asyncio.sleep(period)

    def make_up(self, seen: snapshot.Snapshot) -> None:
        """Put into a snapshot what nodes would have told of their membership if they had been asked all the
        time: the same as before, as of now, or of the moment at which the lull has ended."""
        views, probes = dict(seen.views), dict(seen.probes)
        for name, view in seen.views.items():
            at = self._ended(view.answered_at)
            if at > view.answered_at and probes[name].failed_since is None:
                views[name] = dataclasses.replace(view, answered_at=at)
                probes[name] = snapshot.Probe(at, at, None)
        object.__setattr__(seen, "views", views)
        object.__setattr__(seen, "probes", probes)

    def _ended(self, since: float) -> float:
        """Up to when nothing has been told or done after loop time `since`, at most now."""
        self._look()
        if self._last < since:
            return _now()
        told = bisect.bisect_left(self._world.log, since, key=lambda event: event.at)
        done = bisect.bisect_left(self._done, since)
        lines = [event.at for event in self._world.log[told : told + 1]]
        return min(lines + self._done[done : done + 1])

    def lasts_since(self, at: float) -> bool:
        """Whether nothing has been told or done at loop time `at` or later."""
        self._look()
        return self._last < at

    def stir(self) -> None:
        """Something is done, whatever is told of it."""
        self._last = _now()
        self._done.append(self._last)
        self._wake()

    def _look(self) -> None:
        if len(self._world.log) == self._lines:
            return
        self._lines, self._last = len(self._world.log), max(self._last, self._world.log[-1].at)
        self._wake()

    def _wake(self) -> None:
        for happens in self._waiting:
            _finish(happens)
        self._waiting.clear()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
