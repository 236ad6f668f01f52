"""Power over IPMI 2.0 (RMCP+): each call in a process of its own, as pyghmi blocks and retries as it likes.

Standard: IPMI 2.0, chapter 28 (Get Chassis Status, Chassis Control) and Get System GUID (section 22.14).
`ipmi_call` is the other side of the pipe.
"""

import asyncio
import dataclasses
import json
import os
import sys
import uuid
from collections.abc import Mapping
from typing import Any

from pveha.bmc import process
from pveha.model import errors, power

PORT = 623
SECONDS = 5.0
"""Deadline of a call, from the start of its process to its end."""
_ERRORS: Mapping[str, type[errors.OutsideError]] = {
    "Unauthorized": errors.Unauthorized,
    "Forbidden": errors.Forbidden,
    "Busy": errors.Busy,
    "Refused": errors.Refused,
    "Unreachable": errors.Unreachable,
}


@dataclasses.dataclass(frozen=True, slots=True)
class BmcAddress:
    """A node's BMC."""

    host: str
    username: str
    password: str = dataclasses.field(repr=False)
    port: int = PORT


class IpmiPower:
    """BMCs by name."""

    def __init__(self, bmcs: Mapping[str, BmcAddress], seconds: float = SECONDS) -> None:
        self._bmcs = dict(bmcs)
        self._seconds = seconds

    async def close(self) -> None:
        """Nothing is kept open."""

    async def read(self, name: str) -> power.PowerReading:
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        answer = await self._call(name, "read")
        try:
            state = power.PowerState.ON if answer["on"] else power.PowerState.OFF
            identities = guids(bytes.fromhex(answer["guid"]))
        except (KeyError, TypeError, ValueError) as error:
            message = f"IPMI of {name}: not the documented form: {error}"
            raise errors.BadAnswer(message) from error
        return power.PowerReading(state, identities, asked_at, loop.time())

    async def force_off(self, name: str) -> bool:
        await self._call(name, "off")
        return True

    async def power_on(self, name: str) -> None:
        await self._call(name, "on")

    async def _call(self, name: str, command: str) -> dict[str, Any]:
        if name not in self._bmcs:
            raise errors.InvalidConfiguration(f"no BMC is configured for {name}")
        bmc, what = self._bmcs[name], f"IPMI of {name}, {command}"
        asked = json.dumps({**dataclasses.asdict(bmc), "command": command})
        where = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        ended = await process.run(
            [sys.executable, "-m", "pveha.bmc.ipmi_call"], asked, self._seconds, what, where
        )
        try:
            answer = json.loads(ended.output)
        except ValueError as error:
            message = f"{what}: exit code {ended.code}: {ended.complaint.strip()[-300:]}"
            raise errors.BadAnswer(message) from error
        if "error" in answer:
            message = f"{what} ({bmc.host}:{bmc.port}): {answer['message']}"
            raise _ERRORS.get(answer["error"], errors.BadAnswer)(message)
        return dict(answer)


def guids(told: bytes) -> frozenset[str]:
    """A system GUID as the UUIDs it may stand for: vendors send it forwards or backwards. None if it is
    blank: many boards come so."""
    if len(told) != 16 or len(set(told)) == 1:
        return frozenset()
    return frozenset({str(uuid.UUID(bytes=told)), str(uuid.UUID(bytes=told[::-1]))})
