"""Supervisor and the objects nobody speaks for, in virtual time on the twin."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

from pveha import api
from pveha.control import health, store, supervisor
from pveha.model import decision, ports, specs
from pveha.model.kubernetes import ClusterKey, Manifest, ObjectRef
from pveha.report import status
from pveha.sim import clock
from pveha.sim.kubernetes import SimulatedKubernetes

SPEC = {
    "endpoints": [{"host": "pve1.example.net"}],
    "credentialsSecretRef": {"name": "token"},
    "tls": {"caSecretRef": {"name": "ca"}},
}


def manifest(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": api.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def guest(name: str, cluster: str = "dc1") -> dict[str, Any]:
    return manifest("ProtectedVM", name, {"clusterRef": {"name": cluster}, "vmid": 100})


class Loops:
    """Stands in for the loop: records which clusters run, fails on command."""

    def __init__(self) -> None:
        self.running: dict[ClusterKey, ports.Leadership] = {}
        self.began: list[float] = []
        self.fail_after: float | None = None
        self.report: Callable[[specs.Specs], decision.Report] | None = None

    async def __call__(
        self,
        key: ClusterKey,
        wanted: Callable[[], specs.Specs | None],
        kubernetes: ports.Kubernetes,
        leadership: ports.Leadership,
        reporter: status.StatusWriter,
        health: health.Health,
    ) -> None:
        loop = asyncio.get_running_loop()
        assert key not in self.running
        self.running[key] = leadership
        self.began.append(loop.time())
        try:
            while (now := wanted()) is not None:
                health.round(key, 0.001)
                if self.report:
                    reporter.write(self.report(now))
                    reporter.record((decision.Event("Looked", "at it", name="web"),))
                if self.fail_after is not None and loop.time() - self.began[-1] >= self.fail_after:
                    raise RuntimeError("broken")
                await asyncio.sleep(1)
        finally:
            del self.running[key]


class Replica:
    """A supervisor, its store fed by the twin's watch."""

    def __init__(self, kubernetes: SimulatedKubernetes, identity: str) -> None:
        self.store = store.Store()
        self.health = health.Health()
        self.loops = Loops()
        loop = asyncio.get_running_loop()

        def tell(event: str, obj: Manifest) -> None:
            loop.call_soon(self.store.event, str(obj["kind"]), event, obj)

        kubernetes.watchers.append(tell)
        self.supervisor = supervisor.Supervisor(
            kubernetes,
            self.store,
            self.health,
            identity,
            self.loops,
            wall_now=lambda: 1.7e9 + loop.time(),
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.supervisor.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert not self.loops.running


def condition(kubernetes: SimulatedKubernetes, kind: str, name: str, type_: str = "Ready") -> dict[str, Any]:
    found = kubernetes.get(kind, "default", name)["status"].get("conditions", ())
    return next((each for each in found if each["type"] == type_), {})


def test_each_cluster_has_one_loop_as_long_as_it_exists() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        one, two = Replica(kubernetes, "one"), Replica(kubernetes, "two")
        async with one.running(), two.running():
            for name in ("dc1", "dc2", "dc3"):
                kubernetes.put(manifest("HACluster", name, SPEC))
            await asyncio.sleep(5)
            for name in ("dc1", "dc2", "dc3"):
                key = ClusterKey("default", name)
                assert [key in replica.loops.running for replica in (one, two)].count(True) == 1
            kubernetes.delete("HACluster", "default", "dc2")
            await asyncio.sleep(3)
            gone = ClusterKey("default", "dc2")
            assert gone not in {**one.loops.running, **two.loops.running}
            assert (await kubernetes.get_lease("default", "pveha-dc2")).holder == ""
            kubernetes.put(manifest("HACluster", "dc2", SPEC))
            await asyncio.sleep(5)
            assert [gone in replica.loops.running for replica in (one, two)].count(True) == 1
        assert (await kubernetes.get_lease("default", "pveha-dc1")).holder == ""

    clock.run(story())


def test_a_loop_that_fails_starts_anew_ever_more_slowly_and_keeps_the_lease() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        replica = Replica(kubernetes, "one")
        replica.loops.fail_after = 0.0
        async with replica.running():
            kubernetes.put(manifest("HACluster", "dc1", SPEC))
            await asyncio.sleep(60)
            pauses = [b - a for a, b in itertools.pairwise(replica.loops.began)]
            assert pauses[:5] == list(supervisor.BACKOFF_SECONDS)
            assert (await kubernetes.get_lease("default", "pveha-dc1")).transitions == 0
            replica.loops.fail_after = None
            await asyncio.sleep(60)
            assert replica.loops.running
            assert replica.health.live() == {}

    clock.run(story())


def test_a_loop_without_rounds_is_not_healthy() -> None:
    async def story() -> None:
        judge = health.Health()
        key = ClusterKey("default", "dc1")
        judge.leading(key)
        await asyncio.sleep(health.ROUND_STALE_SECONDS - 1)
        assert judge.live() == {}
        await asyncio.sleep(2)
        assert judge.live() == {"loop default/dc1": "no round for 31 s"}
        judge.round(key, 0.01)
        assert judge.live() == {}
        judge.add_live("watch", lambda: "silent")
        judge.add_ready("watch", lambda: "not listed")
        assert (judge.live(), judge.ready()) == ({"watch": "silent"}, {"watch": "not listed"})
        await asyncio.sleep(100)
        judge.following(key)
        assert judge.live() == {"watch": "silent"}

    clock.run(story())


def test_statuses_keep_their_transition_times_and_are_written_on_change_only() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        replica = Replica(kubernetes, "one")
        loop = asyncio.get_running_loop()
        word = {"status": "True", "reason": "Protected"}

        def report(now: specs.Specs) -> decision.Report:
            judged = api.Condition(type="Ready", message="", last_transition_time=1.7e9 + loop.time(), **word)
            return decision.Report(
                cluster=api.HAClusterStatus(conditions=(judged,)),
                guests={name: api.ProtectedVMStatus(conditions=(judged,)) for name in now.guests},
                policies={},
            )

        replica.loops.report = report
        async with replica.running():
            kubernetes.put(manifest("HACluster", "dc1", SPEC))
            kubernetes.put(guest("web"))
            await asyncio.sleep(5)
            first = condition(kubernetes, "ProtectedVM", "web")
            assert first["observedGeneration"] == 1
            version = kubernetes.get("ProtectedVM", "default", "web")["metadata"]["resourceVersion"]
            await asyncio.sleep(60)
            assert kubernetes.get("ProtectedVM", "default", "web")["metadata"]["resourceVersion"] == version
            word["reason"] = "Observed"
            await asyncio.sleep(3)
            second = condition(kubernetes, "ProtectedVM", "web")
            assert second["reason"] == "Observed"
            assert second["lastTransitionTime"] == first["lastTransitionTime"]
            word["status"] = "False"
            await asyncio.sleep(3)
            third = condition(kubernetes, "ProtectedVM", "web")
            assert third["lastTransitionTime"] > first["lastTransitionTime"]
            (occurrence,) = kubernetes.occurrences.values()
            assert (occurrence.regarding.kind, occurrence.regarding.name) == ("ProtectedVM", "web")

    clock.run(story())


def test_a_guest_without_its_cluster_is_told_once_and_remembers_which_guest_was_meant() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        replicas = [Replica(kubernetes, name) for name in ("one", "two")]
        async with replicas[0].running(), replicas[1].running():
            kubernetes.put(guest("web"))
            await kubernetes.apply_status(
                ObjectRef("ProtectedVM", "default", "web"),
                {
                    "node": "pve1",
                    "guest": {"kind": "VM", "identity": "uuid"},
                    "failoverPlan": {"targetNode": "x"},
                },
            )
            await asyncio.sleep(10)
            ready = condition(kubernetes, "ProtectedVM", "web")
            assert (ready["status"], ready["reason"]) == ("False", "ClusterNotFound")
            assert "HACluster dc1" in ready["message"]
            stored = kubernetes.get("ProtectedVM", "default", "web")["status"]
            assert stored["guest"] == {"kind": "VM", "identity": "uuid"}
            assert "failoverPlan" not in stored
            writes = kubernetes.writes
            await asyncio.sleep(60)
            assert kubernetes.writes == writes

    clock.run(story())


def test_things_applied_together_are_not_called_orphans_meanwhile() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        replica = Replica(kubernetes, "one")
        async with replica.running():
            kubernetes.put(guest("web"))
            await asyncio.sleep(3)
            kubernetes.put(manifest("HACluster", "dc1", SPEC))
            await asyncio.sleep(30)
            assert condition(kubernetes, "ProtectedVM", "web") == {}

    clock.run(story())


def test_objects_that_cannot_be_read_say_so() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        replica = Replica(kubernetes, "one")
        async with replica.running():
            kubernetes.put(manifest("HACluster", "dc1", SPEC))
            await asyncio.sleep(5)
            assert replica.loops.running
            broken = dict(kubernetes.get("HACluster", "default", "dc1"))
            broken["spec"] = {"endpoints": []}
            kubernetes._store(ObjectRef("HACluster", "default", "dc1"), broken)
            await asyncio.sleep(60)
            ready = condition(kubernetes, "HACluster", "dc1")
            assert (ready["status"], ready["reason"]) == ("False", "Invalid")
            assert "credentialsSecretRef" in ready["message"]
            writes = kubernetes.writes
            await asyncio.sleep(2)
            assert kubernetes.writes <= writes + 1
            assert not replica.loops.running
            assert replica.health.live() == {}
            assert "credentialsSecretRef" in replica.store.refused()[ObjectRef("HACluster", "default", "dc1")]

    clock.run(story())
