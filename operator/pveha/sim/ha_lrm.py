"""The local resource manager of each node: it does on its node what the CRM's records say, under its agent
lock.

While it is active it feeds the node's watchdog with every renewal of the lock: a node that cannot write to
pmxcfs any more is reset 60 to 70 s later. Idle ones feed nothing and their nodes live on.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pveha.model import guests
from pveha.sim import machine, pmxcfs, tasks

if TYPE_CHECKING:
    from pveha.sim import world as worlds

_Then = Callable[[str, str, str, tasks.Task], None]
SUCCESS, ERROR, WRONG_NODE = 0, 1, 2
LEAVE_TIMEOUT = 180.0


def lock_name(node: str) -> str:
    return f"ha_agent_{node}_lock"


class Lrm:
    """pve-ha-lrm of one node."""

    def __init__(self, world: "worlds.World", node: machine.Machine) -> None:
        self._world = world
        self._node = node
        self.state = "wait_for_agent_lock"
        self.mode = "active"
        self._results: dict[str, pmxcfs.Result] = {}
        self._workers: dict[str, tasks.Task] = {}
        self._failures: dict[str, int] = {}
        self._idle_since = 0.0
        self._flushed = 0.0
        self._leaving = ""
        self._left = False

    @property
    def owner(self) -> str:
        return f"lrm:{self._node.name}/{self._node.boot_id}"

    def start(self, steady: bool = False) -> None:
        """The daemon starts (`steady`: it has been running and, if it has services, is active)."""
        self.state, self.mode, self._leaving, self._left = "wait_for_agent_lock", "active", "", False
        self._results, self._workers, self._failures = {}, {}, {}
        delay = self._world.rng.uniform(0.0, self._world.timings.lrm_round) if steady else 2.0
        if steady:
            tree = self._world.fs.trees[self._node.name]
            for service in self._services(tree).values():
                if service.state == "started":
                    self._results[service.uid] = pmxcfs.Result("", "started", SUCCESS)
            if self._results and self._world.fs.lock(self._node.name, lock_name(self._node.name), self.owner):
                self._activate()
                self._feed()
            self._flush(tree)
        self._node.later(delay, self._tick)

    def stop(self) -> None:
        """The machine went dark."""
        self._leaving = ""

    def daemon_stopped(self) -> None:
        """Somebody stopped the service in order: it says so, gives its lock back and closes the watchdog."""
        world, name = self._world, self._node.name
        if world.membership.quorate(name) and not world.fs.blocked(name) and self._node.runs("pmxcfs"):
            self.mode = "restart"
            self._release()
            self._flush(world.fs.trees[name])

    def daemon_started(self) -> None:
        self.state, self.mode = "wait_for_agent_lock", "active"

    def leave(self, how: str) -> None:
        """An orderly shutdown or reboot of the node begins; `how` is one of these words."""
        node = self._node
        if not node.up or node.hung or node.planned:
            return
        node.planned = self._leaving = how
        policy = self._world.config.shutdown_policy
        if policy == "conditional":
            policy = "freeze" if how == "reboot" else "failover"
        self.mode = {"freeze": "restart", "failover": "shutdown", "migrate": "maintenance"}[policy]
        self._world.say(node.name, f"orderly {how} (HA: {self.mode})")
        node.later(LEAVE_TIMEOUT, self._leave_now)
        self._world.changed()

    def _services(self, tree: pmxcfs.Tree) -> dict[str, pmxcfs.Service]:
        name = self._node.name
        return {sid: service for sid, service in tree.manager.services.items() if service.node == name}

    def _activate(self) -> None:
        if self.state != "active":
            self._world.say(f"lrm {self._node.name}", "active")
        self.state = "active"
        self._idle_since = self._world.now()

    def _feed(self) -> None:
        timings = self._world.timings
        self._node.feed_watchdog(timings.watchdog_client + timings.watchdog_device)

    # Rounds

    def _tick(self, next_at: float | None = None) -> None:
        """A round, and the timer for the next. A round that falls into a membership change waits for its
        end."""
        node, world = self._node, self._world
        if self._left:
            return
        next_at = next_at or world.now() + world.timings.lrm_round
        if node.runs("pve-ha-lrm") and node.runs("pmxcfs") and world.fs.blocked(node.name):
            world.membership.on_next_change(node.bound(self._tick, next_at))
            return
        node.later(max(0.0, next_at - world.now()), self._tick)
        if not (node.runs("pve-ha-lrm") and node.runs("pmxcfs")):
            return
        tree = world.fs.trees[node.name]
        if not world.membership.quorate(node.name):
            if self.state == "active":
                self.state = "lost_agent_lock"
                world.say(f"lrm {node.name}", "lost its lock: no quorum")
            return
        if self._leaving and self._may_leave(tree):
            return
        self._round(tree)
        self._flush(tree)

    def _round(self, tree: pmxcfs.Tree) -> None:
        node, world = self._node, self._world
        mine = self._services(tree)
        if tree.manager.disarm_state and not self._leaving:
            self.mode = "disarm"
            if (
                self.state == "active"
                and not self._workers
                and all(s.state == "freeze" for s in mine.values())
            ):
                self._release()
            if self.state != "active":
                return
        elif self.mode == "disarm":
            self.mode = "active"
        wanted = tree.manager.node_request.get(node.name, "")
        if not self._leaving and self.mode in ("active", "maintenance"):
            self.mode = "maintenance" if wanted == "maintenance" else "active"
        if any(service.state == "fence" for service in mine.values()):
            if self.state == "active":
                self.state = "lost_agent_lock"
                world.say(f"lrm {node.name}", "node need to be fenced - releasing agent_lock")
            return
        work = {sid: service for sid, service in mine.items() if service.state != "freeze"}
        if self.state == "wait_for_agent_lock" and not work:
            return
        if not world.fs.lock(node.name, lock_name(node.name), self.owner):
            self.state = "wait_for_agent_lock" if self.state == "wait_for_agent_lock" else "lost_agent_lock"
            return
        if self.state != "active":
            self._activate()
        self._feed()
        if mine or self._workers:
            self._idle_since = world.now()
        elif world.now() - self._idle_since > world.timings.lrm_idle_after:
            self._release()
            return
        for sid, service in work.items():
            self._manage(tree, sid, service)

    def _release(self) -> None:
        self._world.fs.unlock(self._node.name, lock_name(self._node.name), self.owner)
        self._node.feed_watchdog(None)
        self.state = "wait_for_agent_lock"
        self._world.say(f"lrm {self._node.name}", "idle")

    def _flush(self, tree: pmxcfs.Tree) -> None:
        """Write lrm_status: every round when idle, every second one when active, at once when it says
        something new."""
        old = tree.lrms.get(self._node.name)
        known = {service.uid for service in tree.manager.services.values()}
        results = {uid: result for uid, result in self._results.items() if uid in known}
        new = old is None or (old.state, old.mode, old.results) != (self.state, self.mode, results)
        if (
            new
            or self.state != "active"
            or self._world.now() - self._flushed > 1.5 * self._world.timings.lrm_round
        ):
            timestamp = int(self._world.wall_now(self._node.name))
            tree.lrms[self._node.name] = pmxcfs.Lrm(self.state, self.mode, timestamp, results)
            self._flushed = self._world.now()
            self._results = dict(results)
            if new:
                tree.version += 1
                self._world.changed()

    # Services

    def _manage(self, tree: pmxcfs.Tree, sid: str, service: pmxcfs.Service) -> None:
        """Bring one service nearer to what its record says. A migration whose file has moved is a success for
        who did it; an LRM that has started since finds the guest on the wrong node (PVE/HA/LRM.pm)."""
        ref = guests.parse_sid(sid)
        if ref is None or sid in self._workers:
            return
        world, name = self._world, self._node.name
        file = tree.guests.get(ref.vmid)
        misplaced = file is not None and file.node != name
        running = ref.vmid in self._node.processes
        if service.state == "started":
            if misplaced or file is None:
                self._report(sid, service, WRONG_NODE)
            elif running:
                self._failures.pop(sid, None)
                self._report(sid, service, SUCCESS)
            elif self.mode == "shutdown":
                return
            elif self._results.get(service.uid, pmxcfs.Result("", "", SUCCESS)).exit_code == SUCCESS:
                self._work(sid, service, world.guests.start(name, ref, skiplock=False), self._started)
        elif service.state in ("request_stop", "stopped"):
            if misplaced or file is None:
                self._report(sid, service, WRONG_NODE)
            elif running:
                self._work(sid, service, world.guests.stop(name, ref, shutdown=True), self._ended)
            else:
                self._report(sid, service, SUCCESS)
        elif service.state in ("migrate", "relocate") and service.uid not in self._results:
            if misplaced:
                self._report(sid, service, WRONG_NODE)
            elif service.state == "relocate" and running:
                self._work(sid, service, world.guests.stop(name, ref, shutdown=True), self._moved_or_stopped)
            else:
                self._work(sid, service, world.guests.migrate(name, ref, service.target), self._ended)

    def _work(self, sid: str, service: pmxcfs.Service, task: tasks.Task, then: _Then) -> None:
        self._workers[sid] = task
        self._node.later(0.2, self._watch, sid, service.uid, service.state, task, then)

    def _watch(self, sid: str, uid: str, state: str, task: tasks.Task, then: _Then) -> None:
        if task.exit_status is None:
            self._node.later(0.2, self._watch, sid, uid, state, task, then)
            return
        self._workers.pop(sid, None)
        then(sid, uid, state, task)

    def _started(self, sid: str, uid: str, state: str, task: tasks.Task) -> None:
        if task.exit_status == "OK":
            self._failures.pop(sid, None)
            self._results[uid] = pmxcfs.Result(sid, state, SUCCESS)
            return
        self._failures[sid] = self._failures.get(sid, 0) + 1
        resource = self._world.fs.trees[self._node.name].resources.get(sid)
        if self._failures[sid] > (resource.max_restart if resource else 1):
            self._failures.pop(sid)
            self._results[uid] = pmxcfs.Result(sid, state, ERROR)

    def _ended(self, sid: str, uid: str, state: str, task: tasks.Task) -> None:
        self._results[uid] = pmxcfs.Result(sid, state, SUCCESS if task.exit_status == "OK" else ERROR)

    def _moved_or_stopped(self, sid: str, uid: str, state: str, task: tasks.Task) -> None:
        """A relocation stops first; the next round migrates what is stopped by then."""
        if task.exit_status != "OK":
            self._results[uid] = pmxcfs.Result(sid, state, ERROR)

    def _report(self, sid: str, service: pmxcfs.Service, exit_code: int) -> None:
        self._results[service.uid] = pmxcfs.Result(sid, service.state, exit_code)

    # Leaving in order

    def _may_leave(self, tree: pmxcfs.Tree) -> bool:
        """One step of an orderly departure; True when the node has begun to go down."""
        mine = self._services(tree)
        self._flush(tree)
        if self.mode == "restart":
            ready = all(service.state == "freeze" for service in mine.values()) or self.state != "active"
        elif self.mode == "maintenance":
            ready = not any(
                s.state in ("started", "migrate", "relocate", "request_stop") for s in mine.values()
            )
        else:
            self._stop_all(mine)
            refs = [ref for sid in mine if (ref := guests.parse_sid(sid))]
            ready = not self._workers and not any(ref.vmid in self._node.processes for ref in refs)
        if ready:
            self._leave_now()
        elif self.state == "active" and self._world.fs.lock(
            self._node.name, lock_name(self._node.name), self.owner
        ):
            self._feed()
            if self.mode == "maintenance":
                for sid, service in mine.items():
                    self._manage(tree, sid, service)
        return True

    def _stop_all(self, mine: dict[str, pmxcfs.Service]) -> None:
        for sid, service in mine.items():
            ref = guests.parse_sid(sid)
            if ref and sid not in self._workers and ref.vmid in self._node.processes:
                task = self._world.guests.stop(self._node.name, ref, shutdown=True)
                self._work(sid, service, task, self._ended)

    def _leave_now(self) -> None:
        """The LRM exits; then the remaining guests are shut down, corosync leaves, the machine goes down."""
        if self._left or not self._leaving:
            return
        self._left = True
        node, world = self._node, self._world
        if world.membership.quorate(node.name) and not world.fs.blocked(node.name) and node.runs("pmxcfs"):
            world.fs.unlock(node.name, lock_name(node.name), self.owner)
            world.crms[node.name].give_up()
        node.feed_watchdog(None)
        node.services["pve-ha-lrm"] = node.services["pve-ha-crm"] = "stopped"
        for process in list(node.processes.values()):
            node.later(world.timings.shutdown, world.guests.end, process, "shut down with its node")
        node.later(world.timings.shutdown if node.processes else 1.0, self._down, self._leaving)

    def _down(self, how: str) -> None:
        node = self._node
        for service in machine.SERVICES:
            if service != "corosync":
                node.services[service] = "stopped"
        self._world.set_service(node.name, "corosync", "stopped")
        node.power_off(f"{how}: powered down")
        if how == "reboot":
            node.power_on()
