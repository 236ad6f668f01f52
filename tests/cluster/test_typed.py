"""docs/getting-started.md and docs/uninstall.md, typed from top to bottom.

The cluster is a simulated data centre with its sockets: Proxmox API, Redfish, and SSH, where a root login
leads to a directory tree per node. Kubernetes is an API server of its own. Of what the pages say, only
host names, ports, passwords and the like are put in, which readers put in as well.
"""

import asyncio
import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import pytest_asyncio
import yaml
from typing_extensions import override

from cluster import rights, test_crds, test_doctor, typed
from contract.nodes import Node
from pveha.devkube import access, controlplane, process, target
from pveha.model import guests
from pveha.nodeshell import operator_key
from pveha.sim import config, datacenter, faults, ssh
from unit.nodeshell import tree

ROOT = typed.DOCS.parent
TOOLS = ("curl", "jq", "openssl", "scp")
BMC_PASSWORD = "bmc-password"
MINUTE = 60.0
ABOUT = config.Config(
    tuple(config.Node(f"pve{number}", power_restore="last", boot_seconds=3.0) for number in (1, 2, 3)),
    guests=(
        config.Guest(120, "pve2", name="wiki"),
        config.Guest(121, "pve2", name="someone"),
        config.Guest(122, "pve1", guests.GuestKind.CONTAINER, name="proxy"),
    ),
    timings=config.Timings(crm_round=3.0, crm_wait=1.0, lrm_round=2.0, lock_lifetime=20.0),
)
"""Its HA is quicker than Proxmox's, so that the test is."""
FORCED = 'command="/usr/local/sbin/pveha-node serve"'
PVEUM = """#!/bin/sh
printf '%s\\n' "$*" >> "$HOME/pveum"
case "$1 $2 $3" in "user token add") echo "value: $PVEHA_TOKEN_SECRET" ;; esac
"""
"""Stands in for the command on a node; what it was told is carried out by `Desk.accounts`."""


class Face(ssh.SshFace):
    """A node's SSH as a reader finds it: root's own key, and what is in root's authorized_keys."""

    nodes: Mapping[str, Node]
    administrator: str

    def __init__(self, world: Any, node: str, address: Any, host_key: Any, user: str, key: str) -> None:
        super().__init__(world, node, address, host_key, user, key)
        self._tree = Face.nodes[node]
        self._options = asyncssh.SSHServerConnectionOptions(
            server_factory=lambda: Login(self._tree),
            server_host_keys=[host_key],
            process_factory=self._command,
            sftp_factory=lambda channel: Files(channel, chroot=str(self._tree.tree.root).encode()),
            password_auth=False,
            kbdint_auth=False,
        )

    async def _command(self, process: Any) -> None:
        if process.channel.get_connection().get_key_option("environment"):
            await self._run(process)
            return
        assert process.command == "exec python3 -I - /", process.command
        code = await process.stdin.read()
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-I", "-", str(self._tree.tree.root)],
            input=code,
            capture_output=True,
            text=True,
            env={"PATH": f"{self._tree.bin}:/usr/bin:/bin"},
            check=False,
        )
        process.stdout.write(done.stdout)
        process.stderr.write(done.stderr)
        process.exit(done.returncode)


class Files(asyncssh.SFTPServer):
    """Files of a node, for scp, which wants an exit status."""

    @override
    def exit(self) -> None:
        self.channel.exit(0)


