"""A fence proves, or says why it could not; nothing is switched off against any doubt (S1, S2, S5, S6)."""

import asyncio

import pytest

from act_fakes import World, a_fence, a_method, perform
from pveha.act import context, fence
from pveha.model import errors, node, operations, power

ON, OFF = power.PowerState.ON, power.PowerState.OFF


def run(world: World, operation: operations.Fence | None = None) -> operations.Outcome:
    wanted = operation or a_fence()
    return perform(world, lambda with_: fence.fence(wanted, with_))


def test_two_reads_of_off_three_seconds_apart_after_the_command_prove_it() -> None:
    world = World()
    outcome = run(world)
    assert outcome.error == ""
    assert outcome.epoch == 2
    assert outcome.proof is not None
    assert outcome.proof.last_off_at - outcome.proof.first_off_at >= 3.0
    assert outcome.proof.first_off_at >= outcome.commanded["bmc"]
    assert world.did("force_off") == ["force_off pve2/bmc"]


def test_an_earlier_read_of_off_counts_and_the_command_is_sent_all_the_same() -> None:
    world = World()
    outcome = run(world, a_fence(methods=(a_method(off_since=-5.0),)))
    assert outcome.proof is not None
    assert outcome.proof.last_off_at > outcome.commanded["bmc"]
    assert outcome.at < 2.0
    assert world.did("force_off")


def test_power_in_between_begins_the_row_anew() -> None:
    world = World()
    world.power = lambda at: ON if at < 0.3 or 1.0 < at < 1.8 else OFF
    outcome = run(world, a_fence(methods=(a_method(off_since=-5.0),)))
    assert outcome.proof is not None
    assert outcome.proof.first_off_at >= 1.8


def test_a_bmc_that_is_silent_for_a_while_is_asked_again() -> None:
    world = World()
    world.power = lambda at: None if 0.3 < at < 4 else OFF
    outcome = run(world)
    assert outcome.proof is not None


@pytest.mark.parametrize("state", [ON, power.PowerState.CHANGING, None])
def test_what_never_reads_off_is_not_proven(state: power.PowerState | None) -> None:
    world = World()
    world.power = lambda at: ON if at < 0.3 else state
    outcome = run(world)
    assert outcome.proof is None
    assert "15 s" in outcome.error
    assert outcome.commanded


def test_a_bmc_of_another_machine_is_given_no_command() -> None:
    world = World()
    world.identity = frozenset({"uuid-pve3"})
    outcome = run(world)
    assert "another machine" in outcome.error
    assert world.did("force_off") == []


def test_a_command_that_was_not_acknowledged_proves_nothing() -> None:
    world = World()
    world.force_off_error = errors.Unreachable("no answer")
    outcome = run(world)
    assert (outcome.proof, outcome.error) == (None, "no answer")


def test_a_node_that_answers_again_is_left_on() -> None:
    world = World()
    world.pve2_answers = True
    assert "answers again" in run(world).error
    assert world.did("force_off") == []
    assert run(world, a_fence(node_answered=True)).proof is not None


def test_a_survivor_that_sees_the_node_stops_it() -> None:
    world = World()
    world.members = {"pve1": True, "pve2": True, "pve3": True}
    assert "sees pve2 as a member" in run(world).error
    assert world.did("force_off") == []


def test_a_witness_that_does_not_receive_our_epoch_is_frozen_and_does_not_count() -> None:
    world = World()
    world.seen_epochs = {"pve3": 1}
    assert "only 1 of 2 survivors" in run(world).error
    assert world.did("force_off") == []


def test_one_witness_of_two_is_too_few_and_the_only_survivor_is_enough() -> None:
    world = World()
    world.silent_shells = {"pve3"}
    assert "only 1 of 2" in run(world).error
    assert run(world, a_fence(survivors=("pve1",))).proof is not None


def test_another_leaders_epoch_stops_it() -> None:
    world = World()
    world.seen_epochs = {"pve3": 99}
    assert "epoch 99" in run(world).error
    assert world.did("force_off") == []


