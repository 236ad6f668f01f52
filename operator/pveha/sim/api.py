"""The Proxmox VE REST API of a simulated cluster: what each node answers, in which state, after how long.

`Api.handle` takes a call the way a real node does: its pmxcfs (without which it answers nothing), the token
(wrong ones wait), the route, the privileges, the node the call is for (with another node it is proxied, and
that node may be dead), its pvedaemon, the parameters, and at last the handler. `api_schema` lists the calls,
`api_access` says who may make them, `api_cluster`, `api_ha`, `api_nodes`, `api_replication`, `api_guests` and
`api_tasks` answer. The texts are Proxmox's own.
"""

import asyncio
import collections
import dataclasses
import errno
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING

from pveha.model import guests
from pveha.sim import (
    api_access,
    api_call,
    api_cluster,
    api_guests,
    api_ha,
    api_nodes,
    api_replication,
    api_schema,
    api_tasks,
)

if TYPE_CHECKING:
    from pveha.sim import world as worlds

PMXCFS_DOWN = "RPCEnvironment init request failed: Unable to load access control list: Connection refused"
PMXCFS_SECONDS = 3.0
"""How long libpve tries to reach pmxcfs."""
NO_ROUTE_SECONDS = 3.0
"""A proxied call to a node whose ARP entry is gone; 2.3 to 14 s were seen."""
LOOKUP_SECONDS = 10.0
"""Name resolution of a node that does not exist."""

Handler = Callable[[api_call.Call], Awaitable[object]]

GuestHandler = Callable[[api_call.Call, guests.GuestKind], Awaitable[object]]

_GUEST: Mapping[str, GuestHandler] = {
    "GET /config": api_guests.config,
    "GET /status/current": api_guests.current,
    "POST /status/start": api_guests.start,
    "POST /status/stop": api_guests.stop,
    "POST /status/shutdown": api_guests.shutdown,
    "GET /migrate": api_guests.migrate_precondition,
    "POST /migrate": api_guests.migrate,
}


def _for_kind(handler: GuestHandler, kind: guests.GuestKind) -> Handler:
    return lambda call: handler(call, kind)


