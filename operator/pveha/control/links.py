"""From an HACluster and its Secrets to the ports of its cluster."""

import contextlib
import dataclasses
import pathlib
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from pveha import tls
from pveha.api import fencing, hacluster
from pveha.bmc import agent, ipmi, redfish, switches
from pveha.model import errors, power, snapshot
from pveha.nodeshell import answers, ssh
from pveha.observe import watcher
from pveha.proxmox import client, credentials, endpoints

T = TypeVar("T")

CALM_SECONDS = 30.0
"""Between two reads of a healthy node's power by Redfish."""
PROCESS_CALM_SECONDS = 180.0
"""The same by IPMI or a fence agent, each of which is a process."""

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

    async def all(self, name: str, field: str) -> dict[str, str]:
        """All of Secret `name` that is text."""
        keys = self.seen.get(name)
        if keys is None:
            with contextlib.suppress(SecretInvalid):
                await self.value(name, "", field)
            keys = self.seen[name]
        return {key: await self.value(name, key, field) for key in keys}


class SecretMissing(errors.InvalidConfiguration):
    """A Secret does not exist."""


class SecretInvalid(errors.InvalidConfiguration):
    """A Secret lacks a key, or what it holds cannot be used."""


async def connect(
    spec: hacluster.HAClusterSpec,
    namespace: str,
    read: SecretReader,
    agents: pathlib.Path = agent.FOLDER,
) -> Links:
    """The ports for `spec`. What is wrong with node shell or BMCs is noted in `problems`; the cluster's own
    raises. `agents` is the folder of the fence agents."""
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

    devices, closing = await _devices(spec, secrets, agents, problems)
    closers += closing
    power_control = switches.Switches(devices) if devices else None
    calm = {switch: _calm_seconds(spec, switch) for switch in devices}
    outside = watcher.Outside(hypervisor, shell, power_control, calm, problems, answers.described)
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
        for entry in node.fencing:
            refs += [entry.credentials_secret_ref, entry.ca_secret_ref]
    return sorted({ref.name for ref in refs if ref is not None})


def _fingerprint(spec: hacluster.HAClusterSpec, secrets: Mapping[str, Mapping[str, bytes]]) -> int:
    connection = spec.model_dump_json(
        include={"endpoints", "tls", "recovery", "fencing", "nodes", "credentials_secret_ref"}
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


Device = redfish.RedfishPower | ipmi.IpmiPower | agent.AgentPower


async def _devices(
    spec: hacluster.HAClusterSpec,
    secrets: Secrets,
    agents: pathlib.Path,
    problems: dict[str, snapshot.Problem],
) -> tuple[dict[power.Switch, Device], list[Callable[[], Awaitable[None]]]]:
    """The device behind each switch that can be used; what is wrong with the others goes into `problems`."""
    by_redfish: dict[str, redfish.BmcAddress] = {}
    by_ipmi: dict[str, ipmi.BmcAddress] = {}
    by_agent: dict[str, agent.Outlet] = {}
    found: list[tuple[power.Switch, fencing.FencingMethod]] = []
    for node in spec.nodes:
        for _, level in spec.levels(node.name):
            for method, entry in level:
                switch = power.Switch(node.name, method.name)
                field = f"spec.nodes[{node.name}].fencing[{method.name}]"
                try:
                    if method.redfish is not None:
                        by_redfish[str(switch)] = await _redfish(entry, secrets, field)
                    elif method.ipmi is not None:
                        by_ipmi[str(switch)] = await _ipmi(entry, secrets, field)
                    elif method.agent is not None:
                        by_agent[str(switch)] = await _outlet(method, entry, secrets, agents, field)
                    else:
                        continue
                except errors.PvehaError as problem:
                    trouble = snapshot.Problem(type(problem).__name__, str(problem), 0.0)
                    problems[f"power/{switch}"] = trouble
                else:
                    found.append((switch, method))
    ours = redfish.RedfishPower(by_redfish)
    others = ipmi.IpmiPower(by_ipmi), agent.AgentPower(by_agent)
    devices = {
        switch: ours if method.redfish is not None else others[0] if method.ipmi is not None else others[1]
        for switch, method in found
    }
    return devices, [ours.close]


def _calm_seconds(spec: hacluster.HAClusterSpec, switch: power.Switch) -> float:
    """Between two reads while nothing happens: a process for each read is not started often."""
    method = spec.method(switch.method)
    return CALM_SECONDS if method is not None and method.redfish is not None else PROCESS_CALM_SECONDS


def _needed(value: T | None, field: str, name: str, kind: str) -> T:
    if value is None:
        raise errors.InvalidConfiguration(f"{field}.{name} is missing, which a method of kind {kind} needs")
    return value


async def _redfish(entry: fencing.NodeFencing, secrets: Secrets, field: str) -> redfish.BmcAddress:
    url = urllib.parse.urlsplit(_needed(entry.address, field, "address", "redfish"))
    ca = None
    if entry.ca_secret_ref is not None:
        ca = await secrets.value(entry.ca_secret_ref.name, "ca.crt", field)
    name = _needed(entry.credentials_secret_ref, field, "credentialsSecretRef", "redfish").name
    return redfish.BmcAddress(
        host=url.hostname or "",
        username=await secrets.value(name, "username", field),
        password=await secrets.value(name, "password", field),
        port=url.port or 443,
        system_id=entry.system_id,
        ca=ca,
        fingerprint=entry.fingerprint,
    )


async def _ipmi(entry: fencing.NodeFencing, secrets: Secrets, field: str) -> ipmi.BmcAddress:
    name = _needed(entry.credentials_secret_ref, field, "credentialsSecretRef", "ipmi").name
    return ipmi.BmcAddress(
        host=_needed(entry.host, field, "host", "ipmi"),
        username=await secrets.value(name, "username", field),
        password=await secrets.value(name, "password", field),
        port=entry.port or ipmi.PORT,
    )


async def _outlet(
    method: fencing.FencingMethod,
    entry: fencing.NodeFencing,
    secrets: Secrets,
    agents: pathlib.Path,
    field: str,
) -> agent.Outlet:
    assert method.agent is not None
    given = {each.name.value: each.value for each in (*method.agent.parameters, *(entry.parameters or ()))}
    told: dict[str, str] = {}
    if entry.credentials_secret_ref is not None:
        told = await secrets.all(entry.credentials_secret_ref.name, field)
    return agent.Outlet(method.agent.name, given, told, float(method.effective_timeout_seconds), agents)
