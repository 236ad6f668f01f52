"""The simulated PDUs at one TCP address: a line asks, a line answers.

`status|on|off PDU OUTLET` is answered by `ON`, `OFF`, `OK`, or `ERROR`. `AGENT` is the fence agent that
speaks this, a program of its own with nothing but Python's standard library.
"""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pveha.sim import world as worlds

AGENT = """
import socket
import sys
import time

given = dict(line.strip().partition("=")[::2] for line in sys.stdin if "=" in line)


def ask(action):
    with socket.create_connection((given["ip"], int(given["ipport"])), timeout=4) as device:
        device.sendall(f"{action} {given['switch']} {given['plug']}\\n".encode())
        return device.makefile().readline().strip()


try:
    state = ask("status")
    wanted = given["action"].upper()
    if wanted == "STATUS" and state in ("ON", "OFF"):
        print(f"Status: {state}")
        sys.exit(0 if state == "ON" else 2)
    if wanted not in ("ON", "OFF") or state not in ("ON", "OFF"):
        sys.exit(1)
    if state == wanted:
        print(f"Success: Already {wanted}")
        sys.exit(0)
    ask(wanted.lower())
    for _ in range(100):
        if ask("status") == wanted:
            print(f"Success: Powered {wanted}")
            sys.exit(0)
        time.sleep(0.2)
    sys.exit(7 if wanted == "OFF" else 6)
except OSError as error:
    print(error, file=sys.stderr)
    sys.exit(5)
"""


class PduFace:
    """All PDUs of a world at one address."""

    def __init__(self, world: "worlds.World", address: tuple[str, int]) -> None:
        self._world = world
        self._address = address
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens; raises OSError if the address is taken."""
        self._server = await asyncio.start_server(self._serve, *self._address)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            words = (await reader.readline()).decode().split()
            writer.write(f"{self._answer(words)}\n".encode())
            await writer.drain()
        finally:
            writer.close()

    def _answer(self, words: list[str]) -> str:
        pdus = self._world.pdus
        if len(words) != 3 or (words[1], words[2]) not in pdus.outlets or words[1] in pdus.dead:
            return "ERROR"
        action, pdu, node = words
        if action == "status":
            return pdus.state(pdu, node).value.upper()
        if action not in ("on", "off"):
            return "ERROR"
        pdus.command(pdu, node, action)
        return "OK"