_HANDLERS: Mapping[str, Handler] = {
    "GET /version": api_cluster.version,
    "GET /access/permissions": api_cluster.permissions,
    "GET /cluster/status": api_cluster.status,
    "GET /cluster/resources": api_cluster.resources,
    "GET /cluster/ceph/status": api_cluster.ceph_status,
    "GET /cluster/tasks": api_cluster.tasks,
    "GET /cluster/replication": api_replication.list_jobs,
    "GET /cluster/replication/{id}": api_replication.get_job,
    "PUT /cluster/replication/{id}": api_replication.update_job,
    "GET /nodes/{node}/replication": api_replication.states,
    "GET /cluster/ha/resources": api_ha.list_resources,
    "POST /cluster/ha/resources": api_ha.create_resource,
    "GET /cluster/ha/resources/{sid}": api_ha.get_resource,
    "PUT /cluster/ha/resources/{sid}": api_ha.update_resource,
    "DELETE /cluster/ha/resources/{sid}": api_ha.delete_resource,
    "POST /cluster/ha/resources/{sid}/migrate": api_ha.migrate_resource,
    "POST /cluster/ha/resources/{sid}/relocate": api_ha.relocate_resource,
    "GET /cluster/ha/rules": api_ha.list_rules,
    "POST /cluster/ha/rules": api_ha.create_rule,
    "GET /cluster/ha/rules/{rule}": api_ha.get_rule,
    "PUT /cluster/ha/rules/{rule}": api_ha.update_rule,
    "DELETE /cluster/ha/rules/{rule}": api_ha.delete_rule,
    "GET /cluster/ha/status/current": api_ha.current_status,
    "GET /cluster/ha/status/manager_status": api_ha.manager_status,
    "POST /cluster/ha/status/disarm-ha": api_ha.disarm,
    "POST /cluster/ha/status/arm-ha": api_ha.arm,
    "GET /nodes": api_cluster.nodes,
    "GET /nodes/{node}/version": api_nodes.version,
    "GET /nodes/{node}/status": api_nodes.status,
    "POST /nodes/{node}/status": api_nodes.command,
    "GET /nodes/{node}/tasks": api_tasks.of_node,
    "GET /nodes/{node}/tasks/{upid}/status": api_tasks.status,
    "GET /nodes/{node}/tasks/{upid}/log": api_tasks.log,
    "POST /nodes/{node}/qemu/{vmid}/agent/ping": api_guests.ping_agent,
    **{f"GET /nodes/{{node}}/{kind.value}": _for_kind(api_guests.listed, kind) for kind in guests.GuestKind},
    **{
        f"{method} /nodes/{{node}}/{kind.value}/{{vmid}}{end}": _for_kind(handler, kind)
        for kind in guests.GuestKind
        for (method, _, end), handler in ((key.partition(" "), each) for key, each in _GUEST.items())
    },
}


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer, sent `delay` seconds after the handler is done."""

    status: int
    reason: str
    body: bytes = b""
    delay: float = 0.0


class Api:
    """The API of all nodes of one world. `calls` counts calls by method and route."""

    def __init__(
        self, world: "worlds.World", tokens: api_access.Tokens, fingerprints: Mapping[str, str] | None = None
    ) -> None:
        self.world = world
        self.tokens = tokens
        self.calls: collections.Counter[str] = collections.Counter()
        self._fingerprints = fingerprints or {}
        self._unreachable_since: dict[tuple[str, str], float] = {}
        """(from, to): when the first proxied call to an unreachable node was made."""
        self._work: set[asyncio.Task[None]] = set()

    async def handle(
        self,
        node: str,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        caller: api_access.Caller | None,
        *,
        anonymous: bool = False,
    ) -> Response:
        """Answer a call that reached `node`; `path` is below `/api2/json`. `caller` None: wrong credentials
        (`anonymous`: none at all)."""
        try:
            answer = await self._answer(node, method, path, parameters, caller, anonymous=anonymous)
        except api_call.ApiError as error:
            return _failure(error)
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                return _failure(_pmxcfs_down())
            raise
        body = dataclasses.asdict(answer) if isinstance(answer, api_call.Paged) else {"data": answer}
        return Response(200, "OK", json.dumps(body).encode(), self.world.between(self.world.timings.api_call))

    async def _answer(
        self,
        node: str,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        caller: api_access.Caller | None,
        *,
        anonymous: bool,
    ) -> object:
        if not self.world.machines[node].runs("pmxcfs"):
            raise _pmxcfs_down()
        if caller is None:
            told = "No ticket" if anonymous else "Authentication failed!"
            raise api_call.ApiError(401, told, silent=True, delay=self.world.timings.auth_failure)
        found = api_schema.find(method, path)
        if found is None or (
            path.startswith("/cluster/ha/rules") and self.world.machines[node].version < "9"
        ):
            raise api_call.ApiError(501, f"Method '{method} {path}' not implemented")
        route, in_path = found
        self.calls[route.key] += 1
        where = route.on.format(**in_path)
        if route.privileges and not caller.may(where, *route.privileges):
            raise api_call.ApiError(403, f"Permission check failed ({where}, {'|'.join(route.privileges)})")
        on = in_path["node"] if route.proxied else node
        if on != node:
            self._pass_on(node, on)
        if route.protected:
            self._needs_pvedaemon(on)
        values = _values(route, {**parameters, **in_path})
        call = api_call.Call(self.world, on, caller, values, self._fingerprints, self._spawn)
        return await _HANDLERS[route.key](call)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _pass_on(self, node: str, to: str) -> None:
        """What happens when `node` proxies a call to another: the error if that one does not answer."""
        world, pair = self.world, (node, to)
        if to not in world.machines:
            told = f"hostname lookup '{to}' failed - failed to get address info for: {to}: "
            raise api_call.failed(f"{told}Temporary failure in name resolution", LOOKUP_SECONDS)
        machine = world.machines[to]
        if not machine.powered or machine.hung or not world.linked(node, to):
            # The first packets are lost; once the neighbour entry has expired, the kernel says so sooner.
            since = self._unreachable_since.setdefault(pair, world.now())
            if world.now() - since < world.timings.proxy_timeout:
                raise _gateway(595, "Connection timed out", world.timings.proxy_timeout)
            raise _gateway(595, "No route to host", NO_ROUTE_SECONDS)
        self._unreachable_since.pop(pair, None)
        proxy = machine.services["pveproxy"] if machine.up else "stopped"
        if proxy == "hung":
            raise _gateway(596, "Connection timed out", world.timings.proxy_timeout)
        if proxy == "stopped":
            raise _gateway(595, "Connection refused")
        if not machine.runs("pmxcfs"):
            raise _pmxcfs_down()

    def _needs_pvedaemon(self, node: str) -> None:
        state = self.world.machines[node].services["pvedaemon"]
        if state == "stopped":
            raise _gateway(595, "Connection refused")
        if state == "hung":
            raise _gateway(596, "Connection timed out", self.world.timings.proxy_timeout)


def _values(route: api_schema.Route, given: Mapping[str, str]) -> dict[str, api_schema.Value]:
    """The call's parameters, checked; those of a rule depend on its type."""
    known = dict(route.parameters)
    missing: dict[str, str] = {}
    kind = given.get("type", "")
    if route.path.startswith("/cluster/ha/rules") and kind in api_schema.RULE_TYPES:
        if route.method == "POST":
            known.update(api_schema.RULE_TYPES[kind])
            missing = {
                f"oneOf[{kind}].{name}": api_schema.MISSING
                for name in api_schema.RULE_NEEDS[kind]
                if name not in given
            }
        elif route.method == "PUT":
            # A property of another type is refused by the configuration's own check, not by the API's.
            for parameters in api_schema.RULE_TYPES.values():
                known.update(parameters)
    values, complaints = api_schema.read(known, given)
    if complaints or missing:
        raise api_call.bad_parameters({**complaints, **missing})
    return values


def _gateway(status: int, reason: str, delay: float = 0.0) -> api_call.ApiError:
    return api_call.ApiError(status, reason, silent=True, delay=delay)


def _pmxcfs_down() -> api_call.ApiError:
    return api_call.ApiError(500, PMXCFS_DOWN, silent=True, delay=PMXCFS_SECONDS)


def _failure(error: api_call.ApiError) -> Response:
    """Status line and body of an error. 501 comes from another layer, which adds no line feed."""
    reason = error.message.split("\n", 1)[0]
    if error.silent:
        return Response(error.status, reason, b"", error.delay)
    body: dict[str, object] = {"data": None, "message": error.message + ("" if error.status == 501 else "\n")}
    if error.fields:
        body["errors"] = dict(error.fields)
    return Response(error.status, reason, json.dumps(body).encode(), error.delay)