class Login(asyncssh.SSHServer):
    """Reads the keys of a node anew for each login."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @override
    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    @override
    def begin_auth(self, username: str) -> bool:
        # asyncssh tells nobody what was asked for beside a forced command: the simulated node is told itself.
        confined = self._node.keys.read_text().replace(FORCED, 'environment="FORCED=1"')
        keys = f"{Face.administrator}\n{confined}"
        self._connection.set_authorized_keys(asyncssh.import_authorized_keys(keys))
        return True


class Desk:
    """The machine that a reader types on: its home, its PATH, what runs on in other terminals."""

    def __init__(self, folder: Path, plane: controlplane.ControlPlane) -> None:
        self.folder, self.home, self.admin = folder / "pveha", folder / "home", plane.admin
        self.center: datacenter.DataCenter
        self.fingerprints: dict[str, str] = {}
        """Of BMCs, by node."""
        self.running: dict[str, process.Process] = {}
        self.put_in: list[tuple[str, str]] = []
        """(pattern, replacement)"""
        self._granted: dict[str, frozenset[str]] = {}
        bin_ = folder / "bin"
        for each in (self.folder, self.home / ".ssh", bin_):
            each.mkdir(parents=True)
        for name in ("crds", "manifests"):
            (self.folder / name).symlink_to(ROOT / name)
        (bin_ / "pveum").write_text(PVEUM)
        (bin_ / "pveha").write_text(f'#!/bin/sh\nexec {sys.executable} -m pveha.cli "$@"\n')
        scp = shutil.which("scp")
        (bin_ / "scp").write_text(f'#!/bin/sh\nexec {scp} -F "$HOME/.ssh/config" "$@"\n')
        for each in bin_.iterdir():
            each.chmod(0o755)
        (bin_ / "kubectl").symlink_to(plane.programs.kubectl)
        self._environ = {
            **os.environ,
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "KUBECONFIG": str(plane.admin.kubeconfig),
        }
        operator_key.make(self.home / ".ssh" / "id_ed25519")

    def meet(self, center: datacenter.DataCenter) -> None:
        """Know the hosts, and what readers put in for the page's placeholders."""
        self.center = center
        of = center.connection
        addresses = {each.name: each.address for each in of.nodes}
        known = [
            f"[{line.split()[0].split(',')[1]}]:{of.ssh_port} {line.split(' ', 1)[1]}"
            for line in of.known_hosts.splitlines()
        ]
        (self.home / ".ssh" / "known_hosts").write_text("\n".join(known) + "\n")
        (self.home / ".ssh" / "config").write_text(
            "".join(f"Host {name}\n  HostName {address}\n" for name, address in addresses.items())
            + f"Host *\n  Port {of.ssh_port}\n  IdentityFile {self.home}/.ssh/id_ed25519\n"
            f"  UserKnownHostsFile {self.home}/.ssh/known_hosts\n"
        )
        first = of.nodes[0].bmc
        assert first
        hosts = " ".join(addresses.values())
        self._environ["PVEHA_TOKEN_SECRET"] = of.token.secret
        self.put_in = [
            (r"(pveha node (?:install|remove|check)) pve1 pve2 pve3", rf"\1 {hosts} --port {of.ssh_port}"),
            (r"192\.0\.2\.21:443", f"{first.host}:{first.port}"),
            (r"https://192\.0\.2\.21", first.url),
            (r"/Systems/1\b", f"/Systems/{first.system_id}"),
            (r"pveha:\.\.\. ", f"pveha:{BMC_PASSWORD} "),
            (r"password=\.\.\.", f"password={BMC_PASSWORD}"),
            (r"THE-SECRET", of.token.secret),
            (r"python3 bootstrap\.py run -- pveha", "pveha"),
            (r"OPERATOR\.kubeconfig", str(self.folder / "operator.kubeconfig")),
        ]

    def filled(self, text: str) -> str:
        for pattern, replacement in self.put_in:
            text = re.sub(pattern, replacement, text)
        return text

    async def type(self, block: typed.Block) -> str:
        """Run a block; returns what it printed. A command that fails is a failure of the page."""
        command = ["bash", "-euo", "pipefail", "-c", self.filled(block.text)]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            cwd=self.folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{block.section}:\n{block.text}\n{done.stdout}\n{done.stderr}"
        self.accounts()
        return done.stdout

    def leave_running(self, block: typed.Block) -> None:
        """Start each line; they end with the test."""
        for line in filter(None, block.text.splitlines()):
            log = self.folder / f"terminal-{len(self.running)}.log"
            command = ["bash", "-c", f"exec {self.filled(line)}"]
            environ = {key: value for key, value in self._environ.items() if os.environ.get(key) != value}
            self.running[line] = process.Process(
                ["env", *(f"{k}={v}" for k, v in environ.items()), *command], log
            )

    def accounts(self) -> None:
        """Do what pveum was told."""
        told = self.home / "pveum"
        for line in told.read_text().splitlines() if told.exists() else ():
            words = line.split()
            if words[:2] == ["role", "add"]:
                self._granted[words[2]] = frozenset(words[words.index("--privs") + 1].split(","))
            elif words[:2] == ["acl", "modify"]:
                held = self._granted[words[words.index("--roles") + 1]]
                self.center.api.tokens.grant(words[words.index("--tokens") + 1], {words[2]: held})
        told.unlink(missing_ok=True)

    def stop(self) -> None:
        for each in self.running.values():
            each.stop()


