"""Every way a call to the API can fail, turned into the tree of `model.errors`.

Proxmox VE says most things with status 500 and a sentence; the sentences below were recorded on 9.2. Its
status 595 to 599 come from the node that proxies a call: the node it was for did not answer.
"""

import dataclasses
import json
import re
from collections.abc import Mapping

from typing_extensions import override

from pveha.model import errors

_GATEWAY = {502, 503, 504}
"""What a load balancer in front of the nodes answers when there is none behind it."""


class NoAnswer(errors.Unreachable):
    """The endpoint itself did not answer (as opposed to a node behind it)."""


class NotSent(NoAnswer):
    """No connection came about, so the request cannot have had an effect."""


class NotPassedOn(errors.Unreachable):
    """The endpoint reached nobody to pass the request on to (595), so it cannot have had an effect either."""


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One API call as errors name it; `node` is the node it was for, if the path names one."""

    method: str
    path: str
    endpoint: str
    node: str | None = None

    @override
    def __str__(self) -> str:
        return f"{self.method} {self.path} at {self.endpoint}"


_SENTENCES: tuple[tuple[re.Pattern[str], type[errors.OutsideError]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        # pmxcfs is down on the node asked: it can tell nothing of the cluster.
        (r"RPCEnvironment init request failed", errors.Unreachable),
        (r"no quorum|cluster not ready", errors.NoQuorum),
        # /etc/pve turns read-only without quorum.
        (r"/etc/pve/.*Permission denied", errors.NoQuorum),
        (r"detected modified configuration|checksum mismatch", errors.Conflict),
        (r"already (exists|defined)", errors.AlreadyExists),
        (r"only root\b", errors.Forbidden),
        (r"is locked|can't lock|got lock (request )?timeout|Failed to get .*lock", errors.Locked),
        (r"does not exist|\bno such\b|not HA managed|hostname lookup .* failed", errors.NotFound),
    )
)


def from_answer(call: Call, status: int, reason: str, body: str) -> errors.OutsideError:
    """The error that an answer other than success stands for.

    `reason` is the reason phrase of the status line, where Proxmox VE puts its sentence; `body` may be empty.
    """
    message, fields = _read(body)
    if not message.startswith(reason):
        sentence = f"{reason}: {message}" if message else reason
    else:
        sentence = " ".join(message.split())
    if fields:
        sentence = f"{sentence} {'; '.join(f'{name}: {text.strip()}' for name, text in fields.items())}"
    told = f"{call}: {status} {sentence}"

    if status in _GATEWAY:
        return errors.Unreachable(f"{told} (the gateway has no node behind it)")
    if status in range(595, 600):
        who = f"node {call.node}" if call.node else "the service behind the endpoint"
        kind = NotPassedOn if status == 595 else errors.Unreachable
        return kind(f"{told}: {who} did not answer")
    if status == 401:
        hint = "check tokenID and tokenSecret, and that token and user are enabled and not expired"
        return errors.Unauthorized(f"{told} ({hint})")
    if status == 403:
        return errors.Forbidden(told)
    if status == 501:
        return errors.Refused(f"{told} (this version of Proxmox VE is not supported; pveha needs 9)")
    if status == 400 or status >= 500:
        wanted = "\n".join([reason, message, *fields.values()])
        return next((kind for pattern, kind in _SENTENCES if pattern.search(wanted)), errors.Refused)(told)
    return errors.BadAnswer(f"{told} (no answer of a Proxmox VE API: check host and port)")


def _read(body: str) -> tuple[str, Mapping[str, str]]:
    """`message` and `errors` (by field) of an error's body; empty where it has none."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return "", {}
    if not isinstance(answer, dict):
        return "", {}
    fields = answer.get("errors")
    return (
        str(answer.get("message") or "").strip(),
        {str(name): str(text) for name, text in fields.items()} if isinstance(fields, dict) else {},
    )
