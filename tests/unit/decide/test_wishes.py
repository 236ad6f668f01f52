"""Placement wishes: how they are resolved, planned, and said in HA rules of Proxmox."""

import dataclasses
from typing import Any

import pytest

from decide_scene import GIB, OWNER, Scene
from pveha.api import meta
from pveha.api.conditions import FailoverReady, PlacementReady
from pveha.decide import rounds, wishes
from pveha.model import cluster, mark, operations

FOUR = ("pve1", "pve2", "pve3", "pve4")
APART = {"name": "web", "rule": "Separate", "enforcement": "Required"}
TOGETHER = {"name": "app", "rule": "Together", "enforcement": "Required"}


def nodes(*names: str, weight: int = 0) -> dict[str, Any]:
    how = {"enforcement": "Preferred", "weight": weight} if weight else {"enforcement": "Required"}
    return {"name": f"on-{'-'.join(names)}", "nodes": list(names), **how}


def wish(scene: Scene, vmid: int, *affinity: dict[str, Any], groups: tuple[str, ...] = ()) -> None:
    scene.protected[vmid] = {
        "policyRef": {"name": "gold"},
        "placement": {"groups": list(groups), "nodeAffinity": list(affinity)},
    }


def a_scene(
    *groups: dict[str, Any], names: tuple[str, ...] = ("pve1", "pve2", "pve3"), **zones: str
) -> Scene:
    scene = Scene(names=names)
    scene.policies["gold"] = {"placement": {"groups": list(groups)}}
    for node in scene.spec["nodes"]:
        if node["name"] in zones:
            node["zone"] = zones[node["name"]]
    return scene


def rules(decided: rounds.Decision) -> list[operations.RuleEdit]:
    return [
        edit
        for operation in decided.start
        if isinstance(operation, operations.EditRules)
        for edit in operation.edits
    ]


def obey(scene: Scene) -> None:
    """Settle, and let Proxmox take every rule that pveha writes."""
    scene.step(6)
    scene.end(operations.Begin, epoch=1)
    for _ in range(16):
        edits = rules(scene.step(0.5))
        for edit in edits:
            kept = tuple(rule for rule in scene.rules if rule.name != edit.name)
            scene.rules = kept if edit.desired is None else (*kept, edit.desired)
        if edits:
            scene.end(operations.EditRules)


def ready(scene: Scene, vmid: int) -> tuple[str, str, str]:
    told = condition(scene, vmid)
    assert told is not None
    return told.status, told.reason, told.message


def condition(scene: Scene, vmid: int) -> meta.Condition | None:
    return scene.decide().report.guests[f"vm{vmid}"].condition("PlacementReady")


def target(scene: Scene, vmid: int) -> str:
    plan = scene.decide().report.guests[f"vm{vmid}"].failover_plan
    return plan.target_node if plan is not None else ""


def failover_reason(scene: Scene, vmid: int) -> str:
    told = scene.decide().report.guests[f"vm{vmid}"].condition("FailoverReady")
    assert told is not None
    return told.reason


