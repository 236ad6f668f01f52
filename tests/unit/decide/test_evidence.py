"""Every row of the evidence table (docs/safety.md), and the patience of S5, through whole rounds."""

from typing import Any

import pytest

from decide_scene import OFF, ON, THREE, Scene, condition, kinds
from pveha.decide import rounds
from pveha.model import cluster, node, operations, power, snapshot

UNREACHABLE = None


def state(decision: rounds.Decision, name: str = "pve2") -> str:
    return next((each.state for each in decision.report.cluster.not_online if each.name == name), "Online")


@pytest.mark.parametrize(
    ("online", "answers", "bmc", "bound", "after", "expected"),
    [
        (True, True, ON, True, 10, "Online"),
        (True, True, UNREACHABLE, True, 10, "Online"),
        (True, True, ON, False, 10, "Online"),
        (True, False, ON, True, 10, "Suspect"),
        (True, False, OFF, True, 10, "Suspect"),
        (True, False, UNREACHABLE, True, 10, "Suspect"),
        (True, False, ON, False, 40, "Suspect"),
        (True, False, ON, True, 40, "Online"),
        (True, False, OFF, True, 40, "Suspect"),
        (False, True, ON, True, 1, "Isolated"),
        (False, True, UNREACHABLE, True, 1, "Unconfirmed"),
        (False, True, UNREACHABLE, True, 6, "Unprovable"),
        (False, True, ON, False, 1, "Unprovable"),
        (False, False, ON, True, 1, "Down"),
        (False, False, OFF, True, 0, "Fencing"),
        (False, False, UNREACHABLE, True, 1, "Unconfirmed"),
        (False, False, UNREACHABLE, True, 6, "Unprovable"),
        (False, False, OFF, False, 1, "Unprovable"),
    ],
)
def test_rows_of_membership_probe_and_power(
    online: bool, answers: bool, bmc: power.PowerState | None, bound: bool, after: float, expected: str
) -> None:
    scene = Scene()
    if not bound:
        scene.nodes["pve2"].identity = "another-machine"
    scene.settle()
    if online:
        scene.set_answers("pve2", answers)
        scene.nodes["pve2"].bmc = bmc
    else:
        scene.lose("pve2", answers=answers, bmc=bmc)
    scene.step()
    assert state(scene.step(after)) == expected


@pytest.mark.parametrize("online", [True, False])
def test_a_bmc_that_reads_off_while_the_node_answers_is_void_until_a_person_clears_it(online: bool) -> None:
    scene = Scene().settle()
    scene.nodes["pve2"].bmc = OFF
    if not online:
        scene.lose("pve2", answers=True, bmc=OFF)
    decision = scene.step()
    assert condition(decision.report.cluster, "FencingReady") == ("False", "FencingContradicted")
    assert "FencingContradicted" in {event.reason for event in decision.events}
    assert "FencingContradicted" not in {event.reason for event in scene.step(0.5).events}
    assert state(scene.step(1)) == ("Online" if online else "Unprovable")

    scene.nodes["pve2"].bmc = ON
    scene.nodes["pve2"].online = True
    assert condition(scene.step(60).report.cluster, "FencingReady")[1] == "FencingContradicted"
    scene.restart()
    assert condition(scene.step(10).report.cluster, "FencingReady")[1] == "FencingContradicted"
    scene.annotations["pveha.dev/rebind"] = "pve2"
    scene.step(1)
    assert condition(scene.step(1).report.cluster, "FencingReady") == ("True", "OK")


def test_an_annotation_left_standing_clears_no_later_contradiction() -> None:
    scene = Scene().settle()
    scene.annotations["pveha.dev/rebind"] = "pve2"
    scene.step(2)
    scene.nodes["pve2"].bmc = OFF
    scene.step(2)
    scene.nodes["pve2"].bmc = ON
    assert condition(scene.step(30).report.cluster, "FencingReady")[1] == "FencingContradicted"
    scene.restart()
    assert condition(scene.step(10).report.cluster, "FencingReady")[1] == "FencingContradicted"
    scene.annotations = {}
    scene.step(1)
    scene.annotations["pveha.dev/rebind"] = "pve2"
    scene.step(1)
    assert condition(scene.step(1).report.cluster, "FencingReady") == ("True", "OK")


def test_a_broken_path_is_told_by_a_condition_and_an_event_and_is_no_target() -> None:
    scene = Scene().settle()
    scene.set_answers("pve2", False)
    scene.step(29)
    events = {event.reason for _ in range(8) for event in scene.step(0.5).events}
    decision = scene.step(1)
    assert "PathBroken" in events
    assert condition(decision.report.cluster, "Degraded") == ("True", "PathBroken")
    assert all(
        status.failover_plan is None or status.failover_plan.target_node != "pve2"
        for status in decision.report.guests.values()
    )
    scene.set_answers("pve2", True)
    assert condition(scene.step(1).report.cluster, "Degraded") == ("False", "None")


