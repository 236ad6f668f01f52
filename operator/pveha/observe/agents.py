"""Guest agents of guests that something waits for: are they there yet?"""

import asyncio
from collections.abc import Callable

from pveha.model import errors, guests, ports, snapshot

PERIOD_SECONDS = 2.0
"""Between two questions to one agent: half of it is added to the start of what waits for it on average."""
AT_ONCE = 8
"""Questions in flight: one to an agent that is not there yet keeps a worker of the API for 3 s."""

Asked = frozenset[tuple[guests.GuestRef, str]]
"""Guests, with the node where each runs."""


class Agents:
    """Asks as long as it is told to, and keeps what was answered last, by vmid."""

    def __init__(self, hypervisor: ports.Hypervisor, news: Callable[[], None]) -> None:
        """`news` is called when an agent begins to answer, or no longer does."""
        self._hypervisor = hypervisor
        self._news = news
        self._loop = asyncio.get_running_loop()
        self._budget = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[tuple[guests.GuestRef, str], asyncio.Task[None]] = {}
        self.answers: dict[int, snapshot.AgentAnswer] = {}

    def ask(self, asked: Asked) -> None:
        """Ask these from now on, and forget all others."""
        for ref, on in self._tasks.keys() - asked:
            self._tasks.pop((ref, on)).cancel()
            self.answers.pop(ref.vmid, None)
        for ref, on in sorted(asked - self._tasks.keys(), key=str):
            self._tasks[ref, on] = asyncio.create_task(self._keep_asking(ref, on), name=f"agent of {ref}")

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_asking(self, ref: guests.GuestRef, on: str) -> None:
        while True:
            async with self._budget:
                asked_at = self._loop.time()
                answer = snapshot.AgentAnswer(on, asked_at)
                try:
                    await self._hypervisor.ping_agent(ref, on)
                except errors.PvehaError as problem:
                    answer = snapshot.AgentAnswer(on, asked_at, str(problem), type(problem).__name__)
            old, self.answers[ref.vmid] = self.answers.get(ref.vmid), answer
            if old is None or old.kind != answer.kind:
                self._news()
            await asyncio.sleep(max(0.0, asked_at + PERIOD_SECONDS - self._loop.time()))
