"""Replication jobs: disabled before a guest is claimed, changed by compare-and-swap."""

import dataclasses
from typing import Any, cast

import pytest

from pveha.act import context, jobs, turns
from pveha.model import errors, operations, ports, replication
from pveha.sim import clock

JOB = replication.Job("102-0", 102, "pve3", "pve2", comment="nightly")
OTHER = replication.Job("102-1", 102, "pve1", "pve2")
FOREIGN = replication.Job("103-0", 103, "pve3", "pve2")
HOLD = replication.Hold("pve2-99")


class Proxmox:
    """Replication jobs, and the lease."""

    def __init__(self, *present: replication.Job, lease: float = 60.0) -> None:
        self.jobs = {job.id: job for job in present}
        self.lease = lease
        self.digest = 1
        self.raises: dict[str, errors.OutsideError] = {}
        self.others_write = 0
        """How many more reads somebody else writes right after."""
        self.written: list[str] = []

    def remaining(self) -> float:
        return self.lease

    async def replication_jobs(self) -> tuple[replication.Job, ...]:
        return tuple(self.jobs.values())

    async def replication_job(self, id_: str) -> tuple[replication.Job, str]:
        found = self.jobs[id_], str(self.digest)
        if self.others_write:
            self.others_write -= 1
            self.digest += 1
        return found

    async def update_replication_job(self, job: replication.Job, digest: str) -> None:
        if digest != str(self.digest):
            raise errors.Conflict("file changed by other user")
        if job.id in self.raises:
            raise self.raises[job.id]
        self.written.append(job.id)
        self.digest += 1
        self.jobs[job.id] = job


def with_(on: Proxmox) -> context.Context:
    hypervisor, leadership = cast(ports.Hypervisor, on), cast(ports.Leadership, on)
    return context.Context(hypervisor, None, None, leadership, turns.Turns(1), lambda step: None)


def hold(on: Proxmox, target: str = "pve3") -> None:
    takeover = operations.Takeover("t1.0", "pve2-99", "pve2", target, 1, (), (), (), 0.0)
    clock.run(jobs.hold(takeover, 102, with_(on)))


def edit(on: Proxmox, *edits: operations.JobEdit) -> operations.Outcome:
    async def run() -> operations.Outcome:
        return await jobs.edit(operations.EditJobs("jobs.1", edits), with_(on))

    return clock.run(run())


def test_every_job_of_the_guest_is_disabled_and_no_other() -> None:
    on = Proxmox(JOB, OTHER, FOREIGN)
    hold(on)
    assert on.jobs == {"102-0": JOB.held(HOLD), "102-1": OTHER.held(HOLD), "103-0": FOREIGN}
    hold(on)
    assert on.written == ["102-0", "102-1"], "what is held is not written again"


def test_a_job_that_its_owner_has_disabled_stays_his() -> None:
    his = dataclasses.replace(OTHER, disabled=True)
    on = Proxmox(JOB, his)
    hold(on)
    assert on.jobs["102-1"] == his


def test_the_hold_of_an_earlier_loss_becomes_that_of_this_one() -> None:
    on = Proxmox(JOB.held(replication.Hold("pve2-1")))
    hold(on)
    assert on.jobs["102-0"] == JOB.held(HOLD)


@pytest.mark.parametrize(
    "present",
    [
        (OTHER,),
        (dataclasses.replace(JOB, removing=True),),
        (JOB.held(replication.Hold("pve1-1", left=True)),),
        (dataclasses.replace(JOB, comment="x" * 4090),),
        (),
    ],
)
def test_without_a_replica_or_room_for_the_mark_nothing_is_claimed(
    present: tuple[replication.Job, ...],
) -> None:
    on = Proxmox(*present)
    with pytest.raises(errors.Refused):
        hold(on)
    assert on.written == []


def test_a_change_by_somebody_else_in_between_is_met_by_trying_again() -> None:
    on = Proxmox(JOB)
    on.others_write = 2
    hold(on)
    assert on.jobs["102-0"] == JOB.held(HOLD)
    on = Proxmox(JOB)
    on.others_write = 3
    with pytest.raises(errors.Conflict):
        hold(on)


def test_nothing_is_sent_without_the_lease() -> None:
    on = Proxmox(JOB, lease=3.0)
    with pytest.raises(errors.NotLeader):
        hold(on)
    assert on.written == []


def test_edits_leave_what_is_no_longer_as_expected() -> None:
    changed = dataclasses.replace(OTHER, comment="new")
    on = Proxmox(JOB.held(HOLD), changed)
    outcome = edit(
        on,
        operations.JobEdit(JOB.held(HOLD), JOB, "back"),
        operations.JobEdit(OTHER, OTHER.held(HOLD), "gone"),
    )
    assert on.jobs == {"102-0": JOB, "102-1": changed}
    assert "changed by somebody else" in outcome.error
    assert edit(on, operations.JobEdit(JOB.held(HOLD), JOB, "back")).error == ""


def test_what_cannot_be_written_is_told_and_the_rest_goes_on() -> None:
    on = Proxmox(JOB.held(HOLD), OTHER.held(HOLD))
    on.raises["102-0"] = errors.Forbidden("VM.Replicate")
    back: list[Any] = [operations.JobEdit(job.held(HOLD), job, "back") for job in (JOB, OTHER)]
    assert edit(on, *back).error == "VM.Replicate"
    assert on.written == ["102-1"]
