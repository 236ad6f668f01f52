"""Proxmox's storage replication: jobs that copy a guest's ZFS volumes to another node from time to time.

The comment of a job that pveha has disabled carries what it is held for: `owner text [pveha held=FAILURE]`,
and `left=FAILURE` once the guest runs elsewhere (S19).
"""

import dataclasses
import re
from collections.abc import Mapping

COMMENT_LIMIT = 4096
_HOLD = re.compile(r" ?\[pveha (held|left)=([^\[\]\s]+)\]")


@dataclasses.dataclass(frozen=True, slots=True)
class Hold:
    """Why a job is disabled by pveha: a guest was to be started from a replica, and whoever copies back would
    overwrite what the lost node has newer."""

    failure: str
    """Id of the loss of the node that the guest was on."""
    left: bool = False
    """Whether the guest has been seen on another node since."""

    @property
    def node(self) -> str:
        """The node that was lost."""
        return self.failure.rpartition("-")[0]

    def __str__(self) -> str:
        return f"[pveha {'left' if self.left else 'held'}={self.failure}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A replication job, `GET /cluster/replication`."""

    id: str
    """`VMID-NUMBER`."""
    vmid: int
    target: str
    """The node that gets the replica. Where the guest's file has been moved there, pvesr swaps it with
    `source` when it next runs the job."""
    source: str = ""
    disabled: bool = False
    comment: str = ""
    removing: bool = False
    """It is to be removed, and the replica with it."""

    @property
    def hold(self) -> Hold | None:
        """What pveha has disabled it for."""
        found = _HOLD.search(self.comment)
        return Hold(found[2], found[1] == "left") if found else None

    def held(self, hold: Hold) -> "Job":
        """Disabled, with this hold in its comment."""
        comment = " ".join(part for part in (self.text, str(hold)) if part)
        return dataclasses.replace(self, disabled=True, comment=comment)

    def released(self) -> "Job":
        """Enabled, with its owner's comment."""
        return dataclasses.replace(self, disabled=False, comment=self.text)

    @property
    def text(self) -> str:
        """Its owner's comment."""
        return _HOLD.sub("", self.comment)


@dataclasses.dataclass(frozen=True, slots=True)
class Sync:
    """What the node that holds the guest tells of one of its jobs, `GET /nodes/NODE/replication`."""

    job: str
    source: str
    """The node that tells it."""
    target: str
    last: float
    """Unix time at which the last good sync began; 0: there was none."""
    failures: int = 0
    """Failed tries since."""
    by_its_clock: float = 0.0
    """`last` as the node told it, if that has been set right; a node whose clock is ahead would have its
    replicas younger than they are."""


@dataclasses.dataclass(frozen=True, slots=True)
class Replication:
    """All jobs of a cluster, and what was last told of their syncs."""

    jobs: Mapping[int, tuple[Job, ...]] = dataclasses.field(default_factory=dict)
    """By vmid."""
    syncs: Mapping[str, Sync] = dataclasses.field(default_factory=dict)
    """By job. What a node has told stays when it is gone: nobody else knows."""
    answered_at: float = float("-inf")
    """When the jobs were read (the loop's time)."""


NOTHING = Replication()
