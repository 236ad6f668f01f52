"""Draining and pausing nodes: who is moved, where to, when; who waits, and who stays and why."""

import dataclasses
from typing import Any

import pytest

from decide_scene import GIB, OFF, ON, Scene, condition
from pveha.api import hacluster
from pveha.decide import maintenance, rounds
from pveha.model import cluster, guests, operations

CONTAINER = guests.GuestKind.CONTAINER


def set_availability(scene: Scene, name: str, word: str) -> None:
    scene.spec["nodes"] = [
        {**each, "availability": word} if each["name"] == name else each for each in scene.spec["nodes"]
    ]


def drained(scene: Scene, name: str = "pve2", *, limit: int = 2) -> Scene:
    """A settled cluster in which a user drains a node."""
    scene.settle()
    scene.spec = {**scene.spec, "safety": {"maxConcurrentMigrations": limit}}
    set_availability(scene, name, "Drain")
    return scene


def moves(decision: rounds.Decision) -> dict[int, str]:
    """Where guests are sent, by vmid."""
    return {each.ref.vmid: each.target for each in decision.start if isinstance(each, operations.Migrate)}


def told(decision: rounds.Decision) -> tuple[str, str, str]:
    found = decision.report.cluster.condition("Drained")
    assert found is not None
    return found.status, found.reason, found.message


def make_container(scene: Scene, vmid: int) -> None:
    """The guest becomes a container, unregistered."""
    ref = guests.GuestRef(vmid, CONTAINER)
    scene.set_guest(vmid, ref=ref)
    scene.set_config(vmid, ref=ref)
    scene.resources.pop(f"vm:{vmid}", None)
    service = scene.services.pop(f"vm:{vmid}", None)
    scene.resources[ref.sid] = cluster.HAResource(ref.sid, failback=False)
    if service is not None:
        scene.services[ref.sid] = service


def move_by_crm(scene: Scene, vmid: int, target: str) -> None:
    """The CRM has taken the command up."""
    record = scene.services[f"vm:{vmid}"]
    scene.services[f"vm:{vmid}"] = dataclasses.replace(record, state="migrate", target=target)


def arrive(scene: Scene, vmid: int, target: str) -> None:
    scene.move(vmid, target)
    scene.services[f"vm:{vmid}"] = cluster.ServiceStatus("started", target)


def test_no_node_is_drained_unasked() -> None:
    decision = Scene().settle().step(1)
    assert not moves(decision)
    assert told(decision)[:2] == ("Unknown", "NotRequested")


def test_the_smallest_go_first_and_no_more_than_the_limit() -> None:
    scene = Scene()
    for vmid in range(110, 114):
        scene.add_guest(vmid, "pve2")
        scene.set_config(vmid, memory_bytes=(120 - vmid) * GIB)
    scene = drained(scene, limit=2)
    decision = scene.step(0.1)
    assert set(moves(decision)) == {102, 113}
    assert all(each.managed for each in decision.start if isinstance(each, operations.Migrate))
    assert told(decision)[:2] == ("False", "Draining")
    assert not moves(scene.step(0.5)), "the limit counts what is on its way"
    scene.end(operations.Migrate)
    scene.end(operations.Migrate)
    move_by_crm(scene, 102, "pve1")
    assert not moves(scene.step(5))
    arrive(scene, 102, "pve1")
    assert set(moves(scene.step(0.5))) == {112}


def test_what_others_move_counts() -> None:
    scene = Scene()
    scene.add_guest(110, "pve1", protect=False)
    scene.set_guest(110, lock="migrate")
    del scene.services["vm:110"], scene.resources["vm:110"]
    assert not moves(drained(scene, limit=1).step(0.1))


def test_a_guest_that_ha_does_not_manage_goes_by_a_task() -> None:
    scene = Scene()
    scene.add_guest(110, "pve2", protect=False)
    del scene.services["vm:110"], scene.resources["vm:110"]
    decision = drained(scene).step(0.1)
    managed = {each.ref.vmid: each.managed for each in decision.start if isinstance(each, operations.Migrate)}
    assert managed == {102: True, 110: False}


def test_the_node_is_empty_once_the_crm_knows_it_too() -> None:
    scene = drained(Scene())
    target = moves(scene.step(0.1))[102]
    scene.end(operations.Migrate)
    move_by_crm(scene, 102, target)
    scene.step(0.5)
    scene.move(102, target)
    decision = scene.step(0.5)
    assert told(decision)[:2] == ("False", "Draining")
    arrive(scene, 102, target)
    decision = scene.step(0.5)
    assert told(decision)[:2] == ("True", "OK")
    assert [event.reason for event in decision.events] == ["NodeDrained"]
    assert "Migrated" not in [event.reason for event in scene.step(0.5).events]


