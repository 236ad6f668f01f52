"""The other end of `python -m pveha.sim`: starts that process and speaks to it, for demo and tests."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pveha.model import errors

ANSWER_SECONDS = 60.0
STOP_SECONDS = 10.0
LINE_BYTES = 2**26


class RefusedError(errors.PvehaError):
    """The data centre did not start, or did not like a line."""


class RemoteDataCenter:
    """A simulated data centre in a process of its own; `about` is its connection data with `manifests`."""

    def __init__(self, child: asyncio.subprocess.Process, about: dict[str, Any]) -> None:
        self._child = child
        self._asking = asyncio.Lock()
        self.about = about

    @classmethod
    async def open(cls, arguments: Sequence[str], log: Path) -> Self:
        """Start one with arguments of `python -m pveha.sim`; its stderr goes to the file `log`."""
        with log.open("ab") as errors_to:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "pveha.sim", *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors_to,
                limit=LINE_BYTES,
                start_new_session=True,
            )
        assert child.stdout is not None
        line = await child.stdout.readline()
        if not line:
            raise RefusedError(f"the simulated data centre did not start:\n{log.read_text(errors='replace')}")
        return cls(child, json.loads(line))

    async def ask(self, line: str) -> Any:
        """The answer to a question, or the world's time at which a fault was applied."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        async with self._asking, asyncio.timeout(ANSWER_SECONDS):
            self._child.stdin.write(line.encode() + b"\n")
            await self._child.stdin.drain()
            answer = json.loads(await self._child.stdout.readline())
        if not answer["ok"]:
            raise RefusedError(f"the data centre refused: {answer['error']}")
        return answer["result"]

    async def unsettled(self, vmids: Sequence[str] | None = None) -> list[str]:
        """Guests (None: all) whose HA resource is missing, not `started`, marked, or not yet listed so by the
        CRM."""
        state = await self.ask("state")
        found = {sid.partition(":")[2]: resource for sid, resource in state["ha"].items()}
        return [
            vmid
            for vmid in (state["guests"] if vmids is None else vmids)
            if vmid not in found
            or found[vmid]["state"] != "started"
            or found[vmid]["crm_state"] != "started"
            or " op=" in found[vmid]["comment"]
        ]

    async def close(self) -> None:
        """End the process."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._child.wait()
                return
        self._child.kill()
        await self._child.wait()
