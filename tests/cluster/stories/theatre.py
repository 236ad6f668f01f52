"""What stories play on: namespaces with a simulated data centre each, and operators, all processes."""

import asyncio
import concurrent.futures
import contextlib
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from cluster import rights
from pveha import api
from pveha.devkube import access, process, target
from pveha.kube import client as kube_client
from pveha.kube import config
from pveha.sim import client

PATIENCE_SECONDS = 120.0
"""Nothing here is a measurement of speed: a machine may be busy with all stories at once."""
ROOT = Path(__file__).parents[3]
KINDS = "haclusters,failoverpolicies,protectedvms"
ALL_KINDS = f"{KINDS},secrets,leases,events.events.k8s.io"

T = TypeVar("T")
Object = dict[str, Any]
Story = Callable[["Theatre"], Coroutine[Any, Any, None]]


def story(play: Story) -> Any:
    """Makes a test of a coroutine that mostly waits; see conftest.py for when it is played."""

    def test(ends: dict[Story, concurrent.futures.Future[None]]) -> None:
        ends[play].result()

    test.__name__, test.__doc__, test.__module__ = play.__name__, play.__doc__, play.__module__
    test.story = play  # type: ignore[attr-defined]
    return test


HEAVY: set[Story] = set()
"""Stories that take the processor from all others, and are therefore played when those have ended."""


def heavy_story(play: Story) -> Any:
    """A story that does more than wait."""
    HEAVY.add(play)
    return story(play)


class Place:
    """A namespace, a data centre, and the data centre's manifests in the namespace."""

    def __init__(
        self, kube: target.Target, name: str, world: client.RemoteDataCenter, reader: kube_client.ApiServer
    ) -> None:
        self.kube = kube
        self.name = name
        self.world = world
        self.manifests: list[Object] = world.about["manifests"]
        self._reader = reader

    def manifest(self, kind: str, name: str = "") -> Object:
        """A copy of the first of the data centre's manifests of a kind (and name)."""
        found = next(
            each for each in self.manifests if each["kind"] == kind and name in ("", each["metadata"]["name"])
        )
        copy: Object = json.loads(json.dumps(found))
        return copy

    async def kubectl(self, *arguments: str) -> str:
        return await asyncio.to_thread(self.kube.admin.kubectl, *arguments, "-n", self.name)

    async def apply(self, *objects: Object) -> None:
        await asyncio.to_thread(self.kube.admin.apply, *objects)

    async def delete(self, kinds: str, *names: str) -> None:
        """Returns when the objects (without names: all) are gone."""
        await self.kubectl("delete", kinds, *(names or ("--all",)), "--timeout=60s")

    async def clear(self) -> None:
        """Delete everything at once: kubectl deletes one object after the other."""
        for resource in api.RESOURCES:
            path = f"/apis/{api.API_VERSION}/namespaces/{self.name}/{resource.plural}"
            await asyncio.to_thread(self.kube.admin.kubectl, "delete", "--raw", path)
        await asyncio.to_thread(
            self.kube.admin.kubectl,
            "delete",
            "--raw",
            f"/apis/events.k8s.io/v1/namespaces/{self.name}/events",
        )
        await self.delete("secrets,leases")

    async def objects(self, kind: str) -> dict[str, Object]:
        """By name."""
        listing = await self._reader.list_objects(kind, self.name)
        return {each["metadata"]["name"]: dict(each) for each in listing.objects}

    async def status(self, name: str = "dc1", kind: str = "HACluster") -> Object:
        found: Object = (await self.objects(kind)).get(name, {}).get("status", {})
        return found

    async def condition(self, type_: str, name: str = "dc1", kind: str = "HACluster") -> tuple[str, str, str]:
        """Status, reason and message; empty if the object has no such condition."""
        return condition(await self.status(name, kind), type_)

    async def events(self) -> list[Object]:
        found: list[Object] = json.loads(await self.kubectl("get", "events.events.k8s.io", "-o", "json"))[
            "items"
        ]
        return found

    async def versions(self) -> dict[str, str]:
        """Resource versions of everything in the namespace."""
        kinds = f"{ALL_KINDS},configmaps,serviceaccounts"
        found = json.loads(await self.kubectl("get", kinds, "-o", "json"))["items"]
        return {
            f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["resourceVersion"]
            for each in found
        }

    async def leader(self) -> str:
        """Who holds the Lease of dc1, without the part that is new for each process."""
        found = json.loads(await self.kubectl("get", "leases", "-o", "json"))["items"]
        holder: str = found[0]["spec"].get("holderIdentity") or "" if found else ""
        return holder.partition("_")[0]

    async def state(self) -> Object:
        state: Object = await self.world.ask("state")
        return state

    async def on(self, node: str) -> list[str]:
        """Guests of a node."""
        return [vmid for vmid, guest in (await self.state())["guests"].items() if guest["node"] == node]

    async def victim(self) -> str:
        """A node that is not CRM master."""
        return "pve3" if (await self.state())["master"] == "pve2" else "pve2"

    async def protected(self) -> bool:
        """Whether pveha calls every guest ready for failover, and Proxmox HA holds all of them."""
        statuses = [guest.get("status", {}) for guest in (await self.objects("ProtectedVM")).values()]
        ready = [condition(status, "FailoverReady")[0] == "True" for status in statuses]
        return bool(ready) and all(ready) and not await self.world.unsettled()

    async def recovered(self, vmids: list[str], dead: str) -> bool:
        """Whether guests run elsewhere."""
        guests = (await self.state())["guests"]
        return all(guests[vmid]["node"] != dead and guests[vmid]["state"] == "running" for vmid in vmids)

    async def settled(self) -> bool:
        return not await self.world.unsettled()


