"""A node that is lost and returns again and again takes no guests for a while, and is else as any other."""

import pytest

from decide_scene import OFF, ON, Scene, condition, kinds
from pveha.api import hacluster
from pveha.decide import rounds
from pveha.model import cluster, operations

FOUR = ("pve1", "pve2", "pve3", "pve4")


def flap(scene: Scene, name: str, times: int = 1, pause: float = 50.0) -> None:
    """It leaves the membership for some seconds and returns."""
    for _ in range(times):
        scene.lose(name, answers=True, bmc=ON)
        scene.step(10)
        scene.nodes[name].online = True
        scene.nodes[name].lrm_lives = True
        scene.now += max(0.0, pause - 60.0)
        scene.step(min(pause, 60.0))


def shown(scene: Scene) -> dict[str, str]:
    return {node.name: node.state for node in scene.decide().report.cluster.not_online}


def takes_guests(scene: Scene, name: str) -> bool:
    """Whether the guest of pve1 would go there if no other node were left."""
    others = [node for node in scene.nodes.values() if node.name not in (name, "pve1")]
    for node in others:
        node.lrm_mode = "maintenance"
    plan = scene.decide().report.guests["vm101"].failover_plan
    for node in others:
        node.lrm_mode = "active"
    return plan is not None and plan.target_node == name


@pytest.fixture
def scene() -> Scene:
    return Scene({"detection": {"recoverAfterSeconds": 0}}, names=FOUR).settle()


def test_more_flaps_than_allowed_within_an_hour_quarantine_it(scene: Scene) -> None:
    flap(scene, "pve4", 3)
    assert shown(scene) == {}
    assert takes_guests(scene, "pve4")
    flap(scene, "pve4")
    decision = scene.decide()
    node = decision.report.cluster.not_online[0]
    assert (node.name, node.state) == ("pve4", "Quarantined")
    assert "more than 3 times within an hour: no guests are started on it until 20" in node.reason
    assert condition(decision.report.cluster, "Degraded") == ("True", "NodeQuarantined")
    assert decision.report.cluster.nodes is not None
    assert decision.report.cluster.nodes.online == 3
    assert "pve4 is Quarantined" in decision.sentence
    assert not takes_guests(scene, "pve4")


def test_it_is_told_once(scene: Scene) -> None:
    told: list[str] = []
    flap(scene, "pve4", 3)
    scene.lose("pve4", answers=True, bmc=ON)
    scene.step(10)
    scene.nodes["pve4"].online = True
    for _ in range(20):
        told += [event.reason for event in scene.step(0.5).events]
    assert told.count("NodeQuarantined") == 1


def test_flaps_that_are_further_apart_do_not(scene: Scene) -> None:
    flap(scene, "pve4", 5, pause=1190)
    assert shown(scene) == {}


def test_a_planned_reboot_is_no_flap(scene: Scene) -> None:
    for _ in range(5):
        scene.nodes["pve4"].lrm_mode = "restart"
        scene.lose("pve4", bmc=ON)
        scene.step(30)
        scene.nodes["pve4"].online = True
        scene.nodes["pve4"].lrm_mode = "active"
        scene.nodes["pve4"].lrm_lives = True
        scene.set_answers("pve4", True)
        scene.step(30)
    assert shown(scene) == {}


def test_no_guest_goes_to_it_until_its_time_is_over(scene: Scene) -> None:
    scene.spec["safety"] = {"quarantineSeconds": 600}
    flap(scene, "pve4", 4)
    scene.now += 500
    scene.step(10)
    assert not takes_guests(scene, "pve4")
    scene.step(100)
    assert shown(scene) == {}
    assert takes_guests(scene, "pve4")
    assert scene.decide().report.cluster.flapping == ()


def test_a_flap_in_quarantine_begins_it_anew(scene: Scene) -> None:
    scene.spec["safety"] = {"quarantineSeconds": 600}
    flap(scene, "pve4", 4)
    scene.step(500)
    flap(scene, "pve4")
    scene.step(400)
    assert shown(scene) == {"pve4": "Quarantined"}


