"""What a UPID, the name of a task, says."""

import dataclasses
import re

from pveha.model import errors

_UPID = re.compile(
    r"UPID:(?P<node>[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)"
    r":(?P<pid>[0-9A-Fa-f]{8}):(?P<pstart>[0-9A-Fa-f]{8,9}):(?P<started>[0-9A-Fa-f]{8})"
    r":(?P<type>[^:\s/]+):(?P<id>[^:\s/]*):(?P<user>[^:\s/]+):"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Upid:
    """A UPID taken apart: the node that runs the task, its Unix start time, what it does (`qmstart`,
    `hastart`, `vzstart`, ...), to which guest, for whom."""

    text: str
    node: str
    started_timestamp: int
    type: str
    id: str
    user: str


def parse(upid: str) -> Upid:
    """Take a UPID apart. Raises `BadAnswer`."""
    match = _UPID.fullmatch(upid)
    if match is None:
        message = f"{upid!r} is not a UPID"
        raise errors.BadAnswer(message)
    return Upid(upid, match["node"], int(match["started"], 16), match["type"], match["id"], match["user"])