@pytest.mark.parametrize("mode", ["restart", "shutdown", "maintenance", "disarm"])
@pytest.mark.parametrize("bmc", [ON, OFF, None])
@pytest.mark.parametrize("answers", [True, False])
def test_an_announced_absence_is_never_fenced(mode: str, bmc: power.PowerState | None, answers: bool) -> None:
    scene = Scene().settle()
    scene.nodes["pve2"].lrm_mode = mode
    scene.lose("pve2", answers=answers and bmc is not OFF, bmc=bmc)
    started = [kind for _ in range(200) for kind in kinds(scene.step(0.5))]
    assert state(scene.step()) == "PlannedDown"
    assert started == []


def test_frozen_services_announce_an_absence_and_after_a_while_a_condition_says_so() -> None:
    scene = Scene({"safety": {"plannedDownSeconds": 60}}).settle()
    scene.services["vm:102"] = type(scene.services["vm:102"])("freeze", "pve2")
    scene.lose("pve2")
    assert condition(scene.step(58).report.cluster, "Degraded") == ("True", "NodePlannedDown")
    assert condition(scene.step(5).report.cluster, "Degraded") == ("True", "PlannedDownTooLong")


def test_nothing_is_fenced_on_announcements_read_before_the_node_left() -> None:
    scene = Scene().settle()
    scene.ha_status_read = scene.now - 0.5
    scene.lose("pve2")
    assert [kinds(scene.step(0.5)) for _ in range(12)] == [[]] * 12
    scene.ha_status_read = None
    assert kinds(scene.step(0.5)) == ["Fence"]


@pytest.mark.parametrize(
    ("bmc", "answers", "patience"), [(OFF, False, 0.0), (ON, False, 3.0), (ON, True, 30.0)]
)
def test_patience_is_exact(bmc: power.PowerState, answers: bool, patience: float) -> None:
    scene = Scene().settle()
    scene.lose("pve2", answers=answers, bmc=bmc)
    lost_at = scene.now
    decision = scene.step()
    while not decision.start:
        assert scene.now - lost_at < patience
        decision = scene.step(0.1)
    assert kinds(decision) == ["Fence"]
    assert scene.now - lost_at == pytest.approx(patience, abs=0.11)


def test_an_isolated_node_that_misses_one_answer_is_not_cut_at_once() -> None:
    scene = Scene().settle()
    scene.lose("pve2", answers=True, bmc=ON)
    scene.step()
    scene.step(20)
    scene.set_answers("pve2", False)
    assert kinds(scene.step(0.3)) == []
    scene.set_answers("pve2", True)
    assert kinds(scene.step(9)) == []
    assert kinds(scene.step(1)) == ["Fence"]


@pytest.mark.parametrize(
    ("quorum", "answers", "age", "expected"),
    [
        ({"pve1", "pve2", "pve3"}, True, 0, "Isolated"),
        ({"pve1", "pve2"}, True, 0, "Unprovable"),
        ({"pve1", "pve3"}, True, 0, "Isolated"),
        ({"pve1", "pve2"}, False, 0, "Down"),
        ({"pve1", "pve2"}, True, 130, "Isolated"),
    ],
)
def test_a_node_that_lives_and_whose_monitor_ceph_needs_is_not_cut(
    quorum: set[str], answers: bool, age: float, expected: str
) -> None:
    scene = Scene().settle()
    scene.lose("pve2", answers=answers, bmc=ON)
    scene.ceph = cluster.CephMonitors(frozenset(quorum), 3, scene.now + 1 - age)
    scene.step()
    assert state(scene.step(1)) == expected
    assert (state(scene.step(32)) == "Fencing") is (expected != "Unprovable")


def test_a_return_to_the_membership_cancels_the_fence() -> None:
    scene = Scene().settle()
    scene.lose("pve2", bmc=ON)
    scene.step()
    scene.step(3.2)
    fence = scene.operations[0].operation
    assert isinstance(fence, operations.Fence)
    scene.nodes["pve2"].online = True
    assert scene.step(0.2).cancel == (fence.id,)