class TestPlans:
    def test_members_are_kept_apart(self) -> None:
        scene = a_scene(APART)
        for vmid in (101, 102):
            wish(scene, vmid, groups=("web",))
        scene.set_guest(103, max_memory=60 * GIB)
        obey(scene)
        assert (target(scene, 101), target(scene, 102)) == ("pve3", "pve3")

    def test_members_of_a_hard_group_without_place_are_refused(self) -> None:
        scene = a_scene(APART)
        for vmid in (101, 102, 103):
            wish(scene, vmid, groups=("web",))
        obey(scene)
        assert failover_reason(scene, 101) == FailoverReady.PLACEMENT_FORBIDS

    def test_a_soft_group_is_placed_all_the_same(self) -> None:
        scene = a_scene({**APART, "enforcement": "Preferred"})
        for vmid in (101, 102, 103):
            wish(scene, vmid, groups=("web",))
        obey(scene)
        assert target(scene, 101) in ("pve2", "pve3")

    def test_zones(self) -> None:
        scene = a_scene({**APART, "topologyKey": "Zone"}, names=FOUR, pve1="a", pve2="a", pve3="b", pve4="b")
        for vmid in (101, 103):
            wish(scene, vmid, groups=("web",))
        obey(scene)
        assert (target(scene, 101), target(scene, 103)) == ("pve2", "pve4")

    def test_together_in_a_zone(self) -> None:
        scene = a_scene(
            {**TOGETHER, "topologyKey": "Zone"}, names=FOUR, pve1="a", pve2="b", pve3="a", pve4="b"
        )
        for vmid in (102, 104):
            wish(scene, vmid, groups=("app",))
        obey(scene)
        assert target(scene, 102) == "pve4"

    def test_weights_decide_between_nodes(self) -> None:
        scene = a_scene(names=FOUR)
        wish(scene, 101, nodes("pve2", weight=10), nodes("pve3", weight=30), nodes("pve2", "pve4", weight=15))
        obey(scene)
        assert target(scene, 101) == "pve3"
        wish(scene, 101, nodes("pve2", weight=20), nodes("pve3", weight=30), nodes("pve2", "pve4", weight=15))
        scene.rules = ()
        assert target(scene, 101) == "pve2"

    def test_a_guest_goes_only_where_it_must(self) -> None:
        scene = a_scene(names=FOUR)
        wish(scene, 101, nodes("pve1", "pve4"))
        obey(scene)
        assert target(scene, 101) == "pve4"
        wish(scene, 101, nodes("pve1"))
        scene.rules = ()
        assert failover_reason(scene, 101) == FailoverReady.PLACEMENT_FORBIDS

    def test_a_member_on_a_lost_node_holds_nobody_down(self) -> None:
        locations = {"vm:2": "pve2"}
        wished = wishes.Wishes(
            groups=(wishes.Group("p", "g", True, True, False, frozenset({"vm:1", "vm:2"})),)
        )
        assert wished.allowed("vm:1", {"pve2", "pve3"}, locations) == {"pve2"}
        assert wished.allowed("vm:1", {"pve2", "pve3"}, {}) == {"pve2", "pve3"}


class TestProblems:
    @pytest.mark.parametrize(
        ("spec", "reason", "said"),
        [
            ({"groups": ["db"]}, PlacementReady.GROUP_NOT_DEFINED, "FailoverPolicy gold has no group db"),
            ({"nodeAffinity": [nodes("pve1", "pve9")]}, PlacementReady.NODE_NOT_FOUND, "names pve9"),
            ({"nodeAffinity": [nodes("pve1"), nodes("pve2")]}, PlacementReady.IMPOSSIBLE, "leaves no node"),
        ],
    )
    def test_what_makes_no_sense_is_told(self, spec: dict[str, Any], reason: str, said: str) -> None:
        scene = a_scene(APART)
        scene.protected[101] = {"policyRef": {"name": "gold"}, "placement": spec}
        obey(scene)
        status, told, message = ready(scene, 101)
        assert (status, told) == ("False", reason)
        assert said in message
        assert not scene.rules or reason == PlacementReady.NODE_NOT_FOUND

    def test_a_group_without_policy(self) -> None:
        scene = a_scene()
        scene.protected[101] = {"placement": {"groups": ["web"]}}
        obey(scene)
        assert "has no policy" in ready(scene, 101)[2]

    def test_more_members_than_nodes_or_zones(self) -> None:
        scene = a_scene(APART, {**APART, "name": "racks", "topologyKey": "Zone"}, pve1="a")
        scene.add_guest(104, "pve1")
        for vmid in (101, 102, 103, 104):
            wish(scene, vmid, groups=("web",))
        obey(scene)
        assert "wants 4 guests on different nodes, and there are only 3" in ready(scene, 104)[2]
        for vmid in (101, 102, 103, 104):
            wish(scene, vmid, groups=("racks",))
        assert "only 2 for them (spec.nodes of the HACluster gives pve2, pve3 no zone" in ready(scene, 104)[2]

    def test_members_bound_to_too_few_nodes(self) -> None:
        scene = a_scene(APART)
        for vmid in (101, 102):
            wish(scene, vmid, nodes("pve1"), groups=("web",))
        obey(scene)
        assert ready(scene, 101)[1] == PlacementReady.IMPOSSIBLE

    def test_together_and_apart(self) -> None:
        scene = a_scene(APART, TOGETHER)
        for vmid in (101, 102):
            wish(scene, vmid, groups=("web", "app"))
        obey(scene)
        assert "wants together what group web" in ready(scene, 101)[2]

    def test_who_wishes_nothing_is_told_nothing(self) -> None:
        scene = a_scene()
        obey(scene)
        assert ready(scene, 101)[:2] == ("True", PlacementReady.NOTHING_WISHED)


