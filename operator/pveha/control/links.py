"""From an HACluster and its Secrets to the ports of its cluster."""

import dataclasses
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from pveha import tls
from pveha.api import hacluster
from pveha.bmc import redfish
from pveha.model import errors, ports, snapshot
from pveha.nodeshell import ssh
from pveha.observe import watcher
from pveha.proxmox import client, credentials, endpoints

T = TypeVar("T")

SecretReader = Callable[[str], Awaitable[Mapping[str, bytes]]]
"""Reads a Secret of the HACluster's namespace by name."""


@dataclasses.dataclass(slots=True)
class Links:
    """The ports of one cluster, and what it takes to keep and end them."""

    outside: watcher.Outside
    addresses: dict[str, str]
    """Address of each node for the node shell; grows with what the cluster tells."""
    fingerprint: int
    """Changes with the specification and the Secrets these links were made from."""
    closers: list[Callable[[], Awaitable[None]]]
    client: client.ProxmoxClient

    def learn(self, seen: snapshot.Snapshot) -> None:
        """Use what the cluster tells of itself: addresses of nodes nobody named, and who is quorate."""
        for view in seen.views.values():
            for name, address in view.addresses.items():
                self.addresses.setdefault(name, address)
        self.client.prefer([name for name, view in seen.views.items() if view.quorate])

    async def close(self) -> None:
        for close in self.closers:
            await close()


class Secrets:
    """Reads the Secrets of one HACluster; errors name the Secret, the key and the remedy."""

    def __init__(self, namespace: str, read: SecretReader) -> None:
        self._namespace = namespace
        self._read = read
        self.seen: dict[str, Mapping[str, bytes]] = {}

    async def value(self, name: str, key: str, field: str) -> str:
        """The text under `key` of Secret `name`, which `field` of the HACluster refers to."""
        if name not in self.seen:
            try:
                self.seen[name] = await self._read(name)
            except errors.NotFound:
                raise SecretMissing(
                    f"Secret {name} in namespace {self._namespace}, named by {field}, does not "
                    "exist: create it"
                ) from None
            except errors.Forbidden:
                raise SecretInvalid(
                    f"Secret {name} in namespace {self._namespace}, named by {field}, may not be read: give "
                    "pveha's ServiceAccount the right to get Secrets there (the chart's "
                    "rbac.secretNamespaces)"
                ) from None
        try:
            return self.seen[name][key].decode().strip()
        except KeyError:
            raise SecretInvalid(f"Secret {name} (named by {field}) has no key {key}: add it") from None
        except UnicodeDecodeError:
            raise SecretInvalid(f"key {key} of Secret {name} (named by {field}) is not text") from None


class SecretMissing(errors.InvalidConfiguration):
    """A Secret does not exist."""


class SecretInvalid(errors.InvalidConfiguration):
    """A Secret lacks a key, or what it holds cannot be used."""


async def connect(spec: hacluster.HAClusterSpec, namespace: str, read: SecretReader) -> Links:
    """The ports for `spec`. What is wrong with node shell or BMCs is noted in `problems`; the cluster's own
    raises."""
    secrets = Secrets(namespace, read)
    hypervisor = await _hypervisor(spec, secrets)
    closers: list[Callable[[], Awaitable[None]]] = [hypervisor.close]
    addresses = {node.name: node.address for node in spec.nodes if node.address is not None}
    problems: dict[str, snapshot.Problem] = {}

    shell: ssh.SshNodeShell | None = None
    try:
        shell = await _shell(spec, secrets, addresses)
    except errors.PvehaError as problem:
        problems["shell"] = snapshot.Problem(type(problem).__name__, str(problem), 0.0)
    if shell is not None:
        closers.append(shell.close)

    bmcs: dict[str, redfish.BmcAddress] = {}
    for node in spec.nodes:
        if not node.fencing:
            continue
        try:
            bmcs[node.name] = await _bmc(node, secrets)
        except errors.PvehaError as problem:
            problems[f"power/{node.name}"] = snapshot.Problem(type(problem).__name__, str(problem), 0.0)
    power: ports.PowerControl | None = None
    if bmcs:
        redfish_power = redfish.RedfishPower(bmcs)
        closers.append(redfish_power.close)
        power = redfish_power
    outside = watcher.Outside(hypervisor, shell, power, frozenset(bmcs), problems)
    return Links(outside, addresses, _fingerprint(spec, secrets.seen), closers, hypervisor)


