"""On which nodes a guest can run at all: what its configuration asks for, held against what each node has.

Memory, rules and the state of nodes are `placement`'s. What is not known of a node is not held against it:
Proxmox would say it at the start. The conditions are those under which Proxmox VE 9.2 refuses a start
(qemu-server: `config_to_command`, `pve-bridge`; pve-common: `PVE::Network::tap_plug`).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

from pveha.api.conditions import FailoverReady
from pveha.decide import cpu_models, protection, replicas
from pveha.model import guests, node, snapshot

SHOWN = 3
"""Groups of nodes with the same obstacle that one sentence names."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """What a node has for guests."""

    name: str
    storages: frozenset[str]
    """Storages that work there."""
    shared: frozenset[str]
    """Storages of the cluster that are shared, whether or not they work there."""
    equipment: node.Equipment | None = None


Refusals = tuple[protection.Refusal, ...]


def eligibility(guest: node.GuestConfig, place: Place, usable: replicas.Usable | None = None) -> Refusals:
    """Why the guest cannot run at a place that is not its own node, none if it can. `usable`: what replicas
    there are of its local volumes."""
    bound = bound_to_node(guest, place.shared, usable)
    if not bound and usable is not None and _is_local(guest, place.shared) and place.name not in usable.nodes:
        bound = (usable.refusal,)
    missing = () if bound else _storages(guest, place)
    equipment = place.equipment
    if equipment is None:
        return (*bound, *missing)
    return (
        *bound,
        *missing,
        *_mappings(guest.needs, equipment),
        *_networks(guest.needs, equipment),
        *_cpu(guest.needs, equipment),
        *_machine(guest.needs, equipment),
        *_media(guest.needs, equipment, place.shared),
    )


def _is_local(guest: node.GuestConfig, shared: frozenset[str]) -> bool:
    return not guest.storages <= shared


def bound_to_node(
    guest: node.GuestConfig, shared: frozenset[str], usable: replicas.Usable | None = None
) -> Refusals:
    """What of the guest is on its node alone, by its configuration and what replicas there are of it."""
    found = []
    if guest.local_devices:
        devices = ", ".join(sorted(guest.local_devices))
        found.append(
            protection.Refusal(FailoverReady.LOCAL_RESOURCES, f"it is bound to its node by {devices}")
        )
    if (local := sorted(guest.storages - shared)) and usable is None:
        text = f"it has volumes on storage {', '.join(local)}, which other nodes do not have"
        found.append(protection.Refusal(FailoverReady.LOCAL_DISK_ONLY, text))
    elif local and usable is not None and not usable.replicas:
        found.append(usable.refusal)
    return tuple(found)


def bound_while_running(guest: node.GuestConfig, shared: frozenset[str]) -> str:
    """Why the guest cannot be moved while it runs, or an empty string."""
    if bound := bound_to_node(guest, shared):
        return bound[0].message
    if guest.needs.mappings and guest.ref.kind is guests.GuestKind.VM:
        mapped = ", ".join(sorted(guest.needs.mappings))
        return f"it uses mapped devices ({mapped}), with which it cannot be moved while it runs"
    return ""


def shared_storages(seen: snapshot.Snapshot) -> frozenset[str]:
    """Names of the cluster's shared storages."""
    storages = seen.inventory.storages if seen.inventory is not None else ()
    return frozenset(each.storage for each in storages if each.shared)


