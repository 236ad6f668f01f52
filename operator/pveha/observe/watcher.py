"""The polling tasks of one cluster and what they saw last."""

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from pveha import bell
from pveha.model import (
    cluster,
    decision,
    errors,
    guests,
    node,
    operations,
    ports,
    power,
    replication,
    snapshot,
)
from pveha.observe import agents

T = TypeVar("T")
Switch = power.Switch
Describe = Callable[[guests.GuestRef, str, Mapping[str, str], float], node.GuestConfig]
"""What to make of a guest's configuration by key, as the API tells it: guest, its node, and when it was
read."""

log = logging.getLogger(__name__)

URGENT_MEMBERSHIP_SECONDS = 0.25
"""Between two questions to a node while any node is in doubt: half of this is added to every recovery on
average."""
FRESH_SILENCE_SECONDS = 10.0
"""A node that falls silent puts all others in doubt for so long, whatever the loop has made of it yet."""
URGENT_SECONDS = 1.0
"""Between two reads of guests and HA state while a failure is handled."""
CALM_SECONDS = 5.0
SUSPECT_POWER_SECONDS = 1.5
"""Between two reads of a suspected node's BMC while a failure is handled: S2 wants two reads 3 s apart."""
SLOW_SECONDS = 30.0
"""Between two reads of node shells and configurations while nothing happens."""
HOURLY_SECONDS = 3600.0
"""Between two looks at the certificates of the API's addresses."""
EQUIPMENT_SECONDS = 60.0
"""Between two questions to a node for what it has for guests."""
CONFIG_SECONDS = 0.5
"""Between two reads of configurations through the API, which tells one guest a call: 120 a minute."""
RETRY_SECONDS = 5.0
"""After a slow read that failed."""
POWER_DEADLINE_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Outside:
    """The ports of one cluster. Without node shell or BMC credentials those are None, with the reason in
    `problems`."""

    hypervisor: ports.Hypervisor
    shell: ports.NodeShell | None
    power: ports.PowerControl | None
    switches: Mapping[Switch, float]
    """Every way to switch a node, with the seconds between two reads of it while nothing happens."""
    problems: dict[str, snapshot.Problem] = dataclasses.field(default_factory=dict)
    describe: Describe | None = None
    """For want of a node shell, guests' configurations are read through the API and described by this."""


