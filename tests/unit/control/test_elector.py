"""The elector in virtual time, beside a simulated API server that fails, delays and loses answers."""

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Awaitable, Callable

import hypothesis
import pytest
from hypothesis import strategies

from pveha.control import elector
from pveha.model import errors, ports
from pveha.sim import clock
from pveha.sim.kubernetes import SimulatedKubernetes

NAMESPACE, NAME = "default", "pveha-dc1"


@dataclasses.dataclass
class Replica:
    """A replica whose work records when it began and ended."""

    elector: elector.Elector
    task: asyncio.Task[None]
    working: list[bool]

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def start(kubernetes: ports.Kubernetes, identity: str, skew: float = 0.0, slow_end: float = 0.0) -> Replica:
    working: list[bool] = []
    loop = asyncio.get_running_loop()

    async def work(leadership: ports.Leadership) -> None:
        working.append(True)
        try:
            await asyncio.Event().wait()
        finally:
            ends_at = loop.time() + slow_end
            while loop.time() < ends_at:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(ends_at - loop.time())
            working.pop()

    candidate = elector.Elector(
        kubernetes, NAMESPACE, NAME, identity, work, wall_now=lambda: 1.7e9 + loop.time() + skew
    )
    return Replica(candidate, asyncio.create_task(candidate.run()), working)


