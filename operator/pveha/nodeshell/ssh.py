"""The node shell over SSH: the operator's end of `pveha-node`."""

import asyncio
import contextlib
import dataclasses
import shlex
from collections.abc import AsyncIterator, Iterator, Mapping

import asyncssh
import pydantic

from pveha.model import errors, guests, node
from pveha.nodeshell import answers, pveha_node

CONNECT_SECONDS = 5.0
STATUS_SECONDS = 2.0
"""Also for `processes`: S17 gives a survivor 2 s to answer."""
BEGIN_SECONDS = 5.0
CLAIM_SECONDS = 5.0
"""pveha-node itself stops 3 s after it began (S14)."""
INVENTORY_SECONDS = 10.0
KILL_SECONDS = 8.0
"""pveha-node waits up to 5 s for the process to end (S17)."""
_KEEPALIVE_SECONDS = 3.0
_KEEPALIVES_MISSED = 2
_CHANNELS = 8
"""sshd's MaxSessions allows 10 on one connection."""


@dataclasses.dataclass(slots=True, eq=False)
class _Connection:
    """A connection and how many calls use it; a retired one is cut as soon as nobody does."""

    ssh: asyncssh.SSHClientConnection
    users: int = 0
    retired: bool = False

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1
            if self.retired and not self.users:
                self.ssh.abort()


@dataclasses.dataclass(slots=True)
class _Link:
    """The way to one node."""

    connecting: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    channels: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(_CHANNELS))
    connection: _Connection | None = None

    def retire(self) -> None:
        """Use another connection from now on: this one may be dead, but others may be waiting for answers."""
        if self.connection is not None:
            self.connection.retired = True
            if not self.connection.users:
                self.connection.ssh.abort()
            self.connection = None


