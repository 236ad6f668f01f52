"""ProtectedVMs of ours are written few at a time, with the Lease only, and again if that failed."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

from pveha.model import decision, errors, kubernetes
from pveha.report import enrolment
from pveha.sim import clock
from pveha.sim.kubernetes import SimulatedKubernetes


@dataclasses.dataclass
class Lease:
    left: float = 15.0

    def remaining(self) -> float:
        return self.left


class Server(SimulatedKubernetes):
    """Counts requests, and how many are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []
        self.under_way = 0
        self.most = 0
        self.hang = self._note

    async def _note(self, request: str) -> None:
        self.requests.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(1.0)
        self.under_way -= 1


def play(test: Callable[[Server, Lease, enrolment.Enroller], Awaitable[None]]) -> None:
    async def run() -> None:
        server, lease = Server(), Lease()
        async with enrolment.Enroller(server, lease) as enroller:
            await test(server, lease, enroller)

    clock.run(run())


def enrol(vmid: int, uid: str = "") -> decision.Enrol:
    metadata = {"name": f"dc1-{vmid}", "namespace": "default"}
    spec = {"clusterRef": {"name": "dc1"}, "vmid": vmid}
    return decision.Enrol(
        {"apiVersion": "pveha.dev/v1alpha1", "kind": "ProtectedVM", "metadata": metadata, "spec": spec}, uid
    )


def wanted(count: int) -> dict[str, decision.Enrol | decision.Dismiss]:
    return {f"dc1-{vmid}": enrol(vmid) for vmid in range(101, 101 + count)}


def test_many_are_written_soon_but_few_at_a_time() -> None:
    async def test(server: Server, lease: Lease, enroller: enrolment.Enroller) -> None:
        enroller.submit(wanted(500))
        await asyncio.sleep(30.0)
        assert len((await server.list_objects("ProtectedVM", "default")).objects) == 500
        assert server.most == enrolment.CONCURRENCY

    play(test)


def test_nothing_is_written_without_the_lease() -> None:
    async def test(server: Server, lease: Lease, enroller: enrolment.Enroller) -> None:
        lease.left = enrolment.LEASE_SECONDS - 0.1
        enroller.submit(wanted(3))
        await asyncio.sleep(10.0)
        assert server.requests == []
        lease.left = 15.0
        enroller.submit(wanted(3))
        await asyncio.sleep(2.0)
        assert server.requests == ["apply_guest"] * 3

    play(test)


def test_what_failed_is_tried_again_with_growing_pauses() -> None:
    async def test(server: Server, lease: Lease, enroller: enrolment.Enroller) -> None:
        async def refuse(request: str) -> None:
            server.requests.append(request)
            raise errors.Unreachable(request)

        server.hang = refuse
        for _ in range(40):
            enroller.submit(wanted(1))
            await asyncio.sleep(1.0)
        assert 5 <= len(server.requests) <= 7

    play(test)


def test_what_was_just_written_or_does_not_change_is_not_written_again() -> None:
    async def test(server: Server, lease: Lease, enroller: enrolment.Enroller) -> None:
        for _ in range(100):
            enroller.submit({"dc1-101": enrol(101, uid="1")})
            await asyncio.sleep(1.0)
        assert server.requests == ["apply_guest"]

    play(test)


def test_only_what_is_wanted_still_is_done() -> None:
    async def test(server: Server, lease: Lease, enroller: enrolment.Enroller) -> None:
        enroller.submit(wanted(500))
        await asyncio.sleep(2.0)
        enroller.submit({})
        await asyncio.sleep(60.0)
        assert len(server.requests) < 100

    play(test)


def test_one_that_has_changed_meanwhile_is_not_dismissed() -> None:
    async def test(server: Server, lease: Lease, enroller: enrolment.Enroller) -> None:
        made = server.put(enrol(101).manifest)["metadata"]
        ref = kubernetes.ObjectRef("ProtectedVM", "default", "dc1-101", made["uid"])
        enroller.submit({"dc1-101": decision.Dismiss(ref, "0")})
        await asyncio.sleep(3.0)
        assert len((await server.list_objects("ProtectedVM", "default")).objects) == 1
        enroller.submit({"dc1-101": decision.Dismiss(ref, made["resourceVersion"])})
        await asyncio.sleep(8.0)
        enroller.submit({"dc1-101": decision.Dismiss(ref, made["resourceVersion"])})
        await asyncio.sleep(3.0)
        assert (await server.list_objects("ProtectedVM", "default")).objects == ()

    play(test)
