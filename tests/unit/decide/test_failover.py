"""Who is taken over, where to, and what keeps pveha from it (S7, S11-S18, guards)."""

import dataclasses
from typing import Any

import pytest

from decide_scene import GIB, OFF, ON, Scene, condition, kinds
from pveha.decide import recall, rounds
from pveha.model import cluster, node, operations, replication


def lost(scene: Scene) -> rounds.Decision:
    """pve2 is lost and proven off; the round after the proof."""
    scene.lose("pve2")
    decision = scene.step()
    if kinds(decision) != ["Fence"]:
        return decision
    scene.step(4)
    scene.prove("pve2")
    return scene.step(0.1)


def takeovers(decision: rounds.Decision) -> list[operations.Takeover]:
    return [operation for operation in decision.start if isinstance(operation, operations.Takeover)]


def test_a_lost_nodes_guest_is_taken_over_to_the_node_it_was_planned_for() -> None:
    scene = Scene().settle()
    planned = scene.step().report.guests["vm102"].failover_plan
    (takeover,) = takeovers(lost(scene))
    assert planned is not None
    assert takeover.target in {"pve1", "pve3"}
    assert (takeover.dead, takeover.epoch, takeover.survivors) == ("pve2", 2, ("pve1", "pve3"))
    assert [each.identities for each in takeover.proven_by] == [{"uuid-pve2"}]
    (item,) = takeover.items
    assert (item.ref.vmid, item.was, item.claimed) == (102, cluster.HAState.STARTED, False)


def test_what_was_read_before_quorum_returned_is_not_acted_on() -> None:
    scene = Scene().settle()
    scene.quorate = False
    scene.step(2)
    before = scene.snapshot()
    scene.quorate = True
    scene.step(0.1)
    assert not recall.is_current(before, scene.memory)
    scene.step(2)
    assert not recall.is_current(before, scene.memory)
    assert recall.is_current(scene.snapshot(), scene.memory)


def test_what_was_read_while_two_nodes_were_quorate_without_each_other_is_not_acted_on() -> None:
    scene = Scene(names=("pve1", "pve2", "pve3", "pve4")).settle()
    views = {name: dict.fromkeys(scene.nodes, True) for name in ("pve1", "pve2")}
    views["pve1"]["pve2"] = views["pve2"]["pve1"] = False
    scene.views = views
    scene.step(2)
    scene.step(2)
    assert not recall.is_current(scene.snapshot(), scene.memory)
    scene.now += 4
    before = scene.snapshot()
    scene.views = {}
    scene.step(0.1)
    assert not recall.is_current(before, scene.memory)
    scene.step(2)
    assert not recall.is_current(before, scene.memory)
    assert recall.is_current(scene.snapshot(), scene.memory)


def test_a_node_that_one_other_does_not_see_yet_makes_nothing_old() -> None:
    """One is asked after the other: a node that has just joined sees those whose answer is of before."""
    scene = Scene().settle()
    scene.views["pve1"] = {"pve1": True, "pve2": False, "pve3": True}
    decision = scene.step(1)
    assert condition(decision.report.cluster, "Quorate") == ("False", "SplitView")
    assert recall.is_current(scene.snapshot(), scene.memory)


CASES: list[tuple[dict[str, Any], str]] = [
    ({"resource": {"state": cluster.HAState.DISABLED}}, "Disabled"),
    ({"resource": {"state": cluster.HAState.IGNORED}}, "UserIgnored"),
    ({"service": "error"}, "HAStateError"),
    ({"guest": {"lock": "rollback"}}, "LockNotClearable"),
    ({"config": {"lock": "clone"}}, "LockNotClearable"),
    ({"config": {"lock": "create"}}, "LockNotClearable"),
    ({"config": {"storages": frozenset({"local"})}}, "LocalDiskOnly"),
    ({"config": {"local_devices": frozenset({"hostpci0"})}}, "LocalResources"),
    ({"config": {"memory_bytes": 100 * GIB}}, "NoCapacity"),
    ({"resource": {"comment": "x" * 4000}}, "CommentTooLong"),
    ({"replicated": True}, "HasReplication"),
    ({"policy": {"nodeFailure": {"action": "Native"}}}, "NativeOnly"),
    ({"rule": cluster.HARule("r", "of-the-future", frozenset({"vm:102"}))}, "NativeRuleForbids"),
]


