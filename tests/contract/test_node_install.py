"""`pveha node` against nodes with real OpenSSH servers, which share /etc/pve as a cluster does."""

import base64
import contextlib
import getpass
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
import yaml

from contract.nodes import Node, site
from pveha.cli import __main__ as command_line
from pveha.cli import node as node_verb
from pveha.model import errors
from pveha.nodeshell import authorized, installation, operator_key, pveha_node, rollout, ssh
from unit.nodeshell.tree import Tree, temporary

FOREIGN = b"# of the cluster\r\nssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 root@pve1\n\xff not text\n"
SHARED = "/etc/pve/priv/authorized_keys"
REMEDY = "name these nodes as well, or use `pveha node remove-key`"
PORT_CLOSED = "127.0.0.99"


class Cluster:
    """Three nodes of one cluster, an administrator, and keys for the operator."""

    def __init__(self, nodes: dict[str, Node], folder: Path) -> None:
        self.nodes, self.folder = nodes, folder
        self.site = site(self["pve1"].port, folder)
        self.hosts = [node.address for node in nodes.values()]
        self.key, self.other = self.new_key("operator"), self.new_key("other")

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def new_key(self, name: str) -> asyncssh.SSHKey:
        operator_key.make(self.folder / name)
        return asyncssh.read_private_key(self.folder / name)

    @property
    def keys(self) -> Path:
        """The file that all nodes share."""
        return self["pve1"].tree.path("/etc/pve/priv/authorized_keys")

    def know(self, *lines: str) -> None:
        (self.folder / "known_hosts").write_text("".join(lines))

    async def install(self, *names: str, force: bool = False, key: str = "") -> list[rollout.Report]:
        hosts = [self[name].address for name in names] or self.hosts
        private = asyncssh.read_private_key(self.folder / key) if key else self.key
        return await rollout.install(hosts, self.site, private, force=force)

    async def remove(self, *names: str, force: bool = False) -> list[rollout.Report]:
        hosts = [self[name].address for name in names] or self.hosts
        return await rollout.remove(hosts, self.site, force=force)

    def shell(self, key: asyncssh.SSHKey) -> ssh.SshNodeShell:
        known = "".join(f"{n.name} {n.host_key.export_public_key().decode()}" for n in self.nodes.values())
        addresses = {node.name: node.address for node in self.nodes.values()}
        user, port, private = getpass.getuser(), self["pve1"].port, key.export_private_key().decode()
        return ssh.SshNodeShell(addresses, user, port, private, known)

    async def gets_in(self, key: asyncssh.SSHKey) -> list[bool]:
        """Whether the operator gets the answers of pve1 and pve2 with this key."""
        shell = self.shell(key)
        answered = []
        for name in ("pve1", "pve2"):
            try:
                answered.append((await shell.status(name)).node == name)
            except errors.Unauthorized:
                answered.append(False)
        await shell.close()
        return answered


