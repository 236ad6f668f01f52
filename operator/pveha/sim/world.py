"""The world: one data centre with one Proxmox VE cluster, from the mains to the guests' disks.

Everything in it runs on the running event loop's `time()` and `call_at`, and on one seeded random generator:
on `clock.VirtualLoop` it is a simulation that repeats itself exactly, on an ordinary loop it runs in real
time. Build it, call `start()` inside the loop, break things with the methods below, read `log` and the
counters.
"""

import asyncio
import contextlib
import dataclasses
import fnmatch
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from pveha.model import cluster, errors, guests
from pveha.sim import (
    bmc,
    config,
    equipment,
    guestfile,
    guestops,
    ha_crm,
    ha_lrm,
    ha_rules,
    machine,
    membership,
    net,
    pdu,
    pmxcfs,
    replicas,
    storage,
    tasks,
    views,
)

PATHS = ("api", "ssh", "bmc")

CONFIG_WRITERS_MEASURED = 7
"""Other writers that competed for the lock when the tail of `Timings.config_write_tail` was measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """A line of the world's log; `at` is in seconds since the world began."""

    at: float
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:10.3f}  {self.subject}: {self.text}"


class World:
    """A running data centre."""

    def __init__(self, about: config.Config) -> None:
        self.config = about.completed()
        self.timings = about.timings
        self.rng = random.Random(about.seed)
        self.log: list[Event] = []
        self.machines = {node.name: machine.Machine(self, node) for node in self.config.nodes}
        self.membership = membership.Membership(self)
        self.fs = pmxcfs.Pmxcfs(self)
        self.storage = storage.Storage(self)
        self.replicas = replicas.Replicas(self)
        self.equipment: equipment.Equipment = equipment.Equipment(self)
        self.tasks = tasks.Tasks(self)
        self.guests = guestops.GuestOps(self)
        self.bmcs = bmc.Bmcs(self)
        self.pdus = pdu.Pdus(self)
        self.crms = {name: ha_crm.Crm(self, node) for name, node in self.machines.items()}
        self.lrms = {name: ha_lrm.Lrm(self, node) for name, node in self.machines.items()}
        self.net = net.Net(self)
        self.links_down: set[frozenset[str]] = set()
        self.isolated: set[str] = set()
        """Nodes whose cluster network is cut: no other node, no API and no SSH from the operator."""
        self.operator_cut: set[tuple[str, str]] = set()
        """(node, path) with a path of `PATHS` that the operator cannot use."""
        self.deaf: set[str] = set()
        """Nodes whose API does what it is asked and whose answers never arrive."""
        self.lagging: dict[str, float] = {}
        """Nodes whose API's answers come so many seconds after they were made."""
        self.told_memory: dict[str, int] = {}
        """Bytes in use, as each node has told last."""
        self._callbacks: list[Callable[[], object]] = []
        self._mover_callbacks: list[Callable[[int, str, str, str], object]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._epoch = 0.0
        self._config_writers = 0
        self._config_lock: asyncio.Lock | None = None

    # Time

    def start(self) -> None:
        """Begin, in the running event loop: a steady cluster, or (`cold`) one that is switched off."""
        self._loop = asyncio.get_running_loop()
        self._epoch = self._loop.time()
        self._config_lock = asyncio.Lock()
        tree = pmxcfs.Tree()
        for guest in self.config.guests:
            tree.guests[guest.vmid] = guestfile.GuestFile(guest.ref, guest.node, guestfile.render(guest))
            if guest.ha:
                tree.resources[guest.ha.sid] = guest.ha
        self.replicas.begin(tree)
        tree.rules = {rule.name: rule for rule in self.config.rules}
        tree.lrms = {name: pmxcfs.Lrm() for name in self.machines}
        self.fs.trees = dict.fromkeys(self.machines, tree)
        if not self.config.cold:
            self._begin_steady(tree)
            self.membership.qdevice.begin_steady()

    def _begin_steady(self, tree: pmxcfs.Tree) -> None:
        everybody = frozenset(self.machines)
        for node in self.machines.values():
            node.powered = node.up = True
            node.boot_id = 1
            node.booted_at = self.now() - 1000.0
            node.services = dict.fromkeys(machine.SERVICES, "running")
            self.membership.rings[node.name] = everybody
        for guest in self.config.guests:
            if guest.running and not guest.template:
                process = self.guests.create(self.machines[guest.node], tree.guests[guest.vmid])
                process.ready_at = self.now()
        if tree.resources:
            ha_crm.begin_steady(self, self.config.master or next(iter(self.machines)))
        for name in self.machines:
            self.lrms[name].start(steady=True)
            self.crms[name].start(steady=True)

    def now(self) -> float:
        """Seconds since the world began."""
        return self._loop.time() - self._epoch if self._loop else 0.0

    def wall_now(self, node: str = "") -> float:
        """Unix time, as `node`'s clock has it (without a node: the true one)."""
        skew = self.machines[node].clock_skew if node else 0.0
        return self.config.start_timestamp + self.now() + skew

    def at(self, when: float, action: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call `action` at the world's time `when`."""
        assert self._loop is not None, "start() first"
        return self._loop.call_at(self._epoch + when, action, *args)

    def later(self, delay: float, action: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        return self.at(self.now() + delay, action, *args)

    def between(self, bounds: tuple[float, float]) -> float:
        """A random duration within bounds."""
        return self.rng.uniform(*bounds)

    # What is told

    def say(self, subject: str, text: str) -> None:
        self.log.append(Event(self.now(), subject, text))

    def lines(self, *words: str) -> list[str]:
        """Lines of the log that contain all `words`, for people and tests."""
        return [line for line in map(str, self.log) if all(word in line for word in words)]

    def first(self, *words: str, after: float = 0.0) -> float | None:
        """When the first line with all `words` was logged at or after `after`."""
        for event in self.log:
            if event.at >= after and all(word in str(event) for word in words):
                return event.at
        return None

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` (synchronously, it must not raise) after each change that somebody outside could
        see."""
        self._callbacks.append(callback)

    def on_move(self, callback: Callable[[int, str, str, str], object]) -> None:
        """Call `callback(vmid, source, target, by)` when a configuration moves between nodes."""
        self._mover_callbacks.append(callback)

    def config_moved(self, vmid: int, source: str, target: str, by: str) -> None:
        for callback in self._mover_callbacks:
            callback(vmid, source, target, by)

    def changed(self) -> None:
        for callback in self._callbacks:
            callback()

    @property
    def double_runs(self) -> int:
        """How often a guest came to have two processes able to write."""
        return self.storage.double_runs

    @property
    def bmc_log(self) -> list[bmc.Command]:
        return self.bmcs.log

    def uptime(self, vmid: int) -> list[guestops.Interval]:
        """When and where the guest ran."""
        return self.guests.history.get(vmid, [])

    def downtime(self, vmid: int, since: float) -> float:
        """Seconds from `since` (world's time) until now in which the guest ran nowhere."""
        reached, down, now = since, 0.0, self.now()
        for interval in sorted(self.uptime(vmid), key=lambda interval: interval.start):
            end = now if interval.end is None else interval.end
            if end > reached:
                down += max(0.0, interval.start - reached)
                reached = end
        return down + max(0.0, now - reached)

    @property
    def newest(self) -> pmxcfs.Tree:
        """The newest replicated state; in a forked history that of the quorate part, if there is one."""
        if self.fs.forked:
            for name in self.machines:
                if self.membership.quorate(name):
                    return self.fs.trees[name]
        return max(self.fs.trees.values(), key=lambda tree: tree.version)

    def state_of_guests(self) -> dict[int, dict[str, str]]:
        """Where each guest's configuration is (in the newest tree), and the state of its process there."""
        tree = self.newest
        return {
            vmid: {"node": file.node, "state": self.guests.status(file.node, vmid)}
            for vmid, file in sorted(tree.guests.items())
        }

    def reported_status(self, witness: str, file: guestfile.GuestFile) -> str:
        """A guest's status as `witness` shows it in `/cluster/resources`: late, and sometimes stale."""
        return views.guest_status(self, witness, file)

    def storage_reported(self, witness: str, node: str, store: str) -> bool:
        """Whether `witness` shows a storage as available on `node`."""
        return views.storage_available(self, witness, node, store)

    @property
    def ceph_quorum(self) -> frozenset[str]:
        """Ceph's monitors that are in quorum; none if no majority lives."""
        machines = self.machines
        living = frozenset(name for name in self.config.ceph if machines[name].up and not machines[name].hung)
        return living if 2 * len(living) > len(self.config.ceph) else frozenset()

    # Links

    def linked(self, a: str, b: str) -> bool:
        """Whether two nodes' cluster network connects them."""
        return not ({a, b} & self.isolated) and frozenset((a, b)) not in self.links_down

    def reachable(self, node: str, path: str) -> bool:
        """Whether the operator's packets reach `node` by `path` (api, ssh, bmc)."""
        if path != "bmc" and node in self.isolated:
            return False
        return (node, path) not in self.operator_cut

    # Writes that take the cluster-wide configuration lock

    @contextlib.asynccontextmanager
    async def config_write(self, node: str) -> AsyncIterator[pmxcfs.Tree]:
        """Hold the lock of HA's configuration on `node`, as long as such a write takes, and yield the tree to
        change.

        Errors: `NoQuorum`, after 9.9 s as the real call; `Unreachable` if the node's pmxcfs is down.
        """
        assert self._config_lock is not None, "start() first"
        chance, longest = self.timings.config_write_tail
        low, high = self.timings.config_write
        starved = self.rng.random() < chance * self._config_writers / CONFIG_WRITERS_MEASURED
        self._config_writers += 1
        try:
            await asyncio.sleep(self.rng.uniform(high, longest) if starved else 0.03)
            await self._lockable(node)
            async with self._config_lock:
                await asyncio.sleep(self.rng.uniform(low, high) - 0.03)
                tree = await self._lockable(node)
                yield tree
                tree.version += 1
                self.changed()
                self.net.wake()
        finally:
            self._config_writers -= 1

    async def _lockable(self, node: str) -> pmxcfs.Tree:
        """The tree of `node` once it can take a cluster-wide lock; errors as `config_write`."""
        message = f"cfs-lock 'domain-ha' error: no quorum! (asked {node})"
        try:
            await asyncio.wait_for(self.fs.settle(node), self.timings.no_quorum_lock_error)
            return self.fs.writable(node)
        except TimeoutError:
            raise errors.NoQuorum(message) from None
        except PermissionError:
            await asyncio.sleep(self.timings.no_quorum_lock_error)
            raise errors.NoQuorum(message) from None
        except OSError as error:
            message = f"{node}: pmxcfs: {error.strerror}"
            raise errors.Unreachable(message) from None

    # What nodes do by themselves

    def node_up(self, node: machine.Machine) -> None:
        """A machine finished booting."""
        self.fs.restarted(node.name)
        self.membership.touch()
        self.lrms[node.name].start()
        self.crms[node.name].start()
        self.net.wake()
        node.later(5.0, self._start_onboot, node)

    def node_down(self, node: machine.Machine) -> None:
        """A machine went dark."""
        self.lrms[node.name].stop()
        self.crms[node.name].stop()
        self.tasks.interrupt(node.name)
        self.membership.touch()

    def _start_onboot(self, node: machine.Machine) -> None:
        """pve-guests: start what has `onboot`, once there is quorum. HA's guests (not ignored ones) are
        HA's."""
        if not self.membership.quorate(node.name) or self.fs.blocked(node.name):
            node.later(5.0, self._start_onboot, node)
            return
        tree = self.fs.trees[node.name]
        for file in list(tree.guests.values()):
            resource = tree.resources.get(file.ref.sid)
            managed = resource is not None and resource.state is not cluster.HAState.IGNORED
            if file.node == node.name and not managed and guestfile.value(file.text, "onboot") == "1":
                self.guests.start(node.name, file.ref)

    # Faults and what people do

    def power_off(self, name: str) -> None:
        """The node loses power at once."""
        self.machines[name].power_off("power lost")

    def power_on(self, name: str) -> None:
        self.machines[name].power_on()

    def mains_lost(self) -> None:
        """The whole data centre loses power; `power_restore` says who was on."""
        for node in self.machines.values():
            node.was_on = node.powered
            node.power_off("power lost")

    def mains_back(self) -> None:
        """Power returns: machines follow their restore policy."""
        for node in self.machines.values():
            policy = node.power_restore
            if policy == "on" or (policy == "last" and node.was_on):
                node.power_on()

    def cut_network(self, name: str) -> None:
        """The node loses its cluster network; storage and BMC have networks of their own."""
        self.isolated.add(name)
        self._links_changed(name, "cluster network cut")

    def cut_link(self, a: str, b: str) -> None:
        self.links_down.add(frozenset((a, b)))
        self._links_changed(a, f"link to {b} cut")

    def heal(self, name: str = "") -> None:
        """Mend the links of a node, or everything (storage paths and the operator's paths included)."""
        self.isolated = self.isolated - {name} if name else set()
        self.links_down = {pair for pair in self.links_down if name and name not in pair}
        self.operator_cut = {entry for entry in self.operator_cut if name and entry[0] != name}
        self.membership.qdevice.heal(name)
        for node, store in sorted(self.storage.cut):
            if not name or node == name:
                self.storage.set_path(node, store, up=True)
        self._links_changed(name or "everything", "links healed")

    def partition(self, *groups: tuple[str, ...]) -> None:
        """Cut every link between nodes of different groups."""
        where = {name: number for number, group in enumerate(groups) for name in group}
        for a in self.machines:
            for b in self.machines:
                if a < b and where.get(a) != where.get(b):
                    self.links_down.add(frozenset((a, b)))
        self._links_changed("network", "partitioned: " + " | ".join(" ".join(group) for group in groups))

    def _links_changed(self, subject: str, text: str) -> None:
        self.say(subject, text)
        self.membership.touch()
        self.changed()

    def cut_operator(self, name: str = "all", path: str = "all") -> None:
        """The operator loses its way to a node (or all) by a path: api, ssh, bmc, or all of them."""
        names = list(self.machines) if name == "all" else [name]
        self.operator_cut |= {(node, p) for node in names for p in (PATHS if path == "all" else (path,))}
        self._links_changed("operator", f"path {path} to {name} cut")

    def heal_operator(self, name: str = "all", path: str = "all") -> None:
        self.operator_cut = {
            (node, p) for node, p in self.operator_cut if name not in ("all", node) or path not in ("all", p)
        }
        self._links_changed("operator", f"path {path} to {name} healed")

    def cut_qdevice(self, name: str = "all") -> None:
        """A node (`all`: every node, and the next) no longer reaches the QDevice's host."""
        self.membership.qdevice.set_reach(name, up=False)
        self._links_changed("qdevice", "gone" if name == "all" else f"cut off from {name}")

    def heal_qdevice(self, name: str = "all") -> None:
        self.membership.qdevice.set_reach(name, up=True)
        self._links_changed("qdevice", "back" if name == "all" else f"reached by {name} again")

    def cut_storage(self, name: str, store: str) -> None:
        """A node loses its path to a storage."""
        self.storage.set_path(name, store, up=False)
        self._links_changed(name, f"path to storage {store} cut")

    def set_service(self, name: str, service: str, state: str) -> None:
        """Make one of `machine.SERVICES` running, stopped or hung."""
        node = self.machines[name]
        if not node.up or service not in node.services:
            return
        self.say(name, f"{service} {state}")
        before, node.services[service] = node.services[service], state
        node.service_since[service] = self.now()
        if service == "corosync" and state == "stopped" and before == "running":
            self.membership.leave(name)
        elif service == "corosync":
            self.membership.touch()
        elif service == "pve-ha-lrm" and {before, state} == {"running", "stopped"}:
            (self.lrms[name].daemon_started if state == "running" else self.lrms[name].daemon_stopped)()
        elif service == "pve-ha-crm" and state == "stopped":
            self.crms[name].give_up()
        self.changed()

    def hang_api(self, name: str) -> None:
        """pveproxy accepts connections and answers nothing."""
        self.set_service(name, "pveproxy", "hung")

    def slow_crm(self, seconds: float) -> None:
        """The CRM's rounds take so long, from reading the resources to the flush; 0: as configured."""
        takes = (seconds, seconds) if seconds else self.config.timings.crm_round_takes
        if takes == self.timings.crm_round_takes:
            return
        self.timings = dataclasses.replace(self.timings, crm_round_takes=takes)
        self.say("crm", f"rounds take {takes[0]:g} to {takes[1]:g} s")

    def stop_pveproxy(self, name: str) -> None:
        self.set_service(name, "pveproxy", "stopped")

    def stop_pvedaemon(self, name: str) -> None:
        self.set_service(name, "pvedaemon", "stopped")

    def stop_pmxcfs(self, name: str) -> None:
        self.set_service(name, "pmxcfs", "stopped")

    def freeze_corosync(self, name: str) -> None:
        """The others lose the node; it keeps believing in its last membership."""
        self.set_service(name, "corosync", "hung")

    def hang_node(self, name: str) -> None:
        """The kernel stands still; a watchdog that is armed still bites. Its guests count as able to
        write."""
        node = self.machines[name]
        if node.up and not node.hung:
            node.hung = True
            node.dark_since = self.now()
            self._links_changed(name, "hangs")

    def kill_guest(self, vmid: int, name: str) -> None:
        """The guest's process on a node crashes."""
        if process := self.machines[name].processes.get(vmid):
            self.guests.end(process, "crashed")

    def set_lock(self, vmid: int, lock: str) -> None:
        """Somebody's job leaves (or "" removes) a lock in a guest's configuration."""
        tree = self._some_tree()
        tree.guests[vmid] = tree.guests[vmid].with_lock(lock)
        tree.version += 1
        self.changed()

    def expect_votes(self, votes: int) -> None:
        """Somebody types `pvecm expected`; 0 undoes it."""
        self.membership.expected_override = votes
        self.say("corosync", f"expected votes {self.membership.expected}")
        self.changed()

    def unhang_node(self, name: str) -> None:
        """The kernel goes on where it stood."""
        node = self.machines[name]
        if node.up and node.hung:
            node.hung = False
            self._links_changed(name, "goes on")

    def kill_bmc(self, name: str) -> None:
        self.bmcs.by_name[name].alive = False
        self.say(f"bmc {name}", "dead")

    def bmc_lies(self, name: str) -> None:
        """The BMC acknowledges commands without carrying them out."""
        self.bmcs.by_name[name].lies = True
        self.say(f"bmc {name}", "acknowledges without doing")

    def swap_bmcs(self, a: str, b: str) -> None:
        """Two BMCs answer under each other's address."""
        bmcs = self.bmcs.by_name
        bmcs[a], bmcs[b] = dataclasses.replace(bmcs[b], name=a), dataclasses.replace(bmcs[a], name=b)
        self.say(f"bmc {a}", f"swapped with the one of {b}")

    def straighten_bmcs(self) -> None:
        """Every BMC answers under its own address again."""
        bmcs = self.bmcs.by_name
        right = {bmc.machine: dataclasses.replace(bmc, name=bmc.machine) for bmc in bmcs.values()}
        if any(bmcs[name].machine != name for name in bmcs):
            self.say("bmcs", "each at its own machine")
        bmcs.update(right)

    def lose_answers(self, name: str, lost: bool = True) -> None:
        """The node's API acts, and the operator's calls to it time out all the same."""
        self.deaf = self.deaf | {name} if lost else self.deaf - {name}
        self.say(name, "answers get lost" if lost else "answers arrive again")

    def shutdown(self, name: str) -> None:
        """An orderly shutdown of a node."""
        self.lrms[name].leave("shutdown")

    def reboot(self, name: str) -> None:
        """An orderly reboot of a node."""
        self.lrms[name].leave("reboot")

    def set_ha(self, resource: cluster.HAResource | None, sid: str = "") -> None:
        """A person writes (or with None: removes `sid`) an HA resource, on some quorate node."""
        tree = self._some_tree()
        if resource is None:
            tree.resources.pop(sid, None)
        else:
            tree.resources[resource.sid] = resource
        tree.version += 1
        self.say(
            "user",
            f"HA resource {sid or (resource and resource.sid)}: {resource.state if resource else 'removed'}",
        )
        self.changed()

    def set_ha_state(self, sid: str, state: str) -> None:
        """A person sets the requested state of an HA resource."""
        tree = self._some_tree()
        wanted = dataclasses.replace(tree.resources[sid], state=cluster.HAState(state))
        tree.wishes[sid] = wanted.state
        self.set_ha(wanted)

    def remove_replication(self, id_: str) -> None:
        """A person removes a replication job, and with it the replica."""
        self.replicas.remove(id_, self._some_tree())

    def set_replication(self, id_: str, disabled: bool) -> None:
        """A person disables a replication job, or enables it."""
        self.replicas.set_disabled(id_, self._some_tree(), disabled)

    def set_rule(self, rule: cluster.HARule) -> None:
        """A person writes an HA rule, on some quorate node; `Refused` if Proxmox does not take it."""
        tree = self._some_tree()
        if refusal := ha_rules.refusal(tree, rule, frozenset(self.machines)):
            raise errors.Refused(refusal)
        tree.rules[rule.name] = rule
        tree.version += 1
        self.say("user", f"HA rule {ha_rules.shown(rule)}")
        self.changed()

    def edit_rules(self, pattern: str, **fields: Any) -> None:
        """A person changes fields of all HA rules whose name matches, or with none removes them; KeyError if
        there is no such rule."""
        tree = self._some_tree()
        names = fnmatch.filter(tree.rules, pattern)
        if not names:
            raise KeyError(pattern)
        for name in names:
            if fields:
                self.set_rule(dataclasses.replace(tree.rules[name], **fields))
                continue
            del tree.rules[name]
            tree.version += 1
            self.say("user", f"HA rule {name}: removed")
            self.changed()

    def crm_command(self, *words: str) -> None:
        """Queue a command for the CRM: migrate SID NODE, relocate SID NODE, stop SID, disarm-ha MODE, arm-ha,
        enable-node-maintenance NODE, disable-node-maintenance NODE."""
        tree = self._some_tree()
        tree.commands.append(words)
        tree.version += 1

    def _some_tree(self) -> pmxcfs.Tree:
        """The tree of a node that works and stays quorate, rather of one that can write now; `NoQuorum`
        without one."""
        for name in sorted(self.machines, key=self.fs.blocked):
            node = self.machines[name]
            works = node.up and not node.hung and node.services["pmxcfs"] == "running"
            if works and self.membership.stays_quorate(name) and not self.membership.left_behind(name):
                return self.fs.trees[name]
        message = f"no node of {self.config.cluster_name} is quorate"
        raise errors.NoQuorum(message)

    def guest_file(self, vmid: int) -> guestfile.GuestFile:
        """A guest's configuration, as the newest tree has it; KeyError without one."""
        return self.newest.guests[vmid]

    def create_guest(self, vmid: int, name: str) -> None:
        """A person makes and starts a VM on a node; a guest that had its number is destroyed first, with its
        HA resource."""
        tree, on = self._some_tree(), self.machines[name]
        if old := tree.guests.pop(vmid, None):
            tree.resources.pop(old.ref.sid, None)
            self.kill_guest(vmid, old.node)
        uuid = config.stable_uuid(f"{self.config.cluster_name}-{vmid}-{self.now()}")
        about = config.Guest(vmid, name, name=f"new{vmid}", uuid=uuid)
        file = guestfile.GuestFile(about.ref, name, guestfile.render(about), self.now())
        tree.guests[vmid] = file
        tree.version += 1
        self.guests.about[vmid] = about
        self.guests.create(on, file)
        self.say("user", f"guest {vmid} created on {name}")
        self.changed()

    def destroy_guest(self, vmid: int) -> None:
        """A person destroys a guest, with its HA resource."""
        tree = self._some_tree()
        file = tree.guests.pop(vmid)
        tree.resources.pop(file.ref.sid, None)
        tree.version += 1
        self.kill_guest(vmid, file.node)
        self.say("user", f"guest {vmid} destroyed")
        self.changed()

    def set_tags(self, vmid: int, *tags: str) -> None:
        """A person edits a guest's tags."""
        tree = self._some_tree()
        file = tree.guests[vmid]
        lines = [line for line in file.text.splitlines() if not line.startswith("tags:")]
        lines += [f"tags: {';'.join(tags)}"] if tags else []
        tree.guests[vmid] = dataclasses.replace(file, text="\n".join(lines) + "\n")
        tree.version += 1
        self._note_guest(vmid, tags=tags)

    def set_config(self, vmid: int, key: str, value: str) -> None:
        """A person edits a line of a guest's configuration, or (with "") removes it."""
        tree = self._some_tree()
        file = tree.guests[vmid]
        lines = [line for line in file.text.splitlines() if not line.startswith(f"{key}:")]
        lines += [f"{key}: {value}"] if value else []
        tree.guests[vmid] = dataclasses.replace(file, text="\n".join(lines) + "\n")
        tree.version += 1
        self.say("user", f"guest {vmid}: {key} {value or 'removed'}")
        self.changed()

    def set_pool(self, vmid: int, pool: str) -> None:
        """A person puts a guest into a pool, or ("") out of it."""
        self._note_guest(vmid, pool=pool)

    def rename_guest(self, vmid: int, name: str) -> None:
        """A person renames a guest."""
        tree = self._some_tree()
        file = tree.guests[vmid]
        key = "name" if file.ref.kind is guests.GuestKind.VM else "hostname"
        lines = [line for line in file.text.splitlines() if not line.startswith(f"{key}:")]
        tree.guests[vmid] = dataclasses.replace(file, text="\n".join([f"{key}: {name}", *lines]) + "\n")
        tree.version += 1
        self._note_guest(vmid, name=name)

    def _note_guest(self, vmid: int, **fields: Any) -> None:
        self.guests.about[vmid] = dataclasses.replace(self.guests.about[vmid], **fields)
        told = ", ".join(f"{key} {value or 'none'}" for key, value in fields.items())
        self.say("user", f"guest {vmid}: {told}")
        self.changed()

    def start_guest(self, vmid: int) -> tasks.Task | None:
        """A person starts a guest where its configuration is; for one under HA the order goes to the CRM."""
        file = self.guest_file(vmid)
        if self.managed(file.ref):
            self.crm_command("start", file.ref.sid)
            return None
        return self.guests.start(file.node, file.ref)

    def stop_guest(self, vmid: int) -> tasks.Task | None:
        file = self.guest_file(vmid)
        if self.managed(file.ref):
            self.crm_command("stop", file.ref.sid)
            return None
        return self.guests.stop(file.node, file.ref)

    def managed(self, ref: guests.GuestRef) -> bool:
        """Whether Proxmox's HA looks after a guest (an ignored resource does not count)."""
        resource = self._some_tree().resources.get(ref.sid)
        return resource is not None and resource.state is not cluster.HAState.IGNORED

    def migrate_guest(self, vmid: int, target: str) -> tasks.Task | None:
        """A person moves a guest; for one under HA the command goes to the CRM."""
        file = self.guest_file(vmid)
        if self.managed(file.ref):
            self.crm_command("migrate", file.ref.sid, target)
            return None
        return self.guests.migrate(file.node, file.ref, target)

    def move_config(self, vmid: int, target: str, by: str) -> None:
        """A person on node `by` moves a configuration file. Errors as `Pmxcfs.rename`."""
        file = self.fs.tree(by).guests[vmid]
        self.fs.rename(by, file.path, guestfile.path_of(file.ref, target), "user")

    def ref(self, vmid: int) -> guests.GuestRef:
        return self.guest_file(vmid).ref
