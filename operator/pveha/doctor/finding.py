"""What a check finds."""

import dataclasses
import enum
from collections.abc import Iterable


class Severity(enum.StrEnum):
    """How bad a finding is, the least first."""

    OK = "OK"
    UNKNOWN = "Unknown"
    """It could not be looked at."""
    WARNING = "Warning"
    """Protection works, worse or not in every case."""
    FAILURE = "Failure"
    """Something that is protected would not come back, or nothing would be done at all."""


_ORDER = list(Severity)


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one subject (a node, an endpoint, a guest; "" for the whole cluster)."""

    severity: Severity
    message: str
    subject: str = ""
    remedy: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What one check found; nothing if there is nothing to tell, which is not the same as OK."""

    check: str
    findings: tuple[Finding, ...]


def ok(message: str, subject: str = "") -> Finding:
    return Finding(Severity.OK, message, subject)


def unknown(message: str, subject: str = "", remedy: str = "") -> Finding:
    return Finding(Severity.UNKNOWN, message, subject, remedy)


def warning(message: str, remedy: str, subject: str = "") -> Finding:
    return Finding(Severity.WARNING, message, subject, remedy)


def failure(message: str, remedy: str, subject: str = "") -> Finding:
    return Finding(Severity.FAILURE, message, subject, remedy)


def worst(results: Iterable[Result]) -> Severity:
    """The worst severity; OK without findings."""
    found = [each.severity for result in results for each in result.findings]
    return max(found, key=_ORDER.index, default=Severity.OK)


def listed(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(sorted(names))
