"""Asking guest agents, in virtual time: who is asked, how often, how many at once, and what is kept."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

import pytest

from pveha.model import errors, guests
from pveha.observe import agents
from pveha.sim import clock

REFS = [guests.GuestRef(vmid, guests.GuestKind.VM) for vmid in range(100, 120)]


@dataclasses.dataclass
class Stage:
    """A hypervisor whose agents answer after `seconds`, as `problem` says."""

    seconds: float = 0.0
    problem: Exception | None = None
    asked: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    at_once: int = 0
    most: int = 0
    news: int = 0

    async def ping_agent(self, ref: guests.GuestRef, on: str) -> None:
        self.asked.append((ref.vmid, on))
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        if self.problem is not None:
            raise self.problem

    def ring(self) -> None:
        self.news += 1

    def play(self, story: Callable[[agents.Agents], Awaitable[None]]) -> None:
        async def main() -> None:
            asking = agents.Agents(self, self.ring)  # type: ignore[arg-type]
            await story(asking)
            await asking.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        clock.run(main())


def test_nobody_is_asked_unasked() -> None:
    stage = Stage()

    async def story(asking: agents.Agents) -> None:
        await asyncio.sleep(60)
        assert (stage.asked, asking.answers) == ([], {})

    stage.play(story)


def test_an_agent_is_asked_every_other_second_until_nobody_waits_for_it() -> None:
    stage = Stage()

    async def story(asking: agents.Agents) -> None:
        asking.ask(frozenset({(REFS[0], "pve1"), (REFS[1], "pve2")}))
        await asyncio.sleep(9)
        assert stage.asked.count((100, "pve1")) == 5
        assert asking.answers[100].node == "pve1"
        assert not asking.answers[100].kind
        asking.ask(frozenset({(REFS[1], "pve2")}))
        assert asking.answers.keys() == {101}
        stage.asked.clear()
        await asyncio.sleep(9)
        assert {vmid for vmid, _ in stage.asked} == {101}

    stage.play(story)


@pytest.mark.parametrize("problem", [errors.Refused("not running"), errors.Unreachable("nobody there")])
def test_only_a_change_is_news(problem: Exception) -> None:
    stage = Stage(3.0, problem)

    async def story(asking: agents.Agents) -> None:
        asking.ask(frozenset({(REFS[0], "pve1")}))
        await asyncio.sleep(30)
        assert stage.news == 1
        assert (asking.answers[100].kind, asking.answers[100].problem) == (
            type(problem).__name__,
            str(problem),
        )
        stage.problem = None
        await asyncio.sleep(30)
        assert stage.news == 2
        assert asking.answers[100].kind == ""

    stage.play(story)


def test_agents_that_are_not_there_yet_keep_few_calls_in_flight_and_all_get_their_turn() -> None:
    stage = Stage(3.0, errors.Refused("not running"))

    async def story(asking: agents.Agents) -> None:
        asking.ask(frozenset((ref, "pve1") for ref in REFS))
        await asyncio.sleep(30)
        assert stage.most == agents.AT_ONCE
        assert {vmid for vmid, _ in stage.asked} == {ref.vmid for ref in REFS}

    stage.play(story)


def test_a_guest_that_is_elsewhere_now_is_asked_there() -> None:
    stage = Stage()

    async def story(asking: agents.Agents) -> None:
        asking.ask(frozenset({(REFS[0], "pve1")}))
        await asyncio.sleep(1)
        asking.ask(frozenset({(REFS[0], "pve2")}))
        await asyncio.sleep(1)
        assert asking.answers[100].node == "pve2"

    stage.play(story)
