"""Quarantine of nodes that are lost and return again and again: guests are not started on them for a while.

All times are Unix times, because they outlive the operator in the status. In everything else a quarantined
node is as any other: it is a member, witnesses, and is fenced when it dies.
"""

import dataclasses
import datetime
from collections.abc import Mapping

from pveha.api import hacluster
from pveha.decide import evidence, memory
from pveha.model import snapshot

WINDOW_SECONDS = 3600.0
"""Returns are counted within an hour."""
MOST_PERCENT = 25
"""Of the nodes, rounded down but at least one: quarantine must not use up the room that failover needs."""
KEPT_RETURNS = 24
"""More are not remembered; a node may return 20 times at most before it is quarantined."""


def remembered(status: hacluster.HAClusterStatus) -> dict[str, memory.NodeMemory]:
    """What earlier leaders have told of nodes: their flaps, and which were lost when they last looked."""
    nodes = {
        node.name: memory.NodeMemory(
            returns=tuple(sorted(at.timestamp() for at in node.returns)),
            quarantined_until=node.quarantined_until.timestamp() if node.quarantined_until else None,
        )
        for node in status.flapping
    }
    for shown in status.not_online:
        if shown.state in evidence.LOST:
            nodes[shown.name] = dataclasses.replace(nodes.get(shown.name, memory.NodeMemory()), away=True)
    return nodes


def follow(
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
    end: frozenset[str],
) -> memory.Memory:
    """The memory with flaps and quarantines as of this round; `end` names nodes that a person sets free.

    As with rebinding, an annotation that was there when the operator started counts as used.
    """
    used = end if memo.ended is None else memo.ended & end
    nodes = {
        name: _counted(node, verdicts.get(name), seen.wall, free=name in end - used)
        for name, node in memo.nodes.items()
    }
    held = {name for name in verdicts if nodes[name].quarantined_until is not None}
    room = max(1, len(verdicts) * MOST_PERCENT // 100) - len(held)
    limit = spec.safety.max_flaps_per_hour
    due = [name for name in verdicts if name not in held and len(nodes[name].returns) > limit]
    worst = sorted(due, key=lambda name: (-len(nodes[name].returns), name))[: max(0, room)]
    until = seen.wall + spec.safety.quarantine_seconds
    for name in worst:
        nodes[name] = dataclasses.replace(nodes[name], quarantined_until=until)
    for name in held:
        returned = nodes[name].returns[-1:] != memo.node(name).returns[-1:]
        if returned and len(nodes[name].returns) > limit:
            nodes[name] = dataclasses.replace(nodes[name], quarantined_until=until)
    return memory.changed(memo, nodes=nodes, ended=end)


def _counted(
    node: memory.NodeMemory, verdict: evidence.Verdict | None, wall: float, *, free: bool
) -> memory.NodeMemory:
    """Count a return, and forget what is long ago or served."""
    if verdict is not None and verdict.lost:
        node = dataclasses.replace(node, away=True)
    elif node.away and verdict is not None and verdict.state is evidence.State.ONLINE:
        node = dataclasses.replace(node, away=False, returns=(*node.returns, wall)[-KEPT_RETURNS:])
    served = node.quarantined_until is not None and wall >= node.quarantined_until
    if free or served:
        return dataclasses.replace(node, returns=(), quarantined_until=None)
    kept = tuple(at for at in node.returns if wall - at < WINDOW_SECONDS)
    return node if kept == node.returns else dataclasses.replace(node, returns=kept)


def reasons(memo: memory.Memory, spec: hacluster.HAClusterSpec) -> dict[str, str]:
    """Why no guests are started on quarantined nodes, and until when, by node."""
    return {
        name: (
            f"lost and returned more than {spec.safety.max_flaps_per_hour} times within an hour: no guests "
            f"are started on it until {_moment(node.quarantined_until)}"
        )
        for name, node in sorted(memo.nodes.items())
        if node.quarantined_until is not None
    }


def _moment(timestamp: float) -> str:
    return f"{datetime.datetime.fromtimestamp(timestamp, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
