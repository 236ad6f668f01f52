"""Whether the nodes that are up could lose as many as spec.capacity says: every combination is planned."""

import dataclasses
from collections.abc import Mapping

from pveha.api import hacluster
from pveha.decide import evidence, hosts, memory, protection
from pveha.decide.placing import admission, problem
from pveha.model import cluster

SHOWN = 10
"""Guests that one sentence names."""


@dataclasses.dataclass(frozen=True, slots=True)
class Assessment:
    """The worst that the losses do which are to be tolerated."""

    failures: int
    zones: bool
    """Whether zones fail as one; otherwise nodes."""
    units: admission.Units
    answer: admission.Admission | None
    """None: there are not more units than failures, or the answer is still being worked out."""

    @property
    def too_few(self) -> bool:
        """Whether there are not more units than failures."""
        return len(self.units) <= self.failures

    @property
    def losses(self) -> str:
        """What is lost, in words."""
        what = "zone" if self.zones else "node"
        return f"{self.failures} {what}" if self.failures == 1 else f"{self.failures} {what}s"


def assess(
    about: str,
    asked: problem.Problem,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
    guests: Mapping[int, protection.Protected],
) -> Assessment:
    """Plan the losses for the guests of a problem as `placement.ask_each` makes it. `about` tells questions
    apart that are asked in turn."""
    failures = spec.capacity.tolerate_node_failures
    up = [node for node in asked.nodes if node.name in verdicts and not verdicts[node.name].lost]
    zones = {node.name: node.zone for node in up if node.zone != hosts.NO_ZONE}
    by_zone = len(set(zones.values())) > 1
    units: dict[str, frozenset[str]] = {}
    for node in up:
        unit = zones.get(node.name, node.name) if by_zone else node.name
        units[unit] = units.get(unit, frozenset()) | {node.name}
    if len(units) <= failures:
        return Assessment(failures, by_zone, units, None)
    answer = memo.plans.admit(about, _counted(asked, guests), failures, units)
    return Assessment(failures, by_zone, units, answer)


def _counted(asked: problem.Problem, guests: Mapping[int, protection.Protected]) -> problem.Problem:
    """The problem without plans for guests of which capacity is not asked: those that are not to run, and
    those that no other node could ever run."""

    def counts(guest: problem.Guest) -> bool:
        wanted = protection.wanted_state(guests[guest.vmid]) is cluster.HAState.STARTED
        return wanted and (guest.eligible is None or bool(guest.eligible - {guest.node}))

    found = tuple(
        guest if guest.stays or counts(guest) else dataclasses.replace(guest, stays=True)
        for guest in asked.guests
    )
    return dataclasses.replace(asked, guests=found)


def harm(found: Assessment, guests: Mapping[int, protection.Protected]) -> str:
    """What the worst combination does, in words; an empty string if it does nothing, or is not known yet."""
    answer = found.answer
    if answer is None or answer.fits:
        return ""
    left = [f"{guests[vmid].name} ({vmid})" for vmid in answer.left[:SHOWN]]
    if len(answer.left) > SHOWN:
        left.append(f"and {len(answer.left) - SHOWN} more")
    zones = ("zone " if answer.failures == 1 else "zones ") if found.zones else ""
    who = "1 guest" if len(answer.left) == 1 else f"{len(answer.left)} guests, the least important first,"
    return f"if {zones}{' and '.join(answer.worst)} were lost, {who} would stay down: {', '.join(left)}"


def extent(answer: admission.Admission) -> str:
    """How much of the question is answered, in words."""
    what = "combination" if answer.combinations == 1 else "combinations"
    if answer.exact:
        return f"all {answer.combinations} {what} were planned"
    if answer.checked < answer.combinations:
        return f"not exact: {answer.checked} of {answer.combinations} {what} were planned, the largest"
    return f"not exact: of {answer.combinations} {what} some were only looked over"


def after(
    asked: problem.Problem, targets: Mapping[int, str], sizes: Mapping[int, int], cpus: Mapping[int, float]
) -> problem.Problem:
    """The problem once guests have been moved to their targets; `sizes` are their bytes of memory, `cpus`
    their vCPUs, where these count."""
    there = {guest.vmid for guest in asked.guests if not guest.stays}
    guests = tuple(
        dataclasses.replace(guest, node=targets[guest.vmid]) if guest.vmid in targets else guest
        for guest in asked.guests
    )
    more: dict[str, tuple[int, float]] = {}
    for vmid, target in targets.items():
        if vmid not in there:
            memory_, cpu = more.get(target, (0, 0.0))
            more[target] = memory_ + sizes[vmid], cpu + cpus.get(vmid, 0.0)
    nodes = tuple(
        dataclasses.replace(
            node,
            used_memory=node.used_memory + more[node.name][0],
            used_cpu=node.used_cpu + more[node.name][1],
        )
        if node.name in more
        else node
        for node in asked.nodes
    )
    return dataclasses.replace(asked, nodes=nodes, guests=guests)
