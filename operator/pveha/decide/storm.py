"""Storms: so much was lost at once that it may be no death at all, and the time after one in which nothing
is begun (design §6, docs/decisions/0015).

A storm is what a quorate majority sees beyond the blast radius, and the loss of quorum. That pveha itself
sees nothing is none. Nodes that have booted while it saw nothing tell of one afterwards.
"""

import dataclasses
from collections.abc import Mapping

from pveha.api import hacluster
from pveha.decide import evidence, guards, memory
from pveha.model import snapshot

QUORUM_LOSS_SECONDS = 3.0
"""Answers are read one after the other: the last node left of a membership may answer alone for a moment."""


def remembered(status: hacluster.HAClusterStatus) -> memory.Storm | None:
    """The storm that an earlier leader told of. Whatever its clock said, it counts as not over yet: the whole
    wait begins with the new leader's first look."""
    if status.storm is None:
        return None
    return memory.Storm(status.storm.start_time.timestamp(), status.storm.cause)


def follow(
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    members: evidence.Membership,
    verdicts: Mapping[str, evidence.Verdict],
) -> memory.Memory:
    """The memory with the storm as of this round."""
    memo = memory.changed(
        memo,
        sight_since=(memo.sight_since or seen.now) if members.reachable else None,
        traced=memo.traced and members.reachable,
        unattended_since=None if members.quorate else memo.unattended_since or seen.now,
        unquorate_since=(memo.unquorate_since or seen.now)
        if members.reachable and not members.quorate
        else None,
    )
    passing = members.split and seen.now - (memo.split_since or seen.now) < guards.SPLIT_SECONDS
    if not members.reachable or passing:
        return memo
    if not members.quorate:
        if not lacks_quorum(seen, memo):
            return memo
        total = len(verdicts)
        return _rages(memo, seen, memory.Storm(seen.wall, "no node was quorate", total, total))
    lost, allowed = guards.lost(verdicts), guards.allowed_losses(spec, len(verdicts))
    if len(lost) > allowed:
        cause = f"{len(lost)} of {len(verdicts)} nodes were lost at once ({', '.join(lost)})"
        return _rages(memo, seen, memory.Storm(seen.wall, cause, len(lost), allowed))
    if members.split:
        return memo
    return _over(_passes(_traces(memo, seen, spec, verdicts), seen, lost, allowed), seen, spec)


def lacks_quorum(seen: snapshot.Snapshot, memo: memory.Memory) -> bool:
    """Whether nodes answer, and none has been quorate for longer than a moment."""
    return _for_more_than_a_moment(memo.unquorate_since, seen)


def was_unattended(seen: snapshot.Snapshot, memo: memory.Memory) -> bool:
    """Whether no quorate node has answered for longer than a moment: nothing could be started or asked."""
    return _for_more_than_a_moment(memo.unattended_since, seen)


def _for_more_than_a_moment(since: float | None, seen: snapshot.Snapshot) -> bool:
    return since is not None and seen.now - since >= QUORUM_LOSS_SECONDS


def _rages(memo: memory.Memory, seen: snapshot.Snapshot, now: memory.Storm) -> memory.Memory:
    """The storm goes on; what it was at its worst is told."""
    before = memo.storm
    if before is None or guards.cooled_down(before, seen.now, 0.0):
        return memory.changed(memo, storm=now)
    worst = now if now.lost > before.lost else before
    storm = dataclasses.replace(worst, started=before.started, allowed=now.allowed)
    return memory.changed(memo, storm=storm)


def _passes(
    memo: memory.Memory, seen: snapshot.Snapshot, lost: tuple[str, ...], allowed: int
) -> memory.Memory:
    """It is over, unless it was none: a person who allows as many losses as there are says that they are
    true."""
    storm = memo.storm
    if storm is None or storm.ended_at is not None:
        return memo
    if storm.allowed is not None and len(lost) > storm.allowed:
        return memory.changed(memo, storm=None)
    ended = dataclasses.replace(storm, ended_at=seen.now, ended=seen.wall)
    return memory.changed(memo, storm=ended)


def _over(memo: memory.Memory, seen: snapshot.Snapshot, spec: hacluster.HAClusterSpec) -> memory.Memory:
    if memo.storm is not None and guards.cooled_down(
        memo.storm, seen.now, spec.safety.storm_cooldown_seconds
    ):
        return memory.changed(memo, storm=None)
    return memo


def _traces(
    memo: memory.Memory,
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    verdicts: Mapping[str, evidence.Verdict],
) -> memory.Memory:
    """What happened while nothing was seen, or while nobody looked: more nodes than may be lost have just
    booted."""
    if (
        memo.traced
        or seen.inventory is None
        or memo.sight_since is None
        or seen.inventory.answered_at < memo.sight_since
    ):
        return memo
    memo = memory.changed(memo, traced=True)
    boots = {
        name: seen.inventory.answered_at - node.uptime
        for name, node in seen.inventory.nodes.items()
        if name in verdicts and node.online and node.uptime
    }
    cooldown = spec.safety.storm_cooldown_seconds
    recent = sorted(name for name, at in boots.items() if seen.now - at < cooldown)
    if memo.storm is not None or len(recent) <= guards.allowed_losses(spec, len(verdicts)):
        return memo
    last = max(boots[name] for name in recent)
    ended = seen.wall - (seen.now - last)
    cause = f"{len(recent)} of {len(verdicts)} nodes have just booted ({', '.join(recent)})"
    storm = memory.Storm(ended, cause, len(recent), ended_at=last, ended=ended)
    return memory.changed(memo, storm=storm)
