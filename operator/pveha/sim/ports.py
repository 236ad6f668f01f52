"""The model's ports on a world in the same process: no sockets, the same deadlines and failures as the real
ones.

What a caller gives up on goes on: the server's side of a call is a task of its own, and its effect may come
after the caller has been told `Unreachable`.
"""

import asyncio
import dataclasses
import functools
import json
import shlex
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pveha.model import cluster, errors, guests, node, power, replication
from pveha.nodeshell import answers, pveha_node, ssh
from pveha.proxmox import client
from pveha.sim import guestfile, guestops, ha_rules, node_system, pmxcfs, replicas, shell_versions, views

if TYPE_CHECKING:
    from pveha.sim import world as worlds

T = TypeVar("T")
_PMXCFS_DOWN_SECONDS = 3.0
_BMC_SECONDS = 5.0
_CERTIFICATE_SECONDS = 2 * 365 * 86400.0
"""Proxmox VE's own certificates are made for two years."""
_READING_VERBS = frozenset({"status", "inventory", "processes"})
_FULL = frozenset({"Sys.Audit", "Sys.Console"})


class _Server:
    """Runs the server's side of calls, apart from their callers."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def ask(self, work: Coroutine[Any, Any, T], seconds: float, what: str) -> T:
        """The result of `work`, or `Unreachable` after `seconds`, with `work` going on."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        deadline = _now() + seconds
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if done and isinstance(task.exception(), _SilentError):
            await asyncio.sleep(deadline - _now())
            done = set()
        if not done:
            message = f"{what}: no answer within {seconds:g} s"
            raise errors.Unreachable(message)
        return task.result()

    async def look(self, work: Coroutine[Any, Any, T], seconds: float, what: str) -> T:
        """The same for what has no effect that could go on without its caller, and takes less time."""
        deadline = _now() + seconds
        try:
            result = await work
            if _now() <= deadline:
                return result
        except _SilentError:
            await asyncio.sleep(deadline - _now())
        message = f"{what}: no answer within {seconds:g} s"
        raise errors.Unreachable(message)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()


def _now() -> float:
    return asyncio.get_running_loop().time()


class _SilentError(Exception):
    """The server's side will never answer."""


async def _silence() -> None:
    """Never answers."""
    raise _SilentError


