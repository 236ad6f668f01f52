"""Storage as guests see it: which node reaches which volume, what a dead client's lock holds up, and who
writes.

Every live process in QMP state `running` (a container: any) on a powered machine that reaches the guest's
storages is a writer. Two writers of one vmid are what must never happen: `Storage.double_runs` counts each
beginning of it.
"""

import dataclasses
from typing import TYPE_CHECKING

from pveha.sim import config, guestfile

if TYPE_CHECKING:
    from pveha.sim import machine as machines
    from pveha.sim import world as worlds


@dataclasses.dataclass(frozen=True, slots=True)
class DoubleRun:
    """Two processes able to write the disks of one guest."""

    at: float
    vmid: int
    nodes: tuple[str, ...]


class Storage:
    """All storages of a world."""

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        self.by_name: dict[str, config.Storage] = {storage.name: storage for storage in world.config.storages}
        self.cut: dict[tuple[str, str], float] = {}
        """(node, storage) whose path is broken, since when."""
        self.homes: dict[int, str] = {guest.vmid: guest.node for guest in world.config.guests}
        """Where a guest's local volumes are."""
        self.double_runs = 0
        self.double_run_log: list[DoubleRun] = []
        self._doubled: dict[int, frozenset[str]] = {}
        self._held: dict[tuple[str, int], tuple[str, float]] = {}

    def defined_on(self, storage: str, node: str) -> bool:
        about = self.by_name.get(storage)
        return about is not None and (not about.nodes or node in about.nodes)

    def reachable(self, storage: str, node: str) -> bool:
        return self.defined_on(storage, node) and (node, storage) not in self.cut

    def is_shared(self, storage: str) -> bool:
        about = self.by_name.get(storage)
        return about is not None and about.shared

    def obstacle(self, file: guestfile.GuestFile, node: str) -> str | None:
        """Why the guest's disks cannot be opened on `node`: the exit status of its start task; None if they
        can."""
        drives = (tuple(each.split(":", 1)) for each in guestfile.media(file.text))
        for name, volume in (*file.volumes, *drives):
            about = self.by_name.get(name)
            if about is None:
                return f"storage '{name}' does not exist"
            if not self.defined_on(name, node):
                return f"storage '{name}' is not available on node '{node}'"
            if (node, name) in self.cut:
                return f"storage '{name}' is not online"
            if (name, volume) in file.volumes and not about.shared and not self.is_at(file.ref.vmid, node):
                return f"volume '{name}:{volume}' does not exist"
            holder, until = self._held.get((name, file.ref.vmid), (node, 0.0))
            if holder != node and self._world.now() < until:
                return "start failed: QEMU exited with code 1"
        return None

    def is_at(self, vmid: int, node: str) -> bool:
        """Whether a guest's local volumes are on a node, themselves or replicas of them."""
        replica = self._world.replicas.has(vmid, node)
        return self.homes.get(vmid, node) == node if replica is None else replica

    def is_locked(self, file: guestfile.GuestFile) -> bool:
        """Whether a client of the guest's storages that is gone still keeps others from it."""
        now = self._world.now()
        return any(now < self._held.get((name, file.ref.vmid), ("", 0.0))[1] for name, _ in file.volumes)

    def opened(self, process: "machines.Process") -> None:
        self._world.replicas.opened(process)
        for name in process.storages:
            if self.by_name[name].lock_seconds:
                self._held[name, process.ref.vmid] = (process.node, float("inf"))

    def closed(self, process: "machines.Process", orderly: bool) -> None:
        """The process is gone; without an orderly close the storage's lock lives on for its lease."""
        self._world.replicas.closed(process)
        for name in process.storages:
            key = (name, process.ref.vmid)
            if key in self._held and self._held[key][0] == process.node:
                rest = 0.0 if orderly else self.by_name[name].lock_seconds
                self._held[key] = (process.node, self._world.now() + rest)

    def _reaches_all(self, process: "machines.Process") -> bool:
        return all(self.reachable(name, process.node) for name in process.storages)

    def writers(self, vmid: int) -> list["machines.Process"]:
        """Live processes of the guest that can write now."""
        found = []
        for machine in self._world.machines.values():
            process = machine.processes.get(vmid)
            if process and process.state == "running" and self._reaches_all(process):
                found.append(process)
        return found

    def check(self, vmid: int) -> None:
        """Look at the guest's writers after something about them changed."""
        nodes = frozenset(process.node for process in self.writers(vmid))
        if len(nodes) > 1 and not nodes <= self._doubled.get(vmid, frozenset()):
            self.double_runs += 1
            self.double_run_log.append(DoubleRun(self._world.now(), vmid, tuple(sorted(nodes))))
            self._world.say(f"guest {vmid}", f"DOUBLE RUN: writes from {' and '.join(sorted(nodes))}")
        self._doubled[vmid] = nodes if len(nodes) > 1 else frozenset()

    def set_path(self, node: str, storage: str, up: bool) -> None:
        """Cut or restore a node's path to a storage."""
        if up:
            self.cut.pop((node, storage), None)
        else:
            self.cut.setdefault((node, storage), self._world.now())
        for vmid in self._world.machines[node].processes:
            self.check(vmid)
