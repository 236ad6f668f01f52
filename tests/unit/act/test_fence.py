"""A fence proves, or says why it could not; nothing is switched off against any doubt (S1, S2, S5, S6)."""

import asyncio

import pytest

from act_fakes import World, a_fence, perform
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
    assert outcome.proof.first_off_at >= outcome.proof.commanded_at
    assert world.did("force_off") == ["force_off pve2"]


def test_an_earlier_read_of_off_counts_and_the_command_is_sent_all_the_same() -> None:
    world = World()
    outcome = run(world, a_fence(off_since=-5.0))
    assert outcome.proof is not None
    assert outcome.proof.last_off_at > outcome.proof.commanded_at
    assert outcome.at < 2.0
    assert world.did("force_off")


def test_power_in_between_begins_the_row_anew() -> None:
    world = World()
    world.power = lambda at: ON if at < 0.3 or 1.0 < at < 1.8 else OFF
    outcome = run(world, a_fence(off_since=-5.0))
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
    assert outcome.commanded_at is not None


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
    assert (outcome.proof, outcome.commanded_at) == (None, None)
    assert outcome.error == "no answer"


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
    assert outcome.commanded_at is not None
    assert outcome.commanded_at >= 2.0


def test_another_owner_is_not_acted_against() -> None:
    world = World()
    world.owner_elsewhere = "uid/other/dc1"
    with pytest.raises(errors.AnotherOwner):
        run(world)
    assert world.did("force_off") == []
