"""The standard set: losses of nodes as they happen, to be disturbed in every possible way."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pveha.model import cluster, guests
from pveha.sim import chaos, config, simulation

MENDED_AT = 400.0

STORIES: dict[str, tuple[tuple[float, str], ...]] = {
    "power": ((60.0, "power off pve2"),),
    "network": ((60.0, "cut network pve2"),),
    "hang": ((60.0, "hang node pve2"),),
    "crm-master": ((60.0, "power off pve1"),),
    "power-returns": ((60.0, "power off pve2"), (69.0, "power on pve2")),
    "flap": ((60.0, "cut network pve2"), (80.0, "heal pve2")),
    "migration": ((60.0, "migrate guest 101 pve2"), (73.0, "power off pve1")),
    "owner-meddles": ((60.0, "power off pve2"), (69.5, "set vm:102 stopped")),
    "planned": ((60.0, "reboot pve2"),),
    "switched-on": ((60.0, "hang node pve2"),),
    "replicas": (
        (60.0, "power off pve2"),
        (120.0, "power on pve2"),
        *((330.0, f"accept data loss {vmid}") for vmid in (102, 105)),
    ),
    "confirmed": ((60.0, "kill bmc pve2"), (61.0, "power off pve2"), (76.0, "confirm off pve2")),
}
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "switched-on": {"afterwards": 30},
    "confirmed": {"confirmed_seconds": 600},
    "replicas": {
        "lost_seconds": 300,
        "wishes": chaos.Wishes(guests={vmid: {"policyRef": {"name": chaos.POLICY}} for vmid in (102, 105)}),
    },
}
"""Fields of the plans of stories that need more than a BMC for each node and shared storage."""
REPLICAS = (config.Replica("pve3", 60.0, 30.0), config.Replica("pve1", 120.0, 50.0))
"""Of the guests of pve2 in the story of that name."""


def plan(name: str, *more: tuple[float, str], operators: tuple[str, ...] = ("a",)) -> chaos.Plan:
    """A story with further lines: three nodes, six guests, one of them a container, one stopped, two not
    registered yet."""
    found = []
    for number in range(6):
        kind = guests.GuestKind.CONTAINER if number == 4 else guests.GuestKind.VM
        state = cluster.HAState.STOPPED if number == 1 else cluster.HAState.STARTED
        guest = config.managed(101 + number, f"pve{1 + number % 3}", state, kind=kind, running=number != 1)
        found.append(dataclasses.replace(guest, ha=None) if number in (4, 5) else guest)
    about = config.three_nodes(found, master="pve1")
    if name == "replicas":
        local = [
            dataclasses.replace(guest, storages=("zfs",), replicas=REPLICAS)
            if guest.node == "pve2"
            else guest
            for guest in found
        ]
        storages = (*about.storages, config.Storage("zfs", shared=False, type="zfspool"))
        about = dataclasses.replace(about, guests=tuple(local), storages=storages)
    protect = tuple(guest.vmid for guest in found)
    faults = (chaos.Fault(name, (*STORIES[name], *more)),)
    mended = chaos.mended(about, "", operators)
    whole = chaos.Plan(0, about, operators, protect, faults, MENDED_AT, mended)
    return dataclasses.replace(whole, **FIELDS.get(name, {}))


def play(*args: object, **fields: object) -> simulation.Result:
    """What came of it."""
    return simulation.play(plan(*args, **fields))  # type: ignore[arg-type]


def told(result: simulation.Result) -> str:
    """Violations with the end of the log, for a failing test."""
    return "\n".join([*map(str, result.violations), "", *result.log[-80:]])


SAFETY = frozenset(
    {
        "epoch at effect",
        "newer data stays",
        "no live node is fenced",
        "no old branch",
        "nothing without the Lease",
        "one writer",
        "planned is not dead",
        "rename only while off",
        "what was stopped stays stopped",
        "where its disks are",
        "young enough",
    }
)
"""Rules whose violation could make a second copy, or cut or wake a guest. The others say that everything
comes right again; docs/simulation.md says how far that is reached."""


def judge(result: simulation.Result) -> None:
    """Fail on any violated rule: of safety, and that everything comes right by itself."""
    assert not result.violations, told(result)


def judge_fresh(result: simulation.Result, tell: Callable[[str], None]) -> None:
    """Fail where a run that nobody has seen before is not safe, and tell what else it violates."""
    assert not [found for found in result.violations if found.rule in SAFETY], told(result)
    for found in result.violations:
        tell(f"seed {result.seed}: {found}")
