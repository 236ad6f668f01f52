"""The watcher in virtual time, on a simulated data centre: cadences, failures, who is watched."""

import asyncio
import collections
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pveha.model import decision, errors
from pveha.model import power as power_
from pveha.nodeshell import answers
from pveha.observe import watcher
from pveha.sim import clock, config, faults, ports, world


class Counting:
    """Counts the calls of a port by name, and fails or hangs those it is told to."""

    def __init__(self, port: Any, calls: collections.Counter[str]) -> None:
        self._port = port
        self._calls = calls
        self.failing: dict[str, Exception] = {}
        self.hanging: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._port, name)

        async def counted(*about: Any) -> Any:
            self._calls[name] += 1
            if about:
                self._calls[" ".join([name, *map(str, about)])] += 1
            if name in self.hanging:
                await asyncio.Event().wait()
            if name in self.failing:
                raise self.failing[name]
            return await call(*about)

        return counted


class Stage:
    """A started world and a watcher on it, whose calls are counted."""

    def __init__(self, guests: int = 3) -> None:
        machines = [config.managed(100 + n, f"pve{1 + n % 3}") for n in range(guests)]
        self.world = world.World(config.three_nodes(machines))
        self.calls: collections.Counter[str] = collections.Counter()
        self.hypervisor = Counting(ports.SimHypervisor(self.world), self.calls)
        self.shell = Counting(ports.SimNodeShell(self.world), self.calls)
        self.power = Counting(ports.SimPower(self.world), self.calls)
        self.names = ["pve1", "pve2", "pve3"]

    def watch(self) -> watcher.Watcher:
        hypervisor: Any = self.hypervisor
        shell: Any = self.shell
        power: Any = self.power
        outside = watcher.Outside(
            hypervisor, shell, power, {power_.Switch(name, "bmc"): 30.0 for name in self.world.machines}
        )
        return watcher.Watcher(outside, self.names, "me", 1.0, self.world.wall_now)

    def play(self, story: Callable[[watcher.Watcher], Awaitable[None]]) -> None:
        async def main() -> None:
            self.world.start()
            before = asyncio.all_tasks()
            async with self.watch() as observer:
                own = {task.get_name() for task in asyncio.all_tasks() - before}
                await story(observer)
            assert not own & {task.get_name() for task in asyncio.all_tasks()}

        clock.run(main())


def calls_of_a_minute(stage: Stage) -> collections.Counter[str]:
    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(30)
        stage.calls.clear()
        await asyncio.sleep(60)

    stage.play(story)
    return collections.Counter({name: n for name, n in stage.calls.items() if " " not in name})


def test_the_calls_of_a_minute_do_not_depend_on_the_number_of_guests() -> None:
    few, many = calls_of_a_minute(Stage(3)), calls_of_a_minute(Stage(200))
    assert few.keys() == many.keys()
    assert few.total() == pytest.approx(many.total(), abs=12)
    assert few["membership"] == pytest.approx(3 * 60, abs=6)
    assert few["ha_status"] == few["ha_config"] == pytest.approx(12, abs=1)
    assert few["inventory"] == pytest.approx(12 + 2, abs=1)
    assert max(few["read"], few["status"]) <= 3 * 3
    assert few["equipment"] == pytest.approx(3, abs=1)
    assert few["guest_runtime"] == few["guest_config"] == 0


@pytest.mark.parametrize("how", ["fails", "hangs"])
@pytest.mark.parametrize("source", ["inventory", "ha_config", "ha_rules", "privileges"])
def test_a_source_in_trouble_delays_no_other(source: str, how: str) -> None:
    stage = Stage()
    if how == "fails":
        stage.hypervisor.failing[source] = errors.BadAnswer("nonsense")
    else:
        stage.hypervisor.hanging.add(source)
    calls = calls_of_a_minute(stage)
    assert calls["membership"] == pytest.approx(3 * 60, abs=6)
    assert calls["ha_status"] == pytest.approx(12, abs=1)


def test_what_failed_is_told_with_its_first_time_and_forgotten_when_it_works_again() -> None:
    stage = Stage()

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(10)
        stage.hypervisor.failing["inventory"] = errors.Forbidden("VM.Audit is missing")
        await asyncio.sleep(60)
        seen = observer.snapshot((), 60.0)
        problem = seen.problems["inventory"]
        assert (problem.kind, problem.message) == ("Forbidden", "VM.Audit is missing")
        assert seen.now - problem.since > 50
        assert seen.inventory is not None
        assert seen.now - seen.inventory.answered_at > 50
        stage.hypervisor.failing.clear()
        rung = observer.news.rung
        await asyncio.sleep(10)
        assert observer.news.rung > rung
        assert "inventory" not in observer.snapshot((), 60.0).problems

    stage.play(story)


