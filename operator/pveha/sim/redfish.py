"""The Redfish face: sushy-tools' emulator, an independent implementation of the protocol, over the world's
BMCs.

The emulator is one Flask application for the whole process, so each request carries its BMC in the WSGI
environment, and `Driver` finds it there. The application blocks, so it runs in a thread; what it does to the
world is done in the event loop. The emulator's own fake driver takes seconds by the wall clock; this one
takes the world's delays.
"""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import flask
from aiohttp import web
from sushy_tools import error
from sushy_tools.emulator import main as emulator
from sushy_tools.emulator.resources.systems import base, fakedriver
from typing_extensions import override
from werkzeug import test as werkzeug

from pveha.sim import certificates, gate, https

if TYPE_CHECKING:
    from pveha.sim import world as worlds

T = TypeVar("T")

_BMC = "pveha.bmc"
"""Key of the request's BMC in its WSGI environment."""
_COMMANDS = {
    "ForceOff": "off",
    "GracefulShutdown": "shutdown",
    "On": "on",
    "ForceOn": "on",
    "ForceRestart": "cycle",
}
_POLICIES = {"on": "AlwaysOn", "off": "AlwaysOff", "last": "LastState"}
"""PowerRestorePolicy of a ComputerSystem for `config.Node.power_restore`."""
_OPEN_PATHS = ("/redfish", "/redfish/v1")
"""Paths that need no credentials."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Connection:
    """A BMC as a thread of the emulator reaches it."""

    world: "worlds.World"
    name: str
    loop: asyncio.AbstractEventLoop

    def ask(self, question: Callable[[], T]) -> T:
        """The answer to `question`, asked in the event loop."""

        async def asked() -> T:
            return question()

        return asyncio.run_coroutine_threadsafe(asked(), self.loop).result()

    @property
    def uuid(self) -> str:
        return self.ask(lambda: self.world.bmcs.by_name[self.name].uuid)


class Driver(base.AbstractSystemsDriver):  # type: ignore[misc]
    """The emulator's view of the BMC that a request is for: one system, named by its UUID."""

    @property
    def _bmc(self) -> _Connection:
        connection: _Connection = flask.request.environ[_BMC]
        return connection

    @classmethod
    def initialize(cls, *_: Any) -> "type[Driver]":
        return cls

    @property
    def driver(self) -> str:
        return "<pveha>"

    @property
    def systems(self) -> list[str]:
        return [self._bmc.uuid]

    @override
    def uuid(self, identity: str) -> str:
        if identity.lower() != self._bmc.uuid:
            raise error.NotFound(f"there is no system {identity} here")
        return self._bmc.uuid

    @override
    def name(self, identity: str) -> str:
        return self._bmc.name

    @override
    def get_power_state(self, identity: str) -> str:
        self.uuid(identity)
        bmc = self._bmc
        return bmc.ask(lambda: bmc.world.bmcs.state(bmc.name).value)

    @override
    def set_power_state(self, identity: str, state: str) -> None:
        self.uuid(identity)
        if state not in _COMMANDS:
            raise error.NotSupportedError(f"ResetType {state}")
        bmc = self._bmc
        if bmc.ask(lambda: bmc.world.bmcs.busy(bmc.name)):
            raise error.FishyError("the BMC is busy", code=HTTPStatus.SERVICE_UNAVAILABLE)
        if not bmc.ask(lambda: bmc.world.bmcs.command(bmc.name, _COMMANDS[state])):
            raise error.FishyError("the BMC refuses the command")

    @override
    def get_boot_device(self, identity: str) -> str:
        return "Hdd"

    @override
    def set_boot_device(self, identity: str, boot_source: str) -> None:
        raise error.NotSupportedError("boot devices")


class RedfishFace:
    """One node's BMC at one address."""

    def __init__(
        self,
        world: "worlds.World",
        name: str,
        address: tuple[str, int],
        identity: certificates.Identity,
        credentials: tuple[str, str],
    ) -> None:
        self._world = world
        self._name = name
        self._credentials = credentials
        self._server = https.Server(address, identity, self._condition, self._handle)
        self.stop = self._server.stop

    async def start(self) -> None:
        """Listens; raises OSError if the address is taken."""
        fakedriver.FakeDriver = Driver
        emulator.app.configure(extra_config={"SUSHY_EMULATOR_FAKE_DRIVER": True})
        await self._server.start()

    def _condition(self) -> gate.Condition:
        answers = self._world.bmcs.answers(self._name) and self._world.reachable(self._name, "bmc")
        return gate.Condition(gate.Line.OPEN if answers else gate.Line.SILENT)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(self._world.bmcs.latency(self._name))
        while not self._world.bmcs.answers(self._name):  # noqa: ASYNC110  a fault has no event to wait for
            await asyncio.sleep(gate.LOOK_EVERY)
        if (
            request.path.rstrip("/") not in _OPEN_PATHS
            and https.basic_credentials(request) != self._credentials
        ):
            return web.Response(status=HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": "Basic"})
        body = await request.read()
        connection = _Connection(self._world, self._name, asyncio.get_running_loop())
        return await asyncio.to_thread(_emulate, request, body, connection)


def _with_policy(body: bytes, connection: _Connection) -> bytes:
    """A system with its power restore policy, which the emulator does not know."""
    with contextlib.suppress(ValueError):
        answer = json.loads(body)
        if isinstance(answer, dict) and "PowerState" in answer:
            machine = connection.world.machines[connection.world.bmcs.by_name[connection.name].machine]
            return json.dumps({**answer, "PowerRestorePolicy": _POLICIES[machine.power_restore]}).encode()
    return body


def _emulate(request: web.BaseRequest, body: bytes, connection: _Connection) -> web.Response:
    """Run the emulator on a request, in this thread."""
    environment = werkzeug.EnvironBuilder(
        path=request.path,
        query_string=request.query_string,
        base_url=f"https://{request.host}",
        method=request.method,
        headers=list(request.headers.items()),
        data=body,
        environ_overrides={_BMC: connection},
    ).get_environ()
    chunks, status, headers = werkzeug.run_wsgi_app(emulator.app, environment, buffered=True)
    return web.Response(
        status=int(status.partition(" ")[0]),
        body=_with_policy(b"".join(chunks), connection),
        headers=[(name, value) for name, value in headers if name.lower() != "content-length"],
    )
