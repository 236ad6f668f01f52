"""Small worlds for tests, and ways to run them in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from pveha.model import cluster
from pveha.sim import clock, config, faults, world

Script = Callable[[world.World], Awaitable[None]]


def guests_on(node: str, *vmids: int) -> list[config.Guest]:
    """HA-managed, running virtual machines."""
    return [config.managed(vmid, node) for vmid in vmids]


def build(guests: Iterable[config.Guest] = (), **fields: object) -> world.World:
    return world.World(config.three_nodes(guests, **fields))


def play(built: world.World, script: Script) -> world.World:
    """Run `script` in a started world, in virtual time."""

    async def main() -> None:
        built.start()
        await script(built)

    clock.run(main())
    return built


def after(built: world.World, seconds: float, *timeline: tuple[float, str]) -> world.World:
    """Let the world run for `seconds`, with faults at their times."""

    async def script(running: world.World) -> None:
        for at, line in timeline:
            await asyncio.sleep(at - running.now())
            faults.apply(running, line)
        await asyncio.sleep(seconds - running.now())

    return play(built, script)


def when(running: world.World, *words: str, since: float = 0.0) -> float:
    """When the first line of the log with all words was written; fails with the log if there is none."""
    found = running.first(*words, after=since)
    if found is None:
        raise AssertionError(f"no line with {words} in:\n" + "\n".join(map(str, running.log)))
    return found


async def until(
    running: world.World, condition: Callable[[], bool], limit: float, step: float = 0.01
) -> float:
    """Wait for a condition and return when it came true; fails after `limit` seconds."""
    end = running.now() + limit
    while not condition():
        if running.now() >= end:
            raise AssertionError(f"not within {limit} s:\n" + "\n".join(map(str, running.log)))
        await asyncio.sleep(step)
    return running.now()


STARTED, STOPPED, IGNORED = cluster.HAState.STARTED, cluster.HAState.STOPPED, cluster.HAState.IGNORED
