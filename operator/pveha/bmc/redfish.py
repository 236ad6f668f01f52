"""Power over Redfish: read a system, and switch it off by force.

Standard: DMTF DSP0266 (protocol), ComputerSystem schema. Three requests are all it takes: the collection of
systems (only where no system is named), the system, and its action `#ComputerSystem.Reset` with ForceOff.
"""

import asyncio
import base64
import dataclasses
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any, TypeVar

import aiohttp
import pydantic

from pveha import tls
from pveha.model import errors, power

_SYSTEMS = "/redfish/v1/Systems"
_LARGEST_ANSWER = 1024 * 1024
_ALREADY_OFF = frozenset(("NoOperation", "InvalidOperationForSystemState", "PSU501", "PSU502"))
"""Last part of the message ids with which a ForceOff is declined on a machine that is off: DMTF's Base
registry; HPE iLO (400, its argument is "Power is off"); Dell iDRAC (409, see its guide's "Action Reset")."""
_BUSY = frozenset(
    (
        "ServiceTemporarilyUnavailable",
        "ServiceInUnknownState",
        "ResourceInUse",
        "ResourceInStandby",
        "TaskInProgress",
    )
)
"""Last part of the message ids with which a BMC says that it has something else to do (DMTF's Base
registry)."""
_STATES = {
    "On": power.PowerState.ON,
    "Off": power.PowerState.OFF,
    "PoweringOn": power.PowerState.CHANGING,
    "PoweringOff": power.PowerState.CHANGING,
    "Paused": power.PowerState.CHANGING,
}


@dataclasses.dataclass(frozen=True, slots=True)
class BmcAddress:
    """A node's BMC. `system_id` may be None where the BMC has exactly one system.

    `ca` is PEM text, `fingerprint` SHA-256 in hex; one of them at most. Raises `InvalidConfiguration`.
    """

    host: str
    username: str
    password: str = dataclasses.field(repr=False)
    port: int = 443
    system_id: str | None = None
    ca: str | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        _ = self.trust

    @property
    def trust(self) -> tls.Trust:
        return tls.Trust(self.ca, (self.fingerprint,) if self.fingerprint else ())


_Shape = TypeVar("_Shape", bound=pydantic.BaseModel)


class _Reset(pydantic.BaseModel):
    target: str
    allowed: list[str] | None = pydantic.Field(None, alias="ResetType@Redfish.AllowableValues")
    action_info: str | None = pydantic.Field(None, alias="@Redfish.ActionInfo")


class _Actions(pydantic.BaseModel):
    reset: _Reset | None = pydantic.Field(None, alias="#ComputerSystem.Reset")


class _System(pydantic.BaseModel):
    power_state: str = pydantic.Field(alias="PowerState")
    uuid: str | None = pydantic.Field(None, alias="UUID")
    serial: str | None = pydantic.Field(None, alias="SerialNumber")
    restore: str | None = pydantic.Field(None, alias="PowerRestorePolicy")
    actions: _Actions = pydantic.Field(default_factory=lambda: _Actions.model_validate({}), alias="Actions")


class _Link(pydantic.BaseModel):
    path: str = pydantic.Field(alias="@odata.id")


class _Collection(pydantic.BaseModel):
    members: list[_Link] = pydantic.Field(alias="Members")


class _Parameter(pydantic.BaseModel):
    name: str = pydantic.Field(alias="Name")
    allowed: list[str] | None = pydantic.Field(None, alias="AllowableValues")


class _ActionInfo(pydantic.BaseModel):
    parameters: list[_Parameter] = pydantic.Field(alias="Parameters")


class _Declined(errors.Refused):
    """A 400 or 409, with the last parts of its message ids."""

    def __init__(self, message: str, message_ids: frozenset[str]) -> None:
        super().__init__(message)
        self.message_ids = message_ids


