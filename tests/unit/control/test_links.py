"""Secrets that cannot be used become conditions that name the Secret, the key and the remedy."""

from collections.abc import Mapping
from typing import Any

import asyncssh
import pytest

from decide_scene import Scene, condition
from pveha import api
from pveha.control import links
from pveha.decide import memory, recall, rounds
from pveha.model import errors, snapshot
from pveha.sim import certificates

KEY = asyncssh.generate_private_key("ssh-ed25519")
HOSTS = f"pve1,pve2,pve3 {KEY.export_public_key().decode()}".encode()


AUTHORITY = certificates.Authority("test").pem.encode()


def secrets() -> dict[str, dict[str, bytes]]:
    return {
        "token": {"tokenID": b"pveha@pve!operator", "tokenSecret": b"0f6dd2a6-0000-4000-8000-000000000000"},
        "ca": {"ca.crt": AUTHORITY},
        "ssh": {"ssh-privatekey": KEY.export_private_key(), "known_hosts": HOSTS},
        "bmc": {"username": b"admin", "password": b"secret"},
    }


FORBIDDEN: dict[str, bytes] = {}
"""A Secret that the API server does not show to the operator."""


async def report(stored: Mapping[str, Mapping[str, bytes]]) -> tuple[Any, dict[str, str]]:
    """The HACluster's status with these Secrets, and the messages of its conditions."""
    scene = Scene()
    wanted = scene.specs()

    async def read(name: str) -> Mapping[str, bytes]:
        if name not in stored:
            raise errors.NotFound(name)
        if stored[name] is FORBIDDEN:
            raise errors.Forbidden(name)
        return stored[name]

    problems: dict[str, snapshot.Problem]
    try:
        made = await links.connect(wanted.cluster.spec, "default", read)
    except errors.PvehaError as problem:
        problems = {"hypervisor": snapshot.Problem(type(problem).__name__, str(problem), 0.0)}
    else:
        problems = dict(made.outside.problems)
        assert made.fingerprint == await links.fingerprint(wanted.cluster.spec, "default", read)
        await made.close()
    scene.problems = problems
    for each in scene.nodes.values():
        each.shell = "shell" not in problems
        each.bmc = None if f"power/{each.name}" in problems else each.bmc
    status = rounds.decide(scene.snapshot(), wanted, memory.Memory()).report.cluster
    return status, {each.type: each.message for each in status.conditions}


async def test_complete_secrets_leave_no_problem() -> None:
    status, _ = await report(secrets())
    assert condition(status, "Connected") == ("True", "OK")
    assert condition(status, "FastReady") == ("True", "OK")


CASES = [
    ("token", None, "Connected", "SecretMissing"),
    ("token", "tokenID", "Connected", "SecretInvalid"),
    ("token", "tokenSecret", "Connected", "SecretInvalid"),
    ("ca", "ca.crt", "Connected", "SecretInvalid"),
    ("ca", None, "Connected", "SecretMissing"),
    ("ssh", None, "FastReady", "SecretMissing"),
    ("ssh", "ssh-privatekey", "FastReady", "SecretInvalid"),
    ("ssh", "known_hosts", "FastReady", "SecretInvalid"),
    ("bmc", None, "FencingReady", "SecretMissing"),
    ("bmc", "username", "FencingReady", "SecretInvalid"),
    ("bmc", "password", "FencingReady", "SecretInvalid"),
]


@pytest.mark.parametrize(("name", "key", "type_", "reason"), CASES)
async def test_what_is_missing_is_named(name: str, key: str | None, type_: str, reason: str) -> None:
    stored = secrets()
    if key is None:
        del stored[name]
    else:
        del stored[name][key]
    status, messages = await report(stored)
    assert condition(status, type_) == ("False", reason)
    assert f"Secret {name}" in messages[type_]
    assert (key or "create it") in messages[type_]


@pytest.mark.parametrize(
    ("name", "type_"), [("token", "Connected"), ("ssh", "FastReady"), ("bmc", "FencingReady")]
)
async def test_a_secret_that_may_not_be_read_is_named(name: str, type_: str) -> None:
    """The operator's rights may end at some namespaces."""
    status, messages = await report({**secrets(), name: FORBIDDEN})
    assert condition(status, type_) == ("False", "SecretInvalid")
    assert f"Secret {name} in namespace default" in messages[type_]
    assert "rbac.secretNamespaces" in messages[type_]


BROKEN = [
    ("token", "tokenID", b"\xff\xfe", "Connected", "SecretInvalid"),
    ("token", "tokenID", b"no token", "Connected", "SecretInvalid"),
    ("ca", "ca.crt", b"no certificate", "Connected", "SecretInvalid"),
    ("ca", "ca.crt", b"", "Connected", "SecretInvalid"),
    ("ssh", "ssh-privatekey", b"no key", "FastReady", "SecretInvalid"),
    ("ssh", "ssh-privatekey", b"", "FastReady", "SecretInvalid"),
]


@pytest.mark.parametrize(("name", "key", "value", "type_", "reason"), BROKEN)
async def test_what_cannot_be_used_is_named(
    name: str, key: str, value: bytes, type_: str, reason: str
) -> None:
    stored = secrets()
    stored[name][key] = value
    status, messages = await report(stored)
    assert condition(status, type_) == ("False", reason)
    assert name in messages[type_] or "caSecretRef" in messages[type_] or "spec.tls" in messages[type_]


async def test_a_rotated_secret_changes_the_fingerprint() -> None:
    spec = Scene().specs().cluster.spec
    stored = secrets()

    async def read(name: str) -> Mapping[str, bytes]:
        return stored[name]

    before = await links.fingerprint(spec, "default", read)
    stored["bmc"]["password"] = b"another"
    assert await links.fingerprint(spec, "default", read) != before
    assert links.secret_names(spec) == ["bmc", "ca", "ssh", "token"]


def test_a_cluster_that_cannot_be_reached_keeps_its_bindings() -> None:
    scene = Scene().settle()
    status = scene.step().report.cluster
    whole = scene.specs()
    stored = api.HACluster.model_validate({**whole.cluster.model_dump(by_alias=True), "status": status})
    assert {binding.name for binding in stored.status.bindings} == set(scene.nodes)
    seen = scene.snapshot()
    assert recall.first(stored.status).node("pve2").method("bmc").bound
    decision = rounds.decide(seen, whole, recall.first(stored.status))
    assert {binding.name for binding in decision.report.cluster.bindings} == set(scene.nodes)


async def test_the_node_shell_uses_addresses_that_the_cluster_tells() -> None:
    wanted = Scene().specs().cluster.spec
    unaddressed = tuple(each.model_copy(update={"address": None}) for each in wanted.nodes)
    stored = secrets()

    async def read(name: str) -> Mapping[str, bytes]:
        return stored[name]

    made = await links.connect(wanted.model_copy(update={"nodes": unaddressed}), "default", read)
    shell = made.outside.shell
    assert shell is not None
    with pytest.raises(errors.InvalidConfiguration, match="pve1 has no address"):
        await shell.status("pve1")
    made.addresses["pve1"] = "127.0.0.1"
    with pytest.raises(errors.OutsideError, match="node shell of pve1, status"):
        await shell.status("pve1")
    await made.close()
