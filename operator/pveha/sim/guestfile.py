"""Guest configuration files as pmxcfs holds them: one text per guest, in one node's folder."""

import dataclasses
import functools
import re

from pveha.model import guests
from pveha.sim import config

PATH = re.compile(r"nodes/([^/]+)/(qemu-server|lxc)/(\d+)\.conf")
_FOLDERS = {kind.config_folder: kind for kind in guests.GuestKind}


@dataclasses.dataclass(frozen=True, slots=True)
class GuestFile:
    """`nodes/NODE/qemu-server/VMID.conf` with its text; `since` is the world's time at which it came to the
    node."""

    ref: guests.GuestRef
    node: str
    text: str
    since: float = 0.0
    came_from: "tuple[str, float] | None" = None
    """Folder before this one, and since when it was there (for stale status)."""

    @property
    def path(self) -> str:
        return path_of(self.ref, self.node)

    @property
    def lock(self) -> str:
        """The lock in the configuration, "" without one."""
        return value(self.text, "lock")

    def with_lock(self, lock: str) -> "GuestFile":
        lines = [line for line in self.text.splitlines() if not line.startswith("lock:")]
        if lock:
            lines.insert(0, f"lock: {lock}")
        return dataclasses.replace(self, text="\n".join(lines) + "\n")

    @property
    def volumes(self) -> tuple[tuple[str, str], ...]:
        """(storage, volume) of each disk; CDs and cloud-init drives are none."""
        return tuple(
            re.findall(
                r"^(?:scsi|virtio|sata|ide|rootfs|mp)\d*: (?!.*media=cdrom)([\w.-]+):([^,\s]+)",
                self.text,
                re.MULTILINE,
            )
        )


@functools.lru_cache(maxsize=4096)
def value(text: str, key: str) -> str:
    """The value of a key in a configuration's first section, or ""."""
    match = re.search(rf"^{key}: *(.*)$", text.split("\n[", 1)[0], re.MULTILINE)
    return match[1].strip() if match else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Network:
    """A network device: its bridge, VLAN tag (0: none), and whether it carries trunks."""

    bridge: str
    tag: int
    trunks: bool


def vcpus(text: str) -> int:
    """CPUs that a guest is given; 0: nothing says it, and a container may use all of its node."""
    return int(value(text, "cores") or 0) * int(value(text, "sockets") or 1)


def networks(text: str) -> list[Network]:
    """Network devices that are on a bridge."""
    found = []
    for device in re.findall(r"^net\d+: *(.*)$", text, re.MULTILINE):
        if bridge := re.search(r"(?:^|,)bridge=([^,]+)", device):
            tag = re.search(r"(?:^|,)tag=(\d+)", device)
            found.append(Network(bridge[1], int(tag[1]) if tag else 0, ",trunks=" in device))
    return found


def mappings(text: str) -> list[str]:
    """Resource mappings of a VM: `pci/NAME`, `usb/NAME`, `dir/NAME`."""
    kinds = {"hostpci": "pci", "usb": "usb", "virtiofs": "dir"}
    return [
        f"{kinds[kind]}/{name}"
        for kind, name in re.findall(
            r"^(hostpci|usb|virtiofs)\d+: *(?:.*,)?(?:mapping|dirid)=([^,\s]+)", text, re.MULTILINE
        )
    ]


def media(text: str) -> list[str]:
    """Volumes in CD drives: ISO files and cloud-init."""
    return re.findall(r"^(?:ide|sata|scsi)\d+: *([\w.-]+:[^,\s]+),.*media=cdrom", text, re.MULTILINE)


def path_of(ref: guests.GuestRef, node: str) -> str:
    return f"nodes/{node}/{ref.kind.config_folder}/{ref.vmid}.conf"


def parse_path(path: str) -> tuple[guests.GuestRef, str] | None:
    """Guest and node of a configuration's path, or None for other paths."""
    match = PATH.fullmatch(path)
    return (guests.GuestRef(int(match[3]), _FOLDERS[match[2]]), match[1]) if match else None


def render(guest: config.Guest) -> str:
    """The configuration file of a guest as Proxmox writes it."""
    lines = {"name" if guest.kind is guests.GuestKind.VM else "hostname": guest.name}
    if guest.cores:
        lines["cores"] = str(guest.cores)
    lines["memory"] = str(guest.memory >> 20)
    if guest.lock:
        lines["lock"] = guest.lock
    if guest.onboot:
        lines["onboot"] = "1"
    if guest.tags:
        lines["tags"] = ";".join(guest.tags)
    if guest.template:
        lines["template"] = "1"
    for number, storage in enumerate(guest.storages):
        volume = f"{storage}:vm-{guest.vmid}-disk-{number},size=8G"
        if guest.kind is guests.GuestKind.VM:
            lines[f"scsi{number}"] = volume
        else:
            lines["rootfs" if number == 0 else f"mp{number - 1}"] = volume + (
                f",mp=/mnt{number}" if number else ""
            )
    if guest.bridge:
        vm = guest.kind is guests.GuestKind.VM
        lines["net0"] = f"{'virtio' if vm else 'name=eth0'},bridge={guest.bridge}"
    if guest.kind is guests.GuestKind.VM:
        lines["smbios1"] = f"uuid={guest.uuid}"
        if guest.agent:
            lines["agent"] = "1"
    lines.update(guest.extra)
    return "".join(f"{key}: {text}\n" for key, text in lines.items())