class RedfishPower:
    """The BMCs by node name. Each call ends within `timeout` seconds, however many requests it takes."""

    def __init__(self, bmcs: Mapping[str, BmcAddress], timeout: float = 5.0) -> None:
        self._bmcs = dict(bmcs)
        self._timeout = timeout
        self._trust = {name: bmc.trust for name, bmc in bmcs.items()}
        self._paths: dict[str, str] = {}
        self._resets: dict[str, _Reset] = {}
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def read(self, name: str) -> power.PowerReading:
        """Power state and identity as the BMC of node `name` reads them."""
        loop = asyncio.get_running_loop()
        async with self._deadline(name, "reading the power state"):
            asked_at = loop.time()
            path, system = await self._system(name)
            return power.PowerReading(
                _state(name, path, system),
                _identities(system),
                asked_at,
                loop.time(),
                system.restore or "",
            )

    async def force_off(self, name: str) -> bool:
        """ForceOff, to the target that the last read named.

        False from a BMC that declines because the machine is off (400 or 409 with a message of
        `_ALREADY_OFF`) and then reads Off; any other refusal raises `Refused`, or `Busy` where the BMC has
        no time.
        """
        async with self._deadline(name, "forcing the power off"):
            try:
                await self._reset(name, "ForceOff")
            except _Declined as declined:
                if not declined.message_ids & _ALREADY_OFF:
                    raise
                path, system = await self._system(name)
                if _state(name, path, system) is not power.PowerState.OFF:
                    raise
                return False
            return True

    async def power_on(self, name: str) -> None:
        async with self._deadline(name, "switching the power on"):
            await self._reset(name, "On")

    async def _reset(self, name: str, kind: str) -> None:
        reset = self._resets.get(name) or (await self._system(name))[1].actions.reset
        if reset is None:
            message = f"BMC of {name} has no action ComputerSystem.Reset; may this user switch power?"
            raise errors.Forbidden(message)
        allowed = await self._allowed(name, reset)
        if allowed is not None and kind not in allowed:
            message = f"BMC of {name} offers no {kind}, only: {', '.join(allowed)}"
            raise errors.Refused(message)
        await self._request(name, "POST", reset.target, {"ResetType": kind})

    def _deadline(self, name: str, doing: str) -> "_Deadline":
        return _Deadline(self._timeout, f"BMC of {name}, {doing}")

    async def _system(self, name: str) -> tuple[str, _System]:
        path = self._paths.get(name) or await self._find(name)
        system = _shaped(name, path, _System, await self._request(name, "GET", path))
        self._paths[name] = path
        if system.actions.reset is not None:
            self._resets[name] = system.actions.reset
        else:
            self._resets.pop(name, None)
        return path, system

    async def _find(self, name: str) -> str:
        system_id = self._bmc(name).system_id
        if system_id is not None:
            return f"{_SYSTEMS}/{urllib.parse.quote(system_id, safe='')}"
        collection = _shaped(name, _SYSTEMS, _Collection, await self._request(name, "GET", _SYSTEMS))
        if len(collection.members) != 1:
            found = ", ".join(member.path.rpartition("/")[2] for member in collection.members) or "none"
            message = f"BMC of {name} has not exactly one system: set systemID to one of: {found}"
            raise errors.InvalidConfiguration(message)
        return collection.members[0].path

    async def _allowed(self, name: str, reset: _Reset) -> list[str] | None:
        """Reset types the BMC offers, or None if it does not say."""
        if reset.allowed is not None or reset.action_info is None:
            return reset.allowed
        answer = await self._request(name, "GET", reset.action_info)
        parameters = _shaped(name, reset.action_info, _ActionInfo, answer).parameters
        return next((each.allowed for each in parameters if each.name == "ResetType"), None)

    def _bmc(self, name: str) -> BmcAddress:
        if name not in self._bmcs:
            message = f"node {name} has no BMC configured"
            raise errors.InvalidConfiguration(message)
        return self._bmcs[name]

    async def _request(self, name: str, method: str, path: str, body: Mapping[str, str] | None = None) -> Any:
        """One request; returns the decoded answer, None for an empty one."""
        bmc = self._bmc(name)
        if not path.startswith("/redfish/"):  # the credentials go nowhere else, whatever the BMC says
            message = f"BMC of {name} links to {path!r}, which is no path of its own"
            raise errors.BadAnswer(message)
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit_per_host=2))
        host = f"[{bmc.host}]" if ":" in bmc.host else bmc.host
        trying = f"{method} https://{host}:{bmc.port}{path} (BMC of {name})"
        try:
            async with self._session.request(
                method,
                f"https://{host}:{bmc.port}{path}",
                json=body,
                headers={
                    "Accept": "application/json",
                    "Authorization": _basic(bmc.username, bmc.password),
                    "OData-Version": "4.0",
                },
                ssl=self._trust[name].verification,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as response:
                content = await _limited(response, trying)
                return _answer(response.status, content, trying)
        except (aiohttp.ServerFingerprintMismatch, aiohttp.ClientConnectorCertificateError) as error:
            message = f"{trying}: its certificate is not the pinned one or not from the given CA"
            raise errors.Untrusted(message) from error
        except (aiohttp.ClientError, OSError) as error:
            message = f"{trying}: {type(error).__name__}: {error}"
            raise errors.Unreachable(message) from error


class _Deadline:
    """Turns running out of time into `Unreachable`."""

    def __init__(self, seconds: float, doing: str) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._message = f"{doing}: no answer within {seconds:g} s"

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *exception: Any) -> None:
        try:
            await self._timeout.__aexit__(*exception)
        except TimeoutError as error:
            raise errors.Unreachable(self._message) from error