class SimHypervisor:
    """`Hypervisor` on a world; deadlines and the choice of an endpoint are the real client's."""

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        self._server = _Server()
        self._failed: dict[str, float] = {}
        self._quorate: dict[str, bool] = {}
        self._versions: dict[str, str] = {}

    async def membership(self, witness: str) -> cluster.MembershipView:
        world = self._world
        if witness not in world.machines:
            message = f"no node of the cluster is called {witness}"
            raise errors.NotFound(message)

        async def answer() -> cluster.MembershipView:
            online = {name: world.membership.sees(witness, name) for name in world.machines}
            addresses = {each.name: each.address for each in world.config.nodes}
            quorate = world.membership.quorate(witness)
            return cluster.MembershipView(witness, quorate, online, addresses, _now())

        try:
            view = await self._at(witness, client.PROBE_SECONDS, answer, reads=True)
        except errors.Unreachable:
            self._failed[witness] = _now()
            raise
        self._quorate[witness] = view.quorate
        self._failed.pop(witness, None)
        return view

    async def inventory(self) -> cluster.Inventory:
        return await self._read(self._inventory)

    async def ha_config(self) -> cluster.HAConfig:
        def answer(at: str, tree: pmxcfs.Tree) -> cluster.HAConfig:
            return cluster.HAConfig(dict(tree.resources), tree.digest if tree.resources else "", _now())

        return await self._read(answer)

    async def ha_rules(self) -> cluster.HARuleConfig:
        def answer(at: str, tree: pmxcfs.Tree) -> cluster.HARuleConfig:
            if self._world.machines[at].version < "9":
                message = "GET /cluster/ha/rules: not implemented"
                raise errors.Refused(message)
            return cluster.HARuleConfig(dict(tree.rules), ha_rules.digest(tree) if tree.rules else "", _now())

        return await self._read(answer)

    async def ha_status(self) -> cluster.HAStatus:
        def answer(at: str, tree: pmxcfs.Tree) -> cluster.HAStatus:
            manager = tree.manager
            services = {
                sid: cluster.ServiceStatus(service.state, service.node, service.target or None, service.uid)
                for sid, service in manager.services.items()
            }
            lrms = {
                n: cluster.LRMStatus(lrm.state, lrm.mode, lrm.timestamp)
                for n, lrm in tree.lrms.items()
                if lrm.timestamp and n in manager.node_status
            }
            return cluster.HAStatus(
                manager.master or None,
                manager.timestamp,
                dict(manager.node_status),
                services,
                lrms,
                not manager.disarm_state,
                _now(),
            )

        return await self._read(answer)

    async def replication_jobs(self) -> tuple[replication.Job, ...]:
        return await self._read(lambda at, tree: tuple(tree.jobs.values()))

    async def replication_job(self, id_: str) -> tuple[replication.Job, str]:
        def answer(at: str, tree: pmxcfs.Tree) -> tuple[replication.Job, str]:
            if id_ not in tree.jobs:
                message = f"no such replication job '{id_}'"
                raise errors.NotFound(message)
            return tree.jobs[id_], replicas.digest(tree.jobs)

        return await self._read(answer)

    async def replication_syncs(self, on: str) -> tuple[replication.Sync, ...]:
        world = self._world

        async def answer() -> tuple[replication.Sync, ...]:
            await self._pvedaemon(on)
            return tuple(
                replication.Sync(job.id, on, job.target, state.last_sync, state.fail_count)
                for job, state in world.replicas.told(on, world.fs.tree(on))
            )

        return await self._at(on, client.READ_SECONDS, answer, reads=True)

    async def update_replication_job(self, job: replication.Job, digest: str) -> None:
        def change(tree: pmxcfs.Tree) -> None:
            if digest != replicas.digest(tree.jobs):
                message = "detected modified configuration - file changed by other user? Try again."
                raise errors.Conflict(message)
            if job.id not in tree.jobs:
                message = f"no such job '{job.id}'"
                raise errors.NotFound(message)
            present = tree.jobs[job.id]
            tree.jobs[job.id] = dataclasses.replace(present, disabled=job.disabled, comment=job.comment)

        await self._write(change)

    async def privileges(self) -> cluster.Privileges:
        vms = frozenset({"VM.Audit", "VM.PowerMgmt", "VM.Migrate", "VM.GuestAgent.Audit", "VM.Replicate"})
        storage = frozenset({"Datastore.Audit"})
        world = self._world

        def answer(at: str, tree: pmxcfs.Tree) -> cluster.Privileges:
            for name, on in world.machines.items():
                if name == at or (on.up and world.reachable(name, "api")):
                    self._versions[name] = on.version
            return cluster.Privileges(_FULL, vms, storage, dict(self._versions))

        return await self._read(answer)

    async def ceph_monitors(self) -> cluster.CephMonitors | None:
        if not self._world.config.ceph:
            return None

        async def answer() -> cluster.CephMonitors:
            if not (quorum := self._world.ceph_quorum):
                message = "GET /cluster/ceph/status: 500 got timeout"
                raise errors.Refused(message)
            return cluster.CephMonitors(quorum, len(self._world.config.ceph), _now())

        return await self._somewhere(client.READ_SECONDS, lambda at: answer())

    async def certificates(self) -> Mapping[str, float]:
        world = self._world
        reached = (name for name, on in world.machines.items() if on.up and world.reachable(name, "api"))
        return dict.fromkeys(reached, world.config.start_timestamp + _CERTIFICATE_SECONDS)

    async def create_ha_resource(self, resource: cluster.HAResource) -> None:
        def change(tree: pmxcfs.Tree) -> None:
            if resource.sid in tree.resources:
                message = f"create resource failed: resource ID '{resource.sid}' already defined"
                raise errors.AlreadyExists(message)
            tree.resources[resource.sid] = resource

        await self._write(change)

    async def update_ha_resource(self, resource: cluster.HAResource, digest: str | None) -> None:
        def change(tree: pmxcfs.Tree) -> None:
            if digest is not None and (not digest or tree.digest != digest):
                message = "update resources config failed: detected modified configuration - try again"
                raise errors.Conflict(message)
            if resource.sid not in tree.resources:
                message = f"no such resource '{resource.sid}'"
                raise errors.NotFound(message)
            tree.resources[resource.sid] = resource

        await self._write(change)

    async def delete_ha_resource(self, sid: str) -> None:
        def change(tree: pmxcfs.Tree) -> None:
            if tree.resources.pop(sid, None) is None:
                message = f"cannot delete service '{sid}', not HA managed!"
                raise errors.NotFound(message)

        await self._write(change)

    async def create_ha_rule(self, rule: cluster.HARule) -> None:
        def change(tree: pmxcfs.Tree) -> None:
            if rule.name in tree.rules:
                message = f"create ha rule failed: HA rule '{rule.name}' already defined"
                raise errors.AlreadyExists(message)
            self._put_rule(tree, rule)

        await self._write(change)

    async def update_ha_rule(self, rule: cluster.HARule, digest: str | None) -> None:
        def change(tree: pmxcfs.Tree) -> None:
            if digest is not None and digest != ha_rules.digest(tree):
                message = "update HA rules failed: detected modified configuration - try again"
                raise errors.Conflict(message)
            if rule.name not in tree.rules:
                message = f"update HA rules failed: HA rule '{rule.name}' does not exist"
                raise errors.NotFound(message)
            self._put_rule(tree, rule)

        await self._write(change)

    async def delete_ha_rule(self, name: str) -> None:
        def change(tree: pmxcfs.Tree) -> None:
            tree.rules.pop(name, None)

        await self._write(change)

    def _put_rule(self, tree: pmxcfs.Tree, rule: cluster.HARule) -> None:
        if refusal := ha_rules.refusal(tree, rule, frozenset(self._world.machines)):
            raise errors.Refused(refusal)
        tree.rules[rule.name] = rule

    async def start(self, ref: guests.GuestRef, on: str) -> str:
        world = self._world

        async def answer() -> str:
            await self._pvedaemon(on)
            if not world.membership.quorate(on):
                message = f"{on}: cluster not ready - no quorum?"
                raise errors.NoQuorum(message)
            resource = world.fs.tree(on).resources.get(ref.sid)
            if resource is not None and resource.state is not cluster.HAState.IGNORED:
                task = world.tasks.begin(world.machines[on], "hastart", str(ref.vmid))
                world.tasks.end(task)
                return task.upid
            return world.guests.start(on, ref).upid

        return await self._at(on, client.WRITE_SECONDS, answer)

    async def migrate(self, ref: guests.GuestRef, source: str, target: str) -> str:
        world = self._world

        async def answer() -> str:
            await self._pvedaemon(source)
            if not world.membership.quorate(source):
                message = f"{source}: cluster not ready - no quorum?"
                raise errors.NoQuorum(message)
            tree = world.fs.tree(source)
            file, resource = tree.guests.get(ref.vmid), tree.resources.get(ref.sid)
            if file is None or file.node != source:
                message = f"Configuration file 'nodes/{source}/{ref.path}.conf' does not exist"
                raise errors.NotFound(message)
            if file.lock:
                message = f"{ref} is locked ({file.lock})"
                raise errors.Locked(message)
            if resource is not None and resource.state is not cluster.HAState.IGNORED:
                task = world.tasks.begin(world.machines[source], "hamigrate", str(ref.vmid))
                async with world.config_write(source) as written:
                    written.commands.append(("migrate", ref.sid, target))
                world.tasks.end(task)
                return task.upid
            return world.guests.migrate(source, ref, target).upid

        return await self._at(source, client.WRITE_SECONDS, answer)

    async def migrate_service(self, ref: guests.GuestRef, target: str) -> None:
        verb = "migrate" if ref.kind is guests.GuestKind.VM else "relocate"

        def change(tree: pmxcfs.Tree) -> None:
            if ref.sid not in tree.resources:
                message = f"resource '{ref.sid}' is not HA managed"
                raise errors.NotFound(message)
            tree.commands.append((verb, ref.sid, target))

        await self._write(change)

    async def task(self, upid: str) -> cluster.TaskStatus:
        parts = upid.split(":")
        if len(parts) < 3 or parts[1] not in self._world.machines:
            message = f"no such task: {upid}"
            raise errors.NotFound(message)

        async def answer() -> cluster.TaskStatus:
            return self._world.tasks.status(upid)

        return await self._at(parts[1], client.READ_SECONDS, answer)

    async def guest_runtime(self, ref: guests.GuestRef, on: str) -> cluster.GuestRuntime:
        world = self._world

        async def answer() -> cluster.GuestRuntime:
            await self._pvedaemon(on)
            file = self._file(ref, on)
            process = world.machines[on].processes.get(ref.vmid)
            state = process.state if process else "stopped"
            qmp = state if ref.kind is guests.GuestKind.VM else None
            uptime = world.now() - process.started_at if process else 0.0
            return cluster.GuestRuntime("running" if process else "stopped", qmp, uptime, file.lock or None)

        return await self._at(on, client.READ_SECONDS, answer)

    async def guest_config(self, ref: guests.GuestRef, on: str) -> Mapping[str, str]:
        async def answer() -> Mapping[str, str]:
            file = self._file(ref, on)
            lines = (line.partition(": ") for line in file.text.split("\n[", 1)[0].splitlines())
            return {key: value for key, _, value in lines}

        return await self._at(on, client.READ_SECONDS, answer)

    async def equipment(self, on: str) -> node.Equipment:
        world = self._world

        async def answer() -> node.Equipment:
            flags = frozenset(world.equipment.flags(on).split())
            cpus = world.machines[on].about.cpus
            return node.Equipment(on, _now(), cpus=cpus, cpu_flags=flags)

        return await self._at(on, client.READ_SECONDS, answer)

    async def ping_agent(self, ref: guests.GuestRef, on: str) -> None:
        world = self._world

        async def answer() -> None:
            await self._pvedaemon(on)
            file = self._file(ref, on)
            if problem := world.guests.agent_problem(on, file):
                await asyncio.sleep(guestops.AGENT_SECONDS if problem == guestops.AGENT_ABSENT else 0.0)
                raise errors.Refused(problem)

        await self._at(on, client.READ_SECONDS, answer, reads=True)

    # How a call goes

    async def _at(
        self, name: str, seconds: float, answer: Callable[[], Awaitable[T]], *, reads: bool = False
    ) -> T:
        """A call to one node's API."""
        world, on = self._world, self._world.machines[name]

        async def serve() -> T:
            if not world.reachable(name, "api") or not on.up or on.hung or on.services["pveproxy"] == "hung":
                await _silence()
            if on.services["pveproxy"] == "stopped":
                message = f"{name}: Connection refused"
                raise errors.Unreachable(message)
            if on.services["pmxcfs"] != "running":
                await asyncio.sleep(_PMXCFS_DOWN_SECONDS)
                message = f"{name}: RPCEnvironment init request failed: Unable to load access control list"
                raise errors.Unreachable(message)
            life = on.boot_id
            await asyncio.sleep(world.between(world.timings.api_call))
            if on.boot_id != life or not on.powered or on.hung:
                await _silence()
            try:
                result = await answer()
            except OSError as error:
                message = f"{name}: pmxcfs: {error.strerror}"
                raise errors.Unreachable(message) from error
            if lag := world.lagging.get(name):
                await asyncio.sleep(lag)
            if name in world.deaf or not world.reachable(name, "api") or not on.powered:
                await _silence()
            return result

        call = self._server.look if reads else self._server.ask
        return await call(serve(), seconds, f"API of {name}")

    def _file(self, ref: guests.GuestRef, on: str) -> guestfile.GuestFile:
        """The guest's configuration, if it is on that node."""
        file = self._world.fs.tree(on).guests.get(ref.vmid)
        if file is None or file.node != on:
            message = (
                f"Configuration file 'nodes/{on}/{ref.kind.config_folder}/{ref.vmid}.conf' does not exist"
            )
            raise errors.NotFound(message)
        return file

    async def _pvedaemon(self, name: str) -> None:
        state = self._world.machines[name].services["pvedaemon"]
        if state == "stopped":
            message = f"{name}: 595 Connection refused"
            raise errors.Unreachable(message)
        if state == "hung":
            await _silence()

    def _ranked(self) -> list[str]:
        """Nodes in the order in which they are asked: those that failed lately and those without quorum
        last."""
        names = list(self._world.machines)
        return sorted(
            names, key=lambda n: (n in self._failed, not self._quorate.get(n, True), self._failed.get(n, 0.0))
        )

    async def _somewhere(self, seconds: float, question: Callable[[str], Awaitable[T]]) -> T:
        deadline = _now() + seconds
        problem: errors.OutsideError = errors.Unreachable("there is no endpoint to ask")
        names = self._ranked()
        for number, name in enumerate(names):
            left = deadline - _now()
            if left <= 0:
                break
            each = left if number == len(names) - 1 else min(left, client.ATTEMPT_SECONDS)
            try:
                asked = functools.partial(question, name)
                result = await self._at(name, each, asked, reads=True)
            except errors.Unreachable as error:
                problem = error
                self._failed[name] = _now()
                if name in self._world.deaf:
                    break
                continue
            self._failed.pop(name, None)
            return result
        raise problem

    async def _read(self, answer: Callable[[str, pmxcfs.Tree], T]) -> T:
        async def question(at: str) -> T:
            return answer(at, self._world.fs.tree(at))

        return await self._somewhere(client.READ_SECONDS, question)

    async def _write(self, change: Callable[[pmxcfs.Tree], None]) -> None:
        """A write is sent to one node; another is tried only while it cannot have been sent."""
        world = self._world

        async def question(at: str) -> None:
            async with world.config_write(at) as tree:
                change(tree)

        for name in self._ranked():
            on = world.machines[name]
            if not world.reachable(name, "api") or not on.powered or not on.up:
                await asyncio.sleep(client.ATTEMPT_SECONDS)
                self._failed[name] = _now()
            elif on.services["pveproxy"] == "stopped":
                self._failed[name] = _now()
            else:
                await self._at(name, client.WRITE_SECONDS, lambda name=name: question(name))  # type: ignore[misc]
                return
        message = "there is no endpoint to ask"
        raise errors.Unreachable(message)

    def _inventory(self, at: str, tree: pmxcfs.Tree) -> cluster.Inventory:
        world = self._world
        nodes = {}
        for name, on in world.machines.items():
            online = views.node_status(world, at, name) == "online"
            gone = world.membership.separated_at.get((at, name))
            stale = gone is not None and world.now() - gone > world.timings.status_lifetime
            nodes[name] = cluster.NodeResource(
                name,
                online,
                None if stale else on.about.memory,
                views.used_memory(world, name) if online else None,
                on.uptime if online else None,
                None if stale else on.about.cpus,
            )
        storages = tuple(
            cluster.StorageResource(
                name,
                about.name,
                about.shared,
                views.storage_available(world, at, name, about.name),
                about.type,
            )
            for about in world.config.storages
            for name in about.nodes or tuple(world.machines)
        )
        found = {vmid: self._guest(at, tree, vmid) for vmid in tree.guests}
        return cluster.Inventory(nodes, found, storages, _now())

    def _guest(self, at: str, tree: pmxcfs.Tree, vmid: int) -> cluster.GuestResource:
        file = tree.guests[vmid]
        about = self._world.guests.about.get(vmid)
        status = views.guest_status(self._world, at, file)
        service = tree.manager.services.get(file.ref.sid)
        resource = tree.resources.get(file.ref.sid)
        ha_state = service.state if service else str(resource.state) if resource else None
        pool = about.pool or None if about else None
        if status == "unknown" or about is None:
            return cluster.GuestResource(
                file.ref, file.node, status, "", 0, False, None, ha_state, frozenset(), pool
            )
        return cluster.GuestResource(
            file.ref,
            file.node,
            status,
            about.name,
            about.memory,
            about.template,
            file.lock or None,
            ha_state,
            frozenset(about.tags),
            pool,
            int(views.guest_uptime(self._world, at, file)),
            views.guest_cpus(self._world, file),
        )


