"""The SSH face: one server per node whose only key is bound to `pveha-node` by a forced command.

Whatever a client asks for becomes SSH_ORIGINAL_COMMAND of the very file that runs on real nodes, over the
simulated node's system calls.
"""

import asyncio
import collections
import contextlib
import json
import socket
from typing import TYPE_CHECKING

import asyncssh
from typing_extensions import override

from pveha.nodeshell import pveha_node
from pveha.sim import gate, https, node_system, shell_versions

if TYPE_CHECKING:
    from pveha.sim import world as worlds

_WRITING = ("begin", "claim")
"""Verbs that write to `/etc/pve`: such a write blocks while the node's membership is changing."""


class SshFace:
    """The SSH server of one node at one address. `user`'s `authorized_key` (public, OpenSSH form) may log
    in.
    """

    def __init__(
        self,
        world: "worlds.World",
        node: str,
        address: tuple[str, int],
        host_key: asyncssh.SSHKey,
        user: str,
        authorized_key: str,
    ) -> None:
        self._world = world
        self._node = node
        self.calls: collections.Counter[str] = collections.Counter()
        """By verb of `pveha-node`."""
        keys = asyncssh.import_authorized_keys(f"restrict {authorized_key}")
        self._options = asyncssh.SSHServerConnectionOptions(
            server_factory=lambda: _Login(user, keys),
            server_host_keys=[host_key],
            process_factory=self._run,
            password_auth=False,
            kbdint_auth=False,
            allow_pty=False,
            agent_forwarding=False,
        )
        self._gate = gate.Gate(address, self._condition, self._serve)
        self.start = self._gate.start
        self.stop = self._gate.stop

    def _condition(self) -> gate.Condition:
        return https.node_condition(self._world, self._node, "ssh", "sshd")

    async def _serve(self, connection: socket.socket) -> None:
        # A client may break off its own handshake.
        with contextlib.suppress(asyncssh.Error, OSError):
            await asyncssh.run_server(connection, options=self._options)

    async def _run(self, process: asyncssh.SSHServerProcess[str]) -> None:
        """The forced command."""
        command, machine = process.command, self._world.machines[self._node]
        self.calls[(command or "").partition(" ")[2].partition(" ")[0]] += 1
        await asyncio.sleep(self._world.between(self._world.timings.shell_call))
        if command and set(command.split()) & set(_WRITING) and machine.runs("pmxcfs"):
            await self._world.fs.settle(self._node)
        if not machine.up:
            return
        if machine.node_shell == "absent":
            process.stderr.write("bash: line 1: /usr/local/sbin/pveha-node: No such file or directory\n")
            process.exit(127)
            return
        if machine.node_shell == "open" and not (command or "").startswith("pveha-node/"):
            process.stdout.write("uid=0(root) gid=0(root) groups=0(root)\n")
            process.exit(0)
            return
        answer = pveha_node.main(["serve"], node_system.NodeSystem(self._world, self._node), command)
        answer = shell_versions.spoken(machine.node_shell, answer)
        await asyncio.sleep(self._world.timings.rename * (command or "").count("--guest"))
        process.stdout.write(json.dumps(answer) + "\n")
        process.exit(0)


class _Login(asyncssh.SSHServer):
    """Lets one user log in with the authorized keys."""

    def __init__(self, user: str, keys: asyncssh.SSHAuthorizedKeys) -> None:
        self._user = user
        self._keys = keys
        self._connection: asyncssh.SSHServerConnection | None = None

    @override
    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    @override
    def begin_auth(self, username: str) -> bool:
        if self._connection and username == self._user:
            self._connection.set_authorized_keys(self._keys)
        return True