def _basic(username: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


async def _limited(response: aiohttp.ClientResponse, trying: str) -> bytes:
    content = b""
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > _LARGEST_ANSWER:
            message = f"{trying}: the answer is larger than {_LARGEST_ANSWER} bytes"
            raise errors.BadAnswer(message)
    return content


def _answer(status: int, content: bytes, trying: str) -> Any:
    try:
        decoded = json.loads(content) if content.strip() else None
    except ValueError as error:
        if status < 300:
            message = f"{trying}: the answer is not JSON"
            raise errors.BadAnswer(message) from error
        decoded = None
    if 200 <= status < 300:
        return decoded
    message_ids, said = _complaint(decoded)
    message = f"{trying}: HTTP {status}{said}"
    match status:
        case 401:
            raise errors.Unauthorized(message)
        case 403:
            raise errors.Forbidden(message)
        case 404:
            raise errors.NotFound(message)
        case 503:
            raise errors.Busy(message)
        case _ if 400 <= status < 500 and message_ids & _BUSY:
            raise errors.Busy(message)
        case 400 | 409:
            raise _Declined(message, message_ids)
        case _ if 400 <= status < 500:
            raise errors.Refused(message)
        case _ if status >= 500:
            raise errors.Unreachable(message)
        case _:
            raise errors.BadAnswer(message)


def _complaint(decoded: Any) -> tuple[frozenset[str], str]:
    """Last parts of the message ids of an error answer, and its text for people."""
    error = decoded.get("error") if isinstance(decoded, dict) else None
    if not isinstance(error, dict):
        return frozenset(), ""
    infos = error.get("@Message.ExtendedInfo")
    infos = [info for info in infos if isinstance(info, dict)] if isinstance(infos, list) else []
    ids = [str(info.get("MessageId") or info.get("MessageID") or "") for info in infos]
    texts = [str(info["Message"]) for info in infos if "Message" in info] or [str(error.get("message", ""))]
    return frozenset(each.rpartition(".")[2] for each in ids), f": {' '.join(texts)} ({', '.join(ids)})"[:500]


def _shaped(name: str, path: str, shape: type[_Shape], answer: Any) -> _Shape:
    try:
        return shape.model_validate(answer)
    except pydantic.ValidationError as error:
        fields = ", ".join(".".join(map(str, each["loc"])) or "(whole)" for each in error.errors())
        message = f"BMC of {name}: {path} does not have the documented form, see {fields}"
        raise errors.BadAnswer(message) from error


def _state(name: str, path: str, system: _System) -> power.PowerState:
    if system.power_state not in _STATES:
        message = f"BMC of {name}: {path} has the unknown PowerState {system.power_state!r}"
        raise errors.BadAnswer(message)
    return _STATES[system.power_state]


def _identities(system: _System) -> frozenset[str]:
    found = ((identity or "").strip().lower() for identity in (system.uuid, system.serial))
    return frozenset(identity for identity in found if identity)
