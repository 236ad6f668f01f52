"""The wishes of placement as HA rules of Proxmox, so that the net underneath keeps them too.

Rules of ours are named `pveha-...` and carry our owner's mark in their comment; all others are foreign and
never touched. Proxmox refuses rules that contradict others; the checks here are its own, made beforehand, so
that a condition can name the rule in the way. What rules cannot say:

- Preferred groups, and groups by Zone: Separate by Zone is written as Separate by node, which it implies;
- several priorities of nodes for guests that are in a group;
- several node affinities in a group that is kept together: there they become one for all its members.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping

from pveha.decide import protection, wishes
from pveha.model import cluster, guests, mark, operations, snapshot

Rules = Mapping[str, cluster.HARule]


@dataclasses.dataclass(frozen=True, slots=True)
class Mirror:
    """What there should be in Proxmox, what is missing, and what stands against it."""

    edits: tuple[operations.RuleEdit, ...] = ()
    rules_of: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    """By service id: names of the rules that it should be in."""
    conflicts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By service id: the foreign rule that stands against one of ours, and why."""
    unsaid: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """By service id: wishes that no rule says."""
    unsaid_hard: frozenset[str] = frozenset()
    """Service ids of which one of these is Required."""

    def pending(self, sid: str) -> bool:
        """Whether a rule of this guest is still to be written."""
        return any(edit.name in self.rules_of.get(sid, ()) for edit in self.edits)


def mirror(
    seen: snapshot.Snapshot,
    protected: protection.Protection,
    named: frozenset[int],
    released: frozenset[int],
) -> Mirror:
    """Compare the rules with the wishes.

    `named` are the vmids that a ProtectedVM names, `released` those without one whose protection may end
    (`enrolment`): until then a guest stays in the rules that it is in.
    """
    config = seen.rule_config
    if config is None or seen.ha_config is None or seen.inventory is None:
        return Mirror()
    ours = {rule.name: rule for rule in config.rules.values() if is_ours(rule, seen.owner)}
    if (
        not ours
        and not protected.wished.groups
        and not protected.wished.bound
        and not protected.wished.weights
    ):
        return Mirror()
    kept = {
        name: frozenset(
            sid for sid in rule.sids if _is_kept(sid, seen.ha_config, named, released, seen.owner)
        )
        for name, rule in ours.items()
    }
    foreign = [rule for rule in config.enabled if rule.name not in ours]
    writer = _Writer(seen, protected.wished, foreign, kept)
    wanted = {
        name: dataclasses.replace(rule, comment=ours[name].comment) if name in ours else rule
        for name, rule in writer.write().items()
    }
    for name, stays in kept.items():
        if name not in wanted and len(stays) >= _fewest(ours[name]):
            wanted[name] = dataclasses.replace(ours[name], sids=stays)
    for name in [name for name in wanted if name in config.rules and name not in ours]:
        for sid in wanted.pop(name).sids:
            text = f"HA rule {name} has the name of one of ours and not our mark: rename or remove it"
            writer.conflicts.setdefault(sid, text)
    rules_of: dict[str, set[str]] = {}
    for name, rule in wanted.items():
        for sid in rule.sids:
            rules_of.setdefault(sid, set()).add(name)
    return Mirror(
        tuple(_edits(ours, wanted)),
        {sid: frozenset(names) for sid, names in rules_of.items()},
        writer.conflicts,
        {sid: tuple(texts) for sid, texts in writer.unsaid.items()},
        frozenset(writer.unsaid_hard),
    )


def is_ours(rule: cluster.HARule, owner: str) -> bool:
    return rule.name.startswith("pveha-") and mark.parse(rule.comment).owner == owner


def _is_kept(
    sid: str, config: cluster.HAConfig, named: frozenset[int], released: frozenset[int], owner: str
) -> bool:
    """Whether a guest without a ProtectedVM is still to stay registered, and so in its rules."""
    ref, resource = guests.parse_sid(sid), config.resources.get(sid)
    return (
        ref is not None
        and resource is not None
        and mark.parse(resource.comment).owner == owner
        and ref.vmid not in named
        and ref.vmid not in released
    )


