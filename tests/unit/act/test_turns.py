"""Places are given by rank, and none gets lost."""

import asyncio

from pveha.act import turns


def test_the_most_important_of_those_that_wait_is_next() -> None:
    async def run() -> list[int]:
        places, order = turns.Turns(1), []

        async def one(rank: int) -> None:
            async with places.turn((rank,)):
                order.append(rank)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for rank in (5, 9, 3, 7, 1):
                group.create_task(one(rank))
        return order

    assert asyncio.run(run()) == [5, 1, 3, 7, 9]


def test_a_place_survives_the_cancellation_of_whoever_waits_for_it_or_has_it() -> None:
    async def run() -> bool:
        places = turns.Turns(1)
        held = asyncio.Event()

        async def hold(rank: int) -> None:
            async with places.turn((rank,)):
                held.set()
                await asyncio.sleep(3600)

        first = asyncio.create_task(hold(0))
        await held.wait()
        waiting, next_ = asyncio.create_task(hold(1)), asyncio.create_task(hold(2))
        await asyncio.sleep(0)
        waiting.cancel()
        first.cancel()
        await asyncio.wait({waiting, first})
        next_.cancel()
        await asyncio.wait({next_})
        async with asyncio.timeout(1), places.turn((9,)):
            return True

    assert asyncio.run(run())


def test_a_place_given_in_the_moment_of_cancellation_goes_on() -> None:
    async def run() -> bool:
        places = turns.Turns(1)

        async def pass_by(rank: int) -> None:
            async with places.turn((rank,)):
                pass

        async with places.turn((0,)):
            granted = asyncio.create_task(pass_by(1))
            await asyncio.sleep(0)
        granted.cancel()
        async with asyncio.timeout(1), places.turn((2,)):
            return True

    assert asyncio.run(run())
