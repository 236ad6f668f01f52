"""What the handlers of the simulated API are given, and how they answer."""

import dataclasses
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from pveha.model import errors
from pveha.sim import api_access, api_schema, pmxcfs

if TYPE_CHECKING:
    from pveha.sim import world as worlds

NO_QUORUM = "cluster not ready - no quorum?"


Change = Callable[[pmxcfs.Tree], object]
"""Edits the cluster's configuration; raises `ApiError` where Proxmox declines."""


class ApiError(Exception):
    """An answer other than 200. `message` is what Proxmox dies with; its first line is the HTTP reason.

    `silent`: the body is empty, as it is where the answer comes from the HTTP server itself. `delay` in
    seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        fields: Mapping[str, str] | None = None,
        silent: bool = False,
        delay: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.fields = fields
        self.silent = silent
        self.delay = delay


def failed(message: str, delay: float = 0.0) -> ApiError:
    """Status 500, which Proxmox uses for everything that goes wrong in a handler."""
    return ApiError(500, message, delay=delay)


def bad_parameters(fields: Mapping[str, str]) -> ApiError:
    return ApiError(400, "Parameter verification failed.", fields=fields)


@dataclasses.dataclass(frozen=True, slots=True)
class Paged:
    """An answer whose body carries `total` beside `data`."""

    data: list[dict[str, Any]]
    total: int


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A call that has passed authentication, permissions and parameter checks; `node` is the node that
    answers it.
    """

    world: "worlds.World"
    node: str
    caller: api_access.Caller
    values: Mapping[str, api_schema.Value]
    fingerprints: Mapping[str, str]
    spawn: Callable[[Coroutine[object, object, None]], object]
    """Runs the work of a task beside the call."""

    def text(self, name: str, default: str = "") -> str:
        return str(self.values.get(name, default))

    def integer(self, name: str, default: int = 0) -> int:
        return int(self.values.get(name, default))

    def flag(self, name: str) -> bool:
        return bool(self.values.get(name, False))


def needs_quorum(call: Call) -> None:
    """What everything that starts a worker checks first."""
    if not call.world.membership.quorate(call.node):
        raise failed(NO_QUORUM)


async def write(call: Call, change: Change, what: str = "", *, lock: str = "domain-ha") -> None:
    """Change the cluster's configuration under its cluster-wide lock; `what` begins the sentence of a
    failure."""
    try:
        async with call.world.config_write(call.node) as tree:
            change(tree)
    except errors.NoQuorum:
        raise failed(f"{what}cfs-lock '{lock}' error: no quorum!") from None
    except errors.Unreachable:
        raise failed(f"{what}cfs-lock '{lock}' error: pve cluster filesystem not online.") from None
