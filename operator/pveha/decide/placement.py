"""Where the guests of a lost or drained node go: what they need of a node (`eligibility`), memory, a live
LRM, what users wish (`wishes`), and the rules Proxmox's own HA would keep (S12)."""

import dataclasses
from collections.abc import Collection, Mapping, Set

from pveha.api import hacluster
from pveha.api.conditions import FailoverReady
from pveha.decide import eligibility, evidence, memory, protection, wishes
from pveha.model import cluster, node, operations, snapshot

CLEARLY_BETTER = 0.1
"""Share of a node's memory by which it must have more free than the planned one, so that plans do not follow
every change of memory in use."""
SHOWN = 5
"""Nodes that one sentence names."""
LRM_FRESH_SECONDS = 40.0
"""An LRM reports every 5-10 s; the CRM calls it dead after 30 s without (native-ha facts). One round of ours
on top."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Target of each guest by vmid, and why the others have none."""

    targets: Mapping[int, str]
    refusals: Mapping[int, protection.Refusal]


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What a guest needs of a node. `planned` is the node it was planned for; `memory` is in bytes; `config`
    is None where it cannot be read."""

    sid: str
    memory: int
    config: node.GuestConfig | None
    planned: str = ""
    followed_by: int = 0
    """Bytes of memory of guests still to be placed that must go to the same node."""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A node that takes guests."""

    name: str
    free: int
    """Bytes of memory not used and not promised."""
    memory: int
    """Bytes it has in all."""
    lrm_active: bool


def plan(
    down: Set[str],
    wanted: Collection[protection.Protected],
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
    promised: Mapping[str, int],
    wished: wishes.Wishes,
    judge: eligibility.Judge,
    *,
    unused: bool = False,
) -> Plan:
    """Choose a node for every guest in `wanted`, in order of priority, as if the nodes `down` were gone.

    `promised` is memory in bytes per node that guests still being started there will use; `judge` knows
    `seen`. `unused`: Proxmox HA has no resource yet and tells of no LRM; what is only planned takes them for
    alive.
    """
    candidates = candidates_beside(down, seen, spec, memo, verdicts, promised, unused=unused)
    locations = locations_beside(down, seen, verdicts)
    none = None if candidates else nobody(down, seen, spec, memo, verdicts)
    targets: dict[int, str] = {}
    refusals: dict[int, protection.Refusal] = {}
    going = _going(seen)
    left = {guest.sid: guest.memory for guest in wanted}
    for guest in sorted(wanted, key=lambda each: each.order):
        del left[guest.sid]
        if guest.sid in going:
            targets[guest.vmid] = going[guest.sid]
            continue
        followed_by = sum(left.get(sid, 0) for sid in wished.companions(guest.sid))
        wish = dataclasses.replace(_wish(guest), followed_by=followed_by)
        choice = choose(wish, candidates, seen.ha_rules, locations, judge, wished, none)
        if isinstance(choice, protection.Refusal):
            refusals[guest.vmid] = choice
            continue
        targets[guest.vmid] = choice.name
        locations[guest.sid] = choice.name
        candidates[choice.name] = dataclasses.replace(choice, free=choice.free - guest.memory)
    return Plan(targets, refusals)


def candidates_beside(
    leaving: Set[str],
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
    promised: Mapping[str, int],
    *,
    unused: bool = False,
) -> dict[str, Target]:
    """The nodes that guests of `leaving` may go to; `promised` and `unused` as in `plan`."""
    return {
        name: _target(name, seen, memo, promised.get(name, 0))
        for name in verdicts
        if name not in leaving and not excluded(name, seen, spec, memo, verdicts, unused=unused)
    }


def locations_beside(
    leaving: Set[str], seen: snapshot.Snapshot, verdicts: Mapping[str, evidence.Verdict]
) -> dict[str, str]:
    """Where all guests are, or are being taken to, by service id; but for those left on `leaving` or on a
    lost node."""
    found = seen.inventory.guests.values() if seen.inventory else ()
    away = {name for name, verdict in verdicts.items() if verdict.lost} | leaving
    return {guest.ref.sid: guest.node for guest in found if guest.node not in away} | _going(seen)


def _going(seen: snapshot.Snapshot) -> dict[str, str]:
    """Where guests are being taken to, by service id."""
    return {
        item.ref.sid: state.operation.target
        for state in seen.operations
        if isinstance(state.operation, operations.Takeover) and state.outcome is None
        for item in state.operation.items
    }


def _wish(guest: protection.Protected) -> Wish:
    planned = guest.pvm.status.failover_plan
    return Wish(guest.sid, guest.memory, guest.config, planned.target_node if planned is not None else "")


