"""An administrator's login on a node, for `pveha node`: host keys pinned, `remote` at the other end."""

import asyncio
import base64
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import asyncssh
import pydantic

from pveha.model import errors
from pveha.nodeshell import installation, pveha_node, remote

CONNECT_SECONDS = 15.0
LOOK_SECONDS = 60.0
APPLY_SECONDS = 180.0
"""A systemctl may take 30 s, and pmxcfs blocks while the membership changes."""
_NAMES = ("pveha", "pveha.nodeshell")


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """How an administrator logs in. `known_hosts` is a file; without `identity` the agent's keys and those in
    ~/.ssh are tried. Nothing of ~/.ssh/config takes part."""

    user: str
    port: int
    known_hosts: Path
    identity: Path | None


class _Shape(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)


class _Problem(_Shape):
    kind: str
    message: str


class _Keys(_Shape):
    path: str
    shared: bool
    content: str | None


class _Timer(_Shape):
    enabled: bool
    active: bool
    need_reload: bool
    active_since: float
    last_run: float
    last_result: str


class _Look(_Shape):
    node: str
    members: dict[str, bool]
    quorate: bool
    files: dict[str, str | None]
    keys: _Keys
    timer: _Timer
    marks: list[str]
    time: float


class _Done(_Shape):
    done: int


class _Looked(_Shape):
    result: _Look | None = None
    error: _Problem | None = None


class _Applied(_Shape):
    result: _Done | None = None
    error: _Problem | None = None


class Login:
    """An open connection to `host`. `host_key` is the one that was found in the known hosts.

    `root` is the top of the node's file system, as its shell understands it.
    """

    def __init__(self, host: str, connection: asyncssh.SSHClientConnection, root: str) -> None:
        self.host = host
        self.host_key = _public(connection.get_server_host_key())
        self._connection = connection
        self._root = root

    async def look(self) -> installation.State:
        """What is installed now."""
        before = time.time()
        output = await self._python(LOOK_SECONDS, verb="look", files=list(installation.FILES))
        after = time.time()
        try:
            answer = _Looked.model_validate_json(output)
        except pydantic.ValidationError as error:
            raise self._bad(output) from error
        found = answer.result
        if found is None:
            raise self._error(answer.error, output)
        return installation.State(
            found.node,
            found.members,
            found.quorate,
            {path: _decoded(content) for path, content in found.files.items()},
            found.keys.path,
            found.keys.shared,
            _decoded(found.keys.content),
            installation.Timer(**found.timer.model_dump()),
            tuple(found.marks),
            found.time,
            max(found.time - after, 0.0) or min(found.time - before, 0.0),
        )

    async def apply(self, steps: Sequence[installation.Step]) -> None:
        """Carry steps out. Raises Conflict if a file is not what a step expects; earlier steps are done."""
        output = await self._python(APPLY_SECONDS, verb="apply", steps=[dict(step.does) for step in steps])
        try:
            answer = _Applied.model_validate_json(output)
        except pydantic.ValidationError as error:
            raise self._bad(output) from error
        if answer.result is None:
            raise self._error(answer.error, output)

    async def _python(self, seconds: float, **request: object) -> bytes:
        """Run `remote.main` there. A program cut off on its way does nothing: Python reads it all first."""
        code = _program(request)
        async with translated(self.host, seconds, "working on the node"):
            done = await self._connection.run(f"exec python3 -I - {self._root}", input=code, encoding=None)
            if done.exit_status is None:
                message = "the connection broke, and what was under way may have been done or not"
                raise asyncssh.ConnectionLost(message)
        output, complaint = _bytes(done.stdout).strip(), _bytes(done.stderr)
        if not output:
            said = complaint.decode("utf-8", "replace").strip().splitlines() or ["nothing"]
            message = f"{self.host}: python3 ended with {done.exit_status} and said: {said[-1][:300]}"
            raise errors.OutsideError(message)
        return output.splitlines()[-1]

    def _bad(self, output: bytes) -> errors.BadAnswer:
        said = output.decode("utf-8", "replace")[:200]
        return errors.BadAnswer(f"{self.host}: answered in an unknown form: {said}")

    def _error(self, problem: _Problem | None, output: bytes) -> errors.PvehaError:
        if problem is None:
            return self._bad(output)
        message = f"{self.host}: {problem.message}"
        match problem.kind:
            case "Conflict":
                return errors.Conflict(message)
            case "NotQuorate":
                return errors.NoQuorum(f"{message}; repeat it when `pvecm status` says quorate")
            case "NotRoot":
                return errors.Forbidden(f"{message}; log in as root (--user root)")
            case _:
                return errors.OutsideError(message)