def prepared(case: dict[str, Any]) -> Scene:
    scene = Scene()
    if "resource" in case:
        scene.set_resource("vm:102", **case["resource"])
    if "service" in case:
        scene.services["vm:102"] = cluster.ServiceStatus(case["service"], "pve2")
    if "guest" in case:
        scene.set_guest(102, **case["guest"])
    if "config" in case:
        scene.set_config(102, **case["config"])
    if "replicated" in case:
        scene.replication = replication.Replication({102: (replication.Job("102-0", 102, "pve1"),)})
    if "policy" in case:
        scene.policies["p"] = case["policy"]
        scene.protected[102] = {"policyRef": {"name": "p"}}
    if "rule" in case:
        scene.rules = (case["rule"],)
    return scene.settle()


@pytest.mark.parametrize(("case", "reason"), CASES, ids=[reason for _, reason in CASES])
def test_what_is_not_taken_over_is_known_before_and_told_after(case: dict[str, Any], reason: str) -> None:
    scene = prepared(case)
    assert condition(scene.step().report.guests["vm102"], "FailoverReady") == ("False", reason)
    scene.lose("pve2")
    told = [event for _ in range(6) for event in scene.step(0.1).events if event.name == "vm102"]
    assert [event.reason for event in told] == ["NotTakenOver"]
    assert [kinds(scene.step(0.5)) for _ in range(20)] == [[]] * 20


def test_a_template_is_never_touched() -> None:
    scene = Scene()
    scene.set_guest(102, template=True)
    scene.settle()
    assert condition(scene.step().report.guests["vm102"], "Ready") == ("False", "IsTemplate")
    assert takeovers(lost(scene)) == []


@pytest.mark.parametrize("state", ["migrate", "relocate", "request_stop"])
def test_guests_that_a_live_lrm_works_on_are_left_to_it(state: str) -> None:
    scene = Scene().settle()
    scene.services["vm:102"] = cluster.ServiceStatus(state, "pve1", "pve2")
    assert takeovers(lost(scene)) == []


def test_a_migration_away_from_the_lost_node_is_taken_over_once_its_other_end_has_told_its_processes() -> (
    None
):
    scene = Scene().settle()
    scene.services["vm:102"] = cluster.ServiceStatus("migrate", "pve2", "pve3")
    scene.set_guest(102, lock="migrate")
    (takeover,) = takeovers(lost(scene))
    assert takeover.items[0].lock == "migrate"
    assert takeover.items[0].last_seen == {"pve3"}


def test_the_mark_of_a_stopped_guest_remembers_that() -> None:
    scene = Scene()
    scene.add_guest(110, "pve2", "stopped")
    scene.settle()
    items = {item.ref.vmid: item.was for each in takeovers(lost(scene)) for item in each.items}
    assert items == {102: cluster.HAState.STARTED, 110: cluster.HAState.STOPPED}


@pytest.mark.parametrize(
    ("change", "possible"),
    [
        ({"lrm_lives": False}, False),
        ({"lrm_mode": "maintenance"}, False),
        ({"answers": False}, False),
        ({"lrm_state": "wait_for_agent_lock"}, True),
    ],
)
def test_targets_answer_and_have_a_live_lrm(change: dict[str, Any], possible: bool) -> None:
    scene = Scene().settle()
    for name, value in change.items():
        setattr(scene.nodes["pve1"], name, value)
    if change.get("answers") is False:
        scene.set_answers("pve1", False)
    scene.step(60)
    scene.nodes["pve3"].lrm_mode = "maintenance"
    plan = scene.step(1).report.guests["vm102"].failover_plan
    assert (plan is not None and plan.target_node == "pve1") is possible


def test_a_target_with_an_active_lrm_is_preferred() -> None:
    scene = Scene().settle()
    scene.nodes["pve1"].lrm_state = "wait_for_agent_lock"
    (takeover,) = takeovers(lost(scene))
    assert takeover.target == "pve3"


def test_a_node_that_has_just_come_back_is_no_target() -> None:
    scene = Scene().settle()
    scene.nodes["pve1"].booted_at = scene.now
    scene.lose("pve1", bmc=ON)
    scene.nodes["pve1"].lrm_mode = "restart"
    scene.step(2)
    scene.nodes["pve1"].online = True
    scene.nodes["pve1"].lrm_mode = "active"
    scene.nodes["pve1"].lrm_lives = True
    scene.set_answers("pve1", True)
    scene.nodes["pve3"].lrm_mode = "maintenance"
    for restarted in (False, True):
        if restarted:
            scene.restart()
            scene.step(6)
            scene.end(operations.Begin, epoch=2)
        assert scene.step(10).report.guests["vm102"].failover_plan is None
    plan = scene.step(130).report.guests["vm102"].failover_plan
    assert plan is not None
    assert plan.target_node == "pve1"


