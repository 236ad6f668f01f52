"""Guests: starting, stopping and migrating them, as tasks of a node that create and end processes.

A configuration and a process are different things: a rename moves the first and leaves the second where it
is.
"""

import dataclasses
from typing import TYPE_CHECKING

from pveha.model import guests
from pveha.sim import guestfile, machine, tasks

if TYPE_CHECKING:
    from pveha.sim import world as worlds

HISTORY = 8
AGENT_SECONDS = 3.0
"""How long QEMU waits for an agent to answer."""
AGENT_ABSENT = "QEMU guest agent is not running"


@dataclasses.dataclass(slots=True)
class Interval:
    """A time in which a guest ran on a node; `end` is None while it does."""

    node: str
    start: float
    end: float | None = None


class GuestOps:
    """All guest processes of a world."""

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        self.about = {guest.vmid: guest for guest in world.config.guests}
        self.refusing: set[str] = set()
        """Nodes to which no migration gets through."""
        self.failing: dict[str, bool] = {}
        """Nodes whose start tasks end as failed; True: though the guest runs then."""
        self.history: dict[int, list[Interval]] = {}
        self.status_log: dict[tuple[str, int], list[tuple[float, str]]] = {}
        """Status of a guest's process on a node, from when on: what pvestatd reports from. The newest
        `HISTORY`."""

    # Processes

    def create(
        self, node: machine.Machine, file: guestfile.GuestFile, state: str = "running"
    ) -> machine.Process:
        """A new process. Nothing prevents a second one on another node: that is the point."""
        vmid, now = file.ref.vmid, self._world.now()
        about = self.about.get(vmid)
        ready_at = now + (about.boot_seconds if about else 10.0)
        storages = tuple(sorted({name for name, _ in file.volumes}))
        process = machine.Process(
            file.ref, node.name, node.next_pid(), node.ticks, now, state, ready_at, storages
        )
        node.processes[vmid] = process
        self._world.storage.opened(process)
        self._note(process, state)
        return process

    def set_state(self, process: machine.Process, state: str) -> None:
        """Change a process's QMP run state."""
        if (
            process.state != state
            and self._world.machines[process.node].processes.get(process.ref.vmid) is process
        ):
            process.state = state
            self._note(process, state)

    def end(self, process: machine.Process, why: str, quiet: bool = False) -> None:
        """The process is gone. `quiet`: the cause has been told."""
        node = self._world.machines[process.node]
        if node.processes.get(process.ref.vmid) is not process:
            return
        del node.processes[process.ref.vmid]
        self._world.storage.closed(process, orderly=node.powered)
        process.state = "gone"
        self._note(process, "stopped")
        if not quiet:
            self._world.say(f"{process.ref}", f"process on {process.node} {why}")

    def _note(self, process: machine.Process, status: str) -> None:
        now, vmid = self._world.now(), process.ref.vmid
        log = self.status_log.setdefault((process.node, vmid), [])
        log.append((now, status))
        del log[:-HISTORY]
        history = self.history.setdefault(vmid, [])
        ongoing = [interval for interval in history if interval.node == process.node and interval.end is None]
        if process.state == "running" and not ongoing:
            history.append(Interval(process.node, now))
            self._world.say(f"{process.ref}", f"runs on {process.node}")
        elif process.state != "running":
            for interval in ongoing:
                interval.end = now
        self._world.storage.check(vmid)
        self._world.changed()

    def status(self, node: str, vmid: int) -> str:
        """Status of the guest's process on a node as QEMU itself says it."""
        process = self._world.machines[node].processes.get(vmid)
        return process.state if process else "stopped"

    def agent_problem(self, node: str, file: guestfile.GuestFile) -> str:
        """Why the agent of a VM on `node` does not answer, or an empty string."""
        if not guestfile.value(file.text, "agent").startswith("1"):
            return "No QEMU guest agent configured"
        process = self._world.machines[node].processes.get(file.ref.vmid)
        if process is None:
            return f"VM {file.ref.vmid} is not running"
        ready = process.state == "running" and self._world.now() >= process.ready_at
        return "" if ready else AGENT_ABSENT

    # Tasks

    def start(
        self, node: str, ref: guests.GuestRef, user: str = "root@pam", skiplock: bool = False
    ) -> tasks.Task:
        """Begin a start task on `node`; whether it works shows in the task's exit status."""
        on = self._world.machines[node]
        task = self._world.tasks.begin(
            on, "qmstart" if ref.kind is guests.GuestKind.VM else "vzstart", str(ref.vmid), user
        )
        on.later(0.05, self._start_checks, on, ref, task, skiplock)
        return task

    def _start_checks(
        self, on: machine.Machine, ref: guests.GuestRef, task: tasks.Task, skiplock: bool
    ) -> None:
        vmid = ref.vmid
        word = "VM" if ref.kind is guests.GuestKind.VM else "CT"
        file = self._world.fs.trees[on.name].guests.get(vmid)
        problem: str | None = None
        if not on.runs("pmxcfs"):
            problem = "ipcc_send_rec[1] failed: Connection refused"
        elif file is None or file.node != on.name or file.ref.kind is not ref.kind:
            problem = f"Configuration file '{guestfile.path_of(ref, on.name)}' does not exist"
        elif file.lock and not skiplock:
            problem = f"{word} is locked ({file.lock})"
        elif vmid in on.processes or vmid in on.starting:
            problem = f"{word} {vmid} already running"
        elif guestfile.value(file.text, "template") == "1":
            problem = "you can't start a vm if it's a template"
        else:
            problem = self._obstacle(file, on.name)
        if problem or file is None:
            self._world.tasks.end(task, problem or "")
            return
        on.starting.add(vmid)
        on.later(self._world.between(self._world.timings.start) - 0.05, self._started, on, file, task)

    def _started(self, on: machine.Machine, file: guestfile.GuestFile, task: tasks.Task) -> None:
        on.starting.discard(file.ref.vmid)
        problem = self._obstacle(file, on.name)
        acts = self.failing.get(on.name)
        if problem is None and acts is not False:
            self.create(on, file)
        if problem is None and acts is not None:
            problem = "got timeout" if acts else "start failed: hook script exited with code 1"
        self._world.tasks.end(task, problem or "OK")

    def _obstacle(self, file: guestfile.GuestFile, node: str) -> str | None:
        """Why a start on `node` fails, None if it does not."""
        return self._world.storage.obstacle(file, node) or self._world.equipment.obstacle(file, node)

    def stop(
        self, node: str, ref: guests.GuestRef, user: str = "root@pam", shutdown: bool = False
    ) -> tasks.Task:
        """Begin a stop (or shutdown) task."""
        on, timings = self._world.machines[node], self._world.timings
        prefix = "qm" if ref.kind is guests.GuestKind.VM else "vz"
        task = self._world.tasks.begin(on, prefix + ("shutdown" if shutdown else "stop"), str(ref.vmid), user)
        on.later(timings.shutdown if shutdown else timings.stop, self._stopped, on, ref, task)
        return task

    def _stopped(self, on: machine.Machine, ref: guests.GuestRef, task: tasks.Task) -> None:
        file = self._world.fs.trees[on.name].guests.get(ref.vmid)
        if file is None or file.node != on.name:
            self._world.tasks.end(
                task, f"Configuration file '{guestfile.path_of(ref, on.name)}' does not exist"
            )
            return
        if file.lock:
            self._world.tasks.end(
                task, f"{'VM' if ref.kind is guests.GuestKind.VM else 'CT'} is locked ({file.lock})"
            )
            return
        if process := on.processes.get(ref.vmid):
            self.end(process, "stopped")
        self._world.tasks.end(task)

    def migrate(self, node: str, ref: guests.GuestRef, target: str, user: str = "root@pam") -> tasks.Task:
        """Begin a migration from `node`: live for a running VM, by restart for a running container."""
        on = self._world.machines[node]
        kind = "qmigrate" if ref.kind is guests.GuestKind.VM else "vzmigrate"
        task = self._world.tasks.begin(on, kind, str(ref.vmid), user)
        on.later(self._world.timings.migrate_setup, Migration(self._world, on, ref, target, task).begin)
        return task


