"""Where Proxmox's HA would put a service: node-affinity and resource-affinity rules, then the fewest
services."""

from collections.abc import Mapping

from pveha.model import cluster
from pveha.sim import pmxcfs


def choose(
    sid: str,
    current: str,
    online: frozenset[str],
    services: Mapping[str, pmxcfs.Service],
    rules: Mapping[str, cluster.HARule],
    *,
    failback: bool,
    avoid: frozenset[str] = frozenset(),
) -> str | None:
    """The node for service `sid`, or None when no online node is allowed.

    `current` is kept where the rules allow it (with `failback`: where no better priority is online). `avoid`
    are nodes on which it failed to start.
    """
    candidates = online - avoid
    preferred = candidates
    affinity = next((r for r in rules.values() if r.type == "node-affinity" and sid in r.sids), None)
    if affinity:
        listed = candidates & affinity.nodes.keys()
        if listed:
            best = max(affinity.nodes[name] for name in listed)
            preferred = frozenset(name for name in listed if affinity.nodes[name] == best)
            candidates = listed if affinity.strict else candidates
        elif affinity.strict:
            return None
    placed = {other: service.target or service.node for other, service in services.items() if other != sid}
    for rule in rules.values():
        if rule.type != "resource-affinity" or sid not in rule.sids:
            continue
        taken = {placed[other] for other in rule.sids & placed.keys()}
        if not rule.positive:
            candidates, preferred = candidates - taken, preferred - taken
        elif together := candidates & taken:
            most = max(
                sorted(together), key=lambda name: sum(placed[o] == name for o in rule.sids & placed.keys())
            )
            candidates = preferred = frozenset({most})
    if current in candidates and (current in preferred or not failback):
        return current
    usable = preferred or candidates
    if not usable:
        return None
    load = dict.fromkeys(usable, 0)
    for node in placed.values():
        if node in load:
            load[node] += 1
    return min(sorted(usable), key=lambda name: load[name])