def test_an_lrm_that_stood_still_before_our_start_is_no_target_after_it() -> None:
    scene = Scene().settle()
    scene.nodes["pve1"].lrm_lives = False
    scene.nodes["pve3"].lrm_mode = "maintenance"
    scene.step(60)
    scene.restart()
    assert scene.step(10).report.guests["vm102"].failover_plan is None


def test_native_rules_decide_where_a_guest_may_go() -> None:
    scene = Scene().settle()
    scene.rules = (
        cluster.HARule("a", "resource-affinity", frozenset({"vm:102", "vm:101"}), positive=False),
        cluster.HARule("b", "node-affinity", frozenset({"vm:102"}), {"pve1": 2, "pve3": 1}),
    )
    assert condition(scene.step().report.guests["vm102"], "FailoverReady")[1] in ("OK", "NativeRuleForbids")
    scene.rules = scene.rules[:1]
    (takeover,) = takeovers(lost(scene))
    assert takeover.target == "pve3"


def test_only_so_many_guests_are_taken_over_at_once_and_the_important_ones_first() -> None:
    scene = Scene({"safety": {"maxConcurrentTakeovers": 2}})
    for vmid, priority in ((110, 1), (111, 900), (112, 500)):
        scene.add_guest(vmid, "pve2")
        scene.protected[vmid] = {"priority": priority}
    scene.settle()
    first = [item.ref.vmid for each in takeovers(lost(scene)) for item in each.items]
    assert sorted(first) == [111, 112]
    assert takeovers(scene.step(0.1)) == []


def test_a_delay_of_the_policy_counts_from_the_proof() -> None:
    scene = Scene()
    scene.policies["later"] = {"nodeFailure": {"delaySeconds": 10}}
    scene.protected[102] = {"policyRef": {"name": "later"}}
    scene.settle()
    assert takeovers(lost(scene)) == []
    assert [len(takeovers(scene.step(0.5))) for _ in range(21)] == [0] * 19 + [1, 0]


def test_a_stale_epoch_is_no_failed_attempt_and_a_new_one_is_opened() -> None:
    scene = Scene().settle()
    (takeover,) = takeovers(lost(scene))
    result = operations.GuestResult(takeover.items[0].ref, "StaleEpoch")
    scene.now += 0.2
    scene.end(operations.Takeover, guests=(result,))
    assert kinds(scene.step(0.1)) == ["Begin"]
    scene.end(operations.Begin, epoch=7)
    (again,) = takeovers(scene.step(0.1))
    assert again.epoch == 7


def test_a_guest_that_fails_three_times_is_left_to_native_ha() -> None:
    scene = Scene().settle()
    decision = lost(scene)
    attempts = 0
    for _ in range(200):
        for takeover in takeovers(decision):
            attempts += 1
            result = operations.GuestResult(takeover.items[0].ref, "TooSlow", "slow")
            scene.end(operations.Takeover, guests=(result,))
        decision = scene.step(0.5)
    assert attempts == 3


@pytest.mark.parametrize(("silent_before", "expected"), [(0.0, ["Fence"]), (70.0, [])])
def test_a_later_leader_asks_how_long_the_crm_was_silent_when_the_node_was_lost_not_when_it_came(
    silent_before: float, expected: list[str]
) -> None:
    """The CRM ran on the node that is lost. A minute later another leader comes."""
    scene = Scene().settle()
    scene.crm_lives = False
    scene.step(silent_before)
    scene.lose("pve1")
    scene.step(1)
    scene.now += 60
    scene.restart()
    scene.step(0.5)
    scene.end(operations.Begin, epoch=2)
    assert [kind for _ in range(20) for kind in kinds(scene.step(0.5))] == expected


def test_two_nodes_are_fenced_one_after_the_other_and_claims_wait_for_the_new_epoch() -> None:
    names = tuple(f"pve{number}" for number in range(1, 8))
    scene = Scene({"safety": {"maxFailedNodesPercent": 34}}, names=names).settle()
    scene.lose("pve2")
    scene.lose("pve3")
    started = [kind for _ in range(20) for kind in kinds(scene.step(0.1))]
    assert started == ["Fence"]
    scene.step(2)
    first = scene.operations[0].operation
    assert isinstance(first, operations.Fence)
    scene.memory = dataclasses.replace(scene.memory)
    proof = operations.Proof(first.node, scene.now - 40, scene.now)
    scene.end(operations.Fence, epoch=2, proof=proof)
    assert kinds(scene.step(0.1)) == ["Fence"]
    assert kinds(scene.step(0.1)) == []


