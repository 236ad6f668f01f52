"""The network between the operator and one port of a simulated machine.

A gate listens on loopback and passes bytes between a client and a server in this process, as long as the machine's
`Line` says so. What happens on the wire is what happens on a real one:

- `OPEN`: connections are accepted and bytes flow.
- `SILENT` (no power, link cut, process frozen): nothing is answered and nothing is closed. Loopback's kernel still
  completes the TCP handshake, so a new connection hangs in its first read instead of in `connect`. When the line opens
  again, held bytes flow on, as TCP's retransmission would have it.
- `REFUSED` (host up, nobody listens): new connections are refused, established ones are reset.
- a changed `incarnation` (the machine was off in between, or the process was restarted): established connections are
  reset at the next packet that reaches it.
"""

import asyncio
import contextlib
import dataclasses
import enum
import socket
import struct
from collections.abc import Callable, Coroutine, Hashable

_LOOK_EVERY = 0.02
"""Seconds between looks at the line: the resolution of faults on the wire."""
_CHUNK = 65536
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
    """One listening port. `condition` is asked every 20 ms; `serve` is given one end of a socket pair per connection."""

    def __init__(self, address: tuple[str, int], condition: Callable[[], Condition], serve: Serve) -> None:
        self._address = address
        self._condition = condition
        self._serve = serve
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens; raises OSError if the address is taken."""
        await self._listen()
        self._looking = asyncio.create_task(self._look(), name=f"gate {self._address}")

    async def stop(self) -> None:
        tasks = [*self._connections, *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._close_listener()

    async def _listen(self) -> None:
        host, port = self._address
        self._listener = await asyncio.start_server(self._accept, host, port, limit=_CHUNK)

    def _close_listener(self) -> None:
        if self._listener:
            self._listener.close()
            self._listener = None

    async def _look(self) -> None:
        """Opens and closes the listener as the line changes."""
        while True:
            refused = self._condition().line is Line.REFUSED
            if refused:
                self._close_listener()
            elif self._listener is None:
                await self._listen()
            await asyncio.sleep(_LOOK_EVERY)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError):
                await self._while_silent()
                await self._pass(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until either side, or the line, ends it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        inner_reader, inner_writer = await asyncio.open_connection(sock=ours, limit=_CHUNK)
        serving = asyncio.create_task(self._serve(theirs))
        broken = asyncio.create_task(self._broken(self._condition()))
        pumps = {
            asyncio.create_task(self._pump(reader, inner_writer)),
            asyncio.create_task(self._pump(inner_reader, writer)),
        }
        try:
            await asyncio.wait({broken, *pumps}, return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                _reset_on_close(writer)
        finally:
            tasks = (serving, broken, *pumps)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            inner_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries bytes one way; a silent line holds them. Ends at the end of the stream."""
        while chunk := await reader.read(_CHUNK):
            await self._while_silent()
            writer.write(chunk)
            await writer.drain()
        await self._while_silent()
        await writer.drain()

    async def _while_silent(self) -> None:
        while self._condition().line is Line.SILENT:
            await asyncio.sleep(_LOOK_EVERY)

    async def _broken(self, before: Condition) -> None:
        """Returns when the other end no longer knows the connection, and can say so."""
        while True:
            now = self._condition()
            if now.line is Line.REFUSED or (
                now.line is Line.OPEN and now.incarnation != before.incarnation
            ):
                return
            await asyncio.sleep(_LOOK_EVERY)


def _reset_on_close(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
