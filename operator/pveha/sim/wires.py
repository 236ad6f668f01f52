"""What lies between one operator process and the outside: its calls, its side effects one by one, its death.

A process that was killed sends nothing more, whatever its tasks still try. What it had sent before goes on.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from pveha.model import cluster, errors, guests, kubernetes, node, ports, power, replication
from pveha.sim import lulls

T = TypeVar("T")
KUBERNETES_SECONDS = 5.0
"""Deadline of the real client's requests."""

MEMBERSHIP_SECONDS = 30.0
"""How much later a node may be asked for its membership: what it would have told is made up for
(`lulls.Lull.make_up`)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Effect:
    """A side effect at the moment it is sent: who sends it, what it is, and what it is about."""

    operator: str
    verb: str
    """`force_off`, `power_on`, `start`, `create_ha`, `update_ha`, `delete_ha`, `begin`, `claim`, `kill`,
    `migrate`, `update_job` (of replication), `enrol`, `dismiss` (of ProtectedVMs that pveha owns), `status`,
    or `lease`."""
    subject: str
    resource: cluster.HAResource | None = None
    vmids: tuple[int, ...] = ()
    epoch: int = 0
    on: str = ""
    """The node that a claim moves guests to."""
    job: replication.Job | None = None
    method: str = ""
    """The fencing method that switches a node."""


class Wire:
    """One process's way to everything outside it.

    `sending` is called with each side effect before it goes out, `sent` after its answer has come (or has
    failed to): both may set `cut_off`.
    """

    def __init__(self, name: str, sending: Callable[[Effect], None], sent: Callable[[Effect], None]) -> None:
        self.name = name
        self.cut_off = False
        self.kubernetes_down = False
        self.kubernetes_loses_answers = False
        self.lull: lulls.Lull | None = None
        """None: no poll is put off or left out."""
        self._heard: dict[str, float] = {}
        """When a task's last slow poll was sent, if it was answered."""
        self.stands_still_until = float("-inf")
        """Loop time until which nothing is sent or received: a process that is stopped, or packets that
        are."""
        self._sending = sending
        self._sent = sent

    async def read(self, call: Callable[[], Awaitable[T]]) -> T:
        """A call without side effect."""
        if self.cut_off or self.stands_still_until > 0.0:
            await self._pass()
        result = await call()
        if self.cut_off or self.stands_still_until > 0.0:
            await self._pass()
        return result

    async def poll(self, call: Callable[[], Awaitable[T]], names: Sequence[str], seconds: float) -> T:
        """A read that an observer's task (one whose name begins with one of `names`) makes again and again:
        while nothing happens in the world, it may as well come up to `seconds` later."""
        task = asyncio.current_task()
        if self.lull is not None and task is not None and task.get_name().startswith(tuple(names)):
            await self.lull.pass_by(seconds)
        return await self.read(call)

    async def slow_poll(self, call: Callable[[], Awaitable[T]], name: str) -> T:
        """The same with one that is made every half a minute or less often: while nothing happens some that
        follow an answer are left out, and the others come when they are due."""
        task = asyncio.current_task()
        source = task.get_name() if task is not None else ""
        if self.lull is not None and source in self._heard:
            age = asyncio.get_running_loop().time() - self._heard.pop(source)
            await self.lull.leave_out(name, age)
        asked_at = asyncio.get_running_loop().time()
        result = await self.read(call)
        if source.startswith(name):
            self._heard[source] = asked_at
        return result

    async def effect(self, what: Effect, call: Callable[[], Awaitable[T]]) -> T:
        """A call with one."""
        if not self.cut_off:
            self._sending(what)
        try:
            if self.stands_still_until > asyncio.get_running_loop().time():
                late = asyncio.ensure_future(self._late(call))
                late.add_done_callback(lambda task: task.cancelled() or task.exception())
                result = await asyncio.shield(late)
            else:
                await self._pass()
                result = await call()
        except errors.OutsideError:
            await self._answered(what)
            raise
        await self._answered(what)
        return result

    async def _late(self, call: Callable[[], Awaitable[T]]) -> T:
        """A side effect that was on its way when the process stood still: it arrives, whoever has given it
        up."""
        await self._pass()
        return await call()

    async def _answered(self, what: Effect) -> None:
        if not self.cut_off:
            self._sent(what)
        await self._pass()

    async def ask_kubernetes(self, call: Callable[[], Awaitable[T]], what: Effect | None = None) -> T:
        """A request to the API server, which may be out of reach, or lose its answers."""
        if self.kubernetes_down:
            await asyncio.sleep(KUBERNETES_SECONDS)
            raise errors.Unreachable(f"the API server did not answer {self.name} in {KUBERNETES_SECONDS:g} s")
        result = await (self.read(call) if what is None else self.effect(what, call))
        if self._unheard():
            await asyncio.sleep(KUBERNETES_SECONDS)
            raise errors.Unreachable(f"the API server's answer did not reach {self.name}")
        return result

    def _unheard(self) -> bool:
        return self.kubernetes_down or self.kubernetes_loses_answers

    async def _pass(self) -> None:
        loop = asyncio.get_running_loop()
        if self.stands_still_until > loop.time():
            await asyncio.sleep(self.stands_still_until - loop.time())
        if self.cut_off:
            raise errors.Unreachable(f"{self.name} is dead")


