"""A start that meets the lock of a dead client is tried again where the guest is, for two minutes (S20)."""

import pytest

from decide_scene import Scene, edits, kinds
from pveha.decide import outcomes, storage
from pveha.model import cluster, mark, operations

STARTED, IGNORED = cluster.HAState.STARTED, cluster.HAState.IGNORED
EXITED = "the start task failed: start failed: QEMU exited with code 1"


def inventory(kind: str) -> cluster.Inventory:
    stores = (cluster.StorageResource("pve1", "store", shared=True, available=True, type=kind),)
    return cluster.Inventory({}, {}, stores, 0.0)


@pytest.mark.parametrize(
    ("message", "kind", "held"),
    [
        (EXITED, "nfs", True),
        (EXITED, "rbd", True),
        (EXITED, "lvm", False),
        ("it did not run within 60 s", "cephfs", True),
        ("it did not run within 60 s", "dir", False),
        ("volume 'store:102/x.qcow2' does not exist", "nfs", False),
        ('Failed to get "write" lock', "dir", True),
        ("Is another process using the image [/mnt/x.qcow2]?", "dir", True),
        ("start failed: I/O blocked", "lvm", True),
    ],
)
def test_what_counts_as_the_lock_of_a_dead_client(message: str, kind: str, held: bool) -> None:
    assert storage.may_be_held(message, {"store"}, inventory(kind)) is held


def test_a_storage_of_other_guests_does_not_count() -> None:
    assert not storage.may_be_held(EXITED, {"elsewhere"}, inventory("nfs"))
    assert not storage.may_be_held(EXITED, {"store"}, None)


def claimed() -> Scene:
    """pve2 is proven off, guest 102 was claimed by pve1, the CRM has dropped it."""
    scene = Scene().settle()
    scene.lose("pve2")
    scene.step()
    scene.step(4)
    scene.prove("pve2")
    assert kinds(scene.step(0.1)) == ["Takeover"]
    comment = str(mark.Comment("", mark=mark.Mark(STARTED, op="t2.0", epoch=2)))
    scene.set_resource("vm:102", state=IGNORED, comment=comment)
    scene.move(102, "pve1")
    scene.set_guest(102, status="stopped")
    scene.drop_at_flush.add("vm:102")
    return scene


def fail(scene: Scene, message: str) -> operations.Takeover:
    """The takeover in flight ends with a start that failed."""
    running = next(s.operation for s in scene.operations if isinstance(s.operation, operations.Takeover))
    scene.now += 0.5
    result = operations.GuestResult(running.items[0].ref, "StartFailed", message)
    scene.end(operations.Takeover, guests=(result,))
    return running


def failures_until_adopted(scene: Scene, message: str) -> tuple[list[operations.Takeover], float]:
    """Let every start fail: the takeovers tried, and seconds until the guest is given back."""
    began, tried = scene.now, [fail(scene, message)]
    while scene.now - began < 300:
        decision = scene.step(0.5)
        if (edit := edits(decision).get("vm:102")) is not None:
            assert edit.desired is not None
            assert edit.desired.state is STARTED
            return tried, scene.now - began
        if "Takeover" in kinds(decision):
            tried.append(fail(scene, message))
    raise AssertionError("never given back")


def test_it_is_tried_on_the_same_target_for_two_minutes_and_given_to_native_ha_then() -> None:
    tried, seconds = failures_until_adopted(claimed(), "start failed: lock held")
    assert {takeover.target for takeover in tried} == {"pve1"}
    assert storage.WAIT_SECONDS <= seconds <= storage.WAIT_SECONDS + 10
    assert len(tried) == pytest.approx(storage.WAIT_SECONDS / (storage.RETRY_SECONDS + 0.5), abs=3)


def test_another_failure_is_given_up_after_three_tries() -> None:
    tried, seconds = failures_until_adopted(claimed(), "volume does not exist")
    assert len(tried) == outcomes.MAX_ATTEMPTS
    assert seconds < 60


def test_a_start_that_succeeds_at_last_ends_the_wait() -> None:
    scene = claimed()
    fail(scene, "start failed: lock held")
    while "Takeover" not in kinds(scene.step(0.5)):
        assert scene.memory.guest("vm:102").held_since is not None
    ref = scene.guests[102].ref
    scene.end(operations.Takeover, guests=(operations.GuestResult(ref, "Running"),))
    scene.step(0.1)
    assert scene.memory.guest("vm:102").held_since is None
    assert scene.memory.guest("vm:102").verified


def test_what_it_waits_for_is_told_without_a_change_at_every_try() -> None:
    scene = claimed()
    fail(scene, "start failed: lock held")
    told = set()
    for _ in range(60):
        report = scene.step(0.5).report.guests["vm102"]
        ready = next(each for each in report.conditions if each.type == "Ready")
        told.add((ready.reason, ready.message))
        if any(state.outcome is None for state in scene.operations):
            fail(scene, "start failed: lock held")
    assert len(told) == 1
    assert "lock of the lost node" in told.pop()[1]


def test_the_wait_is_not_carried_to_another_failure() -> None:
    scene = claimed()
    fail(scene, "start failed: lock held")
    scene.step(0.1)
    scene.set_resource("vm:102", state=STARTED, comment="")
    scene.step(1)
    assert scene.memory.guest("vm:102").held_since is None