def _fewest(rule: cluster.HARule) -> int:
    return 1 if rule.type == cluster.NODE_AFFINITY else 2


def _edits(ours: Rules, wanted: Rules) -> Iterator[operations.RuleEdit]:
    """First what takes guests out of rules, then what puts them in: Proxmox checks each write against all
    other rules as they are then."""
    before = dict(ours)
    for name, rule in sorted(ours.items()):
        desired = wanted.get(name)
        if desired is None or desired.type != rule.type:
            yield operations.RuleEdit(name, rule, None, f"HA rule {name} removed: nothing wishes it any more")
            del before[name]
        elif rule.sids - desired.sids and desired.sids - rule.sids:
            left = rule.sids & desired.sids
            if len(left) < _fewest(rule):
                yield operations.RuleEdit(name, rule, None, f"HA rule {name} is written anew")
                del before[name]
            else:
                before[name] = dataclasses.replace(rule, sids=left)
                yield operations.RuleEdit(name, rule, before[name], f"HA rule {name}: guests leave it")
    for name, desired in sorted(wanted.items(), key=lambda each: (each[1].type, each[0])):
        present = before.get(name)
        if present is None:
            yield operations.RuleEdit(name, None, desired, f"HA rule {name} made: {_said(desired)}")
        elif present != desired:
            yield operations.RuleEdit(
                name, present, desired, f"HA rule {name} brought back: {_said(desired)}"
            )


def _said(rule: cluster.HARule) -> str:
    sids = ", ".join(sorted(rule.sids))
    if rule.type == cluster.NODE_AFFINITY:
        return f"{sids} {'only' if rule.strict else 'rather'} on {', '.join(sorted(rule.nodes))}"
    return f"{sids} {'together' if rule.positive else 'apart'}"


