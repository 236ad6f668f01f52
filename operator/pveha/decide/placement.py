"""Where the guests of a lost or drained node go: what the engine (`placing`) is asked, and what its answer
means.

A guest needs what it has on its node (`eligibility`), memory and CPUs, and a node that takes guests
(`hosts`); users wish (`wishes`), and so do the rules that Proxmox's own HA would keep (`ha_rules`, S12).
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Set

from pveha.api import placement as wish
from pveha.api.conditions import FailoverReady
from pveha.decide import eligibility, ha_rules, hosts, protection, situation, wishes
from pveha.decide.placing import plan as engine
from pveha.decide.placing import problem, why
from pveha.model import cluster, node, operations, snapshot

HA_STEP = 10_000
"""What a step of a node affinity of Proxmox's HA outweighs: all that users usually wish together."""
BEYOND = 90_000
"""What outweighs everything that is wished of a node."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Target of each guest by vmid, and why the others have none."""

    targets: Mapping[int, str]
    refusals: Mapping[int, protection.Refusal]


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """What a guest that is to be placed needs."""

    vmid: int
    sid: str
    memory: int
    """Bytes."""
    config: node.GuestConfig | None
    """None: cannot be read, and nothing of it is held against a node."""
    node: str = ""
    """Where it runs; empty: it is to be placed in any case."""
    priority: int = 0
    planned: str = ""
    """The node it was planned for."""
    shunned: str = ""
    """The node that is its last resort."""
    rather: str = ""
    """The node that it goes to if it can."""
    by_rules: bool = True
    """Whether Proxmox's HA rules are kept."""
    kept: frozenset[str] | None = None
    """The only nodes that come into question; None: any."""
    preemptible: bool = False
    """Whether it may be stopped where it runs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the engine, and what its answer is read with."""

    now: situation.Situation
    asked: problem.Problem
    demands: Mapping[int, Demand]
    native: frozenset[str]
    """Names of the groups that are HA rules of Proxmox."""


def plan(now: situation.Situation, down: Set[str], wanted: Iterable[protection.Protected]) -> Plan:
    """Choose a node for every guest in `wanted` as if the nodes `down` were gone."""
    going = where_taken(now.seen)
    sure: dict[int, str] = {}
    demands: list[Demand] = []
    for guest in wanted:
        if guest.sid in going:
            sure[guest.vmid] = going[guest.sid]
        else:
            demands.append(demand(guest))
    question = ask(now, demands, hosts.nodes(now, down), locations_beside(now, down))
    made = answer(question, now.memo.plans.plan(question.asked), down)
    return Plan({**made.targets, **sure}, made.refusals) if sure else made


@dataclasses.dataclass(frozen=True, slots=True)
class Each:
    """What is asked for each node by itself that is not lost."""

    question: Question
    sure: Mapping[str, Mapping[int, str]]
    """By node that has guests to be planned for: those that are being taken elsewhere, by vmid."""


def ask_each(now: situation.Situation, wanted: Iterable[protection.Protected]) -> Each:
    """`plan` for the guests of each node as if it alone were gone: the question. Guests of lost nodes are
    left out."""
    going = where_taken(now.seen)
    demands: list[Demand] = []
    sure: dict[str, dict[int, str]] = {}
    for guest in wanted:
        where = guest.seen.node
        if where not in now.verdicts or now.verdicts[where].lost:
            continue
        of_node = sure.setdefault(where, {})
        if guest.sid in going:
            of_node[guest.vmid] = going[guest.sid]
        else:
            demands.append(demand(guest, where))
    nobody: frozenset[str] = frozenset()
    return Each(ask(now, demands, hosts.nodes(now, nobody), locations_beside(now, nobody)), sure)


def plan_each(each: Each) -> dict[str, Plan]:
    """The plan for each node that has guests."""
    question = each.question
    made = question.now.memo.plans.each(question.asked)
    found: dict[str, Plan] = {}
    for name, of_node in each.sure.items():
        told = answer(question, made[name], {name})
        found[name] = Plan({**told.targets, **of_node}, told.refusals) if of_node else told
    return found


