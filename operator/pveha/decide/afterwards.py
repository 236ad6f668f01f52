"""What becomes of a fenced node once nothing of its guests is left to do (`fencing.afterwards`)."""

from collections.abc import Mapping

from pveha.api import fencing, hacluster
from pveha.api.conditions import FailoverReady
from pveha.decide import evidence, failover, guards, levels, losses, memory, outcomes, preemption, recall
from pveha.model import mark, operations, snapshot

UNDER_WAY = frozenset({FailoverReady.NATIVE_AHEAD, FailoverReady.BUSY})
"""Refusals of guests that somebody else is recovering from the node at this moment."""


def power_on(
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
    recoveries: Mapping[str, failover.Recovery],
    allowed: guards.Permission,
) -> list[operations.Operation]:
    """Switch one fenced node on again, while nothing else is done and nothing is left to be done.

    It finds none of the guests that were recovered: their configurations are elsewhere, and no HA resource
    carries a mark any more. What could not go anywhere else is still with it, and comes back with it.
    """
    wanted = spec.fencing.afterwards
    if (
        wanted.action is not fencing.Afterwards.POWER_ON
        or not allowed.begin
        or memo.epoch is None
        or any(state.outcome is None for state in seen.operations)
        or not recall.is_current(seen, memo)
        or seen.ha_config is None
        or any(mark.parse(each.comment).mark is not None for each in seen.ha_config.resources.values())
        or preemption.going_on(seen)
    ):
        return []
    for name, verdict in verdicts.items():
        remembered, recovery = memo.node(name), recoveries.get(name)
        if recovery is None:
            continue
        methods, since = _switched_off(name, verdict, remembered, seen, spec)
        if (
            methods
            and seen.now - since >= wanted.after_seconds
            and seen.now >= remembered.may_land_until
            and seen.now >= remembered.power_on_again_at
            and not remembered.voided
            and not recovery.pending
            and not any(refusal.reason in UNDER_WAY for refusal in recovery.refusals.values())
            and not _native_works(name, seen)
        ):
            return [operations.PowerOn(f"on.{remembered.failure}.{int(seen.wall)}", name, methods)]
    return []


def _switched_off(
    name: str,
    verdict: evidence.Verdict,
    remembered: memory.NodeMemory,
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
) -> tuple[tuple[operations.Method, ...], float]:
    """By which methods pveha has switched a node off, and since when it is: with proof, or in a fence that
    was given up (the quorum was lost, say), if it never had power again. No methods: it has not."""
    proof = remembered.proof
    if verdict.state is evidence.State.FENCED and proof is not None:
        return tuple(each for each in proof.methods if not each.manual), proof.first_off_at
    if not (verdict.lost and verdict.reads_off):
        return (), 0.0
    commanded = {
        name: each.commanded_at for name, each in remembered.methods.items() if each.commanded_at is not None
    }
    told_at = max([*commanded.values(), remembered.may_land_until - outcomes.MAY_LAND_SECONDS])
    known = [each for level in levels.levels(seen, spec, name, remembered) for each in level.methods]
    used = tuple(each for each in known if each.switch.method in commanded)
    read_on = max((remembered.method(each.switch.method).on_read_at for each in used), default=0.0)
    since = max([told_at, *(each.off_since for each in used if each.off_since is not None)])
    return (used if read_on <= told_at + outcomes.MAY_LAND_SECONDS else ()), since


def _native_works(name: str, seen: snapshot.Snapshot) -> bool:
    """Whether native HA is recovering anything from the node."""
    services = seen.ha_status.services.values() if seen.ha_status is not None else ()
    return any(each.node == name and each.state in losses.NATIVE_AHEAD for each in services)
