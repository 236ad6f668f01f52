"""What the rules of Proxmox's own HA allow."""

from collections.abc import Iterable, Mapping

from pveha.model import cluster


def by_guest(rules: Iterable[cluster.HARule]) -> dict[str, list[cluster.HARule]]:
    """The rules of each guest, by service id."""
    found: dict[str, list[cluster.HARule]] = {}
    for rule in rules:
        for sid in rule.sids:
            found.setdefault(sid, []).append(rule)
    return found


def bound(rules: Iterable[cluster.HARule]) -> frozenset[str] | None:
    """The only nodes on which `rules`, all of one guest, leave it, whatever other guests do; None: any."""
    names: frozenset[str] | None = None
    for rule in rules:
        if rule.type == cluster.NODE_AFFINITY:
            if rule.strict:
                names = frozenset(rule.nodes) if names is None else names & rule.nodes.keys()
        elif rule.type != cluster.RESOURCE_AFFINITY:
            return frozenset()
    return names


def steps(rules: Iterable[cluster.HARule]) -> dict[str, int]:
    """How far node affinities prefer a node: the CRM takes one of the greatest number that is left. 0: not
    listed; a rule that lists nodes of one priority only and no others prefers none."""
    found: dict[str, int] = {}
    for rule in rules:
        if rule.type != cluster.NODE_AFFINITY:
            continue
        ranked = sorted(set(rule.nodes.values()))
        if rule.strict and len(ranked) == 1:
            continue
        for name, priority in rule.nodes.items():
            found[name] = found.get(name, 0) + ranked.index(priority) + 1
    return found


def allowed_nodes(
    sid: str, names: frozenset[str], rules: Iterable[cluster.HARule], locations: Mapping[str, str]
) -> frozenset[str]:
    """What of `names` the CRM would leave `sid` on: affinity by configuration locations, best node priority
    only."""
    for rule in rules:
        if sid not in rule.sids:
            continue
        others = {locations[other] for other in rule.sids - {sid} if other in locations}
        if rule.type == cluster.NODE_AFFINITY:
            listed = {name: rule.nodes[name] for name in names if name in rule.nodes}
            best = max(listed.values(), default=0)
            preferred = frozenset(name for name, priority in listed.items() if priority == best)
            names = preferred if preferred or rule.strict else names
        elif rule.type == cluster.RESOURCE_AFFINITY and rule.positive:
            names = frozenset(names & others) if others else names
        elif rule.type == cluster.RESOURCE_AFFINITY:
            names = names - others
        else:
            return frozenset()
    return names
