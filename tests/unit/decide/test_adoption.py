"""Disowned guests go back under native HA when that is safe, and only then (S7, S8, S9, S11)."""

import dataclasses

import pytest

from decide_scene import OFF, ON, OWNER, Scene, condition, edits, kinds
from pveha.api.conditions import FailoverReady
from pveha.decide import adoption, enrolment, outcomes, rounds
from pveha.model import cluster, mark, operations

STARTED, STOPPED, IGNORED = cluster.HAState.STARTED, cluster.HAState.STOPPED, cluster.HAState.IGNORED
DISABLED = cluster.HAState.DISABLED
OP = "t2.0"


def disowned(was: cluster.HAState = STARTED, text: str = "of the shop", reason: str = "Running") -> Scene:
    """pve2 is proven off; guest 102 was claimed by pve1 and started; the CRM still lists it on pve2."""
    scene = Scene().settle()
    scene.set_resource("vm:102", state=was, comment=text)
    scene.services["vm:102"] = cluster.ServiceStatus(was, "pve2")
    scene.lose("pve2")
    scene.step()
    scene.step(4)
    scene.prove("pve2")
    assert kinds(scene.step(0.1)) == ["Takeover"]
    comment = mark.Comment(text, mark=mark.Mark(was, op=OP, epoch=2))
    scene.set_resource("vm:102", state=IGNORED, comment=str(comment))
    scene.move(102, "pve1")
    scene.now += 1
    item = scene.operations[0].operation
    assert isinstance(item, operations.Takeover)
    result = operations.GuestResult(item.items[0].ref, reason if was is STARTED else "Claimed")
    scene.end(operations.Takeover, guests=(result,))
    scene.step(0.1)
    return scene


def until_edit(scene: Scene, seconds: float) -> tuple[float, operations.Edit | None]:
    began = scene.now
    while scene.now - began < seconds:
        if edit := edits(scene.step(0.5)).get("vm:102"):
            return scene.now - began, edit
    return seconds, None


def test_it_is_given_back_after_two_flushes_without_it_with_state_mark_and_text() -> None:
    scene = disowned()
    _, edit = until_edit(scene, 40)
    assert edit is None
    scene.drop_at_flush.add("vm:102")
    dropped_at = scene.flushed + 10
    _, edit = until_edit(scene, 60)
    assert edit is not None
    assert edit.desired is not None
    assert scene.flushed == pytest.approx(dropped_at + 10, abs=1.5)
    assert edit.desired.state is STARTED
    assert mark.parse(edit.desired.comment) == mark.Comment(
        "of the shop", mark=mark.Mark(STARTED, op=OP, epoch=2)
    )


def test_one_flush_or_a_frozen_crm_gives_nothing_back() -> None:
    scene = disowned()
    del scene.services["vm:102"]
    scene.crm_lives = False
    assert until_edit(scene, 200)[1] is None


def test_a_guest_that_was_stopped_is_given_back_as_stopped() -> None:
    scene = disowned(STOPPED)
    del scene.services["vm:102"]
    _, edit = until_edit(scene, 60)
    assert edit is not None
    assert edit.desired is not None
    assert edit.desired.state is STOPPED


def adopted(was: cluster.HAState = STARTED) -> Scene:
    scene = disowned(was)
    del scene.services["vm:102"]
    _, edit = until_edit(scene, 60)
    assert edit is not None
    assert edit.desired is not None
    scene.resources["vm:102"] = edit.desired
    scene.now += 0.1
    scene.end(operations.EditHA)
    return scene


def test_the_mark_goes_when_the_crm_lists_it_and_its_lrm_is_active() -> None:
    scene = adopted()
    scene.services["vm:102"] = cluster.ServiceStatus("started", "pve1")
    _, edit = until_edit(scene, 5)
    assert edit is not None
    assert edit.desired is not None
    assert (edit.desired.state, edit.desired.comment) == (STARTED, "of the shop")


def test_above_an_lrm_that_stays_idle_it_is_ignored_again() -> None:
    scene = adopted()
    scene.nodes["pve1"].lrm_state = "wait_for_agent_lock"
    scene.services["vm:102"] = cluster.ServiceStatus("started", "pve1")
    after, edit = until_edit(scene, 60)
    assert edit is not None
    assert edit.desired is not None
    assert 40 <= after <= 42
    assert edit.desired.state is IGNORED
    assert mark.parse(edit.desired.comment).mark == mark.Mark(STARTED, op=OP, epoch=2)