class TestRules:
    def test_a_group_and_its_mark(self) -> None:
        scene = a_scene(APART)
        for vmid in (101, 102):
            wish(scene, vmid, groups=("web",))
        obey(scene)
        (rule,) = scene.rules
        assert (rule.type, rule.positive, rule.sids) == (
            cluster.RESOURCE_AFFINITY,
            False,
            frozenset({"vm:101", "vm:102"}),
        )
        assert rule.name.startswith("pveha-web-")
        assert mark.parse(rule.comment).owner == OWNER
        assert ready(scene, 101)[:2] == ("True", PlacementReady.OK)
        assert not rules(scene.step(0.5))

    def test_equal_node_affinities_share_a_rule(self) -> None:
        scene = a_scene()
        wish(scene, 101, nodes("pve1", "pve2"))
        wish(scene, 102, nodes("pve2", "pve1"))
        wish(scene, 103, nodes("pve3", weight=7), nodes("pve2", weight=3))
        obey(scene)
        found = {tuple(sorted(rule.sids)): (rule.strict, dict(rule.nodes)) for rule in scene.rules}
        assert found == {
            ("vm:101", "vm:102"): (True, {"pve1": 0, "pve2": 0}),
            ("vm:103",): (False, {"pve2": 3, "pve3": 7}),
        }

    def test_what_rules_cannot_say_is_told(self) -> None:
        scene = a_scene({**APART, "enforcement": "Preferred"}, {**TOGETHER, "topologyKey": "Zone"})
        for vmid in (101, 102):
            wish(scene, vmid, groups=("web",))
        wish(scene, 103, groups=("app",))
        obey(scene)
        assert scene.rules == ()
        assert ready(scene, 101)[:2] == ("True", PlacementReady.NOT_EXPRESSIBLE)
        assert ready(scene, 103)[:2] == ("True", PlacementReady.NOT_EXPRESSIBLE)
        scene.spec["recovery"] = {**scene.spec["recovery"], "engine": "Native"}
        assert ready(scene, 101)[0] == "True"
        assert ready(scene, 103)[0] == "False"

    def test_weights_are_flattened_in_a_group(self) -> None:
        scene = a_scene(APART)
        for vmid in (101, 102):
            wish(scene, vmid, nodes("pve1", "pve2", weight=9), nodes("pve3", weight=5), groups=("web",))
        obey(scene)
        located = next(rule for rule in scene.rules if rule.type == cluster.NODE_AFFINITY)
        assert located.nodes == {"pve1": 0, "pve2": 0}
        assert "no priorities of nodes for guests in a group" in ready(scene, 101)[2]

    def test_a_soft_wish_that_proxmox_refuses_beside_a_group_is_left_out(self) -> None:
        scene = a_scene(APART)
        for vmid in (101, 102):
            wish(scene, vmid, nodes("pve1", weight=9), groups=("web",))
        obey(scene)
        sids = {rule.type: rule.sids for rule in scene.rules}
        assert sids[cluster.RESOURCE_AFFINITY] == {"vm:101", "vm:102"}
        assert sids[cluster.NODE_AFFINITY] == {"vm:101"}
        assert "name fewer nodes than there are guests" in ready(scene, 102)[2]

    def test_guests_together_share_their_node_affinity(self) -> None:
        scene = a_scene(TOGETHER)
        wish(scene, 101, nodes("pve1", "pve2"), groups=("app",))
        wish(scene, 102, nodes("pve2", "pve3"), groups=("app",))
        obey(scene)
        located = next(rule for rule in scene.rules if rule.type == cluster.NODE_AFFINITY)
        assert (located.sids, dict(located.nodes)) == (frozenset({"vm:101", "vm:102"}), {"pve2": 0})

    @pytest.mark.parametrize(
        "foreign",
        [
            cluster.HARule("of-somebody", cluster.NODE_AFFINITY, frozenset({"vm:101"}), {"pve3": 0}),
            cluster.HARule("of-somebody", cluster.RESOURCE_AFFINITY, frozenset({"vm:101", "vm:102"})),
        ],
        ids=["second node affinity", "positive against negative"],
    )
    def test_a_foreign_rule_in_the_way_is_named_and_left(self, foreign: cluster.HARule) -> None:
        scene = a_scene(APART)
        for vmid in (101, 102):
            wish(scene, vmid, nodes("pve1", "pve2", "pve3"), groups=("web",))
        scene.rules = (foreign,)
        obey(scene)
        assert foreign in scene.rules
        status, reason, message = ready(scene, 101)
        assert (status, reason) == ("False", PlacementReady.CONFLICTING_RULE)
        assert "HA rule of-somebody, which pveha has not made" in message
        scene.rules = tuple(
            dataclasses.replace(rule, disabled=True) if rule == foreign else rule for rule in scene.rules
        )
        assert rules(scene.step(0.5))

    def test_drift_is_mended_and_the_text_of_the_comment_left(self) -> None:
        scene = a_scene(APART)
        for vmid in (101, 102):
            wish(scene, vmid, groups=("web",))
        obey(scene)
        (rule,) = scene.rules
        comment = f"look here {mark.Comment(owner=OWNER)}"
        scene.rules = (dataclasses.replace(rule, disabled=True, comment=comment),)
        (edit,) = rules(scene.step(0.5))
        assert edit.desired == dataclasses.replace(rule, comment=comment)

    def test_a_rule_without_our_mark_is_nobody_we_know(self) -> None:
        scene = a_scene(APART)
        for vmid in (101, 102):
            wish(scene, vmid, groups=("web",))
        obey(scene)
        (rule,) = scene.rules
        scene.rules = (dataclasses.replace(rule, comment="mine now"),)
        assert not rules(scene.step(0.5))
        assert ready(scene, 101)[1] == PlacementReady.CONFLICTING_RULE

    def test_guests_leave_rules_before_others_take_their_place(self) -> None:
        scene = a_scene()
        wish(scene, 101, nodes("pve1"))
        wish(scene, 102, nodes("pve2"))
        obey(scene)
        scene.protected[101], scene.protected[102] = scene.protected[102], scene.protected[101]
        edits = rules(scene.step(0.5))
        assert [edit.desired is None for edit in edits] == [True, True, False, False]

    def test_what_proxmox_declines_is_told_and_tried_again_in_a_minute(self) -> None:
        scene = a_scene(APART)
        for vmid in (101, 102):
            wish(scene, vmid, groups=("web",))
        scene.step(6)
        scene.end(operations.Begin, epoch=1)
        (edit,) = rules(scene.step(0.5))
        scene.end(operations.EditRules, error="no", declined={edit.name: "400 Rule is invalid"})
        assert ready(scene, 101)[1:] == (PlacementReady.RULE_REFUSED, "400 Rule is invalid")
        assert not any(rules(scene.step(0.5)) for _ in range(110))
        assert any(rules(scene.step(0.5)) for _ in range(22))

    @pytest.mark.parametrize(
        "why", [{"mode": "Observe"}, {"pauseRequests": ["works"]}], ids=["Observe", "paused"]
    )
    def test_nothing_is_written_while_pveha_must_not(self, why: dict[str, Any]) -> None:
        scene = a_scene(APART)
        scene.settle()
        scene.spec |= why
        for vmid in (101, 102):
            wish(scene, vmid, groups=("web",))
        assert not any(rules(scene.step(0.5)) for _ in range(10))
        assert ready(scene, 101)[0] == "Unknown"

    def test_who_runs_where_he_should_not_is_told(self) -> None:
        scene = a_scene({**APART, "topologyKey": "Zone"}, pve1="a", pve2="a", pve3="b")
        for vmid in (101, 102):
            wish(scene, vmid, groups=("web",))
        obey(scene)
        status, reason, message = ready(scene, 101)
        assert (status, reason) == ("False", PlacementReady.NOT_KEPT)
        assert "migrate it" in message

    def test_the_last_member_takes_the_rule_along(self) -> None:
        scene = a_scene(APART)
        for vmid in (101, 102):
            wish(scene, vmid, groups=("web",))
        obey(scene)
        wish(scene, 102)
        (edit,) = rules(scene.step(0.5))
        assert edit.desired is None
