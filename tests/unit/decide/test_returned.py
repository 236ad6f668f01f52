"""A node whose power came back after it was proven off."""

import dataclasses

from pveha.decide import evidence
from pveha.model import power
from unit.decide import moment

PVE2 = power.Switch("pve2", "bmc")


def verdict(reads: power.PowerState) -> evidence.Verdict:
    """Of pve2, which lost its power at 60 s, when it was seen to have power again 0.5 s ago."""
    at = moment.moment((60.0, "power off pve2"), until=75.0)
    reading = dataclasses.replace(at.seen.power[PVE2], state=reads, answered_at=at.seen.now)
    seen = dataclasses.replace(at.seen, power={**at.seen.power, PVE2: reading})
    node = dataclasses.replace(at.memo.node("pve2"), proof=None, returned_at=at.seen.now - 0.5)
    memo = dataclasses.replace(at.memo, nodes={**at.memo.nodes, "pve2": node})
    spec = at.wanted.cluster.spec
    return evidence.verdicts(seen, spec, memo, evidence.membership(seen, spec.detection))["pve2"]


def test_while_it_has_power_it_has_time_to_boot() -> None:
    found = verdict(power.PowerState.ON)
    assert found.state is evidence.State.DOWN
    assert found.fence_at is not None
    assert found.fence_at > 600.0


def test_off_again_it_is_fenced_at_once() -> None:
    """Found by seed 214: its guests stayed disowned and unclaimed for ten minutes."""
    found = verdict(power.PowerState.OFF)
    assert found.state is evidence.State.DOWN
    assert found.fence_at is not None
    assert found.fence_at < 75.0
