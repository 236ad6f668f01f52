"""Replication jobs that pveha disables, and what ends that (S19).

A takeover disables the jobs of its guests by itself; here are those of guests that it leaves to native HA,
which starts them from a replica of any age. A job stays disabled once its guest runs elsewhere, until a
person accepts the loss. If the guest never left, because the takeover was dropped or its leader died before
the claim, the job is enabled again when the guest's node is back. What is known is in the comments of the
jobs.
"""

from collections.abc import Iterable

from pveha.api.meta import ACCEPT_DATA_LOSS_ANNOTATION
from pveha.decide import evidence, replicas, situation
from pveha.model import operations, replication

LOST_SECONDS = 20.0
"""A node that is lost for longer does not come back by itself, and native HA begins after 60 s."""


def edits(now: situation.Situation, *, may_begin: bool) -> Iterable[operations.JobEdit]:
    """Changes of jobs that are due. To disable one is something new."""
    guests = now.seen.inventory.guests if now.seen.inventory is not None else {}
    in_flight = now.seen.takeovers()
    for vmid, jobs in sorted(now.seen.replicas.jobs.items()):
        guest = guests.get(vmid)
        if guest is None or vmid in in_flight:
            continue
        for job in jobs:
            if job.removing:
                continue
            if job.hold is not None:
                yield from _edit(job, job.hold, guest.node, accepted(vmid, now), now)
            elif may_begin and not job.disabled and _is_lost(vmid, guest.node, now):
                failure = now.memo.node(guest.node).failure
                why = f"{guest.node} is lost, and may hold newer data than the replica"
                yield operations.JobEdit(job, job.held(replication.Hold(failure)), why)


def _is_lost(vmid: int, where: str, now: situation.Situation) -> bool:
    """Whether the guest's policy knows of replicas, its node is lost, and pveha can disable its jobs."""
    guest, verdict = now.protected.guests.get(vmid), now.verdicts.get(where)
    privileges = now.seen.privileges
    able = privileges is None or replicas.PRIVILEGE in privileges.vms
    wanted = guest is not None and replicas.wanted(guest)
    since = now.memo.node(where).offline_since
    gone = verdict is not None and verdict.lost and since is not None
    return able and wanted and gone and now.seen.now - (since or 0.0) >= LOST_SECONDS


def accepted(vmid: int, now: situation.Situation) -> frozenset[str]:
    """The losses whose missing data a person has given up."""
    guest = now.protected.guests.get(vmid)
    text = guest.pvm.metadata.annotations.get(ACCEPT_DATA_LOSS_ANNOTATION, "") if guest is not None else ""
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _edit(
    job: replication.Job,
    hold: replication.Hold,
    where: str,
    given_up: frozenset[str],
    now: situation.Situation,
) -> Iterable[operations.JobEdit]:
    if not job.disabled:
        yield operations.JobEdit(job, job.released(), "somebody has enabled it")
    elif hold.failure in given_up:
        yield operations.JobEdit(job, job.released(), f"the loss of {hold.failure} is accepted")
    elif where != hold.node and not hold.left:
        left = replication.Hold(hold.failure, left=True)
        yield operations.JobEdit(job, job.held(left), f"the guest has left {hold.node}")
    elif where == hold.node and not hold.left and _is_back(job, where, now):
        yield operations.JobEdit(job, job.released(), f"the guest has not left {where}")


def _is_back(job: replication.Job, where: str, now: situation.Situation) -> bool:
    """Whether the guest's node is, and no claim that has been given up may still move the guest."""
    verdict, guest = now.verdicts.get(where), now.protected.guests.get(job.vmid)
    landed = guest is None or now.seen.now >= now.memo.guest(guest.sid).may_land_until
    return landed and verdict is not None and verdict.state is evidence.State.ONLINE