def excluded(
    name: str,
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
    *,
    unused: bool = False,
) -> str:
    """Why no guest is started on `name`, or an empty string: it must be online long enough and answer us, its
    LRM be alive and in active mode (S11; left out for `unused` HA), and neither pveha nor its users keep it
    from taking guests."""
    known, probe = memo.node(name), seen.probes.get(name)
    if verdicts[name].state is not evidence.State.ONLINE:
        return f"it is {verdicts[name].state}"
    if spec.availability(name) is not hacluster.Availability.ACTIVE:
        return f"its availability is {spec.availability(name)}"
    if known.quarantined_until is not None:
        return "it is in quarantine"
    patience = spec.detection.suspect_after_seconds
    if probe is None or (probe.failed_since is not None and seen.now - probe.failed_since >= patience):
        return "its API does not answer"
    least = spec.detection.recover_after_seconds
    if known.online_since is None or seen.now - known.online_since < least:
        return f"it has been online for less than {least} s"
    if seen.now < known.may_land_until:
        return "a command to switch it off may still be carried out"
    if not unused and not lrm_alive(name, seen, memo):
        return "its LRM does not take services"
    if f"shell/{name}" in seen.problems:
        return "its node shell does not answer"
    return ""


def nobody(
    leaving: Set[str],
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
) -> protection.Refusal:
    """What is said where no node beside `leaving` takes guests."""
    why = {
        name: text
        for name in sorted(verdicts.keys() - leaving)
        if (text := excluded(name, seen, spec, memo, verdicts))
    }
    told = "; ".join(f"{name}: {text}" for name, text in list(why.items())[:SHOWN]) or "there is none"
    more = f"; and {len(why) - SHOWN} more" if len(why) > SHOWN else ""
    return protection.Refusal(FailoverReady.NO_TARGET, f"no other node takes guests now ({told}{more})")


def lrm_alive(name: str, seen: snapshot.Snapshot, memo: memory.Memory) -> bool:
    """Whether the LRM reports, and would take services (idle ones become active with the first)."""
    lrm = seen.ha_status.lrms.get(name) if seen.ha_status else None
    fresh = seen.now - memo.node(name).lrm_moved_at <= LRM_FRESH_SECONDS
    return lrm is not None and lrm.mode == "active" and fresh


def _target(name: str, seen: snapshot.Snapshot, memo: memory.Memory, promised: int) -> Target:
    resource = seen.inventory.nodes.get(name) if seen.inventory else None
    total, used = (resource.max_memory or 0, resource.used_memory or 0) if resource else (0, 0)
    lrm = seen.ha_status.lrms.get(name) if seen.ha_status else None
    return Target(name, total - used - promised, total, lrm is not None and lrm.state == "active")


def choose(
    guest: Wish,
    candidates: Mapping[str, Target],
    rules: tuple[cluster.HARule, ...],
    locations: Mapping[str, str],
    judge: eligibility.Judge,
    wished: wishes.Wishes,
    none: protection.Refusal | None = None,
) -> Target | protection.Refusal:
    """The node that meets most of what is wished, then the one with the most free memory, of those that can
    run the guest and on which Proxmox HA would keep it.

    The node it was planned for stays while no other is clearly better; `none` is said if there is no
    candidate.
    """
    config = guest.config
    if config is not None and (bound := eligibility.bound_to_node(config, judge.shared)):
        return bound[0]
    if not candidates:
        return none or protection.Refusal(FailoverReady.NO_TARGET, "no other node takes guests now")
    able = judge.able(config, candidates) if config is not None else candidates.keys()
    left = {name: target for name, target in candidates.items() if name in able}
    if config is not None and not left:
        return judge.nowhere(config, candidates)
    left = {name: target for name, target in left.items() if guest.memory <= target.free}
    if not left:
        need = guest.memory // 2**20
        return protection.Refusal(
            FailoverReady.NO_CAPACITY, f"no other node that it could run on has {need} MiB of memory free"
        )
    willing = wished.allowed(guest.sid, left, locations)
    if not willing:
        return protection.Refusal(
            FailoverReady.PLACEMENT_FORBIDS,
            "its Required wishes (spec.placement) allow none of the nodes that are left: "
            f"{wished.reasons(guest.sid)}",
        )
    allowed = allowed_nodes(guest.sid, willing, rules, locations)
    if not allowed:
        return protection.Refusal(
            FailoverReady.NATIVE_RULE_FORBIDS, "the HA rules of Proxmox allow none of the nodes that are left"
        )

    def worth(target: Target) -> tuple[bool, int, bool]:
        room = guest.memory + guest.followed_by <= target.free
        return room, wished.liking(guest.sid, target.name, locations), target.lrm_active

    best = max((left[name] for name in sorted(allowed)), key=lambda target: (*worth(target), target.free))
    if guest.planned in allowed:
        target = left[guest.planned]
        if worth(target) == worth(best) and best.free - target.free <= CLEARLY_BETTER * best.memory:
            return target
    return best


def allowed_nodes(
    sid: str, names: frozenset[str], rules: tuple[cluster.HARule, ...], locations: Mapping[str, str]
) -> frozenset[str]:
    """What of `names` the CRM would leave `sid` on: affinity by configuration locations, best node priority
    only."""
    for rule in rules:
        if sid not in rule.sids:
            continue
        others = {locations[other] for other in rule.sids - {sid} if other in locations}
        if rule.type == "node-affinity":
            listed = {name: rule.nodes[name] for name in names if name in rule.nodes}
            best = max(listed.values(), default=0)
            preferred = frozenset(name for name, priority in listed.items() if priority == best)
            names = preferred if preferred or rule.strict else names
        elif rule.type == "resource-affinity" and rule.positive:
            names = frozenset(names & others) if others else names
        elif rule.type == "resource-affinity":
            names = names - others
        else:
            return frozenset()
    return names
