"""Whatever the other side does: a call ends in time, its error says what happened, and it was sent once."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from pveha import tls
from pveha.model import errors
from pveha.proxmox import endpoints, transport
from pveha.proxmox import errors as failures
from unit.proxmox import server

DEADLINE = 0.3


@contextlib.asynccontextmanager
async def answering(handler: server.Handler) -> AsyncIterator[tuple[server.Server, transport.Transport]]:
    wire = transport.Transport(server.TOKEN, server.trust())
    try:
        async with server.Server(handler) as node:
            yield node, wire
    finally:
        await wire.close()


async def ask(wire: transport.Transport, endpoint: endpoints.Endpoint, seconds: float = 5) -> Any:
    return await wire.root(endpoint, seconds).cluster.status.get()


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


def says(text: str) -> server.Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type="text/html")

    return handler


async def test_the_tree_builds_paths_and_encodes_fields_as_proxmox_reads_them() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return server.data("done")

    async with answering(handler) as (node, wire):
        root = wire.root(node.endpoint, 5)
        upid = "UPID:pve1:00000645:00040550:6B032295:qmstart:101:op@pve!full:"
        assert await root.nodes("pve1").tasks(upid).status.get(limit=3, none=None) == "done"
        await root.cluster.ha.resources("vm:100").put(failback=False, strict=True, comment="a [b] ü&=")
        await root.cluster.ha.resources("vm:100").delete(purge=False)
        await root.nodes("pve1").qemu(101).status.start.post()

    assert node.seen == [
        ("GET", f"/nodes/pve1/tasks/{upid}/status", {"limit": "3"}),
        ("PUT", "/cluster/ha/resources/vm:100", {"failback": "0", "strict": "1", "comment": "a [b] ü&="}),
        ("DELETE", "/cluster/ha/resources/vm:100", {"purge": "0"}),
        ("POST", "/nodes/pve1/qemu/101/status/start", {}),
    ]


async def test_lists_are_repeated_names() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return server.data((await request.post()).getall("command"))

    async with answering(handler) as (node, wire):
        assert await wire.root(node.endpoint, 5).agent.exec.post(command=["ls", "-l"]) == ["ls", "-l"]


async def test_the_token_is_sent() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return server.data(request.headers["Authorization"])

    async with answering(handler) as (node, wire):
        assert await ask(wire, node.endpoint) == f"PVEAPIToken=pveha@pve!operator={server.SECRET}"


@pytest.mark.parametrize("handler", [hang, drip])
async def test_the_deadline_is_total(handler: server.Handler) -> None:
    async with answering(handler) as (node, wire):
        endpoint = node.endpoint
        started = asyncio.get_running_loop().time()
        with pytest.raises(
            failures.NoAnswer, match=r"GET /cluster/status at .*: no answer within 0\.3 s"
        ) as info:
            await ask(wire, endpoint, DEADLINE)
        assert not isinstance(info.value, failures.NotSent)
        assert asyncio.get_running_loop().time() - started < DEADLINE + 0.3
        assert endpoint.aside


async def test_a_server_that_never_speaks_tls_costs_the_connect_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.2)
    wire = transport.Transport(server.TOKEN, server.trust())
    with socket.create_server((server.HOST, 0)) as mute:
        endpoint = endpoints.Endpoint(endpoints.Address(server.HOST, mute.getsockname()[1]))
        started = asyncio.get_running_loop().time()
        with pytest.raises(failures.NotSent):
            await ask(wire, endpoint)
        assert asyncio.get_running_loop().time() - started < 1
    await wire.close()


async def test_a_refused_connection_was_not_sent() -> None:
    wire = transport.Transport(server.TOKEN, server.trust())
    with socket.create_server((server.HOST, 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(failures.NotSent, match=f"127.0.0.1:{port}"):
        await ask(wire, endpoints.Endpoint(endpoints.Address(server.HOST, port)))
    await wire.close()


@pytest.mark.parametrize("text", ["<html>Welcome</html>", "", "{}", "[]", '{"dat', "null", "[" * 100_000])
async def test_an_answer_of_another_shape_is_a_bad_answer(text: str) -> None:
    async with answering(says(text)) as (node, wire):
        with pytest.raises(errors.BadAnswer, match="without JSON `data`"):
            await ask(wire, node.endpoint)


async def test_an_oversize_answer_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BODY_LIMIT_BYTES", 10)
    async with answering(drip) as (node, wire):
        with pytest.raises(errors.BadAnswer, match="larger than 10 bytes"):
            await ask(wire, node.endpoint)


async def test_redirects_are_not_followed() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    async with answering(handler) as (node, wire):
        with pytest.raises(errors.BadAnswer, match="302"):
            await ask(wire, node.endpoint)
    assert [path for _, path, _ in node.seen] == ["/cluster/status"]


async def test_a_401_with_an_empty_body_after_a_delay_is_unauthorized() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return server.problem(401, "Authentication failed!")

    async with answering(handler) as (node, wire):
        endpoint = node.endpoint
        with pytest.raises(errors.Unauthorized, match="check tokenID and tokenSecret"):
            await ask(wire, endpoint)
        assert not endpoint.aside, "an HTTP error is an answer, not a sign of bad health"


async def test_a_cancelled_call_ends_at_once_and_hangs_up() -> None:
    hung_up = asyncio.Event()
    arrived = asyncio.Event()

    async def handler(_: web.Request) -> web.StreamResponse:
        arrived.set()
        try:
            await asyncio.sleep(60)
        finally:
            hung_up.set()
        raise AssertionError

    async with answering(handler) as (node, wire):
        call = asyncio.create_task(ask(wire, node.endpoint, 60))
        await asyncio.wait_for(arrived.wait(), 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(hung_up.wait(), 5)


@pytest.mark.parametrize("method", ["post", "put", "delete"])
async def test_a_write_whose_connection_breaks_is_not_sent_again(method: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return server.data(None)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with answering(handler) as (node, wire):
        endpoint = node.endpoint
        await ask(wire, endpoint)
        with pytest.raises(failures.NoAnswer) as info:
            await getattr(wire.root(endpoint, 5).cluster.ha.resources("vm:100"), method)()
        assert not isinstance(info.value, failures.NotSent)
        assert [each[0] for each in node.seen] == ["GET", method.upper()]


async def test_one_of_several_pinned_fingerprints_is_enough() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return server.data("yes")

    pinned = ("00" * 32, server.certificates().fingerprint.lower(), "FF" * 32)
    async with server.Server(handler) as node:
        wire = transport.Transport(server.TOKEN, tls.Trust(fingerprints=pinned))
        assert await ask(wire, node.endpoint) == "yes"
        await wire.close()


@pytest.mark.parametrize(
    ("trust", "host"),
    [
        pytest.param(tls.Trust(fingerprints=("00" * 32,)), "127.0.0.1", id="another fingerprint"),
        pytest.param(tls.Trust(), "127.0.0.1", id="not issued by a CA of the system"),
        pytest.param(tls.Trust(ca=server.certificates().ca), "localhost", id="another host name"),
    ],
)
async def test_nothing_is_sent_to_a_stranger(trust: tls.Trust, host: str) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return server.data("yes")

    async with server.Server(handler) as node:
        wire = transport.Transport(server.TOKEN, trust)
        with pytest.raises(errors.Untrusted):
            await ask(wire, endpoints.Endpoint(endpoints.Address(host, node.port)))
        await wire.close()
        assert node.seen == []


async def test_the_secret_is_in_no_log_no_repr_no_exception(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        told = request.headers["Authorization"]
        return server.problem(500, f"not with {told}", f'{{"message": "not with {told}, no"}}')

    caplog.set_level(logging.DEBUG)
    async with answering(handler) as (node, wire):
        root = wire.root(node.endpoint, 5)
        with pytest.raises(errors.Refused) as info:
            await root.access.users("x").put(password="hunter2")
        shown = [repr(wire), repr(root), repr(server.TOKEN), repr(info.value), str(info.value.__cause__)]
        shown += [record.getMessage() + str(record.__dict__) for record in caplog.records]
    assert not [text for text in shown if server.SECRET in text]
    assert not [text for text in shown if "hunter2" in text]
    record = next(each for each in caplog.records if each.name == "pveha.proxmox.transport")
    assert record.__dict__.keys() >= {"method", "path", "endpoint", "outcome", "milliseconds"}
