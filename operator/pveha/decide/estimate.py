"""How long a guest would be down if its node died now: learned from its last failover, else calculated."""

from pveha.api import hacluster
from pveha.decide import levels, protection, told

PROOF_SECONDS = 2.0
"""From corosync's word to the proof: the BMC already reads off, or is switched off and read twice."""
START_SECONDS = 1.5
"""Disown, claim and start of one guest (facts: 65 ms, 5 ms, about 1 s)."""
ROUND_SECONDS = 5
"""Estimates are rounded up to multiples of this, so that they do not change all the time."""
UNKNOWN_LOSS_SECONDS = 6.6
"""With corosync's defaults on three nodes, as measured; where no node tells its timeouts."""


def proof_seconds(now: told.Round) -> float:
    """From a node's death until it is proven off."""
    totems = [shell.totem for shell in now.seen.shells.values() if shell.totem is not None]
    remaining = max(1, len(now.members.nodes) - 1)
    loss = max((totem.loss_seconds(remaining) for totem in totems), default=UNKNOWN_LOSS_SECONDS)
    return loss + PROOF_SECONDS


def learned_seconds(guest: protection.Protected) -> float | None:
    """For how long it was down in its last failover, if pveha ended that."""
    last = guest.pvm.status.last_failover
    if last is None or last.downtime_seconds is None or last.engine is not hacluster.Engine.FAST:
        return None
    return float(last.downtime_seconds)


def needs_a_person(name: str, now: told.Round) -> bool:
    """Whether nothing but somebody's word would prove the node's death."""
    found = [methods for _, methods in now.spec.levels(name)]
    provable = [each for each in found if levels.provable(each, now.memo.node(name))]
    return bool(provable) and all(levels.by_a_person(each) for each in provable)


def rounded(seconds: float) -> int:
    """Whole seconds as they are told."""
    return -int(-seconds // ROUND_SECONDS) * ROUND_SECONDS