def test_at_most_a_quarter_is_quarantined(scene: Scene) -> None:
    flap(scene, "pve4", 4)
    flap(scene, "pve3", 6)
    assert shown(scene) == {"pve4": "Quarantined"}
    scene.annotations["pveha.dev/end-quarantine"] = "pve4"
    scene.step(0.5)
    scene.step(0.5)
    assert shown(scene) == {"pve3": "Quarantined"}


def test_of_two_at_once_it_is_the_worse(scene: Scene) -> None:
    scene.spec["safety"] = {"maxFlapsPerHour": 20}
    flap(scene, "pve3", 4, pause=15)
    flap(scene, "pve4", 6, pause=15)
    scene.spec["safety"] = {"maxFlapsPerHour": 3}
    assert shown(scene) == {"pve4": "Quarantined"}


def test_of_eight_nodes_two_may_be_quarantined() -> None:
    names = tuple(f"pve{number}" for number in range(1, 9))
    scene = Scene(names=names).settle()
    for name in ("pve6", "pve7", "pve8"):
        flap(scene, name, 4, pause=15)
    assert shown(scene) == {"pve6": "Quarantined", "pve7": "Quarantined"}


def test_a_quarantined_node_that_dies_is_fenced_and_recovered(scene: Scene) -> None:
    flap(scene, "pve4", 4)
    scene.lose("pve4", bmc=OFF)
    assert kinds(scene.step(0.5)) == ["Fence"]
    scene.prove("pve4")
    taken = scene.step(0.5).start
    assert [each.dead for each in taken if isinstance(each, operations.Takeover)] == ["pve4"]
    assert shown(scene) == {"pve4": "Fenced"}


def test_a_takeover_to_it_that_was_begun_is_finished(scene: Scene) -> None:
    flap(scene, "pve4", 4)
    scene.set_guest(104, status="stopped")
    scene.services.pop("vm:104")
    comment = "[pveha op=t1.0 epoch=1 was=started]"
    scene.set_resource("vm:104", state=cluster.HAState.IGNORED, comment=comment)
    started = [each for each in scene.step(1).start if isinstance(each, operations.Takeover)]
    started += [s.operation for s in scene.operations if isinstance(s.operation, operations.Takeover)]
    assert {(each.target, item.ref.vmid) for each in started for item in each.items} == {("pve4", 104)}


def end(scene: Scene, names: str) -> rounds.Decision:
    scene.annotations["pveha.dev/end-quarantine"] = names
    return scene.step(0.5)


def test_a_person_ends_it(scene: Scene) -> None:
    flap(scene, "pve4", 4)
    end(scene, "pve4")
    assert shown(scene) == {}
    assert takes_guests(scene, "pve4")
    flap(scene, "pve4", 4)
    assert shown(scene) == {"pve4": "Quarantined"}, "the annotation has been used"
    end(scene, "")
    end(scene, "pve4, pve3")
    assert shown(scene) == {}


def test_an_annotation_from_before_the_start_does_not(scene: Scene) -> None:
    flap(scene, "pve4", 4)
    scene.restart()
    scene.annotations["pveha.dev/end-quarantine"] = "pve4"
    scene.step(1)
    assert shown(scene) == {"pve4": "Quarantined"}


def test_flaps_and_quarantine_outlive_the_leader(scene: Scene) -> None:
    flap(scene, "pve4", 2)
    scene.restart()
    scene.step(6)
    scene.end(operations.Begin, epoch=2)
    flap(scene, "pve4", 2)
    assert shown(scene) == {"pve4": "Quarantined"}
    until = scene.decide().report.cluster.flapping[0].quarantined_until
    scene.restart()
    scene.step(1)
    assert shown(scene) == {"pve4": "Quarantined"}
    assert scene.decide().report.cluster.flapping[0].quarantined_until == until


def test_a_return_while_the_leader_changes_is_counted(scene: Scene) -> None:
    flap(scene, "pve4", 3)
    scene.lose("pve4", answers=True, bmc=ON)
    scene.step(10)
    scene.restart()
    scene.nodes["pve4"].online = True
    scene.step(1)
    assert shown(scene) == {"pve4": "Quarantined"}


def test_the_status_can_be_written_and_read(scene: Scene) -> None:
    flap(scene, "pve4", 4)
    status = scene.decide().report.cluster
    assert hacluster.HAClusterStatus.model_validate(status.manifest()).flapping[0].name == "pve4"
