"""A TLS server that answers as a test tells it to, and the certificates for it."""

import dataclasses
import datetime
import functools
import hashlib
import ipaddress
import json
import pathlib
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pveha import tls
from pveha.proxmox import client, credentials, endpoints

SECRET = "0b7c9a52-5a51-4c3e-9d2f-secretsecret"
TOKEN = credentials.Token("pveha@pve!operator", SECRET)
HOST = "127.0.0.1"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclasses.dataclass(frozen=True)
class Certificates:
    """A CA, and a certificate of it for 127.0.0.1 only."""

    ca: str
    chain: str
    fingerprint: str


@functools.cache
def certificates() -> Certificates:
    now = datetime.datetime.now(datetime.UTC)

    def build(name: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = (
        build("test CA", "test CA", ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    address = x509.IPAddress(ipaddress.ip_address(HOST))
    leaf = (
        build("test node", "test CA", key)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    digest = hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).digest()
    return Certificates(
        ca=ca.public_bytes(pem).decode(),
        chain=secret.decode() + leaf.public_bytes(pem).decode(),
        fingerprint=digest.hex(":").upper(),
    )


def trust() -> tls.Trust:
    return tls.Trust(ca=certificates().ca)


def data(value: Any) -> web.Response:
    return web.Response(text=json.dumps({"data": value}), content_type="application/json")


def problem(status: int, reason: str, body: str = "") -> web.Response:
    return web.Response(status=status, reason=reason, text=body)


@dataclasses.dataclass
class Server:
    """One node's API: every request goes to `handler` and is kept in `seen` as (method, path, fields)."""

    handler: Handler
    seen: list[tuple[str, str, dict[str, str]]] = dataclasses.field(default_factory=list)
    port: int = 0
    _runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> endpoints.Endpoint:
        return endpoints.Endpoint(self.address)

    @property
    def address(self) -> endpoints.Address:
        return endpoints.Address(HOST, self.port)

    def client(self, *others: endpoints.Address, **settings: Any) -> client.ProxmoxClient:
        return client.ProxmoxClient([self.address, *others], TOKEN, trust(), **settings)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "chain.pem"
            file.write_text(certificates().chain)
            context.load_cert_chain(file)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self.port, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        fields = {**request.query, **{name: str(value) for name, value in (await request.post()).items()}}
        self.seen.append((request.method, request.path.removeprefix("/api2/json"), fields))
        return await self.handler(request)