@pytest.mark.parametrize(
    ("nodes", "percent", "lost_nodes", "acts"),
    [
        (3, 34, 1, True),
        (3, 1, 1, True),
        (5, 39, 2, False),
        (5, 40, 2, True),
        (7, 34, 2, True),
        (7, 34, 3, False),
    ],
)
def test_the_blast_radius_is_rounded_down_but_lets_one_node_be_lost(
    nodes: int, percent: int, lost_nodes: int, acts: bool
) -> None:
    names = tuple(f"pve{number}" for number in range(1, nodes + 1))
    scene = Scene({"safety": {"maxFailedNodesPercent": percent}}, names=names).settle()
    for name in names[-lost_nodes:]:
        scene.lose(name)
    started = [kind for _ in range(4) for kind in kinds(scene.step(0.1))]
    assert started == (["Fence"] if acts else [])
    assert condition(scene.step().report.cluster, "Acting")[1] == ("OK" if acts else "BlastRadius")


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"mode": "Observe"}, "Observe"), ({"pauseRequests": ["works"]}, "Paused")],
)
def test_nothing_is_begun_when_that_is_not_wanted_and_users_are_told_what_would_be(
    change: dict[str, Any], reason: str
) -> None:
    scene = Scene().settle()
    scene.spec.update(change)
    scene.lose("pve2")
    events = {event.reason for _ in range(6) for event in scene.step(0.5).events}
    assert scene.operations == []
    assert ("WouldRecover" if reason == "Observe" else "NotActing") in events
    assert condition(scene.step().report.cluster, "Acting") == ("False", reason)


def test_without_the_lease_everything_in_flight_is_cancelled() -> None:
    scene = Scene().settle()
    (takeover,) = takeovers(lost(scene))
    scene.lease = 0.0
    decision = scene.step(0.1)
    assert decision.cancel == (takeover.id,)
    assert decision.start == ()


def test_another_owner_stops_us_until_a_person_names_it_or_it_gives_way() -> None:
    scene = Scene()
    scene.step(6)
    scene.end(operations.Begin, error="owned", owner="uid/other/dc1")
    decision = scene.step(0.1)
    assert condition(decision.report.cluster, "Owned") == ("False", "AnotherOperator")
    assert condition(decision.report.cluster, "Acting") == ("False", "NotOwned")
    scene.annotations["pveha.dev/take-over"] = "uid/other/dc1"
    begins = [op for _ in range(20) for op in scene.step(0.5).start if isinstance(op, operations.Begin)]
    assert [begin.take_over for begin in begins] == ["uid/other/dc1"]
    scene.end(operations.Begin, epoch=9)
    assert condition(scene.step(1).report.cluster, "Owned") == ("True", "OK")


def test_a_reused_vmid_is_another_guest() -> None:
    scene = Scene().settle()
    scene.set_config(102, identity="id-of-somebody-else")
    assert condition(scene.step().report.guests["vm102"], "Ready") == ("False", "GuestReplaced")
    assert takeovers(lost(scene)) == []


def test_votes_with_a_qdevice_are_safe() -> None:
    scene = Scene()
    for each in scene.nodes.values():
        each.votes = node.Votes({"pve1": 1, "pve2": 1, "pve3": 1}, 1, 4, 4, frozenset())
    scene.settle()
    assert condition(scene.step().report.cluster, "FastReady") == ("True", "OK")


@pytest.mark.parametrize(("total", "reason"), [(4, "None"), (3, "QDeviceSilent")])
def test_a_qdevice_that_gives_no_vote_degrades(total: int, reason: str) -> None:
    scene = Scene()
    for each in scene.nodes.values():
        each.votes = node.Votes({"pve1": 1, "pve2": 1, "pve3": 1}, 1, 4, total, frozenset())
    scene.settle()
    decision = scene.step()
    assert condition(decision.report.cluster, "Degraded")[1] == reason
    assert condition(decision.report.cluster, "FastReady") == ("True", "OK")


def test_a_node_without_bmc_is_never_fenced() -> None:
    scene = Scene()
    scene.spec["nodes"][1]["fencing"] = []
    scene.nodes["pve2"].bmc = None
    scene.settle()
    assert condition(scene.step().report.guests["vm102"], "FailoverReady") == ("False", "FencingUnverified")
    scene.lose("pve2", bmc=OFF)
    assert [kinds(scene.step(0.5)) for _ in range(80)] == [[]] * 80
