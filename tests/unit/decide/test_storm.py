"""After a storm nothing is begun for a while; what was begun is finished, and a new leader is no bolder."""

import dataclasses
import datetime

import pytest

from decide_scene import OFF, ON, WALL, Scene, condition, edits, kinds
from pveha.decide import memory, recall
from pveha.model import cluster, operations

FIVE = ("pve1", "pve2", "pve3", "pve4", "pve5")
COOLDOWN = 300.0
TIMES = ("start_time", "end_time")


def acting(scene: Scene) -> str:
    return condition(scene.decide().report.cluster, "Acting")[1]


def rejoin(scene: Scene, *names: str) -> None:
    for name in names:
        scene.nodes[name].online = True
        scene.nodes[name].bmc = ON
        scene.nodes[name].lrm_lives = True
        scene.set_answers(name, True)


def storm(scene: Scene, *names: str) -> None:
    """More nodes are lost for half a minute than may be, and return."""
    for name in names:
        scene.lose(name, bmc=ON)
    scene.step(30)
    assert acting(scene) == "BlastRadius"
    rejoin(scene, *names)
    scene.step(1)


@pytest.fixture
def scene() -> Scene:
    return Scene(names=FIVE).settle()


def test_nothing_is_begun_until_the_cooldown_is_over(scene: Scene) -> None:
    storm(scene, "pve4", "pve5")
    assert acting(scene) == "StormCooldown"
    scene.step(60)
    scene.lose("pve5")
    assert all(not scene.step(0.5).start for _ in range(100))
    scene.step(COOLDOWN - 60 - 50 - 5)
    assert acting(scene) == "StormCooldown"
    scene.step(6)
    assert [type(state.operation) for state in scene.operations] == [operations.Fence]
    assert acting(scene) == "OK"


def test_losses_while_a_frozen_node_believes_in_an_old_membership_are_a_storm_too(scene: Scene) -> None:
    """pve3's corosync hangs: it stays quorate in its own eyes, and answers. Then pve4 is lost."""
    scene.lose("pve3", answers=True, bmc=ON)
    scene.views["pve3"] = dict.fromkeys(FIVE, True)
    scene.step(10)
    scene.lose("pve4", bmc=None)
    scene.step(20)
    assert acting(scene) == "NotQuorate"
    scene.views.clear()
    rejoin(scene, "pve3")
    scene.step(1)
    assert acting(scene) == "StormCooldown"


def test_views_that_contradict_each_other_for_a_moment_are_no_storm(scene: Scene) -> None:
    scene.lose("pve4", bmc=None)
    scene.step(20)
    scene.lose("pve3", answers=True, bmc=ON)
    scene.views["pve3"] = dict.fromkeys(FIVE, True)
    scene.step(1)
    scene.views.clear()
    rejoin(scene, "pve3")
    scene.step(1)
    assert acting(scene) == "OK"


def test_the_message_says_why_how_long_and_that_native_ha_goes_on(scene: Scene) -> None:
    storm(scene, "pve4", "pve5")
    told = next(each for each in scene.decide().report.cluster.conditions if each.type == "Acting")
    assert "2 of 5 nodes were lost at once (pve4, pve5)" in told.message
    assert "for 300 s (safety.stormCooldownSeconds), until 20" in told.message
    assert "Proxmox's own HA goes on" in told.message
    scene.step(20)
    later = next(each for each in scene.decide().report.cluster.conditions if each.type == "Acting")
    assert later.message == told.message, "it must not change while time passes"


def test_another_storm_begins_the_wait_anew(scene: Scene) -> None:
    storm(scene, "pve4", "pve5")
    scene.step(250)
    storm(scene, "pve3", "pve5")
    scene.step(280)
    assert acting(scene) == "StormCooldown"


def test_a_disowned_guest_is_given_back_in_the_cooldown(scene: Scene) -> None:
    storm(scene, "pve4", "pve5")
    marked = "[pveha op=t1.0 epoch=1 was=started]"
    scene.set_resource("vm:104", state=cluster.HAState.IGNORED, comment=marked)
    scene.services.pop("vm:104")
    scene.step(1)
    resumed = scene.end(
        operations.Takeover, guests=(operations.GuestResult(scene.guests[104].ref, "Running"),)
    )
    assert [item.ref.vmid for item in resumed.items] == [104]
    found: dict[str, operations.Edit] = {}
    for _ in range(80):
        found |= edits(scene.step(0.5))
    assert acting(scene) == "StormCooldown"
    desired = found["vm:104"].desired
    assert desired is not None
    assert desired.state is cluster.HAState.STARTED


def test_a_guest_that_cannot_be_claimed_in_the_cooldown_is_left_to_native_ha_at_once(scene: Scene) -> None:
    """Its node was lost again; no takeover of it begins for minutes, and until then nobody would start it."""
    storm(scene, "pve4", "pve5")
    scene.lose("pve5")
    marked = "[pveha op=t1.0 epoch=1 was=started]"
    scene.set_resource("vm:105", state=cluster.HAState.IGNORED, comment=marked)
    scene.services.pop("vm:105")
    found: dict[str, operations.Edit] = {}
    for _ in range(30):
        found |= edits(scene.step(0.5))
    assert acting(scene) == "StormCooldown"
    assert found["vm:105"].why == "never claimed: left to native HA"


