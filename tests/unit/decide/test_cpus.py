"""CPUs as a limit of where guests go: spec.capacity.cpuAllocationRatio."""

from typing import Any

import pytest

from decide_scene import GIB, OWNER, Scene, condition, edits, kinds
from pveha.decide import hosts, placement, rounds, situation
from pveha.model import cluster, mark, operations

OURS = str(mark.Comment(owner=OWNER))


def a_scene(ratio: int | None = 1, **capacity: Any) -> Scene:
    """Three nodes of 16 CPUs, on each a guest of 10 vCPUs; pve1 has the most memory free."""
    given = {} if ratio is None else {"cpuAllocationRatio": ratio}
    scene = Scene({"capacity": {**given, **capacity}})
    for vmid in scene.guests:
        give(scene, vmid, 10)
    scene.nodes["pve3"].used = 30 * GIB
    return scene.settle()


def give(scene: Scene, vmid: int, cpus: int) -> None:
    scene.set_guest(vmid, max_cpu=cpus)
    scene.set_config(vmid, cores=cpus)


def understood(scene: Scene) -> situation.Situation:
    return rounds.understand(scene.snapshot(), scene.specs(), scene.memory)


def drained(scene: Scene) -> rounds.Decision:
    """What is begun once pve2 is to be emptied."""
    next(each for each in scene.spec["nodes"] if each["name"] == "pve2")["availability"] = "Drain"
    return scene.step(0.5)


def used(scene: Scene) -> dict[str, float]:
    return {each.name: each.used_cpu for each in hosts.nodes(understood(scene), frozenset())}


def goes(scene: Scene, vmid: int = 102) -> tuple[str, str]:
    """Where it would go if its node were lost, or else why it stays down."""
    now = understood(scene)
    plan = placement.plan(now, {scene.guests[vmid].node}, [now.protected.guests[vmid]])
    return plan.targets.get(vmid, ""), plan.refusals[vmid].message if vmid in plan.refusals else ""


def lose(scene: Scene) -> rounds.Decision:
    """pve2 is proven off."""
    scene.lose("pve2")
    scene.step(4)
    scene.prove("pve2")
    return scene.step(0.5)


def taken_to(scene: Scene) -> list[str]:
    found = [each.operation for each in scene.operations]
    return [each.target for each in found if isinstance(each, operations.Takeover)]


class TestFailover:
    def test_a_node_with_memory_and_no_cpus_left_is_not_chosen(self) -> None:
        scene = a_scene()
        assert goes(scene)[0] == ""
        give(scene, 103, 6)
        assert goes(scene) == ("pve3", "")

    def test_the_ratio_raised_it_is(self) -> None:
        assert goes(a_scene(2)) == ("pve1", "")

    def test_without_a_ratio_cpus_are_no_limit_and_no_part_of_the_question(self) -> None:
        scene = a_scene(None)
        give(scene, 102, 500)
        assert goes(scene) == ("pve1", "")
        now = understood(scene)
        asked = placement.ask_each(now, now.protected.guests.values()).question.asked
        assert {each.cpu for each in asked.guests} == {0}
        assert {(each.cpu, each.used_cpu) for each in asked.nodes} == {(0, 0)}

    def test_it_is_told_what_lacks(self) -> None:
        scene = a_scene()
        give(scene, 103, 8)
        status = scene.step(1).report.guests["vm102"]
        assert condition(status, "FailoverReady") == ("False", "NoCapacity")
        assert goes(scene)[1] == (
            "it needs 10 CPUs, and of pve1, pve3 none has that: pve3 is nearest, it lacks 2 CPUs; free that "
            "there, or add CPUs or a node"
        )

    def test_the_guest_of_a_node_proven_off_is_started_where_cpus_are(self) -> None:
        scene = a_scene()
        give(scene, 103, 6)
        lose(scene)
        assert taken_to(scene) == ["pve3"]

    def test_nodes_that_do_not_tell_their_cpus_are_not_limited(self) -> None:
        scene = a_scene()
        scene.nodes["pve3"].cpus = None
        assert goes(scene) == ("pve3", "")


class TestInUse:
    def test_who_runs_counts_with_what_is_configured(self) -> None:
        scene = a_scene()
        scene.add_guest(111, "pve1", protect=False)
        give(scene, 111, 3)
        scene.add_guest(112, "pve1", "stopped")
        give(scene, 112, 5)
        assert used(scene) == {"pve1": 13, "pve2": 10, "pve3": 10}

    def test_without_configuration_with_what_proxmox_tells(self) -> None:
        scene = a_scene()
        del scene.configs[101]
        scene.set_guest(101, max_cpu=7)
        assert used(scene)["pve1"] == 7

    def test_a_container_that_nothing_limits_as_one(self) -> None:
        scene = a_scene()
        scene.set_guest(101, max_cpu=16)
        scene.set_config(101, cores=0)
        assert used(scene)["pve1"] == 1

    def test_who_is_being_started_after_a_loss_counts_where_it_will_run(self) -> None:
        scene = a_scene(2)
        lose(scene)
        assert taken_to(scene) == ["pve1"]
        assert used(scene)["pve1"] == 20
        scene.move(102, "pve1")
        assert used(scene)["pve1"] == 20

    def test_who_is_being_moved_counts_on_both_nodes(self) -> None:
        scene = a_scene(2)
        scene.services["vm:102"] = cluster.ServiceStatus("migrate", "pve2", target="pve3")
        assert used(scene) == {"pve1": 10, "pve2": 10, "pve3": 20}
        scene.move(102, "pve3")
        assert used(scene) == {"pve1": 10, "pve2": 0, "pve3": 20}


class TestEverywhere:
    def test_capacity(self) -> None:
        found = a_scene().step(30).report.cluster.condition("CapacityAssured")
        assert found is not None
        assert found.reason == "InsufficientCapacity"
        found = a_scene(2).step(30).report.cluster.condition("CapacityAssured")
        assert found is not None
        assert found.reason == "OK"

    @pytest.mark.parametrize(("ratio", "target"), [(1, None), (2, "pve1"), (None, "pve1")])
    def test_drain(self, ratio: int | None, target: str | None) -> None:
        decision = drained(a_scene(ratio))
        moved = [each.target for each in decision.start if isinstance(each, operations.Migrate)]
        assert moved == ([] if target is None else [target])

    @pytest.mark.parametrize("protected", [True, False])
    @pytest.mark.parametrize(("ratio", "refused"), [(2, True), (3, False), (None, False)])
    def test_drain_refused_for_capacity(self, ratio: int | None, refused: bool, protected: bool) -> None:
        """Three guests of 11 vCPUs on the one node that is left after a drain and a loss."""
        scene = a_scene(ratio, enforcement="Enforce")
        for vmid in scene.guests:
            give(scene, vmid, 11)
        if not protected:
            del scene.protected[102]
        assert ("Migrate" not in kinds(drained(scene))) is refused

    def test_preemption(self) -> None:
        scene = a_scene()
        scene.protected = {
            101: {"priority": 10, "preemption": "Allowed"},
            102: {"priority": 500},
            103: {"priority": 10},
        }
        for vmid in scene.guests:
            scene.set_resource(f"vm:{vmid}", comment=OURS)
        scene.step(1)
        assert edits(lose(scene)).keys() == {"vm:101"}
