"""A guest is a virtual machine (qemu) or a container (lxc); here is how it is named."""

import dataclasses
import enum
import functools


class GuestKind(enum.Enum):
    """The kind of a guest, by the name the Proxmox API uses in its paths."""

    VM = "qemu"
    CONTAINER = "lxc"

    @property
    def ha_type(self) -> str:
        """Type of the guest's HA resource: `vm` or `ct`."""
        return "vm" if self is GuestKind.VM else "ct"

    @property
    def config_folder(self) -> str:
        """Folder below `/etc/pve/nodes/NODE/` that holds the guest's configuration."""
        return "qemu-server" if self is GuestKind.VM else "lxc"


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class GuestRef:
    """One guest of one cluster; `vmid` is unique in it over both kinds."""

    vmid: int
    kind: GuestKind = dataclasses.field(compare=False)

    @property
    def sid(self) -> str:
        """Service id in Proxmox HA: `vm:100`, `ct:101`."""
        return f"{self.kind.ha_type}:{self.vmid}"

    @property
    def path(self) -> str:
        """The guest in API paths: `qemu/100`, `lxc/101`."""
        return f"{self.kind.value}/{self.vmid}"

    def __str__(self) -> str:
        return self.path


_BY_HA_TYPE = {kind.ha_type: kind for kind in GuestKind}


@functools.lru_cache(maxsize=65536)
def parse_sid(sid: str) -> GuestRef | None:
    """The guest of a service id, or None for ids of another shape."""
    ha_type, _, number = sid.partition(":")
    if ha_type not in _BY_HA_TYPE or not number.isdigit():
        return None
    return GuestRef(int(number), _BY_HA_TYPE[ha_type])


def parse_path(path: str) -> GuestRef | None:
    """The guest of an API path such as `qemu/100`, or None for another shape."""
    kind, _, number = path.partition("/")
    if kind not in {each.value for each in GuestKind} or not number.isdigit():
        return None
    return GuestRef(int(number), GuestKind(kind))
