"""What certificate an HTTPS endpoint shows, and whether it is one that is trusted."""

import asyncio
import contextlib
import dataclasses
import datetime
import ssl
from collections.abc import AsyncIterator
from typing import cast

import aiohttp
from cryptography import x509

from pveha import tls
from pveha.model import errors
from pveha.proxmox import endpoints

SECONDS = 3.0
"""For a connection with its handshake, which takes milliseconds within a site."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """A certificate; `distrust` is why it is not trusted, "" if it is."""

    not_after: datetime.datetime
    distrust: str

    @property
    def days_left(self) -> float:
        return (self.not_after - datetime.datetime.now(datetime.UTC)).total_seconds() / 86400


async def look(address: endpoints.Address, trust: tls.Trust) -> Shown:
    """Shake hands, and again as the operator does. Nothing is sent. Raises Unreachable."""
    anybody = ssl.create_default_context()
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    verification = trust.verification
    async with _connected(address, anybody) as transport:
        shown = x509.load_der_x509_certificate(transport.get_extra_info("ssl_object").getpeercert(True))
        distrust = ""
        if isinstance(verification, tls.Fingerprints):
            try:
                verification.check(transport)
            except aiohttp.ServerFingerprintMismatch as mismatch:
                distrust = (
                    f"its fingerprint {mismatch.got.hex(':').upper()} is not among spec.tls.fingerprints"
                )
    if isinstance(verification, ssl.SSLContext):
        try:
            async with _connected(address, verification):
                pass
        except ssl.SSLCertVerificationError as error:
            distrust = error.verify_message
    return Shown(shown.not_valid_after_utc, distrust)


@contextlib.asynccontextmanager
async def _connected(address: endpoints.Address, context: ssl.SSLContext) -> AsyncIterator[asyncio.Transport]:
    try:
        async with asyncio.timeout(SECONDS):
            _, writer = await asyncio.open_connection(
                address.host, address.port, ssl=context, server_hostname=address.host
            )
    except ssl.SSLCertVerificationError:
        raise
    except TimeoutError:
        raise errors.Unreachable(f"{address}: no TLS handshake within {SECONDS:g} s") from None
    except OSError as error:
        raise errors.Unreachable(f"{address}: {error}") from None
    try:
        yield cast(asyncio.Transport, writer.transport)
    finally:
        writer.transport.abort()
