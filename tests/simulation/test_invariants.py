"""Each invariant can fail: the world is brought to break it, by hand."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

import pytest

from pveha.model import cluster, guests, mark, replication
from pveha.nodeshell import pveha_node
from pveha.sim import chaos, clock, config, copies, invariants, rig, simulation, upgrades, wires

Break = Callable[[rig.Rig], Awaitable[None]]


def broken(break_it: Break, running: bool = True) -> dict[str, str]:
    """What is violated, by rule, once a quiet cluster has been broken."""

    async def story() -> dict[str, str]:
        found = [config.managed(101, "pve1"), config.managed(102, "pve2"), config.managed(103, "pve3")]
        on = rig.Rig(config.three_nodes(found, master="pve1"), protect=(101, 102, 103))
        watching = invariants.Invariants(on)
        on.world.start()
        if running:
            on.start_operator()
        await on.settle(40.0)
        await break_it(on)
        await on.kill_operator()
        return {violation.rule: violation.text for violation in watching.violations}

    return clock.run(story())


def send(on: rig.Rig, verb: str, subject: str, **fields: object) -> None:
    on.sending(wires.Effect("a", verb, subject, **fields))  # type: ignore[arg-type]


def test_a_quiet_cluster_violates_nothing() -> None:
    async def nothing(on: rig.Rig) -> None:
        await asyncio.sleep(60.0)

    assert broken(nothing) == {}


def test_two_processes_that_write() -> None:
    async def copy(on: rig.Rig) -> None:
        on.world.guests.create(on.world.machines["pve3"], on.world.guest_file(101))

    assert broken(copy) == {"one writer": "guest 101 writes from pve1 and pve3"}


def test_a_healthy_member_is_fenced() -> None:
    async def fence(on: rig.Rig) -> None:
        send(on, "force_off", "pve2")

    assert "no live node is fenced" in broken(fence)


def test_a_member_loses_its_power_with_another_node_of_its_chassis() -> None:
    async def story() -> str:
        names = [config.Node(f"pve{number}", chassis="c1" if number < 3 else "") for number in range(1, 5)]
        about = dataclasses.replace(config.three_nodes([], master="pve4"), nodes=tuple(names))
        on = rig.Rig(about, operators=("a",))
        watching = invariants.Invariants(on)
        on.world.start()
        on.apply("power off pve1")
        await asyncio.sleep(40.0)
        send(on, "force_off", "pve1", method="bmc")
        return "\n".join(map(str, watching.violations))

    assert "no live node is fenced: with pve1 a member, pve2, is switched off" in clock.run(story())


def test_native_ha_is_not_alone_where_it_is_to_be() -> None:
    async def story() -> set[str]:
        recovery = {"engine": "Native", "nodeShell": {"credentialsSecretRef": {"name": "ssh"}}}
        found = [config.managed(101, "pve1")]
        on = rig.Rig(config.three_nodes(found, master="pve1"), {"recovery": recovery}, protect=(101,))
        watching = invariants.Invariants(on)
        on.world.start()
        on.start_operator()
        await on.settle(40.0)
        send(on, "force_off", "pve2")
        send(on, "claim", "pve2", vmids=(101,))
        marked = mark.Comment(mark=mark.Mark(op="t1.0", epoch=1, was=cluster.HAState.STARTED))
        send(on, "update_ha", "vm:101", resource=cluster.HAResource("vm:101", comment=str(marked)))
        await on.kill_operator()
        return {each.text for each in watching.violations if each.rule == "native is left alone"}

    told = "\n".join(sorted(clock.run(story())))
    for part in ("(101,) are claimed from pve2", "pve2 is switched off", "vm:101 is disowned"):
        assert part in told


def test_the_entry_of_a_protected_guest_or_of_somebody_else_is_removed() -> None:
    async def remove(on: rig.Rig) -> None:
        send(on, "delete_ha", "vm:101")

    assert broken(remove) == {
        "what is not ours stays": "vm:101 is removed, which pveha has not made",
        "protected stays registered": "vm:101 is removed, protected since 0.5",
    }


def test_an_ha_rule_of_somebody_is_changed() -> None:
    async def change(on: rig.Rig) -> None:
        on.world.set_rule(cluster.HARule("home", cluster.NODE_AFFINITY, frozenset({"vm:101"}), {"pve1": 0}))
        send(on, "update_rule", "home")

    assert broken(change) == {"foreign rules are never changed": "HA rule home, which pveha has not made"}


def test_a_node_that_said_it_would_go_is_fenced() -> None:
    async def fence(on: rig.Rig) -> None:
        on.world.shutdown("pve2")
        await asyncio.sleep(60.0)
        send(on, "force_off", "pve2")

    assert set(broken(fence)) == {"planned is not dead"}


def test_something_is_begun_without_quorum() -> None:
    async def fence(on: rig.Rig) -> None:
        on.world.partition(("pve1",), ("pve2",), ("pve3",))
        await asyncio.sleep(15.0)
        send(on, "force_off", "pve2")

    assert set(broken(fence)) == {"nothing without quorum"}


def test_something_is_begun_beyond_the_blast_radius() -> None:
    async def story() -> list[str]:
        found = [config.managed(101, "pve1")]
        names = [f"pve{number}" for number in range(1, 6)]
        about = dataclasses.replace(
            config.three_nodes(found, master="pve1"), nodes=tuple(map(config.Node, names))
        )
        on = rig.Rig(about, protect=(101,))
        watching = invariants.Invariants(on)
        on.world.start()
        on.world.power_off("pve4")
        on.world.power_off("pve5")
        await asyncio.sleep(40.0)
        send(on, "force_off", "pve5")
        return [violation.rule for violation in watching.violations]

    assert clock.run(story()) == ["blast radius"]


@pytest.mark.parametrize("line", ["pause", "mode Observe"])
def test_something_is_begun_against_its_users_will(line: str) -> None:
    async def fence(on: rig.Rig) -> None:
        on.world.cut_network("pve2")
        on.apply(line)
        await asyncio.sleep(25.0)
        send(on, "force_off", "pve2")

    assert "no new operation" in broken(fence)


@pytest.mark.parametrize("marked_then", [True, False])
def test_a_mark_is_renewed_or_new_by_what_the_quorate_nodes_have(marked_then: bool) -> None:
    """Seed 80001419: lowered votes let a node go on from an old state, in which the guest was marked. Those
    that are off know that it was given back since, and nobody can read that."""

    async def mark_anew(on: rig.Rig) -> None:
        plain = on.world.newest.resources["vm:102"]
        ours = mark.Comment(mark=mark.Mark(cluster.HAState.STARTED, op="t1.0", epoch=1))
        marked = dataclasses.replace(plain, state=cluster.HAState.IGNORED, comment=str(ours))
        on.world.set_ha(marked if marked_then else plain)
        on.world.power_off("pve3")
        await asyncio.sleep(20.0)
        on.world.set_ha(plain if marked_then else marked)
        on.apply("pause")
        for line in ("power off pve1", "power off pve2", "power on pve3", "expected votes 1"):
            on.apply(line)
        await asyncio.sleep(60.0)
        send(on, "update_ha", "vm:102", resource=marked)

    assert ("no new operation" in broken(mark_anew, running=False)) is not marked_then


def test_somebody_acts_without_the_lease() -> None:
    async def act(on: rig.Rig) -> None:
        on.apply("take lease")
        send(on, "begin", "pve1")

    assert set(broken(act)) == {"nothing without the Lease"}


def test_a_guest_that_was_stopped_is_started() -> None:
    async def start(on: rig.Rig) -> None:
        ours = mark.Comment(mark=mark.Mark(cluster.HAState.STOPPED, op="t1.0", epoch=1))
        on.world.set_ha(cluster.HAResource("vm:102", cluster.HAState.IGNORED, str(ours)))
        send(on, "start", "pve2", vmids=(102,))

    assert "what was stopped stays stopped" in broken(start)


def test_a_running_guest_is_moved_by_an_old_epoch_and_without_a_mark() -> None:
    async def claim(on: rig.Rig) -> None:
        file = on.world.guest_file(102)
        target = file.path.replace("pve2", "pve3")
        on.world.fs.rename("pve3", file.path, target, "pveha-node claim --epoch 0 --op t1.0")

    assert set(broken(claim)) >= {"rename only while off", "epoch at effect", "disowned before moved"}


def test_a_guest_is_given_back_that_the_crm_has_elsewhere() -> None:
    async def give_back(on: rig.Rig) -> None:
        ours = mark.Comment(mark=mark.Mark(cluster.HAState.STARTED, op="t1.0", epoch=1))
        before = on.world.newest.resources["vm:102"]
        on.world.set_ha(dataclasses.replace(before, state=cluster.HAState.IGNORED, comment=str(ours)))
        file = on.world.guest_file(102)
        on.world.fs.rename("pve3", file.path, file.path.replace("pve2", "pve3"), "pveha-node claim")
        on.world.set_ha(before)

    assert "dropped before given back" in broken(give_back)


@pytest.mark.parametrize("verb", ["migrate", "claim"])
def test_a_guest_is_sent_to_a_node_that_takes_none(verb: str) -> None:
    async def send_it(on: rig.Rig) -> None:
        on.apply("availability pve3 Pause")
        on.apply("availability pve2 Drain")
        await asyncio.sleep(invariants.FORBIDDEN_SECONDS + 1)
        on.sending(wires.Effect("a", verb, "pve3", vmids=(102,), on="pve3"))

    assert set(broken(send_it, running=False)) >= {"kept away"}


def test_a_guest_is_taken_over_by_a_node_whose_node_shell_speaks_another_protocol() -> None:
    async def send_it(on: rig.Rig) -> None:
        on.apply("upgrade node shell pve3")
        await asyncio.sleep(upgrades.HEARD_SECONDS + 1)
        on.sending(wires.Effect("a", "claim", "pve2", vmids=(102,), on="pve3"))

    assert "kept away" in broken(send_it, running=False)


def test_a_guest_of_a_node_that_is_not_drained_is_moved() -> None:
    async def send_it(on: rig.Rig) -> None:
        send(on, "migrate", "pve3", vmids=(102,))

    assert "only what is drained moves" in broken(send_it)


@pytest.mark.parametrize("comment", ["", "[pveha preempted=vm:102]"])
def test_a_guest_is_stopped_that_does_not_allow_it(comment: str) -> None:
    async def stop(on: rig.Rig) -> None:
        await asyncio.sleep(60.0)
        present = on.world.newest.resources["vm:101"]
        text = f"{present.comment} {comment}".strip()
        stopped = dataclasses.replace(present, state=cluster.HAState.STOPPED, comment=text)
        send(on, "update_ha", "vm:101", resource=stopped)

    assert set(broken(stop)) == {"nobody is stopped against his will"}


def test_a_guest_goes_down_for_a_drain() -> None:
    async def drain(on: rig.Rig) -> None:
        on.apply("availability pve2 Drain")
        on.world.set_service("pve2", "pve-ha-lrm", "hung")
        await asyncio.sleep(invariants.STEADY_SECONDS + 1)
        send(on, "migrate", "pve3", vmids=(102,))
        on.world.kill_guest(102, "pve2")
        await asyncio.sleep(invariants.MOST_DOWN_SECONDS + 1)

    assert "no guest is down for a drain" in broken(drain, running=False)


@pytest.mark.parametrize(
    ("state", "times", "lives"), [("started", 1, False), ("ignored", 1, True), ("ignored", 2, False)]
)
def test_native_ha_dies(state: str, times: int, lives: bool) -> None:
    """Once it may, in a round that began before the guest was disowned."""

    async def die(on: rig.Rig) -> None:
        await on.kill_operator()
        on.apply(f"set vm:102 {state}")
        for again in ("", " once more")[:times]:
            on.world.say("crm pve1", f"got unexpected error{again} - recover vm:102: unable to steal config")
            on.world.changed()

    assert ("the CRM lives" not in broken(die)) is lives


def test_native_ha_dies_of_what_a_person_has_moved() -> None:
    async def die(on: rig.Rig) -> None:
        on.world.move_config(102, "pve3", "pve3")
        on.world.say("crm pve1", "got unexpected error once more - recover vm:102: unable to steal config")
        on.world.changed()

    assert "the CRM lives" not in broken(die)


def test_a_mark_that_nobody_undoes(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no operator, and the timer does nothing, though it could."""
    monkeypatch.setattr(pveha_node, "repair", lambda system: [])

    async def leave(on: rig.Rig) -> None:
        ours = mark.Comment(mark=mark.Mark(cluster.HAState.STARTED, op="t1.0", epoch=1))
        await asyncio.sleep(310.0)
        on.world.set_ha(cluster.HAResource("vm:102", cluster.HAState.IGNORED, str(ours)))
        for _ in range(32):
            await asyncio.sleep(10.0)
            on.world.changed()

    assert set(broken(leave, running=False)) == {"undone"}