class SimNodeShell:
    """`NodeShell` on a world: `pveha-node` itself, on simulated nodes."""

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        self._server = _Server()

    async def status(self, on: str) -> node.NodeStatus:
        return answers.status(await self._ask(on, ssh.STATUS_SECONDS, "status"), on, _now())

    async def inventory(self, on: str) -> node.GuestConfigs:
        return answers.inventory(await self._ask(on, ssh.INVENTORY_SECONDS, "inventory"), on, _now())

    async def equipment(self, on: str) -> node.Equipment:
        answer = await self._ask(on, ssh.INVENTORY_SECONDS, "inventory", "--about", "node")
        return answers.equipment(answer, on, _now())

    async def processes(self, on: str) -> node.NodeProcesses:
        return answers.processes(await self._ask(on, ssh.STATUS_SECONDS, "processes"), on, _now())

    async def begin(self, on: str, owner: str, take_over: str | None = None) -> int:
        take = () if take_over is None else ("--take-over", take_over)
        return answers.begin(await self._ask(on, ssh.BEGIN_SECONDS, "begin", "--owner", owner, *take), on)

    async def claim(
        self, on: str, epoch: int, op: str, dead: str, refs: tuple[guests.GuestRef, ...]
    ) -> tuple[node.ClaimResult, ...]:
        words = ["--epoch", str(epoch), "--op", op, "--from", dead, "--to", on]
        for ref in refs:
            words += ["--guest", ref.path]
        return answers.claim(await self._ask(on, ssh.CLAIM_SECONDS, "claim", *words), on, refs)

    async def kill(self, on: str, epoch: int, process: node.GuestProcess) -> None:
        words = ["--epoch", str(epoch), "--vmid", str(process.ref.vmid), "--pid", str(process.pid)]
        words += ["--start-time", str(process.start_time)]
        answers.kill(await self._ask(on, ssh.KILL_SECONDS, "kill", *words), on)

    async def _ask(self, on: str, seconds: float, verb: str, *words: str) -> object:
        if on not in self._world.machines:
            message = f"node {on} has no address for the node shell"
            raise errors.InvalidConfiguration(message)
        command = shlex.join((f"pveha-node/{pveha_node.PROTOCOL}", verb, *words))
        call = self._server.look if verb in _READING_VERBS else self._server.ask
        text = await call(self._serve(on, verb, command), seconds, f"node shell of {on}, {verb}")
        return answers.read(text, on)

    async def _serve(self, on: str, verb: str, command: str) -> str:
        world, at = self._world, self._world.machines[on]
        if not world.reachable(on, "ssh") or not at.up or at.hung or at.services["sshd"] == "hung":
            await _silence()
        if at.services["sshd"] == "stopped":
            message = f"node shell of {on}: Connection refused"
            raise errors.Unreachable(message)
        life = at.boot_id
        await asyncio.sleep(world.between(world.timings.shell_call))
        if verb in ("begin", "claim") and at.runs("pmxcfs"):
            await world.fs.settle(on)
        if at.boot_id != life or not at.up or at.hung:
            await _silence()
        newer = at.node_shell == "newer"
        system = node_system.NodeSystem(world, on, command)
        answer = {} if newer else pveha_node.main(["serve"], system, command)
        answer = shell_versions.spoken(at.node_shell, answer)
        await asyncio.sleep(world.timings.rename * command.count("--guest"))
        if not world.reachable(on, "ssh") or at.boot_id != life or not at.powered:
            await _silence()
        return json.dumps(answer)


