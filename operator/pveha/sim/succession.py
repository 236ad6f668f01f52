"""Restart order held against the truth: *a dependent never starts before its dependency was ready, or its
deadline passed*.

What operators are told of policies and ProtectedVMs is followed as a watch tells it; whether a guest was
ready is asked of its process.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from pveha.model import cluster, guests, kubernetes, mark
from pveha.sim import guestfile, guestops, world

KNOWN_SECONDS = 20.0
"""What changed so recently (a manifest, a process that ended) an operator need not know yet."""

READ_SECONDS = 120.0
"""An older pveha-node does not tell whether a guest has an agent; once it is replaced the guests are read
again within this time."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Manifest:
    vmid: int
    policy: str
    after: tuple[str, ...]


class Succession:
    """Follows manifests and judges starts."""

    def __init__(
        self,
        about: world.World,
        absent_since: Callable[[str], float | None],
        left_at: Callable[[str, float], float],
    ) -> None:
        self._world = about
        self._absent_since = absent_since
        """Since when a node is out of the quorate membership, if it is: what runs there nobody sees."""
        self._left_at = left_at
        """When it was, or now is, out of it at a time: since when; else that time."""
        self._manifests: dict[str, _Manifest] = {}
        self._startups: dict[str, dict[str, Any]] = {}
        """`spec.startup` of the policies."""
        self._edited: dict[str, float] = {}
        """When a ProtectedVM was last made or deleted, or depended on something else, by name."""
        self._set: dict[int, float] = {}
        """When the owner of a guest last wanted another state of it."""
        self._states: dict[int, cluster.HAState] = {}
        self._shells_replaced_at = float("-inf")

    def disturbed(self, line: str) -> None:
        """A line of the timeline is done."""
        if line.startswith("install node shell"):
            self._shells_replaced_at = self._world.now()

    def told(self, event: str, obj: kubernetes.Manifest) -> None:
        """A watch tells of an object."""
        name, spec = str(obj["metadata"]["name"]), obj.get("spec", {})
        if obj["kind"] == "FailoverPolicy":
            self._startups[name] = spec.get("startup", {})
        if obj["kind"] != "ProtectedVM":
            return
        after = tuple(each["name"] for each in spec.get("dependsOn", ()))
        new = _Manifest(int(spec["vmid"]), spec.get("policyRef", {}).get("name", ""), after)
        before = self._manifests.pop(name, None)
        if event != "DELETED":
            self._manifests[name] = new
        if self._manifests.get(name) != before:
            self._edited[name] = self._world.now()

    def look(self) -> None:
        """Something happened: follow what owners want of their guests."""
        now = self._world.now()
        for manifest in self._manifests.values():
            state = self._wanted(manifest.vmid)
            if state is not None and self._states.get(manifest.vmid) is not state:
                self._states[manifest.vmid] = state
                self._set[manifest.vmid] = now

    def missing(self, vmid: int) -> str:
        """What a guest would have to wait for if it were started now, as a clause, or an empty string."""
        now = self._world.now()
        name = next((name for name, each in self._manifests.items() if each.vmid == vmid), "")
        manifest = self._manifests.get(name)
        if manifest is None or not manifest.after or self._in_circle(name):
            return ""
        for other in manifest.after:
            there = self._manifests.get(other)
            if there is None or now - max(self._edited[name], self._edited[other]) < KNOWN_SECONDS:
                continue
            if why := self._unready(there, vmid):
                return f"{other}, which {why}"
        return ""

    def may_wait(self, vmid: int) -> bool:
        """Whether a guest may be waiting for another: also for one that runs elsewhere than its file is,
        which only the world knows to run."""
        after = [name for each in self._manifests.values() if each.vmid == vmid for name in each.after]
        others = (self._manifests[name].vmid for name in after if name in self._manifests)
        return bool(self.missing(vmid)) or any(map(self._runs_astray, others))

    def _runs_astray(self, vmid: int) -> bool:
        file = self._world.newest.guests.get(vmid)
        running = (run.node for run in self._world.uptime(vmid) if run.end is None)
        return file is not None and any(node != file.node for node in running)

    def _in_circle(self, name: str) -> bool:
        seen: set[str] = set()
        queue = [name]
        while queue:
            manifest = self._manifests.get(queue.pop())
            after = set(manifest.after) - seen if manifest is not None else set()
            seen |= after
            queue += after
        return name in seen

    def _unready(self, manifest: _Manifest, dependent: int) -> str:
        world, vmid, now = self._world, manifest.vmid, self._world.now()
        file = world.newest.guests.get(vmid)
        wanted = self._wanted(vmid)
        if file is None or wanted is not cluster.HAState.STARTED:
            return ""
        if now - self._set.get(vmid, 0.0) < KNOWN_SECONDS:
            return ""
        startup = self._startups.get(manifest.policy, {})
        last = max(world.uptime(dependent), key=lambda run: run.start, default=None)
        down_since = now if last is None or last.end is None else last.end
        intervals = world.uptime(vmid)
        for each in intervals:
            end = now if each.end is None else each.end
            ran_before, absent = each.start < down_since, self._absent_since(each.node)
            if each.end is not None and last is not None and each.node == last.node and absent is not None:
                continue  # Who knows that the one is lost knows it of the other.
            if now - end <= KNOWN_SECONDS and (ran_before or self._was_ready(file, each, now, startup)):
                return ""
        unready_since = max(
            (
                self._left_at(each.node, each.end)
                for each in intervals
                if each.end and self._was_ready(file, each, each.end, startup)
            ),
            default=0.0,
        )
        limit = startup.get("readyTimeoutSeconds", 300)
        if now - unready_since >= limit and startup.get("onTimeout", "Continue") == "Continue":
            return ""
        return f"is not ready since {unready_since:.1f}"

    def _was_ready(
        self, file: guestfile.GuestFile, run: guestops.Interval, at: float, startup: dict[str, Any]
    ) -> bool:
        """Whether a guest that has run from `run.start` was ready at a time."""
        about = self._world.guests.about.get(file.ref.vmid)
        vm = file.ref.kind is guests.GuestKind.VM
        if vm and guestfile.value(file.text, "agent").startswith("1") and not self._agents_are_unknown():
            return at - run.start >= (about.boot_seconds if about is not None else 10.0)
        return at - run.start >= float(startup.get("delaySeconds", 0))

    def _agents_are_unknown(self) -> bool:
        older = any(on.node_shell == "older" for on in self._world.machines.values())
        return older or self._world.now() - self._shells_replaced_at < READ_SECONDS

    def _wanted(self, vmid: int) -> cluster.HAState | None:
        """The state that the guest's owner wants, None for one that HA does not know."""
        tree = self._world.newest
        file = tree.guests.get(vmid)
        resource = tree.resources.get(file.ref.sid) if file is not None else None
        if resource is None:
            return None
        found = mark.parse(resource.comment).mark
        ours = found is not None and resource.state is cluster.HAState.IGNORED
        return found.was if found is not None and ours else resource.state
