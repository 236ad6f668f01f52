"""The production loop on a simulated data centre in one process: for scenario tests and simulations.

Everything runs on the clock of the running event loop, so with `clock.run` a minute takes milliseconds.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from pveha import api
from pveha.control import health, loop, store
from pveha.decide import recall
from pveha.model import mark, specs
from pveha.model.kubernetes import ClusterKey, Manifest, ObjectRef
from pveha.observe import watcher
from pveha.report import applier, events, status
from pveha.sim import config, kubernetes, ports, world

NAMESPACE = "default"
CLUSTER = "dc1"
KEY = ClusterKey(NAMESPACE, CLUSTER)


class Forever:
    """Leadership that nobody contests; `seconds` can be lowered by a test."""

    def __init__(self) -> None:
        self.seconds = 60.0

    def remaining(self) -> float:
        return self.seconds


class Rig:
    """A world, an API server's twin with manifests for it, and operators to start, stop and kill."""

    def __init__(
        self, about: config.Config, spec: dict[str, Any] | None = None, protect: Iterable[int] = ()
    ) -> None:
        """`spec` is merged over a complete HACluster in Enforce; `protect` names the guests with a
        ProtectedVM."""
        self.world = world.World(about)
        self.kubernetes = kubernetes.SimulatedKubernetes()
        self.store = store.Store()
        self.kubernetes.watchers.append(lambda event, obj: self.store.event(str(obj["kind"]), event, obj))
        self.leadership = Forever()
        self.sentences: list[tuple[float, str]] = []
        self._operator: asyncio.Task[None] | None = None
        self.kubernetes.put(hacluster(about, spec or {}))
        for vmid in protect:
            self.kubernetes.put(protected_vm(vmid))

    def start_operator(self) -> None:
        """Begin to watch and act, as a replica that has just become leader."""
        self._operator = asyncio.create_task(self._operate(), name="operator")

    async def kill_operator(self) -> None:
        """End the operator at once; what it had sent goes on."""
        if self._operator is not None:
            self._operator.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._operator
            self._operator = None

    async def settle(self, seconds: float = 60.0) -> None:
        """Let everything come to rest before a test begins."""
        await asyncio.sleep(seconds)

    async def until(self, reached: Callable[[], bool], seconds: float, what: str) -> float:
        """Wait for something; returns the world's time when it was reached, fails after `seconds`."""
        deadline = self.world.now() + seconds
        while not reached():
            if self.world.now() >= deadline:
                told = "\n".join(str(event) for event in self.world.log[-40:])
                raise AssertionError(f"{what}: not within {seconds:g} s\n{told}\n{self.sentences[-10:]}")
            await asyncio.sleep(0.1)
        return self.world.now()

    def specs(self) -> specs.Specs | None:
        return self.store.specs(KEY)

    def cluster_status(self) -> api.HACluster:
        parsed = api.parse(self.kubernetes.get("HACluster", NAMESPACE, CLUSTER))
        assert isinstance(parsed, api.HACluster)
        return parsed

    def guest_status(self, vmid: int) -> api.ProtectedVM:
        parsed = api.parse(self.kubernetes.get("ProtectedVM", NAMESPACE, f"vm{vmid}"))
        assert isinstance(parsed, api.ProtectedVM)
        return parsed

    def marks(self) -> dict[str, mark.Mark]:
        """Every mark left in the HA resources of a quorate node."""
        tree = self.world._some_tree()
        found = {sid: mark.parse(resource.comment).mark for sid, resource in tree.resources.items()}
        return {sid: each for sid, each in found.items() if each is not None}

    async def _operate(self) -> None:
        outside = watcher.Outside(
            ports.SimHypervisor(self.world),
            ports.SimNodeShell(self.world),
            ports.SimPower(self.world),
            frozenset(node.name for node in self.world.config.nodes if node.has_bmc),
        )
        checks = health.Health()
        wall: Callable[[], float] = self.world.wall_now
        async with status.StatusWriter(
            KEY,
            applier.StatusApplier(self.kubernetes, self._raw),
            events.EventRecorder(self.kubernetes, "rig", wall),
            self.specs,
            checks.metrics,
        ) as reporter:
            now = self.specs()
            assert now is not None
            await loop.run_linked(
                KEY,
                self.specs,
                outside,
                lambda seen: None,
                _never,
                self.leadership,
                reporter,
                checks,
                f"uid/{NAMESPACE}/{CLUSTER}",
                recall.first(now.cluster.status),
                wall,
            )

    def _raw(self, ref: ObjectRef) -> Manifest | None:
        return self.store.raw(ref)


async def _never(now: specs.Specs) -> bool:
    return False


def hacluster(about: config.Config, spec: dict[str, Any]) -> dict[str, Any]:
    """An HACluster for the data centre `about`, in Enforce, with every BMC."""
    whole = {
        "mode": "Enforce",
        "endpoints": [{"host": node.name} for node in about.nodes],
        "credentialsSecretRef": {"name": "token"},
        "tls": {"caSecretRef": {"name": "ca"}},
        "recovery": {"nodeShell": {"credentialsSecretRef": {"name": "ssh"}}},
        "fencing": {"methods": [{"name": "bmc", "redfish": {}}]},
        "nodes": [
            {
                "name": node.name,
                "fencing": [
                    {
                        "method": "bmc",
                        "address": f"https://bmc-{node.name}",
                        "credentialsSecretRef": {"name": "bmc"},
                        "caSecretRef": {"name": "ca"},
                    }
                ]
                if node.has_bmc
                else [],
            }
            for node in about.nodes
        ],
    }
    return _object("HACluster", CLUSTER, {**whole, **spec})


def protected_vm(vmid: int, **spec: Any) -> dict[str, Any]:
    """A ProtectedVM called `vm<vmid>`."""
    return _object("ProtectedVM", f"vm{vmid}", {"clusterRef": {"name": CLUSTER}, "vmid": vmid, **spec})


def policy(name: str, **spec: Any) -> dict[str, Any]:
    """A FailoverPolicy."""
    return _object("FailoverPolicy", name, spec)


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, "creationTimestamp": "2026-11-01T00:00:00Z"}
    return {"apiVersion": api.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
