"""Logging of the command line: text for people, JSON (one object a line) for machines; to stderr."""

import json
import logging
import sys
from datetime import UTC, datetime

from typing_extensions import override

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

QUIET = {
    "proxmoxer": logging.WARNING,  # logs form data, passwords included, at INFO
    "kubernetes": logging.WARNING,  # logs bodies, Secrets included, at DEBUG
    "aiohttp.access": logging.WARNING,
    "asyncssh": logging.WARNING,
    "kopf": logging.WARNING,
    "kopf._core.reactor.running": logging.ERROR,  # warns that signals are not its own, as intended
}
"""Loggers of libraries that stay at these levels, whatever --log-level says."""


def configure(style: str, level: str) -> None:
    """Send everything to stderr, in `style` and from `level` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(least)


class _Text(logging.Formatter):
    @override
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    @override
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _time(record)


class _Json(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
