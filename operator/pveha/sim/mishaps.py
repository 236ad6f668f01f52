"""The kinds of random faults: each draws what goes wrong, where, and when it is mended (`dice`)."""

from collections.abc import Sequence

from pveha.sim import (
    mishaps_guests,
    mishaps_machines,
    mishaps_operators,
    mishaps_people,
    mishaps_replicas,
)

KINDS = {
    **mishaps_machines.KINDS,
    **mishaps_operators.KINDS,
    **mishaps_guests.KINDS,
    **mishaps_people.KINDS,
    **mishaps_replicas.KINDS,
}
"""Every kind of fault by name."""
OF_QDEVICES = frozenset({"qdevice-cut", "qdevice-gone", "history-forked"})
"""Kinds that are drawn only where there is a QDevice."""
OF_WISHES = frozenset({"user-edits-our-rule", "user-adds-a-rule"})
"""Kinds that are drawn only where guests wish something."""
OF_WORDS = frozenset({"confirmed-off", "confirmed-wrongly", "confirmed-before"})
"""Kinds that are drawn, often, only where a person may confirm that a node is off."""
OF_SHELLS = frozenset({"node-shell-replaced", "node-shells-upgraded"})
"""Kinds that are drawn, often, only in the middle of an upgrade of pveha-node."""
OF_UPGRADES = frozenset({"proxmox-upgraded"})
"""The kind that begins a run in the middle of an upgrade of Proxmox VE."""
OF_CHASSIS = frozenset({"chassis-lost"})
"""The kind that is drawn, often, only where two nodes share a chassis."""
OF_REPLICAS = frozenset(mishaps_replicas.KINDS)
"""Kinds that are drawn, often, only where guests are on replicated local disks."""
OF_BMCS = frozenset(kind for kind in KINDS if kind.startswith("bmc-"))
"""Kinds that are drawn only where nodes have BMCs."""
OF_PDUS = frozenset({"outlet-stuck", "pdu-dead"})
"""Kinds that are drawn only where nodes have power distribution units."""
OF_CABLES = frozenset({"cables-swapped"})
"""The kind that is drawn only where each node has one outlet, and a BMC behind which it stands."""


def possible(kind: str, pdus: Sequence[str], has_bmc: bool) -> bool:
    """Whether a data centre whose nodes have these outlets, and BMCs or none, can have such a fault."""
    if kind in OF_CABLES:
        return len(pdus) == 1 and has_bmc
    return not (kind in OF_BMCS and not has_bmc) and not (kind in OF_PDUS and not pdus)


SPECIAL = OF_QDEVICES | OF_WISHES | OF_WORDS | OF_SHELLS | OF_UPGRADES | OF_CHASSIS | OF_REPLICAS
OFTEN = (
    "power-loss",
    "power-loss",
    "power-loss",
    "power-blip",
    "network-cut",
    "network-flap",
    "hang",
    "operator-killed-at-effect",
    "meddling-at-effect",
    "owner-at-effect",
    "leader-stopped",
    "power-button",
)
"""Kinds drawn more often than the rest: without a loss there is no failover to disturb."""
