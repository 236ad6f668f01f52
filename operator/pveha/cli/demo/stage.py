"""Puts up what a demo plays on, and takes it down again: API server, data centre, operator: processes all."""

import asyncio
import contextlib
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pveha import api
from pveha.api import fencing, schema
from pveha.devkube import access, binaries, controlplane, process
from pveha.model import errors
from pveha.sim import client, pdu_face

NAMESPACE = "demo"
READY_SECONDS = 120.0
"""From an empty Proxmox HA until every guest is registered and listed by the CRM takes about 30 s."""
POLL_SECONDS = 0.25
NOISE = re.compile(r"\bcrm (?:node|master)|\block\b|lrm ")


class FailedError(errors.PvehaError):
    """The stage could not be put up, or something did not happen in time."""


class Stage:
    """An API server with the CRDs; `open` adds a data centre, `start_operator` an operator."""

    def __init__(self, guests: int, logs: str | None) -> None:
        self.guests = guests
        self.folder = Path(logs) if logs else Path(tempfile.mkdtemp(prefix="pveha-demo-"))
        self._keep = logs is not None
        self._exits = contextlib.AsyncExitStack()
        self._operator: process.Process | None = None
        self._told = 0
        self.victim = ""
        """The node that fails: not the CRM master, whose loss makes adoption take two minutes longer."""
        self.kube: access.Access
        self.world: client.RemoteDataCenter

    async def __aenter__(self) -> "Stage":
        self.folder.mkdir(parents=True, exist_ok=True)
        say("a Kubernetes API server")
        found = await asyncio.to_thread(binaries.ensure, say=lambda text: say(f"  {text}"))
        plane = await self._exits.enter_async_context(controlplane.ControlPlane(found))
        self.kube = plane.admin
        await self.kubectl("create", "namespace", NAMESPACE)
        await asyncio.to_thread(self.kube.apply, *(schema.crd(resource) for resource in api.RESOURCES))
        await self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_world()
        await self._exits.aclose()
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def open(self, *arguments: str, of: str = "three nodes") -> None:
        """Put up a data centre and apply its manifests."""
        say(f"a simulated Proxmox cluster of {of} with {self.guests} guests")
        self.world = await client.RemoteDataCenter.open(
            ("--namespace", NAMESPACE, "--guests", str(self.guests), *arguments),
            self.folder / "datacenter.log",
        )
        await asyncio.to_thread(self.kube.apply, *self.world.about["manifests"])

    async def close_world(self) -> None:
        """Take operator, resources and data centre down; the API server stays."""
        self.stop_operator()
        if hasattr(self, "world"):
            for kind in ("protectedvms", "failoverpolicies", "haclusters", "leases", "secrets"):
                await self.kubectl("delete", kind, "--all", "--namespace", NAMESPACE, "--wait=false")
            await self.world.close()
            del self.world

    def start_operator(self, sabotage: str | None = None) -> None:
        """Start the operator, or one that is broken on purpose."""
        say(f"the operator ({sabotage}: broken on purpose)" if sabotage else "the operator")
        kubeconfig = str(self.kube.kubeconfig)
        if sabotage:
            command = [sys.executable, "-m", "pveha.sim.sabotage", sabotage, kubeconfig, NAMESPACE]
        else:
            options = ["--health-host", "127.0.0.1", "--health-port", "0"]
            options += ["--fence-agents", str(self._agents())]
            command = [sys.executable, "-m", "pveha.cli", "run", "--kubeconfig", kubeconfig]
            command += ["--namespace", NAMESPACE, *options]
        self._operator = process.Process(command, self.folder / "operator.log")

    def _agents(self) -> Path:
        """A folder with the fence agent of the simulated PDUs."""
        file = self.folder / "agents" / "fence_sim"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!{sys.executable} -IS\n{pdu_face.AGENT}", encoding="utf-8")
        file.chmod(0o755)
        return file.parent

    async def drilled(self) -> None:
        """Let the outlets be bound, as a drill would have done."""
        say("its outlets count as bound by a drill")
        cluster = api.HACluster.model_validate(await self.cluster())
        bindings = [
            {
                "name": node.name,
                "methods": [
                    {"name": method.name, "drill": fencing.device(method, entry)}
                    for _, level in cluster.spec.levels(node.name)
                    for method, entry in level
                ],
            }
            for node in cluster.spec.nodes
        ]
        patch = json.dumps({"status": {"bindings": bindings}})
        what = ("patch", "hacluster", cluster.name, "--namespace", NAMESPACE)
        await self.kubectl(*what, "--subresource=status", "--type=merge", "-p", patch)

    async def add_person(self) -> None:
        """Let a person's word count as the last level of fencing, for every node."""
        cluster = await self.cluster()
        spec = cluster["spec"]
        spec["fencing"]["methods"].append({"name": "person", "level": 9, "manual": {}})
        for node in spec["nodes"]:
            node["fencing"].append({"method": "person"})
        patch = json.dumps({"spec": {"fencing": spec["fencing"], "nodes": spec["nodes"]}})
        name = cluster["metadata"]["name"]
        await self.kubectl("patch", "hacluster", name, "--namespace", NAMESPACE, "--type=merge", "-p", patch)

    async def reason(self, node: str) -> str:
        """Why a node is not Online, as the status has it."""
        found = (await self.cluster()).get("status", {}).get("notOnline", [])
        return next((str(each["reason"]) for each in found if each["name"] == node), "")

    def stop_operator(self) -> None:
        if self._operator is not None:
            self._operator.stop()
            self._operator = None

    @property
    def operator_runs(self) -> bool:
        return self._operator is not None and self._operator.is_alive

    async def kubectl(self, *arguments: str) -> str:
        return await asyncio.to_thread(self.kube.kubectl, *arguments)

    async def set_availability(self, node: str, word: str, *, migrations: int) -> None:
        """A user pauses, drains or activates a node, and says how many guests may be moved at a time."""
        cluster = await self.cluster()
        nodes = [
            {**each, "availability": word} if each["name"] == node else each
            for each in cluster["spec"]["nodes"]
        ]
        safety = {**cluster["spec"].get("safety", {}), "maxConcurrentMigrations": migrations}
        patch = json.dumps({"spec": {"nodes": nodes, "safety": safety}})
        name = cluster["metadata"]["name"]
        await self.kubectl("patch", "hacluster", name, "--type=merge", "-p", patch, "--namespace", NAMESPACE)
        print(f"\n{time.strftime('%H:%M:%S')}  {node} is to be {word}", flush=True)

    async def show(self, *arguments: str) -> None:
        """Show a kubectl command and what it prints."""
        print(f"\n$ kubectl {' '.join(arguments)}")
        print(await self.kubectl(*arguments, "--namespace", NAMESPACE), flush=True)

    async def cluster(self) -> dict[str, Any]:
        """The HACluster."""
        found = json.loads(await self.kubectl("get", "hacluster", "-o", "json", "--namespace", NAMESPACE))
        cluster: dict[str, Any] = found["items"][0]
        return cluster

    async def condition(self, type_: str) -> dict[str, Any]:
        """A condition of the HACluster, empty if it has none of that type."""
        conditions = (await self.cluster()).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == type_), {})

    async def reasons(self) -> set[str]:
        """Reasons of all Events so far."""
        found = json.loads(await self.kubectl("get", "events", "-o", "json", "--namespace", NAMESPACE))
        return {event["reason"] for event in found["items"]}

    async def until_protected(self) -> None:
        """Wait until every guest would survive and Proxmox HA holds all of them."""

        async def protected() -> bool:
            found = json.loads(await self.kubectl("get", "pvm", "-o", "json", "--namespace", NAMESPACE))
            ready = [
                pvm
                for pvm in found["items"]
                if any(
                    each["type"] == "FailoverReady" and each["status"] == "True"
                    for each in pvm.get("status", {}).get("conditions", [])
                )
            ]
            return len(ready) == len(found["items"]) and not await self.world.unsettled()

        say("waiting until every guest is protected")
        await self.until(protected, READY_SECONDS, "every guest is protected", pause=2.0)
        state = await self.world.ask("state")
        self.victim = next(
            name for name in ("pve2", "pve3", "pve1") if name in state["nodes"] and name != state["master"]
        )

    async def until(
        self,
        reached: Callable[[], Any],
        seconds: float,
        what: str,
        *,
        pause: float = POLL_SECONDS,
        since: float | None = None,
    ) -> None:
        """Wait for something, telling what happens meanwhile; raises FailedError after `seconds`."""
        deadline = time.monotonic() + seconds
        while not await reached():
            if time.monotonic() > deadline:
                tail = self._operator.tail(20) if self._operator else ""
                raise FailedError(f"not within {seconds:g} s: {what}\n{tail}")
            await self.tell(since)
            await asyncio.sleep(pause)
        await self.tell(since)

    async def tell(self, since: float | None) -> None:
        """Print what happened in the data centre since the fault, with seconds since then."""
        if since is None:
            return
        lines = await self.world.ask(f"log {since}")
        for line in lines[self._told :]:
            at, _, text = line.strip().partition(" ")
            if not NOISE.search(text):
                print(f"  [{float(at) - since:+7.2f} s] {text.strip()}", flush=True)
        self._told = len(lines)

    def fault(self) -> None:
        """A new story begins: what was told of the last one is over."""
        self._told = 0


def say(text: str) -> None:
    """Tell what is being done."""
    print(f"pveha demo: {text}", file=sys.stderr, flush=True)
