"""What nodes have for guests beside storage: bridges, mapped devices, CPUs, QEMU, ISO files. How a node tells
of it (the files that the kernel and Proxmox keep), and what a start says that does not find what it needs.

Exit statuses are those of qemu-server 9.2 and pve-container; what only QEMU or a network script says is not
in them.
"""

import errno
import json
import os
import re
from typing import TYPE_CHECKING

from pveha.model import guests
from pveha.sim import config, guestfile

if TYPE_CHECKING:
    from pveha.sim import world as worlds

LEVELS = {
    "qemu64": "fpu vme de pse tsc msr pae mce cx8 apic sep sse sse2 ht syscall nx lm pni cx16 lahf_lm",
    "x86-64-v2": "popcnt sse4_1 sse4_2 ssse3",
    "x86-64-v2-AES": "aes",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
}
"""CPU types that say what they need, each with what it has beyond the one before."""
LOCAL = "/var/lib/vz"
"""Path of the storage `local`."""
KINDS = {"pci": "pci", "usb": "usb", "dir": "directory"}
"""Kinds of resource mappings, and their files in /etc/pve/mapping."""
_QEMU_FAILED = "start failed: QEMU exited with code 1"


class Equipment:
    """All of it, of every node of a world."""

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        nodes = world.config.nodes
        self.bridges = {node.name: {bridge.name: bridge for bridge in node.bridges} for node in nodes}
        self.levels = {node.name: node.cpu for node in nodes}
        self.qemu = {node.name: node.qemu for node in nodes}
        self.isos = {node.name: set(node.isos) for node in nodes}
        self.mappings = {mapping.name: set(mapping.nodes) for mapping in world.config.mappings}
        """Nodes of each resource mapping, by `pci/NAME`, `usb/NAME`, `dir/NAME`."""
        self._files: dict[str, dict[str, str]] = {}

    # What people change

    def set_bridge(self, node: str, bridge: str, *, there: bool) -> None:
        if there:
            self.bridges[node][bridge] = config.Bridge(bridge)
        else:
            del self.bridges[node][bridge]
        self._changed(node, f"bridge {bridge} {'is there' if there else 'is gone'}")

    def set_mapping(self, mapping: str, node: str, *, there: bool) -> None:
        nodes = self.mappings.setdefault(mapping, set())
        (nodes.add if there else nodes.discard)(node)
        self._changed(node, f"mapping {mapping} {'leads' if there else 'no longer leads'} to it")

    def set_cpu(self, node: str, level: str) -> None:
        if level not in LEVELS:
            raise KeyError(f"CPU {level}, there are {', '.join(LEVELS)}")
        self.levels[node] = level
        self._changed(node, f"its CPU is a {level}")

    def set_qemu(self, node: str, version: str) -> None:
        self.qemu[node] = version
        self._changed(node, f"QEMU {version}")

    def set_iso(self, node: str, name: str, *, there: bool) -> None:
        (self.isos[node].add if there else self.isos[node].discard)(name)
        self._changed(node, f"local:iso/{name} {'is there' if there else 'is gone'}")

    def _changed(self, node: str, text: str) -> None:
        self._files.clear()
        self._world.say(node, text)
        self._world.changed()

    # How a start fails

    def obstacle(self, file: guestfile.GuestFile, node: str) -> str | None:
        """Why the guest cannot be started on `node`, storage apart: the exit status of its start task."""
        container = file.ref.kind is guests.GuestKind.CONTAINER
        if any(self._unplugged(device, node) for device in guestfile.networks(file.text)):
            return f"startup for container '{file.ref.vmid}' failed" if container else _QEMU_FAILED
        return None if container else self._vm_obstacle(file, node)

    def _vm_obstacle(self, file: guestfile.GuestFile, node: str) -> str | None:
        text, qemu = file.text, self.qemu[node]
        cpus = self._world.machines[node].about.cpus
        machine = guestfile.value(text, "machine")
        pinned = re.search(r"-(\d+)\.(\d+)", machine)
        if pinned and (int(pinned[1]), int(pinned[2])) > tuple(map(int, qemu.split(".")[:2])):
            return (
                f"Installed QEMU version '{qemu}.0' is too old to run machine type '{machine}', "
                f"please upgrade node '{node}'"
            )
        if guestfile.vcpus(text) > cpus:
            return f"MAX {cpus} vcpus allowed per VM on this node"
        for mapping in guestfile.mappings(text):
            if node not in self.mappings.get(mapping, ()):
                kind, _, name = mapping.partition("/")
                return f"{kind.upper()} device mapping not found for '{name}'"
        for volume in guestfile.media(text):
            store, _, name = volume.partition(":iso/")
            if name and not self._world.storage.is_shared(store) and name not in self.isos[node]:
                return f"volume '{volume}' does not exist"
        asked = guestfile.value(text, "cpu").split(",")[0].removeprefix("cputype=")
        ranks = list(LEVELS)
        if asked in ranks and ranks.index(asked) > ranks.index(self.levels[node]):
            return _QEMU_FAILED
        return None

    def _unplugged(self, device: guestfile.Network, node: str) -> bool:
        bridge = self.bridges[node].get(device.bridge)
        if bridge is None:
            return True
        return not bridge.vlan_aware and (device.trunks or (device.tag > 0 and not bridge.uplink))

    # How a node tells of it

    def read(self, node: str, path: str) -> str | None:
        """A file of the kernel or of Proxmox outside /etc/pve; None if there is none."""
        return self._tree(node).get(path)

    def exists(self, node: str, path: str) -> bool:
        return any(known == path or known.startswith(f"{path}/") for known in self._tree(node))

    def list_dir(self, node: str, path: str) -> list[str]:
        """Names in a folder; ENOENT for one that does not exist."""
        inside = f"{path.rstrip('/')}/"
        names = {
            known[len(inside) :].partition("/")[0] for known in self._tree(node) if known.startswith(inside)
        }
        if not names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return sorted(names - {""})

    def flags(self, node: str) -> str:
        """Flags of the node's CPU, as in /proc/cpuinfo."""
        found = []
        for level, flags in LEVELS.items():
            found.append(flags)
            if level == self.levels[node]:
                break
        more = self._world.machines[node].about.cpu_flags
        return " ".join(dict.fromkeys([*" ".join(found).split(), *more]))

    def _tree(self, node: str) -> dict[str, str]:
        if node not in self._files:
            self._files[node] = self._written(node)
        return self._files[node]

    def _written(self, node: str) -> dict[str, str]:
        """Every file, by path."""
        files, interfaces = {"/sys/class/net/eno1/device/vendor": "0x8086\n"}, ["iface eno1 inet manual\n"]
        for bridge in self.bridges[node].values():
            folder = f"/sys/class/net/{bridge.name}"
            files[f"{folder}/bridge/vlan_filtering"] = f"{int(bridge.vlan_aware)}\n"
            if bridge.uplink:
                files[f"{folder}/brif/eno1/state"] = "3\n"
            vids = f"\tbridge-vids {bridge.vlans}\n" if bridge.vlans else ""
            interfaces.append(f"auto {bridge.name}\niface {bridge.name} inet manual\n{vids}")
        files["/etc/network/interfaces"] = "\n".join(interfaces)
        cpu = f"vendor_id\t: GenuineIntel\nflags\t\t: {self.flags(node)}\n\n"
        cpus = range(self._world.machines[node].about.cpus)
        files["/proc/cpuinfo"] = "".join(f"processor\t: {number}\n{cpu}" for number in cpus)
        known = [{"id": f"pc-q35-{self.qemu[node]}", "type": "q35", "version": self.qemu[node]}]
        files["/usr/share/kvm/machine-versions-x86_64.json"] = json.dumps(known)
        files[f"{LOCAL}/template/iso/"] = ""
        for name in self.isos[node]:
            files[f"{LOCAL}/template/iso/{name}"] = ""
        for mapping, nodes in self.mappings.items():
            if mapping.startswith("pci/") and node in nodes:
                files[f"/sys/bus/pci/devices/{_address(mapping)}/vendor"] = "0x10de\n"
        return files

    def mapping_cfg(self, kind: str) -> str:
        """/etc/pve/mapping/KIND.cfg."""
        values = {
            "pci": "id=10de:2204,node={node},path={address}",
            "usb": "id=1234:5678,node={node}",
            "dir": "node={node},path=/srv/share",
        }
        sections = []
        for mapping, nodes in self.mappings.items():
            its_kind, _, name = mapping.partition("/")
            if its_kind == kind:
                about = [values[kind].format(node=node, address=_address(mapping)) for node in sorted(nodes)]
                sections.append(f"{name}\n" + "".join(f"\tmap {each}\n" for each in about))
        return "\n".join(sections)

    def storage_cfg(self) -> str:
        """/etc/pve/storage.cfg."""
        sections = []
        for about in self._world.config.storages:
            lines = [f"{about.type}: {about.name}"]
            if about.type == "dir":
                lines.append(f"\tpath {LOCAL if about.name == 'local' else f'/mnt/{about.name}'}")
            if about.shared:
                lines.append("\tshared 1")
            if about.nodes:
                lines.append(f"\tnodes {','.join(about.nodes)}")
            sections.append("\n".join(lines) + "\n")
        return "\n".join(sections)


def _address(mapping: str) -> str:
    """The PCI address that a mapping's device has on each of its nodes."""
    return f"0000:{sum(mapping.encode()) % 256:02x}:00.0"
