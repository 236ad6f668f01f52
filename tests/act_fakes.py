"""Small ports for the operations: every answer is a field or a script, every effect is kept in `calls`."""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any

from pveha.act import context, turns
from pveha.model import cluster, errors, guests, node, operations, power, replication
from pveha.sim import clock

VOTES = node.Votes({"pve1": 1, "pve2": 1, "pve3": 1}, 0, 3, 3, frozenset())
IDENTITY = frozenset({"uuid-pve2"})
VM = guests.GuestRef(102, guests.GuestKind.VM)


class World:
    """pve2 is dead and off; pve1 and pve3 survive. All three ports and the lease in one object."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.lease = 60.0
        self.epoch = 1
        self.seen_epochs: dict[str, int] = {}
        self.members: dict[str, bool] = {"pve1": True, "pve2": False, "pve3": True}
        self.silent_shells: set[str] = set()
        self.votes: dict[str, node.Votes] = {}
        self.processes_on: dict[str, tuple[node.GuestProcess, ...]] = {}
        self.pve2_answers = False
        self.answering: set[str] = set()
        """Other nodes whose API answers."""
        self.power: Callable[[float], power.PowerState | None] = lambda at: power.PowerState.OFF
        self.identity = IDENTITY
        self.powers: dict[str, Callable[[float], power.PowerState | None]] = {}
        """By method, where it is not `power`."""
        self.force_off_error: Exception | None = None
        self.force_off_errors: list[Exception] = []
        """What the next ones raise."""
        self.force_off_sent = True
        self.resources: dict[str, cluster.HAResource] = {}
        self.jobs: list[replication.Job] = []
        self.digest = 1
        self.before_write: Callable[[str], None] = lambda sid: None
        self.errors: dict[str, Exception] = {}
        """By the name of a call: what it raises."""
        self.hang: set[str] = set()
        """Names of calls that never return."""
        self.claims: dict[int, str] = {}
        """By vmid: why a claim is declined."""
        self.owner_elsewhere = ""
        self.start_exit = "OK"
        self.started: dict[int, float] = {}
        self.uptime_before = 0.0

    async def _note(self, call: str, *about: object) -> None:
        self.calls.append(" ".join([call, *map(str, about)]))
        if call in self.hang:
            await asyncio.Event().wait()
        await asyncio.sleep(0.05)
        if call in self.errors:
            raise self.errors[call]

    # Leadership

    def remaining(self) -> float:
        return self.lease

    # Hypervisor

    async def membership(self, witness: str) -> cluster.MembershipView:
        await self._note("membership", witness)
        if not (self.pve2_answers if witness == "pve2" else witness in self.answering):
            raise errors.Unreachable("no answer")
        return cluster.MembershipView(witness, False, {}, {}, now())

    async def ha_config(self) -> cluster.HAConfig:
        await self._note("ha_config")
        return cluster.HAConfig(dict(self.resources), str(self.digest), now())

    async def create_ha_resource(self, resource: cluster.HAResource) -> None:
        await self._note("create", resource.sid, resource.state)
        self._write(resource.sid, resource)

    async def update_ha_resource(self, resource: cluster.HAResource, digest: str | None) -> None:
        self.before_write(resource.sid)
        await self._note("update", resource.sid, resource.state)
        if digest is not None and digest != str(self.digest):
            raise errors.Conflict("detected modified configuration")
        self._write(resource.sid, resource)

    async def delete_ha_resource(self, sid: str) -> None:
        await self._note("delete", sid)
        self._write(sid, None)

    def _write(self, sid: str, resource: cluster.HAResource | None) -> None:
        self.digest += 1
        self.resources.pop(sid, None)
        if resource is not None:
            self.resources[sid] = resource

    async def replication_jobs(self) -> tuple[replication.Job, ...]:
        await self._note("jobs")
        return tuple(self.jobs)

    async def replication_job(self, id_: str) -> tuple[replication.Job, str]:
        return next(job for job in self.jobs if job.id == id_), str(self.digest)

    async def update_replication_job(self, job: replication.Job, digest: str) -> None:
        await self._note("hold", job.id)
        self.jobs = [job if each.id == job.id else each for each in self.jobs]

    async def start(self, ref: guests.GuestRef, on: str) -> str:
        await self._note("start", ref, on)
        self.started[ref.vmid] = now()
        return "UPID:x"

    async def migrate(self, ref: guests.GuestRef, source: str, target: str) -> str:
        await self._note("migrate", ref, source, target)
        return "UPID:x"

    async def migrate_service(self, ref: guests.GuestRef, target: str) -> None:
        await self._note("migrate_service", ref, target)

    async def task(self, upid: str) -> cluster.TaskStatus:
        if "task" in self.errors:
            raise self.errors["task"]
        return cluster.TaskStatus(upid, False, self.start_exit)

    async def guest_runtime(self, ref: guests.GuestRef, on: str) -> cluster.GuestRuntime:
        await self._note("runtime", ref)
        uptime = self.uptime_before + now() - self.started.get(ref.vmid, now())
        return cluster.GuestRuntime("running", "running", uptime, None)

    # Node shell

    async def status(self, on: str) -> node.NodeStatus:
        self._shell(on)
        votes = self.votes.get(on, VOTES)
        return node.NodeStatus(on, "1", True, self.members, votes, frozenset(), self.epoch, None, now())

    async def processes(self, on: str) -> node.NodeProcesses:
        await self._note("processes", on)
        self._shell(on)
        epoch = self.seen_epochs.get(on, self.epoch)
        return node.NodeProcesses(on, True, self.members, epoch, self.processes_on.get(on, ()), now())

    async def begin(self, on: str, owner: str, take_over: str | None = None) -> int:
        await self._note("begin", on)
        self._shell(on)
        if self.owner_elsewhere:
            raise errors.AnotherOwner("owned", self.owner_elsewhere)
        self.epoch += 1
        return self.epoch

    async def claim(
        self, on: str, epoch: int, op: str, dead: str, refs: tuple[guests.GuestRef, ...]
    ) -> tuple[node.ClaimResult, ...]:
        await self._note("claim", on, *refs)
        self._shell(on)
        return tuple(
            node.ClaimResult(ref, ref.vmid not in self.claims, self.claims.get(ref.vmid, "Claimed"))
            for ref in refs
        )

    async def kill(self, on: str, epoch: int, process: node.GuestProcess) -> None:
        await self._note("kill", on, process.ref)

    def _shell(self, on: str) -> None:
        if on in self.silent_shells or (on == "pve2" and not self.pve2_answers):
            raise errors.Unreachable(f"{on} is silent")

    async def inventory(self, *on: str) -> Any:
        raise AssertionError("no operation reads the inventory")

    # BMC

    async def read(self, switch: power.Switch) -> power.PowerReading:
        asked_at = now()
        await self._note("read", switch)
        state = self.powers.get(switch.method, self.power)(now())
        if state is None:
            raise errors.Unreachable("the BMC is silent")
        identity = self.identity if switch.method.startswith("bmc") else frozenset()
        return power.PowerReading(state, identity, asked_at, now())

    async def force_off(self, switch: power.Switch) -> bool:
        await self._note("force_off", switch)
        if self.force_off_errors:
            raise self.force_off_errors.pop(0)
        if self.force_off_error:
            raise self.force_off_error
        return self.force_off_sent

    async def power_on(self, switch: power.Switch) -> None:
        await self._note("power_on", switch)

    def did(self, call: str) -> list[str]:
        return [each for each in self.calls if each.split()[0] == call]


def now() -> float:
    return asyncio.get_running_loop().time()


def perform(
    world: Any, operation: Callable[[context.Context], Coroutine[Any, Any, operations.Outcome]]
) -> operations.Outcome:
    """Run one operation on the world in virtual time."""
    with_ = context.Context(world, world, world, world, turns.Turns(4), lambda step: None)
    return clock.run(operation(with_))


def process(state: str, kind: guests.GuestKind = guests.GuestKind.VM) -> node.GuestProcess:
    return node.GuestProcess(guests.GuestRef(102, kind), 4711, 99, state)


def a_method(name: str = "bmc", **fields: Any) -> operations.Method:
    """Called `bmc...` it tells who it speaks of, any other is an outlet."""
    identities = IDENTITY if name.startswith("bmc") else frozenset()
    base = operations.Method(power.Switch("pve2", name), identities, 15.0)
    return dataclasses.replace(base, **fields)


def a_fence(**fields: Any) -> operations.Fence:
    base = operations.Fence(
        id="fence.pve2-1.0",
        node="pve2",
        failure="pve2-1",
        owner="uid/default/dc1",
        survivors=("pve1", "pve3"),
        level=1,
        methods=(a_method(),),
        node_answered=False,
    )
    return dataclasses.replace(base, **fields)


def an_item(**fields: Any) -> operations.TakeoverItem:
    sid = "vm:102"
    registered = cluster.HAResource(sid, cluster.HAState.STARTED, "of the shop", failback=False)
    entry = cluster.HAResource(sid, cluster.HAState.STARTED, "[pveha owner=me]", failback=False)
    base = operations.TakeoverItem(VM, cluster.HAState.STARTED, None, frozenset(), registered, entry)
    return dataclasses.replace(base, **fields)


def a_takeover(*items: operations.TakeoverItem, **fields: Any) -> operations.Takeover:
    base = operations.Takeover(
        id="t1.0",
        failure="pve2-1",
        dead="pve2",
        target="pve1",
        epoch=1,
        items=items or (an_item(),),
        survivors=("pve1", "pve3"),
        proven_by=(a_method(),),
        off_read_at=float("-inf"),
    )
    return dataclasses.replace(base, **fields)
