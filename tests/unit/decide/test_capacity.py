"""Whether the losses of spec.capacity are survived, how that is told, and what Enforce refuses."""

from typing import Any

import pytest

from decide_scene import GIB, Scene, condition, kinds
from pveha.api import hacluster
from pveha.decide import rounds
from pveha.decide.placing import admission
from pveha.model import operations

FOUR = ("pve1", "pve2", "pve3", "pve4")


def a_scene(names: tuple[str, ...] = ("pve1", "pve2", "pve3"), size: int = 20, **capacity: Any) -> Scene:
    """Nodes with 56 GiB free each while no guest is started; on each one guest of `size` GiB."""
    scene = Scene({"capacity": capacity}, names=names)
    for vmid in scene.guests:
        resize(scene, vmid, size)
    scene.settle().step(30)
    return scene


def resize(scene: Scene, vmid: int, size: int) -> None:
    scene.set_guest(vmid, max_memory=size * GIB)
    scene.set_config(vmid, memory_bytes=size * GIB)


def told(scene: Scene) -> tuple[str, str]:
    """The reason, after it was written, and the message."""
    decision = scene.decide()
    write(scene, decision)
    found = decision.report.cluster.condition("CapacityAssured")
    assert found is not None
    return found.reason, found.message


def write(scene: Scene, decision: rounds.Decision) -> None:
    """The status reaches the API server."""
    status = decision.report.cluster
    real = scene.specs

    def specs() -> Any:
        wanted = real()
        cluster = wanted.cluster.model_copy(update={"status": status})
        return type(wanted)(cluster, wanted.policies, wanted.guests)

    scene.specs = specs  # type: ignore[method-assign]


class TestCondition:
    def test_there_is_room(self) -> None:
        reason, message = told(a_scene())
        assert reason == "OK"
        assert message == "there is room for the guests of any 1 node (all 3 combinations were planned)"

    def test_the_worst_loss_is_named_and_the_least_important_guest_first(self) -> None:
        scene = a_scene(size=40)
        for vmid, priority in ((111, 5), (112, 500)):
            scene.add_guest(vmid, "pve3")
            resize(scene, vmid, 40)
            scene.protected[vmid] = {"priority": priority}
        reason, message = told(scene)
        assert reason == "InsufficientCapacity"
        assert message == (
            "if pve3 were lost, 1 guest would stay down: vm111 (111) (all 3 combinations were planned)"
        )
        scene.add_guest(113, "pve3")
        resize(scene, 113, 50)
        scene.protected[113] = {"priority": 4}
        assert (
            "2 guests, the least important first, would stay down: vm113 (113), vm111 (111)" in told(scene)[1]
        )

    def test_two_failures(self) -> None:
        assert told(a_scene(FOUR, size=30, tolerateNodeFailures=2))[0] == "OK"
        reason, message = told(a_scene(FOUR, size=60, tolerateNodeFailures=2))
        assert reason == "InsufficientCapacity"
        assert message.startswith("if pve1 and pve2 were lost, 2 guests")
        assert "all 6 combinations" in message

    def test_zones_count_as_one(self) -> None:
        scene = a_scene(FOUR, size=30)
        assert told(scene)[0] == "OK"
        for node in scene.spec["nodes"]:
            node["zone"] = "a" if node["name"] != "pve4" else "b"
        reason, message = told(scene)
        assert reason == "InsufficientCapacity"
        assert message.startswith("if zone a were lost, 2 guests")

    def test_too_few_nodes(self) -> None:
        assert told(a_scene(tolerateNodeFailures=3))[0] == "TooFewNodes"

    def test_nothing_is_asked(self) -> None:
        assert told(a_scene(size=60, tolerateNodeFailures=0))[0] == "NotRequested"

    def test_engine_native(self) -> None:
        scene = a_scene(size=60)
        scene.spec["recovery"]["engine"] = "Native"
        assert told(scene)[0] == "NotUsed"

    def test_overcommitted_memory(self) -> None:
        assert told(a_scene(size=60))[0] == "InsufficientCapacity"
        assert told(a_scene(size=60, memoryOvercommitPercent=20))[0] == "OK"

    def test_a_reserve_that_no_guest_is_planned_into(self) -> None:
        assert told(a_scene(size=56))[0] == "InsufficientCapacity"
        assert told(a_scene(size=56, memoryReserveMebibytes=0))[0] == "OK"
        assert told(a_scene(size=20, memoryReserveMebibytes=40 * 1024))[0] == "InsufficientCapacity"

    def test_guests_that_are_not_to_run_or_never_could_elsewhere_do_not_count(self) -> None:
        scene = a_scene(size=60)
        for vmid in (101, 102):
            scene.add_guest(vmid, f"pve{vmid - 100}", "stopped")
            resize(scene, vmid, 60)
        scene.set_config(103, storages=frozenset({"local"}))
        assert told(scene)[0] == "OK"

    def test_guests_that_pveha_would_not_start_are_told(self) -> None:
        scene = a_scene()
        scene.policies["native"] = {"nodeFailure": {"action": "Native"}}
        scene.protected[101] = {"policyRef": {"name": "native"}}
        assert "not counted: 1 that pveha would not start elsewhere (see FailoverReady)" in told(scene)[1]

    def test_nothing_is_said_before_the_cluster_was_seen_for_a_while(self) -> None:
        scene = a_scene(size=60)
        scene.restart()
        scene.settle()
        assert told(scene)[0] == "Unknown"
        scene.step(30)
        assert told(scene)[0] == "InsufficientCapacity"

    def test_while_a_node_may_come_back_in_a_moment_it_stays(self) -> None:
        scene = a_scene()
        assert told(scene)[0] == "OK"
        for name in ("pve2", "pve3"):
            scene.set_answers(name, False)
        scene.step(8)
        assert told(scene)[0] == "OK"

    def test_while_guests_are_recovered_it_stays(self) -> None:
        scene = a_scene()
        assert told(scene)[0] == "OK"
        resize(scene, 102, 99)
        scene.lose("pve2")
        scene.step(6)
        assert scene.decide().report.cluster.condition("Degraded").status == "True"  # type: ignore[union-attr]
        scene.add_guest(111, "pve2")
        assert told(scene)[0] == "OK"

    def test_noise_in_memory_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scene = a_scene(size=27)
        asked: list[object] = []
        real = admission.admitting

        def admitting(*args: Any) -> Any:
            asked.append(args)
            return real(*args)

        monkeypatch.setattr(admission, "admitting", admitting)
        before = told(scene)
        assert len(asked) == 1
        for step in range(7):
            scene.step(10)
            for node in scene.nodes.values():
                node.used = 8 * GIB + step * GIB // 8
            assert told(scene) == before
        assert len(asked) == 1
        scene.nodes["pve1"].used = 30 * GIB
        told(scene)
        assert len(asked) == 2