def play(*lines: tuple[float, str], calm_at: float, unmanaged: int = 0) -> simulation.Result:
    """Without any operator: people and native HA alone."""
    found = [config.managed(101, "pve1"), config.managed(102, "pve2"), config.managed(103, "pve3")]
    found = [dataclasses.replace(each, ha=None) if each.vmid == unmanaged else each for each in found]
    about = config.three_nodes(found, master="pve1")
    calm = chaos.mended(about, "", ())
    plan = chaos.Plan(0, about, (), (), (chaos.Fault("by hand", lines),), calm_at, calm)
    return simulation.play(plan)


def rules(result: simulation.Result) -> set[str]:
    return {violation.rule for violation in result.violations}


def test_a_copy_that_a_person_makes_by_moving_the_file_is_his() -> None:
    result = play(
        (60.0, "set vm:101 ignored"),
        (80.0, "move config 101 pve2 by pve2"),
        (81.0, "start guest 101"),
        calm_at=120.0,
    )
    assert result.copies_of_others == {101: copies.PERSON}
    assert "one writer" not in rules(result)


@pytest.mark.parametrize("recovered_by", ["crm", "pveha-node claim --epoch 0 --op t1.0"])
def test_a_persons_copy_stays_his_when_native_ha_recovers_the_other_one(recovered_by: str) -> None:
    """But pveha looks for processes before it takes a guest over (S17)."""

    async def story() -> tuple[dict[int, str], list[str]]:
        found = [config.managed(101, "pve1"), dataclasses.replace(config.managed(102, "pve2"), ha=None)]
        on = rig.Rig(config.three_nodes(found, master="pve1"), operators=())
        watching = invariants.Invariants(on)
        on.world.start()
        await on.settle(40.0)
        on.apply("move config 102 pve3 by pve3")
        on.apply("start guest 102")
        await asyncio.sleep(5.0)
        on.apply("power off pve3")
        await asyncio.sleep(20.0)
        watching.copies_of_others.clear()
        file = on.world.guest_file(102)
        target = file.path.replace("pve3", "pve1")
        on.world.fs.rename("pve1", file.path, target, recovered_by)
        on.world.guests.start("pve1", file.ref)
        await asyncio.sleep(5.0)
        return watching.copies_of_others, [each.rule for each in watching.violations]

    by_others, violated = clock.run(story())
    assert by_others == ({102: copies.PERSON} if recovered_by == "crm" else {})
    assert ("one writer" in violated) is (recovered_by != "crm")