def demand(guest: protection.Protected, where: str = "") -> Demand:
    """What a protected guest needs. `where`: where it runs, if that is not yet to be thought away."""
    planned = guest.pvm.status.failover_plan
    return Demand(
        guest.vmid,
        guest.sid,
        guest.memory,
        guest.config,
        where,
        guest.pvm.spec.priority,
        planned.target_node if planned is not None else "",
    )


def locations_beside(now: situation.Situation, leaving: Set[str]) -> dict[str, str]:
    """Where all guests are, or are being taken to, by service id; but for those left on `leaving` or on a
    lost node."""
    found = now.seen.inventory.guests.values() if now.seen.inventory else ()
    away = {name for name, verdict in now.verdicts.items() if verdict.lost} | leaving
    return {guest.ref.sid: guest.node for guest in found if guest.node not in away} | where_taken(now.seen)


def where_taken(seen: snapshot.Snapshot) -> dict[str, str]:
    """Where guests are being taken to, by service id."""
    return {
        item.ref.sid: state.operation.target
        for state in seen.operations
        if isinstance(state.operation, operations.Takeover) and state.outcome is None
        for item in state.operation.items
    }


def ask(
    now: situation.Situation,
    demands: Iterable[Demand],
    nodes: tuple[problem.Node, ...],
    locations: Mapping[str, str],
) -> Question:
    """The engine's problem.

    `locations` are those of the guests that stay, by service id. What nodes have in use, memory measured and
    CPUs as configured, is with the guests in `demands` that run there.
    """
    rules, wished = now.seen.ha_rules, now.protected.wished
    by_vmid = {each.vmid: each for each in demands}
    of_guest = ha_rules.by_guest(rules)
    cpus = hosts.cpus(now, by_vmid)
    guests = [
        _guest(each, cpus.get(vmid, 0.0), of_guest.get(each.sid, ()), now.judge, wished)
        for vmid, each in by_vmid.items()
    ]
    groups, native = _groups(by_vmid, rules, wished)
    if staying := {vmid for group in groups for vmid in group.vmids if vmid not in by_vmid}:
        at = {_vmid(sid): where for sid, where in locations.items()}
        guests += [problem.Guest(vmid, 0, at[vmid], stays=True) for vmid in sorted(staying & at.keys())]
    counted: dict[str, int] = {}
    for each in by_vmid.values():
        if each.node:
            counted[each.node] = counted.get(each.node, 0) + each.memory
    counted_cpu: dict[str, float] = {}
    for vmid, cpu in cpus.items():
        where = by_vmid[vmid].node
        counted_cpu[where] = counted_cpu.get(where, 0.0) + cpu
    if counted:
        nodes = tuple(
            dataclasses.replace(
                node,
                used_memory=node.used_memory - counted[node.name],
                used_cpu=node.used_cpu - counted_cpu.get(node.name, 0.0),
            )
            if node.name in counted
            else node
            for node in nodes
        )
    return Question(now, problem.Problem(nodes, tuple(guests), groups), by_vmid, native)


def _guest(
    asked: Demand,
    cpu: float,
    rules: Collection[cluster.HARule],
    judge: eligibility.Judge,
    wished: wishes.Wishes,
) -> problem.Guest:
    eligible = judge.everywhere(asked.config) if asked.config is not None else None
    affinity: Mapping[str, int] = wished.weights.get(asked.sid, _NO_WISH)
    bounds = [asked.kept, wished.bound.get(asked.sid)]
    if asked.by_rules and rules:
        bounds.append(ha_rules.bound(rules))
        if preferred := ha_rules.steps(rules):
            affinity = _sum(affinity, {name: step * HA_STEP for name, step in preferred.items()})
    for names in bounds:
        if names is not None:
            eligible = names if eligible is None else eligible & names
    usable = judge.usable(asked.vmid)
    if usable is not None and len(usable.replicas) > 1:
        affinity = _sum(affinity, dict.fromkeys(usable.preferred, HA_STEP))
    if asked.shunned:
        affinity = _sum(affinity, {asked.shunned: -BEYOND})
    if asked.rather:
        affinity = _sum(affinity, {asked.rather: BEYOND})
    return problem.Guest(
        asked.vmid,
        asked.memory,
        asked.node,
        cpu=cpu,
        priority=asked.priority,
        eligible=eligible,
        affinity=affinity,
        planned=asked.planned,
        preemptible=asked.preemptible,
    )


