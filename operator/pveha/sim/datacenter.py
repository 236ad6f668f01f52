"""A simulated data centre on loopback: a world on the real clock with all its faces, and what an operator
needs to use it.

Every node has an address of its own, as real nodes do, with the same API and SSH port on each; BMCs have
addresses of theirs. On Linux all of 127.0.0.0/8 is there. macOS has 127.0.0.1 alone: other addresses need
`ifconfig lo0 alias`, and `NoLoopbackError` says which.
"""

import base64
import collections
import dataclasses
import datetime
import errno
import random
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any, Protocol

import asyncssh

from pveha.model import errors
from pveha.sim import api, api_access, certificates, config, https, pdu_face, redfish, ssh, world

TOKEN_USER = "pveha@pve"
SSH_USER = "root"
BMC_USER = "pveha"
GROUP = "pveha.dev/v1alpha1"

_ATTEMPTS = 8
_FIXED_NET = "127.77.0"
"""Where macOS is asked to have aliases."""
_FIRST_NODE, _FIRST_BMC = 11, 101
"""Last part of the first node's and the first BMC's address."""


class NoLoopbackError(errors.PvehaError):
    """This machine lacks loopback addresses; the message holds the remedy."""


class _Face(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Bmc:
    """How a node's BMC is reached."""

    url: str
    host: str
    port: int
    system_id: str
    username: str
    password: str
    fingerprint: str


@dataclasses.dataclass(frozen=True, slots=True)
class NodeAccess:
    """How one node is reached; `fingerprint` is its API certificate's."""

    name: str
    address: str
    fingerprint: str
    bmc: Bmc | None
    pdus: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """An API token: USER@REALM!NAME and its secret."""

    id: str
    secret: str


@dataclasses.dataclass(frozen=True, slots=True)
class Connection:
    """Everything an operator, or a test, needs to reach the data centre. All text; keys and certificates are
    PEM.
    """

    cluster: str
    api_port: int
    ssh_port: int
    ca: str
    token: Token
    """Holds what pveha needs."""
    auditor: Token
    """May read everything and change nothing."""
    stranger: Token
    """Separated privileges and no ACL: sees empty lists."""
    ssh_user: str
    ssh_private_key: str
    known_hosts: str
    nodes: tuple[NodeAccess, ...]
    pdu: tuple[str, int] | None = None
    """Address of all PDUs together."""

    def node(self, name: str) -> NodeAccess:
        return next(node for node in self.nodes if node.name == name)


class DataCenter:
    """A world with its faces: `async with DataCenter(about) as dc`, then `dc.connection`, `dc.world`, ..."""

    def __init__(self, about: config.Config, bmc_password: str = "") -> None:
        """`bmc_password` is that of all BMCs; without it each has one of its own."""
        self._about = about.completed()
        self._bmc_password = bmc_password
        self._authority = certificates.Authority(f"{about.cluster_name} root CA (simulated)")
        self._faces: list[_Face] = []
        self._shells: list[ssh.SshFace] = []
        self._apis: dict[str, https.ApiFace] = {}
        self._tokens = {
            "operator": api_access.Token(
                f"{TOKEN_USER}!operator", secrets.token_hex(16), {"/": api_access.OPERATOR}
            ),
            "auditor": api_access.Token(
                f"{TOKEN_USER}!auditor", secrets.token_hex(16), {"/": api_access.AUDITOR}
            ),
            "stranger": api_access.Token(f"{TOKEN_USER}!stranger", secrets.token_hex(16)),
        }
        self.world: world.World
        self.api: api.Api
        self.connection: Connection

    async def __aenter__(self) -> "DataCenter":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Choose free addresses and ports, begin the world, open all faces. Raises `NoLoopbackError`."""
        for attempt in range(_ATTEMPTS):
            net, ports = self._choose()
            try:
                await self._open(net, *ports)
                return
            except OSError as error:
                await self.stop()
                if error.errno != errno.EADDRINUSE or attempt == _ATTEMPTS - 1:
                    raise

    async def stop(self) -> None:
        """Close all faces; the world stays readable."""
        faces, self._faces, self._shells = self._faces, [], []
        for face in reversed(faces):
            await face.stop()

    @property
    def shell_calls(self) -> dict[str, int]:
        """Calls of the node shells so far, by verb."""
        return dict(sum((shell.calls for shell in self._shells), collections.Counter[str]()))

    def certify(self, node: str, *, days_left: float = 30.0, foreign: bool = False) -> None:
        """Give a node's API a new certificate, of the cluster's authority unless it is `foreign`."""
        authority = certificates.Authority("somebody else's") if foreign else self._authority
        names = (node, self.connection.node(node).address)
        self._apis[node].present(authority.issue(*names, left=datetime.timedelta(days=days_left)))

    def manifests(
        self, namespace: str = "default", name: str = "dc1", mode: str = "Enforce"
    ) -> list[dict[str, Any]]:
        """Secrets, HACluster, FailoverPolicy and a ProtectedVM for each guest that is no template."""
        return list(_manifests(self.connection, self.world, namespace, name, mode))

    def _choose(self) -> tuple[str, tuple[int, int, int]]:
        """A net, and a port each for API, SSH and Redfish, free a moment ago."""
        count = len(self._about.nodes)
        wanted = [*range(_FIRST_NODE, _FIRST_NODE + count), *range(_FIRST_BMC, _FIRST_BMC + count)]
        net = f"127.{random.randint(64, 250)}.{random.randint(0, 255)}"
        if not all(_can_bind(f"{net}.{last}") for last in wanted):
            net = _FIXED_NET
        missing = [f"{net}.{last}" for last in wanted if not _can_bind(f"{net}.{last}")]
        if missing:
            aliases = "; ".join(f"sudo ifconfig lo0 alias {address}" for address in missing)
            raise NoLoopbackError(
                "the simulated nodes need loopback addresses of their own, which this machine does not have. "
                f"Add them until the next reboot, then run this again: {aliases}"
            )
        first = f"{net}.{_FIRST_NODE}"
        return net, (_free_port(first), _free_port(first), _free_port(f"{net}.{_FIRST_BMC}"))

    async def _open(self, net: str, api_port: int, ssh_port: int, bmc_port: int) -> None:
        nodes = tuple(
            dataclasses.replace(node, address=f"{net}.{_FIRST_NODE + number}")
            for number, node in enumerate(self._about.nodes)
        )
        about = dataclasses.replace(self._about, nodes=nodes, start_timestamp=time.time())
        self.world = simulated = world.World(about)
        certificate = {node.name: self._authority.issue(node.name, node.address) for node in nodes}
        self.api = api.Api(
            simulated,
            api_access.Tokens(*self._tokens.values()),
            {name: identity.fingerprint for name, identity in certificate.items()},
        )
        client_key = asyncssh.generate_private_key("ssh-ed25519", comment="pveha")
        host_key = {node.name: asyncssh.generate_private_key("ssh-ed25519") for node in nodes}
        accesses = []
        for number, node in enumerate(nodes):
            api_face = https.ApiFace(self.api, node.name, (node.address, api_port), certificate[node.name])
            self._apis[node.name] = api_face
            self._faces.append(api_face)
            shell = ssh.SshFace(
                simulated,
                node.name,
                (node.address, ssh_port),
                host_key[node.name],
                SSH_USER,
                _public(client_key),
            )
            self._shells.append(shell)
            self._faces.append(shell)
            bmc = self._bmc(node, f"{net}.{_FIRST_BMC + number}", bmc_port) if node.has_bmc else None
            fingerprint = certificate[node.name].fingerprint
            accesses.append(NodeAccess(node.name, node.address, fingerprint, bmc, node.pdus))
        pdu = (f"{net}.{_FIRST_BMC}", _free_port(f"{net}.{_FIRST_BMC}")) if simulated.pdus.names else None
        if pdu is not None:
            self._faces.append(pdu_face.PduFace(simulated, pdu))
        self.connection = Connection(
            cluster=self._about.cluster_name,
            api_port=api_port,
            ssh_port=ssh_port,
            ca=self._authority.pem,
            token=self._token("operator"),
            auditor=self._token("auditor"),
            stranger=self._token("stranger"),
            ssh_user=SSH_USER,
            ssh_private_key=client_key.export_private_key("openssh").decode(),
            known_hosts="".join(
                f"{node.name},{node.address},[{node.address}]:{ssh_port} {_public(host_key[node.name])}\n"
                for node in nodes
            ),
            nodes=tuple(accesses),
            pdu=pdu,
        )
        simulated.start()
        for face in self._faces:
            await face.start()

    def _bmc(self, node: config.Node, host: str, port: int) -> Bmc:
        password = self._bmc_password or secrets.token_hex(8)
        identity = certificates.self_signed(f"bmc-{node.name}", host)
        self._faces.append(
            redfish.RedfishFace(self.world, node.name, (host, port), identity, (BMC_USER, password))
        )
        uuid = self.world.bmcs.by_name[node.name].uuid
        return Bmc(f"https://{host}:{port}", host, port, uuid, BMC_USER, password, identity.fingerprint)

    def _token(self, name: str) -> Token:
        return Token(self._tokens[name].id, self._tokens[name].secret)


def _public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key("openssh").decode().strip()


def _can_bind(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def _manifests(
    connection: Connection, simulated: world.World, namespace: str, name: str, mode: str
) -> Iterator[dict[str, Any]]:
    def secret(suffix: str, **data: str) -> dict[str, Any]:
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
        return _object("v1", "Secret", namespace, f"{name}-{suffix}", type="Opaque", data=encoded)

    yield secret("token", tokenID=connection.token.id, tokenSecret=connection.token.secret)
    yield secret("ca", **{"ca.crt": connection.ca})
    yield secret(
        "ssh", **{"ssh-privatekey": connection.ssh_private_key, "known_hosts": connection.known_hosts}
    )
    for node in connection.nodes:
        if node.bmc:
            yield secret(f"bmc-{node.name}", username=node.bmc.username, password=node.bmc.password)
    yield _object(GROUP, "HACluster", namespace, name, spec=_cluster_spec(connection, name, mode))
    yield _object(GROUP, "FailoverPolicy", namespace, "standard", spec={})
    for guest in simulated.config.guests:
        if not guest.template:
            spec = {"clusterRef": {"name": name}, "vmid": guest.vmid, "policyRef": {"name": "standard"}}
            yield _object(GROUP, "ProtectedVM", namespace, guest.name, spec=spec)


def _cluster_spec(connection: Connection, name: str, mode: str) -> dict[str, Any]:
    pdus = sorted({pdu for node in connection.nodes for pdu in node.pdus})
    bmcs = any(node.bmc for node in connection.nodes)
    methods: list[dict[str, Any]] = [{"name": "bmc", "redfish": {}}] if bmcs or not pdus else []
    for pdu in pdus:
        assert connection.pdu is not None
        host, port = connection.pdu
        given = {"ip": host, "ipport": str(port), "switch": pdu}
        agent = {"name": "fence_sim", "parameters": _parameters(given)}
        methods.append({"name": pdu, **({"level": 2} if bmcs else {}), "agent": agent})
    return {
        "mode": mode,
        "endpoints": [{"host": node.address, "port": connection.api_port} for node in connection.nodes],
        "credentialsSecretRef": {"name": f"{name}-token"},
        "tls": {"caSecretRef": {"name": f"{name}-ca"}},
        "recovery": {
            "engine": "Fast",
            "nodeShell": {
                "credentialsSecretRef": {"name": f"{name}-ssh"},
                "user": connection.ssh_user,
                "port": connection.ssh_port,
            },
        },
        "fencing": {"methods": methods},
        "nodes": [_node(name, node) for node in connection.nodes],
    }


def _node(cluster: str, node: NodeAccess) -> dict[str, Any]:
    fencing = [_fencing(cluster, node.name, node.bmc)] if node.bmc else []
    fencing += [{"method": pdu, "parameters": _parameters({"plug": node.name})} for pdu in node.pdus]
    return {"name": node.name, "address": node.address, **({"fencing": fencing} if fencing else {})}


def _parameters(given: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in given.items()]


def _fencing(name: str, node: str, bmc: Bmc) -> dict[str, Any]:
    return {
        "method": "bmc",
        "address": bmc.url,
        "credentialsSecretRef": {"name": f"{name}-bmc-{node}"},
        "fingerprint": bmc.fingerprint,
    }


def _object(version: str, kind: str, namespace: str, name: str, **content: Any) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        **content,
    }