def test_a_copy_that_native_ha_makes_because_votes_were_lowered_is_a_persons() -> None:
    result = play((60.0, "cut network pve2"), (62.0, "expected votes 1"), calm_at=400.0)
    assert set(result.copies_of_others.values()) == {copies.PERSON}
    assert "one writer" not in rules(result)


def test_copies_of_two_parts_that_lowered_votes_make_quorate_are_a_persons() -> None:
    result = play(
        (60.0, "power off pve1"),
        (60.1, "pause"),
        (62.0, "expected votes 1"),
        (62.1, "partition pve2 | pve3"),
        calm_at=500.0,
    )
    assert result.copies_of_others
    assert set(result.copies_of_others.values()) == {copies.PERSON}
    assert "one writer" not in rules(result)


def test_a_copy_that_native_ha_starts_where_lowered_votes_make_an_old_state_quorate_is_a_persons() -> None:
    """The node was reset and has booted alone: the votes are lowered long after its guest was moved away."""
    result = play((60.0, "cut network pve2"), (300.0, "expected votes 1"), calm_at=500.0)
    assert result.copies_of_others == {102: copies.PERSON}
    assert "one writer" not in rules(result)


@pytest.mark.parametrize(("touched_after", "is_pvehas"), [(-5.0, False), (5.0, True)])
def test_a_copy_where_lowered_votes_make_an_old_state_quorate_is_pvehas_if_it_has_touched_the_guest_since(
    touched_after: float, is_pvehas: bool
) -> None:
    async def story() -> set[str]:
        found = [config.managed(101, "pve1"), config.managed(102, "pve2"), config.managed(103, "pve3")]
        on = rig.Rig(config.three_nodes(found, master="pve1"), operators=())
        watching = invariants.Invariants(on)
        on.world.start()
        on.world.at(300.0 + touched_after, lambda: send(on, "start", "pve2", vmids=(102,)))
        for at, line in ((60.0, "cut network pve2"), (300.0, "expected votes 1")):
            await asyncio.sleep(at - on.world.now())
            on.apply(line)
        await asyncio.sleep(180.0)
        assert on.world.double_runs == 1
        return {violation.text for violation in watching.violations if violation.rule == "one writer"}

    assert bool(clock.run(story())) is is_pvehas


