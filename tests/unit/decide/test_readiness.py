"""Restart order in rounds: who is claimed and held, when he goes on, and what is told of it."""

import dataclasses
from typing import Any

import pytest

import decide_scene
from pveha.decide import readiness, rounds
from pveha.model import cluster, operations, snapshot

GIB = 1 << 30
AGENT = snapshot.AgentAnswer
SILENT = "its guest agent does not answer yet"


class Scene(decide_scene.Scene):
    """vm101 on pve1 (db), and vm111 and vm112 on pve1 too, the last of which depends on vm101."""

    def __init__(self, startup: dict[str, Any] | None = None, *, agent: bool = True) -> None:
        super().__init__()
        self.add_guest(111, "pve1")
        self.add_guest(112, "pve1")
        self.policies["db"] = {"startup": startup or {}}
        self.protected[101] = {"policyRef": {"name": "db"}}
        self.protected[112] = {"dependsOn": [{"name": "vm101"}], "priority": 900}
        self.set_config(101, agent=agent)
        self.agents: dict[int, snapshot.AgentAnswer] = {}

    def snapshot(self) -> snapshot.Snapshot:

        return dataclasses.replace(super().snapshot(), agents=dict(self.agents))

    def lose_and_prove(self) -> rounds.Decision:
        """pve1 is lost and proven off; the round after that."""
        self.settle()
        self.lose("pve1")
        self.step(4)
        self.prove("pve1")
        return self.step()

    def takeovers(self) -> dict[int, operations.TakeoverItem]:
        """What is in flight, by vmid."""
        return {
            item.ref.vmid: item
            for state in self.operations
            if isinstance(state.operation, operations.Takeover) and state.outcome is None
            for item in state.operation.items
        }

    def carry_out(self) -> None:
        """Every takeover in flight ends as it should."""
        while self.takeovers():
            operation = next(
                state.operation
                for state in self.operations
                if isinstance(state.operation, operations.Takeover) and state.outcome is None
            )
            results = []
            for item in operation.items:
                vmid, ref = item.ref.vmid, item.ref
                self.move(vmid, operation.target)
                mark = f"[pveha op={operation.id} epoch={operation.epoch} was=started]"
                ignored = cluster.HAState.IGNORED
                if not item.claimed:
                    self.set_resource(ref.sid, state=ignored, comment=mark)
                self.drop_at_flush.add(ref.sid)
                self.set_guest(vmid, status="stopped" if item.waits else "running")
                if item.waits:
                    results.append(operations.GuestResult(ref, "Waiting", item.waits))
                else:
                    results.append(operations.GuestResult(ref, "Running", running_at=self.now))
            self.end(operations.Takeover, guests=tuple(results))
            self.now += 0.1
            self.decide()

    def until_it_waits(self) -> rounds.Decision:
        self.lose_and_prove()
        self.carry_out()
        return self.step(1)

    def answer(self, problem: str = "", kind: str = "") -> None:
        self.agents[101] = AGENT(self.guests[101].node, self.now, problem, kind)


def ready(decision: rounds.Decision, vmid: int = 112) -> tuple[str, str, str]:
    found = decision.report.guests[f"vm{vmid}"].condition("Ready")
    assert found is not None
    return found.status, found.reason, found.message


def started(decision: rounds.Decision) -> list[int]:
    return [
        item.ref.vmid
        for operation in decision.start
        if isinstance(operation, operations.Takeover)
        for item in operation.items
        if not item.waits and item.was is cluster.HAState.STARTED
    ]


def test_those_that_may_start_come_first_and_the_others_are_claimed_after_them() -> None:
    scene = Scene()
    first = scene.lose_and_prove()
    assert sorted(started(first)) == [101, 111], "in spite of the priority of 112"
    assert 112 not in scene.takeovers()
    scene.step(0.25)
    assert scene.takeovers()[112].waits == "waits for vm101 to be ready (its node pve1 is lost)"