async def time_until(condition: Callable[[], bool], within: float) -> float:
    """Seconds until `condition` holds."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    while not condition():
        if loop.time() - begin > within:
            pytest.fail(f"not within {within} s")
        await asyncio.sleep(0.05)
    return loop.time() - begin


def test_the_first_replica_leads_at_once_and_the_second_waits() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        first = start(kubernetes, "first")
        assert await time_until(lambda: bool(first.working), 5) < 1
        second = start(kubernetes, "second")
        await asyncio.sleep(120)
        assert first.elector.remaining() > 0
        assert not second.working
        assert second.elector.holder == "first"
        await second.stop()
        await first.stop()

    clock.run(story())


def test_a_clean_stop_ends_the_work_and_lets_the_successor_start_at_once() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        first = start(kubernetes, "first", slow_end=2.0)
        await time_until(lambda: bool(first.working), 5)
        second = start(kubernetes, "second")
        await asyncio.sleep(10)
        await first.stop()
        assert not first.working
        assert (await kubernetes.get_lease(NAMESPACE, NAME)).holder == ""
        assert await time_until(lambda: bool(second.working), 5) <= 2
        await second.stop()

    clock.run(story())


def test_a_crashed_leader_is_replaced_within_the_expiry_and_five_seconds() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        broken = Network(kubernetes)
        first = start(broken, "first")
        await time_until(lambda: bool(first.working), 5)
        second = start(kubernetes, "second", skew=-3600)
        await asyncio.sleep(31)
        broken.cut = True
        assert await time_until(lambda: bool(second.working), 30) <= elector.DURATION_SECONDS + 5
        assert not first.working
        assert first.elector.remaining() <= 0
        await second.stop()
        await first.stop()

    clock.run(story())


def test_work_ends_before_the_lease_can_be_taken_and_resumes_later() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        only = start(kubernetes, "only")
        await time_until(lambda: bool(only.working), 5)
        kubernetes.unreachable = True
        ended = await time_until(lambda: not only.working, 20)
        assert ended <= elector.DURATION_SECONDS
        assert "unreachable" in only.elector.problem
        await asyncio.sleep(60)
        assert only.elector.remaining() <= 0
        kubernetes.unreachable = False
        assert await time_until(lambda: bool(only.working), 10) <= 5
        assert only.elector.problem == ""
        await only.stop()

    clock.run(story())


def test_a_short_outage_of_the_api_server_interrupts_nothing() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        only = start(kubernetes, "only")
        await time_until(lambda: bool(only.working), 5)
        for _ in range(5):
            kubernetes.unreachable = True
            await asyncio.sleep(6)
            assert only.working
            kubernetes.unreachable = False
            await asyncio.sleep(6)
        assert only.working
        await only.stop()

    clock.run(story())


def test_two_hung_calls_in_a_row_cost_no_leadership(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        first = start(kubernetes, "first")
        await time_until(lambda: bool(first.working), 5)
        hung = 0

        async def hang(request: str) -> None:
            nonlocal hung
            hung += 1
            if hung <= 2:
                await asyncio.Event().wait()

        kubernetes.hang = hang
        await asyncio.sleep(20)
        assert hung > 2
        assert "no longer leading" not in caplog.text
        await first.stop()

    clock.run(story())


def test_a_deleted_lease_is_made_again_by_its_holder_and_nobody_else() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        first = start(kubernetes, "first")
        await time_until(lambda: bool(first.working), 5)
        second = start(kubernetes, "second")
        await asyncio.sleep(10)
        for _ in range(3):
            kubernetes.delete_lease(NAMESPACE, NAME)
            await asyncio.sleep(10)
            assert first.working
            assert not second.working
            assert (await kubernetes.get_lease(NAMESPACE, NAME)).holder == "first"
        await first.stop()
        await second.stop()

    clock.run(story())


def test_the_time_left_counts_from_before_the_request() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()

        async def slow_answer(request: str) -> None:
            await asyncio.sleep(2.0 if request == "create_lease" else 0.0)

        kubernetes.lose = slow_answer
        only = start(kubernetes, "only")
        await time_until(lambda: bool(only.working), 5)
        assert only.elector.remaining() == pytest.approx(
            elector.DURATION_SECONDS * (1 - elector.MARGIN) - 2, abs=0.1
        )
        await only.stop()

    clock.run(story())


def test_work_that_fails_gives_the_lease_back() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()

        async def work(leadership: ports.Leadership) -> None:
            raise RuntimeError("broken")

        candidate = elector.Elector(kubernetes, NAMESPACE, NAME, "me", work, wall_now=lambda: 0.0)
        with pytest.raises(errors.PvehaError, match="ended by itself"):
            await candidate.run()
        assert (await kubernetes.get_lease(NAMESPACE, NAME)).holder == ""

    clock.run(story())


Rates = strategies.floats(0, 0.6)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    seed=strategies.integers(0, 2**32),
    failing=Rates,
    losing=Rates,
    slow=Rates,
    skews=strategies.lists(strategies.floats(-1e6, 1e6), min_size=2, max_size=4),
    slow_end=strategies.sampled_from([0.0, 1.0, 20.0]),
)
def test_never_two_leaders_whatever_the_api_server_does(
    seed: int, failing: float, losing: float, slow: float, skews: list[float], slow_end: float
) -> None:
    dice = random.Random(seed)

    def fault(rate: float) -> Callable[[str], Awaitable[None]]:
        async def strike(request: str) -> None:
            if dice.random() < slow:
                await asyncio.sleep(dice.uniform(0, 8))
            if dice.random() < rate:
                raise errors.Unreachable(request)

        return strike

    async def story() -> None:
        server = SimulatedKubernetes()
        server.hang, server.lose = fault(failing), fault(losing)
        networks = [Network(server) for _ in skews]
        names = iter(range(1000))
        replicas = [
            start(network, f"r{next(names)}", skew, slow_end)
            for network, skew in zip(networks, skews, strict=True)
        ]
        loop = asyncio.get_running_loop()
        led = set()
        while loop.time() < 300:
            await asyncio.sleep(dice.uniform(0.05, 0.6))
            leaders = {id(replica) for replica in replicas if replica.elector.remaining() > 0}
            assert len(leaders) <= 1
            led |= leaders
            if dice.random() < 0.02:
                network = dice.choice(networks)
                network.cut = not network.cut
            if dice.random() < 0.005:
                victim = dice.randrange(len(replicas))
                await replicas[victim].stop()
                assert not replicas[victim].working
                replicas[victim] = start(networks[victim], f"r{next(names)}", skews[victim], slow_end)
        if not failing and not losing and not slow:
            assert led
        await asyncio.gather(*(replica.stop() for replica in replicas))
        await asyncio.sleep(30)

    clock.run(story())


class Network(SimulatedKubernetes):
    """A replica's way to `server`: requests go on after their client has given up, and it can be cut."""

    def __init__(self, server: SimulatedKubernetes) -> None:
        super().__init__()
        self.cut = False
        for name in ("get_lease", "create_lease", "update_lease"):
            setattr(self, name, self._detached(getattr(server, name)))

    def _detached(self, request: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        async def send(*args: object) -> object:
            if self.cut:
                raise errors.Unreachable("cut")
            task = asyncio.ensure_future(request(*args))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            answer = await asyncio.shield(task)
            if self.cut:
                raise errors.Unreachable("cut")
            return answer

        return send