def test_a_copy_that_native_ha_makes_where_no_watchdog_resets_is_its_own() -> None:
    result = play((60.0, "cut network pve2"), (90.0, "register vm:102"), calm_at=400.0, unmanaged=102)
    assert result.copies_of_others == {102: copies.NATIVE}
    assert "one writer" not in rules(result)


def test_a_copy_of_what_pveha_gave_to_native_ha_above_an_idle_lrm_is_pvehas() -> None:
    async def story() -> dict[str, str]:
        found = [config.managed(101, "pve1"), dataclasses.replace(config.managed(102, "pve2"), ha=None)]
        on = rig.Rig(config.three_nodes(found, master="pve1"), operators=())
        watching = invariants.Invariants(on)
        on.world.start()
        await on.settle(40.0)
        ours = mark.Comment(mark=mark.Mark(cluster.HAState.STARTED, op="t1.0", epoch=1))
        adopted = cluster.HAResource("vm:102", cluster.HAState.STARTED, str(ours))
        send(on, "update_ha", "vm:102", resource=adopted)
        on.world.set_ha(adopted)
        on.world.cut_network("pve2")
        await asyncio.sleep(250.0)
        return {violation.rule: violation.text for violation in watching.violations}

    assert "one writer" in clock.run(story())


def test_a_copy_of_what_pveha_moved_is_pvehas() -> None:
    """The same move, by the node shell: nobody else is to blame."""

    async def claim(on: rig.Rig) -> None:
        world, file = on.world, on.world.guest_file(102)
        target = file.path.replace("pve2", "pve3")
        world.fs.rename("pve3", file.path, target, "pveha-node claim --epoch 1 --op t1.0")
        world.guests.start("pve3", guests.GuestRef(102, guests.GuestKind.VM))
        await asyncio.sleep(5.0)

    assert "one writer" in broken(claim)


@pytest.mark.parametrize(("migrated", "decides"), [(True, {"vm:102"}), (False, set())])
def test_who_unlocks_a_guest_that_is_half_migrated_decides_about_what_is_left(
    migrated: bool, decides: set[str]
) -> None:
    """The source dies right after the file has moved: a paused process stays on the target."""
    found = [config.managed(101, "pve1"), config.managed(102, "pve2"), config.managed(103, "pve3")]
    about = config.three_nodes(found, master="pve1")
    broken_off = ((60.0, "when guest 102 moves and 0.1 s power off pve2"), (61.0, "migrate guest 102 pve3"))
    locked = ((60.0, "lock guest 102 migrate"),)
    lines = (*(broken_off if migrated else locked), (90.0, "unlock guest 102"))
    plan = chaos.Plan(0, about, (), (), (chaos.Fault("by hand", lines),), 95.0, chaos.mended(about, "", ()))
    run = simulation._Play(plan, True)
    clock.run(run.run())
    assert run._anyway == decides


