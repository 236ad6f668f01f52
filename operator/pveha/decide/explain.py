"""What would happen if nodes died now: who goes where and in which order, who stays down, and why.

It asks the planner that a failure would ask, with the nodes thought away.
"""

import dataclasses

from pveha.decide import estimate, failover, guards, native, protection, told


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
    """Expected; None: not known, or it stays down."""
    reason: str
    """Machine-readable: `OK`, `Native`, or why not."""
    message: str
    """The same for people, with what would have to change."""

    @property
    def recovered(self) -> bool:
        """Whether it would run again."""
        return self.downtime_seconds is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """The answer: rows in the order of restarts, those that stay down last."""

    down: tuple[str, ...]
    obstacles: tuple[str, ...]
    """What keeps everything from being recovered."""
    rows: tuple[Row, ...]


def explain(now: told.Round, down: frozenset[str]) -> Explanation:
    """`down` are names of nodes of the cluster."""
    obstacles = tuple(_obstacles(now, down))
    there = [guest for guest in now.protected.guests.values() if guest.seen.node in down]
    rows = [_native(guest, now) for guest in there] if now.native else _fast(there, now, down)
    if obstacles:
        rows = [
            dataclasses.replace(
                row, target="", downtime_seconds=None, reason="Obstacle", message=obstacles[0]
            )
            if row.recovered
            else row
            for row in rows
        ]
    rows += _unprotected(now, down)
    rows.sort(key=lambda row: not row.recovered)
    return Explanation(tuple(sorted(down)), obstacles, tuple(rows))


def _obstacles(now: told.Round, down: frozenset[str]) -> list[str]:
    found = []
    names = " and ".join(sorted(down))
    if not native.keeps_quorum(down, now.seen, now.verdicts):
        found.append(
            f"without {names} the others have no quorum: nothing is recovered until enough nodes are back "
            "(more nodes, or a QDevice for an even number, would help)"
        )
    limit = guards.allowed_losses(now.wanted.cluster.spec, len(now.verdicts))
    gone = {name for name, verdict in now.verdicts.items() if verdict.lost} | down
    if not now.native and len(gone) > limit:
        found.append(
            f"{len(gone)} lost nodes are more than the {limit} that spec.safety.maxFailedNodesPercent "
            "allows: pveha waits for a person, and Proxmox's own HA goes on"
        )
    return found


def _fast(there: list[protection.Protected], now: told.Round, down: frozenset[str]) -> list[Row]:
    able = []
    refusals: dict[int, protection.Refusal] = {}
    for guest in there:
        refusal = protection.unrecoverable(guest, now.seen, now.memo) or protection.provable(
            guest.seen.node, now.wanted.cluster.spec, now.memo
        )
        if refusal is None:
            able.append(guest)
        else:
            refusals[guest.vmid] = refusal
    promised = failover.promised(now.seen, now.memo, now.protected)
    plan = told.plan(now, down, able, promised)
    refusals.update(plan.refusals)
    rows = []
    for guest in sorted(there, key=lambda each: each.order):
        if refusal := refusals.get(guest.vmid):
            rows.append(_row(guest, "", None, str(refusal.reason), refusal.message))
        else:
            seconds = estimate.downtime_seconds(guest, now)
            rows.append(_row(guest, plan.targets[guest.vmid], seconds, "OK", "started by pveha"))
    return rows


def _native(guest: protection.Protected, now: told.Round) -> Row:
    if refusal := native.unrecoverable(guest, now.seen, now.memo, now.verdicts, now.judge):
        return _row(guest, "", None, str(refusal.reason), refusal.message)
    seconds = estimate.downtime_seconds(guest, now)
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
    """Guests that run there and that nobody protects."""
    found = now.seen.inventory.guests.values() if now.seen.inventory is not None else ()
    return [
        Row(
            guest.ref.vmid,
            "",
            guest.name,
            guest.node,
            "",
            None,
            None,
            "NotProtected",
            "no ProtectedVM names it: create one, or select it by spec.autoProtect",
        )
        for guest in sorted(found, key=lambda each: each.ref.vmid)
        if guest.node in down
        and not guest.template
        and guest.status == "running"
        and guest.ref.vmid not in now.protected.guests
    ]
