"""Where Kubernetes and pveha run: not only on the cluster that is guarded.

A Kubernetes node that is a guest of the Proxmox cluster has the guest's SMBIOS UUID as its systemUUID. One
in a container, or on a Proxmox node itself, has that of the Proxmox node. A container that may not read it
is known by its name.
"""

import dataclasses
from collections.abc import Mapping

from pveha.doctor import finding
from pveha.doctor.patient import LABELS, Patient
from pveha.model import guests, power
from pveha.model.kubernetes import Manifest

CONTROL_PLANE = tuple(f"node-role.kubernetes.io/{role}" for role in ("control-plane", "master", "etcd"))
NOTICED_SECONDS = 50
"""How long a Kubernetes node may be silent before it counts as lost (node-monitor-grace-period's default)."""
DEFAULT_TOLERATION_SECONDS = 300
"""What Kubernetes gives pods that say nothing of `node.kubernetes.io/unreachable`."""
NATIVE = "Proxmox's own HA (135 to 178 s, measured) is all there is till then"


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where on the guarded cluster a Kubernetes node is: on which Proxmox node, and as what."""

    node: str
    what: str


async def control_plane(patient: Patient) -> list[finding.Finding]:
    """The control plane keeps its majority when the Proxmox cluster is gone."""
    machines = [each for each in await patient.machines() if _is_control_plane(each)]
    if not machines:
        message = "no Kubernetes node says that it is of the control plane, so where that runs is not known"
        remedy = "make sure that a hosted control plane is on no guest of this Proxmox cluster"
        return [finding.unknown(message, remedy=remedy)]
    places = await _places(patient)
    names = {_name(each) for each in machines}
    inside = names & places.keys()
    if len(names - inside) < len(names) // 2 + 1:
        where = "; ".join(f"{name} is {places[name].what}" for name in sorted(inside))
        message = (
            f"{len(inside)} of {len(names)} nodes of the control plane are on the Proxmox cluster that pveha "
            f"is to guard ({where}): without it there is no API server, and pveha does nothing"
        )
        return [finding.failure(message, "run the control plane elsewhere, at least its majority")]
    aside = f" ({finding.listed(inside)} is on it, a minority)" if inside else ""
    return [finding.ok(f"the control plane does not depend on the guarded cluster{aside}")]


async def replicas(patient: Patient) -> list[finding.Finding]:
    """At least one replica of pveha is not on the guarded cluster."""
    pods = await _pods(patient)
    if isinstance(pods, finding.Finding):
        return [pods]
    places = await _places(patient)
    if all(machine in places for machine in pods.values()):
        where = "; ".join(f"{pod} on {at}, {places[at].what}" for pod, at in sorted(pods.items()))
        message = f"all replicas of pveha are on the Proxmox cluster that it is to guard: {where}"
        return [finding.failure(message, "run a replica on a machine that is no guest of this cluster")]
    outside = [pod for pod, machine in pods.items() if machine not in places]
    return [finding.ok(f"{len(outside)} of {len(pods)} replicas are not on the guarded cluster")]


async def spread(patient: Patient) -> list[finding.Finding]:
    """No two replicas fail together, with what it costs if they do."""
    pods = await _pods(patient)
    if isinstance(pods, finding.Finding):
        return [pods]
    places = await _places(patient)
    where = {places[machine].node if machine in places else machine for machine in pods.values()}
    if len(where) > 1:
        message = (
            f"{len(pods)} replicas on {finding.listed(where)}: if the one that leads is lost with a node, "
            "another acts as soon as its Lease has run out (15 s by default) and it has looked for 5 s"
        )
        return [finding.ok(message)]
    seconds = max(map(_toleration, await patient.replicas()))
    bound = (
        f"if {finding.listed(where)} is lost, so is pveha, and nobody takes guests over until Kubernetes "
        f"has noticed (about {NOTICED_SECONDS} s), has waited {seconds} s for its pods and has started one "
        f"elsewhere, some {NOTICED_SECONDS + seconds + 20} s in all; {NATIVE}"
    )
    if len(pods) == 1:
        return [finding.warning(f"there is one replica only: {bound}", "run two (the chart's `replicas`)")]
    message = f"all {len(pods)} replicas are on {finding.listed(where)}: {bound}"
    remedy = "spread them over machines that do not fail together (the chart's `topologyKey`, `affinity`)"
    return [finding.warning(message, remedy)]


async def _pods(patient: Patient) -> Mapping[str, str] | finding.Finding:
    """The Kubernetes node of each replica, or why that is not known."""
    pods = {
        each["metadata"]["name"]: each["spec"]["nodeName"]
        for each in await patient.replicas()
        if (each.get("spec") or {}).get("nodeName")
    }
    if pods:
        return pods
    message = f"no pod with the label {LABELS} has a node, so where the operator runs is not known"
    return finding.unknown(message, remedy="make sure that it does not run on this Proxmox cluster only")


async def _places(patient: Patient) -> Mapping[str, Place]:
    """The Kubernetes nodes that are on the guarded cluster."""
    configs = (await patient.configs()).guests.values()
    statuses = (await patient.statuses()).answers
    found = {}
    for machine in await patient.machines():
        name = _name(machine)
        info = (machine.get("status") or {}).get("nodeInfo") or {}
        identity = frozenset({str(info.get("systemUUID", "")).strip().lower()}) - {""}
        for config in configs:
            virtual = config.ref.kind is guests.GuestKind.VM
            known = frozenset({config.identity.lower()} if virtual and config.identity else ())
            if power.same_machine(identity, known) or (not known and config.name == name):
                found[name] = Place(config.node, f"guest {config.ref} on {config.node}")
                break
        else:
            for node, status in statuses.items():
                if power.same_machine(identity, status.told.identities):
                    found[name] = Place(node, f"{node} itself or a container on it")
    return found


def _is_control_plane(machine: Manifest) -> bool:
    return any(label in (machine["metadata"].get("labels") or {}) for label in CONTROL_PLANE)


def _name(machine: Manifest) -> str:
    return str(machine["metadata"]["name"])


def _toleration(pod: Manifest) -> int:
    """Seconds that a pod stays bound to a node that is lost."""
    for each in (pod.get("spec") or {}).get("tolerations") or ():
        if each.get("key") == "node.kubernetes.io/unreachable" and each.get("tolerationSeconds") is not None:
            return int(each["tolerationSeconds"])
    return DEFAULT_TOLERATION_SECONDS
