"""A reverse proxy between an operator and its API server that gets in the way of the controller.

`dropped-events`: of what a watch tells, one event in two never arrives. `stale-lists`: two lists of three are
as of a moment up to LAG_SECONDS before, which the API server itself remembers, and watches end with "too old"
every few seconds, after which kopf lists anew. `hung-calls`: of each HUNG_ONE_OF requests one is never
answered, in half of these cases after having had its effect. `cut` breaks off every connection.
"""

import asyncio
import base64
import collections
import contextlib
import json
import random
import ssl
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from aiohttp import web

from pveha import api
from pveha.devkube import access
from pveha.sim import certificates

TROUBLES = ("dropped-events", "stale-lists", "hung-calls")
DROPPED = 1 / 2
STALE = 2 / 3
LAG_SECONDS = 30.0
WATCH_SECONDS = 6.0
HUNG_ONE_OF = 12
HANG_SECONDS = 60.0
HOST = "127.0.0.1"
CHUNK_BYTES = 2**26

_KEPT = ("Authorization", "Content-Type", "Accept", "User-Agent")
_TOO_OLD = {
    "type": "ERROR",
    "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "too old resource version",
        "reason": "Expired",
        "code": 410,
    },
}


class Proxy:
    """Stands before the API server of an account; `kubeconfig` leads through it."""

    def __init__(self, account: access.Access, seed: int) -> None:
        self.kubeconfig = account.kubeconfig.with_suffix(".proxied")
        self.trouble = ""
        """One of TROUBLES, from now on."""
        self.done: collections.Counter[str] = collections.Counter()
        """How often each of them was made."""
        self._cut = False
        self._dice = random.Random(seed)
        self._left = 0
        """Requests until the next HUNG_ONE_OF; with `_hangs_at` of them left, one hangs."""
        self._hangs_at = 0
        self._versions: list[tuple[float, int]] = []
        """Moments of the API server's history, and when they were seen first."""
        self._account = account
        self._exits = contextlib.AsyncExitStack()
        self._open: set[asyncio.Transport] = set()
        self._closing = asyncio.Event()
        self._server = ""
        self._client: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        found = yaml.safe_load(self._account.kubeconfig.read_text())
        cluster = found["clusters"][0]["cluster"]
        self._server = cluster["server"].rstrip("/")
        ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=ca), limit=0)
        self._client = await self._exits.enter_async_context(
            aiohttp.ClientSession(
                connector=connector, auto_decompress=False, read_bufsize=CHUNK_BYTES, trust_env=False
            )
        )
        app = web.Application(client_max_size=CHUNK_BYTES)
        app.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._exits.push_async_callback(runner.cleanup)
        authority = certificates.Authority("proxy")
        site = web.TCPSite(runner, HOST, 0, ssl_context=authority.issue(HOST).server_context())
        await site.start()
        port = runner.addresses[0][1]
        token = found["users"][0]["user"]["token"]
        access.write_kubeconfig(self.kubeconfig, f"https://{HOST}:{port}", authority.pem.encode(), token)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        await self._exits.aclose()

    def cut(self, *, off: bool) -> None:
        """Break off all connections and refuse new ones, or no longer."""
        self._cut = off
        if off:
            for transport in self._open:
                transport.abort()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        if self._cut:
            request.transport.abort()
            return web.Response()
        self._open.add(request.transport)
        try:
            return await self._pass(request)
        except (aiohttp.ClientError, ConnectionError):
            request.transport.abort()
            return web.Response()
        finally:
            self._open.discard(request.transport)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        watching, listing = "watch" in query, _is_list(request)
        hangs = self.trouble == "hung-calls" and not watching and self._is_next()
        if hangs and self._dice.random() < 0.5:
            return await self._hang(request)
        if listing and not watching and "continue" not in query and self.trouble == "stale-lists":
            self._age(query)
        async with self._client.request(
            request.method,
            self._server + request.path,
            params=query,
            data=await request.read() or None,
            headers={name: request.headers[name] for name in _KEPT if name in request.headers}
            | {"Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
        ) as answer:
            if watching and answer.status == 200:
                return await self._watch(request, answer)
            body = await answer.read()
        if hangs:
            return await self._hang(request)
        if listing and answer.status == 200:
            self._note(json.loads(body)["metadata"])
        return web.Response(
            body=body, status=answer.status, headers={"Content-Type": answer.headers.get("Content-Type", "")}
        )

    async def _watch(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """Events, line by line, until either side has enough of it."""
        back = web.StreamResponse(headers={"Content-Type": "application/json"})
        await back.prepare(request)
        told_until = asyncio.get_running_loop().time() + WATCH_SECONDS
        reading: asyncio.Task[bytes] | None = None
        try:
            while not self._closing.is_set():
                reading = reading or asyncio.create_task(answer.content.readline())
                await asyncio.wait({reading}, timeout=1.0)
                if request.transport is None or request.transport.is_closing():
                    break
                if self.trouble == "stale-lists" and asyncio.get_running_loop().time() > told_until:
                    self.done["watches ended"] += 1
                    await back.write(json.dumps(_TOO_OLD).encode() + b"\n")
                    break
                if not reading.done():
                    continue
                line, reading = reading.result(), None
                if not line:
                    break
                event = json.loads(line)
                if event["type"] != "ERROR":
                    self._note(event["object"]["metadata"])
                if (
                    self.trouble == "dropped-events"
                    and event["type"] in ("ADDED", "MODIFIED", "DELETED")
                    and self._dice.random() < DROPPED
                ):
                    self.done[self.trouble] += 1
                    continue
                await back.write(line)
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        return back

    def _is_next(self) -> bool:
        """Whether this is the one of its HUNG_ONE_OF requests that hangs."""
        if self._left == 0:
            self._left, self._hangs_at = HUNG_ONE_OF, self._dice.randrange(HUNG_ONE_OF)
        self._left -= 1
        return self._left == self._hangs_at

    async def _hang(self, request: web.Request) -> web.StreamResponse:
        self.done[self.trouble] += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HANG_SECONDS):
                await self._closing.wait()
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def _age(self, query: dict[str, str]) -> None:
        """Ask for how things were before, if anything is known of that time."""
        since = asyncio.get_running_loop().time() - LAG_SECONDS
        older = [version for at, version in self._versions[:-1] if at >= since]
        if older and self._dice.random() < STALE:
            self.done[self.trouble] += 1
            query |= {"resourceVersion": str(self._dice.choice(older)), "resourceVersionMatch": "Exact"}

    def _note(self, metadata: dict[str, Any]) -> None:
        """Remember a moment of the API server's history."""
        version = int(metadata.get("resourceVersion") or 0)
        if not self._versions or version > self._versions[-1][1]:
            self._versions.append((asyncio.get_running_loop().time(), version))


def _is_list(request: web.Request) -> bool:
    last = Path(request.path).name
    return request.method == "GET" and last in {resource.plural for resource in api.RESOURCES}