def test_a_suspects_power_is_read_every_second_and_a_half_and_only_the_suspects() -> None:
    stage = Stage()

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(30)
        observer.look(decision.Looking(frozenset({"pve2"}), True))
        stage.calls.clear()
        await asyncio.sleep(30)
        assert stage.calls["read pve2/bmc"] == pytest.approx(20, abs=2)
        assert stage.calls["read pve1/bmc"] <= 1
        assert stage.calls["inventory"] >= 28
        observer.look(decision.Looking())
        stage.calls.clear()
        await asyncio.sleep(60)
        assert stage.calls["read pve2/bmc"] <= 3
        assert stage.calls["ha_status"] == pytest.approx(12, abs=2)

    stage.play(story)


def test_a_refresh_reads_at_once() -> None:
    stage = Stage()

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(31.2)
        stage.calls.clear()
        observer.refresh()
        await asyncio.sleep(0.2)
        assert stage.calls["ha_status"] == stage.calls["ha_config"] == 1
        assert stage.calls["inventory"] >= 1
        assert stage.calls["privileges"] == stage.calls["ha_rules"] == 0

    stage.play(story)


def test_a_change_of_membership_is_news_and_makes_the_ha_state_be_read_again() -> None:
    stage = Stage()

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(30)
        stage.world.power_off("pve2")
        await asyncio.sleep(6.5)
        while observer.snapshot((), 60.0).views["pve1"].online["pve2"]:
            await observer.news.wait(observer.news.rung, float("inf"))
        seen_at = observer.snapshot((), 60.0).now
        await asyncio.sleep(0.2)
        seen = observer.snapshot((), 60.0)
        assert seen.ha_status is not None
        assert seen.ha_status.answered_at > seen_at
        assert seen.probes["pve2"].failed_since is not None
        assert seen.probes["pve2"].failed_since == pytest.approx(30, abs=1.5)

    stage.play(story)


def test_nodes_are_learnt_from_the_cluster_and_names_that_are_none_forgotten() -> None:
    stage = Stage()
    stage.names = ["pve1", "not-a-node"]

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(10)
        seen = observer.snapshot((), 60.0)
        assert set(seen.probes) == set(seen.views) == {"pve1", "pve2", "pve3"}
        assert {each.node for each in seen.power} == set(seen.shells) == {"pve1", "pve2", "pve3"}

    stage.play(story)


def test_the_node_shell_of_another_node_behind_an_address_is_not_believed() -> None:
    stage = Stage()
    status = ports.SimNodeShell.status

    async def wrong(self: ports.SimNodeShell, on: str) -> Any:
        return await status(self, "pve3" if on == "pve2" else on)

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(10)
        seen = observer.snapshot((), 60.0)
        assert set(seen.shells) == {"pve1", "pve3"}
        assert "says that it is pve3" in seen.problems["shell/pve2"].message

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ports.SimNodeShell, "status", wrong)
        stage.play(story)


def test_a_bmc_that_hangs_is_a_problem_after_its_deadline() -> None:
    stage = Stage()
    stage.power.hanging.add("read")

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(5.5)
        problem = observer.snapshot((), 60.0).problems["power/pve1/bmc"]
        assert problem.kind == "Unreachable"
        assert "did not answer in 5 s" in problem.message

    stage.play(story)


def test_certificates_are_looked_at_once_an_hour() -> None:
    async def main() -> None:
        stage = Stage()
        stage.world.start()
        async with stage.watch() as watching:
            await asyncio.sleep(10.0)
            found = watching.snapshot((), 1.0)
            assert found.certificates is not None
            assert found.certificates.keys() == {"pve1", "pve2", "pve3"}
            assert "certificates" not in found.problems
            await asyncio.sleep(watcher.HOURLY_SECONDS)
            assert stage.calls["certificates"] == 2

    clock.run(main())


def test_what_nodes_have_is_asked_of_those_that_answer_and_seen_to_change() -> None:
    stage = Stage()

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(5)
        seen = observer.snapshot((), 60.0).equipment
        assert seen.keys() == set(stage.names)
        assert all(set(each.bridges or ()) == {"vmbr0"} for each in seen.values())
        faults.apply(stage.world, "add bridge pve3 vmbr5")
        faults.apply(stage.world, "power off pve2")
        stage.calls.clear()
        await asyncio.sleep(65)
        bridges = observer.snapshot((), 60.0).equipment["pve3"].bridges or {}
        assert set(bridges) == {"vmbr0", "vmbr5"}
        assert stage.calls["equipment pve2"] == 0

    stage.play(story)


def test_an_older_node_shell_leaves_unknown_what_nodes_have() -> None:
    stage = Stage()
    faults.apply(stage.world, "downgrade node shell pve3")

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(5)
        seen = observer.snapshot((), 60.0)
        assert seen.equipment["pve3"].bridges is None
        assert seen.equipment["pve1"].bridges is not None
        assert "equipment/pve3" not in seen.problems

    stage.play(story)


class WithoutShell(Stage):
    """Guests' configurations have to come from the API."""

    def watch(self) -> watcher.Watcher:
        hypervisor: Any = self.hypervisor
        outside = watcher.Outside(hypervisor, None, None, {}, describe=answers.described)
        return watcher.Watcher(outside, self.names, "me", 1.0, self.world.wall_now)