class Judge:
    """Eligibility of guests as of one snapshot. Guests with the same needs are judged once."""

    def __init__(self, seen: snapshot.Snapshot, usable: replicas.Usables = replicas.nothing) -> None:
        """`usable`: the replicas that guests may be started from."""
        self.shared = shared_storages(seen)
        self.usable = usable
        self._there: dict[str, set[str]] = {}
        for each in seen.inventory.storages if seen.inventory is not None else ():
            if each.available:
                self._there.setdefault(each.node, set()).add(each.storage)
        self._equipment = seen.equipment
        self._names = frozenset(seen.inventory.nodes if seen.inventory is not None else ())
        self._places: dict[str, Place] = {}
        self._known: dict[tuple[object, ...], Refusals] = {}
        self._able: dict[tuple[object, ...], frozenset[str]] = {}

    def place(self, name: str) -> Place:
        """What a node has, as last seen."""
        if name not in self._places:
            storages = frozenset(self._there.get(name, ()))
            self._places[name] = Place(name, storages, self.shared, self._equipment.get(name))
        return self._places[name]

    def bound(self, guest: node.GuestConfig) -> protection.Refusal | None:
        """Why the guest can run on no other node, whatever that has, or None."""
        found = bound_to_node(guest, self.shared, self.usable(guest.ref.vmid))
        return found[0] if found else None

    def refusals(self, guest: node.GuestConfig, name: str) -> Refusals:
        """Why the guest cannot run on a node that is not its own, none if it can."""
        usable = self.usable(guest.ref.vmid)
        key = (guest.storages, guest.local_devices, guest.needs, _alike(usable), name)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = eligibility(guest, self.place(name), usable)
        return found

    def able(self, guest: node.GuestConfig, names: Iterable[str]) -> frozenset[str]:
        """Those of `names`, none of which is the guest's own node, that can run the guest."""
        found = self.everywhere(guest)
        return frozenset(
            name
            for name in names
            if name in found or (name not in self._names and not self.refusals(guest, name))
        )

    def everywhere(self, guest: node.GuestConfig) -> frozenset[str]:
        """Those of all nodes that Proxmox has listed that can run the guest, its own apart."""
        key = (guest.storages, guest.local_devices, guest.needs, _alike(self.usable(guest.ref.vmid)))
        found = self._able.get(key)
        if found is None:
            found = self._able[key] = frozenset(
                name for name in self._names if not self.refusals(guest, name)
            )
        return found

    def nowhere(self, guest: node.GuestConfig, names: Iterable[str]) -> protection.Refusal:
        """Why none of `names` can run the guest, in one reason and sentence."""
        return summary({name: self.refusals(guest, name) for name in names})


def _alike(usable: replicas.Usable | None) -> object:
    """What is the same of guests that are judged the same by their replicas."""
    return (usable.nodes, usable.refusal) if usable is not None else None


def summary(refusals: Mapping[str, Refusals]) -> protection.Refusal:
    """The first refusal of each node in one sentence; the reason is the most frequent one."""
    first = {name: found[0] for name, found in sorted(refusals.items())}
    reasons = [each.reason for each in first.values()]
    reason = max(reasons, key=lambda each: (reasons.count(each), -reasons.index(each)))
    nodes: dict[str, list[str]] = {}
    for name, refusal in first.items():
        nodes.setdefault(refusal.message.removeprefix(f"on {name} "), []).append(name)
    groups = sorted(nodes.items(), key=lambda each: (-len(each[1]), each[1]))
    if len(groups) == 1 and next(iter(first.values())).message == groups[0][0]:
        return protection.Refusal(reason, groups[0][0])
    told = [f"on {', '.join(names)} {text}" for text, names in groups[:SHOWN]]
    if len(groups) > SHOWN:
        told.append(f"and {sum(len(names) for _, names in groups[SHOWN:])} more nodes cannot either")
    return protection.Refusal(reason, f"no other node can run it: {'; '.join(told)}")


def _refuse(reason: FailoverReady, on: str, text: str) -> protection.Refusal:
    return protection.Refusal(reason, f"on {on} {text}")


def _storages(guest: node.GuestConfig, place: Place) -> Refusals:
    missing = sorted((guest.storages | guest.needs.cloudinit) - place.storages)
    if not missing:
        return ()
    text = (
        f"storage {', '.join(missing)} is not available: look at `pvesm status` there and at the storage's "
        "nodes in Datacenter, Storage"
    )
    return (_refuse(FailoverReady.STORAGE_UNAVAILABLE, place.name, text),)


