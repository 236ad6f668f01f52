"""The cluster resource manager: one daemon a node, one of them master, a round every 10 s.

A round reads membership and the LRMs' results, takes in changed resources and commands, moves each service
through its states until nothing changes, and writes `manager_status` once at the end. If recovery finds a
configuration elsewhere than its record says, the round dies before that write, every time: HA of the whole
cluster stands still (S8).
"""

import dataclasses
from typing import TYPE_CHECKING

from pveha.model import cluster, guests
from pveha.sim import guestfile, ha_lrm, ha_place, ha_rules, machine, pmxcfs

if TYPE_CHECKING:
    from pveha.sim import world as worlds

LOCK = "ha_manager_lock"
CLEARED_LOCKS = frozenset(
    [
        "backup",
        "mounted",
        "migrate",
        "clone",
        "rollback",
        "snapshot",
        "snapshot-delete",
        "suspending",
        "suspended",
    ]
)
_STARTED = cluster.HAState.STARTED


class RoundDiedError(Exception):
    """The master's round ended in the middle; nothing of it is written."""


class Crm:
    """pve-ha-crm of one node."""

    def __init__(self, world: "worlds.World", node: machine.Machine) -> None:
        self._world = world
        self._node = node
        self.state = "wait_for_quorum"
        self._last_online: dict[str, float] = {}
        self._calm: tuple[object, ...] = ()
        self._died, self._deaths = "", 0

    @property
    def owner(self) -> str:
        return f"crm:{self._node.name}/{self._node.boot_id}"

    def start(self, steady: bool = False) -> None:
        """The daemon starts (`steady`: it has been running)."""
        timings = self._world.timings
        if steady and self.state == "master":
            delay = self._world.rng.uniform(0.0, timings.crm_round)
        else:
            self.state = "wait_for_quorum"
            delay = self._world.rng.uniform(0.0, timings.crm_wait) if steady else 3.0
        self._node.later(delay, self._tick)

    def stop(self) -> None:
        """The machine went dark."""
        self.state = "wait_for_quorum"

    def give_up(self) -> None:
        """An orderly exit: a master gives its lock back."""
        world, name = self._world, self._node.name
        if self.state == "master" and world.membership.quorate(name) and self._node.runs("pmxcfs"):
            self._world.fs.unlock(self._node.name, LOCK, self.owner)
            self._world.say(f"crm {self._node.name}", "gave up being master")
        self.state = "wait_for_quorum"

    def become_master(self, quietly: bool = False) -> None:
        self.state, self._calm = "master", ()
        self._died, self._deaths = "", 0
        self._last_online = {}
        if not quietly:
            self._world.say(f"crm {self._node.name}", "master")

    # Rounds

    def _tick(self, begun_at: float | None = None) -> None:
        """A round, and the timer for the next. A round that falls into a membership change waits for its
        end."""
        node, world = self._node, self._world
        begun_at = world.now() if begun_at is None else begun_at
        works = node.runs("pve-ha-crm") and node.runs("pmxcfs")
        if works and world.fs.blocked(node.name):
            world.membership.on_next_change(node.bound(self._tick, begun_at))
            return
        if works:
            self._turn(world.fs.trees[node.name])
        length = world.timings.crm_round if self.state == "master" else world.timings.crm_wait
        shortest = world.timings.crm_round_takes[1]
        node.later(max(shortest, begun_at + length - world.now()), self._tick)

    def _turn(self, tree: pmxcfs.Tree) -> None:
        node, world = self._node, self._world
        if not world.membership.quorate(node.name):
            if self.state == "master":
                world.say(f"crm {node.name}", "no longer master: no quorum")
            self.state = "wait_for_quorum"
            return
        if self.state != "master":
            self.state = "slave"
            if not tree.resources and not tree.manager.services and not tree.commands:
                return
        if not world.fs.lock(node.name, LOCK, self.owner):
            self.state = "slave"
            return
        if self.state != "master":
            self.become_master()
        self._round(tree)

    def _round(self, tree: pmxcfs.Tree) -> None:
        world, name = self._world, self._node.name
        for member in world.machines:
            if world.membership.sees(name, member):
                self._last_online[member] = world.now()
        view = (tree.version, world.membership.rings[name])
        if view == self._calm:
            self._write(tree, tree.manager)
            return
        round_ = _Round(world, name, tree, self._last_online)
        if not any(world.timings.crm_round_takes):
            self._end_round(round_, view)
            return
        self._node.later(world.between(world.timings.crm_round_takes), self._end_round, round_, view)

    def _end_round(self, round_: "_Round", view: tuple[int, frozenset[str]]) -> None:
        """A round ends a moment after it has read the resources: what changed meanwhile is not in it, and one
        that has lost quorum or its pmxcfs meanwhile can write nothing."""
        world, name, tree = self._world, self._node.name, round_.tree
        version, ring = view
        runs = self._node.runs("pve-ha-crm") and self._node.runs("pmxcfs")
        works = runs and self.state == "master" and world.membership.quorate(name)
        if not works or world.fs.trees[name] is not tree or world.membership.rings[name] != ring:
            return
        try:
            round_.run()
        except RoundDiedError as error:
            self._deaths = self._deaths + 1 if str(error) == self._died else 1
            if self._deaths <= 2:
                again = " once more" if self._deaths == 2 else ""
                world.say(f"crm {name}", f"got unexpected error{again} - {error}")
            self._died, self._calm = str(error), ()
            return
        self._died, self._deaths = "", 0
        if round_.changed:
            tree.version, version = tree.version + 1, version + 1
        self._calm = (version, ring) if round_.calm else ()
        self._write(tree, round_.manager)

    def _write(self, tree: pmxcfs.Tree, manager: pmxcfs.Manager) -> None:
        tree.manager = manager
        manager.master = self._node.name
        manager.timestamp = int(self._world.wall_now(self._node.name))
        self._world.changed()


