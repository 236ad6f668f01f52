"""The operator's key pair, and the Secret that carries it with the nodes' host keys."""

import base64
import os
from collections.abc import Mapping
from pathlib import Path

import asyncssh
import yaml

from pveha.model import errors
from pveha.nodeshell import authorized


def make(path: Path) -> str:
    """Write a new key to `path` and its public half beside it; its fingerprint. Never replaces a file."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment="pveha")
    beside = path.with_name(f"{path.name}.pub")
    try:
        for target, content, mode in (
            (path, key.export_private_key(), 0o600),
            (beside, key.export_public_key(), 0o644),
        ):
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
    except FileExistsError as error:
        message = f"{error.filename} is there already: take another name, or use that key"
        raise errors.InvalidConfiguration(message) from error
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise errors.InvalidConfiguration(message) from error
    return authorized.fingerprint(key.public_data)


def fingerprint(text: str) -> str:
    """Fingerprint of a key: given itself, or a private or a public file."""
    if text.startswith("SHA256:"):
        return text
    try:
        keys = authorized.read(Path(text).read_text("utf-8", "replace"))
        return (
            keys[0].fingerprint
            if keys
            else authorized.fingerprint(asyncssh.read_private_key(text).public_data)
        )
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        message = f"{text} cannot be read as a key: {error}; its fingerprint (SHA256:...) does as well"
        raise errors.InvalidConfiguration(message) from error


def secret(name: str, namespace: str | None, private_key: bytes, host_keys: Mapping[str, str]) -> str:
    """Manifest of the Secret. `host_keys` are by the nodes' names, which the operator looks for."""
    known_hosts = "".join(f"{node} {host_key}\n" for node, host_key in sorted(host_keys.items()))
    metadata = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    data = {"ssh-privatekey": private_key, "known_hosts": known_hosts.encode()}
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "data": {field: base64.b64encode(content).decode() for field, content in data.items()},
    }
    return yaml.safe_dump(manifest, sort_keys=False)


def write_secret(path: Path, manifest: str) -> None:
    """Replace a file that nobody else may read."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(manifest.encode())
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        message = f"{path} cannot be written: {error.strerror}"
        raise errors.InvalidConfiguration(message) from error