@pytest.mark.parametrize(("status", "state"), [("running", IGNORED), ("stopped", STOPPED)])
def test_a_guest_that_is_to_be_stopped_keeps_its_mark_while_it_runs_above_an_idle_lrm(
    status: str, state: cluster.HAState
) -> None:
    """Its node has started it at boot. If that were lost before its LRM has stopped it, native HA would move
    the file, and nobody would stop what runs."""
    scene = adopted(STOPPED)
    scene.nodes["pve1"].lrm_state = "wait_for_agent_lock"
    scene.services["vm:102"] = cluster.ServiceStatus("request_stop", "pve1")
    scene.set_guest(102, status=status)
    after, edit = until_edit(scene, 60)
    assert edit is not None
    assert edit.desired is not None
    assert edit.desired.state is state
    assert (mark.parse(edit.desired.comment).mark is None) is (state is STOPPED)
    assert (after > adoption.LRM_WAIT_SECONDS) is (state is IGNORED)


def test_nothing_is_given_back_onto_an_lrm_that_does_not_report() -> None:
    scene = disowned()
    del scene.services["vm:102"]
    scene.nodes["pve1"].lrm_lives = False
    scene.step(41)
    assert until_edit(scene, 60)[1] is None


def test_what_may_run_elsewhere_is_not_given_to_native_ha() -> None:
    scene = disowned()
    del scene.services["vm:102"]
    remembered = dataclasses.replace(
        scene.memory.guest("vm:102"), verified=False, attempts=3, problem="DuplicateSuspected"
    )
    scene.memory = dataclasses.replace(scene.memory, guests={**scene.memory.guests, "vm:102": remembered})
    assert until_edit(scene, 100)[1] is None


def test_somebody_elses_change_is_kept_and_only_the_mark_goes() -> None:
    scene = disowned()
    del scene.services["vm:102"]
    scene.set_resource("vm:102", state=cluster.HAState.DISABLED)
    _, edit = until_edit(scene, 5)
    assert edit is not None
    assert edit.desired is not None
    assert (edit.desired.state, edit.desired.comment) == (cluster.HAState.DISABLED, "of the shop")


@pytest.mark.parametrize("state", [STARTED, STOPPED, cluster.HAState.DISABLED])
def test_given_back_before_the_crm_has_dropped_it_it_is_ignored_once_more(state: cluster.HAState) -> None:
    scene = disowned()
    scene.set_resource("vm:102", state=state)
    after, edit = until_edit(scene, 30)
    assert edit is not None
    assert edit.desired is not None
    assert adoption.STALE_SECONDS <= after <= adoption.STALE_SECONDS + 2
    assert edit.desired.state is IGNORED
    assert mark.parse(edit.desired.comment).mark == mark.Mark(state, op=OP, epoch=2)


def test_what_its_owner_wants_by_now_is_restored_when_it_is_disowned_again() -> None:
    scene = disowned()
    scene.move(102, "pve2")
    del scene.services["vm:102"]
    scene.set_resource("vm:102", state=STOPPED)
    scene.memory = dataclasses.replace(scene.memory, guests={})
    (takeover,) = [o for o in scene.step(0.1).start if isinstance(o, operations.Takeover)]
    assert [item.was for item in takeover.items] == [STOPPED]


def test_an_orphaned_mark_is_repaired_by_whoever_leads_next() -> None:
    scene = disowned()
    scene.restart()
    scene.step(6)
    scene.end(operations.Begin, epoch=3)
    waits = [kinds(scene.step(0.5)) for _ in range(9)]
    assert waits == [[]] * 9
    takeovers = [op for _ in range(6) for op in scene.step(0.5).start if isinstance(op, operations.Takeover)]
    assert [(each.target, each.items[0].claimed) for each in takeovers] == [("pve1", True)]
    assert takeovers[0].items[0].last_seen >= {"pve3"}


