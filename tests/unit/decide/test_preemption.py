"""Who is stopped for whom, what keeps him from it, and when he is started again."""

import dataclasses
from typing import Any

import pytest

from decide_scene import GIB, OWNER, Scene, condition, edits, kinds
from pveha.model import cluster, mark, operations

OURS = str(mark.Comment(owner=OWNER))
MARKED = str(mark.Comment(owner=OWNER, preempted="vm:102"))


def a_scene(**less_important: Any) -> Scene:
    """102 on pve2 finds no room: 101 on pve1 and 103 on pve3 take 44 of 64 GiB each, the hosts 8."""
    scene = Scene()
    spec = {"priority": 10, "preemption": "Allowed", **less_important}
    scene.protected = {101: spec, 102: {"priority": 500}, 103: {"priority": 10}}
    for vmid in scene.guests:
        resize(scene, vmid, 40)
        scene.set_resource(f"vm:{vmid}", comment=OURS)
    for name in ("pve1", "pve3"):
        scene.nodes[name].used = 48 * GIB
    return scene.settle()


def resize(scene: Scene, vmid: int, size: int) -> None:
    scene.set_guest(vmid, max_memory=size * GIB)
    scene.set_config(vmid, memory_bytes=size * GIB)


def fenced(scene: Scene) -> dict[str, operations.Edit]:
    """What is changed once pve2 is proven off."""
    scene.lose("pve2")
    scene.step(4)
    scene.prove("pve2")
    return edits(scene.step(0.5))


class TestStop:
    def test_the_less_important_guest_that_allows_it(self) -> None:
        found = fenced(a_scene())
        assert found.keys() == {"vm:101"}
        desired = found["vm:101"].desired
        assert desired is not None
        assert desired.state is cluster.HAState.STOPPED
        assert mark.parse(desired.comment) == mark.Comment(owner=OWNER, preempted="vm:102")

    @pytest.mark.parametrize("spec", [{"preemption": "Never"}, {"priority": 500}, {"priority": 600}])
    def test_nobody_else(self, spec: dict[str, Any]) -> None:
        scene = a_scene(**spec)
        scene.lose("pve2")
        scene.step(10)
        assert "Fence" not in [type(each.operation).__name__ for each in scene.operations]
        assert edits(scene.step(0.5)) == {}

    @pytest.mark.parametrize(
        "resource",
        [
            {"comment": "somebody else's"},
            {"state": cluster.HAState.IGNORED},
            {"state": cluster.HAState.DISABLED},
        ],
    )
    def test_entries_of_others_and_what_they_have_set_are_left(self, resource: dict[str, Any]) -> None:
        scene = a_scene()
        scene.set_resource("vm:101", **resource)
        scene.lose("pve2")
        scene.step(10)
        assert "vm:101" not in edits(scene.step(0.5))

    def test_nobody_where_there_is_room(self) -> None:
        scene = a_scene()
        scene.nodes["pve3"].used = 8 * GIB
        assert fenced(scene) == {}
        assert "Takeover" in [type(each.operation).__name__ for each in scene.operations]

    def test_nobody_before_the_node_is_proven_off(self) -> None:
        scene = a_scene()
        scene.lose("pve2")
        decision = scene.step(4)
        assert "Fence" in [type(each.operation).__name__ for each in scene.operations]
        assert edits(decision) == {}

    def test_nobody_else_while_one_is_being_stopped(self) -> None:
        scene = a_scene()
        scene.protected[103]["preemption"] = "Allowed"
        (sid,) = fenced(scene)
        scene.end(operations.EditHA)
        scene.set_resource(sid, state=cluster.HAState.STOPPED, comment=MARKED)
        assert edits(scene.step(5)) == {}

    def test_its_condition_and_event(self) -> None:
        scene = a_scene()
        scene.set_resource("vm:101", state=cluster.HAState.STOPPED, comment=MARKED)
        decision = scene.step(0.5)
        assert condition(decision.report.guests["vm101"], "Ready") == ("False", "Preempted")
        assert [event.reason for event in decision.events if event.name == "vm101"] == ["Preempted"]