def test_a_failure_is_told_and_tried_again_elsewhere_with_growing_pauses() -> None:
    scene = drained(Scene())
    first = moves(scene.step(0.1))[102]
    scene.end(operations.Migrate)
    move_by_crm(scene, 102, first)
    scene.step(0.5)
    scene.services["vm:102"] = cluster.ServiceStatus("started", "pve2")
    decision = scene.step(0.5)
    assert told(decision)[:2] == ("False", "MigrationFailed")
    assert [event.reason for event in decision.events] == ["MigrationFailed"]
    assert not moves(scene.step(maintenance.RETRY_SECONDS - 5))
    scene.step(8)
    second = next(each for each in scene.operations if isinstance(each.operation, operations.Migrate))
    assert isinstance(second.operation, operations.Migrate)
    assert second.operation.target != first
    scene.end(operations.Migrate, error="no route to host")
    scene.step(0.1)
    move = scene.memory.moves[102]
    assert move.attempts == 2
    assert move.retry_at - scene.now == pytest.approx(2 * maintenance.RETRY_SECONDS, abs=1)


def test_a_command_that_nobody_takes_up_has_failed() -> None:
    scene = drained(Scene())
    scene.step(0.1)
    scene.end(operations.Migrate)
    failures = []
    for seconds in (maintenance.TAKE_UP_SECONDS - 2, 4):
        scene.step(seconds)
        failures.append(scene.memory.moves[102].attempts)
    assert failures == [0, 1]


@pytest.mark.parametrize(
    ("change", "standing", "why"),
    [
        ({"lock": "backup"}, "Draining", "locked (backup)"),
        ({"status": "paused"}, "GuestsStay", "it is paused"),
        ({"status": "unknown"}, "Draining", "does not tell whether it runs"),
    ],
)
def test_who_waits_and_who_stays(change: dict[str, Any], standing: str, why: str) -> None:
    scene = Scene()
    scene.set_guest(102, **change)
    decision = drained(scene).step(0.1)
    assert not moves(decision)
    assert told(decision)[1] == standing
    assert why in told(decision)[2]


def test_a_stopped_guest_is_not_left_unless_ha_is_to_start_it() -> None:
    scene = Scene()
    scene.set_guest(102, status="stopped")
    assert "HA is to start it" in told(drained(scene).step(0.1))[2]
    scene = Scene()
    scene.set_guest(102, status="stopped")
    scene.set_resource("vm:102", state=cluster.HAState.STOPPED)
    scene.services["vm:102"] = cluster.ServiceStatus("stopped", "pve2")
    assert told(drained(scene).step(0.1))[:2] == ("True", "OK")


def test_local_volumes_and_devices_stay() -> None:
    scene = Scene()
    scene.set_config(102, storages=frozenset({"local"}))
    scene.add_guest(110, "pve2")
    scene.set_config(110, local_devices=frozenset({"hostpci0"}))
    decision = drained(scene).step(0.1)
    assert not moves(decision)
    assert told(decision)[1] == "GuestsStay"
    assert "hostpci0" in told(decision)[2]
    assert "storage local" in told(decision)[2]


@pytest.mark.parametrize(("word", "moved"), [("Restart", True), ("Stay", False)])
def test_containers_go_as_their_policy_says(word: str, moved: bool) -> None:
    scene = Scene()
    make_container(scene, 102)
    scene.policies["p"] = {"maintenance": {"containers": word}}
    scene.protected[102] = {"policyRef": {"name": "p"}}
    decision = drained(scene).step(0.1)
    assert bool(moves(decision)) is moved
    assert told(decision)[1] == ("Draining" if moved else "GuestsStay")


def test_a_container_of_nobody_stays() -> None:
    scene = Scene()
    make_container(scene, 102)
    del scene.protected[102]
    decision = drained(scene).step(0.1)
    assert not moves(decision)
    assert "no ProtectedVM" in told(decision)[2]


def test_a_guest_that_would_be_moved_back_stays() -> None:
    scene = Scene()
    scene.set_resource("vm:102", failback=True)
    scene.rules = (cluster.HARule("home", "node-affinity", frozenset({"vm:102"}), {"pve2": 2, "pve1": 1}),)
    decision = drained(scene).step(0.1)
    assert not moves(decision)
    assert "move it back" in told(decision)[2]


@pytest.mark.parametrize("word", ["Pause", "Drain"])
def test_nothing_goes_to_a_node_that_takes_no_guests(word: str) -> None:
    scene = drained(Scene())
    set_availability(scene, "pve1", word)
    assert set(moves(scene.step(0.1)).values()) == {"pve3"}


def test_no_guest_of_a_lost_node_goes_to_a_paused_one() -> None:
    scene = Scene().settle()
    set_availability(scene, "pve1", "Pause")
    scene.lose("pve2", bmc=OFF)
    scene.step(0.5)
    scene.prove("pve2")
    targets = {each.target for each in scene.step(0.1).start if isinstance(each, operations.Takeover)}
    assert targets == {"pve3"}