@contextlib.asynccontextmanager
async def login(host: str, access: Access, root: str) -> AsyncIterator[Login]:
    """A login on `host`, whose host key must be in the known hosts."""
    known = read_known_hosts(access.known_hosts)
    identity = None if access.identity is None else read_private_key(access.identity)
    try:
        async with translated(host, CONNECT_SECONDS, "logging in"):
            connection = await asyncssh.connect(
                host,
                access.port,
                config=None,
                username=access.user,
                preferred_auth=["publickey"],
                client_keys=() if identity is None else [identity],
                agent_path=() if identity is None else None,
                known_hosts=known,
                keepalive_interval=15.0,
            )
    except errors.Untrusted as error:
        raise errors.Untrusted(f"{host}: {distrust(host, access, known)}") from error
    except errors.Unauthorized as error:
        whose = f"the key {access.identity}" if access.identity else "no key of your agent or ~/.ssh"
        verb = "is not" if access.identity else "is"
        remedy = f"use --identity FILE, or `ssh-copy-id {access.user}@{host}`"
        raise errors.Unauthorized(f"{host}: {whose} {verb} accepted for {access.user}: {remedy}") from error
    try:
        yield Login(host, connection, root)
    finally:
        connection.abort()
        await connection.wait_closed()


@contextlib.asynccontextmanager
async def translated(host: str, seconds: float, doing: str) -> AsyncIterator[None]:
    """A deadline, and errors in the model's words."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        message = f"{host}: {doing}: no answer within {seconds:g} s; repeat it when the node answers"
        raise errors.Unreachable(message) from error
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
        message = f"{host}: {error}"
        raise errors.Untrusted(message) from error
    except asyncssh.PermissionDenied as error:
        message = f"{host}: {error}"
        raise errors.Unauthorized(message) from error
    except (asyncssh.Error, OSError, UnicodeError) as error:
        message = f"{host}: {doing}: {str(error) or type(error).__name__}; repeat it when the node answers"
        raise errors.Unreachable(message) from error


def read_known_hosts(path: Path) -> asyncssh.SSHKnownHosts:
    try:
        return asyncssh.import_known_hosts(path.read_text("utf-8", "surrogateescape"))
    except FileNotFoundError as error:
        message = f"there is no {path}: host keys must be known beforehand, give --known-hosts FILE"
        raise errors.InvalidConfiguration(message) from error
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read as known hosts: {error}"
        raise errors.InvalidConfiguration(message) from error


def read_private_key(path: Path) -> asyncssh.SSHKey:
    """An unencrypted private key."""
    try:
        return asyncssh.read_private_key(path)
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        message = f"{path} cannot be read as a private key: {error}"
        if "passphrase" in str(error).lower():
            message += ": give a key without one, or your own through ssh-agent (ssh-add)"
        raise errors.InvalidConfiguration(message) from error


def distrust(host: str, access: Access, known: asyncssh.SSHKnownHosts) -> str:
    """Why a host key is not trusted, and what a person does about it."""
    port = f" -p {access.port}" if access.port != 22 else ""
    name = f"[{host}]:{access.port}" if access.port != 22 else host
    compare = "compare the fingerprint with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says"
    console = "on the node's own console, because whoever answers now may be somebody else"
    if any(known.match(host, "", access.port)):
        return (
            f"its host key is not the one in {access.known_hosts}. If the node was reinstalled, {compare} "
            f"{console}; then `ssh-keygen -R '{name}' -f {access.known_hosts}` and add the new one"
        )
    fetch = f"`ssh-keyscan{port} -t ed25519 {host} > new`"
    return (
        f"its host key is not in {access.known_hosts}. Fetch it with {fetch}, look at it with "
        f"`ssh-keygen -lf new`, {compare} {console}; then `cat new >> {access.known_hosts}`"
    )


def _program(request: Mapping[str, object]) -> bytes:
    """`pveha_node` and `remote` as modules of a Python that has no pveha, and the call."""
    sources = {
        module.__name__: Path(module.__file__ or "").read_text("utf-8") for module in (pveha_node, remote)
    }
    return (
        "import json, sys, types\n"
        'sys.version_info >= (3, 11) or sys.exit("python3 is %d.%d, 3.11 is needed" % sys.version_info[:2])\n'
        f"for name in {_NAMES!r}:\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        f"for name, source in json.loads({json.dumps(sources)!r}).items():\n"
        "    module = sys.modules[name] = types.ModuleType(name)\n"
        f'    setattr(sys.modules[{_NAMES[-1]!r}], name.rpartition(".")[2], module)\n'
        '    exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)\n'
        f"module.main(sys.argv[1], json.loads({json.dumps(request)!r}))\n"
    ).encode()


def _public(key: asyncssh.SSHKey | None) -> str:
    """A public key, `ssh-ed25519 AAAA...`."""
    if key is None:
        message = "the server gave no host key"
        raise errors.BadAnswer(message)
    return " ".join(key.export_public_key().decode().split()[:2])


def _decoded(content: str | None) -> bytes | None:
    return None if content is None else base64.b64decode(content)


def _bytes(output: object) -> bytes:
    return output if isinstance(output, bytes) else b""