class WiredHypervisor:
    """`Hypervisor` of one process."""

    def __init__(self, wire: Wire, inner: ports.Hypervisor) -> None:
        self._wire = wire
        self._inner = inner

    async def membership(self, witness: str) -> cluster.MembershipView:
        return await self._wire.poll(
            lambda: self._inner.membership(witness), ("membership ",), MEMBERSHIP_SECONDS
        )

    async def inventory(self) -> cluster.Inventory:
        return await self._wire.poll(self._inner.inventory, ("inventory",), 10.0)

    async def ha_config(self) -> cluster.HAConfig:
        return await self._wire.poll(self._inner.ha_config, ("ha_config",), 10.0)

    async def ha_rules(self) -> cluster.HARuleConfig:
        return await self._wire.read(self._inner.ha_rules)

    async def ha_status(self) -> cluster.HAStatus:
        return await self._wire.poll(self._inner.ha_status, ("ha_status",), 10.0)

    async def replication_jobs(self) -> tuple[replication.Job, ...]:
        return await self._wire.slow_poll(self._inner.replication_jobs, "replication")

    async def replication_job(self, id_: str) -> tuple[replication.Job, str]:
        return await self._wire.read(lambda: self._inner.replication_job(id_))

    async def replication_syncs(self, on: str) -> tuple[replication.Sync, ...]:
        return await self._wire.read(lambda: self._inner.replication_syncs(on))

    async def update_replication_job(self, job: replication.Job, digest: str) -> None:
        what = Effect(self._wire.name, "update_job", job.id, vmids=(job.vmid,), job=job)
        await self._wire.effect(what, lambda: self._inner.update_replication_job(job, digest))

    async def privileges(self) -> cluster.Privileges:
        return await self._wire.read(self._inner.privileges)

    async def ceph_monitors(self) -> cluster.CephMonitors | None:
        return await self._wire.read(self._inner.ceph_monitors)

    async def certificates(self) -> Mapping[str, float]:
        return await self._wire.read(self._inner.certificates)

    async def create_ha_resource(self, resource: cluster.HAResource) -> None:
        what = Effect(self._wire.name, "create_ha", resource.sid, resource)
        await self._wire.effect(what, lambda: self._inner.create_ha_resource(resource))

    async def update_ha_resource(self, resource: cluster.HAResource, digest: str | None) -> None:
        what = Effect(self._wire.name, "update_ha", resource.sid, resource)
        await self._wire.effect(what, lambda: self._inner.update_ha_resource(resource, digest))

    async def delete_ha_resource(self, sid: str) -> None:
        what = Effect(self._wire.name, "delete_ha", sid)
        await self._wire.effect(what, lambda: self._inner.delete_ha_resource(sid))

    async def create_ha_rule(self, rule: cluster.HARule) -> None:
        what = Effect(self._wire.name, "create_rule", rule.name)
        await self._wire.effect(what, lambda: self._inner.create_ha_rule(rule))

    async def update_ha_rule(self, rule: cluster.HARule, digest: str | None) -> None:
        what = Effect(self._wire.name, "update_rule", rule.name)
        await self._wire.effect(what, lambda: self._inner.update_ha_rule(rule, digest))

    async def delete_ha_rule(self, name: str) -> None:
        what = Effect(self._wire.name, "delete_rule", name)
        await self._wire.effect(what, lambda: self._inner.delete_ha_rule(name))

    async def start(self, ref: guests.GuestRef, on: str) -> str:
        what = Effect(self._wire.name, "start", on, vmids=(ref.vmid,))
        return await self._wire.effect(what, lambda: self._inner.start(ref, on))

    async def migrate(self, ref: guests.GuestRef, source: str, target: str) -> str:
        what = Effect(self._wire.name, "migrate", target, vmids=(ref.vmid,))
        return await self._wire.effect(what, lambda: self._inner.migrate(ref, source, target))

    async def migrate_service(self, ref: guests.GuestRef, target: str) -> None:
        what = Effect(self._wire.name, "migrate", target, vmids=(ref.vmid,))
        await self._wire.effect(what, lambda: self._inner.migrate_service(ref, target))

    async def task(self, upid: str) -> cluster.TaskStatus:
        return await self._wire.read(lambda: self._inner.task(upid))

    async def guest_runtime(self, ref: guests.GuestRef, on: str) -> cluster.GuestRuntime:
        return await self._wire.read(lambda: self._inner.guest_runtime(ref, on))

    async def guest_config(self, ref: guests.GuestRef, on: str) -> Mapping[str, str]:
        return await self._wire.read(lambda: self._inner.guest_config(ref, on))

    async def equipment(self, on: str) -> node.Equipment:
        return await self._wire.read(lambda: self._inner.equipment(on))

    async def ping_agent(self, ref: guests.GuestRef, on: str) -> None:
        await self._wire.read(lambda: self._inner.ping_agent(ref, on))