def test_a_disown_without_a_claim_is_undone_when_the_proof_is_gone_for_good() -> None:
    scene = disowned()
    scene.move(102, "pve2")
    scene.nodes["pve2"].bmc = None
    scene.memory = dataclasses.replace(
        scene.memory,
        nodes={**scene.memory.nodes, "pve2": dataclasses.replace(scene.memory.node("pve2"), proof=None)},
    )
    _, edit = until_edit(scene, 100)
    assert edit is not None
    assert edit.desired is not None
    assert (edit.desired.state, edit.desired.comment) == (STARTED, "of the shop")


def test_it_is_not_undone_while_the_crm_has_it_elsewhere() -> None:
    scene = disowned()
    scene.lose("pve1", bmc=None)
    scene.services["vm:102"] = cluster.ServiceStatus("started", "pve2")
    scene.nodes["pve3"].online = True
    assert until_edit(scene, 120)[1] is None


def test_a_claimed_guest_is_tried_until_everybody_tells_that_he_does_not_run_it() -> None:
    scene = disowned(reason=FailoverReady.NODE_SHELL_UNREACHABLE)
    tried = 0
    for _ in range(240):
        scene.step(0.5)
        if (again := next((s.operation for s in scene.operations), None)) is not None:
            assert isinstance(again, operations.Takeover)
            silent = FailoverReady.NODE_SHELL_UNREACHABLE
            scene.end(operations.Takeover, guests=(operations.GuestResult(again.items[0].ref, silent),))
            tried += 1
    assert tried > 2 * outcomes.MAX_ATTEMPTS


def held(misplaced: bool) -> Scene:
    """A guest of pve2 that was claimed for pve1 is held back, as pve2 may run it after all."""
    scene = disowned(reason=FailoverReady.DUPLICATE_SUSPECTED)
    comment = mark.Comment("of the shop", mark=mark.Mark(STARTED, hold="pve2"))
    scene.set_resource("vm:102", state=IGNORED, comment=str(comment))
    scene.end(operations.EditHA)
    if not misplaced:
        del scene.services["vm:102"]
    return scene


@pytest.mark.parametrize("record", ["started", "request_stop", "error"])
def test_a_held_guest_that_its_owner_disables_while_the_crm_has_it_elsewhere_is_ignored_until_it_has_not(
    record: str,
) -> None:
    scene = held(misplaced=True)
    scene.services["vm:102"] = cluster.ServiceStatus(record, "pve2")
    scene.set_resource("vm:102", state=DISABLED)
    scene.nodes["pve2"].online = True
    _, edit = until_edit(scene, 30)
    assert edit is not None
    assert edit.desired is not None
    assert edit.desired.state is IGNORED
    assert mark.parse(edit.desired.comment).mark == mark.Mark(DISABLED, op="repair", epoch=2)

    scene.resources["vm:102"] = edit.desired
    scene.end(operations.EditHA)
    scene.drop_at_flush.add("vm:102")
    _, edit = until_edit(scene, 60)
    assert edit is not None
    assert edit.desired is not None
    assert edit.desired.state is DISABLED


def test_a_held_guest_whose_node_is_back_is_given_back_once_the_crm_has_dropped_it() -> None:
    scene = held(misplaced=True)
    scene.nodes["pve2"].online, scene.nodes["pve2"].bmc = True, ON
    scene.set_answers("pve2", answers=True)
    _, edit = until_edit(scene, 30)
    assert edit is not None
    assert edit.desired is not None
    assert edit.desired.state is IGNORED
    assert mark.parse(edit.desired.comment).mark == mark.Mark(STARTED, op="repair", epoch=2)


@pytest.mark.parametrize("lost", [True, False])
def test_a_held_guest_in_mid_migration_waits_for_the_crm_to_drop_it(lost: bool) -> None:
    """Its migration was broken off with the old node: the CRM would go on with recovering it there, or, if
    the node is back, hear from its LRM that the guest is misplaced."""
    scene = held(misplaced=True)
    scene.services["vm:102"] = cluster.ServiceStatus("migrate", "pve2")
    comment = mark.Comment("of the shop", mark=mark.Mark(STARTED, hold="pve3"))
    scene.set_resource("vm:102", state=IGNORED, comment=str(comment))
    if not lost:
        scene.nodes["pve2"].online, scene.nodes["pve2"].bmc = True, ON
        scene.set_answers("pve2", answers=True)
    _, edit = until_edit(scene, 30)
    assert edit is not None
    assert edit.desired is not None
    assert edit.desired.state is IGNORED
    assert mark.parse(edit.desired.comment).mark == mark.Mark(STARTED, op="repair", epoch=2)