def test_a_guest_waits_until_the_agent_answers() -> None:
    scene = Scene()
    decision = scene.until_it_waits()
    assert ready(decision) == ("True", "Waiting", f"it waits for vm101 to be ready ({SILENT})")
    assert decide_scene.condition(decision.report.guests["vm112"], "FailoverReady") == ("False", "Waiting")
    assert decision.looking.agents == {(scene.guests[101].ref, scene.guests[101].node)}
    scene.answer("not running", "Refused")
    assert not started(scene.step(30))
    scene.answer()
    decision = scene.step(0.25)
    assert started(decision) == [112]
    scene.carry_out()
    decision = scene.step(1)
    assert ready(decision)[1] == "Protected"
    assert decision.looking.agents == frozenset()
    last = decision.report.guests["vm112"].last_failover
    assert last is not None
    assert last.downtime_seconds is not None
    assert last.downtime_seconds > 30


def test_an_answer_from_before_is_none() -> None:
    scene = Scene()
    scene.agents[101] = AGENT("pve2", scene.now)
    scene.agents[101] = AGENT("pve3", scene.now)
    assert not started(scene.until_it_waits())


def test_a_token_that_may_not_ask_is_told() -> None:
    scene = Scene()
    scene.until_it_waits()
    scene.answer("403", "Forbidden")
    assert "the token lacks VM.GuestAgent.Audit" in ready(scene.step(1))[2]


def test_without_an_agent_it_is_ready_after_its_delay() -> None:
    scene = Scene({"delaySeconds": 20}, agent=False)
    decision = scene.until_it_waits()
    assert "it has to run for 20 s" in ready(decision)[2]
    assert decision.looking.agents == frozenset()
    assert not started(scene.step(17))
    scene.step(4)
    assert 112 in scene.takeovers()


def test_a_dependency_that_runs_already_is_no_reason_to_wait() -> None:
    scene = Scene()
    scene.protected[112] = {"dependsOn": [{"name": "vm102"}]}
    scene.set_config(102, agent=True)
    assert sorted(started(scene.lose_and_prove())) == [101, 111, 112]


def test_a_new_leader_does_not_know_what_ran_before_and_asks() -> None:
    scene = Scene()
    scene.protected[112] = {"dependsOn": [{"name": "vm102"}]}
    scene.set_config(102, agent=True)
    scene.settle()
    scene.lose("pve1")
    scene.restart()
    scene.step(6)
    scene.end(operations.Begin, epoch=2)
    scene.step(6)
    scene.prove("pve1")
    decision = scene.step()
    assert 112 not in started(decision)
    assert decision.looking.agents == {(scene.guests[102].ref, "pve2")}


def test_a_dependency_that_its_owner_keeps_stopped_is_not_waited_for() -> None:
    scene = Scene()
    scene.set_resource("vm:101", state=cluster.HAState.STOPPED)
    scene.set_guest(101, status="stopped")
    assert sorted(started(scene.lose_and_prove())) == [111, 112]


def test_after_its_time_it_is_started_all_the_same() -> None:
    scene = Scene({"readyTimeoutSeconds": 60})
    scene.until_it_waits()
    scene.step(50)
    events: list[Any] = []
    assert 112 not in scene.takeovers()
    while 112 not in scene.takeovers():
        events += scene.step(0.5).events
    assert "it is started although vm101 did not become ready in time" in [each.message for each in events]


def test_stop_leaves_it_down_until_it_is_ready_after_all() -> None:
    scene = Scene({"readyTimeoutSeconds": 60, "onTimeout": "Stop"})
    scene.until_it_waits()
    scene.step(60)
    decision = scene.step(30)
    assert ready(decision)[:2] == ("False", "DependencyNotReady")
    assert not scene.takeovers()
    scene.answer()
    assert started(scene.step(0.5)) == [112]