class Watcher:
    """Keeps what was last seen of one cluster; `news` rings whenever something worth a round arrives."""

    def __init__(
        self,
        outside: Outside,
        names: Iterable[str],
        owner: str,
        probe_period: float,
        wall_now: Callable[[], float],
    ) -> None:
        """`names` are nodes (or endpoints) known beforehand; the others are learnt from their membership."""
        self._outside = outside
        self._owner = owner
        self._period = probe_period
        self._wall_now = wall_now
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._looking = decision.Looking()
        self._views: dict[str, cluster.MembershipView] = {}
        self._probes: dict[str, snapshot.Probe] = {}
        self._power: dict[power.Switch, power.PowerReading] = {}
        self._shells: dict[str, node.NodeStatus] = {}
        self._inventory: cluster.Inventory | None = None
        self._ha_config: cluster.HAConfig | None = None
        self._ha_status: cluster.HAStatus | None = None
        self._rule_config: cluster.HARuleConfig | None = None
        self._replication = replication.NOTHING
        self._privileges: cluster.Privileges | None = None
        self._certificates: Mapping[str, float] | None = None
        self._ceph: cluster.CephMonitors | None = None
        self._configs: node.GuestConfigs | None = None
        self._configs_tried: dict[int, float] = {}
        """When each guest's configuration was last asked for through the API."""
        self._equipment: dict[str, node.Equipment] = {}
        self._problems: dict[str, snapshot.Problem] = dict(outside.problems)
        self._nodes: dict[str, list[asyncio.Task[None]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._look = bell.Bell()
        self._agents = agents.Agents(outside.hypervisor, lambda: self.news.ring())
        self._refreshes = 0
        self._refreshed: dict[str, int] = {}
        """The newest refresh that each eager source has answered."""
        self._membership_changed = bell.Bell()
        """Rings when one witness tells something new: the others are asked at once, and soon agree."""
        self.news = bell.Bell()
        for name in names:
            self._know(name)

    async def __aenter__(self) -> "Watcher":
        pace = self._pace
        self._tasks = [
            self._poll(self._read_privileges, lambda: SLOW_SECONDS * 4, "privileges"),
            self._poll(self._read_inventory, pace, "inventory", eager=True),
            self._poll(self._read_ha_config, pace, "ha_config", eager=True),
            self._poll(self._read_ha_status, pace, "ha_status", eager=True),
            self._poll(self._read_rules, lambda: SLOW_SECONDS, "ha_rules"),
            self._poll(self._read_replication, self._replication_pace, "replication"),
            self._poll(self._read_certificates, lambda: HOURLY_SECONDS, "certificates"),
            self._poll(self._read_ceph, self._ceph_pace, "ceph"),
        ]
        if self._outside.shell is not None:
            self._tasks.append(self._poll(self._read_configs, lambda: SLOW_SECONDS, "configs"))
        elif self._outside.describe is not None:
            self._tasks.append(self._poll(self._read_next_config, self._config_pace, "configs"))
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._tasks, *(task for tasks in self._nodes.values() for task in tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._agents.close()

    def look(self, looking: decision.Looking) -> None:
        """What the last decision wants watched closely."""
        if looking != self._looking:
            self._looking = looking
            self._agents.ask(looking.agents)
            self._look.ring()

    def refresh(self) -> None:
        """Read guests and HA state now: an operation or a change of membership has made them old."""
        self._refreshes += 1
        self._look.ring()

    def snapshot(
        self, states: tuple[operations.OperationState, ...], lease_remaining: float
    ) -> snapshot.Snapshot:
        """Everything as last seen."""
        return snapshot.Snapshot(
            now=self._loop.time(),
            wall=self._wall_now(),
            started_at=self._started_at,
            lease_remaining=lease_remaining,
            owner=self._owner,
            views=dict(self._views),
            probes=dict(self._probes),
            inventory=self._inventory,
            ha_config=self._ha_config,
            ha_status=self._ha_status,
            rule_config=self._rule_config,
            version=self._privileges.version if self._privileges else "",
            power=dict(self._power),
            shells=dict(self._shells),
            configs=self._configs,
            problems=dict(self._problems),
            operations=states,
            privileges=self._privileges,
            certificates=self._certificates,
            ceph=self._ceph,
            equipment=dict(self._equipment),
            replicas=self._replication,
            agents=dict(self._agents.answers),
        )

    def _know(self, name: str) -> None:
        """Begin to watch a node."""
        if name in self._nodes:
            return
        tasks = [asyncio.create_task(self._watch_membership(name), name=f"membership {name}")]
        if self._outside.power is not None:
            tasks += [
                self._watch_power(switch, calm)
                for switch, calm in self._outside.switches.items()
                if switch.node == name
            ]
        if self._outside.shell is not None:
            tasks.append(self._poll(lambda: self._read_shell(name), lambda: SLOW_SECONDS, f"shell/{name}"))
        tasks.append(
            self._poll(
                lambda: self._read_equipment(name), lambda: self._equipment_pace(name), f"equipment/{name}"
            )
        )
        self._nodes[name] = tasks

    def _forget(self, name: str) -> None:
        """A node that left the cluster (or a name that never was one) is watched no more."""
        for task in self._nodes.pop(name, []):
            task.cancel()
        for known in (self._views, self._probes, self._shells, self._equipment):
            known.pop(name, None)
        for source in ("shell", "equipment"):
            self._problems.pop(f"{source}/{name}", None)
        for switch in self._outside.switches:
            if switch.node == name:
                self._power.pop(switch, None)
                self._problems.pop(f"power/{switch}", None)

    def _watch_power(self, switch: power.Switch, calm: float) -> asyncio.Task[None]:
        return self._poll(
            lambda: self._read_power(switch),
            lambda: min(calm, self._suspect_pace()) if switch.node in self._looking.suspects else calm,
            f"power/{switch}",
        )

    def _suspect_pace(self) -> float:
        return SUSPECT_POWER_SECONDS if self._looking.urgent else CALM_SECONDS

    def _pace(self) -> float:
        return URGENT_SECONDS if self._looking.urgent or self._looking.closely else CALM_SECONDS

    def _poll(
        self,
        read: Callable[[], Awaitable[None]],
        pace: Callable[[], float],
        source: str,
        *,
        eager: bool = False,
    ) -> asyncio.Task[None]:
        return asyncio.create_task(self._keep_reading(read, pace, source, eager), name=source)

    async def _keep_reading(
        self, read: Callable[[], Awaitable[None]], pace: Callable[[], float], source: str, eager: bool
    ) -> None:
        """Read at a pace; if `eager`, also whenever a refresh was asked for since the last read began, which
        is news once all have."""
        refreshes = self._refreshes
        if eager:
            self._refreshed[source] = refreshes
        while True:
            began = self._loop.time()
            rung = self._look.rung
            refreshes, wanted = self._refreshes, eager and self._refreshes != refreshes
            try:
                await read()
            except Exception as problem:
                if self._note(source, problem):
                    self.news.ring()
                pause = min(RETRY_SECONDS, pace())
            else:
                if self._problems.pop(source, None) is not None:
                    self.news.ring()
                pause = pace()
            if wanted:
                self._refreshed[source] = refreshes
                if min(self._refreshed.values()) == self._refreshes:
                    self.news.ring()
            read_at = self._loop.time()
            until = began + pause
            while until > self._loop.time() and not (eager and self._refreshes != refreshes):
                if await self._look.wait(rung, until):
                    rung = self._look.rung
                    until = min(until, read_at + pace())

    def _note(self, source: str, problem: Exception) -> bool:
        """Keep what went wrong with a source, be it a mistake of ours; True if that is new."""
        kind, old = type(problem).__name__, self._problems.get(source)
        new = old is None or old.kind != kind
        since = self._loop.time() if old is None or new else old.since
        if new and not isinstance(problem, errors.PvehaError):
            log.error("reading %s failed", source, exc_info=problem)
        self._problems[source] = snapshot.Problem(kind, str(problem), since)
        return new

    async def _watch_membership(self, name: str) -> None:
        """Ask a node for its membership; its answering is also the probe that it is alive."""
        while True:
            asked_at = self._loop.time()
            rung = self._membership_changed.rung
            old = self._probes.get(name) or snapshot.Probe(asked_at, float("-inf"), None)
            try:
                view = await self._outside.hypervisor.membership(name)
            except Exception as problem:
                if old.failed_since is None and not isinstance(problem, errors.PvehaError):
                    log.error("reading the membership from %s failed", name, exc_info=problem)
                failed_since = old.failed_since if old.failed_since is not None else asked_at
                self._probes[name] = snapshot.Probe(
                    asked_at, old.answered_at, failed_since, str(problem), type(problem).__name__
                )
                if old.failed_since is None:
                    self.news.ring()
            else:
                self._probes[name] = snapshot.Probe(asked_at, view.answered_at, None)
                self._see(name, view)
            urgent = self._looking.urgent or any(
                p.failed_since is not None and asked_at - p.failed_since < FRESH_SILENCE_SECONDS
                for p in self._probes.values()
            )
            until = asked_at + (URGENT_MEMBERSHIP_SECONDS if urgent else self._period)
            await self._membership_changed.wait(rung, until)

    def _see(self, name: str, view: cluster.MembershipView) -> None:
        old = self._views.get(name)
        self._views[name] = view
        if old is None or (old.quorate, old.online) != (view.quorate, view.online):
            self.news.ring()
            self._membership_changed.ring()
            self.refresh()
        if view.quorate:
            for other in view.online:
                self._know(other)
            for other in [each for each in self._nodes if each not in view.online]:
                self._forget(other)

    async def _read_privileges(self) -> None:
        old, self._privileges = self._privileges, await self._outside.hypervisor.privileges()
        if old != self._privileges:
            self.news.ring()

    async def _read_inventory(self) -> None:
        old, new = self._inventory, await self._outside.hypervisor.inventory()
        self._inventory = new
        if old is None or (old.guests, old.storages) != (new.guests, new.storages):
            self.news.ring()
        for name in new.nodes:
            self._know(name)

    async def _read_ha_config(self) -> None:
        old, self._ha_config = self._ha_config, await self._outside.hypervisor.ha_config()
        if old is None or old.digest != self._ha_config.digest:
            self.news.ring()

    async def _read_ha_status(self) -> None:
        old, new = self._ha_status, await self._outside.hypervisor.ha_status()
        self._ha_status = new
        if old is None:
            self.news.ring()
        elif {sid: each.node for sid, each in old.services.items()} != {
            sid: each.node for sid, each in new.services.items()
        }:
            # What the CRM has moved is not where it was read to be: no round before that is read again.
            self.refresh()
        elif old.timestamp != new.timestamp and self._pace() == URGENT_SECONDS:
            self.news.ring()

    async def _read_rules(self) -> None:
        old, self._rule_config = self._rule_config, await self._outside.hypervisor.ha_rules()
        if old is not None and old.rules != self._rule_config.rules:
            self.news.ring()

    async def _read_replication(self) -> None:
        """The jobs, and of each node that answers and has guests with one, what it tells of their syncs."""
        old, hypervisor = self._replication, self._outside.hypervisor
        asked_at = self._loop.time()
        jobs: dict[int, tuple[replication.Job, ...]] = {}
        for job in await hypervisor.replication_jobs():
            jobs[job.vmid] = (*jobs.get(job.vmid, ()), job)
        there = self._inventory.guests if self._inventory is not None else {}
        sources = sorted({there[vmid].node for vmid in jobs if vmid in there})
        sources = [name for name in sources if self._answers(name)]
        told = await asyncio.gather(*map(hypervisor.replication_syncs, sources), return_exceptions=True)
        syncs = old.syncs
        for name, answer in zip(sources, told, strict=True):
            if isinstance(answer, errors.PvehaError):
                continue
            if isinstance(answer, BaseException):
                raise answer
            left = {id_: sync for id_, sync in syncs.items() if sync.source != name}
            syncs = left | {sync.job: self._set_right(sync) for sync in answer}
        known = {job.id for each in jobs.values() for job in each}
        syncs = {id_: sync for id_, sync in syncs.items() if id_ in known}
        self._replication = replication.Replication(jobs, syncs, asked_at)
        if (old.jobs, old.syncs) != (jobs, syncs):
            self.news.ring()

    def _set_right(self, sync: replication.Sync) -> replication.Sync:
        """A sync by our clock, if its node's is ahead. What was told before gets no younger."""
        if not sync.last:
            return sync
        shell, now = self._shells.get(sync.source), self._wall_now()
        ahead = 0
        if shell is not None and shell.time is not None:
            ahead = max(0, int(shell.time - (now - (self._loop.time() - shell.answered_at))))
        last = min(sync.last - ahead, now)
        old = self._replication.syncs.get(sync.job)
        if old is not None and (old.source, old.by_its_clock) == (sync.source, sync.last):
            last = min(last, old.last)
        return dataclasses.replace(sync, last=last, by_its_clock=sync.last)

    def _replication_pace(self) -> float:
        """Which nodes are to be asked is known once the guests are."""
        return SLOW_SECONDS if self._inventory is not None else URGENT_SECONDS

    async def _read_certificates(self) -> None:
        old, self._certificates = self._certificates, await self._outside.hypervisor.certificates()
        if old != self._certificates:
            self.news.ring()

    async def _read_ceph(self) -> None:
        old, self._ceph = self._ceph, await self._outside.hypervisor.ceph_monitors()
        if (old and old.quorum) != (self._ceph and self._ceph.quorum):
            self.news.ring()

    def _ceph_pace(self) -> float:
        """A cluster without Ceph is asked again now and then: it may get one."""
        if self._ceph is None:
            return HOURLY_SECONDS
        return CALM_SECONDS if self._looking.urgent else SLOW_SECONDS

    async def _read_power(self, switch: power.Switch) -> None:
        assert self._outside.power is not None
        try:
            async with asyncio.timeout(POWER_DEADLINE_SECONDS):
                reading = await self._outside.power.read(switch)
        except TimeoutError:
            raise errors.Unreachable(
                f"the BMC of {switch.node} did not answer in {POWER_DEADLINE_SECONDS:g} s"
            ) from None
        old, self._power[switch] = self._power.get(switch), reading
        if old is None or old.state is not reading.state:
            self.news.ring()

    async def _read_shell(self, name: str) -> None:
        assert self._outside.shell is not None
        status = await self._outside.shell.status(name)
        if status.node != name:
            raise errors.BadAnswer(f"the node shell at the address of {name} says that it is {status.node}")
        if name not in self._shells:
            self.news.ring()
        self._shells[name] = status

    async def _read_configs(self) -> None:
        """Configurations of the whole cluster, from the first quorate node that answers."""
        assert self._outside.shell is not None
        quorate = sorted(name for name, view in self._views.items() if view.quorate and self._answers(name))
        if not quorate:
            raise errors.Unreachable("no quorate node answers that could tell the guests' configurations")
        self._configs = await self._outside.shell.inventory(quorate[0])

    async def _read_next_config(self) -> None:
        """The configuration, through the API, of the guest whose turn it is: one that is not known where it
        is now, else the one that was read the longest time ago."""
        assert self._outside.describe is not None
        guest = self._next_guest()
        if guest is None or self._inventory is None:
            return
        vmid = guest.ref.vmid
        self._configs_tried[vmid] = self._loop.time()
        told = await self._outside.hypervisor.guest_config(guest.ref, guest.node)
        now = self._loop.time()
        there = self._inventory.guests
        known = {vmid: each for vmid, each in self._known_configs().items() if vmid in there}
        known[vmid] = self._outside.describe(guest.ref, guest.node, told, now)
        cycle = max(SLOW_SECONDS, len(there) * CONFIG_SECONDS)
        self._configs = node.GuestConfigs(known, now, cycle)

    def _known_configs(self) -> Mapping[int, node.GuestConfig]:
        return self._configs.guests if self._configs is not None else {}

    def _next_guest(self) -> cluster.GuestResource | None:
        """The guest whose configuration is to be read next, None if none is due."""
        if self._inventory is None:
            return None
        known, tried = self._known_configs(), self._configs_tried

        def turn(guest: cluster.GuestResource) -> tuple[bool, float]:
            config = known.get(guest.ref.vmid)
            fresh = config is not None and config.node == guest.node
            return fresh, tried.get(guest.ref.vmid, float("-inf"))

        nodes = self._inventory.nodes
        asked = (
            each for each in self._inventory.guests.values() if each.node in nodes and nodes[each.node].online
        )
        guest = min(asked, key=turn, default=None)
        if guest is None:
            return None
        since = self._loop.time() - tried.get(guest.ref.vmid, float("-inf"))
        return guest if since >= (SLOW_SECONDS if turn(guest)[0] else RETRY_SECONDS) else None

    def _config_pace(self) -> float:
        return CONFIG_SECONDS if self._next_guest() is not None else CALM_SECONDS

    async def _read_equipment(self, name: str) -> None:
        """Of a node that answers. What an older pveha-node does not tell is not known."""
        if not self._answers(name):
            return
        source = self._outside.shell or self._outside.hypervisor
        try:
            found = await source.equipment(name)
        except errors.Refused:
            found = node.Equipment(name, self._loop.time())
        if self._equipment.get(name) != found:
            self.news.ring()
        self._equipment[name] = found

    def _equipment_pace(self, name: str) -> float:
        if not self._answers(name):
            return URGENT_SECONDS
        known = self._equipment.get(name)
        fresh = known is not None and self._loop.time() - known.answered_at < EQUIPMENT_SECONDS
        return EQUIPMENT_SECONDS if fresh else RETRY_SECONDS

    def _answers(self, name: str) -> bool:
        return name in self._probes and self._probes[name].failed_since is None
