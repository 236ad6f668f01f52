"""The applier in virtual time on the twin: quiet, bounded, urgent first, patient."""

import asyncio
import collections

from pveha import api
from pveha.model.kubernetes import Manifest, ObjectRef
from pveha.report import applier
from pveha.sim import clock
from pveha.sim.kubernetes import SimulatedKubernetes


class World:
    """A twin with guests, and what its watch has shown."""

    def __init__(self, guests: int = 1, lag: float = 0.01) -> None:
        self.kubernetes = SimulatedKubernetes()
        self.seen: dict[ObjectRef, Manifest] = {}
        self.lag = lag
        self.order: list[str] = []
        self.told: collections.deque[tuple[str, Manifest]] = collections.deque()
        self.kubernetes.watchers.append(self._watch)
        self.refs = [ObjectRef("ProtectedVM", "default", f"vm{index}") for index in range(guests)]
        for index, ref in enumerate(self.refs):
            self.put(ref, 100 + index)
        self.applier = applier.StatusApplier(self.kubernetes, self.seen.get)

    def put(self, ref: ObjectRef, vmid: int) -> None:
        spec = {"clusterRef": {"name": "dc1"}, "vmid": vmid}
        metadata = {"name": ref.name, "namespace": ref.namespace}
        self.kubernetes.put(
            {"apiVersion": api.API_VERSION, "kind": ref.kind, "metadata": metadata, "spec": spec}
        )

    def _watch(self, event: str, obj: Manifest) -> None:
        # Timers of one moment fire in any order; a watch keeps its order.
        self.told.append((event, obj))

        def show() -> None:
            event, obj = self.told.popleft()
            ref = ObjectRef(str(obj["kind"]), obj["metadata"]["namespace"], obj["metadata"]["name"])
            self.order.append(ref.name)
            if event == "DELETED":
                self.seen.pop(ref, None)
            else:
                self.seen[ref] = obj

        asyncio.get_running_loop().call_later(self.lag, show)

    def status(self, ref: ObjectRef) -> Manifest:
        return dict(self.kubernetes.get(ref.kind, ref.namespace, ref.name)["status"])


def test_an_unchanged_status_is_written_once_however_often_it_is_submitted() -> None:
    async def story() -> None:
        world = World(3)
        await asyncio.sleep(1)
        async with world.applier:
            before = world.kubernetes.writes
            for _ in range(60):
                for ref in world.refs:
                    world.applier.submit(ref, {"node": "pve1"})
                await asyncio.sleep(1)
            assert world.kubernetes.writes == before + 3

    clock.run(story())


def test_an_object_is_written_at_most_once_a_second_and_the_last_word_counts() -> None:
    async def story() -> None:
        world = World()
        await asyncio.sleep(1)
        (ref,) = world.refs
        async with world.applier:
            before = world.kubernetes.writes
            for step in range(100):
                world.applier.submit(ref, {"node": f"pve{step}"})
                await asyncio.sleep(0.1)
            await asyncio.sleep(2)
            assert world.kubernetes.writes - before <= 12
            assert world.status(ref) == {"node": "pve99"}

    clock.run(story())


def test_what_somebody_else_wrote_is_put_right() -> None:
    async def story() -> None:
        world = World()
        await asyncio.sleep(1)
        (ref,) = world.refs
        async with world.applier:
            world.applier.submit(ref, {"node": "pve1"})
            await asyncio.sleep(5)
            await world.kubernetes.apply_status(ref, {"node": "lie"})
            await asyncio.sleep(1)
            world.applier.submit(ref, {"node": "pve1"})
            await asyncio.sleep(1)
            assert world.status(ref) == {"node": "pve1"}

    clock.run(story())


def test_fields_of_another_manager_do_not_make_us_write_for_ever() -> None:
    async def story() -> None:
        world = World()
        (ref,) = world.refs
        apply = world.kubernetes.apply_status

        async def merged(ref: ObjectRef, status: Manifest, resource_version: str = "") -> Manifest:
            return await apply(ref, {**status, "version": "theirs"}, resource_version)

        world.kubernetes.apply_status = merged  # type: ignore[method-assign]
        await asyncio.sleep(1)
        async with world.applier:
            before = world.kubernetes.writes
            requests: list[str] = []

            async def count(request: str) -> None:
                requests.append(request)

            world.kubernetes.hang = count
            for _ in range(30):
                world.applier.submit(ref, {"node": "pve1"})
                await asyncio.sleep(1)
            assert world.kubernetes.writes == before + 1
            assert requests == ["apply_status"]

    clock.run(story())


def test_urgent_objects_come_first_and_at_most_fifty_are_under_way() -> None:
    async def story() -> None:
        world = World(300)
        await asyncio.sleep(1)
        under_way, most = 0, 0

        async def slow(request: str) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.05)
            under_way -= 1

        world.kubernetes.hang = slow
        world.order.clear()
        async with world.applier:
            for ref in world.refs[:-5]:
                world.applier.submit(ref, {"node": "pve1"})
            for ref in world.refs[-5:]:
                world.applier.submit(ref, {"node": "pve1"}, urgent=True)
            await asyncio.sleep(2)
        assert most == applier.CONCURRENCY
        assert {ref.name for ref in world.refs[-5:]} <= set(world.order[:100])
        assert len(world.order) == 300

    clock.run(story())


def test_an_unreachable_server_is_tried_again_with_the_newest_status() -> None:
    async def story() -> None:
        world = World()
        await asyncio.sleep(1)
        (ref,) = world.refs
        async with world.applier:
            world.kubernetes.unreachable = True
            for step in range(20):
                world.applier.submit(ref, {"node": f"pve{step}"})
                await asyncio.sleep(1)
            world.kubernetes.unreachable = False
            await asyncio.sleep(applier.RETRY_SECONDS[-1] + 1)
            assert world.status(ref) == {"node": "pve19"}

    clock.run(story())


def test_an_object_made_anew_does_not_inherit_the_status_of_its_predecessor() -> None:
    async def story() -> None:
        world = World(lag=0.5)
        (ref,) = world.refs
        await asyncio.sleep(1)
        async with world.applier:
            world.applier.submit(ref, {"node": "pve1"})
            await asyncio.sleep(2)
            world.kubernetes.delete(ref.kind, ref.namespace, ref.name)
            world.put(ref, 100)
            world.applier.submit(ref, {"node": "pve2"})
            await asyncio.sleep(0.4)
            assert world.status(ref) == {}
            await asyncio.sleep(1)
            world.applier.submit(ref, {"node": "pve2"})
            await asyncio.sleep(2)
            assert world.status(ref) == {"node": "pve2"}

    clock.run(story())


def test_a_deleted_object_is_forgotten() -> None:
    async def story() -> None:
        world = World()
        (ref,) = world.refs
        await asyncio.sleep(1)
        async with world.applier:
            world.applier.submit(ref, {"node": "pve1"})
            await asyncio.sleep(2)
            world.kubernetes.delete(ref.kind, ref.namespace, ref.name)
            world.applier.submit(ref, {"node": "pve2"})
            await asyncio.sleep(2)
            world.applier.forget(ref)
            assert world.applier.known() == frozenset()

    clock.run(story())
