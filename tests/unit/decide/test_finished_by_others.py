"""A failover that an earlier leader began is completed in the status by whoever finds the guest running."""

from typing import Any

from decide_scene import WALL, Scene, _object
from pveha import api
from pveha.decide import losses
from pveha.model import cluster, mark, specs

BEGUN = {
    "id": "pve2-1",
    "from": "pve2",
    "to": "pve1",
    "cause": "node pve2 was lost and proven off",
    "startTime": "2026-11-18T00:00:00Z",
}


class Restarted(Scene):
    """Guest 102 has been moved from pve2 to pve1, as its status, all that is left, says."""

    def __init__(self, begun: dict[str, Any]) -> None:
        super().__init__()
        self.begun = begun
        self.move(102, "pve1")
        self.services["vm:102"] = cluster.ServiceStatus("started", "pve1")

    def specs(self) -> specs.Specs:
        wanted = super().specs()
        manifest = wanted.guests["vm102"].model_dump(by_alias=True, mode="json", exclude_none=True)
        pvm = _object(api.ProtectedVM, "vm102", manifest["spec"])
        status = api.ProtectedVM.model_validate({**manifest, "status": {"lastFailover": self.begun}}).status
        pvm = pvm.model_copy(update={"status": status})
        return specs.Specs(wanted.cluster, wanted.policies, {**wanted.guests, "vm102": pvm})

    def last(self) -> Any:
        return self.step(0.5).report.guests["vm102"].last_failover


def test_it_is_completed_once_the_guest_runs_at_its_target_under_native_ha() -> None:
    scene = Restarted(BEGUN)
    scene.step(losses.TOLD_ANEW_SECONDS)
    done = scene.last()
    assert done.completion_time is not None
    assert 0 <= WALL + scene.now - done.completion_time.timestamp() <= 1
    assert done.downtime_seconds == round((done.completion_time - done.start_time).total_seconds())
    assert (done.id, done.from_, done.to) == ("pve2-1", "pve2", "pve1")
    assert scene.last() == done


def test_not_while_it_does_not_run_there() -> None:
    scene = Restarted(BEGUN)
    scene.set_guest(102, status="stopped")
    scene.step(60)
    assert scene.last().completion_time is None


def test_elsewhere_it_was_native_ha() -> None:
    scene = Restarted(BEGUN)
    scene.move(102, "pve3")
    scene.step(60)
    done = scene.last()
    assert (done.id, done.from_, done.to, done.engine) == ("pve2-1", "pve2", "pve3", "Native")
    assert done.completion_time is not None


def test_elsewhere_not_by_what_the_node_told_that_it_was_moved_from_again() -> None:
    """Found by seed 610043."""
    scene = Restarted(BEGUN)
    scene.move(102, "pve3")
    scene.step(losses.TOLD_ANEW_SECONDS - 2)
    scene.move(102, "pve1")
    assert scene.last().completion_time is None
    for _ in range(10):
        assert scene.last().completion_time is None


def test_elsewhere_not_by_what_its_old_node_told_before_native_ha_moved_it_there() -> None:
    scene = Restarted(BEGUN)
    scene.move(102, "pve2")
    scene.step(60)
    scene.move(102, "pve3")
    moved = scene.now
    while scene.now - moved < losses.TOLD_ANEW_SECONDS - 1:
        assert scene.last().completion_time is None
    scene.step(2)
    assert scene.last().completion_time is not None


def test_not_by_what_its_old_node_told_before_native_ha_moved_it_there() -> None:
    scene = Restarted(BEGUN)
    scene.move(102, "pve2")
    scene.step(60)
    scene.move(102, "pve1")
    moved = scene.now
    while scene.now - moved < losses.TOLD_ANEW_SECONDS - 1:
        assert scene.last().completion_time is None
    scene.step(2)
    assert scene.last().completion_time is not None


def test_not_while_the_mark_of_the_takeover_is_there_and_nobody_has_seen_it_run() -> None:
    scene = Restarted(BEGUN)
    ours = mark.Mark(cluster.HAState.STARTED, op="t1.0", epoch=1)
    scene.set_resource("vm:102", state=cluster.HAState.IGNORED, comment=str(mark.Comment("", mark=ours)))
    scene.step(60)
    assert scene.last().completion_time is None


def test_not_by_what_a_node_that_has_just_come_back_told_before_it_went() -> None:
    scene = Restarted(BEGUN)
    scene.lose("pve1", bmc=None)
    assert scene.last().completion_time is None
    scene.step(5)
    scene.nodes["pve1"].online = True
    scene.set_answers("pve1", answers=True)
    back = scene.now
    while scene.now - back < 2 * losses.TOLD_ANEW_SECONDS - 2:
        assert scene.last().completion_time is None
    scene.step(4)
    assert scene.last().completion_time is not None


def test_what_is_completed_stays() -> None:
    complete = {**BEGUN, "completionTime": "2026-11-18T00:00:08Z", "downtimeSeconds": 8}
    assert Restarted(complete).last().downtime_seconds == 8