@pytest.fixture(scope="module")
def desk(kube: target.Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    if missing := [name for name in TOOLS if shutil.which(name) is None]:
        pytest.skip(f"the page uses {', '.join(missing)}, not on this machine")
    if kube.control_plane is None:
        pytest.skip(f"--kube {kube.name} is not ours to type whole pages into: only --kube local is")
    with controlplane.ControlPlane(kube.control_plane.programs) as plane:
        found = Desk(tmp_path_factory.mktemp("typed"), plane)
        yield found
        found.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def center(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[datacenter.DataCenter]:
    folder = tmp_path_factory.mktemp("nodes")
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        nodes: dict[str, Node] = {}
        for name in ("pve1", "pve2", "pve3"):
            files = stack.enter_context(tree.temporary())
            shared = nodes["pve1"].tree.path("/etc/pve") if nodes else files.path("/etc/pve")
            if nodes:
                files.path("/etc/pve").rename(files.path("/etc/unused"))
                files.path("/etc/pve").symlink_to(shared)
            nodes[name] = node = Node(Path("/"), folder / name, files, name, "", 0)
            node.keys.parent.mkdir(mode=0o700)
            node.keys.symlink_to(shared / "priv/authorized_keys")
        nodes["pve1"].tree.members(pve1=1, pve2=1, pve3=1)
        nodes["pve1"].keys.write_text("")
        Face.nodes, Face.administrator = nodes, (desk.home / ".ssh" / "id_ed25519.pub").read_text()
        patch.setattr(ssh, "SshFace", Face)
        async with datacenter.DataCenter(ABOUT, BMC_PASSWORD) as center:
            center.api.tokens.grant(center.connection.token.id, {})
            nodes["pve1"].tree.write("/etc/pve/pve-root-ca.pem", center.connection.ca)
            desk.meet(center)
            yield center


async def until(condition: Callable[[], bool], what: str, within: float = MINUTE) -> None:
    deadline = time.monotonic() + within
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"not within {within:.0f} s: {what}"
        await asyncio.sleep(0.3)


def get(admin: access.Access, *what: str) -> Any:
    return yaml.safe_load(admin.kubectl("get", *what, "-n", "dc1", "-o", "yaml"))


def told(admin: access.Access, *what: str) -> dict[str, str]:
    """Condition → Status/Reason."""
    conditions = get(admin, *what).get("status", {}).get("conditions", ())
    return {each["type"]: f"{each['status']}/{each['reason']}" for each in conditions}


def test_every_block_is_typed_or_says_why_not() -> None:
    pages = {page: typed.blocks(page) for page in ("getting-started.md", "uninstall.md")}
    left_out = [block.reason for found in pages.values() for block in found if block.reason]
    assert len(left_out) == 4
    assert all(len(reason) > 20 for reason in left_out)
    shell = [block for found in pages.values() for block in found if block.language == "sh"]
    assert len(shell) - len(left_out) >= 18
    for found in pages.values():
        assert {block.language for block in found} <= {"sh", "yaml"}
        assert all(block.file for block in found if block.language == "yaml")


@pytest.mark.asyncio(loop_scope="module")
async def test_getting_started(desk: Desk, center: datacenter.DataCenter) -> None:
    """From an empty Kubernetes cluster to a guest that comes back after its node has lost its power."""
    for each in test_doctor.kubernetes_cluster("default"):
        desk.admin.apply(each)
    after = {
        "pveum user token add": noted_the_secret,
        "openssl s_client": took_all_fingerprints,
        "| jq": compared_identities,
        "pveha node install": installed_everything,
        "cp manifests/examples": filled_in,
        "pveha run": watched_it_start,
        "describe hacluster": saw_the_conditions,
        '"mode":"Enforce"': saw_it_protected,
        "get pvm -w": pulled_the_plug,
    }
    await play(desk, "getting-started.md", after)
    assert all(each.is_alive for each in desk.running.values())
    watched = "".join(each.log.read_text() for each in desk.running.values())
    for word in ("NodeDown", "NodeFenced", "Fenced", "Recovered"):
        assert re.search(rf"\b{word}\b", watched), word


@pytest.mark.asyncio(loop_scope="module")
async def test_uninstall(desk: Desk, center: datacenter.DataCenter) -> None:
    """Comes after the test before. What nobody of pveha wrote is as it was."""
    after = {"delete pvm --all": saw_it_released, "delete hacluster": ended_the_operator}
    await play(desk, "uninstall.md", after)
    nodes = Face.nodes.values()
    assert [node.keys.read_text() for node in nodes] == [""] * 3
    assert not any(node.program.exists() or node.units() for node in nodes)
    left = desk.admin.kubectl("get", "crds,validatingadmissionpolicies", "-o", "name")
    assert "pveha" not in left
    processes = [vmid for machine in center.world.machines.values() for vmid in machine.processes]
    assert sorted(processes) == [120, 121, 122], "guests run on"


Look = Callable[[Desk, str], Awaitable[None]]


async def play(desk: Desk, page: str, after: Mapping[str, Look]) -> None:
    """Type a page; `after` a block that contains these words, look with what it printed."""
    looked = set()
    for block in typed.blocks(page):
        output = ""
        if block.reason:
            continue
        if block.file:
            (desk.folder / block.file).write_text(block.text)
        elif block.runs_on:
            desk.leave_running(block)
        else:
            output = await desk.type(block)
        for words in [each for each in after if each in block.text]:
            await after[words](desk, output)
            looked.add(words)
    assert looked == after.keys()


async def noted_the_secret(desk: Desk, output: str) -> None:
    assert desk.center.connection.token.secret in output


async def took_all_fingerprints(desk: Desk, output: str) -> None:
    """Of the first BMC as typed; of the others alike."""
    (block,) = [each for each in typed.blocks("getting-started.md") if "openssl" in each.text]
    line = block.text.splitlines()[-1]
    for node in desk.center.connection.nodes:
        assert node.bmc
        asked = line.replace("192.0.2.21:443", f"{node.bmc.host}:{node.bmc.port}")
        printed = await desk.type(dataclasses.replace(block, text=asked))
        desk.fingerprints[node.name] = printed.strip().partition("=")[2]
        assert desk.fingerprints[node.name] == node.bmc.fingerprint
    assert output.strip().endswith(desk.fingerprints["pve1"])


async def compared_identities(desk: Desk, output: str) -> None:
    uuid, _, power = output.rpartition("}")[2].split()
    assert uuid.strip('"').lower() == desk.center.world.machines["pve1"].about.uuid
    assert power == '"On"'


async def installed_everything(desk: Desk, output: str) -> None:
    """Every column of the table says ok."""
    rows = [line for line in output.splitlines() if re.search(r"\bpve[123]\b", line)]
    assert len(rows) == 3
    assert all(row.count(" ok") >= 7 for row in rows), output


async def filled_in(desk: Desk, _: str) -> None:
    """What the page asks readers to put into the example."""
    file = desk.folder / "hacluster-dc1.yaml"
    about, of = yaml.safe_load(file.read_text()), desk.center.connection
    spec = about["spec"]
    spec["mode"] = "Observe"
    spec["endpoints"] = [{"host": node.address, "port": of.api_port} for node in of.nodes]
    spec["recovery"]["nodeShell"]["port"] = of.ssh_port
    for entry, node in zip(spec["nodes"], of.nodes, strict=True):
        assert node.bmc
        assert entry["name"] == node.name
        entry["address"] = node.address
        entry["fencing"][0] |= {"address": node.bmc.url, "fingerprint": desk.fingerprints[node.name]}
    file.write_text(yaml.safe_dump(about))
    desk.admin.service_account("dc1", "pveha", rights.RULES, desk.folder / "operator.kubeconfig")


async def watched_it_start(desk: Desk, _: str) -> None:
    (operator,) = desk.running.values()
    await until(lambda: "leading dc1/pveha-dc1" in operator.log.read_text(), operator.tail())


async def saw_the_conditions(desk: Desk, _: str) -> None:
    wanted = typed.table("getting-started.md", "6. Observe")
    assert wanted.keys() >= {"Connected", "Quorate", "FencingReady", "FastReady", "Sound", "Owned", "Acting"}

    def as_the_page_says() -> bool:
        found = told(desk.admin, "hac", "dc1")
        return bool(found) and all(found[type_] in words for type_, words in wanted.items())

    await until(as_the_page_says, "the table of conditions")

    def row() -> dict[str, str]:
        (found,) = test_crds.table(desk.admin.kubectl("get", "pvm", "-n", "dc1"))
        return found

    await until(lambda: (row()["STATUS"], row()["FAILOVER"]) == ("Observed", "OK"), "wiki would come back")
    assert row()["FAILS-OVER-TO"] in ("pve1", "pve3")
    assert desk.center.world.newest.resources == {}, "nothing is written to Proxmox before step 7"


async def saw_it_protected(desk: Desk, _: str) -> None:
    def protected() -> bool:
        found, guest = told(desk.admin, "hac", "dc1"), told(desk.admin, "pvm", "wiki")
        good = {"Owned": "True/OK", "Acting": "True/OK", "Ready": "True/OK"}
        safe = {"Ready": "True/Protected", "FailoverReady": "True/OK"}
        return good.items() <= found.items() and safe.items() <= guest.items()

    await until(protected, "Enforce")
    assert "[pveha owner=" in desk.center.world.newest.resources["vm:120"].comment


async def pulled_the_plug(desk: Desk, _: str) -> None:
    world = desk.center.world
    faults.apply(world, "power off pve2")
    began = time.monotonic()

    def runs_elsewhere() -> bool:
        return any(120 in world.machines[name].processes for name in ("pve1", "pve3"))

    await until(runs_elsewhere, "recovery")
    assert time.monotonic() - began < 30, "about ten seconds, says the page; this machine may be busy"
    await until(lambda: "op=" not in world.newest.resources["vm:120"].comment, "adoption", 3 * MINUTE)
    found = told(desk.admin, "hac", "dc1")
    assert (found["Ready"], found["Degraded"]) == ("True/OK", "True/NodeDown")
    faults.apply(world, "power on pve2")
    await until(
        lambda: told(desk.admin, "hac", "dc1")["Degraded"] == "False/None", "pve2 is back", 2 * MINUTE
    )
    world.guests.start("pve2", guests.GuestRef(121, guests.GuestKind.VM))


async def saw_it_released(desk: Desk, _: str) -> None:
    await until(lambda: desk.center.world.newest.resources == {}, "no HA resource is left")


async def ended_the_operator(desk: Desk, _: str) -> None:
    desk.stop()
