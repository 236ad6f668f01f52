import asyncio
import time

import pytest

from pveha.sim import clock


def test_sleeping_takes_virtual_time_only() -> None:
    async def main() -> float:
        await asyncio.sleep(36_000)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert clock.run(main()) == 36_000
    assert time.monotonic() - began < 1


def test_timers_fire_in_order_and_ties_in_the_order_of_their_making() -> None:
    heard: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(2, heard.append, "late")
        loop.call_later(1, heard.append, "first")
        loop.call_later(1, heard.append, "second")
        loop.call_later(1.5, heard.append, "cancelled").cancel()
        await asyncio.sleep(3)

    clock.run(main())
    assert heard == ["first", "second", "late"]


def test_deadlines_work() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert clock.run(main()) == 5


def test_an_error_in_a_callback_ends_the_run() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        asyncio.get_running_loop().call_later(1, fail)
        await asyncio.sleep(10)

    with pytest.raises(ZeroDivisionError):
        clock.run(main())


def test_waiting_for_nothing_is_an_error_not_a_hang() -> None:
    async def main() -> None:
        await asyncio.sleep(7)
        await asyncio.Event().wait()

    with pytest.raises(clock.NothingScheduledError, match=r"at 7\.000 s"):
        clock.run(main())
