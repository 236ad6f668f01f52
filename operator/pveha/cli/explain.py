"""`pveha explain`: what would happen if nodes died now."""

import argparse
import asyncio
import dataclasses
import datetime
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from pveha.cli import snapshot as snapshots
from pveha.model import errors

if TYPE_CHECKING:
    from pveha.decide import explain, told


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "explain",
        help="tell who would go where if nodes died now, and who would stay down",
        description="Plan the loss of nodes as the operator would, from what it reads or from a file. "
        "Nothing is changed. Exit status: 0 every guest there would run again; 1 not every one; 3 no answer.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NODE|GUEST",
        help="a node, or a guest (vmid, ProtectedVM or name in Proxmox) whose node is meant",
    )
    parser.add_argument("--fail", metavar="NODE,...", help="nodes that die together")
    parser.add_argument(
        "--file", type=pathlib.Path, metavar="FILE", help="answer from a file of `pveha snapshot`"
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    snapshots.add_cluster(parser)
    parser.set_defaults(run=run, usage=parser.error)


def run(args: argparse.Namespace) -> int:
    from pveha.control import saved
    from pveha.decide import explain, recall, rounds

    if (args.name is None) == (args.fail is None):
        args.usage("name either NODE|GUEST or --fail NODE,...")
    try:
        if args.file is not None:
            seen, wanted = saved.read(args.file)
        else:
            seen, wanted = asyncio.run(snapshots.observe(args))
        now = rounds.understand(seen, wanted, recall.first(wanted.cluster.status))
        down, vmid = _meant(args, now)
    except errors.PvehaError as error:
        print(f"pveha: {error}", file=sys.stderr)
        return 3
    answer = explain.explain(now, down)
    if vmid is not None:
        answer = dataclasses.replace(answer, rows=tuple(row for row in answer.rows if row.vmid == vmid))
    print(json.dumps(_as_json(answer), indent=2) if args.json else _as_text(answer))
    return 0 if all(row.recovered for row in answer.rows) else 1


def _meant(args: argparse.Namespace, now: "told.Round") -> tuple[frozenset[str], int | None]:
    """The nodes to think away, and the one guest that is asked for (None: all of them)."""
    nodes = frozenset(now.verdicts)
    if args.fail is not None:
        down = frozenset(name.strip() for name in args.fail.split(",") if name.strip())
        if not down or down - nodes:
            unknown = ", ".join(sorted(down - nodes)) or "no node"
            raise errors.NotFound(f"--fail: {unknown}; the cluster has {', '.join(sorted(nodes))}")
        return down, None
    if args.name in nodes:
        return frozenset({args.name}), None
    found = now.seen.inventory.guests.values() if now.seen.inventory is not None else ()
    protected = now.protected.guests
    matching = [
        guest
        for guest in found
        if args.name == str(guest.ref.vmid)
        or (guest.ref.vmid in protected and args.name == protected[guest.ref.vmid].name)
    ] or [guest for guest in found if args.name == guest.name]
    if len(matching) != 1:
        many = f"{len(matching)} guests are called {args.name}: name one by its vmid" if matching else ""
        raise errors.NotFound(many or f"the cluster has neither a node nor a guest {args.name}")
    return frozenset({matching[0].node}), matching[0].ref.vmid


def _as_json(answer: "explain.Explanation") -> dict[str, Any]:
    return {
        "down": list(answer.down),
        "obstacles": list(answer.obstacles),
        "notes": list(answer.notes),
        "guests": [
            {
                "vmid": row.vmid,
                "protectedVM": row.name or None,
                "guest": row.guest,
                "from": row.source,
                "to": row.target or None,
                "priority": row.priority,
                "order": row.step.number if row.step is not None else None,
                "wave": row.step.wave if row.step is not None else None,
                "waitsFor": list(row.step.waits) if row.step is not None else [],
                "staysStopped": row.stopped,
                "expectedDowntimeSeconds": row.downtime_seconds,
                "recoveryPointTime": _moment(row.replica.recovery_point) if row.replica is not None else None,
                "dataLossSeconds": round(row.replica.lost_seconds) if row.replica is not None else None,
                "recovered": row.recovered,
                "reason": row.reason,
                "message": row.message,
            }
            for row in answer.rows
        ],
    }


def _as_text(answer: "explain.Explanation") -> str:
    names = " and ".join(answer.down)
    lines = [f"! {each}" for each in answer.obstacles]
    if not answer.rows:
        return "\n".join([*lines, f"No guest runs on {names} or is protected there."])
    table = [("", "GUEST", "VMID", "FROM", "TO", "WAITS FOR", "BACK AFTER", "LOSES", "")]
    for row in answer.rows:
        number, waits = (str(row.step.number), row.step.waits) if row.step is not None else ("", ())
        to = row.target or ("(native HA)" if row.recovered else "-")
        name = row.name or row.guest or "-"
        why = f"{row.reason}: {row.message}"
        loses = f"{row.replica.lost_seconds:.0f} s" if row.replica is not None else "-"
        after = ", ".join(waits) or "-"
        cells = (number, name, str(row.vmid), row.source, to, after, _back(row), loses, why)
        table.append(cells)
    last = len(table[0]) - 1
    widths = [max(len(line[column]) for line in table) for column in range(last)]
    for line in table:
        padded = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False))
        lines.append(f"{padded}  {line[last]}".rstrip())
    lines += [f"Note: {each}" for each in answer.notes]
    to_run = [row for row in answer.rows if not row.stopped]
    back = sum(row.recovered for row in to_run)
    lines.append(f"If {names} died now, {back} of {len(to_run)} guests would run again.")
    return "\n".join(lines)


def _moment(timestamp: float) -> str:
    return f"{datetime.datetime.fromtimestamp(timestamp, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _back(row: "explain.Row") -> str:
    if row.downtime_seconds is not None:
        return f"{row.downtime_seconds} s"
    return "stays stopped" if row.stopped and row.recovered else "stays down"
