"""Quorum and what it is worth (S6), how soon a loss is noticed, and clocks."""

import statistics
from collections.abc import Iterable, Iterator

from pveha.doctor import finding
from pveha.doctor.patient import Patient
from pveha.model import errors, node

OPTIONS = {
    "two_node": "each of two halves is quorate alone",
    "last_man_standing": "expected votes follow the nodes that are left, down to one",
    "auto_tie_breaker": "half of the nodes is quorate",
    "allow_downscale": "expected votes shrink when nodes leave",
    "expected_votes": "expected votes are not those of the nodes",
}
"""What each option of corosync.conf's quorum section does to the promise that one side at most is quorate."""
SLOW_SECONDS = 15.0
"""Twice what corosync takes on three nodes with Proxmox's settings (6.6 s, measured)."""
SKEW_SECONDS = 5.0
"""More than a node that keeps its time is ever off."""
HARMFUL_SKEW_SECONDS = 30.0
"""From about 40 s on, a node behind looks for a moment like one whose LRM is dead (docs/failure-modes.md)."""


async def quorum(patient: Patient) -> list[finding.Finding]:
    """What the nodes tell of their membership, each asked itself."""
    asked = await patient.views()
    if not asked.answers:
        raise errors.Unreachable("no node of the cluster answers")
    found = []
    for name, view in sorted(asked.answers.items()):
        if not view.quorate:
            remedy = "bring the other nodes or the cluster network back; do not lower the expected votes"
            message = "the node has no quorum: on this side nothing is done, by pveha or by Proxmox HA"
            found.append(finding.failure(message, remedy, name))
    sides = {view.members for view in asked.answers.values() if view.quorate}
    if len(sides) > 1:
        told = "; ".join(" ".join(sorted(side)) for side in sorted(sides, key=sorted))
        message = f"quorate nodes tell of different members: {told}. pveha does nothing"
        found.append(finding.failure(message, "compare `pvecm status` on the nodes"))
    online, nodes = await patient.online(), await patient.nodes()
    found += [
        finding.warning("the node is not a member now", "see why it is down", name)
        for name in sorted(nodes - online)
    ]
    for name in sorted(asked.problems.keys() & online):
        message = f"the node is a member, but its API does not answer: {asked.problems[name]}"
        remedy = "check spec.nodes[].address, network, firewall (port 8006) and pveproxy on the node"
        found.append(finding.warning(message, remedy, name))
    for name in sorted({each.name for each in patient.spec.nodes} - nodes):
        message = f"spec.nodes names it, but the cluster has {finding.listed(nodes)}"
        found.append(finding.failure(message, "correct the name, or take it out of spec.nodes", name))
    return found or [finding.ok(f"{finding.listed(online)} are members, and all tell the same")]


async def votes(patient: Patient) -> list[finding.Finding]:
    """Whether quorum excludes a second quorate side, and outlives the loss of a node."""
    statuses = await patient.statuses()
    online, nodes = await patient.online(), await patient.nodes()
    told: dict[finding.Finding, list[str]] = {}
    for name, status in sorted(statuses.answers.items()):
        for each in _judge(status.told.votes, whole=online >= nodes):
            told.setdefault(each, []).append(name)
    found = [
        finding.Finding(each.severity, each.message, "" if len(names) > 1 else names[0], each.remedy)
        for each, names in told.items()
    ]
    found += _unasked(statuses.problems, "its votes and corosync options are not known")
    return found or [finding.ok("the votes exclude a second quorate side, and each node may be lost")]