def test_who_arms_ha_arms_it_again_if_the_crm_has_lost_the_command() -> None:
    """Its first round then dies of a file that somebody has moved by hand: the command is gone."""
    result = play(
        (60.0, "power off pve2"),
        (61.0, "disarm freeze"),
        (100.0, "move config 102 pve3 by pve3"),
        (110.0, "set vm:103 stopped"),
        calm_at=250.0,
    )
    assert any("unable to steal config" in line for line in result.log)
    assert sum("crm ha: armed" in line for line in result.log) > 1
    assert rules(result) == set()


def test_what_an_owner_writes_where_the_cluster_does_not_go_on_from_is_not_wanted_any_more() -> None:
    """Seed 70000271: votes that a person has lowered make a node quorate that the others have left behind. He
    disables a guest there, and the node then joins the others, which have gone on without it."""
    result = play(
        (60.0, "cut network pve1"),
        (90.0, "set vm:103 stopped"),
        (91.0, "crash guest 102 pve2"),
        (200.0, "expected votes 1"),
        (200.1, "set vm:102 disabled"),
        (200.2, "expected votes 0"),
        calm_at=210.0,
        unmanaged=101,
    )
    assert any("HA resource vm:102: disabled" in line for line in result.log)
    assert result.guests[102]["state"] == "running"
    assert result.guests[103]["state"] == "stopped"
    assert rules(result) == set()


def test_a_process_that_leads_again_begins_a_new_term() -> None:
    """It remembers nothing of what it saw before, so what it owes is counted anew."""

    async def story() -> None:
        on = rig.Rig(config.three_nodes([config.managed(101, "pve1")], master="pve1"), protect=(101,))
        on.world.start()
        on.start_operator()
        await on.settle(20.0)
        leader = on.leader()
        assert leader is not None
        before = leader.term
        on.apply("cut kubernetes a")
        await asyncio.sleep(30.0)
        on.apply("heal kubernetes a")
        await asyncio.sleep(30.0)
        assert on.leader() is leader
        assert leader.term is not before
        await on.kill_operator()

    clock.run(story())


def test_something_that_nobody_expected_goes_wrong() -> None:
    async def fail(on: rig.Rig) -> None:
        on.world.say("operator a", "BUG: a round failed: KeyError('pve9')")
        on.world.changed()

    assert set(broken(fail)) == {"no bugs"}


class Disturbed(simulation._Play):
    """A run without operators in which something goes on after everything has been mended."""

    def __init__(self, happens: Callable[[rig.Rig], object], after: float) -> None:
        about = config.three_nodes([config.managed(101, "pve1")], master="pve1")
        lines = ((60.0, "power off pve2"),)
        calm = chaos.mended(about, "", ())
        super().__init__(chaos.Plan(0, about, (), (), (chaos.Fault("by hand", lines),), 90.0, calm), True)
        self._happens, self._after = happens, after

    async def _settle(self) -> None:
        if self._after:
            self._again()
        else:
            self._happens(self._rig)
        await super()._settle()

    def _again(self) -> None:
        self._rig.world.later(self._after, self._happen)

    def _happen(self) -> None:
        self._happens(self._rig)
        self._again()


def test_a_settled_world_is_written_to() -> None:
    def write(on: rig.Rig) -> None:
        send(on, "status", "dc1")

    result = clock.run(Disturbed(write, 30.0).run())
    assert rules(result) == {"quiet is quiet"}
    assert rules(clock.run(Disturbed(write, 5000.0).run())) == set()


def test_a_guest_goes_to_and_fro() -> None:
    def move(on: rig.Rig) -> None:
        target = "pve3" if on.world.guest_file(101).node == "pve1" else "pve1"
        on.sending(wires.Effect("a", "migrate", target, vmids=(101,)))
        on.apply(f"migrate guest 101 {target}")

    found = rules(clock.run(Disturbed(move, 200.0).run()))
    assert found == {"nothing bounces", "only what is drained moves"}


def _stop(on: rig.Rig) -> None:
    """Nobody has wished it."""
    present = on.world.newest.resources["vm:101"]
    on.world.set_ha(dataclasses.replace(present, state=cluster.HAState.STOPPED))


def test_what_came_right_does_not_stay_so() -> None:
    assert rules(clock.run(Disturbed(_stop, simulation.SLOW_SECONDS / 2).run())) == {"stays right"}


def test_what_never_comes_right() -> None:
    assert rules(clock.run(Disturbed(_stop, 0.0).run())) == {"comes right"}


