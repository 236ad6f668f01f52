"""What one node's API shows of the world, with the real delays.

Membership and the place of configurations show at once. A guest's status is what the pvestatd of the node
that holds the configuration last reported (every 10 s): right after a rename it is still the old node's word,
a dead node's stays `running`, and after 300 s without a report it is `unknown`.
"""

import math
from typing import TYPE_CHECKING

from pveha.model import guests
from pveha.sim import guestfile

if TYPE_CHECKING:
    from pveha.sim import world as worlds


def last_report(world: "worlds.World", witness: str, node: str, until: float) -> float:
    """When the newest report of `node`'s pvestatd that `witness` can know at `until` was made."""
    on, period = world.machines[node], world.timings.pvestatd_round
    if not on.up or on.hung:
        until = min(until, on.dark_since)
    elif on.services["pvestatd"] != "running":
        until = min(until, on.service_since["pvestatd"])
    if node not in world.membership.rings[witness]:
        until = min(until, world.membership.separated_at.get((witness, node), until))
    if math.isinf(until):
        return until
    phase = (on.nodeid * 3.7) % period
    report = math.floor((until - phase) / period) * period + phase
    if on.up and report < on.up_since:
        report = min(report, on.dark_since)
    return report


def guest_status(world: "worlds.World", witness: str, file: guestfile.GuestFile) -> str:
    """A guest's `status` in `/cluster/resources`."""
    now = world.now()
    places = [(file.node, file.since, now)]
    if file.came_from:
        places.append((*file.came_from, file.since))
    for node, since, until in places:
        report = last_report(world, witness, node, until)
        if report >= since or since == 0.0:
            if now - report > world.timings.status_lifetime:
                return "unknown"
            log = world.guests.status_log.get((node, file.ref.vmid), [])
            status = next(
                (status for at, status in reversed(log) if at <= report), log[0][1] if log else "stopped"
            )
            if file.ref.kind is guests.GuestKind.CONTAINER:
                return "running" if status == "running" else "stopped"
            return status
    return "unknown"


def guest_uptime(world: "worlds.World", witness: str, file: guestfile.GuestFile) -> float:
    """A guest's `uptime` in `/cluster/resources`: as of the report that its status is from."""
    places = [(file.node, file.since, world.now())]
    if file.came_from:
        places.append((*file.came_from, file.since))
    for node, since, until in places:
        report = last_report(world, witness, node, until)
        if report >= since or since == 0.0:
            return next(
                (
                    report - ran.start
                    for ran in reversed(world.uptime(file.ref.vmid))
                    if ran.node == node and ran.start <= report and (ran.end is None or ran.end >= report)
                ),
                0.0,
            )
    return 0.0


def storage_available(world: "worlds.World", witness: str, node: str, storage: str) -> bool:
    """Whether a storage is shown as `available` on a node."""
    now = world.now()
    until = min(now, world.storage.cut.get((node, storage), now))
    return now - last_report(world, witness, node, until) <= world.timings.status_lifetime


def node_status(world: "worlds.World", witness: str, node: str) -> str:
    """`online`, `offline`, or `unknown` for a node that just joined or whose pvestatd has been silent for
    long."""
    if not world.membership.sees(witness, node):
        return "offline"
    now = world.now()
    joined = world.membership.joined_at.get(node)
    if joined is not None and now - joined < world.timings.newcomer_unknown:
        return "unknown"
    if now - last_report(world, witness, node, now) > world.timings.status_lifetime:
        return "unknown"
    return "online"


def guest_cpus(world: "worlds.World", file: guestfile.GuestFile) -> int:
    """CPUs that a guest may use."""
    every = world.machines[file.node].about.cpus if file.ref.kind is guests.GuestKind.CONTAINER else 1
    return guestfile.vcpus(file.text) or every


def used_memory(world: "worlds.World", node: str) -> int:
    """Memory in use on a node: the host's own 2 GiB and its processes' guests. One that is dead has told that
    when it was last asked."""
    about, machine = world.guests.about, world.machines[node]
    if machine.up or node not in world.told_memory:
        held = sum(about[vmid].memory for vmid in machine.processes if vmid in about)
        world.told_memory[node] = min(machine.about.memory, (2 << 30) + held)
    return world.told_memory[node]