def test_a_node_that_is_still_on_after_the_command_failed_to_be_fenced_and_is_tried_again_later() -> None:
    scene = Scene().settle()
    scene.lose("pve2", bmc=ON)
    scene.step()
    scene.step(3.2)
    scene.end(operations.Fence, epoch=2, error="its BMC did not prove it off within 15 s")
    decision = scene.step(0.1)
    assert state(decision) == "FenceFailed"
    assert condition(decision.report.cluster, "Degraded") == ("True", "FenceFailed")
    assert kinds(scene.step(14)) == []
    assert "Fence" in kinds(scene.step(1)) or state(scene.step()) == "Fencing"


def test_witnesses_that_differ_or_are_too_few_confirm_nothing() -> None:
    scene = Scene().settle()
    scene.lose("pve2")
    scene.views["pve3"] = {"pve1": True, "pve2": True, "pve3": True}
    assert state(scene.step(5)) == "Unconfirmed"
    scene.views = {}
    scene.set_answers("pve3", False)
    assert state(scene.step(5)) == "Unconfirmed"
    scene.set_answers("pve3", True)
    assert state(scene.step(1)) == "Fencing"


def test_the_last_survivor_is_enough() -> None:
    scene = Scene(names=("pve1", "pve2")).settle()
    scene.views["pve1"] = {"pve1": True, "pve2": False}
    scene.lose("pve2")
    seen = scene.snapshot()
    assert not seen.views["pve1"].quorate
    five = Scene({"safety": {"maxFailedNodesPercent": 100}}).settle()
    five.lose("pve2")
    five.lose("pve3")
    five.views["pve1"] = {"pve1": True, "pve2": False, "pve3": False}
    assert five.step(2).report.cluster.not_online[0].state == "Unconfirmed"


def test_quorate_views_that_exclude_each_other_stop_everything() -> None:
    scene = Scene().settle()
    scene.lose("pve2", answers=True, bmc=ON)
    scene.views["pve2"] = {"pve1": True, "pve2": True, "pve3": True}
    assert [scene.step(0.5).start for _ in range(100)] == [()] * 100
    decision = scene.step(0.5)
    assert condition(decision.report.cluster, "Quorate") == ("False", "SplitView")
    assert condition(decision.report.cluster, "Acting") == ("False", "NotQuorate")


def test_a_quorate_answer_that_one_of_its_own_members_contradicts_stops_everything() -> None:
    """pve2 dies while a takeover of pve3 is under way; pve1's corosync is frozen and still counts pve2's view
    as it was. Only for a moment that may be a matter of when each was asked."""
    scene = Scene().settle()
    scene.lose("pve3")
    scene.step()
    scene.step(4)
    scene.prove("pve3")
    (taken,) = scene.step(0.5).start
    scene.views = {"pve1": {"pve1": True, "pve2": True, "pve3": False}, "pve2": dict.fromkeys(THREE, False)}
    assert scene.step(0.5).cancel == ()
    decision = scene.step(4)
    assert decision.cancel == (taken.id,)
    assert condition(decision.report.cluster, "Quorate") == ("False", "SplitView")


def test_a_node_without_quorum_contradicts_no_majority() -> None:
    """pve4 is a member in the eyes of two others, and says of itself that it is not quorate."""
    scene = Scene(names=("pve1", "pve2", "pve3", "pve4", "pve5")).settle()
    scene.views["pve4"] = dict.fromkeys(scene.nodes, False)
    decision = scene.step(4)
    assert condition(decision.report.cluster, "Quorate")[0] == "True"


def test_without_quorum_nothing_is_done_and_nobody_is_called_online() -> None:
    scene = Scene().settle()
    scene.quorate = False
    scene.lose("pve2")
    decision = scene.step(10)
    assert condition(decision.report.cluster, "Quorate") == ("False", "NoQuorum")
    assert {each.state for each in decision.report.cluster.not_online} == {"Unconfirmed"}
    assert decision.start == ()


@pytest.mark.parametrize("option", ["two_node", "last_man_standing", "auto_tie_breaker", "expected_votes"])
def test_unsafe_votes_fence_nobody(option: str) -> None:
    scene = Scene().settle()
    votes = {"pve1": 1, "pve2": 1, "pve3": 1}
    scene.nodes["pve1"].votes = node.Votes(votes, 0, 3, 3, frozenset({option}))
    scene.lose("pve2")
    assert [kinds(scene.step(0.5)) for _ in range(10)] == [[]] * 10
    decision = scene.step()
    assert condition(decision.report.cluster, "FastReady") == ("False", "VotesUnsafe")
    assert condition(decision.report.cluster, "Acting")[1] == "NotReady"


def test_lowered_expected_votes_fence_nobody() -> None:
    scene = Scene().settle()
    scene.nodes["pve3"].votes = node.Votes({"pve1": 1, "pve2": 1, "pve3": 1}, 0, 2, 2, frozenset())
    scene.lose("pve2")
    assert kinds(scene.step(5)) == []


