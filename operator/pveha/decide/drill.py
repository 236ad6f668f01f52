"""Drills: how an outlet, which does not tell what it feeds, is bound to a node (S1).

A person announces the drill by an annotation, and switches all outlets of a level off by hand under the
running node. pveha sends nothing: it sees the last of them go off, the node leave the membership after that,
and nobody else.
"""

import dataclasses
from collections.abc import Mapping

from pveha.api import fencing, hacluster
from pveha.decide import evidence, levels, memory
from pveha.model import snapshot

BEFORE_SECONDS = 45.0
"""The last outlet must have read on this short a time before the node was missed: corosync takes 7 s, with 32
nodes 15."""
AFTER_SECONDS = 30.0
"""How long after that nobody else may drop out."""


def bind(
    nodes: Mapping[str, memory.NodeMemory], seen: snapshot.Snapshot, spec: hacluster.HAClusterSpec
) -> dict[str, memory.NodeMemory]:
    """Bind the outlets of every node whose drill has just succeeded."""
    result = dict(nodes)
    for name, node in nodes.items():
        for _, level in spec.levels(name):
            outlets = [(method, entry) for method, entry in level if method.agent is not None]
            if not outlets or levels.provable(outlets, node) or not _seen(name, outlets, nodes, seen):
                continue
            bound = {
                method.name: dataclasses.replace(
                    node.method(method.name), bound=True, drill=fencing.device(method, entry)
                )
                for method, entry in outlets
                if not node.method(method.name).voided
            }
            node = dataclasses.replace(node, methods={**node.methods, **bound})
            result[name] = node
    return result


def _seen(
    name: str, outlets: levels.Methods, nodes: Mapping[str, memory.NodeMemory], seen: snapshot.Snapshot
) -> bool:
    """Whether the last outlet went off, then the node was missed, and nothing else happened."""
    node = nodes[name]
    lost_at, probe = node.offline_since, seen.probes.get(name)
    if lost_at is None or seen.now - lost_at < AFTER_SECONDS:
        return False
    if any(each.commanded_at is not None for each in node.methods.values()):
        return False
    if probe is None or probe.failed_since is None or evidence.planned(name, seen.ha_status):
        return False
    known = [node.method(method.name) for method, _ in outlets]
    off = [each.off_since for each in known if each.off_since is not None]
    if len(off) < len(known) or max(off) > lost_at:
        return False
    last_on = max(each.on_read_at for each in known)
    others = [other.offline_since for key, other in nodes.items() if key != name]
    alone = not any(at is not None and abs(at - lost_at) <= AFTER_SECONDS for at in others)
    return alone and lost_at - BEFORE_SECONDS <= last_on