def test_a_held_guest_that_its_owner_disables_is_his_once_the_crm_has_dropped_it() -> None:
    scene = held(misplaced=False)
    scene.set_resource("vm:102", state=DISABLED)
    _, edit = until_edit(scene, 30)
    assert edit is not None
    assert edit.desired is not None
    assert (edit.desired.state, mark.parse(edit.desired.comment).mark) == (DISABLED, None)


def test_a_node_for_which_a_claimed_guest_is_held_is_fenced_until_that_succeeds() -> None:
    """The guest runs nowhere, and nothing else is left on the node whose proof was voided (seed 60001539)."""
    scene = held(misplaced=False)
    node = dataclasses.replace(scene.memory.node("pve2"), proof=None)
    scene.memory = dataclasses.replace(scene.memory, nodes={**scene.memory.nodes, "pve2": node})
    scene.nodes["pve2"].bmc = ON
    fences = 0
    for _ in range(120):
        if "Fence" in kinds(scene.step(0.5)):
            scene.end(operations.Fence, epoch=3 + fences, error="no answer")
            fences += 1
    assert fences >= 2


def unprovable(lrm: str) -> tuple[Scene, rounds.Decision]:
    scene = Scene().settle()
    scene.nodes["pve2"].lrm_state = lrm
    scene.step(6)
    scene.lose("pve2", bmc=None)
    scene.step(0.1)
    scene.step(11)
    decision = scene.step(0.5)
    return scene, decision


def test_native_ha_is_held_back_from_a_node_that_nobody_proves_dead_and_no_watchdog_resets() -> None:
    scene, _ = unprovable("wait_for_agent_lock")
    operation = next(state.operation for state in scene.operations)
    assert isinstance(operation, operations.EditHA)
    edit = operation.edits[0]
    assert edit.sid == "vm:102"
    assert edit.desired is not None
    assert edit.desired.state is IGNORED
    assert mark.parse(edit.desired.comment).mark == mark.Mark(STARTED, hold="pve2")

    scene.resources["vm:102"] = edit.desired
    scene.now += 0.1
    scene.end(operations.EditHA)
    del scene.services["vm:102"]
    assert condition(scene.step(1).report.cluster, "Degraded") == ("True", "HeldBack")
    assert [edits(scene.step(0.5)) for _ in range(100)] == [{}] * 100
    scene.restart()
    scene.step(6)
    scene.end(operations.Begin, epoch=3)
    assert [edits(scene.step(0.5)) for _ in range(40)] == [{}] * 40

    scene.nodes["pve2"].online = True
    scene.set_answers("pve2", True)
    scene.nodes["pve2"].bmc = ON
    released = edits(scene.step(0.5))["vm:102"].desired
    assert released is not None
    assert (released.state, released.comment) == (STARTED, "")


@pytest.mark.parametrize(
    ("state", "runs", "held"),
    [(STOPPED, "running", True), (STOPPED, "stopped", False), (DISABLED, "running", False)],
)
def test_native_ha_is_held_back_from_what_runs_though_it_is_to_be_stopped(
    state: cluster.HAState, runs: str, held: bool
) -> None:
    """Else it would move the file, and nobody would stop what runs; one that is disabled it leaves."""
    scene = Scene().settle()
    scene.nodes["pve2"].lrm_state = "wait_for_agent_lock"
    scene.set_resource("vm:102", state=state)
    scene.set_guest(102, status=runs)
    scene.step(6)
    scene.lose("pve2", bmc=None)
    _, edit = until_edit(scene, 30)
    assert (edit is not None) is held
    if edit is not None and edit.desired is not None:
        assert mark.parse(edit.desired.comment).mark == mark.Mark(state, hold="pve2")


