"""Watch and store on a real API server: all is known, what ends starts again, nothing is written."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import kopf
import pytest

from pveha import api
from pveha.control import store, watch
from pveha.devkube import controlplane
from pveha.devkube.target import Target
from pveha.kube import client, config
from pveha.model.kubernetes import ClusterKey, ObjectRef
from pveha.report import metrics

ROOT = Path(__file__).parents[2]
KINDS = "haclusters,failoverpolicies,protectedvms"


def manifest(kind: str, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": api.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def cluster(namespace: str, name: str = "dc1") -> dict[str, Any]:
    return manifest(
        "HACluster",
        namespace,
        name,
        endpoints=[{"host": "pve1.example.net"}],
        credentialsSecretRef={"name": "token"},
        tls={"caSecretRef": {"name": "ca"}},
    )


def guest(namespace: str, index: int) -> dict[str, Any]:
    return manifest("ProtectedVM", namespace, f"vm{index}", clusterRef={"name": "dc1"}, vmid=100 + index)


@pytest.fixture(scope="module")
def server(kube: Target) -> Target:
    kube.admin.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    names = [f"crd/{resource.plural}.{api.GROUP}" for resource in api.RESOURCES]
    kube.admin.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return kube


@contextlib.asynccontextmanager
async def watching(
    server: Target, namespace: str, list_every: float = 3600.0
) -> AsyncIterator[tuple[store.Store, watch.Watch]]:
    access = config.Access(server.admin.kubeconfig)
    async with client.ApiServer(access) as kubernetes:
        known = store.Store()
        watcher = watch.Watch(
            kubernetes, access, [namespace], known, metrics.Metrics(), list_every=list_every, grace=1.0
        )
        task = asyncio.create_task(watcher.run())
        try:
            yield known, watcher
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], within: float = 15.0) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < within, f"not within {within} s"
        await asyncio.sleep(0.05)


def guests(known: store.Store, key: ClusterKey) -> set[str]:
    found = known.specs(key)
    return set(found.guests) if found else set()


async def test_what_comes_changes_and_goes_is_known_and_nothing_is_written(
    server: Target, namespace: str
) -> None:
    key = ClusterKey(namespace, "dc1")
    admin = server.admin
    admin.apply(cluster(namespace), guest(namespace, 0))
    async with watching(server, namespace) as (known, watcher):
        assert "listed" in watcher.not_ready()
        await until(lambda: guests(known, key) == {"vm0"})
        assert watcher.not_ready() == ""
        await until(lambda: known.told("HACluster") > 0)
        admin.apply(guest(namespace, 1), manifest("FailoverPolicy", namespace, "gold"))
        await until(lambda: guests(known, key) == {"vm0", "vm1"})
        await until(lambda: bool((specs := known.specs(key)) and "gold" in specs.policies))
        admin.kubectl("delete", "pvm", "vm0", "-n", namespace)
        await until(lambda: guests(known, key) == {"vm1"})
        raw = known.raw(ObjectRef("ProtectedVM", namespace, "vm1"))
        assert raw is not None
        assert "finalizers" not in raw["metadata"]
        assert "annotations" not in raw["metadata"]
        assert [entry["manager"] for entry in raw["metadata"]["managedFields"]] == ["kubectl"]
        admin.kubectl("delete", KINDS, "--all", "-n", namespace)
        await until(lambda: not known.clusters())


async def test_a_watch_survives_the_api_server(
    server: Target, namespace: str, control_plane: controlplane.ControlPlane
) -> None:
    key = ClusterKey(namespace, "dc1")
    server.admin.apply(cluster(namespace), guest(namespace, 0))
    async with watching(server, namespace) as (known, watcher):
        await until(lambda: guests(known, key) == {"vm0"} and known.told("ProtectedVM") > 0)
        control_plane.kill_api_server()
        await asyncio.sleep(3)
        assert guests(known, key) == {"vm0"}
        control_plane.start_api_server()
        server.admin.apply(guest(namespace, 1))
        await until(lambda: guests(known, key) == {"vm0", "vm1"}, within=60)
        await until(lambda: watcher.not_live() == "")
    server.admin.kubectl("delete", KINDS, "--all", "-n", namespace)


async def test_a_silent_watch_is_noticed_by_a_listing_and_started_anew(
    server: Target, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ClusterKey(namespace, "dc1")
    server.admin.apply(cluster(namespace))
    silent = True
    event = store.Store.event

    def deaf(self: store.Store, kind: str, what: str | None, obj: Any) -> None:
        if not (silent and kind == "ProtectedVM"):
            event(self, kind, what, obj)

    monkeypatch.setattr(store.Store, "event", deaf)
    async with watching(server, namespace, list_every=1.0) as (known, watcher):
        await until(lambda: known.told("HACluster") > 0)
        server.admin.apply(guest(namespace, 0))
        await until(lambda: "silent" in watcher.not_live(), within=30)
        assert guests(known, key) == {"vm0"}
        silent = False
        await until(lambda: watcher.not_live() == "" and known.told("ProtectedVM") > 0, within=30)
    server.admin.kubectl("delete", KINDS, "--all", "-n", namespace)


async def test_a_watch_that_ends_is_told_and_started_anew(
    server: Target, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    operator = kopf.operator

    async def short_lived(**arguments: Any) -> None:
        if not ended:
            ended.append("once")
            raise RuntimeError("the stream broke")
        await operator(**arguments)

    monkeypatch.setattr(kopf, "operator", short_lived)
    async with watching(server, namespace) as (known, watcher):
        await until(lambda: "the stream broke" in watcher.not_live())
        await until(lambda: watcher.not_live() == "", within=30)
        server.admin.apply(cluster(namespace))
        await until(lambda: known.told("HACluster") > 0)
    server.admin.kubectl("delete", KINDS, "--all", "-n", namespace)


async def test_a_thousand_guests_are_known_in_seconds(server: Target, namespace: str) -> None:
    key = ClusterKey(namespace, "dc1")
    server.admin.apply(cluster(namespace), *(guest(namespace, index) for index in range(1000)))
    begin = time.monotonic()
    async with watching(server, namespace) as (known, _watcher):
        await until(lambda: len(guests(known, key)) == 1000, within=20)
        assert time.monotonic() - begin < 10
    server.admin.kubectl("delete", "--raw", f"/apis/{api.API_VERSION}/namespaces/{namespace}/protectedvms")
    server.admin.kubectl("delete", KINDS, "--all", "-n", namespace)