class SshNodeShell:
    """`pveha-node` on every node, by node name. `addresses` may grow while it is used.

    `known_hosts` is the text of a known_hosts file; its entries may name nodes by name or by address.
    `private_key` is an unencrypted key in OpenSSH or PEM form. Raises `InvalidConfiguration` for either.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        user: str,
        port: int | Mapping[str, int],
        private_key: str,
        known_hosts: str,
    ) -> None:
        self._addresses = addresses
        self._port = port
        self._user = user
        self._links: dict[str, _Link] = {}
        try:
            self._key = asyncssh.import_private_key(private_key)
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            message = "the node shell's private key cannot be read: give an unencrypted OpenSSH key"
            raise errors.InvalidConfiguration(message) from error
        try:
            self._known_hosts = asyncssh.import_known_hosts(known_hosts)
        except ValueError as error:
            message = f"the node shell's known hosts cannot be read: {error}"
            raise errors.InvalidConfiguration(message) from error

    async def connect(self, name: str) -> None:
        """Open the connection to a node now, so that the first call need not wait for it."""
        async with self._within(CONNECT_SECONDS, name, "connecting"):
            await self._connection(name)

    async def close(self) -> None:
        """Cut all connections; calls in flight end with `Unreachable`."""
        links, self._links = self._links, {}
        for link in links.values():
            if link.connection is not None:
                link.connection.ssh.abort()
                await link.connection.ssh.wait_closed()

    async def status(self, on: str) -> node.NodeStatus:
        result = await self._ask(on, STATUS_SECONDS, "status")
        return answers.status(result, on, _now())

    async def other_command(self, on: str) -> str:
        """ "" if pveha-node refuses a command that is none of its own, else what came back instead."""
        async with self._within(STATUS_SECONDS, on, "trying another command"), self._link(on).channels:
            connection = await self._connection(on)
            with connection.used():
                _, output, complaint = await _run(connection.ssh, "id")
        if answers.is_refusal(output):
            return ""
        return (output or complaint).decode("utf-8", "replace").strip()[:200] or "nothing"

    async def inventory(self, on: str) -> node.GuestConfigs:
        result = await self._ask(on, INVENTORY_SECONDS, "inventory")
        return answers.inventory(result, on, _now())

    async def equipment(self, on: str) -> node.Equipment:
        result = await self._ask(on, INVENTORY_SECONDS, "inventory", "--about", "node")
        return answers.equipment(result, on, _now())

    async def processes(self, on: str) -> node.NodeProcesses:
        result = await self._ask(on, STATUS_SECONDS, "processes")
        return answers.processes(result, on, _now())

    async def begin(self, on: str, owner: str, take_over: str | None = None) -> int:
        take = () if take_over is None else ("--take-over", take_over)
        return answers.begin(await self._ask(on, BEGIN_SECONDS, "begin", "--owner", owner, *take), on)

    async def claim(
        self, on: str, epoch: int, op: str, dead: str, refs: tuple[guests.GuestRef, ...]
    ) -> tuple[node.ClaimResult, ...]:
        words = ["--epoch", str(epoch), "--op", op, "--from", dead, "--to", on]
        for ref in refs:
            words += ["--guest", ref.path]
        return answers.claim(await self._ask(on, CLAIM_SECONDS, "claim", *words), on, refs)

    async def kill(self, on: str, epoch: int, process: node.GuestProcess) -> None:
        words = ["--epoch", str(epoch), "--vmid", str(process.ref.vmid), "--pid", str(process.pid)]
        words += ["--start-time", str(process.start_time)]
        answers.kill(await self._ask(on, KILL_SECONDS, "kill", *words), on)

    async def _ask(self, on: str, seconds: float, verb: str, *words: str) -> dict[str, pydantic.JsonValue]:
        """One request. Nothing is sent twice: whether to try again is the caller's decision."""
        command = shlex.join((f"pveha-node/{pveha_node.PROTOCOL}", verb, *words))
        async with self._within(seconds, on, verb), self._link(on).channels:
            connection = await self._connection(on)
            with connection.used():
                exit_status, output, complaint = await _run(connection.ssh, command)
            if exit_status is None:
                message = "the connection broke before the answer"
                raise asyncssh.ConnectionLost(message)
        if not output:
            said = complaint.decode("utf-8", "replace").strip()[:200]
            message = (
                f"{on} answered nothing (exit code {exit_status}): is pveha-node installed there, and the "
                f"key's forced command? {said}"
            )
            raise errors.BadAnswer(message)
        return answers.read(output, on)

    @contextlib.asynccontextmanager
    async def _within(self, seconds: float, on: str, doing: str) -> AsyncIterator[None]:
        """A total deadline, and errors in the model's words."""
        what = f"node shell of {on}, {doing}"
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            self._link(on).retire()
            message = f"{what}: no answer within {seconds:g} s"
            raise errors.Unreachable(message) from error
        except asyncssh.HostKeyNotVerifiable as error:
            message = f"{what}: its host key is not the one in the known hosts; correct them if it changed"
            raise errors.Untrusted(message) from error
        except asyncssh.PermissionDenied as error:
            message = f"{what}: the key is not accepted for user {self._user}; see docs/node-shell.md"
            raise errors.Unauthorized(message) from error
        except (asyncssh.Error, OSError) as error:
            self._link(on).retire()
            message = f"{what}: {type(error).__name__}: {error}"
            raise errors.Unreachable(message) from error

    def _link(self, name: str) -> _Link:
        if name not in self._addresses:
            message = f"node {name} has no address for the node shell"
            raise errors.InvalidConfiguration(message)
        return self._links.setdefault(name, _Link())

    async def _connection(self, name: str) -> _Connection:
        link = self._link(name)
        async with link.connecting:
            if link.connection is None or link.connection.ssh.is_closed():
                link.connection = _Connection(await self._open(name))
            return link.connection

    async def _open(self, name: str) -> asyncssh.SSHClientConnection:
        """Nothing of the user's own SSH configuration, agent or keys takes part."""
        return await asyncssh.connect(
            self._addresses[name],
            self._port if isinstance(self._port, int) else self._port[name],
            config=None,
            username=self._user,
            client_keys=[self._key],
            agent_path=None,
            preferred_auth=["publickey"],
            known_hosts=self._known_hosts,
            host_key_alias=name,
            keepalive_interval=_KEEPALIVE_SECONDS,
            keepalive_count_max=_KEEPALIVES_MISSED,
        )


async def _run(connection: asyncssh.SSHClientConnection, command: str) -> tuple[int | None, bytes, bytes]:
    """Exit status (None if the connection broke), stdout, stderr. Cancelling closes the channel."""
    process = await connection.create_process(command, stdin=asyncssh.DEVNULL, encoding=None)
    try:
        output, complaint = await process.communicate()
        return process.exit_status, output, complaint
    finally:
        process.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
