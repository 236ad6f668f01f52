"""On a branch of history that lacks what is known of the cluster nothing is done (S13)."""

import pytest

from decide_scene import OFF, ON, WALL, Scene, condition, kinds
from pveha.decide import history
from pveha.model import operations


def two_nodes() -> Scene:
    scene = Scene(names=("pve1", "pve2"))
    scene.qdevice = 1
    return scene.settle()


def come_back(scene: Scene, name: str) -> None:
    scene.nodes[name].online, scene.nodes[name].bmc, scene.nodes[name].lrm_lives = True, ON, True
    scene.set_answers(name, True)


def forked() -> Scene:
    """pve1 died, pve2 went on with a fence's epoch and then died too, and pve1 is back alone, as it was."""
    scene = two_nodes()
    scene.registers["pve1"] = scene.register
    scene.lose("pve1", bmc=OFF)
    scene.step(4)
    scene.prove("pve1")
    scene.step(0.5)
    scene.operations.clear()
    scene.lose("pve2", bmc=OFF)
    come_back(scene, "pve1")
    return scene


def acting(scene: Scene) -> str:
    return condition(scene.decide().report.cluster, "Acting")[1]


def started(scene: Scene, seconds: float) -> set[str]:
    """Kinds of the operations that are begun meanwhile."""
    return {kind for _ in range(int(2 * seconds)) for kind in kinds(scene.step(0.5))}


@pytest.mark.parametrize("new_leader", [False, True])
def test_nothing_is_done_by_nodes_that_went_on_from_an_old_state(new_leader: bool) -> None:
    scene = forked()
    if new_leader:
        scene.restart()
    assert started(scene, 120) == set()
    assert acting(scene) == "HistoryForked"
    status = scene.decide().report.cluster
    assert condition(status, "Quorate") == ("False", "HistoryForked")
    assert condition(status, "Ready") == ("False", "NotQuorate")
    told = next(each.message for each in status.conditions if each.type == "Quorate")
    assert "switch pve1 off, then switch all nodes on together" in told
    assert "pvecm delnode" in told
    assert status.epoch == 2


def test_what_is_in_flight_is_cancelled_then() -> None:
    scene = forked()
    scene.step(history.LAG_SECONDS + 1)
    assert acting(scene) == "HistoryForked"
    edit = operations.EditHA("edit.2.1", ())
    scene.operations.append(operations.OperationState(edit, scene.now, WALL + scene.now, "Editing"))
    assert scene.step(0.5).cancel == ("edit.2.1",)


def test_with_the_newest_history_it_goes_on() -> None:
    scene = forked()
    scene.step(20)
    scene.registers.clear()
    come_back(scene, "pve2")
    scene.step(1)
    assert acting(scene) != "HistoryForked"
    assert condition(scene.decide().report.cluster, "Quorate")[0] == "True"
    assert scene.decide().report.cluster.epoch == 2


def test_an_older_history_that_all_nodes_are_on_is_the_only_one() -> None:
    scene = forked()
    scene.step(20)
    scene.register = scene.registers.pop("pve1")
    come_back(scene, "pve2")
    assert started(scene, history.LAG_SECONDS - 1) == set()
    assert "Begin" in started(scene, 2 * history.LAG_SECONDS + 2)
    scene.end(operations.Begin, epoch=scene.register + 1)
    scene.step(1)
    assert acting(scene) != "HistoryForked"


def test_a_node_that_is_removed_from_the_cluster_has_no_other_history() -> None:
    scene = forked()
    scene.step(20)
    del scene.nodes["pve2"]
    assert "Begin" in started(scene, 2 * history.LAG_SECONDS + 2)


def test_an_answer_from_before_the_epoch_was_opened_is_no_older_history() -> None:
    scene = two_nodes()
    scene.lose("pve1", bmc=OFF)
    scene.step(4)
    scene.registers["pve2"] = scene.register
    scene.prove("pve1")
    assert "Takeover" in started(scene, history.LAG_SECONDS - 2)


@pytest.mark.parametrize(("qdevice", "noted"), [(1, True), (0, False)])
def test_a_node_that_leaves_without_being_fenced_is_noted_in_the_register(qdevice: int, noted: bool) -> None:
    scene = Scene(names=("pve1", "pve2", "pve3"))
    scene.qdevice = qdevice
    scene.settle()
    scene.nodes["pve3"].lrm_mode = "maintenance"
    scene.step(6)
    scene.lose("pve3", bmc=OFF)
    assert started(scene, history.LEFT_SECONDS - 1) == set()
    assert started(scene, 2) == ({"Begin"} if noted else set())
    if noted:
        scene.end(operations.Begin, epoch=scene.register + 1)
        assert started(scene, 60) == set()