def test_votes_that_became_unsafe_stop_it() -> None:
    world = World()
    world.votes["pve3"] = node.Votes({"pve1": 1, "pve2": 1, "pve3": 1}, 0, 1, 3, frozenset())
    assert "votes" in run(world).error
    assert world.did("force_off") == []


def test_a_silent_survivor_is_passed_over_for_the_epoch() -> None:
    world = World()
    world.silent_shells = {"pve1"}
    assert run(world, a_fence(survivors=("pve1", "pve3", "pve4"))).epoch == 2
    assert world.did("begin") == ["begin pve1", "begin pve3"]


@pytest.mark.parametrize("lease", [4.0, 9.0])
def test_too_little_lease_sends_nothing(lease: float) -> None:
    world = World()
    world.lease = lease
    with pytest.raises(errors.NotLeader):
        run(world)
    assert world.did("begin") == world.did("force_off") == []


def test_a_lease_that_shrinks_while_witnesses_are_heard_sends_no_forced_off() -> None:
    world = World()
    world.lease = 14.0

    async def shrunk(with_: context.Context) -> operations.Outcome:
        asyncio.get_running_loop().call_soon(setattr, world, "lease", 9.0)
        return await fence.fence(a_fence(), with_)

    assert "of the lease" in perform(world, shrunk).error
    assert len(world.did("begin")) == 1
    assert world.did("force_off") == []


def test_a_renewal_that_is_late_is_waited_for() -> None:
    world = World()
    world.lease = 9.0

    async def renewed(with_: context.Context) -> operations.Outcome:
        asyncio.get_running_loop().call_later(2.0, setattr, world, "lease", 14.0)
        return await fence.fence(a_fence(), with_)

    outcome = perform(world, renewed)
    assert outcome.proof is not None
    assert outcome.commanded["bmc"] >= 2.0


def test_another_owner_is_not_acted_against() -> None:
    world = World()
    world.owner_elsewhere = "uid/other/dc1"
    with pytest.raises(errors.AnotherOwner):
        run(world)
    assert world.did("force_off") == []


OUTLETS = (a_method("a", timeout=30.0), a_method("b", timeout=30.0))


def outlets(world: World) -> World:
    """The survivors answer, as they do unless their own power was cut."""
    world.answering = {"pve1", "pve3"}
    return world


def test_all_methods_of_a_level_must_prove_it() -> None:
    world = outlets(World())
    outcome = run(world, a_fence(methods=OUTLETS))
    assert outcome.proof is not None
    assert outcome.proof.methods == OUTLETS
    assert sorted(world.did("force_off")) == ["force_off pve2/a", "force_off pve2/b"]


def test_one_of_two_outlets_that_stays_on_proves_nothing() -> None:
    world = outlets(World())
    world.powers["b"] = lambda at: ON
    outcome = run(world, a_fence(methods=OUTLETS))
    assert outcome.proof is None
    assert outcome.commanded.keys() == {"a", "b"}
    assert "30 s" in outcome.error


def test_the_proof_is_as_old_as_its_oldest_reading() -> None:
    world = outlets(World())
    world.powers["b"] = lambda at: ON if at < 10 else OFF
    outcome = run(world, a_fence(methods=OUTLETS))
    assert outcome.proof is not None
    assert outcome.proof.first_off_at >= 10
    assert outcome.proof.last_off_at < 5 < outcome.at


def test_outlets_after_which_a_survivor_is_silent_prove_nothing() -> None:
    world = outlets(World())

    async def story(with_: context.Context) -> operations.Outcome:
        loop = asyncio.get_running_loop()
        loop.call_later(2.0, world.silent_shells.add, "pve3")
        loop.call_later(2.0, world.answering.remove, "pve3")
        return await fence.fence(a_fence(methods=OUTLETS), with_)

    outcome = perform(world, story)
    assert "pve3 does not answer after the outlets of pve2 went off" in outcome.error
    assert outcome.commanded


