"""What must hold of guests that pveha starts from replicas (S19), held against what each copy really holds.

*Where its disks are*: a guest is started only on a node that has a copy of them. *Young enough*: that copy
has what the guest had written until maxDataLossSeconds before its node was lost. *Newer data stays*: no sync
overwrites what the lost node holds newer until a person has accepted that. What a person or native HA does to
the guest or its jobs meanwhile ends what is held against pveha.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pveha.api import failoverpolicy, meta
from pveha.model import guests, kubernetes
from pveha.sim import rig

if TYPE_CHECKING:
    from pveha.sim import invariants

SLACK_SECONDS = 5.0
"""Clocks of whole seconds, and what a leader sees a moment later."""
BY_HAND = re.compile(
    r"(?:move config|migrate guest) (\d+) |(?:enable|remove) replication (\d+)-|migrate \w+:(\d+) "
)


class LostData:
    """Watches a rig, and tells `Invariants` of what did not hold."""

    def __init__(self, watched: rig.Rig, truth: "invariants.Invariants") -> None:
        self._rig = watched
        self._world = watched.world
        self._truth = truth
        self._from: dict[int, str] = {}
        """Guests that pveha has moved to a replica: from where."""
        self._at: dict[int, float] = {}
        """When, as Unix time of the loss."""
        self._accepted: dict[int, frozenset[str]] = {}
        self._rollbacks = 0
        if not any(guest.replicas for guest in watched.world.config.guests):
            return
        watched.world.on_move(self._moved)
        watched.world.on_change(self._look)
        watched.on_line(self._disturbed)
        watched.kubernetes.watchers.append(self._told)

    def _moved(self, vmid: int, source: str, target: str, by: str) -> None:
        replicas, now = self._world.replicas, self._world.now()
        self._from.pop(vmid, None)
        if not by.startswith("pveha-node") or (there := replicas.has(vmid, target)) is None:
            return
        if not there:
            text = f"guest {vmid} is moved to {target}, which has no replica of it"
            self._truth.violated("where its disks are", text)
            return
        lost = self._truth.absent_since(source)
        since = now if lost is None else lost
        self._from[vmid], self._at[vmid] = source, self._world.wall_now() - (now - since)
        written_until = replicas.point(vmid, source) if replicas.has(vmid, source) else now
        missing = min(since, written_until) - replicas.point(vmid, target)
        if missing > self._limit(vmid) + SLACK_SECONDS:
            text = f"guest {vmid} is moved to {target}, whose replica lacks {missing:.0f} s"
            self._truth.violated("young enough", text)

    def _limit(self, vmid: int) -> float:
        """What may be lost of a guest, in seconds of the past. A takeover that was begun is finished when the
        guest's ProtectedVM is gone."""
        try:
            policy = self._rig.guest_status(vmid).spec.policy_ref
        except KeyError:
            return float("inf")
        if policy is None:
            return 0.0
        spec = self._rig.kubernetes.get("FailoverPolicy", rig.NAMESPACE, policy.name)["spec"]
        data = failoverpolicy.Data.model_validate(spec.get("data", {}))
        allowed = data.require is failoverpolicy.DataRequirement.SHARED_OR_REPLICATED
        return data.max_data_loss_seconds if allowed else 0.0

    def _look(self) -> None:
        rollbacks = self._world.replicas.rollbacks
        while self._rollbacks < len(rollbacks):
            done = rollbacks[self._rollbacks]
            self._rollbacks += 1
            ours = self._from.get(done.vmid) is not None and not self._world.fs.forked
            if ours and not self._is_accepted(done.vmid):
                text = f"guest {done.vmid}: newer data on {done.node} is overwritten, and nobody has said so"
                self._truth.violated("newer data stays", text)

    def _is_accepted(self, vmid: int) -> bool:
        """Whether a person has named this loss, whose id has the time at which it was seen."""
        for word in self._accepted.get(vmid, ()):
            name, _, stamp = word.rpartition("-")
            if name == self._from[vmid] and stamp.isdecimal() and float(stamp) >= self._at[vmid] - 60.0:
                return True
        return False

    def held_for_good(self) -> frozenset[str]:
        """Guests that no replica can bring back from a node that stays off: nobody fences it for them."""
        tree, machines = self._world.newest, self._world.machines
        return frozenset(
            sid
            for sid, found in self._rig.marks().items()
            if (ref := guests.parse_sid(sid)) is not None
            and ref.vmid in self._world.replicas.points
            and (file := tree.guests.get(ref.vmid)) is not None
            and found.hold == file.node
            and not machines[file.node].powered
        )

    def left_disabled(self) -> Iterator[str]:
        """Replication jobs that are disabled although their guest never left its node."""
        tree = self._world.newest
        for job in tree.jobs.values():
            file, hold = tree.guests.get(job.vmid), job.hold
            if file is None or hold is None or hold.left or job.removing:
                continue
            if file.node == hold.node and self._world.machines[file.node].up:
                yield f"replication job {job.id} is still disabled for {hold.failure}"

    def _disturbed(self, line: str) -> None:
        if found := BY_HAND.match(line + " "):
            self._from.pop(int(next(each for each in found.groups() if each)), None)

    def _told(self, event: str, obj: kubernetes.Manifest) -> None:
        if obj["kind"] == "ProtectedVM":
            text = str(obj["metadata"].get("annotations", {}).get(meta.ACCEPT_DATA_LOSS_ANNOTATION, ""))
            self._accepted[int(obj["spec"]["vmid"])] = frozenset(text.split(","))