class TestEvents:
    def test_one_when_it_is_lost_and_one_when_it_is_back(self) -> None:
        scene = a_scene()
        told(scene)
        resize(scene, 102, 60)
        told(scene)
        assert "CapacityNotAssured" in [event.reason for event in scene.decide().events]
        assert "CapacityNotAssured" not in [event.reason for event in scene.decide().events]
        resize(scene, 102, 20)
        told(scene)
        assert "CapacityAssured" in [event.reason for event in scene.decide().events]
        assert "CapacityAssured" not in [event.reason for event in scene.decide().events]


class TestEnforce:
    def draining(self, size: int, **capacity: Any) -> tuple[Scene, rounds.Decision]:
        scene = a_scene(size=size, **capacity)
        node = next(each for each in scene.spec["nodes"] if each["name"] == "pve2")
        node["availability"] = str(hacluster.Availability.DRAIN)
        return scene, scene.step(0.5)

    def test_a_drain_is_refused_after_which_the_rest_could_not_lose_a_node(self) -> None:
        scene, decision = self.draining(30, enforcement="Enforce")
        assert "Migrate" not in kinds(decision)
        found = decision.report.cluster.condition("Drained")
        assert found is not None
        assert found.reason == "CapacityRefuses"
        assert found.message.startswith("without pve2 the others could not lose 1 node any more")
        assert "set spec.capacity.enforcement to Warn" in found.message
        assert "DrainRefused" in [event.reason for event in decision.events]
        for vmid in (101, 102, 103):
            resize(scene, vmid, 10)
        assert "Migrate" in kinds(scene.step(0.5))
        assert condition(scene.decide().report.cluster, "Drained") == ("False", "Draining")

    @pytest.mark.parametrize(("size", "capacity"), [(30, {}), (10, {"enforcement": "Enforce"})])
    def test_others_are_not(self, size: int, capacity: dict[str, Any]) -> None:
        _, decision = self.draining(size, **capacity)
        assert "Migrate" in kinds(decision)

    def test_failovers_never_are(self) -> None:
        scene = a_scene(size=50, enforcement="Enforce")
        scene.lose("pve2")
        scene.step(4)
        scene.prove("pve2")
        takeovers = [each for each in scene.step(0.5).start if isinstance(each, operations.Takeover)]
        assert [item.ref.vmid for each in takeovers for item in each.items] == [102]