@pytest.mark.parametrize(
    ("state", "moved", "problem"),
    [("paused", "", False), ("running", "", True), ("paused", "pveha-node claim --epoch 1 --op t1.0", True)],
)
def test_a_process_elsewhere_is_excused_only_if_a_migration_left_it_and_pveha_came_before(
    state: str, moved: str, problem: bool
) -> None:
    async def story() -> list[str]:
        on = rig.Rig(config.three_nodes([config.managed(101, "pve1")], master="pve1"), operators=())
        watching = invariants.Invariants(on)
        on.world.start()
        await on.settle(10.0)
        file = on.world.guest_file(101)
        on.world.guests.create(on.world.machines["pve3"], file, state)
        await asyncio.sleep(5.0)
        if moved:
            target = file.path.replace("pve1", "pve2")
            on.world.guests.end(on.world.machines["pve1"].processes[101], "moved")
            on.world.fs.rename("pve2", file.path, target, moved)
            on.world.guests.create(on.world.machines["pve2"], on.world.guest_file(101))
        wanted = {"vm:101": on.world.newest.resources["vm:101"]}
        return watching.at_end(dict(wanted), frozenset(), gone=True)

    assert bool(clock.run(story())) == problem


@pytest.mark.parametrize(
    ("moved", "problem"), [("crm", False), ("pveha-node claim --epoch 1 --op t1.0", True), ("", True)]
)
def test_what_runs_though_it_is_to_be_stopped_is_excused_only_where_native_ha_has_left_it(
    moved: str, problem: bool
) -> None:
    """From a node that no watchdog resets (seed 70000242)."""

    async def story() -> list[str]:
        guest = dataclasses.replace(config.managed(101, "pve2"), ha=None)
        on = rig.Rig(config.three_nodes([guest], master="pve1"), operators=())
        watching = invariants.Invariants(on)
        on.world.start()
        await on.settle(10.0)
        if moved:
            file = on.world.guest_file(101)
            on.world.fs.rename("pve1", file.path, file.path.replace("pve2", "pve1"), moved)
        resource = cluster.HAResource("vm:101", cluster.HAState.STOPPED)
        on.world.set_ha(resource)
        return watching.at_end({"vm:101": resource}, frozenset(), gone=True)

    assert bool(clock.run(story())) == problem


@pytest.mark.parametrize(
    ("off", "mode", "problem"), [(True, "disarm", False), (True, "active", True), (False, "active", True)]
)
def test_a_hold_may_last_for_a_node_that_went_as_announced_and_stays_off(
    off: bool, mode: str, problem: bool
) -> None:
    """Nobody fences it (S4), and native HA is not to have its guests meanwhile (S11; seed 95000270)."""

    async def story() -> list[str]:
        on = rig.Rig(config.three_nodes([config.managed(101, "pve2")], master="pve1"), operators=())
        watching = invariants.Invariants(on)
        on.world.start()
        await on.settle(10.0)
        owner = on.world.newest.resources["vm:101"]
        held = dataclasses.replace(
            owner, state=cluster.HAState.IGNORED, comment="[pveha hold=pve2 was=started]"
        )
        on.world.set_ha(held)
        if off:
            on.apply("power off pve2")
            await asyncio.sleep(10.0)
        lrms = on.world.newest.lrms
        lrms["pve2"] = dataclasses.replace(lrms["pve2"], mode=mode)
        return watching.at_end({"vm:101": owner}, frozenset(), gone=True)

    assert bool(clock.run(story())) is problem


@pytest.mark.parametrize("stuck", [False, True])
def test_who_was_stopped_for_another_may_wait_where_the_crm_holds_a_node_for_lost(stuck: bool) -> None:
    """Until a person ends that, as he is told (seed 70001064)."""

    async def story() -> list[str]:
        found = [config.managed(101, "pve1"), config.managed(102, "pve2"), config.managed(103, "pve3")]
        about = config.three_nodes(
            [dataclasses.replace(guest, memory=40 << 30) for guest in found], master="pve1"
        )
        on = rig.Rig(about, protect=(101, 102, 103))
        watching = invariants.Invariants(on)
        on.world.start()
        on.start_operator()
        await on.settle(40.0)
        owner = on.world.newest.resources["vm:101"]
        wanted = {"vm:101": dataclasses.replace(owner, comment=f"[pveha owner={rig.OWNER}]")}
        comment = str(mark.Comment(owner=rig.OWNER, preempted="vm:102"))
        on.world.set_ha(dataclasses.replace(owner, state=cluster.HAState.STOPPED, comment=comment))
        on.world.guests.create(on.world.machines["pve1"], on.world.guest_file(103))
        if stuck:
            on.world.newest.manager.node_status["pve2"] = "fence"
        await asyncio.sleep(200.0)
        problems = watching.at_end(dict(wanted), frozenset(), gone=False)
        await on.kill_operator()
        return [each for each in problems if each.startswith("vm:101")]

    assert bool(clock.run(story())) is not stuck


@pytest.mark.parametrize("engine", ["Fast", "Native"])
def test_a_guest_is_started_before_the_one_that_it_depends_on(engine: str) -> None:
    """With engine Native the order is nobody's: native HA knows none."""

    async def start(on: rig.Rig) -> None:
        on.edit("HACluster", rig.CLUSTER, lambda made: made["spec"]["recovery"].update(engine=engine))
        on.protect(101, dependsOn=[{"name": "vm102"}])
        on.protect(102)
        on.apply("power off pve2")
        await asyncio.sleep(40.0)
        comment = str(mark.Comment("").with_mark(mark.Mark(cluster.HAState.STARTED, op="t1.0", epoch=1)))
        resource = dataclasses.replace(
            on.world.newest.resources["vm:101"], state=cluster.HAState.IGNORED, comment=comment
        )
        on.world.set_ha(resource)
        send(on, "start", "pve1", vmids=(101,))

    assert ("restart order" in broken(start, running=False)) is (engine == "Fast")


