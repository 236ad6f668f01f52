"""What proves that a node is dead: is it there, does it answer, is it that node's (S1, S2)."""

from collections.abc import Iterable

from pveha.api import hacluster, meta
from pveha.doctor import finding
from pveha.doctor.patient import Patient
from pveha.model import errors, power

RESTORE_OFF = "AlwaysOff"


async def readable(patient: Patient) -> list[finding.Finding]:
    """Every node has fencing, and its power can be read."""
    asked = await patient.readings()
    try:
        nodes, online = await patient.nodes(), await patient.online()
    except errors.PvehaError:
        nodes = frozenset(_node(name) for name in (*asked.answers, *asked.problems))
        online = frozenset()
    found = []
    if bare := nodes - {each.name for each in patient.spec.nodes if each.fencing}:
        if patient.fast:
            message = (
                "its death cannot be proven, because it has no fencing: its guests are left to Proxmox HA"
            )
            found = [finding.failure(message, "add spec.nodes[].fencing", name) for name in sorted(bare)]
        else:
            found = [
                finding.ok(f"engine {patient.spec.recovery.engine}: {finding.listed(bare)} need no fencing")
            ]
    for name, problem in sorted(asked.problems.items()):
        message = f"if the node died now, its death could not be proven: {problem}"
        found.append(finding.failure(message, _remedy(problem), name))
    for name, reading in sorted(asked.answers.items()):
        alone = bool(reading.identities) or "/" not in name
        if reading.state is power.PowerState.OFF and _node(name) in online and alone:
            message = "its BMC reads Off while the node is a member: it is another machine's, or it lies"
            remedy = (
                f"correct spec.nodes[].fencing; then the annotation {meta.REBIND_ANNOTATION}: {_node(name)}"
            )
            found.append(finding.failure(message, remedy, name))
        elif reading.state is power.PowerState.CHANGING:
            found.append(finding.warning("its power is changing right now", "look again in a minute", name))
    read = finding.listed(asked.answers)
    return found or [finding.ok(f"the power of {read} can be read")]


def _remedy(problem: errors.PvehaError) -> str:
    match problem:
        case errors.Unauthorized():
            return "correct username and password in the Secret of spec.nodes[].fencing"
        case errors.Untrusted():
            return "if its certificate was renewed, correct fingerprint or CA; if not, see who answers there"
        case errors.Unreachable():
            return "check the BMC's address, network, firewall and power"
        case _:
            return "correct spec.nodes[].fencing and its Secrets"


def _node(name: str) -> str:
    """Of a name of `Patient.switches`."""
    return name.partition("/")[0]


def _method(known: hacluster.Binding | None, name: str) -> hacluster.MethodBinding | None:
    """What is remembered of the method that a name of `Patient.switches` stands for."""
    method = name.partition("/")[2]
    found = known.methods if known is not None else ()
    return next((each for each in found if method in ("", each.name)), None)


def _remembered(reading: power.PowerReading, known: hacluster.Binding | None) -> bool:
    return known is not None and _same(reading, known.identities)


async def bound(patient: Patient) -> list[finding.Finding]:
    """A BMC proves the death of the node whose identity it shows, and of no other."""
    asked, statuses = await patient.readings(), await patient.statuses()
    bindings = {each.name: each for each in patient.status.bindings}
    identities = {name: each.told.identities for name, each in statuses.answers.items()}
    found, fine = [], []
    for name, reading in sorted(asked.answers.items()):
        known = _method(bindings.get(_node(name)), name)
        if known is not None and known.voided:
            remedy = f"when it is cleared up: the annotation {meta.REBIND_ANNOTATION}: {_node(name)}"
            found.append(
                finding.failure(f"its binding does not count any more: {known.voided}", remedy, name)
            )
        elif not reading.identities:
            if known is not None:
                fine.append(name)
                continue
            message = "its fencing device does not tell which machine it switches"
            remedy = "such a device is bound only by the drill of docs/fencing.md, on a quiet day"
            found.append(finding.warning(message, remedy, name))
        elif _node(name) not in identities and _remembered(reading, bindings.get(_node(name))):
            fine.append(name)
        elif _node(name) not in identities:
            found.append(finding.unknown("the node does not tell its own identity: see node-shell", name))
        elif not _same(reading, identities[_node(name)]):
            own_ = identities[_node(name)]
            shows, is_ = finding.listed(reading.identities), finding.listed(own_) or "nothing"
            owner = [other for other, own in identities.items() if _same(reading, own)]
            whose = f"; that is {owner[0]}" if owner else ""
            message = f"its BMC shows {shows}{whose}, the node itself {is_}: pveha never fences with it"
            remedy = "correct address or systemID in spec.nodes[].fencing: it is not this node's BMC"
            found.append(finding.failure(message, remedy, name))
        else:
            fine.append(name)
    if not found and not fine:
        return [finding.unknown("no BMC could be read: see fencing")]
    return found or [finding.ok(f"the BMCs of {finding.listed(fine)} show the identities of their nodes")]


def _same(reading: power.PowerReading, identities: Iterable[str]) -> bool:
    return power.same_machine(reading.identities, frozenset(identities))


async def power_restore(patient: Patient) -> list[finding.Finding]:
    """What machines do when the mains return, where their BMCs tell it."""
    told = {name: each.restore for name, each in (await patient.readings()).answers.items() if each.restore}
    off = [name for name, policy in told.items() if policy == RESTORE_OFF]
    if off:
        message = f"{finding.listed(off)} stay off when the mains return: the cluster waits for a person"
        return [finding.warning(message, "set the power restore policy to LastState in the BMC")]
    return [finding.ok(f"when the mains return: {finding.listed(set(told.values()))}")] if told else []
