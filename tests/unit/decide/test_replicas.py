"""Guests on replicated local disks: from which replica they are started, and what becomes of their jobs
(S19)."""

import dataclasses
from typing import Any

import pytest

from decide_scene import WALL, Scene, condition, kinds
from pveha.decide import rounds
from pveha.model import cluster, operations, power, replication

JOB = replication.Job("102-0", 102, "pve3", "pve2", comment="nightly")
OTHER = replication.Job("102-1", 102, "pve1", "pve2")


def scene(*jobs: replication.Job, ages: dict[str, float] | None = None, **data: Any) -> Scene:
    """Guest 102 of pve2 is on local ZFS; `ages`: seconds since the last sync of each job."""
    made = Scene()
    made.policies["zfs"] = {"data": {"require": "SharedOrReplicated", **data}}
    made.protected[102]["policyRef"] = {"name": "zfs"}
    made.set_config(102, storages=frozenset({"local"}))
    made.storage_types["local"] = "zfspool"
    replicate(made, *(jobs or (JOB,)), ages={"102-0": 100.0} if ages is None else ages)
    return made.settle()


def replicate(made: Scene, *jobs: replication.Job, ages: dict[str, float], source: str = "pve2") -> None:
    by_id = {job.id: job for job in jobs}
    syncs = {
        id_: replication.Sync(id_, source, by_id[id_].target, WALL + made.now - age)
        for id_, age in ages.items()
    }
    made.replication = replication.Replication({102: jobs}, syncs, made.now)


def ready(made: Scene) -> tuple[str, str]:
    return condition(made.step(1).report.guests["vm102"], "FailoverReady")


def message(made: Scene) -> str:
    found = made.step(1).report.guests["vm102"].condition("FailoverReady")
    assert found is not None
    return found.message


def lose(made: Scene) -> list[operations.Takeover]:
    """Takeovers once pve2 has been lost and proven off."""
    made.lose("pve2")
    decision = made.step()
    if kinds(decision) == ["Fence"]:
        made.step(4)
        made.prove("pve2")
        decision = made.step(0.1)
    return [each for each in decision.start if isinstance(each, operations.Takeover)]


def job_edits(made: Scene) -> dict[str, replication.Job]:
    """What becomes of jobs, by id, once they have been read anew."""
    for _ in range(4):
        made.replication = dataclasses.replace(made.replication, answered_at=made.now + 0.1)
        for operation in made.step(0.2).start:
            if isinstance(operation, operations.EditJobs):
                return {edit.expected.id: edit.desired for edit in operation.edits}
    return {}


# Readiness


def test_a_guest_with_a_young_replica_is_ready_and_says_what_would_be_lost() -> None:
    made = scene()
    status = made.step(1).report.guests["vm102"]
    assert condition(status, "FailoverReady") == ("True", "OK")
    assert status.failover_plan is not None
    assert status.failover_plan.target_node == "pve3"
    (told,) = status.replicas
    assert told.node == "pve3"
    assert status.failover_plan.recovery_point_time == told.last_sync_time
    assert told.last_sync_time.timestamp() == int(made.replication.syncs["102-0"].last)


def test_without_the_policys_word_a_replica_is_not_used() -> None:
    made = scene(require="Shared")
    assert ready(made) == ("False", "HasReplication")
    assert "data.require" in message(made)
    assert lose(made) == []


def test_a_replica_that_is_too_old_is_named_with_its_job_and_node() -> None:
    made = scene(ages={"102-0": 700.0}, maxDataLossSeconds=600)
    assert ready(made) == ("False", "ReplicaTooOld")
    assert "replication job 102-0, on pve3" in message(made)
    assert lose(made) == []


def test_a_job_that_has_never_synced_is_no_replica() -> None:
    assert ready(scene(ages={})) == ("False", "ReplicaUnknown")


def test_what_another_node_told_of_its_syncs_says_nothing_of_the_guest_here() -> None:
    made = scene()
    replicate(made, JOB, ages={"102-0": 10.0}, source="pve1")
    assert ready(made) == ("False", "ReplicaUnknown")


def test_a_replica_whose_job_is_being_removed_is_none() -> None:
    assert ready(scene(dataclasses.replace(JOB, removing=True))) == ("False", "ReplicaUnknown")


@pytest.mark.parametrize(
    "config",
    [
        {"storages": frozenset({"local", "lvm"})},
        {"unreplicated": frozenset({"local"})},
        {"unreplicated": None},
    ],
)
def test_a_volume_that_is_not_replicated_binds_the_guest_to_its_node(config: dict[str, Any]) -> None:
    made = scene()
    made.storage_types["lvm"] = "lvmthin"
    made.local_storages += ("lvm",)
    made.set_config(102, **config)
    assert ready(made) == ("False", "LocalDiskOnly")


def test_what_replication_leaves_out_on_shared_storage_is_no_obstacle() -> None:
    made = scene()
    made.set_config(102, storages=frozenset({"local", "shared"}), unreplicated=frozenset({"shared"}))
    assert ready(made) == ("True", "OK")


def test_a_token_that_may_not_disable_jobs_is_told_beforehand() -> None:
    made = scene()
    held = frozenset({"VM.Audit", "VM.PowerMgmt"})
    lacking = cluster.Privileges(frozenset({"Sys.Console"}), held, frozenset(), {"": "9.2"})
    now = rounds.understand(
        dataclasses.replace(made.snapshot(), privileges=lacking), made.specs(), made.memory
    )
    found = now.judge.usable(102)
    assert found is not None
    assert (found.replicas, str(found.refusal.reason)) == ((), "ReplicationNotHeld")