def test_the_clock_of_a_dependency_begins_anew_when_it_was_ready() -> None:
    scene = Scene({"readyTimeoutSeconds": 60})
    scene.protected[112] = {"dependsOn": [{"name": "vm101"}, {"name": "vm111"}]}
    scene.set_config(111, agent=True)
    scene.until_it_waits()
    scene.answer()
    scene.step(50)
    assert scene.memory.awaited[101].unready_since is None
    scene.answer("not running", "Refused")
    scene.step(1)
    assert scene.memory.awaited[101].unready_since == pytest.approx(scene.now, abs=1.5)
    assert scene.memory.awaited[111].unready_since == pytest.approx(scene.now - 52, abs=3)


def test_the_mark_of_who_waits_is_set_anew_before_the_timer_gives_him_to_native_ha() -> None:
    scene = Scene()
    scene.until_it_waits()
    before = scene.resources["vm:112"].comment
    seen = []
    for _ in range(240):
        decision = scene.step(0.5)
        if edit := decide_scene.edits(decision).get("vm:112"):
            seen.append(edit)
            break
        if any(isinstance(each, operations.EditHA) for each in decision.start):
            scene.end(operations.EditHA)
    (edit,) = seen
    assert edit.desired is not None
    assert edit.desired.state is cluster.HAState.IGNORED
    assert edit.desired.comment != before
    assert "was=started" in edit.desired.comment
    assert readiness.RENEW_SECONDS < 240 - 2 * 10 - 60, (
        "the timer's patience, its period and a leader's change"
    )


def test_a_new_leader_sets_the_mark_anew_at_once_and_waits_anew() -> None:
    scene = Scene({"readyTimeoutSeconds": 60})
    scene.until_it_waits()
    scene.step(50)
    scene.restart()
    scene.step(6)
    scene.end(operations.Begin, epoch=3)
    renewed = False
    for _ in range(60):
        decision = scene.step(0.5)
        assert 112 not in started(decision)
        renewed = renewed or "vm:112" in decide_scene.edits(decision)
        if any(isinstance(each, operations.EditHA) for each in decision.start):
            scene.end(operations.EditHA)
    assert renewed


def test_a_circle_is_told_and_holds_nobody_back() -> None:
    scene = Scene()
    scene.protected[101] = {"dependsOn": [{"name": "vm112"}]}
    scene.settle()
    decision = scene.step(1)
    for vmid, circle in ((101, "vm101 -> vm112 -> vm101"), (112, "vm112 -> vm101 -> vm112")):
        status, reason, message = ready(decision, vmid)
        assert (status, reason) == ("False", "DependencyCycle")
        assert circle in message
    scene.lose("pve1")
    scene.step(4)
    scene.prove("pve1")
    assert sorted(started(scene.step())) == [101, 111, 112]


def test_a_name_of_nobody_is_told_and_not_waited_for() -> None:
    scene = Scene()
    scene.protected[112] = {"dependsOn": [{"name": "nobody"}, {"name": "stranger"}]}
    scene.strangers["stranger"] = 999
    scene.settle()
    status, reason, message = ready(scene.step(1))
    assert (status, reason) == ("False", "DependencyNotFound")
    assert "spec.dependsOn names nobody, stranger" in message
    assert "stranger: GuestNotFound" in message
    scene.lose("pve1")
    scene.step(4)
    scene.prove("pve1")
    assert 112 in started(scene.step())


def test_with_engine_native_the_order_is_nobodys() -> None:
    scene = Scene()
    scene.spec["recovery"] = {**scene.spec["recovery"], "engine": "Native"}
    scene.settle()
    told = scene.step(10).report.guests["vm112"]
    assert decide_scene.condition(told, "Ready") == ("True", "DependencyIgnored")
    scene.lose("pve1")
    decision = scene.step(10)
    assert decision.looking.agents == frozenset()
    assert "waits for" not in decision.sentence


