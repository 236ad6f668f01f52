"""The chart's rights are enough and none is too many: with each one taken away, one named thing is forbidden.

The things are what the operator does: the port's methods and the watch, for real, as an account with the
rights left. A right without a use here fails its test.
"""

import asyncio
import contextlib
import copy
import dataclasses
import functools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest

from cluster import rights
from pveha import api
from pveha.control import store, watch
from pveha.devkube.access import Access, Rule
from pveha.devkube.target import Target
from pveha.kube import client, config
from pveha.model import errors, kubernetes, ports
from pveha.report.metrics import Metrics

ROOT = Path(__file__).parents[2]
WATCH_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Right:
    """One verb on one resource, with everything else of its rule."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"

    @property
    def refusal(self) -> str:
        """How the API server says that it is missing."""
        name, _, part = self.resource.partition("/")
        return f'cannot {self.verb} resource "{name}{"/" if part else ""}{part}"'


RIGHTS = [
    Right(group, resource, verb)
    for rule in rights.RULES
    for group in rule["apiGroups"]
    for resource in rule["resources"]
    for verb in rule["verbs"]
]


def without(right: Right) -> list[Rule]:
    """All rules, but for one verb on one resource."""
    rules: list[Rule] = []
    for rule in copy.deepcopy(rights.RULES):
        if right.resource not in rule["resources"] or right.group not in rule["apiGroups"]:
            rules.append(rule)
            continue
        others = [each for each in rule["resources"] if each != right.resource]
        verbs = [each for each in rule["verbs"] if each != right.verb]
        rules += [{**rule, "resources": others}] if others else []
        rules += [{**rule, "resources": [right.resource], "verbs": verbs}] if verbs else []
    return rules


@pytest.fixture(scope="module")
def place(kube: Target) -> Iterator[tuple[Target, str]]:
    """A namespace with an object of each kind, a Secret and a Lease."""
    kube.admin.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    names = [f"crd/{resource.plural}.{api.GROUP}" for resource in api.RESOURCES]
    kube.admin.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    with kube.namespace("pveha-rights") as name:
        kube.admin.apply(
            *(
                {"apiVersion": api.API_VERSION, "kind": kind, "metadata": {"name": "it", "namespace": name}}
                | {"spec": spec}
                for kind, spec in SPECS.items()
            ),
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "it", "namespace": name}},
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": "it", "namespace": name},
                "spec": {},
            },
        )
        yield kube, name
        kinds = "haclusters,failoverpolicies,protectedvms"
        kube.admin.kubectl("delete", kinds, "--all", "-n", name)


SPECS: dict[str, dict[str, Any]] = {
    "HACluster": {
        "endpoints": [{"host": "pve1"}],
        "credentialsSecretRef": {"name": "token"},
        "tls": {"caSecretRef": {"name": "ca"}},
    },
    "FailoverPolicy": {},
    "ProtectedVM": {"clusterRef": {"name": "it"}, "vmid": 101},
}


def change(kube: Target, namespace: str) -> None:
    """Somebody labels an object of each kind."""
    objects = [f"{kind.lower()}/it" for kind in SPECS]
    kube.admin.kubectl(
        "label", "--overwrite", "-n", namespace, *objects, f"pveha.dev/test={secrets.token_hex(4)}"
    )


@contextlib.contextmanager
def account(kube: Target, namespace: str, rules: list[Rule], folder: Path) -> Iterator[Access]:
    name = f"operator-{secrets.token_hex(3)}"
    yield kube.admin.service_account(namespace, name, rules, folder / name)
    role = f"{namespace}-{name}"
    kube.admin.kubectl("delete", f"clusterrole/{role}", f"clusterrolebinding/{role}")


async def forbidden(
    access: Access, namespace: str, change: Callable[[], None], logged: Callable[[], str]
) -> dict[str, str]:
    """What the operator does that this account may not do: name → the API server's sentence.

    `change` is somebody's change of the objects, `logged` what is in the log by now.
    """
    refused = {}
    async with client.ApiServer(config.Access(access.kubeconfig)) as port:
        for name, use in uses(port, namespace).items():
            try:
                await use()
            except errors.Forbidden as error:
                refused[name] = str(error)
        if refusal := await watching(port, access, change, logged):
            refused["watch"] = refusal
    return refused


def uses(port: client.ApiServer, namespace: str) -> dict[str, Callable[[], Awaitable[object]]]:
    """What the operator does through the port, each with the fewest rights that it needs."""
    now = time.time()

    def status(kind: str) -> Callable[[], Awaitable[object]]:
        ref = kubernetes.ObjectRef(kind, namespace, "it")
        return lambda: port.apply_status(ref, {"observedGeneration": 1})

    def event(count: int) -> Callable[[], Awaitable[object]]:
        ref = kubernetes.ObjectRef("ProtectedVM", namespace, "it")
        happened = kubernetes.Occurrence(
            regarding=ref,
            name="it.1",
            reason="Recovered",
            message="It runs again.",
            warning=False,
            first_timestamp=now,
            last_timestamp=now,
            count=count,
            instance="test",
        )
        return lambda: port.record(happened)

    async def renew() -> None:
        """As of a moment that has passed: a Conflict is an answer to somebody who may update."""
        lease = kubernetes.Lease(namespace, "it", "test", 15, now, now, resource_version="1")
        with contextlib.suppress(errors.Conflict):
            await port.update_lease(lease)

    def enrol(name: str, vmid: int) -> Callable[[], Awaitable[object]]:
        manifest = {
            "apiVersion": api.API_VERSION,
            "kind": "ProtectedVM",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterRef": {"name": "it"}, "vmid": vmid},
        }
        return lambda: port.apply_guest(manifest, ours=True)

    async def dismiss() -> None:
        """One of another uid: a Conflict is an answer to somebody who may delete."""
        other = kubernetes.ObjectRef("ProtectedVM", namespace, "it", "of-another")
        with contextlib.suppress(errors.Conflict):
            await port.delete_guest(other, "1")

    fresh = kubernetes.Lease(namespace, f"new-{secrets.token_hex(4)}", "test", 15, now, now)
    return {
        "tell Kubernetes clusters apart": port.identity,
        **{f"list {kind}s": functools.partial(port.list_objects, kind, None) for kind in SPECS},
        **{f"write the status of {kind}s": status(kind) for kind in SPECS},
        "enrol a guest": enrol(f"new-{secrets.token_hex(4)}", 102),
        "change an enrolled guest": enrol("it", 101),
        "dismiss a guest": dismiss,
        "read a Secret": lambda: port.secret(namespace, "it"),
        "look for the leader": lambda: port.get_lease(namespace, "it"),
        "lead for the first time": lambda: port.create_lease(fresh),
        "go on leading": renew,
        "record an Event": event(1),
        "count an Event": event(2),
    }


async def watching(
    port: client.ApiServer, access: Access, change: Callable[[], None], logged: Callable[[], str]
) -> str:
    """Whether a change of each kind is told of; the sentence with which watching is refused.

    Kopf tries for minutes before it gives up, and says in the log why.
    """
    known = store.Store()
    async with running(
        watch.Watch(port, config.Access(access.kubeconfig), None, known, Metrics())
    ) as watcher:

        async def told(since: dict[str, int]) -> str:
            deadline = time.monotonic() + WATCH_SECONDS
            while not all(known.told(kind) > since[kind] for kind in SPECS):
                if time.monotonic() > deadline:
                    pytest.fail(f"neither told nor refused within {WATCH_SECONDS:.0f} s")
                if "cannot" in (complaint := watcher.problem + logged()):
                    return complaint
                await asyncio.sleep(0.05)
            return ""

        refusal = await told(dict.fromkeys(SPECS, 0))
        if not refusal:  # these were the listings that a watch begins with
            before = {kind: known.told(kind) for kind in SPECS}
            await asyncio.to_thread(change)
            refusal = await told(before)
        return refusal


@contextlib.asynccontextmanager
async def running(watcher: watch.Watch) -> AsyncIterator[watch.Watch]:
    task = asyncio.create_task(watcher.run())
    try:
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_they_are_enough(
    place: tuple[Target, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kube, namespace = place
    with account(kube, namespace, rights.RULES, tmp_path) as access:
        assert await forbidden(access, namespace, lambda: change(kube, namespace), lambda: caplog.text) == {}


@pytest.mark.parametrize("right", RIGHTS, ids=str)
async def test_each_is_needed(
    place: tuple[Target, str], right: Right, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kube, namespace = place
    with account(kube, namespace, without(right), tmp_path) as access:
        refused = await forbidden(access, namespace, lambda: change(kube, namespace), lambda: caplog.text)
    assert refused, f"nothing here needs the right to {right}"
    for sentence in refused.values():
        assert right.refusal in sentence


async def test_every_method_of_the_port_is_among_the_uses() -> None:
    called = set()

    class Recorder:
        def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
            called.add(name)
            return mock.AsyncMock()

    for use in uses(cast(client.ApiServer, Recorder()), "any").values():
        await use()
    assert called == {name for name in vars(ports.Kubernetes) if not name.startswith("_")}