class Migration:
    """One migration, phase by phase. It is driven by the source: what its death leaves behind stays as it is
    then.

    Phases: lock the configuration, incoming process on the target, transfer, source `postmigrate` and
    configuration moved, target resumed, source process ended and lock removed.
    """

    def __init__(
        self,
        world: "worlds.World",
        source: machine.Machine,
        ref: guests.GuestRef,
        target: str,
        task: tasks.Task,
    ) -> None:
        self._world = world
        self._source = source
        self._target = world.machines[target]
        self._ref = ref
        self._task = task
        self._moving: machine.Process | None = None
        self._incoming: machine.Process | None = None

    @property
    def _file(self) -> guestfile.GuestFile | None:
        return self._world.fs.trees[self._source.name].guests.get(self._ref.vmid)

    def _reachable(self) -> bool:
        return (
            self._target.up
            and not self._target.hung
            and self._target.name not in self._world.guests.refusing
            and self._world.linked(self._source.name, self._target.name)
        )

    def _fail(self, reason: str) -> None:
        self._world.tasks.end(self._task, reason)

    def _write(self, file: guestfile.GuestFile) -> bool:
        """Write the configuration from the source; False without quorum."""
        fs = self._world.fs
        try:
            if fs.blocked(self._source.name):
                return False
            fs.set_guest(self._source.name, file)
        except OSError:
            return False
        return True

    def _fits(self, file: guestfile.GuestFile) -> bool:
        """Whether the target has what the guest needs, and the source the volumes that are its own."""
        world, target = self._world, self._target.name
        there = all(world.storage.defined_on(name, target) for name, _ in file.volumes)
        at_home = all(world.storage.is_shared(name) for name, _ in file.volumes) or world.storage.is_at(
            self._ref.vmid, self._source.name
        )
        return there and at_home and world.equipment.obstacle(file, target) is None

    def begin(self) -> None:
        """Lock the configuration, which a start in progress does not let go of before its end."""
        if self._ref.vmid in self._source.starting:
            self._source.later(self._world.timings.migrate_setup, self.begin)
            return
        file = self._file
        word = "VM" if self._ref.kind is guests.GuestKind.VM else "CT"
        if file is None or file.node != self._source.name:
            self._fail(
                f"Configuration file '{guestfile.path_of(self._ref, self._source.name)}' does not exist"
            )
        elif file.lock:
            self._fail(f"{word} is locked ({file.lock})")
        elif self._target is self._source:
            self._fail("target is local node.")
        elif not self._reachable():
            self._fail("command '/usr/bin/ssh' failed: exit code 255")
        elif not self._fits(file):
            self._fail("migration aborted")
        elif not self._write(file.with_lock("migrate")):
            self._fail("unable to open file - Permission denied")
        else:
            self._moving = self._source.processes.get(self._ref.vmid)
            if self._moving is None:
                self._source.later(self._world.timings.migrate_resume, self._move)
            elif self._ref.kind is guests.GuestKind.CONTAINER:
                self._world.guests.end(self._moving, "stopped to migrate")
                self._source.later(self._world.timings.shutdown, self._move)
            else:
                self._incoming = self._world.guests.create(self._target, file, "inmigrate")
                self._source.later(self._world.timings.migrate_transfer, self._move)

    def _move(self) -> None:
        file, guest_ops = self._file, self._world.guests
        if file is None or file.node != self._source.name or file.lock != "migrate":
            self._fail("migration problems")
            return
        if not self._reachable() or (self._incoming and self._incoming.state == "gone"):
            if self._incoming and self._target.powered:
                self._source.later(30.0, guest_ops.end, self._incoming, "gave up waiting")
            self._abort()
            return
        if self._incoming and self._moving:
            guest_ops.set_state(self._moving, "postmigrate")
            guest_ops.set_state(self._incoming, "paused")
        if self._world.fs.blocked(self._source.name) or not self._world.membership.quorate(self._source.name):
            self._fail("failed to move config to target node - rename failed: Permission denied")
            return
        path = guestfile.path_of(self._ref, self._target.name)
        self._world.fs.rename(self._source.name, file.path, path, "migration")
        if not all(self._world.storage.by_name[name].shared for name, _ in file.volumes):
            self._world.storage.homes[self._ref.vmid] = self._target.name
            tree = self._world.fs.trees[self._source.name]
            self._world.replicas.migrated(self._ref.vmid, self._source.name, self._target.name, tree)
        self._source.later(self._world.timings.migrate_resume, self._resume)

    def _abort(self) -> None:
        """Give up before anything has moved. A write that falls into a membership change waits for its
        end."""
        if self._world.fs.blocked(self._source.name):
            self._world.membership.on_next_change(self._source.bound(self._abort))
            return
        file = self._file
        if file is not None and file.node == self._source.name:
            self._write(file.with_lock(""))
        self._fail("migration aborted")

    def _resume(self) -> None:
        if not self._reachable():
            self._fail("command '/usr/bin/ssh' failed: exit code 255")
            return
        if self._incoming:
            self._world.guests.set_state(self._incoming, "running")
        self._source.later(self._world.timings.migrate_cleanup if self._incoming else 0.1, self._finish)

    def _finish(self) -> None:
        if self._moving:
            self._world.guests.end(self._moving, "ended after migration", quiet=True)
        file = self._file
        moved = file is not None and file.node == self._target.name and file.lock == "migrate"
        if file is not None and moved and not self._write(file.with_lock("")):
            self._fail("failed to clear migrate lock")
            return
        if self._ref.kind is guests.GuestKind.CONTAINER and self._moving:
            self._world.guests.start(self._target.name, self._ref)
        self._world.tasks.end(self._task)