async def fingerprint(spec: hacluster.HAClusterSpec, namespace: str, read: SecretReader) -> int:
    """What `Links.fingerprint` would be now; raises Unreachable if Kubernetes does not answer."""
    seen: dict[str, Mapping[str, bytes]] = {}
    for name in secret_names(spec):
        try:
            seen[name] = await read(name)
        except (errors.NotFound, errors.Forbidden):
            continue
    return _fingerprint(spec, seen)


def secret_names(spec: hacluster.HAClusterSpec) -> list[str]:
    """Every Secret that `spec` names, once."""
    refs = [spec.credentials_secret_ref, spec.tls.ca_secret_ref]
    refs += [spec.recovery.node_shell.credentials_secret_ref] if spec.recovery.node_shell else []
    for node in spec.nodes:
        for fencing in node.fencing:
            refs += [fencing.credentials_secret_ref, fencing.ca_secret_ref]
    return sorted({ref.name for ref in refs if ref is not None})


def _fingerprint(spec: hacluster.HAClusterSpec, secrets: Mapping[str, Mapping[str, bytes]]) -> int:
    connection = spec.model_dump_json(
        include={"endpoints", "tls", "recovery", "nodes", "credentials_secret_ref"}
    )
    contents = tuple((name, tuple(sorted(data.items()))) for name, data in sorted(secrets.items()))
    return hash((connection, contents))


async def _hypervisor(spec: hacluster.HAClusterSpec, secrets: Secrets) -> client.ProxmoxClient:
    name = spec.credentials_secret_ref.name
    field = "spec.credentialsSecretRef"
    ca = None
    if spec.tls.ca_secret_ref is not None:
        ca = await secrets.value(spec.tls.ca_secret_ref.name, "ca.crt", "spec.tls.caSecretRef")
    token_id = await secrets.value(name, "tokenID", field)
    token_secret = await secrets.value(name, "tokenSecret", field)
    port = spec.endpoints[0].effective_port
    try:
        return client.ProxmoxClient(
            [endpoints.Address(each.host, each.effective_port) for each in spec.endpoints],
            credentials.Token(token_id, token_secret),
            tls.Trust(ca, tuple(spec.tls.fingerprints or ())),
            nodes={
                node.name: endpoints.Address(node.address, port)
                for node in spec.nodes
                if node.address is not None
            },
        )
    except errors.InvalidConfiguration as problem:
        raise SecretInvalid(f"{problem} (Secrets of spec.tls and {field})") from problem


async def _shell(
    spec: hacluster.HAClusterSpec, secrets: Secrets, addresses: Mapping[str, str]
) -> ssh.SshNodeShell | None:
    wanted = spec.recovery.node_shell
    if wanted is None:
        return None
    name, field = wanted.credentials_secret_ref.name, "spec.recovery.nodeShell.credentialsSecretRef"
    key = await secrets.value(name, "ssh-privatekey", field)
    hosts = await secrets.value(name, "known_hosts", field)
    try:
        return ssh.SshNodeShell(addresses, wanted.user, wanted.port, key + "\n", hosts + "\n")
    except errors.InvalidConfiguration as problem:
        raise SecretInvalid(f"Secret {name}: {problem}") from problem


async def _bmc(node: hacluster.Node, secrets: Secrets) -> redfish.BmcAddress:
    wanted = node.fencing[0]
    field = f"spec.nodes[{node.name}].fencing"
    url = urllib.parse.urlsplit(wanted.address)
    ca = None
    if wanted.ca_secret_ref is not None:
        ca = await secrets.value(wanted.ca_secret_ref.name, "ca.crt", field)
    name = wanted.credentials_secret_ref.name
    return redfish.BmcAddress(
        host=url.hostname or "",
        username=await secrets.value(name, "username", field),
        password=await secrets.value(name, "password", field),
        port=url.port or 443,
        system_id=wanted.system_id,
        ca=ca,
        fingerprint=wanted.fingerprint,
    )