def test_a_node_that_is_in_no_member_list_is_gone_and_never_fenced() -> None:
    scene = Scene().settle()
    gone = scene.nodes.pop("pve2")
    decision = scene.step(60)
    assert gone.name not in {each.name for each in decision.report.cluster.not_online}
    assert decision.start == ()


def test_native_ha_that_is_ahead_is_left_alone() -> None:
    for ahead in ("fence", "recovery"):
        scene = Scene().settle()
        scene.services["vm:102"] = type(scene.services["vm:102"])(ahead, "pve2")
        scene.lose("pve2")
        assert [kinds(scene.step(0.5)) for _ in range(10)] == [[]] * 10
        reasons = {event.reason for event in scene.step().events}
        assert reasons == set()


def test_another_node_that_drops_after_our_command_voids_the_binding_and_ends_the_takeover() -> None:
    names = ("pve1", "pve2", "pve3", "pve4", "pve5")
    scene = Scene({"safety": {"maxFailedNodesPercent": 40}}, names=names).settle()
    scene.lose("pve2")
    scene.step()
    scene.step(4)
    scene.prove("pve2")
    assert kinds(scene.step(0.1)) == ["Takeover"]
    scene.lose("pve3")
    scene.step(3)
    decision = scene.step(0.1)
    takeover = next(s.operation for s in scene.operations if isinstance(s.operation, operations.Takeover))
    assert takeover.id in decision.cancel
    assert state(decision) == "Unprovable"
    assert condition(decision.report.cluster, "FencingReady") == ("False", "FencingContradicted")


@pytest.mark.parametrize(("after", "expected"), [(8, ("False", "FencingContradicted")), (31, ("True", "OK"))])
def test_a_command_that_proved_nothing_voids_the_binding_too(after: float, expected: tuple[str, str]) -> None:
    names = ("pve1", "pve2", "pve3", "pve4", "pve5")
    scene = Scene({"safety": {"maxFailedNodesPercent": 40}}, names=names).settle()
    scene.lose("pve2", bmc=ON)
    scene.step()
    scene.step(3.2)
    scene.end(operations.Fence, epoch=2, error="no answer", commanded={"bmc": scene.now})
    scene.step(after)
    scene.lose("pve3")
    assert condition(scene.step(0.5).report.cluster, "FencingReady") == expected


def proven() -> Scene:
    scene = Scene().settle()
    scene.lose("pve2")
    scene.step()
    scene.step(4)
    scene.prove("pve2")
    return scene


def test_a_proof_ends_when_the_machine_has_power_again_and_it_gets_time_to_come_back() -> None:
    scene = proven()
    assert kinds(scene.step(0.1)) == ["Takeover"]
    takeover = scene.operations[0].operation
    scene.nodes["pve2"].bmc = ON
    decision = scene.step(0.5)
    assert decision.cancel == (takeover.id,)
    scene.end(operations.Takeover, error="cancelled")
    assert [kinds(scene.step(0.5)) for _ in range(120)] == [[]] * 120


def test_a_node_that_answers_right_after_its_proof_was_not_off() -> None:
    scene = proven()
    scene.step(0.1)
    scene.set_answers("pve2", True)
    scene.views["pve2"] = {"pve1": False, "pve2": True, "pve3": False}
    decision = scene.step(1)
    assert condition(decision.report.cluster, "FencingReady") == ("False", "FencingContradicted")
    assert decision.cancel != ()


def test_reads_of_off_count_from_the_last_unbroken_row() -> None:
    scene = Scene().settle()
    scene.set_answers("pve2", False)
    scene.nodes["pve2"].bmc = OFF
    scene.step(4)
    scene.nodes["pve2"].bmc = ON
    scene.step(1)
    scene.nodes["pve2"].bmc = OFF
    scene.lose("pve2")
    back_off = scene.now
    scene.step(0.5)
    scene.step(0.5)
    fence: Any = next(s.operation for s in scene.operations if isinstance(s.operation, operations.Fence))
    assert fence.methods[0].off_since >= back_off - 0.2


def test_no_decision_before_the_first_look_is_over() -> None:
    scene = Scene()
    scene.lose("pve2")
    assert all(kinds(scene.step(0.5)) in ([], ["Begin"]) for _ in range(9))


def test_a_silent_node_is_watched_closely() -> None:
    scene = Scene().settle()
    scene.set_answers("pve2", False)
    scene.problems["power/pve2"] = snapshot.Problem("Unreachable", "no route", scene.now)
    assert "pve2" in scene.step(3).looking.suspects
