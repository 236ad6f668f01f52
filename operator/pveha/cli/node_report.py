"""What `pveha node` prints: a table for people, JSON for machines."""

import json
from collections.abc import Sequence
from typing import TextIO

from pveha.nodeshell import rollout


def show(reports: Sequence[rollout.Report], *, as_json: bool, to: TextIO) -> int:
    """Print the reports; the exit status, 1 if a host has an error or a finding that is not ok."""
    print(json.dumps(_json(reports), indent=2) if as_json else _text(reports), file=to)
    return 0 if all(report.ok for report in reports) else 1


def host_keys(reports: Sequence[rollout.Report]) -> dict[str, str]:
    """Pinned host keys by node name."""
    return {report.node: report.host_key for report in reports if report.node}


def lacking(reports: Sequence[rollout.Report]) -> list[str]:
    """Nodes of the clusters whose host key is not among the reports."""
    members = {member for report in reports for member in report.members}
    return sorted(members - host_keys(reports).keys())


def _json(reports: Sequence[rollout.Report]) -> dict[str, object]:
    return {
        "ok": all(report.ok for report in reports),
        "hosts": [
            {
                "host": report.host,
                "node": report.node or None,
                "ok": report.ok,
                "changed": report.did,
                "findings": [
                    {"check": each.name, "ok": each.ok, "message": each.text} for each in report.findings
                ],
                "notes": report.notes,
                "error": report.error or None,
            }
            for report in reports
        ],
    }


def _text(reports: Sequence[rollout.Report]) -> str:
    names = next(([finding.name for finding in each.findings] for each in reports if each.findings), [])
    rows = [["HOST", "NODE", *(name.upper() for name in names), "RESULT"]]
    told = []
    for report in reports:
        found = {finding.name: finding.ok for finding in report.findings}
        cells = ["-" if name not in found else "ok" if found[name] else "FAILED" for name in names]
        rows.append([report.host, report.node or "-", *cells, _result(report)])
        told += [f"{report.host}: {each.name}: {each.text}" for each in report.findings if not each.ok]
        told += [f"{report.host}: {note}" for note in report.notes]
        told += [f"{report.host}: {report.error}"] if report.error else []
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*table, *([""] if told else []), *told])


def _result(report: rollout.Report) -> str:
    done = "; ".join(report.did)
    if report.error:
        return f"FAILED (done: {done})" if done else "FAILED"
    return done or ("nothing to do" if report.ok else "see below")