def stopped(**services: Any) -> Scene:
    """101 was stopped for 102, which runs on pve1 now; pve2 is back and empty."""
    scene = a_scene()
    scene.set_resource("vm:101", state=cluster.HAState.STOPPED, comment=MARKED)
    scene.set_guest(101, status="stopped")
    scene.services["vm:101"] = cluster.ServiceStatus("stopped", "pve1", **services)
    scene.move(102, "pve1")
    scene.services["vm:102"] = cluster.ServiceStatus("started", "pve1")
    return scene


class TestStart:
    def test_on_its_node_if_there_is_room(self) -> None:
        scene = stopped()
        scene.move(102, "pve2")
        scene.nodes["pve1"].used = 8 * GIB
        (edit,) = edits(scene.step(0.5)).values()
        assert edit.desired is not None
        assert (edit.desired.state, edit.desired.comment) == (cluster.HAState.STARTED, OURS)

    def test_elsewhere_after_it_was_sent_there(self) -> None:
        scene = stopped()
        decision = scene.step(0.5)
        (move,) = [each for each in decision.start if isinstance(each, operations.Migrate)]
        assert (move.ref.vmid, move.source, move.target, move.managed) == (101, "pve1", "pve2", True)
        assert "Migrate" not in kinds(scene.step(0.5))

    def test_never_sent_to_a_node_that_the_crm_holds_for_lost(self) -> None:
        """It moves nothing there, though the node be back (seed 70001064)."""
        scene = stopped()
        scene.node_status = {"pve1": "online", "pve2": "fence", "pve3": "online"}
        assert kinds(scene.step(0.5)) == []

    @pytest.mark.parametrize(("winner", "started"), [(500, False), (5, True)])
    def test_not_while_native_ha_recovers_a_more_important_guest(self, winner: int, started: bool) -> None:
        """It does not look for room (seed 70001064)."""
        scene = stopped()
        scene.move(102, "pve2")
        scene.protected[102]["priority"] = winner
        scene.services["vm:102"] = cluster.ServiceStatus("started", "pve2")
        scene.nodes["pve1"].used = 8 * GIB
        scene.set_resource("vm:101", state=cluster.HAState.STARTED, comment=OURS)
        scene.nodes["pve3"].used = 8 * GIB
        scene.step(0.5)
        scene.lose("pve2")
        scene.step(4)
        scene.prove("pve2")
        scene.step(0.1)
        scene.end(operations.Takeover)
        scene.set_resource("vm:101", state=cluster.HAState.STOPPED, comment=MARKED)
        scene.services["vm:102"] = cluster.ServiceStatus("fence", "pve2")
        assert ("vm:101" in edits(scene.step(0.5))) is started

    def test_not_while_nothing_has_room(self) -> None:
        scene = stopped()
        scene.nodes["pve2"].used = 48 * GIB
        assert kinds(scene.step(0.5)) == []

    def test_what_has_just_been_started_counts_in_full(self) -> None:
        """102 uses little yet of what it will use."""
        scene = stopped()
        scene.nodes["pve1"].used = 9 * GIB
        assert "EditHA" not in kinds(scene.step(0.5))

    def test_not_before_it_is_stopped_to_the_end(self) -> None:
        scene = stopped()
        scene.services["vm:101"] = cluster.ServiceStatus("request_stop", "pve1")
        assert kinds(scene.step(0.5)) == []

    def test_not_while_paused(self) -> None:
        scene = stopped()
        scene.spec["pauseRequests"] = ["works"]
        assert kinds(scene.step(0.5)) == []

    def test_also_if_its_protectedvm_is_gone(self) -> None:
        scene = stopped()
        del scene.protected[101]
        assert kinds(scene.step(0.5)) == ["Migrate"]
        assert "vm:101" not in edits(scene.step(60))

    @pytest.mark.parametrize("state", ["started", "disabled", "ignored"])
    def test_what_its_owner_sets_holds_and_the_mark_goes(self, state: str) -> None:
        scene = stopped()
        scene.set_resource("vm:101", state=cluster.HAState(state))
        edit = edits(scene.step(0.5))["vm:101"]
        assert edit.desired == dataclasses.replace(scene.resources["vm:101"], comment=OURS)

    def test_halted_it_stays_stopped_without_the_mark(self) -> None:
        scene = stopped()
        scene.protected[101]["runStrategy"] = "Halted"
        edit = edits(scene.step(0.5))["vm:101"]
        assert edit.desired is not None
        assert (edit.desired.state, edit.desired.comment) == (cluster.HAState.STOPPED, OURS)