def test_a_guest_that_its_policy_leaves_to_native_ha_says_that_it_has_no_order() -> None:
    scene = Scene()
    scene.policies["left"] = {"nodeFailure": {"action": "Native"}}
    scene.protected[112]["policyRef"] = {"name": "left"}
    told = scene.settle().step(1).report.guests
    assert decide_scene.condition(told["vm112"], "Ready") == ("True", "DependencyIgnored")
    assert decide_scene.condition(told["vm111"], "Ready") == ("True", "Protected")
    del scene.protected[112]["policyRef"]
    assert decide_scene.condition(scene.step(1).report.guests["vm112"], "Ready") == ("True", "Protected")


def test_no_clock_begins_anew_when_everything_is_in_doubt_for_a_moment() -> None:
    scene = Scene({"readyTimeoutSeconds": 60})
    scene.until_it_waits()
    scene.step(20)
    before = scene.memory.awaited[101]
    assert before.unready_since is not None
    scene.quorate = False
    scene.step(1)
    scene.quorate = True
    scene.step(1)
    assert scene.memory.awaited[101] == before


def test_a_clock_neither_begins_nor_ends_with_a_doubt() -> None:
    """A member that is silent for a while may run what others wait for (seed 110000996)."""
    scene = Scene({"readyTimeoutSeconds": 60})
    scene.until_it_waits()
    began = scene.memory.awaited[101]
    assert began.unready_since is not None
    where = scene.guests[101].node
    scene.set_answers(where, False)
    assert "may be lost" in ready(scene.step(5))[2]
    assert scene.memory.awaited[101] == began


@pytest.mark.parametrize("silent", [False, True])
def test_every_clock_begins_anew_after_a_loss_of_quorum_or_of_sight(silent: bool) -> None:
    scene = Scene({"readyTimeoutSeconds": 60})
    scene.until_it_waits()
    scene.step(50)

    def attended(yes: bool) -> None:
        if silent:
            for name in ("pve2", "pve3"):
                scene.set_answers(name, yes)
        else:
            scene.quorate = yes

    attended(False)
    scene.step(60)
    attended(True)
    events = scene.step(50).events
    assert 112 not in scene.takeovers()
    assert "DependencyOverdue" not in [each.reason for each in events]
    scene.step(20)
    assert 112 in scene.takeovers()


def test_who_ran_before_quorum_was_lost_is_not_taken_to_run_on_his_old_word() -> None:
    """Found by seed 80001075: vm101 ran again, and its new node was reset with the quorum lost. When that is
    back, its node shows what it told before, and neither that nor what was seen then says that it runs."""
    scene = Scene({"delaySeconds": 20}, agent=False)
    scene.until_it_waits()
    scene.set_guest(101, status="running", uptime=3.0)
    scene.quorate = False
    scene.step(40)
    scene.quorate = True
    decision = scene.step(1)
    assert "may be what pve" in ready(decision)[2]
    assert 112 not in scene.takeovers()
    scene.set_guest(101, status="running", uptime=12.0)
    decision = scene.step(30)
    assert "it has to run for 20 s" in ready(decision)[2]
    scene.set_guest(101, status="running", uptime=21.0)
    scene.step(10)
    assert 112 in scene.takeovers()


def test_who_stopped_while_quorum_was_lost_is_waited_for_though_he_had_been_seen_to_run() -> None:
    scene = Scene({"delaySeconds": 20}, agent=False)
    scene.until_it_waits()
    scene.quorate = False
    scene.step(40)
    scene.quorate = True
    scene.set_guest(101, status="stopped")
    assert "it does not run yet" in ready(scene.step(1))[2]
    scene.step(30)
    assert 112 not in scene.takeovers()


def test_who_was_moved_by_hand_from_the_lost_node_waits_as_well() -> None:
    """Found by seed 32000727: nobody who depends on others was left on a lost node."""
    scene = Scene()
    scene.settle()
    scene.lose("pve1")
    scene.step(4)
    scene.move(112, "pve2")
    scene.set_guest(112, status="stopped")
    scene.prove("pve1")
    assert 112 not in started(scene.step())
    for _ in range(4):
        assert 112 not in started(scene.step(0.25))
    assert scene.takeovers()[112].waits


