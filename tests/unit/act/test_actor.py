"""Operations as tasks: every end becomes an outcome that is shown once, and nothing outlives the actor."""

import asyncio
from typing import Any

import pytest

from act_fakes import World, a_fence, a_takeover, an_item
from pveha.act import actor
from pveha.model import cluster, errors, operations
from pveha.sim import clock


def an_actor(world: Any) -> actor.Actor:
    return actor.Actor(world, world, world, world, lambda: 1_795_000_000.0)


def edit_of(expected: cluster.HAResource | None, desired: cluster.HAResource | None) -> operations.EditHA:
    return operations.EditHA("edit.1", (operations.Edit("vm:102", expected, desired, "because"),))


async def outcome_of(doer: actor.Actor, operation: operations.Operation) -> operations.Outcome:
    rung = doer.ended.rung
    doer.apply([operation], [])
    assert await doer.ended.wait(rung, asyncio.get_running_loop().time() + 300)
    (state,) = doer.states()
    assert state.outcome is not None
    assert doer.states() == ()
    return state.outcome


def test_an_end_is_shown_exactly_once() -> None:
    async def story() -> None:
        async with an_actor(World()) as doer:
            assert (await outcome_of(doer, a_fence())).proof is not None

    clock.run(story())


def test_every_exception_becomes_an_outcome() -> None:
    async def story() -> None:
        world = World()
        world.owner_elsewhere = "uid/other/dc1"
        async with an_actor(world) as doer:
            owned = await outcome_of(doer, a_fence())
            assert (owned.owner, owned.error) == ("uid/other/dc1", "owned")
            world.errors["ha_config"] = RuntimeError("a mistake")
            broken = await outcome_of(doer, edit_of(None, cluster.HAResource("vm:102")))
            assert broken.error == "RuntimeError: a mistake"
            world.errors["ha_config"] = errors.Unreachable("no route")
            failed = await outcome_of(doer, a_takeover())
            assert failed.error == "no route"
        without: Any = World()
        async with actor.Actor(without, None, None, without, lambda: 0.0) as doer:
            begin = operations.Begin("begin.1", "pve1", "me")
            assert "no node shell" in (await outcome_of(doer, begin)).error

    clock.run(story())


def test_a_cancelled_operation_ends_as_such_and_the_same_id_runs_once() -> None:
    async def story() -> None:
        world = World()
        world.hang = {"begin"}
        async with an_actor(world) as doer:
            doer.apply([a_fence(), a_fence()], [])
            await asyncio.sleep(1)
            doer.apply([a_fence()], ["no such operation"])
            assert [state.outcome for state in doer.states()] == [None]
            assert doer.states()[0].step == "Witnessing"
            rung = doer.ended.rung
            doer.apply([], [a_fence().id])
            await doer.ended.wait(rung, float("inf"))
            (state,) = doer.states()
            assert state.outcome is not None
            assert state.outcome.error == "cancelled"
        assert world.did("begin") == ["begin pve1"]

    clock.run(story())


def test_nothing_runs_on_when_the_actor_is_left() -> None:
    async def story() -> None:
        world = World()
        registered = an_item().registered
        assert registered is not None
        world.resources = {"vm:102": registered}
        world.hang = {"start"}
        async with an_actor(world) as doer:
            doer.apply([a_takeover()], [])
            await asyncio.sleep(2)
            assert world.did("start")
        assert asyncio.all_tasks() == {asyncio.current_task()}

    clock.run(story())


SEEN = cluster.HAResource("vm:102", cluster.HAState.STARTED, "mine")
WANTED = cluster.HAResource("vm:102", cluster.HAState.STOPPED, "mine")


def edited(world: World, operation: operations.EditHA) -> operations.Outcome:
    async def story() -> operations.Outcome:
        async with an_actor(world) as doer:
            return await outcome_of(doer, operation)

    return clock.run(story())


def test_a_persons_edit_that_came_first_stays_and_is_reported() -> None:
    world = World()
    his = cluster.HAResource("vm:102", cluster.HAState.DISABLED, "mine")
    world.resources["vm:102"] = his
    outcome = edited(world, edit_of(SEEN, WANTED))
    assert world.resources["vm:102"] == his
    assert [each.sid for each in outcome.refused] == ["vm:102"]
    assert "changed by somebody else" in outcome.error


def test_a_persons_edit_between_our_read_and_our_write_stays() -> None:
    world = World()
    his = cluster.HAResource("vm:102", cluster.HAState.DISABLED, "mine")
    world.resources["vm:102"] = SEEN

    def edit(sid: str) -> None:
        world.digest += 1
        world.resources[sid] = his

    world.before_write = edit
    outcome = edited(world, edit_of(SEEN, WANTED))
    assert world.resources["vm:102"] == his
    assert len(outcome.refused) == 1


def test_a_change_elsewhere_in_the_file_only_costs_another_try() -> None:
    world = World()
    world.resources["vm:102"] = SEEN
    tries = iter([True, False])

    def edit(sid: str) -> None:
        if next(tries):
            world.digest += 1

    world.before_write = edit
    outcome = edited(world, edit_of(SEEN, WANTED))
    assert (world.resources["vm:102"], outcome.error) == (WANTED, "")
    assert len(world.did("update")) == 2


def test_what_is_done_already_is_not_done_again() -> None:
    world = World()
    world.resources["vm:102"] = WANTED
    assert edited(world, edit_of(SEEN, WANTED)).error == ""
    world.resources = {}
    assert edited(world, edit_of(SEEN, None)).error == ""
    assert world.did("update") == world.did("delete") == []


def test_without_quorum_the_rest_is_left_for_later() -> None:
    world = World()
    world.resources["vm:102"] = SEEN
    world.errors["update"] = errors.NoQuorum("no quorum")
    edit = operations.Edit("vm:102", SEEN, WANTED, "because")
    outcome = edited(world, operations.EditHA("edit.1", (edit, edit, edit)))
    assert len(outcome.refused) == 3
    assert len(world.did("update")) == 1


@pytest.mark.parametrize(("hangs", "may_land"), [("processes", False), ("claim", True)])
def test_the_claim_of_a_cancelled_takeover_may_still_land(hangs: str, may_land: bool) -> None:
    async def story() -> None:
        world = World()
        item = an_item()
        assert item.registered is not None
        world.resources = {"vm:102": item.registered}
        world.hang = {hangs}
        async with an_actor(world) as doer:
            doer.apply([a_takeover(item)], [])
            await asyncio.sleep(1)
            rung = doer.ended.rung
            doer.apply([], [a_takeover().id])
            await doer.ended.wait(rung, float("inf"))
            (state,) = doer.states()
            assert state.outcome is not None
            assert state.outcome.may_land is may_land

    clock.run(story())