@pytest.mark.parametrize(("lrm", "held"), [("wait_for_agent_lock", "pve2"), ("active", "")])
def test_a_guest_of_a_node_that_is_down_as_announced_is_given_back_only_where_a_watchdog_resets_it(
    lrm: str, held: str
) -> None:
    scene = Scene().settle()
    scene.nodes["pve2"].lrm_state, scene.nodes["pve2"].lrm_mode = lrm, "restart"
    scene.step(6)
    scene.lose("pve2", bmc=ON)
    ours = mark.Mark(STARTED, op=OP, epoch=2)
    scene.set_resource("vm:102", state=IGNORED, comment=str(mark.Comment("of the shop", mark=ours)))
    del scene.services["vm:102"]
    _, edit = until_edit(scene, 30)
    assert edit is not None
    assert edit.desired is not None
    found = mark.parse(edit.desired.comment).mark
    assert (found.hold if found is not None else "") == held
    assert edit.desired.state is (IGNORED if held else STARTED)


@pytest.mark.parametrize(("lrm", "held"), [("wait_for_agent_lock", "pve2"), ("active", "")])
def test_a_guest_of_a_node_that_may_yet_be_proven_off_is_given_back_only_where_a_watchdog_resets_it(
    lrm: str, held: str
) -> None:
    scene = Scene().settle()
    scene.nodes["pve2"].lrm_state = lrm
    scene.step(6)
    scene.lose("pve2", bmc=ON)
    del scene.protected[102]
    ours = mark.Mark(STARTED, op=OP, epoch=2)
    scene.set_resource("vm:102", state=IGNORED, comment=str(mark.Comment("of the shop", mark=ours)))
    del scene.services["vm:102"]
    _, edit = until_edit(scene, 30)
    assert edit is not None
    assert edit.desired is not None
    found = mark.parse(edit.desired.comment).mark
    assert (found.hold if found is not None else "") == held


@pytest.mark.parametrize(("runs", "held"), [("running", "pve2"), ("stopped", "")])
def test_a_guest_that_is_to_be_stopped_is_held_back_where_it_may_still_run(runs: str, held: str) -> None:
    scene, _ = unprovable("wait_for_agent_lock")
    scene.set_guest(102, status=runs)
    ours = mark.Mark(DISABLED, op=OP, epoch=2)
    scene.set_resource("vm:102", state=IGNORED, comment=str(mark.Comment("of the shop", mark=ours)))
    del scene.services["vm:102"]
    scene.end(operations.EditHA)
    _, edit = until_edit(scene, 30)
    assert edit is not None
    assert edit.desired is not None
    found = mark.parse(edit.desired.comment).mark
    assert (found.hold if found is not None else "") == held
    assert edit.desired.state is (IGNORED if held else DISABLED)


@pytest.mark.parametrize("lrm", ["active", "lost_agent_lock"])
def test_native_ha_is_not_held_back_where_a_watchdog_resets_the_node(lrm: str) -> None:
    """An LRM that has lost its lock does not feed its watchdog, and does not let it go."""
    scene, decision = unprovable(lrm)
    assert edits(decision) == {}
    assert scene.operations == []


@pytest.mark.parametrize("state", ["started", "recovery"])
def test_a_record_that_stays_on_a_lost_node_is_repaired_but_not_within_a_round_of_native_recovery(
    state: str,
) -> None:
    scene = Scene().settle()
    scene.protected = {}
    scene.lose("pve2")
    scene.step(1)
    scene.move(102, "pve1")
    scene.services["vm:102"] = cluster.ServiceStatus(state, "pve2")
    after, edit = until_edit(scene, 40)
    assert edit is not None
    assert edit.desired is not None
    assert 15 <= after <= 16.5
    assert edit.desired.state is IGNORED
    found = mark.parse(edit.desired.comment).mark
    assert found is not None
    assert found.was is STARTED


def test_a_record_in_recovery_is_repaired_though_the_node_with_the_file_is_lost_and_its_own_is_back() -> None:
    """The CRM dies of it in each round, and so recovers nobody of the lost node either (seed 95000114)."""
    scene = Scene().settle()
    scene.protected = {}
    scene.move(102, "pve1")
    scene.services["vm:102"] = cluster.ServiceStatus("recovery", "pve2")
    scene.lose("pve1")
    _, edit = until_edit(scene, 40)
    assert edit is not None
    assert edit.desired is not None
    assert edit.desired.state is IGNORED
    assert mark.parse(edit.desired.comment).mark == mark.Mark(STARTED, op="repair", epoch=1)


