"""Starts that fail because the storage still holds the lock of a client that died (S20).

An NFSv4 lease lasts 90 s, the watcher of an RBD image 30 s, the placement groups of a Ceph whose disks went
down with the node about 20 s. Another node would meet the same lock, and native HA would count each try
against its `max_restart` and `max_relocate`: so the guest stays disowned, where it is, and is tried again.
"""

from collections.abc import Iterable

from pveha.model import cluster

WAIT_SECONDS = 120.0
"""From the first such failure until the guest is given to native HA. With the CRM's two flushes this stays
below the 240 s after which the net on the nodes would (S10)."""
RETRY_SECONDS = 5.0
LEASING = frozenset({"nfs", "cifs", "cephfs", "rbd"})
"""Storage plugins of Proxmox whose servers keep the locks of a dead client for a while."""
TOLD = (
    *('" lock', "lock held", "lock is held", "exclusive lock", "locked by", "another process using"),
    *("i/o blocked", "device or resource busy", "resource temporarily unavailable"),
)
"""What QEMU, librbd and NFS say of a lock, as in `Failed to get "write" lock`. Little of it reaches the exit
status of a task."""
VAGUE = (
    "exited with code",
    "exit code",
    "timeout",
    "timed out",
    "did not run within",
    "startup for container",
)
"""What may be a lock: on a storage that leases it is taken for one."""


def may_be_held(message: str, volumes_on: Iterable[str], seen: cluster.Inventory | None) -> bool:
    """Whether a start that failed with `message` may succeed once a dead client's lock has expired.

    `volumes_on` are the storages of the guest.
    """
    text = message.lower()
    if any(part in text for part in TOLD):
        return True
    types = {each.storage: each.type for each in seen.storages} if seen is not None else {}
    return any(part in text for part in VAGUE) and any(types.get(name) in LEASING for name in volumes_on)