_WORDS = {"pci": "PCI", "usb": "USB", "dir": "directory"}


def _mappings(needs: node.Needs, here: node.Equipment) -> Refusals:
    missing = sorted(needs.mappings - here.mappings) if here.mappings is not None else []
    if not missing:
        return ()
    named = ", ".join(f"{_WORDS.get(kind, kind)} mapping {name}" for kind, _, name in map(_parts, missing))
    text = f"{named} leads to nothing: map a device of that node to it in Datacenter, Resource Mappings"
    return (_refuse(FailoverReady.MAPPING_MISSING, here.node, text),)


def _parts(mapping: str) -> tuple[str, str, str]:
    return mapping.partition("/")


def _networks(needs: node.Needs, here: node.Equipment) -> Refusals:
    if here.bridges is None:
        return ()
    found = []
    if missing := sorted({each.bridge for each in needs.networks} - here.bridges.keys()):
        text = (
            f"there is no bridge or SDN vnet {', '.join(missing)}: make it in System, Network, or add the "
            "node to the vnet's zone and apply"
        )
        found.append(_refuse(FailoverReady.BRIDGE_MISSING, here.node, text))
    for network in sorted(needs.networks, key=lambda each: (each.bridge, each.tag, each.trunks)):
        bridge = here.bridges.get(network.bridge)
        if bridge is not None and (why := _not_carried(network, bridge)):
            text = f"bridge {bridge.name} {why}: correct it in System, Network"
            found.append(_refuse(FailoverReady.VLAN_MISSING, here.node, text))
    return tuple(found)


def _not_carried(network: node.Network, bridge: node.Bridge) -> str:
    """Why a bridge does not carry what a guest sends over it, or an empty string."""
    if bridge.vlan_aware:
        if network.tag and bridge.vlans and not any(a <= network.tag <= b for a, b in bridge.vlans):
            return f"does not carry VLAN {network.tag}"
    elif network.trunks:
        return "is not VLAN-aware, which trunks need"
    elif network.tag and not bridge.uplink:
        return f"is neither VLAN-aware nor has a network card, which VLAN {network.tag} needs"
    return ""


def _cpu(needs: node.Needs, here: node.Equipment) -> Refusals:
    found = []
    if here.cpus is not None and needs.cores > here.cpus:
        text = f"there are {here.cpus} CPUs, and it has {needs.cores} vCPUs: give it fewer"
        found.append(_refuse(FailoverReady.CPU_UNSUPPORTED, here.node, text))
    if here.cpu_flags is not None and (
        missing := cpu_models.missing(needs.cpu, needs.cpu_flags, here.cpu_flags)
    ):
        text = (
            f"the CPU lacks {', '.join(missing)}, which its CPU type {needs.cpu} needs: give it a type that "
            "all nodes have, such as x86-64-v2-AES"
        )
        found.append(_refuse(FailoverReady.CPU_UNSUPPORTED, here.node, text))
    return tuple(found)


def _machine(needs: node.Needs, here: node.Equipment) -> Refusals:
    version = re.search(r"-(\d+)\.(\d+)", needs.machine)
    if version is None or here.qemu is None or (int(version[1]), int(version[2])) <= here.qemu:
        return ()
    have = ".".join(map(str, here.qemu))
    text = f"QEMU is {have}, too old for its machine type {needs.machine}: upgrade the node"
    return (_refuse(FailoverReady.MACHINE_UNSUPPORTED, here.node, text),)


def _media(needs: node.Needs, here: node.Equipment, shared: frozenset[str]) -> Refusals:
    """Files in CD drives; those on shared storage are where the storage is."""
    if here.media is None:
        return ()
    missing = sorted(each for each in needs.media - here.media if each.partition(":")[0] not in shared)
    if not missing:
        return ()
    text = f"there is no {', '.join(missing)}, which is in its CD drive: eject it, or copy it there"
    return (_refuse(FailoverReady.LOCAL_MEDIA, here.node, text),)