def test_disarmed_ha_is_not_touched() -> None:
    scene = Scene().settle()
    scene.armed = False
    decision = scene.step(1)
    assert condition(decision.report.cluster, "Acting") == ("False", "Disarmed")
    scene.lose("pve2")
    assert [kinds(scene.step(0.5)) for _ in range(40)] == [[]] * 40


def test_a_crm_silent_for_a_minute_before_the_loss_may_remember_anything() -> None:
    scene = Scene().settle()
    scene.crm_lives = False
    scene.step(75)
    assert condition(scene.step().report.cluster, "HAHealthy") == ("False", "HAManagerStuck")
    scene.lose("pve2")
    assert [kinds(scene.step(0.5)) for _ in range(10)] == [[]] * 10
    scene.restart()
    scene.step(6)
    scene.end(operations.Begin, epoch=2)
    assert [kinds(scene.step(0.5)) for _ in range(40)] == [[]] * 40


def test_a_foreign_entry_keeps_its_settings_and_is_never_removed() -> None:
    scene = Scene().settle()
    scene.set_resource("vm:101", comment="", failback=True, max_restart=5)
    scene.protected.pop(103)
    assert [edits(scene.step(0.5)) for _ in range(20)] == [{}] * 20
    assert condition(scene.step().report.guests["vm101"], "Ready") == ("True", "ForeignEntry")


def test_our_own_entry_is_kept_as_the_policy_says_and_removed_with_its_protected_vm() -> None:
    scene = Scene().settle()
    for sid in ("vm:101", "vm:103"):
        scene.set_resource(sid, comment=f"[pveha owner={OWNER}]", failback=True)
    scene.set_resource("vm:102", comment="[pveha owner=uid/default/another]", failback=True)
    scene.protected.pop(103)
    found = edits(scene.step(0.5))
    assert set(found) == {"vm:101"}
    desired = found["vm:101"].desired
    assert desired is not None
    assert not desired.failback
    scene.end(operations.EditHA)
    scene.set_resource("vm:101", failback=False)
    assert "vm:103" not in edits(scene.step(enrolment.SETTLED_SECONDS - 1.0))
    assert edits(scene.step(1.0))["vm:103"].desired is None


def test_a_guest_without_entry_is_registered_with_owner_and_policy() -> None:
    scene = Scene().settle()
    del scene.resources["vm:102"]
    scene.policies["gold"] = {"failback": {"mode": "Automatic"}, "guestFailure": {"restart": {"attempts": 3}}}
    scene.protected[102] = {"policyRef": {"name": "gold"}}
    scene.step(0.5)  # the configurations of this moment say that it still is the same guest
    desired = edits(scene.step(0.5))["vm:102"].desired
    assert desired == cluster.HAResource("vm:102", STARTED, f"[pveha owner={OWNER}]", True, 3, 1)


def test_a_guest_that_was_not_registered_yet_gets_an_owned_entry_when_it_is_taken_over() -> None:
    scene = Scene().settle()
    del scene.resources["vm:102"]
    scene.lose("pve2", bmc=OFF)
    scene.step()
    scene.step(4)
    scene.prove("pve2")
    (takeover,) = scene.step(0.1).start
    assert isinstance(takeover, operations.Takeover)
    assert takeover.items[0].registered is None
    assert takeover.items[0].entry == cluster.HAResource(
        "vm:102", STARTED, f"[pveha owner={OWNER}]", failback=False
    )


def test_a_suspected_duplicate_is_held_back_until_a_person_sets_its_state() -> None:
    scene = disowned(reason=FailoverReady.DUPLICATE_SUSPECTED)
    started = [s.operation for s in scene.operations if isinstance(s.operation, operations.EditHA)]
    edit: operations.Edit | None = started[0].edits[0]
    assert edit is not None
    assert edit.desired is not None
    assert edit.desired.state is IGNORED
    held = mark.parse(edit.desired.comment)
    assert held.mark == mark.Mark(STARTED, hold="duplicate-suspected")
    scene.set_resource("vm:102", state=IGNORED, comment=edit.desired.comment)
    scene.end(operations.EditHA)
    assert until_edit(scene, 400)[1] is None
    del scene.services["vm:102"]
    scene.set_resource("vm:102", state=STARTED, comment=edit.desired.comment)
    _, edit = until_edit(scene, 30)
    assert edit is not None
    assert edit.desired is not None
    assert (edit.desired.state, mark.parse(edit.desired.comment).mark) == (STARTED, None)