def _judge(votes: node.Votes, *, whole: bool) -> Iterator[finding.Finding]:
    """`whole`: all nodes are members."""
    for option in sorted(votes.unsafe_options):
        message = f"corosync.conf sets {option}: {OPTIONS[option]}. pveha takes nothing over with it"
        remedy = f"remove {option} from the quorum section of /etc/pve/corosync.conf"
        more = " and add a QDevice ('pvecm qdevice setup')" if option == "two_node" else ""
        yield finding.failure(message, f"{remedy}{more}")
    wanted = sum(votes.configured.values()) + votes.qdevice
    if not votes.configured or not votes.expected:
        yield finding.unknown("its votes cannot be read: does corosync run?")
        return
    if votes.expected != wanted and "expected_votes" not in votes.unsafe_options:
        message = (
            f"{votes.expected} votes are expected, nodes and QDevice have {wanted}: two sides may be quorate"
        )
        remedy = f"'pvecm expected {wanted}' on a node, when no node that is away can still run guests"
        yield finding.failure(message, remedy)
    if votes.indispensable:
        lost = " or without ".join(votes.indispensable)
        message = f"without {lost} the rest has no quorum: its guests come back nowhere"
        yield finding.failure(message, "add a node or a QDevice ('pvecm qdevice setup')")
    if whole and votes.qdevice and votes.total < wanted:
        message = (
            f"all nodes are members, but {votes.total} of {wanted} votes are there: the QDevice is missing"
        )
        yield finding.warning(message, "check corosync-qnetd on its machine, and `pvecm status`")


async def detection(patient: Patient) -> list[finding.Finding]:
    """What corosync's token timeout means for how soon a loss is noticed."""
    statuses = await patient.statuses()
    totems = {each.told.totem for each in statuses.answers.values() if each.told.totem}
    if not totems:
        return [finding.unknown("no node tells corosync's timeouts", remedy="pveha node install")]
    found = []
    remaining = max(1, len(await patient.nodes()) - 1)
    device = any(each.told.votes.qdevice for each in statuses.answers.values())
    waits = ", and not before the QDevice has answered" if device else ""
    for totem in totems:
        seconds = totem.loss_seconds(remaining)
        message = (
            f"corosync notices the loss of a node after {seconds:.1f} s (token {totem.token} ms, coefficient "
            f"{totem.token_coefficient} ms, {remaining} nodes left); no takeover can begin earlier{waits}"
        )
        if seconds > SLOW_SECONDS:
            remedy = "lower totem.token in /etc/pve/corosync.conf (3000 ms), if the network allows it"
            found.append(finding.warning(message, remedy))
        else:
            found.append(finding.ok(message))
    return found


async def clocks(patient: Patient) -> list[finding.Finding]:
    """Nodes are compared with their median from three on, with this machine below that."""
    statuses = await patient.statuses()
    told = {name: each for name, each in statuses.answers.items() if each.skew is not None}
    found = [
        finding.unknown("it does not tell its time", name, "pveha node install")
        for name in sorted(statuses.answers.keys() - told.keys())
    ]
    skews = {name: each.skew for name, each in told.items() if each.skew is not None}
    middle = statistics.median(skews.values()) if len(skews) >= 3 else 0.0
    for name, skew in sorted(skews.items()):
        off = abs(skew - middle) - told[name].give_or_take
        if off > SKEW_SECONDS:
            behind = "behind" if skew < middle else "ahead"
            message = (
                f"its clock is {abs(skew - middle):.0f} s {behind}: ages of HA's timestamps are misjudged"
            )
            remedy = "see `chronyc tracking` on the node"
            make = finding.failure if off > HARMFUL_SKEW_SECONDS else finding.warning
            found.append(make(message, remedy, name))
    if abs(middle) > SKEW_SECONDS:
        message = f"all nodes' clocks are {abs(middle):.0f} s off from this machine's"
        found.append(finding.warning(message, "correct this machine's clock, or the nodes' time server"))
    found += _unasked(statuses.problems, "its clock is not known")
    return found or [finding.ok(f"the nodes' clocks agree within {SKEW_SECONDS:g} s")]


def _unasked(silent: Iterable[str], what: str) -> list[finding.Finding]:
    return [finding.unknown(f"{what}: its node shell does not answer", name) for name in sorted(silent)]