class SimPower:
    """`PowerControl` on a world's outlets (methods that are called like a PDU) and BMCs (all others)."""

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        self._server = _Server()

    async def read(self, switch: power.Switch) -> power.PowerReading:
        async def answer() -> power.PowerReading:
            asked_at = _now()
            await self._reach(switch, _BMC_SECONDS)
            if switch.method in self._world.pdus.names:
                state = self._world.pdus.state(switch.method, switch.node)
                return power.PowerReading(state, frozenset(), asked_at, _now())
            bmcs, name = self._world.bmcs, switch.node
            return power.PowerReading(bmcs.state(name), bmcs.by_name[name].identities, asked_at, _now())

        return await self._server.look(answer(), _BMC_SECONDS, f"{_device(switch)}, reading the power state")

    async def force_off(self, switch: power.Switch) -> bool:
        return await self._command(switch, "off", "forcing the power off")

    async def power_on(self, switch: power.Switch) -> None:
        await self._command(switch, "on", "switching the power on")

    async def _command(self, switch: power.Switch, command: str, doing: str) -> bool:
        """As fence agents do, outlets that are already off are not told to be."""

        async def answer() -> bool:
            await self._reach(switch)
            world, name = self._world, switch.node
            if switch.method in world.pdus.names:
                if world.pdus.state(switch.method, name).value.lower() == command:
                    return False
                world.pdus.command(switch.method, name, command)
                return True
            if world.bmcs.busy(name):
                message = f"BMC of {name} is busy"
                raise errors.Busy(message)
            if not world.bmcs.command(name, command):
                message = f"BMC of {name} refuses {'ForceOff' if command == 'off' else 'On'}"
                raise errors.Refused(message)
            return True

        return await self._server.ask(answer(), _BMC_SECONDS, f"{_device(switch)}, {doing}")

    async def _reach(self, switch: power.Switch, patience: float = float("inf")) -> None:
        """The way there and the device's own time; a device slower than `patience` is as good as silent."""
        world, name = self._world, switch.node
        if switch.method in world.pdus.names:
            if (switch.method, name) not in world.pdus.outlets:
                message = f"PDU {switch.method} has no outlet for {name}"
                raise errors.InvalidConfiguration(message)
            if switch.method in world.pdus.dead:
                await _silence()
            await asyncio.sleep(world.between(world.timings.bmc_call))
            return
        if name not in world.bmcs.by_name:
            message = f"node {name} has no BMC"
            raise errors.InvalidConfiguration(message)
        if not world.reachable(name, "bmc") or not world.bmcs.answers(name):
            await _silence()
        latency = world.bmcs.latency(name)
        if latency > patience:
            await _silence()
        await asyncio.sleep(latency)
        if not world.bmcs.answers(name):
            await _silence()


def _device(switch: power.Switch) -> str:
    return f"BMC of {switch.node}" if switch.method == "bmc" else str(switch)