_NO_WISH: Mapping[str, int] = {}


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in [*one, *(other.keys() - one.keys())]}


def _groups(
    demands: Mapping[int, Demand], rules: tuple[cluster.HARule, ...], wished: wishes.Wishes
) -> tuple[tuple[problem.Group, ...], frozenset[str]]:
    """The groups that concern `demands`, and the names of those that are HA rules of Proxmox. One that says
    what a wish says, as pveha's own do, is left out."""
    found = []
    for group in wished.groups:
        vmids = frozenset(map(_vmid, group.sids))
        if not vmids.isdisjoint(demands):
            found.append(
                problem.Group(
                    str(group),
                    problem.Rule.TOGETHER if group.together else problem.Rule.SEPARATE,
                    vmids,
                    group.required,
                    problem.Topology.ZONE if group.by_zone else problem.Topology.NODE,
                    wish.DEFAULT_WEIGHT,
                )
            )
    said = {(group.rule, group.topology, group.vmids) for group in found if group.required}
    native = []
    for rule in rules:
        if rule.type != cluster.RESOURCE_AFFINITY:
            continue
        vmids = frozenset(map(_vmid, rule.sids))
        vmids -= {vmid for vmid in vmids if vmid in demands and not demands[vmid].by_rules}
        kind = problem.Rule.TOGETHER if rule.positive else problem.Rule.SEPARATE
        if not vmids.isdisjoint(demands) and (kind, problem.Topology.NODE, vmids) not in said:
            native.append(problem.Group(f"HA rule {rule.name}", kind, vmids))
    return (*found, *native), frozenset(group.name for group in native)


def _vmid(sid: str) -> int:
    return int(sid.rpartition(":")[2])


def answer(question: Question, made: engine.Placement, leaving: Set[str]) -> Plan:
    """What the engine's plan means, when the nodes `leaving` take no guests."""
    refusals: dict[int, protection.Refusal] = {}
    if made.left:
        taking = frozenset(
            node.name for node in question.asked.nodes if node.accepts and node.name not in leaving
        )
        for vmid, reason in made.left.items():
            refusals[vmid] = _refusal(question, question.demands[vmid], reason, leaving, taking)
    return Plan(made.targets, refusals)


def _refusal(
    question: Question,
    asked: Demand,
    found: why.Why,
    leaving: Set[str],
    taking: frozenset[str],
) -> protection.Refusal:
    """The first that holds: it is bound to its node; no node takes guests; none has what it needs; wishes or
    rules; memory or CPUs."""
    config, judge, wished = asked.config, question.now.judge, question.now.protected.wished
    if config is not None and (bound := judge.bound(config)):
        return bound
    if not taking:
        return hosts.nobody(question.now, leaving)
    able = judge.able(config, taking) if config is not None else taking
    if config is not None and not able:
        return judge.nowhere(config, taking)
    if not able & wished.bound.get(asked.sid, able):
        return protection.Refusal(
            FailoverReady.PLACEMENT_FORBIDS,
            "its Required wishes (spec.placement) allow none of the nodes that are left: "
            f"{wished.reasons(asked.sid)}",
        )
    if found.reason is why.Reason.NO_ELIGIBLE_NODE:
        return protection.Refusal(
            FailoverReady.NATIVE_RULE_FORBIDS, "the HA rules of Proxmox allow none of the nodes that are left"
        )
    if found.reason is why.Reason.NO_CAPACITY:
        return protection.Refusal(FailoverReady.NO_CAPACITY, found.sentence)
    reason = FailoverReady.PLACEMENT_FORBIDS
    if found.groups and question.native.issuperset(found.groups):
        reason = FailoverReady.NATIVE_RULE_FORBIDS
    return protection.Refusal(reason, found.sentence)