def test_without_node_shell_configurations_are_read_at_a_bounded_rate() -> None:
    stage = WithoutShell(200)

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(30)
        seen = observer.snapshot((), 60.0)
        assert seen.configs is not None
        assert len(seen.configs.guests) == stage.calls["guest_config"] == pytest.approx(60, abs=4)
        assert seen.configs.cycle_seconds == 200 * watcher.CONFIG_SECONDS
        await asyncio.sleep(80)
        seen = observer.snapshot((), 60.0)
        assert seen.configs is not None
        assert len(seen.configs.guests) == 200
        assert seen.configs.guests[100].storages == {"shared"}
        assert seen.equipment["pve1"].cpus == 16
        assert seen.equipment["pve1"].bridges is None

    stage.play(story)


def test_without_node_shell_a_guest_that_moved_has_the_next_turn_and_few_guests_are_left_alone() -> None:
    stage = WithoutShell(3)

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(60)
        stage.calls.clear()
        await asyncio.sleep(60)
        assert stage.calls["guest_config"] <= 3 * 2
        faults.apply(stage.world, "migrate guest 100 pve3")
        await asyncio.sleep(45)
        seen = observer.snapshot((), 60.0)
        assert seen.configs is not None
        assert seen.configs.guests[100].node == "pve3"

    stage.play(story)


def replicated() -> Stage:
    """Guest 100 of pve1 is replicated to pve2, every minute."""
    stage = Stage()
    guests = list(stage.world.config.guests)
    copy = config.Replica("pve2", every_seconds=60.0, synced_ago=30.0)
    guests[0] = dataclasses.replace(guests[0], storages=("zfs",), replicas=(copy,))
    storages = (*stage.world.config.storages, config.Storage("zfs", shared=False, type="zfspool"))
    about = dataclasses.replace(stage.world.config, guests=tuple(guests), storages=storages)
    stage.world = world.World(about)
    stage.hypervisor = Counting(ports.SimHypervisor(stage.world), stage.calls)
    return stage


def test_syncs_are_asked_of_the_nodes_that_hold_replicated_guests_and_of_no_other() -> None:
    stage = replicated()

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(100)
        (job,) = observer.snapshot((), 0.0).replicas.jobs[100]
        sync = observer.snapshot((), 0.0).replicas.syncs[job.id]
        assert (job.target, sync.source, sync.target) == ("pve2", "pve1", "pve2")
        assert stage.world.wall_now() - sync.last < 90
        assert stage.calls["replication_syncs"] == stage.calls["replication_syncs pve1"] <= 5
        assert stage.calls["replication_jobs"] <= 5

    stage.play(story)


def test_what_a_node_told_of_its_syncs_stays_when_it_is_gone() -> None:
    stage = replicated()

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(50)
        before = observer.snapshot((), 0.0).replicas
        stage.world.power_off("pve1")
        await asyncio.sleep(100)
        after = observer.snapshot((), 0.0).replicas
        assert after.syncs == before.syncs != {}
        assert after.answered_at > before.answered_at, "the jobs are known to the others"

    stage.play(story)


def test_a_job_that_is_gone_takes_what_was_told_of_it_with_it() -> None:
    stage = replicated()

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(50)
        stage.world.remove_replication("100-0")
        await asyncio.sleep(100)
        left = observer.snapshot((), 0.0).replicas
        assert not left.jobs
        assert not left.syncs

    stage.play(story)


def test_without_jobs_no_node_is_asked_for_syncs() -> None:
    stage = Stage()

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(100)
        assert stage.calls["replication_jobs"] <= 5
        assert stage.calls["replication_syncs"] == 0

    stage.play(story)


@pytest.mark.parametrize("ahead", [-500.0, 0.0, 500.0])
def test_a_clock_that_is_ahead_makes_no_replica_younger(ahead: float) -> None:
    stage = replicated()
    stage.world.machines["pve1"].clock_skew = ahead

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(200)
        sync = observer.snapshot((), 0.0).replicas.syncs["100-0"]
        truth = stage.world.config.start_timestamp + stage.world.replicas.points[100]["pve2"]
        assert sync.last <= truth + 1
        assert sync.last >= truth - 100 + min(ahead, 0.0)

    stage.play(story)


def test_a_clock_that_is_set_right_makes_no_older_sync_younger() -> None:
    stage = replicated()
    stage.world.machines["pve1"].clock_skew = 500.0

    async def story(observer: watcher.Watcher) -> None:
        await asyncio.sleep(100)
        before = observer.snapshot((), 0.0).replicas.syncs["100-0"]
        stage.world.replicas.refusing.add("pve2")
        stage.world.machines["pve1"].clock_skew = 0.0
        await asyncio.sleep(200)
        assert observer.snapshot((), 0.0).replicas.syncs["100-0"].last == before.last

    stage.play(story)
