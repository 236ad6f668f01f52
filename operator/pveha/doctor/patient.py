"""One HACluster, and what the world answered about it: each question is asked once."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Generic, TypeVar

from pveha import api, tls
from pveha.control import links
from pveha.kube import client as kube_client
from pveha.model import cluster, errors, node, power
from pveha.model.kubernetes import ClusterKey, Manifest
from pveha.nodeshell import ssh
from pveha.proxmox import credentials, endpoints

T = TypeVar("T")

LABELS = "app.kubernetes.io/name=pveha"
"""What the chart's pods carry."""


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """A node's own word, and how far its clock is ahead of ours (seconds; None: not told), give or take."""

    told: node.NodeStatus
    skew: float | None
    give_or_take: float


@dataclasses.dataclass(frozen=True, slots=True)
class Asked(Generic[T]):
    """What nodes answered, and why others did not."""

    answers: Mapping[str, T]
    problems: Mapping[str, errors.PvehaError]


class Patient:
    """An HACluster with its ports. Answers are remembered; so are failures, which are raised anew."""

    def __init__(
        self,
        about: api.HACluster,
        guests: Mapping[int, str],
        ports: links.Links,
        trust: tls.Trust,
        token: credentials.Token,
        kube: kube_client.ApiServer,
    ) -> None:
        """`guests` are the ProtectedVMs' names by vmid."""
        self.key = ClusterKey(about.metadata.namespace, about.metadata.name)
        self.spec, self.status = about.spec, about.status
        self.guests, self.trust, self.token = guests, trust, token
        self.kube = kube
        self._links = ports
        self._answers: dict[str, asyncio.Task[Any]] = {}

    @property
    def fast(self) -> bool:
        """Whether pveha itself starts guests, which needs proofs of death and node shells."""
        return self.spec.recovery.engine is api.Engine.FAST

    @property
    def addresses(self) -> list[endpoints.Address]:
        """The endpoints."""
        return [endpoints.Address(each.host, each.effective_port) for each in self.spec.endpoints]

    async def close(self) -> None:
        tasks = list(self._answers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # The Proxmox API

    async def permissions(self) -> Mapping[str, Mapping[str, bool]]:
        return await self._once("permissions", self._links.client.permissions)

    async def inventory(self, *, again: bool = False) -> cluster.Inventory:
        return await self._once("inventory", self._links.client.inventory, again=again)

    async def ha_config(self) -> cluster.HAConfig:
        return await self._once("HA resources", self._links.client.ha_config)

    async def ha_status(self, *, again: bool = False) -> cluster.HAStatus:
        return await self._once("HA status", self._links.client.ha_status, again=again)

    async def views(self) -> Asked[cluster.MembershipView]:
        """Each node's membership, from itself."""
        return await self._each("view", await self.nodes(), self._links.client.membership)

    async def nodes(self) -> frozenset[str]:
        """Nodes of the Proxmox cluster; where it may not be asked, those that the HACluster names."""
        try:
            return frozenset((await self.inventory()).nodes)
        except errors.PvehaError:
            if not self.spec.nodes:
                raise
            return frozenset(each.name for each in self.spec.nodes)

    async def online(self) -> frozenset[str]:
        """Members, as quorate nodes tell, as any tells if none is quorate. Unreachable if none answers."""
        asked = await self.views()
        views = [view for view in asked.answers.values() if view.quorate] or list(asked.answers.values())
        if not views:
            raise errors.Unreachable("no node of the cluster answers")
        return frozenset().union(*(view.members for view in views))

    # Nodes and BMCs

    async def statuses(self) -> Asked[Status]:
        """`pveha-node status` of every member."""
        names = await self.online()
        addresses = (await self.views()).answers.values()
        for name, address in [pair for view in addresses for pair in view.addresses.items()]:
            self._links.addresses.setdefault(name, address)
        return await self._each("status", names, self._status)

    async def other_command(self, name: str) -> str:
        """ "" if the operator's key runs nothing but pveha-node on a node, else what came back."""
        return await self._once(f"other command {name}", lambda: self._shell().other_command(name))

    async def configs(self) -> node.GuestConfigs:
        """Every guest's configuration, from a quorate node."""

        async def ask() -> node.GuestConfigs:
            statuses = (await self.statuses()).answers
            for name in sorted(statuses, key=lambda name: not statuses[name].told.quorate):
                return await self._shell().inventory(name)
            raise errors.Unreachable("no node shell answers, which would read the guests' configurations")

        return await self._once("configurations", ask)

    async def readings(self) -> Asked[power.PowerReading]:
        """The power of every node that has fencing, as its devices read it: by node, or by `NODE/METHOD`
        if it has several."""
        return await self._each("power", self.switches(), self._power)

    def switches(self) -> dict[str, power.Switch]:
        """The device behind each of these names; a person is none."""
        found: dict[str, power.Switch] = {}
        for node_ in self.spec.nodes:
            methods = [
                method.name
                for _, level in self.spec.levels(node_.name)
                for method, _ in level
                if method.manual is None
            ]
            for method in methods:
                name = node_.name if len(methods) == 1 else f"{node_.name}/{method}"
                found[name] = power.Switch(node_.name, method)
        return found

    async def node_now(self, name: str) -> float:
        """Unix time by a node's clock; by ours if it does not tell."""
        try:
            status = (await self.statuses()).answers.get(name)
        except errors.PvehaError:
            status = None
        return time.time() + (status.skew or 0.0 if status else 0.0)

    # Kubernetes

    async def machines(self) -> tuple[Manifest, ...]:
        """Nodes of the Kubernetes cluster."""
        return await self._once("machines", lambda: self.kube.list_others("/api/v1/nodes"))

    async def replicas(self) -> tuple[Manifest, ...]:
        """The operator's pods that run or are to run."""

        async def ask() -> tuple[Manifest, ...]:
            pods = await self.kube.list_others("/api/v1/pods", LABELS)
            return tuple(
                pod
                for pod in pods
                if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
                and not pod["metadata"].get("deletionTimestamp")
            )

        return await self._once("replicas", ask)

    async def _status(self, name: str) -> Status:
        shell = self._shell()
        await shell.connect(name)
        before = time.time()
        told = await shell.status(name)
        after = time.time()
        skew = None if told.time is None else told.time - (before + after) / 2
        return Status(told, skew, (after - before) / 2)

    async def _power(self, name: str) -> power.PowerReading:
        outside, switch = self._links.outside, self.switches()[name]
        if problem := outside.problems.get(f"power/{switch}"):
            raise errors.InvalidConfiguration(problem.message)
        if outside.power is None:
            raise errors.InvalidConfiguration(f"nothing can read the power of {name}")
        return await outside.power.read(switch)

    def _shell(self) -> ssh.SshNodeShell:
        if problem := self._links.outside.problems.get("shell"):
            raise errors.InvalidConfiguration(problem.message)
        shell = self._links.outside.shell
        if not isinstance(shell, ssh.SshNodeShell):
            raise errors.InvalidConfiguration("spec.recovery.nodeShell is not set")
        return shell

    async def _each(
        self, what: str, names: Collection[str], ask: Callable[[str], Coroutine[Any, Any, T]]
    ) -> Asked[T]:
        async def one(name: str) -> T | errors.PvehaError:
            try:
                return await self._once(f"{what} {name}", lambda: ask(name))
            except errors.PvehaError as error:
                return error

        found = dict(zip(sorted(names), await asyncio.gather(*map(one, sorted(names))), strict=True))
        return Asked(
            {name: each for name, each in found.items() if not isinstance(each, errors.PvehaError)},
            {name: each for name, each in found.items() if isinstance(each, errors.PvehaError)},
        )

    async def _once(self, what: str, ask: Callable[[], Coroutine[Any, Any, T]], *, again: bool = False) -> T:
        """The answer, asked for by whoever comes first; one that runs out of time spoils it for nobody."""
        if again or what not in self._answers:
            self._answers[what] = asyncio.create_task(ask(), name=what)
        answer: T = await asyncio.shield(self._answers[what])
        return answer
