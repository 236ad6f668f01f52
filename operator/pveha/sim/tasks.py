"""Tasks of Proxmox VE, named by their UPID."""

import dataclasses
from typing import TYPE_CHECKING

from pveha.model import cluster, errors

if TYPE_CHECKING:
    from pveha.sim import machine as machines
    from pveha.sim import world as worlds


@dataclasses.dataclass(slots=True)
class Task:
    """One task of one node; `exit_status` is None while it runs."""

    upid: str
    node: str
    type: str
    id: str
    user: str
    pid: int
    pstart: int
    start_timestamp: int
    exit_status: str | None = None
    end_timestamp: int | None = None
    log: list[str] = dataclasses.field(default_factory=list)


class Tasks:
    """All tasks of a world by UPID; at most the newest `LIMIT` are kept."""

    LIMIT = 5000

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        self.by_upid: dict[str, Task] = {}

    def begin(self, node: "machines.Machine", type_: str, id_: str, user: str = "root@pam") -> Task:
        """A new running task on `node`."""
        pid, pstart, now = node.next_pid(), node.ticks, int(self._world.wall_now(node.name))
        upid = f"UPID:{node.name}:{pid:08X}:{pstart:08X}:{now:08X}:{type_}:{id_}:{user}:"
        task = self.by_upid[upid] = Task(upid, node.name, type_, id_, user, pid, pstart, now)
        if len(self.by_upid) > self.LIMIT:
            del self.by_upid[next(iter(self.by_upid))]
        return task

    def end(self, task: Task, exit_status: str = "OK") -> None:
        if task.exit_status is None:
            task.exit_status = exit_status
            task.end_timestamp = int(self._world.wall_now(task.node))
            task.log.append("TASK OK" if exit_status == "OK" else f"TASK ERROR: {exit_status}")
            if exit_status != "OK":
                self._world.say(f"{task.type} {task.id}", f"failed on {task.node}: {exit_status}")
            self._world.changed()

    def interrupt(self, node: str) -> None:
        """The node went down: its running tasks end without an exit status of their own."""
        for task in self.by_upid.values():
            if task.node == node and task.exit_status is None:
                task.exit_status, task.end_timestamp = "unexpected status", int(self._world.wall_now(node))

    def status(self, upid: str) -> cluster.TaskStatus:
        """A task's status; `NotFound` for an UPID that nobody knows."""
        task = self.by_upid.get(upid)
        if task is None:
            message = f"no such task: {upid}"
            raise errors.NotFound(message)
        return cluster.TaskStatus(upid, task.exit_status is None, task.exit_status)