def test_engine_native_has_its_replicas_where_the_jobs_lead_whatever_their_age() -> None:
    made = scene(ages={"102-0": 90_000.0}, require="Shared")
    made.spec["recovery"] = {"engine": "Native"}
    assert ready(made) == ("True", "Native")
    made.storages_offline.add(("pve3", "local"))
    assert ready(made) == ("False", "LocalDiskOnly")


# Recovery


def test_the_youngest_replica_is_taken_with_what_is_lost() -> None:
    made = scene(JOB, OTHER, ages={"102-0": 600.0, "102-1": 30.0})
    (takeover,) = lose(made)
    assert takeover.target == "pve1"
    (item,) = takeover.items
    assert item.replica is not None
    assert item.replica.recovery_point == made.replication.syncs["102-1"].last
    assert 30 <= item.replica.lost_seconds <= 60


def test_only_replicas_that_are_young_enough_count() -> None:
    made = scene(JOB, OTHER, ages={"102-0": 800.0, "102-1": 1200.0})
    made.nodes["pve3"].used = 64 << 30
    assert lose(made) == []


def test_data_written_until_the_node_was_last_seen_alive_counts() -> None:
    """A node that is cut off runs on: its BMC reads on until it is fenced."""
    made = scene(ages={"102-0": 850.0})
    made.lose("pve2", bmc=power.PowerState.ON)
    assert ready(made)[1] != "ReplicaTooOld"
    for _ in range(120):
        made.step(0.5)
    assert ready(made)[1] == "ReplicaTooOld"


def test_what_an_earlier_leader_has_told_is_known_when_the_node_is_gone() -> None:
    made = scene()
    status = made.step(1).report.guests["vm102"]
    made.statuses[102] = status
    made.replication = dataclasses.replace(made.replication, syncs={})
    assert ready(made) == ("True", "OK")
    (takeover,) = lose(made)
    assert takeover.items[0].replica is not None
    assert takeover.items[0].replica.recovery_point == status.replicas[0].last_sync_time.timestamp()


def test_the_status_of_a_guest_that_was_elsewhere_tells_nothing() -> None:
    made = scene()
    status = made.step(1).report.guests["vm102"]
    made.statuses[102] = status.model_copy(update={"node": "pve1"})
    made.replication = dataclasses.replace(made.replication, syncs={})
    assert ready(made) == ("False", "ReplicaUnknown")


# Jobs that were disabled


def hold(made: Scene, hold: replication.Hold) -> None:
    made.replication = dataclasses.replace(made.replication, jobs={102: (JOB.held(hold),)})


def test_a_guest_that_never_left_gets_its_replication_back() -> None:
    made = scene()
    hold(made, replication.Hold("pve2-99"))
    assert job_edits(made) == {"102-0": JOB}


def test_a_job_stays_disabled_while_the_guests_node_is_lost() -> None:
    made = scene()
    hold(made, replication.Hold("pve2-99"))
    made.lose("pve2")
    assert job_edits(made) == {}


def test_a_guest_that_has_left_is_noted_to_have_and_waits_for_a_person() -> None:
    made = scene()
    hold(made, replication.Hold("pve2-99"))
    made.move(102, "pve3")
    left = JOB.held(replication.Hold("pve2-99", left=True))
    assert job_edits(made) == {"102-0": left}
    made.end(operations.EditJobs)
    hold(made, replication.Hold("pve2-99", left=True))
    assert ready(made) == ("False", "DataLossNotAccepted")
    assert "pveha.dev/accept-data-loss=pve2-99" in message(made)
    made.move(102, "pve2")
    assert job_edits(made) == {}, "moved back by hand: newer data on pve3 would be overwritten"


@pytest.mark.parametrize(
    ("word", "enabled"), [("pve2-99", True), ("pve2-98, pve2-99", True), ("pve2-9", False)]
)
def test_the_id_of_the_loss_accepts_it(word: str, enabled: bool) -> None:
    made = scene()
    hold(made, replication.Hold("pve2-99", left=True))
    made.move(102, "pve3")
    made.guest_annotations[102] = {"pveha.dev/accept-data-loss": word}
    assert job_edits(made) == ({"102-0": JOB} if enabled else {})


def test_who_enables_a_job_by_hand_has_accepted() -> None:
    made = scene()
    by_hand = dataclasses.replace(JOB.held(replication.Hold("pve2-99", left=True)), disabled=False)
    made.replication = dataclasses.replace(made.replication, jobs={102: (by_hand,)})
    assert job_edits(made) == {"102-0": JOB}


def test_a_hold_is_in_the_comment_beside_its_owners_text() -> None:
    held = JOB.held(replication.Hold("pve2-99"))
    assert held.comment == "nightly [pveha held=pve2-99]"
    assert (held.hold, held.disabled) == (replication.Hold("pve2-99"), True)
    again = held.held(replication.Hold("pve2-99", left=True))
    assert again.comment == "nightly [pveha left=pve2-99]"
    assert again.released() == JOB
    assert replication.Hold("pve-a-1-99").node == "pve-a-1"


def test_the_jobs_of_a_guest_that_is_left_to_native_ha_are_disabled_too() -> None:
    made = scene(ages={"102-0": 700.0}, maxDataLossSeconds=600)
    assert job_edits(made) == {}
    assert lose(made) == []
    failure = made.memory.node("pve2").failure
    assert job_edits(made) == {}
    made.replication = dataclasses.replace(made.replication, answered_at=float("-inf"))
    made.step(20)
    assert job_edits(made) == {"102-0": JOB.held(replication.Hold(failure))}


def test_jobs_are_nothing_to_who_does_not_ask_for_replicas() -> None:
    made = scene(require="Shared")
    lose(made)
    made.step(25)
    assert job_edits(made) == {}