class Theatre:
    """Puts up places and operators for one story, and takes them down."""

    def __init__(self, kube: target.Target, folder: Path) -> None:
        self.kube = kube
        self.folder = folder
        self.exits = contextlib.AsyncExitStack()

    def use(self, kube: target.Target) -> None:
        """Another API server from now on."""
        self.kube = kube

    async def place(self, *arguments: str, without: str = "") -> Place:
        """A namespace with the manifests of a data centre, see `python -m pveha.sim --help`, those of one
        kind left out."""
        admin, name = self.kube.admin, f"pveha-story-{secrets.token_hex(4)}"
        await asyncio.to_thread(admin.kubectl, "create", "namespace", name)
        self.exits.push_async_callback(asyncio.to_thread, self.kube.delete_namespace, name)
        log = self.folder / f"{name}-datacenter.log"
        world = await client.RemoteDataCenter.open(("--namespace", name, *arguments), log)
        self.exits.push_async_callback(world.close)
        reader = await self.exits.enter_async_context(kube_client.ApiServer(config.Access(admin.kubeconfig)))
        found = Place(self.kube, name, world, reader)
        self.exits.push_async_callback(found.clear)
        await found.apply(*(each for each in found.manifests if each["kind"] != without))
        return found

    async def operator(
        self, *places: Place, name: str = "pveha", kubeconfig: Path | None = None
    ) -> process.Process:
        """`pveha run` for the namespaces of places, with the rights it is documented to need unless there is
        a `kubeconfig`."""
        if kubeconfig is None:
            kubeconfig = (await asyncio.to_thread(self.account, places[0].name)).kubeconfig
        command = [sys.executable, "-m", "pveha.cli", "run", "--kubeconfig", str(kubeconfig)]
        for each in places:
            command += ["--namespace", each.name]
        command += ["--identity", name, "--health-host", "127.0.0.1", "--health-port", "0"]
        running = process.Process(command, self.folder / f"operator-{name}.log")
        self.exits.push_async_callback(self.stop, running)
        return running

    async def stop(self, operator: process.Process) -> None:
        await asyncio.to_thread(operator.stop)

    def account(self, namespace: str) -> access.Access:
        """Of an operator in a namespace, the same each time."""
        file = self.folder / f"{namespace}.kubeconfig"
        if file.exists():
            return access.Access(self.kube.admin.program, file)
        role = f"{namespace}-pveha"
        self.exits.callback(
            self.kube.admin.kubectl, "delete", "--ignore-not-found", f"clusterrole/{role}",
            f"clusterrolebinding/{role}",
        )  # fmt: skip
        return self.kube.admin.service_account(namespace, "pveha", rights.RULES, file)

    async def close(self) -> None:
        await self.exits.aclose()

    def tails(self) -> str:
        """The ends of all logs."""
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-25:])
            for log in sorted(self.folder.glob("*.log"))
        )


def condition(status: Object, type_: str) -> tuple[str, str, str]:
    """Status, reason and message of a condition in a status; empty if it is not there."""
    for each in status.get("conditions", []):
        if each["type"] == type_:
            return each["status"], each["reason"], each["message"]
    return "", "", ""


async def until(
    reached: Callable[[], Awaitable[T]],
    what: str,
    seconds: float = PATIENCE_SECONDS,
    pause: float = 1.0,
) -> T:
    """Ask again and again until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (answer := await reached()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}; last: {answer!r}"
        await asyncio.sleep(pause)
    return answer


async def until_equal(
    read: Callable[[], Awaitable[object]], wanted: object, what: str, seconds: float = PATIENCE_SECONDS
) -> None:
    """Ask again and again until the answer is `wanted`."""
    deadline = time.monotonic() + seconds
    while (answer := await read()) != wanted:
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}: {answer!r} is not {wanted!r}"
        await asyncio.sleep(1.0)