class WiredNodeShell:
    """`NodeShell` of one process."""

    def __init__(self, wire: Wire, inner: ports.NodeShell) -> None:
        self._wire = wire
        self._inner = inner

    async def status(self, on: str) -> node.NodeStatus:
        return await self._wire.slow_poll(lambda: self._inner.status(on), "shell/")

    async def inventory(self, on: str) -> node.GuestConfigs:
        return await self._wire.slow_poll(lambda: self._inner.inventory(on), "configs")

    async def equipment(self, on: str) -> node.Equipment:
        return await self._wire.slow_poll(lambda: self._inner.equipment(on), "equipment/")

    async def processes(self, on: str) -> node.NodeProcesses:
        return await self._wire.read(lambda: self._inner.processes(on))

    async def begin(self, on: str, owner: str, take_over: str | None = None) -> int:
        what = Effect(self._wire.name, "begin", on)
        return await self._wire.effect(what, lambda: self._inner.begin(on, owner, take_over))

    async def claim(
        self, on: str, epoch: int, op: str, dead: str, refs: tuple[guests.GuestRef, ...]
    ) -> tuple[node.ClaimResult, ...]:
        vmids = tuple(ref.vmid for ref in refs)
        what = Effect(self._wire.name, "claim", dead, vmids=vmids, epoch=epoch, on=on)
        return await self._wire.effect(what, lambda: self._inner.claim(on, epoch, op, dead, refs))

    async def kill(self, on: str, epoch: int, process: node.GuestProcess) -> None:
        what = Effect(self._wire.name, "kill", on, vmids=(process.ref.vmid,), epoch=epoch)
        await self._wire.effect(what, lambda: self._inner.kill(on, epoch, process))


class WiredPower:
    """`PowerControl` of one process."""

    def __init__(self, wire: Wire, inner: ports.PowerControl) -> None:
        self._wire = wire
        self._inner = inner

    async def read(self, switch: power.Switch) -> power.PowerReading:
        return await self._wire.read(lambda: self._inner.read(switch))

    async def force_off(self, switch: power.Switch) -> bool:
        what = Effect(self._wire.name, "force_off", switch.node, method=switch.method)
        return await self._wire.effect(what, lambda: self._inner.force_off(switch))

    async def power_on(self, switch: power.Switch) -> None:
        what = Effect(self._wire.name, "power_on", switch.node, method=switch.method)
        await self._wire.effect(what, lambda: self._inner.power_on(switch))


class WiredKubernetes:
    """`Kubernetes` of one process."""

    def __init__(self, wire: Wire, inner: ports.Kubernetes) -> None:
        self._wire = wire
        self._inner = inner

    async def identity(self) -> str:
        return await self._wire.ask_kubernetes(self._inner.identity)

    async def list_objects(self, kind: str, namespace: str | None) -> kubernetes.Listing:
        return await self._wire.ask_kubernetes(lambda: self._inner.list_objects(kind, namespace))

    async def apply_status(
        self, ref: kubernetes.ObjectRef, status: kubernetes.Manifest, resource_version: str = ""
    ) -> kubernetes.Manifest:
        what = Effect(self._wire.name, "status", f"{ref.kind}/{ref.name}")
        return await self._wire.ask_kubernetes(
            lambda: self._inner.apply_status(ref, status, resource_version), what
        )

    async def apply_guest(self, manifest: kubernetes.Manifest, *, ours: bool) -> kubernetes.Manifest:
        what = Effect(self._wire.name, "enrol", str(manifest["metadata"]["name"]))
        return await self._wire.ask_kubernetes(lambda: self._inner.apply_guest(manifest, ours=ours), what)

    async def delete_guest(self, ref: kubernetes.ObjectRef, resource_version: str) -> None:
        what = Effect(self._wire.name, "dismiss", ref.name)
        await self._wire.ask_kubernetes(lambda: self._inner.delete_guest(ref, resource_version), what)

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes]:
        return await self._wire.ask_kubernetes(lambda: self._inner.secret(namespace, name))

    async def record(self, occurrence: kubernetes.Occurrence) -> None:
        await self._wire.ask_kubernetes(lambda: self._inner.record(occurrence))

    async def get_lease(self, namespace: str, name: str) -> kubernetes.Lease:
        return await self._wire.ask_kubernetes(lambda: self._inner.get_lease(namespace, name))

    async def create_lease(self, lease: kubernetes.Lease) -> kubernetes.Lease:
        what = Effect(self._wire.name, "lease", lease.holder)
        return await self._wire.ask_kubernetes(lambda: self._inner.create_lease(lease), what)

    async def update_lease(self, lease: kubernetes.Lease) -> kubernetes.Lease:
        what = Effect(self._wire.name, "lease", lease.holder)
        return await self._wire.ask_kubernetes(lambda: self._inner.update_lease(lease), what)