def test_a_guest_of_a_paused_node_is_recovered() -> None:
    scene = Scene().settle()
    set_availability(scene, "pve2", "Pause")
    assert not moves(scene.step(0.5))
    scene.lose("pve2", bmc=OFF)
    assert [type(each).__name__ for each in scene.step(0.5).start] == ["Fence"]


def test_no_guest_is_sent_while_a_node_is_in_doubt() -> None:
    scene = drained(Scene(names=("pve1", "pve2", "pve3", "pve4")))
    scene.set_answers("pve4", answers=False)
    scene.nodes["pve4"].silent_since = scene.now - 5
    decision = scene.step(0.1)
    assert not moves(decision)
    assert told(decision)[:2] == ("False", "Waiting")
    assert "pve4 is Suspect" in told(decision)[2]


def test_a_dead_node_at_rest_is_in_nobodys_way() -> None:
    scene = Scene(names=("pve1", "pve2", "pve3", "pve4")).settle()
    scene.lose("pve4", bmc=OFF)
    scene.step(0.5)
    scene.prove("pve4")
    scene.step(0.1)
    scene.spec = {**scene.spec, "safety": {"maxConcurrentMigrations": 2}}
    set_availability(scene, "pve2", "Drain")
    assert not moves(scene.step(0.1)), "its guest is being started"
    done = operations.GuestResult(guests.GuestRef(104, guests.GuestKind.VM), "Running")
    scene.end(operations.Takeover, guests=(done,))
    arrive(scene, 104, "pve1")
    scene.step(0.5)
    assert moves(scene.step(0.5)) or scene.memory.moves


@pytest.mark.parametrize(
    "change", [{"pauseRequests": ["works"]}, {"mode": "Observe"}], ids=["paused", "observing"]
)
def test_nothing_is_moved_while_nothing_may_begin(change: dict[str, Any]) -> None:
    scene = drained(Scene())
    scene.spec = {**scene.spec, **change}
    decision = scene.step(0.1)
    assert not moves(decision)
    assert told(decision)[:2] == ("False", "Waiting")


def test_without_the_privilege_nothing_is_drained_but_all_else_works() -> None:
    scene = drained(Scene())
    held = frozenset({"Sys.Audit", "Sys.Console", "VM.Audit", "VM.PowerMgmt", "Datastore.Audit"})
    seen = dataclasses.replace(scene.snapshot(), privileges=cluster.Privileges(held, held, held, {"": "9.2"}))
    decision = rounds.decide(seen, scene.specs(), scene.memory)
    assert not moves(decision)
    assert told(decision)[:2] == ("False", "PrivilegesMissing")
    assert "VM.Migrate" in told(decision)[2]
    assert condition(decision.report.cluster, "Ready")[0] == "True"
    assert condition(decision.report.cluster, "Acting")[0] == "True"


def test_back_at_active_nothing_is_moved_back() -> None:
    scene = drained(Scene())
    target = moves(scene.step(0.1))[102]
    scene.end(operations.Migrate)
    move_by_crm(scene, 102, target)
    scene.step(0.5)
    set_availability(scene, "pve2", "Active")
    arrive(scene, 102, target)
    decision = scene.step(30)
    assert not moves(decision)
    assert told(decision)[:2] == ("Unknown", "NotRequested")
    assert not scene.memory.moves


def test_a_new_leader_waits_for_what_is_on_the_way() -> None:
    scene = drained(Scene(), limit=1)
    scene.add_guest(110, "pve2")
    scene.step(0.1)
    move_by_crm(scene, 102, "pve1")
    scene.restart()
    scene.settle()
    assert not any(isinstance(each.operation, operations.Migrate) for each in scene.operations)
    arrive(scene, 102, "pve1")
    assert set(moves(scene.step(0.5))) == {110}


def test_a_drained_node_may_be_switched_off() -> None:
    scene = Scene()
    scene.set_guest(102, status="stopped")
    scene.set_resource("vm:102", state=cluster.HAState.STOPPED)
    scene.services["vm:102"] = cluster.ServiceStatus("stopped", "pve2")
    scene = drained(scene)
    scene.nodes["pve2"].lrm_mode = "shutdown"
    scene.step(0.5)
    scene.lose("pve2", bmc=OFF)
    scene.set_guest(102, status="unknown")
    assert told(scene.step(400))[:2] == ("True", "OK")


def test_an_absent_availability_is_active() -> None:
    spec = Scene().specs().cluster.spec
    for name in ("pve1", "not listed"):
        assert spec.availability(name) is hacluster.Availability.ACTIVE


def test_a_lost_node_in_drain_is_fenced_as_any_other() -> None:
    scene = drained(Scene())
    scene.step(0.1)
    scene.lose("pve2", bmc=ON)
    assert "Fence" in [type(each).__name__ for each in scene.step(4).start] or scene.operations
    fences = [each for each in scene.operations if isinstance(each.operation, operations.Fence)]
    assert fences
    assert 102 not in scene.memory.moves
