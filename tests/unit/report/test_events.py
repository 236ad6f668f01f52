"""Events in virtual time on the twin: series, limits, outages."""

import asyncio

from pveha.model.kubernetes import ObjectRef
from pveha.report import events
from pveha.sim import clock
from pveha.sim.kubernetes import SimulatedKubernetes

REF = ObjectRef("HACluster", "default", "dc1")


def recorder(kubernetes: SimulatedKubernetes) -> events.EventRecorder:
    loop = asyncio.get_running_loop()
    return events.EventRecorder(kubernetes, "me", lambda: 1.7e9 + loop.time())


def test_a_repeated_event_is_one_series_written_once_a_minute() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        requests: list[str] = []

        async def count(request: str) -> None:
            requests.append(request)

        kubernetes.hang = count
        async with recorder(kubernetes) as record:
            for _ in range(300):
                record.record(REF, "NodeDown", "pve1 is down", warning=True)
                await asyncio.sleep(1)
            (occurrence,) = kubernetes.occurrences.values()
            assert (occurrence.reason, occurrence.warning) == ("NodeDown", True)
            assert occurrence.count >= 240
            assert len(requests) == 5
            await asyncio.sleep(events.SERIES_SECONDS + 1)
            record.record(REF, "NodeDown", "pve1 is down", warning=True)
            await asyncio.sleep(1)
            assert len(kubernetes.occurrences) == 2

    clock.run(story())


def test_one_object_cannot_flood_the_cluster_and_does_not_silence_others() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        async with recorder(kubernetes) as record:
            for number in range(1000):
                record.record(REF, "NodeDown", f"number {number}")
            record.record(ObjectRef("ProtectedVM", "default", "web"), "Started", "started")
            await asyncio.sleep(1)
            assert len(kubernetes.occurrences) == events.BURST + 1
            assert any(event.reason == "Started" for event in kubernetes.occurrences.values())

    clock.run(story())


def test_events_of_an_outage_are_written_after_it() -> None:
    async def story() -> None:
        kubernetes = SimulatedKubernetes()
        kubernetes.unreachable = True
        async with recorder(kubernetes) as record:
            record.record(REF, "NodeDown", "pve1 is down")
            record.record(REF, "Recovered", "x" * 2000)
            await asyncio.sleep(30)
            assert not kubernetes.occurrences
            kubernetes.unreachable = False
            await asyncio.sleep(5)
            assert [event.reason for event in kubernetes.occurrences.values()] == ["NodeDown", "Recovered"]
            assert all(len(event.message) <= events.NOTE_LIMIT for event in kubernetes.occurrences.values())

    clock.run(story())
