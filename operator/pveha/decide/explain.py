"""What would happen if nodes died now: who goes where and in which order, who stays down, and why.

It asks the planner that a failure would ask, with the nodes thought away.
"""

import dataclasses

from pveha.api import hacluster
from pveha.api.conditions import ClusterCondition, Connected, FailoverReady, HAHealthy
from pveha.decide import guards, native, placement, protection, report_cluster, sequence, situation, told
from pveha.model import cluster, operations

OBSERVES = (
    "mode is Observe: pveha would only say this, and Proxmox's own HA recover those that are registered there"
)
UNPROTECTED = "no ProtectedVM names it: create one, or select it by spec.autoProtect"
UNPROTECTED_NATIVE = (
    "no ProtectedVM names it: Proxmox's own HA starts it on a node of its choice, if that has what it needs"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What becomes of one guest."""

    vmid: int
    name: str
    """Of the ProtectedVM; empty if nothing protects the guest."""
    guest: str
    """Its name in Proxmox."""
    source: str
    target: str
    """The node it would run on; empty: it stays down, or Proxmox's own HA chooses."""
    priority: int | None
    downtime_seconds: int | None
    """Expected; None: not known, it stays down, or it is not to run."""
    reason: str
    """Machine-readable: `OK`, `Native`, or why not."""
    message: str
    """The same for people, with what would have to change."""
    step: sequence.Step | None = None
    """Its place in the restart order; None: it is not started by pveha."""
    stopped: bool = False
    """Its owner keeps it stopped: it is moved, and stays so."""
    replica: operations.Replica | None = None
    """What it would be started from, if its disks are not shared."""

    @property
    def recovered(self) -> bool:
        """Whether it would be on another node as its owner wants it."""
        return self.downtime_seconds is not None or (self.stopped and self.target != "")


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """The answer: rows in the order of restarts, those that stay down last."""

    down: tuple[str, ...]
    obstacles: tuple[str, ...]
    """What keeps everything from being recovered."""
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """What else to know."""


def explain(now: told.Round, down: frozenset[str]) -> Explanation:
    """`down` are names of nodes of the cluster."""
    obstacles = tuple(_obstacles(now, down))
    there = [guest for guest in now.protected.guests.values() if guest.seen.node in down]
    rows = [_native(guest, now) for guest in there] if now.native else _fast(there, now, down)
    if obstacles:
        rows = [
            dataclasses.replace(
                row, target="", downtime_seconds=None, reason="Obstacle", message=obstacles[0], step=None
            )
            if row.recovered
            else row
            for row in rows
        ]
    rows += _unprotected(now, down)
    rows.sort(key=_place)
    observes = now.spec.mode is hacluster.Mode.OBSERVE
    return Explanation(tuple(sorted(down)), obstacles, tuple(rows), (OBSERVES,) if observes else ())


def _place(row: Row) -> tuple[bool, bool, int]:
    """Who is started comes first, then who is moved and not started, then who stays down."""
    return (not row.recovered, row.step is None, row.step.number if row.step is not None else 0)


def _obstacles(now: told.Round, down: frozenset[str]) -> list[str]:
    found = []
    names = " and ".join(sorted(down))
    if not native.keeps_quorum(down, now.seen, now.verdicts):
        found.append(
            f"without {names} the others have no quorum: nothing is recovered until enough nodes are back "
            "(more nodes, or a QDevice for an even number, would help)"
        )
    limit = guards.allowed_losses(now.spec, len(now.verdicts))
    gone = {name for name, verdict in now.verdicts.items() if verdict.lost} | down
    if not now.native and len(gone) > limit:
        found.append(
            f"{len(gone)} lost nodes are more than the {limit} that spec.safety.maxFailedNodesPercent "
            "allows: pveha waits for a person, and Proxmox's own HA goes on"
        )
    return found + _in_the_way(now)


def _in_the_way(now: told.Round) -> list[str]:
    """What keeps guests from being recovered whichever node dies; FailoverReady says the same of them all."""
    basis = report_cluster.basis(now)
    if now.native:
        found = [basis[ClusterCondition.QUORATE], basis[ClusterCondition.HA_HEALTHY]]
        return [
            message
            for status, why, message in found
            if status is False and why is not HAHealthy.LRM_NOT_ALIVE
        ]
    found = [basis[ClusterCondition.FAST_READY], basis[ClusterCondition.HA_HEALTHY]]
    if basis[ClusterCondition.CONNECTED][1] is Connected.PRIVILEGES_MISSING:
        found.insert(0, basis[ClusterCondition.CONNECTED])
    spec = now.spec
    paused = [guards.paused(spec), guards.cooldown(now.seen, spec, now.memo)]
    return [message for status, _, message in found if status is False] + [each for each in paused if each]


def _fast(there: list[protection.Protected], now: told.Round, down: frozenset[str]) -> list[Row]:
    able = []
    refusals: dict[int, protection.Refusal] = {}
    for guest in there:
        refusal = protection.unrecoverable(guest, now.seen, now.memo) or protection.provable(
            guest.seen.node, now.spec, now.memo
        )
        if refusal is None:
            able.append(guest)
        else:
            refusals[guest.vmid] = refusal
    plan = placement.plan(now, down, able)
    refusals.update(plan.refusals)
    going = [guest for guest in able if guest.vmid in plan.targets]
    placed = sequence.steps(going, there, now)
    rows = []
    for guest in sorted(there, key=lambda each: each.order):
        step = placed.get(guest.vmid)
        if refusal := refusals.get(guest.vmid):
            rows.append(_row(guest, "", None, str(refusal.reason), refusal.message))
        elif step is not None and step.held:
            rows.append(_row(guest, "", None, str(FailoverReady.DEPENDENCY_NOT_READY), step.held))
        else:
            row = _row(guest, plan.targets[guest.vmid], None, "OK", _started(step))
            seconds = step.seconds if step is not None else None
            replica = situation.replica(now, guest, row.target)
            rows.append(
                dataclasses.replace(
                    row, step=step, downtime_seconds=seconds, stopped=step is None, replica=replica
                )
            )
    return rows


def _started(step: sequence.Step | None) -> str:
    if step is None:
        return "moved by pveha; it stays stopped, as its owner wants it"
    if not step.waits:
        return "started by pveha"
    after = (
        f"started by pveha once {' and '.join(step.waits)} {'is' if len(step.waits) == 1 else 'are'} ready"
    )
    late = f", or at the latest when {' and '.join(step.overdue)} has had its time" if step.overdue else ""
    return after + late


def _native(guest: protection.Protected, now: told.Round) -> Row:
    if refusal := native.unrecoverable(guest, now.seen, now.memo, now.verdicts, now.judge):
        return _row(guest, "", None, str(refusal.reason), refusal.message)
    seconds = native.downtime_seconds(guest.seen.node, now.seen)
    return _row(guest, "", seconds, "Native", "started by Proxmox's own HA, on a node of its choice")


def _row(guest: protection.Protected, target: str, seconds: int | None, reason: str, message: str) -> Row:
    priority = guest.pvm.spec.priority
    return Row(
        guest.vmid,
        guest.name,
        guest.seen.name,
        guest.seen.node,
        target,
        priority,
        seconds,
        reason,
        message,
    )


def _unprotected(now: told.Round, down: frozenset[str]) -> list[Row]:
    """Guests that run there and that pveha does not protect. Those that somebody has registered in Proxmox HA
    are its own matter."""
    found = now.seen.inventory.guests.values() if now.seen.inventory is not None else ()
    managed = now.seen.ha_config.resources if now.seen.ha_config is not None else {}
    quorate = native.keeps_quorum(down, now.seen, now.verdicts)
    rows = []
    for guest in sorted(found, key=lambda each: each.ref.vmid):
        known = guest.ref.vmid in now.protected.guests
        if guest.node not in down or guest.template or guest.status != "running" or known:
            continue
        resource = managed.get(guest.ref.sid)
        if quorate and resource is not None and resource.state is cluster.HAState.STARTED:
            seconds = native.downtime_seconds(guest.node, now.seen)
            reason, message = "Native", UNPROTECTED_NATIVE
        else:
            seconds, reason, message = None, "NotProtected", UNPROTECTED
        rows.append(Row(guest.ref.vmid, "", guest.name, guest.node, "", None, seconds, reason, message))
    return rows
