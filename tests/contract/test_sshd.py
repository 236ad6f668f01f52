"""SshNodeShell and the `pveha-node` file with a real OpenSSH server between them, on a directory tree."""

import asyncio
import contextlib
import dataclasses
import getpass
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncssh
import pytest

from pveha.model import errors, guests, node
from pveha.nodeshell import pveha_node, ssh
from unit.nodeshell.tree import CONFIG, Tree, temporary

REFS = (guests.GuestRef(101, guests.GuestKind.VM), guests.GuestRef(102, guests.GuestKind.CONTAINER))
OWNER = "4f1c.prod.dc1"


def new_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


def private(key: asyncssh.SSHKey) -> str:
    return key.export_private_key().decode()


def public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


@dataclasses.dataclass
class Server:
    """A running sshd. Each key has a forced command of its own."""

    program: Path
    folder: Path
    port: int
    host: asyncssh.SSHKey
    key: asyncssh.SSHKey
    hanging: asyncssh.SSHKey
    missing: asyncssh.SSHKey
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self.program, "-D", "-e", "-f", self.folder / "sshd_config"],
            stdin=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        pytest.fail(f"sshd did not start: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        """End the listener; established connections are processes of their own."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)

    def shell(
        self, key: asyncssh.SSHKey | None = None, *, host: asyncssh.SSHKey | None = None, known: str = "pve1"
    ) -> ssh.SshNodeShell:
        return ssh.SshNodeShell(
            {"pve1": "127.0.0.1", "pve2": "127.0.0.1"},
            getpass.getuser(),
            self.port,
            private(key or self.key),
            f"{known} {public(host or self.host)}\n",
        )


@pytest.fixture
def tree() -> Iterator[Tree]:
    with temporary() as tree:
        yield tree


@pytest.fixture
def server(tree: Tree, tmp_path: Path, sshd: Path) -> Iterator[Server]:
    if os.geteuid() == 0:  # sshd's empty folder for its unprivileged half: its service makes it at each start
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = Server(sshd, tmp_path, port, new_key(), new_key(), new_key(), new_key())
    serve = f"{sys.executable} {pveha_node.__file__} serve --root {tree.root}"
    commands = {serve: server.key, "sleep 30": server.hanging, "/nonexistent/pveha-node": server.missing}
    lines = [f'command="{command}",restrict {public(key)}\n' for command, key in commands.items()]
    (tmp_path / "authorized_keys").write_text("".join(lines))
    (tmp_path / "host_key").touch(mode=0o600)
    (tmp_path / "host_key").write_text(private(server.host))
    (tmp_path / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\n"
        f"HostKey {tmp_path}/host_key\n"
        f"AuthorizedKeysFile {tmp_path}/authorized_keys\n"
        "AuthenticationMethods publickey\n"
        "PermitRootLogin forced-commands-only\n"
        "PidFile none\nStrictModes no\nUsePAM no\nSubsystem sftp internal-sftp\n"
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def shell(server: Server) -> AsyncIterator[ssh.SshNodeShell]:
    shell = server.shell()
    await shell.connect("pve1")
    yield shell
    await shell.close()


@contextlib.asynccontextmanager
async def closed(shell: ssh.SshNodeShell) -> AsyncIterator[ssh.SshNodeShell]:
    yield shell
    await shell.close()


@contextlib.asynccontextmanager
async def raw(server: Server) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """A connection with the node shell's key, as a thief would make it."""
    known_hosts = asyncssh.import_known_hosts(f"pve1 {public(server.host)}\n")
    async with asyncssh.connect(
        "127.0.0.1",
        server.port,
        config=None,
        username=getpass.getuser(),
        client_keys=[server.key],
        agent_path=None,
        known_hosts=known_hosts,
        host_key_alias="pve1",
    ) as connection:
        yield connection


async def test_status_inventory_and_processes(shell: ssh.SshNodeShell, tree: Tree) -> None:
    tree.guest("pve2", "qemu/101")
    tree.process(700, "/usr/bin/kvm", "-id", "101", start_time=77)
    status = await shell.status("pve1")
    assert (status.node, status.quorate, status.newest_epoch, status.owner) == ("pve1", True, 0, None)
    assert status.members == {"pve1": True, "pve2": True, "pve3": False}
    assert status.votes.trustworthy
    assert "7b5qm22" in status.identities
    inventory = await shell.inventory("pve1")
    assert inventory.guests[101].node == "pve2"
    assert inventory.guests[101].storages == {"shared"}
    processes = await shell.processes("pve1")
    assert processes.processes == (node.GuestProcess(REFS[0], 700, 77, "unknown"),)
    assert status.answered_at <= inventory.answered_at <= processes.answered_at


async def test_begin_and_claim(shell: ssh.SshNodeShell, tree: Tree) -> None:
    assert await shell.begin("pve1", OWNER) == 1
    tree.guest("pve3", "qemu/101", f"lock: backup\n{CONFIG}")
    tree.ha("vm:101")
    results = await shell.claim("pve1", 1, "op1", "pve3", REFS)
    assert results == (
        node.ClaimResult(REFS[0], True, "Claimed", "backup"),
        node.ClaimResult(REFS[1], False, "SourceGone", None),
    )
    assert tree.config("pve1", "qemu/101").read_text() == CONFIG
    assert await shell.begin("pve1", OWNER) == 2
    (stale, _) = await shell.claim("pve1", 1, "op1", "pve3", REFS)
    assert (stale.claimed, stale.reason) == (False, "StaleEpoch")


async def test_another_owner_and_taking_over(shell: ssh.SshNodeShell) -> None:
    await shell.begin("pve1", "old.prod.dc1")
    with pytest.raises(errors.AnotherOwner) as raised:
        await shell.begin("pve1", OWNER)
    assert raised.value.owner == "old.prod.dc1"
    assert await shell.begin("pve1", OWNER, take_over="old.prod.dc1") == 2


async def test_errors_of_the_node(shell: ssh.SshNodeShell, tree: Tree) -> None:
    await shell.begin("pve1", OWNER)
    tree.process(700, "/usr/bin/kvm", "-id", "101", start_time=77)
    process = node.GuestProcess(REFS[0], 700, 77, "paused")
    with pytest.raises(errors.Refused, match="is unknown"):
        await shell.kill("pve1", 1, process)
    with pytest.raises(errors.StaleEpoch):
        await shell.kill("pve1", 7, process)
    tree.members(quorate=0, pve1=1, pve2=0, pve3=0)
    with pytest.raises(errors.NoQuorum):
        await shell.begin("pve1", OWNER)


async def test_an_address_that_leads_to_another_node(server: Server) -> None:
    async with closed(server.shell(known="pve2")) as shell:
        with pytest.raises(errors.BadAnswer, match="leads to pve1"):
            await shell.status("pve2")


@pytest.mark.parametrize("command", ["bash", "bash -c id", "pveha-node/1 status; id", None])
async def test_the_key_runs_nothing_else(server: Server, command: str | None) -> None:
    async with raw(server) as connection:
        done = await connection.run(command)
    assert done.exit_status == 0
    assert '"kind": "BadRequest"' in str(done.stdout)
    assert "uid=" not in str(done.stdout)


async def test_the_key_forwards_nothing_and_gets_no_files(server: Server) -> None:
    async with raw(server) as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", server.port)
        with pytest.raises((asyncssh.Error, OSError)):
            async with asyncio.timeout(5), connection.start_sftp_client() as sftp:
                await sftp.listdir("/")


async def test_another_host_key_is_not_trusted(server: Server) -> None:
    async with closed(server.shell(host=new_key())) as shell:
        with pytest.raises(errors.Untrusted):
            await shell.status("pve1")


async def test_a_host_without_known_key_is_not_trusted(server: Server) -> None:
    async with closed(server.shell(known="elsewhere")) as shell:
        with pytest.raises(errors.Untrusted):
            await shell.connect("pve1")


async def test_known_hosts_by_address_and_port(server: Server) -> None:
    async with closed(server.shell(known=f"[127.0.0.1]:{server.port}")) as shell:
        assert (await shell.status("pve1")).node == "pve1"


async def test_a_key_that_is_not_authorized(server: Server) -> None:
    async with closed(server.shell(new_key())) as shell:
        with pytest.raises(errors.Unauthorized):
            await shell.status("pve1")


async def test_a_node_without_pveha_node(server: Server) -> None:
    async with closed(server.shell(server.missing)) as shell:
        with pytest.raises(errors.BadAnswer, match="is pveha-node installed"):
            await shell.status("pve1")


async def test_a_hang_is_cut_by_the_deadline(server: Server) -> None:
    async with closed(server.shell(server.hanging)) as shell:
        await shell.connect("pve1")
        before = time.monotonic()
        with pytest.raises(errors.Unreachable, match="no answer within 2 s"):
            await shell.processes("pve1")
        assert ssh.STATUS_SECONDS <= time.monotonic() - before < ssh.STATUS_SECONDS + 0.5


async def test_cancelling_ends_the_call_and_leaves_the_connection(shell: ssh.SshNodeShell) -> None:
    call = asyncio.create_task(shell.inventory("pve1"))
    await asyncio.sleep(0.02)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await shell.status("pve1")).node == "pve1"


async def test_more_calls_at_once_than_sshd_allows_sessions(shell: ssh.SshNodeShell, tree: Tree) -> None:
    answers = await asyncio.gather(*(shell.inventory("pve1") for _ in range(20)))
    assert len(answers) == 20


async def test_a_lost_connection_is_made_again(
    shell: ssh.SshNodeShell, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "STATUS_SECONDS", 60.0)  # that it is made, not how fast a busy machine makes it
    server.stop()
    await shell.close()
    with pytest.raises(errors.Unreachable):
        await shell.status("pve1")
    server.start()
    assert (await shell.status("pve1")).node == "pve1"


@pytest.mark.parametrize(
    "bad", [{"private_key": "no key"}, {"known_hosts": "garbage"}], ids=["key", "known hosts"]
)
def test_secrets_that_cannot_be_read(bad: dict[str, str]) -> None:
    good = {"private_key": private(new_key()), "known_hosts": f"pve1 {public(new_key())}\n"}
    with pytest.raises(errors.InvalidConfiguration) as raised:
        ssh.SshNodeShell({}, "root", 22, **{**good, **bad})
    assert "no key" not in str(raised.value)


async def test_a_node_without_address() -> None:
    shell = ssh.SshNodeShell({}, "root", 22, private(new_key()), "")
    with pytest.raises(errors.InvalidConfiguration, match="pve9"):
        await shell.status("pve9")
