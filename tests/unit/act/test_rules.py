"""Changes of HA rules: each compared with what was seen, one after the other."""

import dataclasses
from typing import Any, cast

from pveha.act import context, rules, turns
from pveha.model import cluster, errors, operations, ports
from pveha.sim import clock

APART = cluster.HARule(
    "pveha-web", cluster.RESOURCE_AFFINITY, frozenset({"vm:1", "vm:2"}), positive=False, comment="ours"
)
HOME = cluster.HARule("pveha-nodes", cluster.NODE_AFFINITY, frozenset({"vm:3"}), {"pve1": 0})


class Proxmox:
    """HA rules, and the lease."""

    def __init__(self, *present: cluster.HARule, lease: float = 60.0) -> None:
        self.rules = {rule.name: rule for rule in present}
        self.lease = lease
        self.digest = 1
        self.raises: dict[str, errors.OutsideError] = {}
        self.others_write = 0
        """How many more reads somebody else writes right after."""
        self.calls: list[str] = []

    def remaining(self) -> float:
        return self.lease

    async def ha_rules(self) -> cluster.HARuleConfig:
        found = cluster.HARuleConfig(dict(self.rules), str(self.digest), 0.0)
        if self.others_write:
            self.others_write -= 1
            self.digest += 1
        return found

    async def create_ha_rule(self, rule: cluster.HARule) -> None:
        self._write("create", rule.name)
        self.rules[rule.name] = rule

    async def update_ha_rule(self, rule: cluster.HARule, digest: str | None) -> None:
        if digest != str(self.digest):
            raise errors.Conflict("file changed by other user")
        self._write("update", rule.name)
        self.rules[rule.name] = rule

    async def delete_ha_rule(self, name: str) -> None:
        self._write("delete", name)
        del self.rules[name]

    def _write(self, verb: str, name: str) -> None:
        if name in self.raises:
            raise self.raises[name]
        self.calls.append(f"{verb} {name}")
        self.digest += 1


def edit(on: Proxmox, *edits: tuple[cluster.HARule | None, cluster.HARule | None]) -> operations.Outcome:
    changes = tuple(
        operations.RuleEdit((old or cast(cluster.HARule, new)).name, old, new, "") for old, new in edits
    )

    async def run() -> operations.Outcome:
        outside: Any = on
        leadership = cast(ports.Leadership, on)
        with_ = context.Context(outside, None, None, leadership, turns.Turns(1), lambda text: None)
        return await rules.edit(operations.EditRules("rules.1", changes), with_)

    return clock.run(run())


def test_rules_are_made_changed_and_removed() -> None:
    on = Proxmox(HOME)
    wider = dataclasses.replace(APART, sids=APART.sids | {"vm:4"})
    outcome = edit(on, (None, APART), (APART, wider), (HOME, None))
    assert outcome.error == ""
    assert on.calls == ["create pveha-web", "update pveha-web", "delete pveha-nodes"]
    assert on.rules == {"pveha-web": wider}


def test_what_is_so_already_is_not_written() -> None:
    on = Proxmox(APART)
    assert edit(on, (None, APART), (HOME, None)).error == ""
    assert on.calls == []


def test_what_somebody_has_changed_meanwhile_is_left_without_blame() -> None:
    on = Proxmox(dataclasses.replace(APART, comment="his"))
    outcome = edit(on, (APART, None), (None, HOME))
    assert "was changed by somebody else" in outcome.error
    assert outcome.declined == {}
    assert on.calls == ["create pveha-nodes"]


def test_a_write_between_ours_is_no_obstacle() -> None:
    on = Proxmox(APART)
    on.others_write = 2
    assert edit(on, (APART, dataclasses.replace(APART, positive=True))).error == ""
    on.others_write = 3
    assert edit(on, (dataclasses.replace(APART, positive=True), APART)).error


def test_what_proxmox_declines_is_told_and_the_rest_done() -> None:
    on = Proxmox()
    on.raises["pveha-web"] = errors.Refused("400 Rule is invalid")
    assert edit(on, (None, APART), (None, HOME)).declined == {"pveha-web": "400 Rule is invalid"}
    assert on.calls == ["create pveha-nodes"]


def test_without_quorum_nothing_further_is_tried() -> None:
    on = Proxmox()
    on.raises["pveha-web"] = errors.NoQuorum("no quorum!")
    outcome = edit(on, (None, APART), (None, HOME))
    assert (outcome.error, outcome.declined, on.calls) == ("no quorum!", {}, [])


def test_a_lease_that_ends_too_soon_writes_nothing() -> None:
    on = Proxmox(lease=5.0)
    try:
        edit(on, (None, APART))
    except errors.NotLeader:
        assert on.calls == []
    else:
        raise AssertionError("a rule was written with 5 s of the lease left")
