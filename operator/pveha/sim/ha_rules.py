"""What Proxmox's HA makes of its rules: which it declines to store, and which it leaves out when it places
services.

A rule that a write concerns is checked against all others; a rule that has become infeasible all the same
(by a write to another rule) is left out by the CRM, and so is its counterpart. Sentences of the checks that
were recorded on 9.2 are the recorded ones.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from pveha.model import cluster
from pveha.sim import pmxcfs

Rules = Mapping[str, cluster.HARule]


def digest(tree: pmxcfs.Tree) -> str:
    """The compare-and-swap of `ha/rules.cfg`."""
    return hashlib.sha1(pmxcfs.render_rules(tree.rules).encode(), usedforsecurity=False).hexdigest()


def shown(rule: cluster.HARule) -> str:
    """A rule in a line."""
    sids = ", ".join(sorted(rule.sids))
    if rule.type == cluster.NODE_AFFINITY:
        nodes = ", ".join(
            f"{name}:{weight}" if weight else name for name, weight in sorted(rule.nodes.items())
        )
        what = f"{sids} {'only' if rule.strict else 'rather'} on {nodes}"
    else:
        what = f"{sids} {'together' if rule.positive else 'apart'}"
    return f"{rule.name}: {what}{' (disabled)' if rule.disabled else ''}"


def refusal(tree: pmxcfs.Tree, rule: cluster.HARule, nodes: frozenset[str]) -> str:
    """Why a rule is not stored, or an empty string; `nodes` are those of the cluster."""
    if unmanaged := sorted(rule.sids - tree.resources.keys()):
        return f"cannot use unmanaged resource(s) {', '.join(unmanaged)}."
    if unknown := sorted(rule.nodes.keys() - nodes):
        return f"cannot use non-existant node(s) {', '.join(unknown)}."
    found = complaints({**tree.rules, rule.name: rule}, nodes).get(rule.name, [])
    return f"400 Rule '{rule.name}' is invalid.\nresources: {', '.join(found)}" if found else ""


def standing(rules: Rules, nodes: frozenset[str]) -> Rules:
    """The rules that the CRM goes by."""
    if not rules:
        return rules
    broken = complaints(rules, nodes)
    return {name: rule for name, rule in rules.items() if not rule.disabled and name not in broken}


def complaints(rules: Rules, nodes: frozenset[str]) -> dict[str, list[str]]:
    """What is wrong with which rule, those that are disabled apart."""
    found: dict[str, list[str]] = {}
    enabled = [rule for rule in rules.values() if not rule.disabled]
    located = [rule for rule in enabled if rule.type == cluster.NODE_AFFINITY]
    affine = [rule for rule in enabled if rule.type == cluster.RESOURCE_AFFINITY]
    for name, text in (*_alone(located, affine, nodes), *_against(located, affine)):
        found.setdefault(name, []).append(text)
    return found


def _alone(
    located: list[cluster.HARule], affine: list[cluster.HARule], nodes: frozenset[str]
) -> Iterator[tuple[str, str]]:
    for rule in located:
        used = {sid for other in located if other is not rule for sid in other.sids}
        for sid in sorted(rule.sids & used):
            yield rule.name, f"resource '{sid}' is already used in another node affinity rule"
    for rule in affine:
        if len(rule.sids) < 2:
            yield rule.name, "rule is ineffective as there are less than two resources"
        if not rule.positive and len(rule.sids) > len(nodes):
            yield rule.name, "rule defines more resources than available nodes"


def _against(located: list[cluster.HARule], affine: list[cluster.HARule]) -> Iterator[tuple[str, str]]:
    positive = _connected(rule for rule in affine if rule.positive)
    negative = [rule for rule in affine if not rule.positive]
    for names, sids in positive:
        for rule in negative:
            if len(sids & rule.sids) > 1:
                yield rule.name, "rule shares two or more resources with a positive resource affinity rule"
                for name in names:
                    yield name, "rule shares two or more resources with a negative resource affinity rule"
        if len(shared := [rule for rule in located if rule.sids & sids]) > 1:
            for name in names:
                yield name, "resources are in multiple node affinity rules"
            for rule in shared:
                text = "at least one resource is in a positive resource affinity rule and there are other "
                yield rule.name, f"{text}resources in at least one other node affinity rule already"
    for rule in affine:
        shared = [other for other in located if other.sids & rule.sids]
        if any(len(set(other.nodes.values())) > 1 for other in shared):
            yield rule.name, "resources are in node affinity rules with multiple priorities"
            for other in shared:
                text = "resources are in a resource affinity rule and cannot be in a node affinity rule "
                yield other.name, f"{text}with multiple priorities"
        bound = rule.sids & {sid for other in shared for sid in other.sids}
        if not rule.positive and len({node for other in shared for node in other.nodes}) < len(bound):
            yield (
                rule.name,
                "two or more resources are restricted to less nodes than available to the resources",
            )
            for other in shared:
                text = "at least one resource is in a negative resource affinity rule and this rule would "
                yield other.name, f"{text}restrict these to less nodes than available to the resources"


def _connected(rules: Iterable[cluster.HARule]) -> list[tuple[set[str], set[str]]]:
    """Rules that share resources with each other, as (names, resources) of each such set."""
    sets: list[tuple[set[str], set[str]]] = []
    for rule in rules:
        names, sids = {rule.name}, set(rule.sids)
        for each in [each for each in sets if each[1] & sids]:
            sets.remove(each)
            names |= each[0]
            sids |= each[1]
        sets.append((names, sids))
    return sets