def test_the_time_of_who_cannot_be_recovered_runs_from_the_proof_for_those_that_come_later_too() -> None:
    """Found by seed 33000377: vm112 was in the middle of a migration."""
    scene = Scene({"readyTimeoutSeconds": 90})
    scene.set_config(101, storages=frozenset({"local"}))
    scene.services["vm:112"] = cluster.ServiceStatus("migrate", "pve2", "pve1")
    scene.lose_and_prove()
    assert 112 not in started(scene.step(100))
    scene.services["vm:112"] = cluster.ServiceStatus("started", "pve1")
    assert 112 in started(scene.step())


def test_who_was_restarted_by_native_ha_meanwhile_is_not_taken_to_have_run_all_the_time() -> None:
    """Found by seed 34000966: the node of vm101 was away for a while as well."""
    scene = Scene({"delaySeconds": 30}, agent=False)
    scene.move(101, "pve3")
    scene.services["vm:101"] = cluster.ServiceStatus("started", "pve3")
    scene.set_guest(101, uptime=500)
    scene.settle()
    scene.lose("pve1")
    scene.step(4)
    scene.prove("pve1")
    scene.services["vm:112"] = cluster.ServiceStatus("migrate", "pve2", "pve1")
    scene.set_guest(101, status="stopped", uptime=0)
    scene.step(1)
    scene.set_guest(101, status="running", uptime=1)
    scene.services["vm:112"] = cluster.ServiceStatus("started", "pve1")
    assert 112 not in started(scene.step())
    scene.step(0.25)
    assert scene.takeovers()[112].waits == "waits for vm101 to be ready (it has to run for 30 s)"


class MidMigration(Scene):
    """vm101 is on its way from pve1 to pve2 when pve1 is lost: its file has moved, and the cluster still
    shows what pve1 told of it."""

    def __init__(self, *, agent: bool) -> None:
        super().__init__(agent=agent)
        self.settle()
        self.services["vm:101"] = cluster.ServiceStatus("migrate", "pve1", target="pve2")
        self.step(5)
        self.move(101, "pve2")
        self.set_guest(101, uptime=500)
        self.step()
        self.lose("pve1")
        self.step(4)
        self.prove("pve1")


def test_who_is_in_mid_migration_from_a_lost_node_is_not_known_to_run_until_its_agent_answers() -> None:
    """Found by seeds 70000472 and 70000692: what was left on pve2 was paused."""
    scene = MidMigration(agent=True)
    assert started(scene.step()) == [111]
    scene.step(0.25)
    assert scene.takeovers()[112].waits == f"waits for vm101 to be ready ({SILENT})"
    scene.carry_out()
    scene.answer()
    assert started(scene.step(0.25)) == [112]


def test_without_an_agent_until_the_crm_has_it_on_the_lost_node_no_more() -> None:
    scene = MidMigration(agent=False)
    assert started(scene.step()) == [111]
    scene.step(0.25)
    unended = "its migration from pve1, which is lost, has not ended"
    assert scene.takeovers()[112].waits == f"waits for vm101 to be ready ({unended})"
    scene.carry_out()
    assert not started(scene.step(5))
    scene.services["vm:101"] = cluster.ServiceStatus("started", "pve2")
    assert started(scene.step(0.25)) == [112]


def test_who_has_arrived_before_the_loss_has_run_all_the_time() -> None:
    scene = Scene()
    scene.settle()
    scene.services["vm:101"] = cluster.ServiceStatus("migrate", "pve1", target="pve2")
    scene.move(101, "pve2")
    scene.step(5)
    scene.services["vm:101"] = cluster.ServiceStatus("started", "pve2")
    scene.step(5)
    scene.lose("pve1")
    scene.step(4)
    scene.prove("pve1")
    assert sorted(started(scene.step())) == [111, 112]
