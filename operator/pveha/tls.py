"""Whom the HTTPS clients (`proxmox`, `bmc`) trust. Verification is never off."""

import asyncio
import dataclasses
import functools
import hashlib
import ssl

import aiohttp
from typing_extensions import override

from pveha.model import errors


class Fingerprints(aiohttp.Fingerprint):
    """SHA-256 of the certificates that are accepted; checked after the handshake, before anything is sent."""

    def __init__(self, digests: frozenset[bytes]) -> None:
        super().__init__(min(digests))
        self._digests = digests

    @override
    def check(self, transport: asyncio.Transport) -> None:
        certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        got = hashlib.sha256(certificate).digest()
        if got not in self._digests:
            host, port, *_ = transport.get_extra_info("peername")
            raise aiohttp.ServerFingerprintMismatch(self.fingerprint, got, host, port)


@dataclasses.dataclass(frozen=True)
class Trust:
    """A CA bundle (PEM), or fingerprints of the nodes' certificates; with neither, the system's CAs.

    With a CA the host name (or address) must be in the certificate. Raises `InvalidConfiguration`.
    """

    ca: str | None = None
    fingerprints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.ca is not None and self.fingerprints:
            message = "tls: give either a CA or fingerprints: a pinned certificate needs no CA"
            raise errors.InvalidConfiguration(message)
        if self.ca is not None and not self.ca.strip():
            message = "tls: the CA is empty"
            raise errors.InvalidConfiguration(message)
        _ = self.verification

    @functools.cached_property
    def verification(self) -> ssl.SSLContext | Fingerprints:
        """What aiohttp takes as `ssl`."""
        if self.fingerprints:
            return Fingerprints(frozenset(map(_digest, self.fingerprints)))
        try:
            context = ssl.create_default_context(cadata=self.ca)
        except (ssl.SSLError, ValueError) as error:
            message = f"tls: the CA is not a bundle of PEM certificates: {error}"
            raise errors.InvalidConfiguration(message) from None
        # Python 3.13 began to refuse certificates without an authority key identifier, as private CAs often
        # issue them; the chain, the dates and the name are checked the same way on every supported version.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


def _digest(fingerprint: str) -> bytes:
    """Bytes of a SHA-256 fingerprint as `pvenode cert info` prints it (colons and case do not matter)."""
    try:
        digest = bytes.fromhex(fingerprint.replace(":", ""))
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        message = f"tls: fingerprint {fingerprint!r} is not a SHA-256 fingerprint (32 bytes in hex)"
        raise errors.InvalidConfiguration(message)
    return digest
