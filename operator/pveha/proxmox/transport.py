"""proxmoxer's resource tree over aiohttp: one HTTPS request, cancellable, with a total deadline.

proxmoxer brings the tree (`api.nodes("pve1").qemu(100).status.start.post()`); its own backends block a thread
with a timeout per socket operation, which a server that drips bytes can hold for ever, so the request itself
is ours.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib import parse

import aiohttp
from proxmoxer import core
from typing_extensions import override

from pveha import tls
from pveha.model import errors
from pveha.proxmox import credentials, endpoints
from pveha.proxmox import errors as failures

CONNECT_SECONDS = 1.5
"""TCP and TLS within one site take milliseconds; a node without power answers nothing at all."""

BODY_LIMIT_BYTES = 32 * 1024 * 1024
"""`/cluster/resources` takes about 0.5 kB per guest: this is ten times the largest cluster."""

KEEPALIVE_SECONDS = 3.0
"""Idle time after which a connection is dropped: above the probe's period; pveproxy closes idle ones too."""

_PREFIX = "/api2/json"
_logger = logging.getLogger(__name__)

Fields = Mapping[str, Any]


class Resource(core.ProxmoxResource):  # type: ignore[misc]
    """A node of the tree whose `get`, `post`, `put`, `delete` return awaitables of the answer's `data`."""

    def __getattr__(self, item: str) -> Any:
        return Resource(**super().__getattr__(item)._store)

    def __call__(self, resource_id: Any = None) -> "Resource":
        return Resource(**super().__call__(resource_id)._store)

    async def _request(self, method: str, data: Fields | None = None, params: Fields | None = None) -> Any:
        transport: Transport = self._store["transport"]
        return await transport.send(
            method,
            parse.urlsplit(self._store["base_url"]).path,
            data or params or {},
            self._store["endpoint"],
            self._store["seconds"],
        )


class Transport:
    """Requests of one token under one trust: direct, never through a proxy, never following a redirect."""

    def __init__(self, token: credentials.Token, trust: tls.Trust) -> None:
        self._token = token
        self._trust = trust
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    @override
    def __repr__(self) -> str:
        return f"Transport({self._token.id})"

    def root(self, endpoint: endpoints.Endpoint, seconds: float) -> Resource:
        """The tree at an endpoint; each call made from it ends within `seconds`."""
        return Resource(
            base_url=f"https://{endpoint.address}{_PREFIX}",
            transport=self,
            endpoint=endpoint,
            seconds=seconds,
        )

    async def close(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def send(
        self, method: str, path: str, fields: Fields, endpoint: endpoints.Endpoint, seconds: float
    ) -> Any:
        """Send one request once and return `data` of its answer.

        Raises `NotSent` and `NoAnswer`, `Untrusted`, `BadAnswer`, or what `errors.from_answer` makes of the
        answer. The deadline covers name resolution, connecting, TLS, waiting, and the whole body.
        """
        call = failures.Call(method, path.removeprefix(_PREFIX), str(endpoint.address), _node_of(path))
        loop = asyncio.get_running_loop()
        started = loop.time()
        outcome = "cancelled"
        try:
            async with asyncio.timeout(seconds):
                status, reason, body = await self._exchange(call, path, fields, endpoint)
            outcome = str(status)
            data = self._data(call, status, reason, body)
        except (errors.Unreachable, errors.BadAnswer):
            # A node behind the endpoint that does not answer says nothing of the endpoint.
            if call.node is None or outcome == "200":
                endpoint.failed()
            raise
        except errors.OutsideError:
            endpoint.succeeded()
            raise
        except TimeoutError as error:
            connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            outcome = "timeout"
            endpoint.failed()
            message = f"{call}: no answer within {loop.time() - started:.1f} s"
            raise failures.NotSent(message) if connecting else failures.NoAnswer(message) from None
        except (aiohttp.ClientError, OSError) as error:
            outcome = type(error).__name__
            endpoint.failed()
            raise self._broken(call, error) from None
        else:
            endpoint.succeeded()
            return data
        finally:
            took = round((loop.time() - started) * 1000)
            about = {"method": method, "path": call.path, "endpoint": call.endpoint}
            extra = {**about, "outcome": outcome, "milliseconds": took}
            _logger.debug("%s: %s after %d ms", call, outcome, took, extra=extra)

    async def _exchange(
        self, call: failures.Call, path: str, fields: Fields, endpoint: endpoints.Endpoint
    ) -> tuple[int, str, str]:
        reading = call.method == "GET"
        encoded = _encode(fields)
        async with self._session(reading).request(
            call.method,
            f"https://{endpoint.address}{parse.quote(path, safe='/:@!')}",
            params=encoded if reading or call.method == "DELETE" else None,
            data=(encoded or None) if call.method in {"POST", "PUT"} else None,
            allow_redirects=False,
        ) as answer:
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > BODY_LIMIT_BYTES:
                    message = f"{call}: the answer is larger than {BODY_LIMIT_BYTES} bytes"
                    raise errors.BadAnswer(message)
            return answer.status, answer.reason or "", body.decode(errors="replace")

    def _session(self, reading: bool) -> aiohttp.ClientSession:
        """Reads keep connections; writes open one each, lest one be lost with a kept one that had closed."""
        if reading not in self._sessions:
            trust = self._trust.verification
            connector = (
                aiohttp.TCPConnector(ssl=trust, limit=0, keepalive_timeout=KEEPALIVE_SECONDS)
                if reading
                else aiohttp.TCPConnector(ssl=trust, limit=0, force_close=True)
            )
            self._sessions[reading] = aiohttp.ClientSession(
                connector=connector,
                headers={"Authorization": self._token.header, "Accept": "application/json"},
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=() if reading else (_once,),
            )
        return self._sessions[reading]

    def _data(self, call: failures.Call, status: int, reason: str, body: str) -> Any:
        if status != 200:
            raise failures.from_answer(call, status, self._clean(reason), self._clean(body))
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or "data" not in answer:
            message = f"{call}: 200 without JSON `data` (is this the API of a Proxmox VE node?)"
            raise errors.BadAnswer(message)
        return answer["data"]

    def _broken(self, call: failures.Call, error: Exception) -> errors.OutsideError:
        told = f"{call}: {self._clean(str(error)) or type(error).__name__}"
        match error:
            case aiohttp.ServerFingerprintMismatch():
                got = error.got.hex(":").upper()
                return errors.Untrusted(
                    f"{call}: the certificate's fingerprint {got} is not among those pinned"
                )
            case aiohttp.ClientConnectorCertificateError():
                return errors.Untrusted(told)
            case aiohttp.ClientConnectorError():
                return failures.NotSent(told)
            case _:
                return failures.NoAnswer(told)

    def _clean(self, text: str) -> str:
        """`text` without our secret, should the other side echo it."""
        return text.replace(self._token.secret, "***")


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a PUT or DELETE a second time when the connection breaks after the first."""
    try:
        return await handler(request)
    except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error) or type(error).__name__) from None


def _encode(fields: Fields) -> list[tuple[str, str]]:
    """Form fields as Proxmox reads them: booleans as 0 and 1, lists as a repeated name, None left out."""
    return [
        (name, str(int(each) if isinstance(each, bool) else each))
        for name, value in fields.items()
        for each in (value if isinstance(value, list | tuple) else [value])
        if each is not None
    ]


def _node_of(path: str) -> str | None:
    parts = path.removeprefix(f"{_PREFIX}/").split("/")
    return parts[1] if parts[0] == "nodes" and len(parts) > 1 else None