def test_a_guest_is_taken_from_a_node_that_nobody_has_switched_off() -> None:
    async def claim(on: rig.Rig) -> None:
        on.sending(wires.Effect("a", "claim", "pve2", vmids=(102,), on="pve3"))

    assert "only what is proven off is left" in broken(claim, running=False)


@pytest.mark.parametrize(
    ("line", "objection"),
    [
        ("power off pve2", "although it is to stay off"),
        ("power off pve2", "although pveha has not switched it off"),
        ("shutdown pve2", "although it went down as announced"),
        ("swap bmcs pve2 pve3; power off pve2; power off pve3", "by a device of pve3, which is off"),
    ],
)
def test_a_node_is_switched_on_that_should_stay_off(line: str, objection: str) -> None:
    async def switch(on: rig.Rig) -> None:
        for each in line.split("; "):
            on.apply(each)
        await asyncio.sleep(60.0)
        send(on, "power_on", "pve2", method="bmc")

    assert objection in told(switch, {"action": "StayOff"})


@pytest.mark.parametrize(
    ("hasty", "objection"),
    [
        (20.0, "20.0 s after it went dark, not 60"),
        (90.0, "while vm:101 carries a mark"),
        (100.0, "while native HA recovers vm:102 from pve2"),
    ],
)
def test_a_node_is_switched_on_too_early(hasty: float, objection: str) -> None:
    async def switch(on: rig.Rig) -> None:
        on.apply("power off pve2")
        await asyncio.sleep(0.1)
        send(on, "force_off", "pve2", method="bmc")
        ours = mark.Comment(mark=mark.Mark(cluster.HAState.STARTED, op="t1.0", epoch=1))
        on.world.set_ha(cluster.HAResource("vm:101", cluster.HAState.IGNORED, str(ours)))
        if "native" in objection:
            on.apply("hang pve-ha-lrm pve1")
            on.apply("hang pve-ha-lrm pve3")
        await asyncio.sleep(hasty - 0.1)
        send(on, "power_on", "pve2", method="bmc")

    assert objection in told(switch, {"action": "PowerOn", "afterSeconds": 60})


def told(break_it: Break, afterwards: dict[str, object]) -> str:
    """What is violated where no operator runs, as text."""

    async def story() -> str:
        found = [config.managed(101, "pve1"), config.managed(102, "pve2"), config.managed(103, "pve3")]
        about = config.three_nodes(found, master="pve1")
        spec = {"fencing": {"methods": rig.devices(about), "afterwards": afterwards}}
        on = rig.Rig(about, spec)
        watching = invariants.Invariants(on)
        on.world.start()
        await on.settle(40.0)
        await break_it(on)
        return "\n".join(str(violation) for violation in watching.violations)

    return clock.run(story())


@pytest.mark.parametrize(
    ("said", "late", "contradicts", "is_his"),
    [
        ("pve2-1795000052", 0.0, False, True),
        ("pve2-1795000001", 0.0, False, False),
        ("pve3-1795000052", 0.0, False, False),
        ("pve2-1795000052", 100.0, False, False),
        ("pve2-1795000052", 0.0, True, False),
    ],
)
def test_a_copy_made_by_a_wrong_word_is_a_persons_only_while_that_word_may_count(
    said: str, late: float, contradicts: bool, is_his: bool
) -> None:
    """It names this failure, is not too old, and nothing speaks against it: else pveha should have known."""

    async def story() -> tuple[set[str], dict[int, str]]:
        found = [config.managed(101, "pve1"), dataclasses.replace(config.managed(102, "pve2"), ha=None)]
        about = config.three_nodes(found, master="pve1")
        person = {"name": "person", "level": 9, "manual": {"confirmedSeconds": 60}}
        on = rig.Rig(about, {"fencing": {"methods": [*rig.devices(about), person]}})
        watching = invariants.Invariants(on)
        on.world.start()
        await on.settle(40.0)
        lines = ["kill bmc pve2", "partition pve1 pve3 | pve2", "cut operator pve2"]
        for line in lines:
            on.apply(line)
        await asyncio.sleep(20.0)
        on.apply(f"confirm failure {said}")
        if contradicts:
            on.apply("heal operator pve2 ssh")
        await asyncio.sleep(5.0 + late)
        file = on.world.guest_file(102)
        target = file.path.replace("pve2", "pve3")
        on.world.fs.rename("pve3", file.path, target, "pveha-node claim --epoch 0 --op t1.0")
        on.world.guests.start("pve3", file.ref)
        await asyncio.sleep(5.0)
        return {violation.rule for violation in watching.violations}, watching.copies_of_others

    rules_, by_others = clock.run(story())
    assert ("one writer" not in rules_) is is_his
    assert ("rename only while off" not in rules_) is is_his
    assert by_others == ({102: copies.PERSON} if is_his else {})


