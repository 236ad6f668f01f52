"""The network between the operator and one port of a simulated machine.

A gate listens on loopback and passes bytes between a client and a server in this process, as long as the
machine's `Line` says so. What happens on the wire is what happens on a real one:

- `OPEN`: connections are accepted and bytes flow.
- `SILENT` (no power, link cut, process frozen): nothing is answered and nothing is closed. Loopback's kernel
  still completes the TCP handshake, so a new connection hangs in its first read instead of in `connect`.
  When the line opens again, held bytes flow on, as TCP's retransmission would have it.
- `REFUSED` (host up, nobody listens): new connections are refused, established ones are reset.
- a changed `incarnation` (the machine was off in between, or the process was restarted): established
  connections are reset at the next packet that reaches it.
"""

import asyncio
import contextlib
import dataclasses
import enum
import socket
import struct
from collections.abc import Callable, Coroutine, Hashable
from typing import cast

from typing_extensions import override

LOOK_EVERY = 0.02
"""Seconds between looks at the line: the resolution of faults on the wire."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with zero seconds: closing sends RST."""


class Line(enum.Enum):
    """What a packet to the port meets."""

    OPEN = "open"
    SILENT = "silent"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """The line now; established connections live only as long as `incarnation` stays the same."""

    line: Line
    incarnation: Hashable = 0


Serve = Callable[[socket.socket], Coroutine[object, object, object]]
"""Serves one connection, given one end of a socket pair; may return once it has begun."""


class Gate:
    """One listening port. `condition` is asked every 20 ms; `serve` gets a socket per connection."""

    def __init__(self, address: tuple[str, int], condition: Callable[[], Condition], serve: Serve) -> None:
        self._address = address
        self._condition = condition
        self._serve = serve
        self._listener: asyncio.Server | None = None
        self._looking: asyncio.Task[None] | None = None
        self._connections: set[_Connection] = set()
        self._now = condition()
        self._changed = False

    async def start(self) -> None:
        """Listens; raises OSError if the address is taken."""
        await self._listen()
        self._looking = asyncio.create_task(self._look(), name=f"gate {self._address}")

    async def stop(self) -> None:
        """Stops listening and ends every connection."""
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self._close_listener()
        for connection in list(self._connections):
            connection.end()
        await asyncio.gather(*(connection.ended() for connection in list(self._connections)))
        self._connections.clear()

    def opened(self, connection: "_Connection") -> None:
        self._connections.add(connection)
        connection.follow()

    def closed(self, connection: "_Connection") -> None:
        self._connections.discard(connection)

    def now(self) -> Condition:
        """The condition at this moment."""
        now = self._condition()
        if now != self._now:
            self._now, self._changed = now, True
        return now

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: _Connection(self, self._serve).outer, *self._address
        )

    def _close_listener(self) -> None:
        if self._listener:
            self._listener.close()
            self._listener = None

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            now = self.now()
            if not self._changed:
                continue
            self._changed = False
            for connection in list(self._connections):
                connection.follow()
            if now.line is Line.REFUSED:
                self._close_listener()
            elif self._listener is None:
                await self._listen()


class _End(asyncio.Protocol):
    """One side of a connection: hands what it receives to the other, or holds it while the line is silent."""

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self.held: list[bytes] = []
        self.lost = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connection.made(self)

    @override
    def data_received(self, data: bytes) -> None:
        self.held.append(data)
        self.flush()

    def flush(self) -> None:
        """Hand on what was received, if the line lets it through and there is somebody to hand it to."""
        there = self.other.transport if self.other else None
        if self._connection.silent or there is None:
            return
        for data in self.held:
            there.write(data)
        self.held.clear()
        if self.lost:
            there.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._connection.lost(self)

    @override
    def pause_writing(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.pause_reading()

    @override
    def resume_writing(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.resume_reading()


class _Connection:
    """A client's connection (`outer`) and the one to the server behind the gate (`inner`)."""

    def __init__(self, gate: Gate, serve: Serve) -> None:
        self._gate = gate
        self._serve = serve
        self.outer, self.inner = _End(self), _End(self)
        self.outer.other, self.inner.other = self.inner, self.outer
        self._incarnation: Hashable = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def silent(self) -> bool:
        return self._gate.now().line is Line.SILENT

    def made(self, end: _End) -> None:
        if end is self.outer:
            self._gate.opened(self)
        else:
            self.outer.flush()

    def follow(self) -> None:
        """The line changed, or the connection is new: begin to serve, hand on what was held, or break."""
        now = self._gate.now()
        if now.line is Line.SILENT:
            return
        if now.line is Line.REFUSED or (self._serving and now.incarnation != self._incarnation):
            self.end()
        elif self._serving is None:
            self._incarnation = now.incarnation
            self._serving = asyncio.create_task(self._begin())
        else:
            self.outer.flush()
            self.inner.flush()

    async def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        for each in (ours, theirs):
            each.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self.inner, sock=ours)
        await self._serve(theirs)

    def lost(self, end: _End) -> None:
        """A server that hangs up is not noticed through a silent line; a client that does is forgotten."""
        if end is self.outer:
            self._gate.closed(self)
            if self.inner.transport:
                self.inner.transport.close()
        else:
            self.inner.flush()

    def end(self) -> None:
        """Reset the client."""
        if self.outer.transport:
            raw = self.outer.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.outer.transport.abort()
        if self.inner.transport:
            self.inner.transport.close()

    async def ended(self) -> None:
        if self._serving:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