class _Writer:
    """Builds the rules one by one, the most important first, each checked against those that are there."""

    def __init__(
        self,
        seen: snapshot.Snapshot,
        wished: wishes.Wishes,
        foreign: Iterable[cluster.HARule],
        kept: Mapping[str, frozenset[str]],
    ) -> None:
        assert seen.ha_config is not None
        self._wished = wished
        self._kept = kept
        self._registered = frozenset(seen.ha_config.resources)
        self._owner = seen.owner
        self._foreign: set[str] = set()
        self._rules: dict[str, cluster.HARule] = {}
        self._of: dict[str, list[str]] = {}
        self.conflicts: dict[str, str] = {}
        self.unsaid: dict[str, list[str]] = {}
        self.unsaid_hard: set[str] = set()
        for rule in foreign:
            self._foreign.add(rule.name)
            self._take(rule)

    def write(self) -> dict[str, cluster.HARule]:
        """All rules that Proxmox would take, by name."""
        found: dict[str, cluster.HARule] = {}
        for group in self._wished.groups:
            rule = self._group(group)
            if rule is not None and self._try(rule, f"{group}", hard=True):
                found[rule.name] = rule
        located = sorted(self._units(), key=lambda unit: (not unit[1].strict, sorted(unit[0])))
        for _, rule in located:
            if not self._try(rule, "nodeAffinity", hard=rule.strict):
                continue
            old = found.get(rule.name)
            found[rule.name] = rule if old is None else dataclasses.replace(old, sids=old.sids | rule.sids)
        return found

    def _group(self, group: wishes.Group) -> cluster.HARule | None:
        if not group.required:
            self._leave(group.sids, f"{group} is Preferred, and rules about guests always bind", hard=False)
            return None
        if group.by_zone and group.together:
            self._leave(group.sids, f"{group} is by Zone, which Proxmox does not know", hard=True)
            return None
        if group.by_zone:
            text = (
                f"{group} is by Zone, which Proxmox does not know: its HA rule keeps them on different nodes"
            )
            self._leave(group.sids, text, hard=True)
        name = f"pveha-{group.name}-{_hash('group', group.policy, group.name)}"
        sids = (group.sids & self._registered) | self._kept.get(name, frozenset())
        if len(sids) < 2 or (not group.together and len(sids) > len(self._wished.nodes)):
            return None
        return cluster.HARule(
            name,
            cluster.RESOURCE_AFFINITY,
            sids,
            positive=group.together,
            comment=str(mark.Comment(f"{group}", self._owner)),
        )

    def _units(self) -> Iterator[tuple[frozenset[str], cluster.HARule]]:
        """Guests that must be together, or single ones, with the rule of their node affinity."""
        seen: set[str] = set()
        for sid in sorted(self._wished.bound.keys() | self._wished.weights.keys()):
            if sid in seen:
                continue
            companions = self._wished.companions(sid)
            seen |= companions
            sids = companions & self._registered
            rule = self._located(sids, companions)
            if rule is not None:
                yield sids, dataclasses.replace(rule, sids=sids | self._kept.get(rule.name, frozenset()))

    def _located(self, sids: frozenset[str], companions: frozenset[str]) -> cluster.HARule | None:
        bound = [self._wished.bound[sid] for sid in companions if sid in self._wished.bound]
        weights: dict[str, int] = {}
        for sid in companions:
            for name, weight in self._wished.weights.get(sid, {}).items():
                weights[name] = weights.get(name, 0) + weight
        if bound:
            nodes = {name: weights.get(name, 0) for name in frozenset.intersection(*bound)}
        else:
            nodes = weights
        if not sids or not nodes:
            return None
        several = len(set(nodes.values())) > 1
        if several and any(rule.type == cluster.RESOURCE_AFFINITY for rule in self._beside(sids)):
            text = (
                "the weights of its nodeAffinity: Proxmox takes no priorities of nodes for guests in a group"
            )
            self._leave(sids, text, hard=False)
            best = max(nodes.values())
            nodes = {name: 0 for name, weight in nodes.items() if bound or weight == best}
        elif not several:
            nodes = dict.fromkeys(nodes, 0)
        content = ",".join(f"{name}:{weight}" for name, weight in sorted(nodes.items()))
        return cluster.HARule(
            f"pveha-nodes-{_hash('nodes', content, str(bool(bound)))}",
            cluster.NODE_AFFINITY,
            sids,
            nodes,
            strict=bool(bound),
            comment=str(mark.Comment("nodeAffinity of ProtectedVMs", self._owner)),
        )

    def _leave(self, sids: Iterable[str], text: str, *, hard: bool) -> None:
        for sid in sids:
            self.unsaid.setdefault(sid, []).append(text)
            if hard:
                self.unsaid_hard.add(sid)

    def _try(self, rule: cluster.HARule, what: str, *, hard: bool) -> bool:
        """Take a rule if Proxmox would."""
        clash = next(
            iter(
                sorted(
                    self._clashes(rule), key=lambda each: (each[0].name not in self._foreign, each[0].name)
                )
            ),
            None,
        )
        if clash is None:
            self._take(rule)
            return True
        other, why = clash
        for sid in rule.sids:
            if other.name in self._foreign:
                text = f"HA rule {other.name}, which pveha has not made, stands against its {what}: {why}"
                self.conflicts.setdefault(sid, f"{text}; change or remove that rule, or the wish")
        if other.name not in self._foreign:
            self._leave(
                rule.sids, f"{what}: Proxmox does not take it beside its groups, because {why}", hard=hard
            )
        return False

    def _take(self, rule: cluster.HARule) -> None:
        old = self._rules.get(rule.name)
        self._rules[rule.name] = rule if old is None else dataclasses.replace(old, sids=old.sids | rule.sids)
        for sid in rule.sids:
            self._of.setdefault(sid, []).append(rule.name)

    def _beside(self, sids: Iterable[str]) -> list[cluster.HARule]:
        """Rules about any of these guests, in a fixed order."""
        names = dict.fromkeys(name for sid in sorted(sids) for name in self._of.get(sid, ()))
        return [self._rules[name] for name in names]

    def _located_rules(self, sids: Iterable[str]) -> list[cluster.HARule]:
        return [rule for rule in self._beside(sids) if rule.type == cluster.NODE_AFFINITY]

    def _together(self, sids: frozenset[str]) -> tuple[frozenset[str], list[cluster.HARule]]:
        """What positive rules bind to these guests, directly or through others, and those rules."""
        found: dict[str, cluster.HARule] = {}
        size = -1
        while len(sids) != size:
            size = len(sids)
            for rule in self._beside(sids):
                if rule.type == cluster.RESOURCE_AFFINITY and rule.positive:
                    found[rule.name] = rule
                    sids |= rule.sids
        return sids, list(found.values())

    def _clashes(self, rule: cluster.HARule) -> Iterator[tuple[cluster.HARule, str]]:
        """Rules that are there and that Proxmox would not have beside this one."""
        if rule.type == cluster.NODE_AFFINITY:
            yield from self._clashes_of_nodes(rule)
        elif rule.positive:
            yield from self._clashes_of_positive(rule)
        else:
            yield from self._clashes_of_negative(rule)

    def _clashes_of_nodes(self, rule: cluster.HARule) -> Iterator[tuple[cluster.HARule, str]]:
        for other in self._located_rules(rule.sids):
            if other.name != rule.name:
                yield other, "a guest may be in one node affinity rule only"
        bound, by = self._together(rule.sids)
        others = [other for other in self._located_rules(bound) if other.name != rule.name]
        for other in [*by, *others] if others else ():
            yield other, "guests that are kept together may be in one node affinity rule only"
        for group in self._beside(rule.sids):
            if group.type == cluster.RESOURCE_AFFINITY:
                yield from self._narrow(group, [*self._located_rules(group.sids), rule], group)

    def _clashes_of_positive(self, rule: cluster.HARule) -> Iterator[tuple[cluster.HARule, str]]:
        bound, by = self._together(rule.sids)
        for other in self._beside(bound):
            if other.type == cluster.RESOURCE_AFFINITY and not other.positive and len(other.sids & bound) > 1:
                yield other, "one keeps apart what the other keeps together"
        located = self._located_rules(bound)
        for other in [*by, *located] if len(located) > 1 else ():
            yield other, "guests that are kept together may be in one node affinity rule only"
        yield from self._several(located)

    def _clashes_of_negative(self, rule: cluster.HARule) -> Iterator[tuple[cluster.HARule, str]]:
        for other in self._beside(rule.sids):
            if other.type == cluster.RESOURCE_AFFINITY and other.positive:
                bound, by = self._together(other.sids)
                for each in by if len(bound & rule.sids) > 1 else ():
                    yield each, "one keeps apart what the other keeps together"
        located = self._located_rules(rule.sids)
        yield from self._several(located)
        for other in located:
            yield from self._narrow(rule, located, other)

    def _narrow(
        self, group: cluster.HARule, located: list[cluster.HARule], blamed: cluster.HARule
    ) -> Iterator[tuple[cluster.HARule, str]]:
        """Node affinities that leave a group fewer nodes than it keeps guests apart; soft ones count too."""
        if group.positive:
            return
        guests_ = group.sids & {sid for rule in located for sid in rule.sids}
        if len({name for rule in located for name in rule.nodes}) < len(guests_):
            yield blamed, "node affinities name fewer nodes than there are guests to be kept apart on them"

    def _several(self, located: Iterable[cluster.HARule]) -> Iterator[tuple[cluster.HARule, str]]:
        for rule in located:
            if len(set(rule.nodes.values())) > 1:
                yield rule, "a guest in a group may not be in a node affinity rule with several priorities"


def _hash(*words: str) -> str:
    """Eight characters that tell contents apart; the same in every run."""
    return hashlib.sha256("/".join(words).encode()).hexdigest()[:8]
