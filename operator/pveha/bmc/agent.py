"""Power by a fence agent: an executable of the fence-agents project, or of the same interface.

Interface (Fence Agent API, and `fence_action` in fence-agents' `fencing.py`): parameters as `name=value`
lines on standard input. `status` exits with 0 for on and 2 for off, but 2 is also the code of bad arguments,
so the line `Status: OFF` has to be there as well. `off` and `on` exit with 0 once the device shows the new
state; if it shows it already they send nothing and say `Already OFF`.
"""

import asyncio
import dataclasses
import pathlib
import re
from collections.abc import Mapping

from pveha.bmc import process
from pveha.model import errors, power

READ_SECONDS = 5.0
ON_SECONDS = 30.0
FOLDER = pathlib.Path("/usr/sbin")
"""Where Debian's package fence-agents puts them."""
_NAME = re.compile(r"fence_[a-z0-9_]+")
_SECRETS = ("username", "password", "community", "snmp_auth_passwd", "snmp_priv_passwd")
_DENIED = frozenset({3, 10, 11})
"""EC_LOGIN_DENIED, EC_PASSWORD_MISSING, EC_INVALID_PRIVILEGES."""
_NO_ANSWER = frozenset({4, 5})
"""EC_CONNECTION_LOST, EC_TIMED_OUT."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outlet:
    """What a fence agent needs to know to switch one node. Raises `InvalidConfiguration`.

    `secrets` is the data of a Secret: keys that are no secret of an agent are left out.
    """

    agent: str
    parameters: Mapping[str, str]
    secrets: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    timeout: float = 30.0
    folder: pathlib.Path = FOLDER

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.agent):
            raise errors.InvalidConfiguration(f"{self.agent!r} is not the name of a fence agent")
        for name, value in self._given().items():
            if not value.isprintable():
                raise errors.InvalidConfiguration(
                    f"parameter {name} of {self.agent} has a line break or another character that "
                    "cannot be passed on"
                )

    def _given(self) -> dict[str, str]:
        secrets = {name: self.secrets[name] for name in _SECRETS if name in self.secrets}
        return {**self.parameters, **secrets}

    def told(self, action: str) -> str:
        """What the agent reads."""
        return "".join(f"{name}={value}\n" for name, value in {**self._given(), "action": action}.items())


class AgentPower:
    """Outlets by name."""

    def __init__(self, outlets: Mapping[str, Outlet]) -> None:
        self._outlets = dict(outlets)

    async def close(self) -> None:
        """Nothing is kept open."""

    async def read(self, name: str) -> power.PowerReading:
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        ended = await self._run(name, "status", READ_SECONDS)
        said = {line.strip().lower() for line in ended.output.splitlines()}
        if ended.code == 0 and "status: on" in said:
            state = power.PowerState.ON
        elif ended.code == 2 and "status: off" in said:
            state = power.PowerState.OFF
        else:
            raise self._problem(name, "status", ended)
        return power.PowerReading(state, frozenset(), asked_at, loop.time())

    async def force_off(self, name: str) -> bool:
        """False if the agent says that it was off already: then it has sent nothing."""
        ended = await self._run(name, "off", self._outlet(name).timeout)
        if ended.code != 0:
            raise self._problem(name, "off", ended)
        return "already off" not in ended.output.lower()

    async def power_on(self, name: str) -> None:
        ended = await self._run(name, "on", ON_SECONDS)
        if ended.code != 0:
            raise self._problem(name, "on", ended)

    def _outlet(self, name: str) -> Outlet:
        if name not in self._outlets:
            raise errors.InvalidConfiguration(f"no fence agent is configured for {name}")
        return self._outlets[name]

    async def _run(self, name: str, action: str, seconds: float) -> process.Exit:
        outlet = self._outlet(name)
        what = f"{outlet.agent} for {name}, action {action}"
        return await process.run([str(outlet.folder / outlet.agent)], outlet.told(action), seconds, what)

    def _problem(self, name: str, action: str, ended: process.Exit) -> errors.OutsideError:
        outlet = self._outlet(name)
        lines = [line.strip() for line in (ended.complaint + "\n" + ended.output).splitlines()]
        said = "; ".join(line for line in lines if line)
        for secret in outlet.secrets.values():
            said = said.replace(secret, "***") if secret else said
        text = f"{outlet.agent} for {name}, action {action}: exit code {ended.code}: {said[:500]}"
        if ended.code in _DENIED:
            return errors.Unauthorized(text)
        if ended.code in _NO_ANSWER or (ended.code != 0 and action != "status"):
            return errors.Unreachable(text)
        return errors.BadAnswer(text)