class _Round:
    """One round of the master, on a copy of its records."""

    def __init__(
        self, world: "worlds.World", name: str, tree: pmxcfs.Tree, last_online: dict[str, float]
    ) -> None:
        self._world = world
        self._name = name
        self.tree = self._tree = tree
        self._resources = dict(tree.resources)
        self._last_online = last_online
        self.manager = tree.manager.copy()
        self.changed = False

    @property
    def calm(self) -> bool:
        """Whether the next round would do nothing, if nothing else changes."""
        return (
            not self.changed
            and all(status in ("online", "maintenance") for status in self.manager.node_status.values())
            and all(
                s.state in ("started", "stopped", "error", "freeze") for s in self.manager.services.values()
            )
            and self.manager.disarm_state != "disarming"
        )

    def run(self) -> None:
        self._nodes()
        self._services()
        self._commands()
        if self._disarm():
            return
        while self._pass() or self._fence():
            pass

    def _say(self, subject: str, text: str) -> None:
        self.changed = True
        self._world.say(f"crm {subject}", text)

    # Nodes

    def _nodes(self) -> None:
        status = self.manager.node_status
        for name in self._world.machines:
            before = status.get(name, "unknown")
            lrm = self._tree.lrms.get(name)
            if self._world.membership.sees(self._name, name):
                mode = lrm.mode if lrm else "active"
                after = "maintenance" if mode == "maintenance" else "online"
                if before == "fence":
                    after = before
            else:
                after = before if before in ("fence", "unknown") else "unknown"
                self._last_online.setdefault(name, self._world.now())
            if name not in status or before != after:
                status[name] = after
                self._say(f"node {name}", f"{before} => {after}")

    def _offline_for_long(self, name: str) -> bool:
        if self.manager.node_status.get(name) in ("online", "maintenance"):
            return False
        return self._world.now() - self._last_online.get(name, 0.0) >= self._world.timings.fence_delay

    def _usable(self) -> frozenset[str]:
        """Nodes that services may go to."""
        lrms = self._tree.lrms
        return frozenset(
            name
            for name, status in self.manager.node_status.items()
            if status == "online" and (name not in lrms or lrms[name].mode in ("active", "disarm"))
        )

    # Resources and commands

    def _services(self) -> None:
        services = self.manager.services
        for sid, resource in self._resources.items():
            ref = guests.parse_sid(sid)
            file = self._tree.guests.get(ref.vmid) if ref else None
            if sid in services or resource.state is cluster.HAState.IGNORED or file is None:
                continue
            state = "request_start" if resource.state is _STARTED else "request_stop"
            services[sid] = pmxcfs.Service(state, file.node, self._uid())
            self._say(sid, f"adding new service on node {file.node}")
        for sid in list(services):
            resource_ = self._resources.get(sid)
            if resource_ is None or resource_.state is cluster.HAState.IGNORED:
                del services[sid]
                self._say(sid, "removing stale service (no config)")

    def _uid(self) -> str:
        return f"{self._world.rng.getrandbits(128):032x}"

    def _commands(self) -> None:
        commands, self._tree.commands = self._tree.commands, []
        for words in commands:
            self.changed = True
            match words:
                case ("migrate" | "relocate" as how, sid, target) if sid in self.manager.services:
                    self._move_on_command(how, sid, target)
                case ("stop", sid, *_) if sid in self.manager.services:
                    self._change(sid, "request_stop")
                    self.manager.services[sid].stop_first = True
                case ("enable-node-maintenance", name):
                    self.manager.node_request[name] = "maintenance"
                case ("disable-node-maintenance", name):
                    self.manager.node_request.pop(name, None)
                case ("disarm-ha", mode):
                    self.manager.disarm_mode, self.manager.disarm_state = mode, "disarming"
                    self._say("ha", f"disarming ({mode})")
                case ("arm-ha",):
                    self._say("ha", "armed")
                    self.manager.disarm_mode = self.manager.disarm_state = ""
                case _:
                    self._say(" ".join(words), "command ignored")

    def _move_on_command(self, how: str, sid: str, target: str) -> None:
        service = self.manager.services[sid]
        if target not in self._usable():
            self._say(sid, f"command error - node not online: {how} {target}")
        elif service.node == target:
            self._say(sid, f"ignore command - already on target node: {how} {target}")
        elif apart := self._bound(sid, positive=False, on=target):
            self._say(sid, f"command error - {apart[0]} on {target} is in negative affinity: {how} {target}")
        else:
            for each in (sid, *self._bound(sid, positive=True)):
                self._move(how, each, target)

    def _bound(self, sid: str, *, positive: bool, on: str = "") -> list[str]:
        """Services that affinity binds to one, or keeps apart from it: all, or those on a node."""
        others = {
            other
            for rule in self._rules().values()
            if rule.type == "resource-affinity" and rule.positive is positive and sid in rule.sids
            for other in rule.sids - {sid}
        }
        services = self.manager.services
        return sorted(each for each in others & services.keys() if on in ("", services[each].node))

    def _move(self, how: str, sid: str, target: str) -> None:
        service = self.manager.services[sid]
        if service.node != target and service.state in ("started", "stopped"):
            ref = guests.parse_sid(sid)
            container = ref is not None and ref.kind is guests.GuestKind.CONTAINER
            self._change(sid, "relocate" if container else how, target=target)

    def _disarm(self) -> bool:
        """Whether HA is disarmed, or on its way to it: then nothing else happens. Fencing and recovery that
        have begun are ended first."""
        if not self.manager.disarm_state:
            return False
        if any(service.state in ("fence", "recovery") for service in self.manager.services.values()):
            return False
        for sid, service in self.manager.services.items():
            if service.state in ("started", "stopped", "request_start", "request_stop"):
                self._change(sid, "freeze")
        released = all(
            lrm.mode == "disarm" and lrm.state != "active"
            for name, lrm in self._tree.lrms.items()
            if self.manager.node_status.get(name) == "online"
        )
        if released and self.manager.disarm_state == "disarming":
            self.manager.disarm_state = "disarmed"
            self._say("ha", "disarmed")
        return True

    # Services

    def _pass(self) -> bool:
        """Every service one step; whether any took one."""
        before = [(s.state, s.node, s.uid) for s in self.manager.services.values()]
        for sid in sorted(self.manager.services):
            step = getattr(self, f"_in_{self.manager.services[sid].state}")
            step(sid, self.manager.services[sid], self._resources[sid])
        return before != [(s.state, s.node, s.uid) for s in self.manager.services.values()]

    def _change(self, sid: str, state: str, node: str = "", target: str = "") -> None:
        service = self.manager.services[sid]
        where = f" (node = {node or service.node}{', target = ' + target if target else ''})"
        self._say(sid, f"{service.state} => {state}{where}")
        failed = service.failed_nodes if state in ("started", "relocate", "migrate") else ()
        keep = dataclasses.replace(
            service, state=state, node=node or service.node, target=target, uid=self._uid()
        )
        self.manager.services[sid] = dataclasses.replace(
            keep, running=False, stop_first=False, failed_nodes=failed
        )

    def _result(self, service: pmxcfs.Service) -> int | None:
        lrm = self._tree.lrms.get(service.node)
        result = lrm.results.get(service.uid) if lrm else None
        return result.exit_code if result and result.state == service.state else None

    def _freezing(self, service: pmxcfs.Service) -> bool:
        lrm = self._tree.lrms.get(service.node)
        return bool(lrm and lrm.mode == "restart" and self.manager.node_status.get(service.node) != "fence")

    def _choose(
        self, sid: str, service: pmxcfs.Service, failback: bool, avoid: tuple[str, ...] = ()
    ) -> str | None:
        return ha_place.choose(
            sid,
            service.node,
            self._usable(),
            self.manager.services,
            self._rules(),
            failback=failback,
            avoid=frozenset(avoid),
        )

    def _rules(self) -> ha_rules.Rules:
        return ha_rules.standing(self._tree.rules, frozenset(self._world.machines))

    def _in_request_start(self, sid: str, service: pmxcfs.Service, resource: cluster.HAResource) -> None:
        if resource.state is not _STARTED:
            self._change(sid, "request_stop")
        elif self.manager.node_status.get(service.node) in ("online", "maintenance"):
            self._change(sid, "started")
        elif self._offline_for_long(service.node):
            self._change(sid, "fence")

    def _in_started(self, sid: str, service: pmxcfs.Service, resource: cluster.HAResource) -> None:
        status = self.manager.node_status.get(service.node)
        if self._freezing(service) and status in ("online", "unknown"):
            self._change(sid, "freeze")
            return
        if status not in ("online", "maintenance"):
            if self._offline_for_long(service.node):
                self._change(sid, "fence")
            return
        if resource.state is not _STARTED:
            self._change(sid, "request_stop")
            return
        match self._result(service):
            case ha_lrm.SUCCESS:
                if not service.running:
                    service.running, service.failed_nodes, self.changed = True, (), True
            case ha_lrm.ERROR:
                self._start_failed(sid, service, resource)
                return
            case ha_lrm.WRONG_NODE:
                self._say(sid, "service registered on wrong node!")
                self._change(sid, "error")
                return
        self._place(sid, service, resource)

    def _start_failed(self, sid: str, service: pmxcfs.Service, resource: cluster.HAResource) -> None:
        failed = (*service.failed_nodes, service.node)
        service.failed_nodes = failed
        again = len(failed) <= resource.max_relocate
        target = self._choose(sid, service, failback=True, avoid=failed) if again else None
        if target is None:
            self._change(sid, "error")
        else:
            self._change(sid, "relocate", target=target)

    def _place(self, sid: str, service: pmxcfs.Service, resource: cluster.HAResource) -> None:
        """Move a started service to where rules, maintenance or failback want it."""
        back = service.maintenance_node
        if back and back in self._usable():
            service.maintenance_node, target = "", back
        elif self.manager.node_status.get(service.node) == "maintenance":
            service.maintenance_node = back or service.node
            target = self._choose(sid, service, failback=True) or service.node
        else:
            target = self._choose(sid, service, failback=resource.failback) or service.node
        if target != service.node:
            ref = guests.parse_sid(sid)
            live = ref is not None and ref.kind is guests.GuestKind.VM
            self._change(sid, "migrate" if live else "relocate", target=target)

    def _in_request_stop(self, sid: str, service: pmxcfs.Service, resource: cluster.HAResource) -> None:
        if self._freezing(service):
            self._change(sid, "freeze")
        elif self.manager.node_status.get(service.node) not in ("online", "maintenance"):
            if self._offline_for_long(service.node):
                self._change(sid, "fence")
        elif (code := self._result(service)) is not None:
            self._change(sid, "stopped" if code == ha_lrm.SUCCESS else "error")

    def _in_stopped(self, sid: str, service: pmxcfs.Service, resource: cluster.HAResource) -> None:
        if self._freezing(service):
            self._change(sid, "freeze")
        elif self.manager.node_status.get(service.node) not in ("online", "maintenance"):
            if self._offline_for_long(service.node):
                self._change(sid, "fence")
        elif resource.state is _STARTED:
            self._change(sid, "request_start")

    def _in_migrate(self, sid: str, service: pmxcfs.Service, resource: cluster.HAResource) -> None:
        if self.manager.node_status.get(service.node) not in ("online", "maintenance"):
            if self._offline_for_long(service.node):
                self._change(sid, "fence")
            return
        code = self._result(service)
        if code is None:
            return
        node = service.target if code == ha_lrm.SUCCESS else service.node
        if code == ha_lrm.WRONG_NODE:
            self._say(sid, "service registered on wrong node!")
            self._change(sid, "error")
        else:
            self._change(sid, "started" if resource.state is _STARTED else "request_stop", node=node)

    _in_relocate = _in_migrate

    def _in_freeze(self, sid: str, service: pmxcfs.Service, resource: cluster.HAResource) -> None:
        """Ends with the LRM's mode, also if that is the last word of a node that died meanwhile."""
        lrm = self._tree.lrms.get(service.node)
        online = self.manager.node_status.get(service.node) in ("online", "maintenance")
        if lrm and (lrm.mode in ("active", "maintenance") or (online and lrm.mode == "disarm")):
            self._change(sid, "started" if resource.state is _STARTED else "request_stop")

    def _in_error(self, sid: str, service: pmxcfs.Service, resource: cluster.HAResource) -> None:
        if resource.state is cluster.HAState.DISABLED:
            self._change(sid, "request_stop")

    def _in_fence(self, sid: str, service: pmxcfs.Service, resource: cluster.HAResource) -> None:
        """Waits for the node's agent lock."""

    def _in_recovery(self, sid: str, service: pmxcfs.Service, resource: cluster.HAResource) -> None:
        target = self._choose(sid, service, failback=True)
        if target is None:
            return
        ref = guests.parse_sid(sid)
        file = self._tree.guests.get(ref.vmid) if ref else None
        if file is None or file.node != service.node:
            message = f"recover {sid}: unable to steal config: not on node '{service.node}'"
            raise RoundDiedError(message)
        if target != file.node:
            self._say(sid, f"recover from fenced node {service.node} to node {target}")
            self._world.fs.rename(self._name, file.path, guestfile.path_of(file.ref, target), "crm")
            file = self._tree.guests[file.ref.vmid]
        if file.lock in CLEARED_LOCKS:
            self._say(sid, f"cleared lock {file.lock}")
            self._world.fs.set_guest(self._name, file.with_lock(""))
        self._change(sid, "started" if resource.state is _STARTED else "request_stop", node=target)

    # Fencing

    def _fence(self) -> bool:
        """Fence nodes that services wait for: take their agent locks. Whether any service may go on."""
        status, services = self.manager.node_status, self.manager.services
        for name in sorted({s.node for s in services.values() if s.state == "fence"}):
            if status.get(name) == "unknown":
                status[name] = "fence"
                self._say(f"node {name}", "unknown => fence")
            if status.get(name) != "fence":
                self._to_recovery(name)
                return True
            if self._world.fs.lock(self._name, ha_lrm.lock_name(name), f"crm:{self._name}:fence"):
                status[name] = "unknown"
                self._say(f"node {name}", "fencing: acknowledged - got agent lock; fence => unknown")
                self._to_recovery(name)
                return True
        return False

    def _to_recovery(self, name: str) -> None:
        for sid, service in self.manager.services.items():
            if service.state == "fence" and service.node == name:
                self._change(sid, "recovery")


def begin_steady(world: "worlds.World", master: str) -> None:
    """Records of a cluster whose HA has been running for a while, with `master` as CRM master."""
    tree = world.fs.trees[master]
    tree.manager.node_status = dict.fromkeys(world.machines, "online")
    tree.manager.master, tree.manager.timestamp = master, int(world.wall_now(master))
    for sid, resource in tree.resources.items():
        ref = guests.parse_sid(sid)
        file = tree.guests.get(ref.vmid) if ref else None
        if file is None or resource.state is cluster.HAState.IGNORED:
            continue
        started = resource.state is _STARTED
        uid = f"{world.rng.getrandbits(128):032x}"
        tree.manager.services[sid] = pmxcfs.Service(
            "started" if started else "stopped", file.node, uid, running=started
        )
    crm = world.crms[master]
    crm.become_master(quietly=True)
    world.fs.lock(master, LOCK, crm.owner)
