"""A takeover: each refusal, failures that keep no other guest from running, cancellation at every step."""

import asyncio
import dataclasses
from typing import Any

import pytest

from act_fakes import VM, World, a_takeover, an_item, perform, process
from pveha.act import context, takeover, turns
from pveha.api.conditions import FailoverReady
from pveha.model import cluster, errors, guests, mark, operations, power, replication
from pveha.sim import clock

STARTED, STOPPED, IGNORED = cluster.HAState.STARTED, cluster.HAState.STOPPED, cluster.HAState.IGNORED


def world(**resources: cluster.HAResource) -> World:
    made = World()
    registered = an_item().registered
    assert registered is not None
    made.resources = {"vm:102": registered}
    return made


def run(on: World, operation: operations.Takeover | None = None) -> dict[int, operations.GuestResult]:
    wanted = operation or a_takeover()
    outcome = perform(on, lambda with_: takeover.take_over(wanted, with_))
    return {result.ref.vmid: result for result in outcome.guests}


def test_disown_leaves_a_mark_beside_the_owners_text_then_claim_then_start() -> None:
    on = world()
    result = run(on)[102]
    assert result.reason == "Running"
    written = on.resources["vm:102"]
    assert mark.parse(written.comment) == mark.Comment("of the shop", mark=mark.Mark(STARTED, "t1.0", 1))
    assert (written.state, written.failback) == (IGNORED, False)
    order = [call.split()[0] for call in on.calls if call.split()[0] in ("update", "claim", "start")]
    assert order == ["update", "claim", "start"]


def test_a_guest_that_was_stopped_is_moved_and_not_started() -> None:
    on = world()
    on.resources["vm:102"] = dataclasses.replace(on.resources["vm:102"], state=STOPPED)
    item = an_item(was=STOPPED, registered=on.resources["vm:102"])
    assert run(on, a_takeover(item))[102].reason == "Claimed"
    assert on.did("start") == []


def test_a_guest_that_waits_is_claimed_and_not_started() -> None:
    on = world()
    result = run(on, a_takeover(an_item(waits="waits for db to be ready")))[102]
    assert (result.reason, result.message) == ("Waiting", "waits for db to be ready")
    assert mark.parse(on.resources["vm:102"].comment).mark == mark.Mark(STARTED, "t1.0", 1)
    assert len(on.did("claim")) == 1
    assert on.did("start") == []


def test_a_guest_without_entry_gets_an_owned_one() -> None:
    on = world()
    on.resources = {}
    assert run(on, a_takeover(an_item(registered=None)))[102].reason == "Running"
    comment = mark.parse(on.resources["vm:102"].comment)
    assert (comment.owner, comment.mark) == ("me", mark.Mark(STARTED, "t1.0", 1))


FROM_REPLICA = operations.Replica(recovery_point=1000.0, lost_seconds=60.0)


def test_the_replication_job_is_disabled_before_a_guest_is_disowned_and_claimed() -> None:
    on = world()
    on.jobs = [replication.Job("102-0", 102, a_takeover().target)]
    assert run(on, a_takeover(an_item(replica=FROM_REPLICA)))[102].reason == "Running"
    order = [call.split()[0] for call in on.calls if call.split()[0] in ("hold", "update", "claim", "start")]
    assert order == ["hold", "update", "claim", "start"]
    assert on.jobs[0].hold == replication.Hold(a_takeover().failure)


@pytest.mark.parametrize("call", ["jobs", "hold"])
def test_a_guest_whose_replication_cannot_be_disabled_is_left_alone(call: str) -> None:
    on = world()
    on.jobs = [replication.Job("102-0", 102, a_takeover().target)]
    on.errors[call] = errors.Forbidden("VM.Replicate")
    result = run(on, a_takeover(an_item(replica=FROM_REPLICA)))[102]
    assert (result.reason, "VM.Replicate" in result.message) == (FailoverReady.REPLICATION_NOT_HELD, True)
    assert on.did("update") == on.did("claim") == []


@pytest.mark.parametrize("state", [power.PowerState.ON, power.PowerState.CHANGING])
def test_power_that_is_back_stops_everything(state: power.PowerState) -> None:
    on = world()
    on.power = lambda at: state
    with pytest.raises(errors.Refused, match="powered on"):
        run(on)
    assert on.did("update") == []


def test_another_machines_bmc_stops_everything() -> None:
    on = world()
    on.identity = frozenset({"x"})
    with pytest.raises(errors.Refused, match="another machine"):
        run(on)
    assert on.did("update") == []