def test_something_is_begun_while_a_node_runs_version_8() -> None:
    async def begin(on: rig.Rig) -> None:
        on.apply("set version pve3 8.4.14")
        await asyncio.sleep(upgrades.ASKED_SECONDS + 20)
        send(on, "update_rule", "home")

    assert "no new operation" in broken(begin)


@pytest.mark.parametrize("astray", [False, True])
def test_a_guest_may_wait_for_one_that_runs_elsewhere_than_its_file_is(astray: bool) -> None:
    async def story() -> bool:
        found = [config.managed(101, "pve2"), config.managed(103, "pve1")]
        on = rig.Rig(config.three_nodes(found, master="pve1"), operators=())
        watching = invariants.Invariants(on)
        on.protect(101)
        on.protect(103, dependsOn=[{"name": "vm101"}])
        on.world.start()
        await on.settle(40.0)
        if astray:
            on.apply("move config 101 pve1 by pve1")
        return watching.succession.may_wait(103)

    assert clock.run(story()) is astray


@pytest.mark.parametrize("wishing", [False, True])
def test_a_guest_whose_wishes_need_two_nodes_may_lie_still_where_one_is_up(wishing: bool) -> None:
    async def story() -> list[str]:
        about = config.three_nodes([config.managed(101, "pve2")], master="pve1")
        on = rig.Rig(about, operators=(), wishes={101: {}} if wishing else {})
        watching = invariants.Invariants(on)
        on.world.start()
        await on.settle(10.0)
        on.apply("power off pve2")
        on.apply("power off pve3")
        await asyncio.sleep(20.0)
        wanted = {"vm:101": on.world.newest.resources["vm:101"]}
        return watching.at_end(dict(wanted), frozenset(), gone=True)

    assert bool(clock.run(story())) is not wishing


def from_a_replica(source: str, target: str, *lines: str, limit: int = 900) -> dict[str, str]:
    """What is violated once pveha moves a guest on replicated disks, and these lines are done."""

    async def story() -> dict[str, str]:
        copy = config.Replica("pve3", every_seconds=60.0, synced_ago=200.0)
        guest = config.managed(101, "pve2", storages=("zfs",), replicas=(copy,))
        about = config.three_nodes([guest], master="pve1")
        storages = (*about.storages, config.Storage("zfs", shared=False, type="zfspool"))
        on = rig.Rig(
            dataclasses.replace(about, storages=storages),
            protect=(101,),
            wishes={101: {"policyRef": {"name": "zfs"}}},
        )
        data = {"require": "SharedOrReplicated", "maxDataLossSeconds": limit}
        on.kubernetes.put(rig.policy("zfs", data=data))
        watching = invariants.Invariants(on)
        on.world.start()
        await asyncio.sleep(20.0)
        on.apply(f"power off {source}")
        await asyncio.sleep(10.0)
        file = on.world.guest_file(101)
        there = file.path.replace(source, target)
        on.world.fs.rename("pve1", file.path, there, by="pveha-node claim --epoch 0")
        on.world.guests.create(on.world.machines[target], on.world.guest_file(101))
        on.apply(f"power on {source}")
        for line in lines:
            on.apply(line)
        await asyncio.sleep(200.0)
        return {violation.rule: violation.text for violation in watching.violations}

    return clock.run(story())


def test_a_guest_is_moved_where_it_has_no_replica() -> None:
    assert from_a_replica("pve2", "pve1")["where its disks are"] == (
        "guest 101 is moved to pve1, which has no replica of it"
    )


def test_a_replica_is_older_than_the_policy_lets_it_be() -> None:
    assert "young enough" not in from_a_replica("pve2", "pve3", limit=300)
    assert (
        "guest 101 is moved to pve3, whose replica lacks 2"
        in (from_a_replica("pve2", "pve3", limit=120)["young enough"])
    )


def test_newer_data_is_overwritten_before_somebody_has_accepted_that() -> None:
    assert from_a_replica("pve2", "pve3")["newer data stays"] == (
        "guest 101: newer data on pve2 is overwritten, and nobody has said so"
    )
    assert "newer data stays" not in from_a_replica("pve2", "pve3", "disable replication 101-0")
    assert "newer data stays" not in from_a_replica("pve2", "pve3", "enable replication 101-0")


def test_a_job_stays_disabled_whose_guest_never_left() -> None:
    async def story() -> list[str]:
        guest = config.managed(101, "pve2", replicas=(config.Replica("pve3"),))
        on = rig.Rig(config.three_nodes([guest], master="pve1"), protect=(101,))
        watching = invariants.Invariants(on)
        on.world.start()
        on.start_operator()
        await on.settle(40.0)
        jobs = on.world.newest.jobs
        before = watching.at_end({}, frozenset(), gone=False)
        jobs["101-0"] = jobs["101-0"].held(replication.Hold("pve2-1"))
        after = watching.at_end({}, frozenset(), gone=False)
        await on.kill_operator()
        return [each for each in after if each not in before]

    assert clock.run(story()) == ["replication job 101-0 is still disabled for pve2-1"]