def test_outlets_after_which_the_node_still_answers_prove_nothing() -> None:
    world = outlets(World())
    world.pve2_answers = True
    outcome = run(world, a_fence(methods=OUTLETS, node_answered=True))
    assert "pve2 answers although its outlets read off" in outcome.error


def test_a_bmc_of_another_level_that_reads_on_speaks_against_it() -> None:
    world = outlets(World())
    world.powers["bmc"] = lambda at: ON
    operation = a_fence(methods=OUTLETS, watchers=(a_method("bmc"),))
    assert "another BMC of pve2 reads On" in run(world, operation).error
    world.powers["bmc"] = lambda at: None
    assert run(world, operation).proof is not None


def test_what_was_sent_nothing_has_to_read_off_for_longer_than_a_power_cycle() -> None:
    world = outlets(World())
    world.force_off_sent = False
    outcome = run(world, a_fence(methods=OUTLETS))
    assert outcome.proof is not None
    assert outcome.proof.last_off_at - outcome.proof.first_off_at >= 12


def test_a_busy_device_is_told_again() -> None:
    world = World()
    world.force_off_errors = [errors.Busy("busy"), errors.Busy("busy")]
    outcome = run(world)
    assert outcome.proof is not None
    assert len(world.did("force_off")) in (2, 3)


def test_each_device_has_been_told_when_it_was_told_last() -> None:
    world = outlets(World())
    world.force_off_errors = [errors.Busy("busy")]
    outcome = run(world, a_fence(methods=OUTLETS))
    first, second = sorted(outcome.commanded.values())
    assert second - first >= 0.5


def test_before_a_busy_device_is_told_again_the_survivors_are_asked_again() -> None:
    world = World()
    world.force_off_errors = [errors.Busy("busy")] * 9

    async def story(with_: context.Context) -> operations.Outcome:
        asyncio.get_running_loop().call_later(1.2, world.silent_shells.update, {"pve1", "pve3"})
        return await fence.fence(a_fence(), with_)

    outcome = perform(world, story)
    assert "only 0 of 2 survivors" in outcome.error
    assert len(world.did("force_off")) in (2, 3)


@pytest.mark.parametrize(
    ("problem", "may_land"),
    [(errors.Unreachable("no answer"), True), (errors.Refused("no"), False), (errors.Busy("busy"), True)],
)
def test_an_off_nobody_acknowledged_may_still_land(problem: Exception, may_land: bool) -> None:
    world = World()
    world.force_off_error = problem
    outcome = run(world)
    assert (outcome.proof, outcome.may_land) == (None, may_land)
    assert outcome.commanded.keys() == ({"bmc"} if may_land else set())


def test_an_agent_that_takes_long_is_given_up_with_the_lease() -> None:
    world = outlets(World())
    world.hang = {"force_off"}

    async def story(with_: context.Context) -> operations.Outcome:
        asyncio.get_running_loop().call_later(6.0, setattr, world, "lease", 4.0)
        return await fence.fence(a_fence(methods=OUTLETS), with_)

    outcome = perform(world, story)
    assert "not renewed" in outcome.error
    assert outcome.may_land
    assert outcome.at < 7


PERSON = a_method("person", manual=True)


def test_a_persons_word_needs_witnesses_and_silence_but_no_device() -> None:
    world = World()
    outcome = run(world, a_fence(methods=(PERSON,)))
    assert outcome.proof is not None
    assert world.did("force_off") == world.did("read") == []
    world.members = {"pve1": True, "pve2": True, "pve3": True}
    assert "sees pve2 as a member" in run(world, a_fence(methods=(PERSON,))).error


def test_a_persons_word_is_nothing_against_an_answer_of_the_node() -> None:
    world = World()
    world.pve2_answers = True
    outcome = run(world, a_fence(methods=(PERSON,), node_answered=True))
    assert "not off as was confirmed" in outcome.error


def test_a_twin_that_is_a_member_again_stops_it() -> None:
    world = World()
    assert "sees pve1 as a member" in run(world, a_fence(also=("pve1",))).error
    assert world.did("force_off") == []