def test_a_reading_older_than_ten_seconds_is_taken_again_before_the_claim() -> None:
    on = world()
    late = an_item()

    async def slow(sid: str) -> None:
        await asyncio.sleep(0)

    on.power = lambda at: power.PowerState.OFF if at < 0.5 else power.PowerState.ON
    original = on.ha_config

    async def delayed() -> cluster.HAConfig:
        await asyncio.sleep(6)
        return await original()

    on.ha_config = delayed  # type: ignore[method-assign]
    assert run(on, a_takeover(late))[102].reason == "Refused"
    assert on.did("claim") == []


@pytest.mark.parametrize(
    "changed",
    [
        {"state": STOPPED},
        {"state": cluster.HAState.DISABLED},
        {"comment": "[pveha op=t0.9 epoch=1 was=started]"},
    ],
)
def test_what_somebody_changed_meanwhile_is_left_to_him(changed: dict[str, object]) -> None:
    on = world()
    before = dataclasses.replace(on.resources["vm:102"], **changed)  # type: ignore[arg-type]
    on.resources["vm:102"] = before
    assert run(on)[102].reason == FailoverReady.BUSY
    assert on.resources["vm:102"] == before


@pytest.mark.parametrize("state", [STOPPED, cluster.HAState.DISABLED])
def test_what_somebody_changes_in_the_very_moment_of_disowning_is_left_to_him(state: cluster.HAState) -> None:
    on = world()

    def meddle(sid: str) -> None:
        on.resources[sid] = dataclasses.replace(on.resources[sid], state=state)
        on.digest += 1

    on.before_write = meddle
    assert run(on)[102].reason == FailoverReady.BUSY
    assert on.resources["vm:102"].state is state
    assert on.did("claim") == on.did("start") == []


def test_a_change_of_another_resource_in_the_moment_of_disowning_only_takes_another_try() -> None:
    on = world()
    changes = iter([True])

    def meddle(sid: str) -> None:
        on.digest += next(changes, False)

    on.before_write = meddle
    assert run(on)[102].reason == "Running"
    assert len(on.did("update")) == 2


def test_a_comment_without_room_is_not_shortened() -> None:
    on = world()
    full = dataclasses.replace(on.resources["vm:102"], comment="x" * 4090)
    on.resources["vm:102"] = full
    result = run(on, a_takeover(an_item(registered=full)))[102]
    assert "room" in result.message
    assert on.resources["vm:102"] == full


def test_what_does_not_read_back_as_ours_is_not_claimed() -> None:
    on = world()
    on.errors["update"] = errors.Unreachable("lost")
    assert run(on)[102].reason == FailoverReady.BUSY
    assert on.did("claim") == []


@pytest.mark.parametrize("reason", ["StaleEpoch", "NodeOnline", "NotDisowned", "TargetExists", "LockHeld"])
def test_a_declined_claim_starts_nothing(reason: str) -> None:
    on = world()
    on.claims[102] = reason
    assert run(on)[102].reason == reason
    assert on.did("start") == []


@pytest.mark.parametrize(
    ("problem", "may_land"),
    [
        (errors.Unreachable("no answer within 5 s"), True),
        (errors.BadAnswer("answered nothing"), True),
        (errors.Refused("another owner"), False),
    ],
)
def test_a_claim_that_nobody_answered_may_land(problem: Exception, may_land: bool) -> None:
    on = world()

    async def unheard(*_: Any, **__: Any) -> Any:
        raise problem

    on.claim = unheard  # type: ignore[method-assign]
    assert run(on)[102].may_land is may_land


def test_one_guest_that_fails_keeps_no_other_from_running() -> None:
    on = world()
    other = guests.GuestRef(103, guests.GuestKind.VM)
    entry = cluster.HAResource("vm:103")
    on.resources["vm:103"] = entry
    on.claims[102] = "SourceGone"
    item = dataclasses.replace(an_item(), ref=other, registered=entry, entry=entry)
    results = run(on, a_takeover(an_item(), item))
    assert {vmid: result.reason for vmid, result in results.items()} == {102: "SourceGone", 103: "Running"}


@pytest.mark.parametrize("where", ["pve1", "pve3"])
def test_a_running_process_on_a_survivor_is_a_suspected_duplicate(where: str) -> None:
    for lock in (None, "migrate"):
        on = world()
        on.processes_on[where] = (process("running"),)
        assert run(on, a_takeover(an_item(lock=lock)))[102].reason == FailoverReady.DUPLICATE_SUSPECTED
        assert on.did("update") == on.did("kill") == on.did("start") == []


