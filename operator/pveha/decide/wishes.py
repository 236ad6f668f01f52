"""What users wish of placement (spec.placement of FailoverPolicies and ProtectedVMs), resolved for one
cluster: groups with their members, nodes that guests are bound to or prefer, and what is wrong with it.

A wish is hard (Required) or soft (Preferred). Every plan keeps the hard ones, and `problems` tells those that
none can keep.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from pveha.api import hacluster, placement
from pveha.api.conditions import PlacementReady

if TYPE_CHECKING:
    from pveha.decide import protection

Locations = Mapping[str, str]
"""Nodes of guests, by service id."""


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Guests to be kept together or apart, on nodes or in zones."""

    policy: str
    name: str
    together: bool
    required: bool
    by_zone: bool
    sids: frozenset[str]

    def __str__(self) -> str:
        return f"group {self.name} of FailoverPolicy {self.policy}"


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a guest's wishes."""

    reason: PlacementReady
    message: str


@dataclasses.dataclass(frozen=True)
class Wishes:
    """All wishes of one cluster."""

    nodes: frozenset[str] = frozenset()
    """Of the cluster, whatever their state."""
    zones: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By node; "" for those that have none, which count as one zone."""
    groups: tuple[Group, ...] = ()
    bound: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    """By service id: the nodes that Required wishes leave."""
    weights: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    """By service id and node: the sum of the Preferred wishes."""
    problems: Mapping[str, tuple[Problem, ...]] = dataclasses.field(default_factory=dict)
    """By service id."""

    @functools.cached_property
    def _of(self) -> dict[str, list[Group]]:
        found: dict[str, list[Group]] = {}
        for group in self.groups:
            for sid in group.sids:
                found.setdefault(sid, []).append(group)
        return found

    def of(self, sid: str) -> list[Group]:
        """The groups of a guest."""
        return self._of.get(sid, [])

    def wishing(self, sid: str) -> bool:
        """Whether anything is wished of a guest."""
        return sid in self._of or sid in self.bound or sid in self.weights or sid in self.problems

    def allowed(self, sid: str, names: Collection[str], locations: Locations) -> frozenset[str]:
        """Which of `names` the hard wishes of `sid` allow, with the others where `locations` has them."""
        left = frozenset(names) & self.bound.get(sid, frozenset(names))
        for group in self.of(sid):
            if not group.required:
                continue
            taken = self._taken(group, sid, locations)
            if group.together and taken:
                left = frozenset(name for name in left if self._place(group, name) in taken)
            elif not group.together:
                left = frozenset(name for name in left if self._place(group, name) not in taken)
        return left

    def reasons(self, sid: str) -> str:
        """What binds a guest, in words."""
        nodes = [f"only {', '.join(sorted(self.bound[sid]))}"] if sid in self.bound else []
        return "; ".join(nodes + [f"{group}" for group in self.of(sid) if group.required])

    def liking(self, sid: str, name: str, locations: Locations) -> int:
        """How well node `name` meets the soft wishes of `sid`: the more the better."""
        score = self.weights.get(sid, {}).get(name, 0)
        for group in self.of(sid):
            if group.required:
                continue
            taken = self._taken(group, sid, locations)
            if taken and (self._place(group, name) in taken) is group.together:
                score += placement.DEFAULT_WEIGHT
        return score

    def companions(self, sid: str) -> frozenset[str]:
        """The guests that must be on the same node as `sid`, itself included."""
        found, fresh = {sid}, [sid]
        while fresh:
            for group in self.of(fresh.pop()):
                if group.together and group.required and not group.by_zone:
                    fresh += group.sids - found
                    found |= group.sids
        return frozenset(found)

    def _taken(self, group: Group, sid: str, locations: Locations) -> set[str]:
        """The nodes or zones of the other members."""
        return {
            self._place(group, locations[each]) for each in group.sids if each != sid and each in locations
        }

    def _place(self, group: Group, name: str) -> str:
        return self.zones.get(name, "") if group.by_zone else name


NOTHING = Wishes()


def resolve(
    guests: Iterable["protection.Protected"], spec: hacluster.HAClusterSpec, nodes: Collection[str]
) -> Wishes:
    """The wishes of all protected guests. `nodes` are those of the cluster; without them nothing is known."""
    wishing = [guest for guest in guests if guest.pvm.spec.placement != _NONE]
    if not wishing or not nodes:
        return NOTHING
    members: dict[tuple[str, str], set[str]] = {}
    defined: dict[tuple[str, str], placement.Group] = {}
    bound: dict[str, frozenset[str]] = {}
    weights: dict[str, dict[str, int]] = {}
    problems: dict[str, list[Problem]] = {}
    for guest in wishing:
        policy = guest.pvm.spec.policy_ref.name if guest.pvm.spec.policy_ref is not None else ""
        groups = {group.name: group for group in guest.policy.placement.groups}
        for name in guest.pvm.spec.placement.groups:
            if name in groups:
                defined[policy, name] = groups[name]
                members.setdefault((policy, name), set()).add(guest.sid)
            else:
                problems.setdefault(guest.sid, []).append(_undefined(name, policy))
        for wish in guest.pvm.spec.placement.node_affinity:
            known = frozenset(wish.nodes) & frozenset(nodes)
            if missing := sorted(set(wish.nodes) - known):
                problems.setdefault(guest.sid, []).append(_unknown(wish, missing))
            if wish.enforcement is placement.Enforcement.REQUIRED:
                bound[guest.sid] = bound.get(guest.sid, known) & known
            else:
                of_guest = weights.setdefault(guest.sid, {})
                for name in known:
                    of_guest[name] = of_guest.get(name, 0) + wish.effective_weight
    resolved = Wishes(
        frozenset(nodes),
        {name: spec.zone(name) for name in nodes},
        tuple(
            Group(
                *key,
                about.rule is placement.GroupRule.TOGETHER,
                about.enforcement is placement.Enforcement.REQUIRED,
                about.topology is placement.Topology.ZONE,
                frozenset(members[key]),
            )
            for key, about in sorted(defined.items())
        ),
        bound,
        weights,
    )
    for sid, problem in sorted(_impossible(resolved), key=lambda each: each[0]):
        problems.setdefault(sid, []).append(problem)
    return dataclasses.replace(resolved, problems={sid: tuple(each) for sid, each in problems.items()})


_NONE = placement.GuestPlacement()


def _undefined(name: str, policy: str) -> Problem:
    if not policy:
        text = (
            f"it names group {name} and has no policy: set spec.policyRef to the one that defines the group"
        )
    else:
        text = (
            f"FailoverPolicy {policy} has no group {name}: add it to spec.placement.groups there, or take it "
            "out here"
        )
    return Problem(PlacementReady.GROUP_NOT_DEFINED, text)


def _unknown(wish: placement.NodeAffinity, missing: list[str]) -> Problem:
    text = f"nodeAffinity {wish.name} names {', '.join(missing)}, which the cluster does not have: correct it"
    return Problem(PlacementReady.NODE_NOT_FOUND, text)


def _impossible(wishes: Wishes) -> list[tuple[str, Problem]]:
    """Required wishes that cannot be met even with all nodes online and empty."""
    found: list[tuple[str, str]] = []
    for sid, names in wishes.bound.items():
        if not names:
            found.append(
                (sid, "its Required nodeAffinity leaves no node of the cluster: name one that all have")
            )
    required = [group for group in wishes.groups if group.required]
    for group in required:
        places = {sid: _places(wishes, group, sid) for sid in group.sids}
        if not all(places.values()):
            continue
        what = "zone" if group.by_zone else "node"
        if group.together:
            if not frozenset.intersection(*places.values()):
                text = (
                    f"the Required nodeAffinity of the members of {group} leaves no {what} for all: widen it"
                )
                found += [(sid, text) for sid in group.sids]
        elif not _room_for_each(places):
            room = len(frozenset.union(*places.values()))
            text = (
                f"{group} wants {len(group.sids)} guests on different {what}s, and there are only {room} for "
                f"them{_nameless(wishes, group)}: take some out of it, add {what}s, or make it Preferred"
            )
            found += [(sid, text) for sid in group.sids]
    for apart in required:
        for together in required:
            shared = apart.sids & together.sids
            if apart.together or not together.together or len(shared) < 2:
                continue
            if apart.by_zone or not together.by_zone:
                text = f"{together} wants together what {apart} wants apart: take one of the two out"
                found += [(sid, text) for sid in sorted(shared)]
    return [(sid, Problem(PlacementReady.IMPOSSIBLE, text)) for sid, text in found]


def _nameless(wishes: Wishes, group: Group) -> str:
    without = sorted(name for name, zone in wishes.zones.items() if not zone)
    if not group.by_zone or not without:
        return ""
    return f" (spec.nodes of the HACluster gives {', '.join(without)} no zone: together they count as one)"


def _places(wishes: Wishes, group: Group, sid: str) -> frozenset[str]:
    """Nodes or zones in which a member could be, were it alone."""
    names = wishes.nodes
    for each in wishes.companions(sid):
        names &= wishes.bound.get(each, names)
    return frozenset(wishes.zones.get(name, "") if group.by_zone else name for name in names)


def _room_for_each(places: Mapping[str, frozenset[str]]) -> bool:
    """Whether each guest can have a place of its own: a maximum matching by augmenting paths."""
    taken: dict[str, str] = {}

    def settle(sid: str, tried: set[str]) -> bool:
        for place in sorted(places[sid] - tried):
            tried.add(place)
            if place not in taken or settle(taken[place], tried):
                taken[place] = sid
                return True
        return False

    return all(settle(sid, set()) for sid in sorted(places))
