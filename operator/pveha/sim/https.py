"""The HTTPS face: one TLS server per node in front of the simulated API, with the network's physics in
between.
"""

import asyncio
import base64
import contextlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from aiohttp import web

from pveha.sim import api, certificates, gate

if TYPE_CHECKING:
    from pveha.sim import world as worlds

PREFIX = "/api2/json"
_KEEPALIVE_SECONDS = 5.0
"""pveproxy closes idle connections after this time."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Server:
    """An HTTPS server behind a gate."""

    def __init__(
        self,
        address: tuple[str, int],
        identity: certificates.Identity,
        condition: Callable[[], gate.Condition],
        handler: Handler,
    ) -> None:
        self._context: ssl.SSLContext = identity.server_context()
        self._server = web.Server(handler, access_log=None, keepalive_timeout=_KEEPALIVE_SECONDS)
        self._gate = gate.Gate(address, condition, self._serve)

    def present(self, identity: certificates.Identity) -> None:
        """Show another certificate to whoever connects from now on."""
        self._context = identity.server_context()

    async def start(self) -> None:
        """Listens; raises OSError if the address is taken."""
        await self._gate.start()

    async def stop(self) -> None:
        await self._gate.stop()
        await self._server.shutdown(timeout=0.1)

    async def _serve(self, connection: socket.socket) -> None:
        # A client may break off its own handshake.
        with contextlib.suppress(OSError):
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(self._server, connection, ssl=self._context)


class ApiFace:
    """The API of one node at one address."""

    def __init__(
        self, front: api.Api, node: str, address: tuple[str, int], identity: certificates.Identity
    ) -> None:
        self._api = front
        self._node = node
        self._server = Server(address, identity, self._condition, self._handle)
        self.start = self._server.start
        self.stop = self._server.stop
        self.present = self._server.present

    def _condition(self) -> gate.Condition:
        return node_condition(self._api.world, self._node, "api", "pveproxy")

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if not request.path.startswith(f"{PREFIX}/"):
            return web.Response(status=404, reason="Not Found")
        parameters = dict(request.query)
        if request.method in ("POST", "PUT"):
            parameters |= await _form(request)
        authorization = request.headers.get("Authorization")
        response = await self._api.handle(
            self._node,
            request.method,
            request.path.removeprefix(PREFIX),
            parameters,
            self._api.tokens.authenticate(authorization),
            anonymous=authorization is None and "Cookie" not in request.headers,
        )
        await asyncio.sleep(response.delay + self._api.world.lagging.get(self._node, 0.0))
        while self._node in self._api.world.deaf:  # noqa: ASYNC110  a fault has no event to wait for
            await asyncio.sleep(gate.LOOK_EVERY)
        return web.Response(
            status=response.status,
            reason=response.reason,
            body=response.body,
            headers={"Content-Type": "application/json;charset=UTF-8", "Server": "pve-api-daemon/3.0"},
        )


def node_condition(world: "worlds.World", node: str, path: str, service: str) -> gate.Condition:
    """What a packet from the operator to a service of a node meets."""
    machine = world.machines[node]
    if not machine.up or machine.hung or not world.reachable(node, path):
        line = gate.Line.SILENT
    else:
        states = {"running": gate.Line.OPEN, "hung": gate.Line.SILENT, "stopped": gate.Line.REFUSED}
        line = states[machine.services[service]]
    return gate.Condition(line, machine.boot_id)


def basic_credentials(request: web.BaseRequest) -> tuple[str, str] | None:
    """User and password of HTTP basic authentication."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None
    return (user, password) if scheme.lower() == "basic" else None


async def _form(request: web.BaseRequest) -> Mapping[str, str]:
    """Fields of a body, form-encoded or JSON, as text."""
    if request.content_type == "application/json":
        content = json.loads(await request.text() or "{}")
        return {name: str(int(each) if isinstance(each, bool) else each) for name, each in content.items()}
    return {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
