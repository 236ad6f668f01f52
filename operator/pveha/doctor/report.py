"""What `pveha doctor` prints: a table for people, JSON for machines (docs/doctor.md)."""

import textwrap
from collections.abc import Sequence
from typing import Any

from pveha.doctor import examination, finding

VERSION = 1
"""Of the JSON's form; fields may be added to it, none changes its meaning."""
WIDTH = 110
_STATUS = {
    finding.Severity.OK: 0,
    finding.Severity.UNKNOWN: 1,
    finding.Severity.WARNING: 1,
    finding.Severity.FAILURE: 2,
}


def exit_status(reports: Sequence[examination.Report]) -> int:
    """0: all OK; 1: warnings, or something could not be looked at; 2: failures."""
    return max((_STATUS[finding.worst(each.results)] for each in reports), default=0)


def as_json(reports: Sequence[examination.Report]) -> dict[str, Any]:
    """For `--json`."""
    return {
        "version": VERSION,
        "severity": finding.worst([result for each in reports for result in each.results]),
        "clusters": [
            {
                "namespace": each.key.namespace,
                "name": each.key.name,
                "severity": finding.worst(each.results),
                "findings": [
                    {
                        "check": result.check,
                        "severity": found.severity,
                        "subject": found.subject,
                        "message": found.message,
                        "remedy": found.remedy,
                    }
                    for result in each.results
                    for found in result.findings
                ],
            }
            for each in reports
        ],
    }


def as_text(reports: Sequence[examination.Report]) -> str:
    """A table for each cluster; the remedy stands below its finding."""
    return "\n\n".join(_table(each) for each in reports)


def _table(report: examination.Report) -> str:
    rows = [(result.check, found) for result in report.results for found in result.findings]
    first = max(len(check) for check, _ in rows)
    lines = [f"HACluster {report.key}: {finding.worst(report.results)}", ""]
    for check, found in rows:
        head = f"{found.severity:<7}  {check:<{first}}  "
        subject = f"{found.subject}: " if found.subject else ""
        lines += textwrap.wrap(
            f"{subject}{found.message}", WIDTH, initial_indent=head, subsequent_indent=" " * len(head)
        )
        if found.remedy:
            lines += [f"{' ' * len(head)}> {found.remedy}"]
    return "\n".join(lines)
