"""`pveha node` over many nodes at once: what fails on one is told, and the others go on."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence

import asyncssh

from pveha.model import errors
from pveha.nodeshell import admin, answers, installation, ssh

PARALLEL = 8
ATTEMPTS = 4
"""Nodes that share authorized_keys change it at the same time: the one that comes second looks again."""
PROBE_SECONDS = 15.0


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """What is the same for all hosts. `root` is the top of the nodes' file systems, as their shells
    understand it; `user` is whom the operator's key logs in as. Both are others in tests only."""

    access: admin.Access
    root: str = "/"
    user: str = "root"


@dataclasses.dataclass(slots=True)
class Report:
    """What came out on one host, filled in as it becomes known.

    `node` is its name in the cluster; `members` are all nodes of the cluster; `host_key` is the pinned one,
    `ssh-ed25519 AAAA...`; `did` is what was changed; `notes` are what people should know; `error` is why it
    could not be done, with the remedy.
    """

    host: str
    node: str = ""
    members: list[str] = dataclasses.field(default_factory=list)
    host_key: str = ""
    did: list[str] = dataclasses.field(default_factory=list)
    findings: list[installation.Finding] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error and all(finding.ok for finding in self.findings)


async def install(hosts: Sequence[str], site: Site, key: asyncssh.SSHKey, *, force: bool) -> list[Report]:
    """Install or upgrade, then look whether all works with the operator's key."""
    public = key.export_public_key().decode().strip()

    async def one(login: admin.Login, report: Report) -> None:
        state = await _converge(
            login, report, lambda state: installation.install(state, public, site.root, force)
        )
        report.findings = await _findings(login, state, site, key)

    return await _on_all(hosts, site, one)


async def check(hosts: Sequence[str], site: Site, key: asyncssh.SSHKey) -> list[Report]:
    """Look whether all works with the operator's key. Nothing is written."""

    async def one(login: admin.Login, report: Report) -> None:
        report.findings = await _findings(login, await _look(login, report), site, key)

    return await _on_all(hosts, site, one)


async def remove(hosts: Sequence[str], site: Site, *, force: bool) -> list[Report]:
    """Remove what install wrote. First all nodes are looked at: a key that they share with a node that is not
    among them stays."""

    async def name(login: admin.Login, report: Report) -> None:
        await _look(login, report)

    surveyed = await _on_all(hosts, site, name)
    refuse_twins(surveyed)
    removed = frozenset(report.node for report in surveyed if report.ok)

    async def one(login: admin.Login, report: Report) -> None:
        state = await _converge(
            login, report, lambda state: installation.remove(state, removed, site.root, force)
        )
        report.notes = installation.left(state, removed, site.root)

    done = {each.host: each for each in await _on_all([each.host for each in surveyed if each.ok], site, one)}
    return [done.get(each.host, each) for each in surveyed]


async def remove_key(hosts: Sequence[str], site: Site, fingerprint: str) -> list[Report]:
    """Remove one key's permission to run pveha-node."""

    async def one(login: admin.Login, report: Report) -> None:
        state = await _converge(
            login, report, lambda state: installation.remove_key(state, fingerprint, site.root)
        )
        report.notes = installation.after_remove_key(state, fingerprint, site.root)

    return await _on_all(hosts, site, one)


def refuse_twins(reports: Sequence[Report]) -> None:
    """Raise InvalidConfiguration if two hosts are one node, or nodes of two clusters with one name."""
    hosts: dict[str, str] = {}
    for report in reports:
        if report.node and hosts.setdefault(report.node, report.host) != report.host:
            message = f"{hosts[report.node]} and {report.host} are both called {report.node}"
            raise errors.InvalidConfiguration(f"{message}: name each node once, and one cluster at a time")


async def _on_all(
    hosts: Sequence[str], site: Site, one: Callable[[admin.Login, Report], Awaitable[None]]
) -> list[Report]:
    """Reports in the order of the hosts."""
    free = asyncio.Semaphore(PARALLEL)

    async def guarded(host: str) -> Report:
        report = Report(host)
        async with free:
            try:
                async with admin.login(host, site.access, site.root) as login:
                    report.host_key = login.host_key
                    await one(login, report)
            except errors.PvehaError as error:
                report.error = str(error).removeprefix(f"{host}: ")
        return report

    return list(await asyncio.gather(*(guarded(host) for host in dict.fromkeys(hosts))))


async def _converge(
    login: admin.Login, report: Report, plan: Callable[[installation.State], list[installation.Step]]
) -> installation.State:
    """Look and change until a look finds nothing to do."""
    for _ in range(ATTEMPTS):
        state = await _look(login, report)
        steps = plan(state)
        if not steps:
            return state
        try:
            await login.apply(steps)
        except errors.Conflict:
            continue
        report.did += [step.says for step in steps if step.says]
    message = "files do not stay as they are made: does somebody else change them at the same time?"
    raise errors.Conflict(message)


async def _look(login: admin.Login, report: Report) -> installation.State:
    state = await login.look()
    report.node, report.members = state.node, sorted(state.members)
    return state


async def _findings(
    login: admin.Login, state: installation.State, site: Site, key: asyncssh.SSHKey
) -> list[installation.Finding]:
    return installation.findings(state, await _probe(login, state.node, site, key), site.root)


async def _probe(login: admin.Login, node: str, site: Site, key: asyncssh.SSHKey) -> installation.Probe:
    """Log in as the operator does, and ask for `status`; then for what the key must not get."""
    known_hosts = f"{node} {login.host_key}\n"
    private = key.export_private_key().decode()
    shell = ssh.SshNodeShell({node: login.host}, site.user, site.access.port, private, known_hosts)
    try:
        await shell.connect(node)
        status, problem = await shell.status(node), ""
    except errors.PvehaError as error:
        status, problem = None, str(error)
    finally:
        await shell.close()
    try:
        confined, told = await _free_command(login.host, node, site, key, known_hosts)
    except errors.PvehaError as error:
        confined, told = False, f"it could not be tried: {error}"
    return installation.Probe(status, problem, confined, told)


async def _free_command(
    host: str, node: str, site: Site, key: asyncssh.SSHKey, known_hosts: str
) -> tuple[bool, str]:
    """Whether `id` is refused by pveha-node, and what to say of it."""
    async with (
        admin.translated(host, PROBE_SECONDS, "logging in with the operator's key"),
        asyncssh.connect(
            host,
            site.access.port,
            config=None,
            username=site.user,
            client_keys=[key],
            agent_path=None,
            preferred_auth=["publickey"],
            known_hosts=asyncssh.import_known_hosts(known_hosts),
            host_key_alias=node,
        ) as connection,
    ):
        done = await connection.run("id")
    if answers.is_refusal(str(done.stdout)):
        return True, "another command is refused"
    what = "the key runs any command, or another one than pveha-node"
    return False, f"{what}: look for further lines of it in authorized_keys"