def test_what_runs_where_its_file_is_already_is_the_guest_itself() -> None:
    on = world()
    on.processes_on["pve1"] = (process("running"),)
    assert run(on, a_takeover(an_item(here=True)))[102].reason == "Running"
    assert on.did("start") == []
    on = world()
    on.processes_on["pve3"] = (process("running"),)
    assert run(on, a_takeover(an_item(here=True)))[102].reason == FailoverReady.DUPLICATE_SUSPECTED


@pytest.mark.parametrize("state", ["inmigrate", "postmigrate", "paused", "prelaunch"])
def test_what_a_migration_left_is_ended_only_under_its_lock(state: str) -> None:
    on = world()
    on.processes_on["pve3"] = (process(state),)
    assert run(on, a_takeover(an_item(lock="migrate")))[102].reason == "Running"
    assert on.did("kill") == ["kill pve3 qemu/102"]
    on = world()
    on.processes_on["pve3"] = (process(state),)
    assert run(on)[102].reason == FailoverReady.DUPLICATE_SUSPECTED
    assert on.did("kill") == []


def test_a_kill_that_fails_blocks_its_guest_only() -> None:
    on = world()
    on.processes_on["pve3"] = (process("paused"),)
    on.errors["kill"] = errors.Unreachable("gone")
    result = run(on, a_takeover(an_item(lock="migrate")))[102]
    assert result.reason == FailoverReady.NODE_SHELL_UNREACHABLE
    assert on.did("start") == []


@pytest.mark.parametrize(
    ("item", "blocked"),
    [
        (an_item(), False),
        (an_item(lock="backup"), True),
        (an_item(last_seen=frozenset({"pve4"})), True),
        (an_item(last_seen=frozenset({"pve3"})), False),
        (an_item(last_seen=frozenset({"pve9"})), True),
    ],
)
def test_a_survivor_that_does_not_tell_blocks_what_may_run_there(
    item: operations.TakeoverItem, blocked: bool
) -> None:
    on = world()
    on.silent_shells = {"pve4"}
    result = run(on, a_takeover(item, survivors=("pve1", "pve3", "pve4")))[102]
    assert (result.reason == FailoverReady.NODE_SHELL_UNREACHABLE) is blocked


def test_a_claimed_guest_that_runs_already_is_only_looked_at() -> None:
    on = world()
    on.processes_on["pve1"] = (process("running"),)
    assert run(on, a_takeover(an_item(claimed=True), dead=""))[102].reason == "Running"
    assert on.did("start") == on.did("read") == []


def test_a_process_older_than_our_start_is_no_success() -> None:
    on = world()
    on.uptime_before = 500.0
    assert run(on)[102].reason == "StartFailed"


def test_a_start_task_that_fails_is_told() -> None:
    on = world()
    on.start_exit = "storage 'x' is not online"
    result = run(on)[102]
    assert result.reason == "StartFailed"
    assert "not online" in result.message


def test_a_container_runs_when_its_init_lives() -> None:
    ref = guests.GuestRef(102, guests.GuestKind.CONTAINER)
    entry = cluster.HAResource("ct:102")
    on = World()
    on.resources = {"ct:102": entry}
    item = an_item(ref=ref, registered=entry, entry=entry)

    async def story(with_: context.Context) -> operations.Outcome:
        asyncio.get_running_loop().call_later(
            5, on.processes_on.update, {"pve1": (process("running", guests.GuestKind.CONTAINER),)}
        )
        return await takeover.take_over(a_takeover(item), with_)

    outcome = perform(on, story)
    assert outcome.guests[0].reason == "Running"
    assert outcome.at > 5


def test_too_little_lease_changes_nothing() -> None:
    on = world()
    on.lease = 3.0
    assert run(on)[102].reason == FailoverReady.BUSY
    assert on.did("update") == on.did("claim") == on.did("start") == []


@pytest.mark.parametrize("step", ["processes", "update", "claim", "start", "runtime"])
def test_a_takeover_cancelled_at_any_step_can_be_done_again(step: str) -> None:
    on = world()
    on.hang = {step}

    async def story() -> operations.Outcome:
        ports: Any = on
        with_ = context.Context(ports, ports, ports, ports, turns.Turns(4), lambda text: None)
        task = asyncio.create_task(takeover.take_over(a_takeover(), with_))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left
        on.hang = set()
        registered = on.resources["vm:102"]
        return await takeover.take_over(a_takeover(an_item(registered=registered), id="t1.1"), with_)

    outcome = clock.run(story())
    assert [(each.ref, each.reason) for each in outcome.guests] == [(VM, "Running")]
    found = mark.parse(on.resources["vm:102"].comment)
    assert found == mark.Comment("of the shop", mark=mark.Mark(STARTED, "t1.1", 1))
