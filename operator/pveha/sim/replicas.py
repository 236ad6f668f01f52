"""Storage replication: `pvesr` on every node, and what each copy of a guest's ZFS volumes holds in truth.

A copy holds what its guest had written until some moment. Where a guest runs from a copy that is older than
another one, that other one holds data that is nowhere else, until a sync overwrites it: a rollback.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pveha.model import replication

if TYPE_CHECKING:
    from pveha.sim import machine as machines
    from pveha.sim import pmxcfs
    from pveha.sim import world as worlds

ROUND_SECONDS = 60.0
"""pvesr looks once a minute."""
SYNC_SECONDS = 2.0
"""What a sync takes."""
RETRY_SECONDS = 300.0
"""After one that failed; Proxmox waits five minutes more for each failure, half an hour at most."""


@dataclasses.dataclass(slots=True)
class State:
    """What the node that holds a guest keeps of one of its jobs, in a file of its own."""

    target: str
    last_sync: float = 0.0
    """Unix time; 0: never."""
    last_try: float = 0.0
    next_sync: float = 0.0
    fail_count: int = 0
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Rollback:
    """A sync that has overwritten what only that copy held."""

    at: float
    vmid: int
    node: str


class Replicas:
    """All jobs and copies of a world; without guests on replicated storage it costs nothing."""

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        self.every: dict[str, float] = {}
        """Seconds between two syncs, by job."""
        self.states: dict[tuple[str, str], State] = {}
        """By node and job."""
        self.points: dict[int, dict[str, float]] = {}
        """By vmid and node: until when the copy there has what the guest has written (world's time). Where
        the guest runs that is now."""
        self.newer: set[tuple[int, str]] = set()
        """Copies, by vmid and node, that hold what is nowhere else while the guest runs from an older one."""
        self.refusing: set[str] = set()
        """Nodes to which syncs fail."""
        self.rollbacks: list[Rollback] = []
        self.started_from: list[Callable[[int, str, float], object]] = []
        """Called with guest, node and point when a guest is started from another copy than its newest."""

    def begin(self, tree: "pmxcfs.Tree") -> None:
        """The jobs of the world's guests, each synced once."""
        for guest in self._world.config.guests:
            for number, replica in enumerate(guest.replicas):
                job = replication.Job(f"{guest.vmid}-{number}", guest.vmid, replica.node, guest.node)
                tree.jobs[job.id] = job
                self.every[job.id] = replica.every_seconds
                began = self._world.now() - replica.synced_ago
                state = State(replica.node, self._wall(began, guest.node), self._wall(began, guest.node))
                state.next_sync = state.last_sync + replica.every_seconds
                self.states[guest.node, job.id] = state
                points = self.points.setdefault(guest.vmid, {guest.node: self._world.now()})
                points[replica.node] = began
        if tree.jobs:
            self._world.later(ROUND_SECONDS, self._round)

    def _wall(self, at: float, node: str) -> float:
        """Unix time, as the node's clock has it; Proxmox keeps whole seconds."""
        skew = self._world.machines[node].clock_skew
        return float(int(self._world.config.start_timestamp + at + skew))

    # What copies hold

    def has(self, vmid: int, node: str) -> bool | None:
        """Whether there is a copy of the guest's volumes on a node; None: it has no replicas."""
        return node in self.points[vmid] if vmid in self.points else None

    def point(self, vmid: int, node: str) -> float:
        """Until when a copy has what the guest has written."""
        process = self._world.machines[node].processes.get(vmid)
        return self._world.now() if process and process.state == "running" else self.points[vmid][node]

    def opened(self, process: "machines.Process") -> None:
        """A guest runs from the copy on its node."""
        vmid, node = process.ref.vmid, process.node
        if vmid not in self.points or node not in self.points[vmid] or process.state == "inmigrate":
            return
        own = self.points[vmid][node]
        others = self.points[vmid].keys() - {node}
        newer = {(vmid, other) for other in others if self.point(vmid, other) > own}
        self.newer = {each for each in self.newer if each[0] != vmid} | newer
        if newer:
            lost = max(self.point(*each) for each in newer) - own
            self._world.say(
                f"guest {vmid}", f"runs on {node} from a replica: {lost:.0f} s of data are not in it"
            )
            for callback in self.started_from:
                callback(vmid, node, own)

    def closed(self, process: "machines.Process") -> None:
        """It runs no more: its copy stays as it is."""
        points = self.points.get(process.ref.vmid)
        if points is not None and process.node in points and process.state == "running":
            points[process.node] = self._world.now()

    def migrated(self, vmid: int, source: str, target: str, tree: "pmxcfs.Tree") -> None:
        """A migration has copied the volumes; a job that led to the target leads back now."""
        points = self.points.get(vmid)
        if points is None:
            return
        points[target] = points[source] = self.point(vmid, source)
        self.newer -= {(vmid, target)}
        swapped = [job for job in tree.jobs.values() if (job.vmid, job.target) == (vmid, target)]
        for job in swapped:
            self._swap(job, target, source, tree)
            self.states[target, job.id] = State(source, self._wall(self._world.now(), target))
        if not swapped:
            del points[source]

    # pvesr

    def _round(self) -> None:
        world = self._world
        world.later(ROUND_SECONDS, self._round)
        for name, on in world.machines.items():
            if (
                on.runs("pmxcfs")
                and not on.hung
                and world.membership.quorate(name)
                and not world.fs.blocked(name)
            ):
                self._run(name, on)

    def _run(self, name: str, on: "machines.Machine") -> None:
        tree = self._world.fs.trees[name]
        for job in list(tree.jobs.values()):
            file = tree.guests.get(job.vmid)
            if file is None or file.node != name:
                continue
            if job.removing:
                del tree.jobs[job.id]
                tree.version += 1
                self.points[job.vmid].pop(job.target, None)
                self._world.say(f"replication {job.id}", f"removed, with the replica on {job.target}")
                self._world.changed()
            elif not job.disabled and job.target == name:
                self._swap(job, name, job.source, tree)
            elif not job.disabled:
                state = self.states.setdefault((name, job.id), State(job.target))
                if state.target != job.target:
                    state = self.states[name, job.id] = State(job.target)
                if self._world.wall_now(name) >= state.next_sync:
                    on.later(SYNC_SECONDS, self._sync, name, job, state, self._world.now())

    def _swap(self, job: replication.Job, source: str, target: str, tree: "pmxcfs.Tree") -> None:
        tree.jobs[job.id] = dataclasses.replace(job, source=source, target=target)
        tree.version += 1
        self._world.say(f"replication {job.id}", f"from {source} to {target} now")
        self._world.changed()

    def _sync(self, name: str, job: replication.Job, state: State, began: float) -> None:
        """The end of a sync."""
        world, target = self._world, self._world.machines[job.target]
        state.last_try = self._wall(began, name)
        points = self.points.get(job.vmid, {})
        here = name in points
        if (
            not here
            or not target.up
            or target.hung
            or not world.linked(name, job.target)
            or (job.target in self.refusing)
        ):
            state.fail_count += 1
            state.error = "command 'zfs send' failed: exit code 255"
            state.next_sync = state.last_try + min(state.fail_count, 6) * RETRY_SECONDS
            return
        if (job.vmid, job.target) in self.newer:
            self.newer.discard((job.vmid, job.target))
            self.rollbacks.append(Rollback(world.now(), job.vmid, job.target))
            world.say(f"guest {job.vmid}", f"newer data on {job.target} is rolled back")
            world.changed()
        points[job.target] = min(began, self.point(job.vmid, name))
        state.last_sync, state.fail_count, state.error = state.last_try, 0, ""
        state.next_sync = state.last_sync + self.every.get(job.id, 900.0)

    # What people and programs see and do

    def told(self, name: str, tree: "pmxcfs.Tree") -> Iterable[tuple[replication.Job, State]]:
        """The jobs of guests that are on a node, with their states."""
        for job in tree.jobs.values():
            file = tree.guests.get(job.vmid)
            if file is not None and file.node == name:
                state = self.states.get((name, job.id))
                known = state is not None and state.target == job.target
                yield job, state if state is not None and known else State(job.target)

    def remove(self, id_: str, tree: "pmxcfs.Tree") -> None:
        """A person removes a job: pvesr removes the replica, then the job. KeyError if there is none."""
        tree.jobs[id_] = dataclasses.replace(tree.jobs[id_], removing=True)
        tree.version += 1
        self._world.say("user", f"replication {id_}: removed")
        self._world.changed()

    def set_disabled(self, id_: str, tree: "pmxcfs.Tree", disabled: bool) -> None:
        """A person disables a job, or enables it. KeyError if there is none."""
        tree.jobs[id_] = dataclasses.replace(tree.jobs[id_], disabled=disabled)
        tree.version += 1
        self._world.say("user", f"replication {id_}: {'disabled' if disabled else 'enabled'}")
        self._world.changed()


def digest(jobs: dict[str, replication.Job]) -> str:
    """Of `replication.cfg`: its compare-and-swap."""
    return hashlib.sha1(render(jobs).encode(), usedforsecurity=False).hexdigest()


def render(jobs: dict[str, replication.Job]) -> str:
    """`replication.cfg`."""
    blocks = []
    for job in jobs.values():
        lines = [f"local: {job.id}", f"\ttarget {job.target}", f"\tsource {job.source}"]
        lines += [f"\tcomment {job.comment}"] if job.comment else []
        lines += ["\tdisable 1"] if job.disabled else []
        lines += ["\tremove_job full"] if job.removing else []
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def entry(job: replication.Job) -> dict[str, Any]:
    """A job as the API tells it."""
    found: dict[str, Any] = {
        "id": job.id,
        "type": "local",
        "guest": job.vmid,
        "jobnum": int(job.id.partition("-")[2]),
        "source": job.source,
        "target": job.target,
        "schedule": "*/15",
    }
    found |= {"comment": job.comment} if job.comment else {}
    found |= {"disable": 1} if job.disabled else {}
    return found | ({"remove_job": "full"} if job.removing else {})