@pytest.mark.parametrize("rages", [True, False])
def test_a_guest_that_native_ha_has_just_moved_in_a_storm_is_left_to_it(scene: Scene, rages: bool) -> None:
    """Its file is elsewhere already, and what was read of the CRM still has it on the lost node, as a
    migration from there leaves it."""
    scene.add_guest(106, "pve5")
    scene.step(1)
    scene.set_guest(105, lock="clone")
    scene.lose("pve5")
    scene.step(4)
    scene.prove("pve5")
    scene.step(60)
    if rages:
        scene.lose("pve4", bmc=ON)
    scene.step(10)
    assert acting(scene) == ("BlastRadius" if rages else "OK")
    scene.move(105, "pve3")
    scene.set_guest(105, status="stopped", lock="")
    decision = scene.step(0.5)
    taken = [each for each in decision.start if isinstance(each, operations.Takeover)]
    assert bool(taken) is not rages, decision.sentence


def test_nothing_is_registered_in_the_cooldown(scene: Scene) -> None:
    storm(scene, "pve4", "pve5")
    scene.add_guest(201, "pve1")
    del scene.resources["vm:201"], scene.services["vm:201"]
    assert all("vm:201" not in edits(scene.step(0.5)) for _ in range(100))
    found: dict[str, operations.Edit] = {}
    for _ in range(600):
        found |= edits(scene.step(0.5))
    assert "vm:201" in found


@pytest.mark.parametrize("during", [True, False])
def test_a_new_leader_finds_it_in_the_status_and_waits_as_long_again(scene: Scene, during: bool) -> None:
    if during:
        for name in ("pve4", "pve5"):
            scene.lose(name, bmc=ON)
        scene.step(30)
        scene.restart()
        rejoin(scene, "pve4", "pve5")
    else:
        storm(scene, "pve4", "pve5")
        scene.step(200)
        scene.restart()
    scene.step(6)
    scene.end(operations.Begin, epoch=2)
    scene.step(COOLDOWN - 20)
    assert acting(scene) == "StormCooldown"
    scene.step(15)
    assert acting(scene) == "OK"


def test_a_new_leader_with_another_clock_waits_no_less(scene: Scene) -> None:
    storm(scene, "pve4", "pve5")
    status = scene.decide().report.cluster
    assert status.storm is not None
    scene.restart()
    long_ago = {name: getattr(status.storm, name) - datetime.timedelta(hours=1) for name in TIMES}
    scene.memory = recall.first(status.model_copy(update={"storm": status.storm.model_copy(update=long_ago)}))
    scene.step(6)
    scene.end(operations.Begin, epoch=2)
    scene.step(COOLDOWN - 20)
    assert acting(scene) == "StormCooldown"


def test_the_status_forgets_it_when_it_is_over(scene: Scene) -> None:
    storm(scene, "pve4", "pve5")
    shown = scene.decide().report.cluster.storm
    assert shown is not None
    assert shown.end_time is not None
    assert shown.end_time.timestamp() == pytest.approx(WALL + scene.now, abs=3)
    scene.step(COOLDOWN)
    assert scene.decide().report.cluster.storm is None


def test_a_person_who_raises_the_limit_says_that_the_nodes_are_dead(scene: Scene) -> None:
    for name in ("pve4", "pve5"):
        scene.lose(name, bmc=OFF)
    scene.step(10)
    assert acting(scene) == "BlastRadius"
    scene.spec["safety"] = {"maxFailedNodesPercent": 40}
    assert kinds(scene.step(0.5)) == ["Fence"]


def test_a_person_can_end_the_wait(scene: Scene) -> None:
    storm(scene, "pve4", "pve5")
    scene.spec["safety"] = {"stormCooldownSeconds": 0}
    scene.step(0.5)
    assert acting(scene) == "OK"


def test_loss_of_quorum_is_a_storm_but_not_of_our_own_sight() -> None:
    scene = Scene().settle()
    scene.quorate = False
    scene.step(10)
    scene.quorate = True
    scene.step(1)
    assert acting(scene) == "StormCooldown"

    scene = Scene().settle()
    for name in scene.nodes:
        scene.set_answers(name, False)
    scene.step(10)
    assert acting(scene) == "NotConnected"
    for name in scene.nodes:
        scene.set_answers(name, True)
    scene.step(1)
    assert acting(scene) == "OK"


def test_a_moment_without_a_quorate_answer_is_no_storm() -> None:
    scene = Scene().settle()
    scene.quorate = False
    scene.step(1)
    scene.quorate = True
    scene.step(1)
    assert acting(scene) == "OK"


def test_an_empty_memory_finds_the_traces_of_a_storm() -> None:
    scene = Scene().settle()
    for node in scene.nodes.values():
        node.booted_at = scene.now - 150
    scene.memory = memory.Memory()
    scene.operations, scene.started_at = [], scene.now
    scene.step(6)
    scene.end(operations.Begin, epoch=2)
    scene.step(5)
    assert acting(scene) == "StormCooldown"
    scene.step(COOLDOWN - 150)
    assert acting(scene) == "OK"


def test_one_node_that_has_just_booted_is_none() -> None:
    scene = Scene().settle()
    scene.nodes["pve2"].booted_at = scene.now - 150
    scene.memory = dataclasses.replace(memory.Memory(), epoch=1)
    scene.step(20)
    assert acting(scene) == "OK"