@pytest.mark.parametrize("state", ["fence", "recovery"])
def test_what_the_crm_searches_on_a_node_that_is_back_is_ignored_for_a_while(state: str) -> None:
    """A migration had moved the file when its source was lost: the CRM's rounds die of it for ever (S9)."""
    scene = Scene().settle()
    scene.move(102, "pve1")
    scene.services["vm:102"] = cluster.ServiceStatus(state, "pve2")
    after, edit = until_edit(scene, 30)
    assert edit is not None
    assert edit.desired is not None
    assert adoption.STALE_SECONDS <= after <= adoption.STALE_SECONDS + 4
    found = mark.parse(edit.desired.comment).mark
    assert (edit.desired.state, found and found.op, found and found.was) == (IGNORED, "repair", STARTED)


def test_what_the_crm_has_elsewhere_in_calm_is_left_to_its_lrm() -> None:
    scene = Scene().settle()
    scene.move(102, "pve1")
    scene.services["vm:102"] = cluster.ServiceStatus("started", "pve2")
    assert until_edit(scene, 60)[1] is None


def test_a_lost_node_that_keeps_a_claimed_guest_from_being_started_is_fenced_by_the_next_leader() -> None:
    scene = disowned()
    scene.restart()
    blocked = operations.GuestResult(scene.guests[102].ref, FailoverReady.NODE_SHELL_UNREACHABLE)
    seen: list[str] = []
    for _ in range(60):
        started = kinds(scene.step(0.5))
        seen += started
        if "Begin" in started:
            scene.end(operations.Begin, epoch=3)
        if "Takeover" in started:
            scene.end(operations.Takeover, guests=(blocked,))
        if "Fence" in started:
            break
    assert seen[-1] == "Fence"
    assert "Takeover" in seen


def taking_over() -> tuple[Scene, operations.Operation]:
    """vm102 of the lost pve2 is being taken over."""
    scene = Scene().settle()
    scene.lose("pve2")
    scene.step(5)
    scene.prove("pve2")
    assert kinds(scene.step(0.1)) == ["Takeover"]
    return scene, scene.operations[0].operation


def disown(scene: Scene, takeover: operations.Operation) -> None:
    """vm102 carries the mark of the takeover."""
    marked = f"[pveha op={takeover.id} epoch=2 was=started]"
    scene.set_resource("vm:102", state=cluster.HAState.IGNORED, comment=marked)


def given_back_after(scene: Scene) -> float:
    """Seconds until vm102 is given back."""
    began = scene.now
    while "vm:102" not in edits(scene.step(0.5)):
        assert scene.now < began + 30.0
    return scene.now - began


@pytest.mark.parametrize(("may_land", "seconds"), [(True, 20.0), (False, 0.0)])
def test_a_guest_whose_claim_was_not_answered_is_not_given_back_as_never_claimed(
    may_land: bool, seconds: float
) -> None:
    """A rename waits in pmxcfs while the members agree on who is left, for longer than pveha waits for it."""
    scene, takeover = taking_over()
    disown(scene, takeover)
    scene.spec["pauseRequests"] = ["works"]
    result = operations.GuestResult(scene.guests[102].ref, "Unreachable", may_land=may_land)
    scene.end(operations.Takeover, guests=(result,))
    assert given_back_after(scene) == pytest.approx(seconds, abs=1.5)


@pytest.mark.parametrize(("may_land", "seconds"), [(True, 20.0), (False, 0.0)])
def test_a_guest_whose_claim_may_land_is_not_given_back_as_never_claimed(
    may_land: bool, seconds: float
) -> None:
    scene, takeover = taking_over()
    scene.nodes["pve2"].bmc = ON
    assert scene.step(0.5).cancel == (takeover.id,)
    disown(scene, takeover)
    scene.end(operations.Takeover, error="cancelled", may_land=may_land)
    assert given_back_after(scene) == pytest.approx(seconds, abs=1.5)