@pytest.fixture
def cluster(tmp_path: Path, sshd: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for deadline in ("CONNECT_SECONDS", "STATUS_SECONDS"):
        monkeypatch.setattr(ssh, deadline, 60.0)  # a busy machine is not what is tested
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    operator_key.make(tmp_path / "admin")
    administrator = (tmp_path / "admin.pub").read_text()
    with contextlib.ExitStack() as stack:
        nodes: dict[str, Node] = {}
        for number in (1, 2, 3):
            tree: Tree = stack.enter_context(temporary())
            name = f"pve{number}"
            shared = nodes["pve1"].tree.path("/etc/pve") if nodes else tree.path("/etc/pve")
            if nodes:
                tree.path("/etc/pve").rename(tree.path("/etc/unused"))
                tree.path("/etc/pve").symlink_to(shared)
            node = Node(sshd, tmp_path / name, tree, name, f"127.0.0.1{number}", port)
            node.keys.parent.mkdir(mode=0o700)
            node.keys.symlink_to(shared / "priv/authorized_keys")
            nodes[name] = node
            node.start(administrator)
            stack.callback(node.stop)
        nodes["pve1"].tree.members(pve1=1, pve2=1, pve3=1)
        cluster = Cluster(nodes, tmp_path)
        cluster.keys.write_bytes(FOREIGN)
        cluster.know(*(node.known() for node in nodes.values()))
        yield cluster


def failed(report: rollout.Report) -> list[str]:
    return [finding.name for finding in report.findings if not finding.ok]


async def test_all_that_the_docs_do_by_hand_is_there_and_a_second_run_has_nothing_to_do(
    cluster: Cluster,
) -> None:
    reports = await cluster.install()
    assert [(each.node, each.error, failed(each)) for each in reports] == [
        (name, "", []) for name in ("pve1", "pve2", "pve3")
    ]
    for node in cluster.nodes.values():
        assert node.program.read_bytes() == Path(pveha_node.__file__).read_bytes()
        assert node.program.stat().st_mode & 0o7777 == 0o755
        assert b"".join(node.units().values()).decode() == pveha_node.TIMER
        assert node.calls() == ["daemon-reload", "enable --now pveha-repair.timer"]
        assert node.keys.is_symlink()
    assert cluster.keys.read_bytes() == FOREIGN + cluster["pve1"].line(cluster.key).encode()
    assert cluster.keys.stat().st_mode & 0o7777 == 0o600
    assert await cluster.gets_in(cluster.key) == [True, True]
    before = [node.files() for node in cluster.nodes.values()]
    again = await cluster.install()
    assert [(each.did, each.ok) for each in again] == [([], True)] * 3
    assert [node.calls() for node in cluster.nodes.values()] == [[], [], []]
    assert [node.files() for node in cluster.nodes.values()] == before


async def test_check_writes_nothing_and_names_what_is_missing(cluster: Cluster) -> None:
    await cluster.install("pve1")
    cluster["pve1"].systemd(since=1000)
    cluster["pve1"].program.write_bytes(cluster["pve1"].program.read_bytes() + b"# changed\n")
    before = [node.files() for node in cluster.nodes.values()]
    one, two, three = await rollout.check(cluster.hosts, cluster.site, cluster.key)
    assert [node.files() for node in cluster.nodes.values()] == before
    assert failed(one) == ["version", "last run"]
    assert failed(two) == failed(three) == ["version", "status", "forced command", "timer", "last run"]
    told = {finding.name: finding.text for finding in two.findings}
    assert told["version"] == "pveha-node is not installed: run `pveha node install`"
    assert "is pveha-node installed there," in told["status"]


async def test_no_quorum_is_found(cluster: Cluster) -> None:
    await cluster.install()
    cluster["pve1"].tree.members(quorate=0, pve1=1, pve2=0, pve3=0)
    report, *_ = await rollout.check(cluster.hosts[:1], cluster.site, cluster.key)
    assert failed(report) == ["quorum"]


async def test_an_older_one_is_replaced_and_a_newer_one_only_by_force(cluster: Cluster) -> None:
    await cluster.install()
    current = cluster["pve1"].program.read_text()
    for name, version in (("pve1", "0.0.9"), ("pve2", "99.0.0")):
        changed = current.replace(f'VERSION = "{pveha_node.VERSION}"', f'VERSION = "{version}"')
        assert changed != current
        cluster[name].program.write_text(changed)
    old, new, same = await cluster.install()
    assert old.did == [f"pveha-node {pveha_node.VERSION} replaces 0.0.9"]
    assert "99.0.0 is newer" in new.error
    assert "--force" in new.error
    assert 'VERSION = "99.0.0"' in cluster["pve2"].program.read_text()
    assert same.did == []
    assert (await cluster.install("pve2", force=True))[0].ok
    assert cluster["pve2"].program.read_text() == current


async def test_a_file_of_that_name_that_is_something_else_is_not_replaced(cluster: Cluster) -> None:
    cluster["pve1"].program.write_text("#!/bin/sh\necho mine\n")
    (report,) = await cluster.install("pve1")
    assert "is not a pveha-node" in report.error
    assert cluster["pve1"].program.read_text() == "#!/bin/sh\necho mine\n"
    assert cluster.keys.read_bytes() == FOREIGN


async def test_only_hosts_with_a_known_key_are_spoken_to_and_the_others_go_on(cluster: Cluster) -> None:
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    cluster.know(cluster["pve2"].known(stranger), cluster["pve3"].known())
    before = [cluster[name].files() for name in ("pve1", "pve2")]
    unknown, wrong, good, away = await rollout.install(
        [*cluster.hosts, PORT_CLOSED], cluster.site, cluster.key, force=True
    )
    assert f"ssh-keyscan -p {cluster['pve1'].port} -t ed25519 {cluster.hosts[0]}" in unknown.error
    assert "compare the fingerprint" in unknown.error
    assert "is not the one in" in wrong.error
    assert "ssh-keyscan" not in wrong.error
    assert (good.ok, away.ok) == (True, False)
    assert "repeat it when the node answers" not in good.error
    for name, files in zip(("pve1", "pve2"), before, strict=True):
        added = cluster[name].files().keys() - files.keys()
        assert not [path for path in added if "/etc/pve/" not in path]


async def test_a_login_that_is_not_accepted(cluster: Cluster) -> None:
    (cluster.folder / "admin").unlink()
    (cluster.folder / "admin.pub").unlink()
    operator_key.make(cluster.folder / "admin")
    (report,) = await cluster.install("pve1")
    assert "is not accepted" in report.error
    assert "ssh-copy-id" in report.error


@pytest.mark.parametrize("word", ["daemon-reload", "enable"])
async def test_what_a_lost_connection_left_half_done_the_next_run_completes(
    cluster: Cluster, word: str
) -> None:
    cluster["pve1"].cut_at(word)
    cut, good, _ = await cluster.install()
    assert cut.error
    assert good.ok
    assert cluster["pve1"].program.exists()
    assert [each.ok for each in await cluster.install()] == [True, True, True]
    assert cluster["pve1"].calls()[-1] == "enable --now pveha-repair.timer"
    assert cluster.keys.read_bytes() == FOREIGN + cluster["pve1"].line(cluster.key).encode()


async def test_a_key_is_replaced_without_a_moment_in_which_none_works(cluster: Cluster) -> None:
    await cluster.install("pve1", "pve2")
    assert [each.did for each in await cluster.install("pve1", "pve2", key="other")].count([]) < 2
    assert await cluster.gets_in(cluster.key) == await cluster.gets_in(cluster.other) == [True] * 2
    old = operator_key.fingerprint(str(cluster.folder / "operator.pub"))
    assert old == operator_key.fingerprint(str(cluster.folder / "operator"))
    reports = await rollout.remove_key(cluster.hosts[:2], cluster.site, old)
    assert all(each.ok and not each.notes for each in reports)
    assert await cluster.gets_in(cluster.key) == [False] * 2
    assert await cluster.gets_in(cluster.other) == [True] * 2
    assert cluster.keys.read_bytes() == FOREIGN + cluster["pve1"].line(cluster.other).encode()
    last = authorized.fingerprint(cluster.other.public_data)
    (report,) = await rollout.remove_key(cluster.hosts[:1], cluster.site, last)
    assert report.notes == ["no key of pveha is left here: the operator cannot log in"]


async def test_a_key_that_may_do_more_is_refused_and_found(cluster: Cluster) -> None:
    public = cluster.key.export_public_key()
    cluster.keys.write_bytes(FOREIGN + public)
    (refused,) = await cluster.install("pve1")
    assert "line 4 of /etc/pve/priv/authorized_keys allows pveha's key more" in refused.error
    cluster.keys.write_bytes(FOREIGN)
    await cluster.install("pve1")
    cluster.keys.write_bytes(public + cluster.keys.read_bytes())
    (found,) = await rollout.check(cluster.hosts[:1], cluster.site, cluster.key)
    assert failed(found) == ["status", "forced command"]


async def test_addresses_that_a_person_added_to_the_line_stay(cluster: Cluster) -> None:
    line = cluster["pve1"].line(cluster.key).replace(",restrict", ',restrict,from="127.0.0.0/8"')
    cluster.keys.write_text(line)
    (report,) = await cluster.install("pve1")
    assert report.ok
    assert cluster.keys.read_text() == line


async def test_a_node_whose_file_is_its_own(cluster: Cluster) -> None:
    cluster["pve1"].keys.unlink()
    cluster["pve1"].keys.parent.rmdir()
    (report,) = await cluster.install("pve1")
    assert report.ok
    assert "key authorized in /root/.ssh/authorized_keys" in report.did
    assert cluster["pve1"].keys.stat().st_mode & 0o7777 == 0o600
    assert cluster["pve1"].keys.parent.stat().st_mode & 0o7777 == 0o700
    assert cluster.keys.read_bytes() == FOREIGN
    (report,) = await cluster.remove("pve1")
    assert report.ok
    assert cluster["pve1"].keys.read_bytes() == b""


async def test_remove_takes_what_install_wrote_and_a_shared_key_with_the_last_node(cluster: Cluster) -> None:
    await cluster.install()
    (report,) = await cluster.remove("pve1")
    assert report.notes == [
        f"the key's line stays, because pve2, pve3 share {SHARED}: {REMEDY}",
    ]
    assert not cluster["pve1"].program.exists()
    assert cluster["pve1"].units() == {}
    assert cluster["pve1"].calls()[-2:] == ["disable --now pveha-repair.timer", "daemon-reload"]
    shell = cluster.shell(cluster.key)
    assert (await shell.status("pve2")).node == "pve2"
    await shell.close()
    reports = await cluster.remove()
    assert [(each.ok, each.notes) for each in reports] == [(True, [])] * 3
    assert cluster.keys.read_bytes() == FOREIGN
    assert [node.program.exists() or node.units() for node in cluster.nodes.values()] == [{}, {}, {}]
    assert [each.did for each in await cluster.remove()] == [[], [], []]


async def test_remove_waits_for_open_operations_whose_net_the_timer_is(cluster: Cluster) -> None:
    await cluster.install()
    cluster["pve1"].tree.ha("vm:100", comment="[pveha hold=pve3 was=started]")
    cluster["pve1"].tree.ha("vm:101")
    before = [node.files() for node in cluster.nodes.values()]
    reports = await cluster.remove()
    for report in reports:
        assert "an operation of pveha is open (vm:101), and the timer is its net" in report.error
        assert "--force" in report.error
    assert [node.files() for node in cluster.nodes.values()] == before
    assert all(each.ok for each in await cluster.remove(force=True))
    assert not any(node.program.exists() for node in cluster.nodes.values())


async def test_remove_leaves_units_that_are_not_its_own(cluster: Cluster) -> None:
    own = cluster["pve1"].tree.write(installation.UNITS[0], "[Service]\nExecStart=/bin/true\n")
    (report,) = await cluster.remove("pve1")
    assert report.ok
    assert report.notes == [f"{installation.UNITS[0]} stays, because it is not pveha's"]
    assert own.exists()


def test_the_command_line_makes_a_secret_that_the_operator_can_use(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node_verb, "site", lambda args: cluster.site)
    key, secret = str(cluster.folder / "operator"), cluster.folder / "secret.yaml"
    words = ["--key", key, "--secret-file", str(secret), "--secret-name", "dc1-ssh", "--namespace", "dc1"]
    cluster["pve1"].tree.members(pve1=1, pve2=1)
    del cluster.hosts[2]
    assert command_line.main(["node", "install", cluster.hosts[0], "--json", *words]) == 1
    output = capsys.readouterr()
    assert "no host key of pve2" in output.err
    assert json.loads(output.out)["ok"]
    assert command_line.main(["node", "install", *cluster.hosts, *words]) == 0
    output = capsys.readouterr()
    assert "PRIVATE KEY" not in output.out + output.err
    assert ["nothing to do" in line for line in output.out.splitlines()[1:]] == [True, False]
    assert secret.stat().st_mode & 0o777 == 0o600
    manifest = yaml.safe_load(secret.read_text())
    assert manifest["metadata"] == {"name": "dc1-ssh", "namespace": "dc1"}
    data = {field: base64.b64decode(value).decode() for field, value in manifest["data"].items()}
    assert data["ssh-privatekey"] == Path(key).read_text()
    assert [line.split()[0] for line in data["known_hosts"].splitlines()] == ["pve1", "pve2"]
    assert command_line.main(["node", "install", *cluster.hosts, "--key", key, "--secret-file", "-"]) == 0
    output = capsys.readouterr()
    assert yaml.safe_load(output.out)["data"] == manifest["data"]
    assert "nothing to do" in output.err
    assert command_line.main(["node", "check", *cluster.hosts, "--key", key]) == 0
    assert command_line.main(["node", "remove", *cluster.hosts]) == 0
    assert command_line.main(["node", "check", *cluster.hosts, "--key", key, "--json"]) == 1


def test_one_node_by_two_names_is_refused() -> None:
    twins = [rollout.Report("pve1", node="pve1"), rollout.Report("192.0.2.11", node="pve1")]
    with pytest.raises(errors.InvalidConfiguration, match="are both called pve1"):
        rollout.refuse_twins(twins)
