"""What holds for every plan that the operator makes: clusters thrown by dice, and a judge that knows rules by
what `wishes` and `ha_rules` say of one guest, given where all others are."""

import dataclasses
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from decide_scene import GIB, Scene
from pveha.decide import eligibility, evidence, ha_rules, placement, protection, rounds, told
from pveha.model import cluster

NAMES = ("pve1", "pve2", "pve3", "pve4", "pve5")
HOST = 8
"""GiB of 64 that hosts use in a scene."""
GROUPS = (("apart", "Separate", "Node"), ("racks", "Separate", "Zone"), ("pair", "Together", "Node"))

dice_ = st.randoms(use_true_random=True)


def a_scene(dice: random.Random, names: tuple[str, ...]) -> Scene:
    """Guests that fill about four fifths of the nodes, with wishes and rules."""
    scene = Scene(names=names)
    for node in scene.spec["nodes"]:
        if dice.random() < 0.7:
            node["zone"] = dice.choice("ab")
    scene.policies["gold"] = {
        "placement": {
            "groups": [
                {"name": name, "rule": rule, "topologyKey": key, "enforcement": dice.choice(HOW)}
                for name, rule, key in GROUPS
            ]
        }
    }
    for vmid in range(110, 110 + dice.randint(2, 14)):
        scene.add_guest(vmid, dice.choice(names))
    for vmid in scene.guests:
        size = dice.choice([4, 8, 16, 24]) * GIB
        scene.set_guest(vmid, max_memory=size)
        local = dice.random() < 0.05
        scene.set_config(vmid, memory_bytes=size, storages=frozenset({"local" if local else "shared"}))
        scene.protected[vmid] = {
            "policyRef": {"name": "gold"},
            "priority": dice.choice([0, 0, 100, 200]),
            "placement": {
                "groups": [name for name, *_ in GROUPS if dice.random() < 0.15],
                "nodeAffinity": [an_affinity(dice, names)] if dice.random() < 0.2 else [],
            },
        }
    for name in names:
        if dice.random() < 0.1:
            scene.storages_offline.add((name, "shared"))
        if dice.random() < 0.2:
            scene.nodes[name].lrm_state = "wait_for_agent_lock"
    sids = sorted(scene.resources)
    if dice.random() < 0.4:
        chosen = frozenset(dice.sample(sids, 2))
        scene.rules = (
            cluster.HARule("theirs", cluster.RESOURCE_AFFINITY, chosen, positive=dice.random() < 0.5),
        )
    elif dice.random() < 0.5:
        nodes = {name: dice.choice([1, 1, 2]) for name in dice.sample(names, 2)}
        chosen = frozenset(dice.sample(sids, 2))
        scene.rules = (
            cluster.HARule("theirs", cluster.NODE_AFFINITY, chosen, nodes, strict=dice.random() < 0.7),
        )
    return scene.settle()


HOW = ("Required", "Required", "Preferred")
RESERVE = 512 << 20
"""The default of spec.capacity.memoryReserveMebibytes."""


def an_affinity(dice: random.Random, names: tuple[str, ...]) -> dict[str, object]:
    chosen = dice.sample(names, dice.randint(1, len(names) - 1))
    how: dict[str, object] = {"enforcement": "Required"}
    if dice.random() < 0.5:
        how = {"enforcement": "Preferred", "weight": 50}
    return {"name": "nodes", "nodes": chosen, **how}


@dataclasses.dataclass(frozen=True)
class Planned:
    """A plan for one node, with what is needed to judge it."""

    now: told.Round
    down: str
    wanted: list[protection.Protected]
    plan: placement.Plan

    @property
    def harm(self) -> list[int]:
        """Priorities of those that are left, to be compared."""
        return sorted(each.pvm.spec.priority for each in self.wanted if each.vmid in self.plan.refusals)[::-1]

    def violations(self, targets: dict[int, str]) -> list[str]:
        """What is wrong with these targets."""
        now = self.now
        inventory = now.seen.inventory
        assert inventory is not None
        locations = {
            guest.ref.sid: guest.node for guest in inventory.guests.values() if guest.node != self.down
        }
        chosen = {each.sid: targets[each.vmid] for each in self.wanted if each.vmid in targets}
        found = []
        for each in self.wanted:
            if each.vmid not in targets:
                continue
            target = targets[each.vmid]
            others = {sid: where for sid, where in {**locations, **chosen}.items() if sid != each.sid}
            if target == self.down or now.verdicts[target].state is not evidence.State.ONLINE:
                found.append(f"{each.sid} goes to {target}, which is away")
            assert each.config is not None
            place = now.judge.place(target)
            found += [refusal.message for refusal in eligibility.eligibility(each.config, place)]
            if not now.protected.wished.allowed(each.sid, {target}, others):
                found.append(f"{each.sid} on {target} is against its wishes")
            rules = [
                dataclasses.replace(rule, nodes=dict.fromkeys(rule.nodes, 1)) for rule in now.seen.ha_rules
            ]
            if not ha_rules.allowed_nodes(each.sid, frozenset({target}), rules, others):
                found.append(f"{each.sid} on {target} is against the HA rules")
        for name, node in inventory.nodes.items():
            need = sum(each.memory for each in self.wanted if targets.get(each.vmid) == name)
            if need > (node.max_memory or 0) - (node.used_memory or 0) - RESERVE:
                found.append(f"{name} has no room for {need // GIB} GiB")
        return found


def planned(scene: Scene, down: str, dice: random.Random | None = None) -> Planned:
    now = rounds.understand(scene.snapshot(), scene.specs(), scene.memory)
    wanted = [guest for guest in now.protected.guests.values() if guest.seen.node == down]
    if dice is not None:
        dice.shuffle(wanted)
    return Planned(now, down, wanted, placement.plan(now, {down}, wanted))


@given(dice_)
@settings(max_examples=150, deadline=None)
def test_no_plan_breaks_a_hard_rule_and_nobody_is_down_for_a_lower_priority(dice: random.Random) -> None:
    names = NAMES[: dice.randint(2, 5)]
    scene = a_scene(dice, names)
    made = planned(scene, dice.choice(names))
    targets = dict(made.plan.targets)
    assert made.violations(targets) == []
    assert targets.keys() | made.plan.refusals.keys() == {each.vmid for each in made.wanted}
    priority = {each.vmid: each.pvm.spec.priority for each in made.wanted}
    for vmid in made.plan.refusals:
        above = {other: where for other, where in targets.items() if priority[other] >= priority[vmid]}
        for name in set(names) - {made.down}:
            assert made.violations({**above, vmid: name}), f"{vmid} could run on {name}"


@given(dice_)
@settings(max_examples=75, deadline=None)
def test_equal_clusters_get_equal_plans_for_one_node_and_for_all(dice: random.Random) -> None:
    names = NAMES[: dice.randint(2, 5)]
    scene = a_scene(dice, names)
    for name in names:
        one, other = planned(scene, name), planned(scene, name, dice)
        assert one.plan == other.plan
        asked = placement.ask_each(one.now, one.now.protected.guests.values())
        each = placement.plan_each(asked).get(name, placement.Plan({}, {}))
        assert each == one.plan


@given(dice_)
@settings(max_examples=75, deadline=None)
def test_another_node_never_leaves_more_down(dice: random.Random) -> None:
    names = NAMES[: dice.randint(2, 4)]
    scene = a_scene(dice, names)
    scene.nodes["pve2"].lrm_mode = "maintenance"
    before = planned(scene, "pve1")
    scene.nodes["pve2"].lrm_mode = "active"
    after = planned(scene, "pve1")
    assert after.harm <= before.harm
