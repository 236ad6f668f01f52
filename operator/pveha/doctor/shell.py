"""`pveha-node` on every member, its key, the timer that is the net underneath (S10), whose cluster it is."""

import asyncio

from pveha.api import meta
from pveha.doctor import finding
from pveha.doctor.patient import Patient
from pveha.model import errors
from pveha.nodeshell import pveha_node

INSTALL = "pveha node install, with all nodes named"
LATE_SECONDS = 180.0
"""The timer's service may take 120 s, and begins again 10 s later."""


async def installed(patient: Patient) -> list[finding.Finding]:
    """It answers the operator's key, in the version of this pveha."""
    if patient.spec.recovery.node_shell is None:
        message = "spec.recovery.nodeShell is not set"
        if patient.fast:
            return [finding.failure(f"{message}: pveha takes nothing over", INSTALL)]
        return [finding.warning(f"{message}: much of this examination needs it", INSTALL)]
    statuses = await patient.statuses()
    found = []
    for name, problem in sorted(statuses.problems.items()):
        message = f"its node shell does not answer, so nothing can be taken over to it: {problem}"
        found.append(finding.failure(message, _remedy(problem), name))
    for name, status in sorted(statuses.answers.items()):
        if status.told.version != pveha_node.VERSION:
            message = f"pveha-node {status.told.version} is there, this pveha has {pveha_node.VERSION}"
            found.append(finding.warning(message, f"{INSTALL}, by the newer pveha of the two", name))
    told = f"pveha-node {pveha_node.VERSION} answers on {finding.listed(statuses.answers)}"
    return found or [finding.ok(told)]


def _remedy(problem: errors.PvehaError) -> str:
    match problem:
        case errors.Unreachable():
            return "check spec.nodes[].address, spec.recovery.nodeShell.port, firewall and sshd on the node"
        case errors.Untrusted():
            return "compare the node's host key with known_hosts in the node shell's Secret"
        case _:
            return INSTALL


async def confined(patient: Patient) -> list[finding.Finding]:
    """The operator's key runs pveha-node and nothing else."""
    answers = (await patient.statuses()).answers

    async def one(name: str) -> finding.Finding | None:
        try:
            came = await patient.other_command(name)
        except errors.PvehaError as error:
            return finding.unknown(f"it could not be tried: {error}", name)
        if not came:
            return None
        message = f"the operator's key runs any command there: `id` was answered {came!r}"
        remedy = (
            "on the node, every line of that key in /root/.ssh/authorized_keys must begin with "
            'command="/usr/local/sbin/pveha-node serve",restrict'
        )
        return finding.failure(message, remedy, name)

    if not answers:
        return [finding.unknown("no node shell answers: see node-shell")]
    found = [each for each in await asyncio.gather(*map(one, sorted(answers))) if each]
    told = f"on {finding.listed(answers)} the operator's key runs pveha-node only"
    return found or [finding.ok(told)]


async def timer(patient: Patient) -> list[finding.Finding]:
    """The timer that gives guests back to Proxmox HA if pveha is gone."""
    answers = (await patient.statuses()).answers
    in_use = bool((await patient.ha_config()).resources)
    found = []
    for name, status in sorted(answers.items()):
        state = status.told.timer
        if state is None:
            found.append(finding.unknown("its pveha-node does not tell of the timer", name, INSTALL))
        elif not state.enabled:
            message = "no timer there: a guest that is taken over while pveha dies stays out of Proxmox HA"
            found.append(finding.failure(message, INSTALL, name))
        elif in_use and (state.looked_seconds_ago is None or state.looked_seconds_ago > LATE_SECONDS):
            ago = state.looked_seconds_ago
            when = "has not looked since boot" if ago is None else f"looked {ago:.0f} s ago for the last time"
            remedy = "see `systemctl status pveha-repair.timer` and `journalctl -u pveha-repair` on the node"
            found.append(finding.failure(f"its timer is enabled, but {when}", remedy, name))
    if not answers:
        return [finding.unknown("no node shell answers: see node-shell")]
    return found or [finding.ok(f"the timer works on {finding.listed(answers)}")]


async def owner(patient: Patient) -> list[finding.Finding]:
    """Whose cluster it is by the register that every takeover looks at (S14)."""
    answers = (await patient.statuses()).answers
    if not answers:
        return [finding.unknown("no node shell answers: see node-shell")]
    ours = f"{await patient.kube.identity()}/{patient.key}"
    owners = {each.told.owner for each in answers.values() if each.told.owner}
    if others := owners - {ours}:
        message = (
            f"the Proxmox cluster belongs to {finding.listed(others)}, and this is {ours}: it may not act"
        )
        remedy = (
            "remove the other HACluster, or take the cluster over: the annotation "
            f"{meta.TAKE_OVER_ANNOTATION}: {min(others)}"
        )
        return [finding.failure(message, remedy)]
    return [
        finding.ok("the register names this HACluster" if owners else "nobody has claimed the cluster yet")
    ]
