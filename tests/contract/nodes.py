"""Proxmox VE nodes as directory trees, each with a real OpenSSH server and a systemctl that keeps record."""

import getpass
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import asyncssh

from pveha.nodeshell import admin, installation, rollout
from unit.nodeshell.tree import Tree

SYSTEMCTL = """#!{python} -IS
import hashlib, json, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).resolve().parent
words = sys.argv[1:]
state = json.loads((here / "state").read_text()) if (here / "state").exists() else {{}}
folder = pathlib.Path("{root}/etc/systemd/system")
units = [folder / each for each in ("pveha-repair.service", "pveha-repair.timer")]
now = "".join(hashlib.sha256(each.read_bytes()).hexdigest() for each in units if each.exists())
if words[0] != "show":
    with (here / "calls").open("a") as calls:
        calls.write(" ".join(words) + "\\n")
if (here / "cut").exists() and (here / "cut").read_text() == words[0]:
    (here / "cut").unlink()
    pid = os.getppid()
    victims = [pid]
    while not pathlib.Path(f"/proc/{{pid}}/comm").read_text().startswith("sshd"):
        pid = int(pathlib.Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[1])
        victims.append(pid)
    for victim in reversed(victims):
        os.kill(victim, signal.SIGKILL)
    sys.exit(1)
if words[0] == "show":
    since = ""
    if state.get("active"):
        since = time.strftime("%a %Y-%m-%d %H:%M:%S %Z", time.localtime(state["since"]))
    told = {{
        "ActiveState": "active" if state.get("active") else "inactive",
        "UnitFileState": "enabled" if state.get("enabled") else "disabled" if units[1].exists() else "",
        "NeedDaemonReload": "yes" if state.get("active") and state.get("loaded") != now else "no",
        "LastTriggerUSec": since,
        "ActiveEnterTimestamp": since,
        "Result": state.get("result", "success"),
    }}
    wanted = words[1].removeprefix("--property=").split(",")
    print("\\n".join(f"{{name}}={{told[name]}}" for name in wanted if name in told))
elif words[0] == "daemon-reload":
    state["loaded"] = now
elif words[0] == "enable":
    if not all(each.exists() for each in units):
        sys.exit("Failed to enable unit: Unit file pveha-repair.timer does not exist.")
    state |= {{"enabled": True, "active": True, "since": int(time.time()), "loaded": now}}
elif words[0] == "disable":
    state |= {{"enabled": False, "active": False}}
if words[0] != "show":
    (here / "state").write_text(json.dumps(state))
"""


class Node:
    """A node at an address of its own. `tree` is its file system, whose /etc/pve may be another node's."""

    def __init__(self, sshd: Path, folder: Path, tree: Tree, name: str, address: str, port: int) -> None:
        self.sshd, self.folder, self.tree = sshd, folder, tree
        self.name, self.address, self.port = name, address, port
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.process: subprocess.Popen[bytes] | None = None
        tree.write("/etc/hostname", f"{name}.example.net\n")
        for place in ("/usr/local/sbin", "/etc/systemd/system", "/root"):
            tree.path(place).mkdir(parents=True)
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "python3").symlink_to(sys.executable)
        systemctl = self.bin / "systemctl"
        systemctl.write_text(SYSTEMCTL.format(python=sys.executable, root=tree.root))
        systemctl.chmod(0o755)

    def start(self, administrator: str) -> None:
        if (
            os.geteuid() == 0
        ):  # sshd's empty folder for its unprivileged half: its service makes it at each start
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        (self.folder / "admin_keys").write_text(administrator)
        (self.folder / "host_key").touch(mode=0o600)
        (self.folder / "host_key").write_bytes(self.host_key.export_private_key())
        (self.folder / "sshd_config").write_text(
            f"ListenAddress {self.address}:{self.port}\n"
            f"HostKey {self.folder}/host_key\n"
            f"AuthorizedKeysFile {self.folder}/admin_keys {self.tree.root}/root/.ssh/authorized_keys\n"
            f"SetEnv PATH={self.bin}:/usr/bin:/bin HOME={self.folder} NODE_ROOT={self.tree.root}\n"
            "AuthenticationMethods publickey\nPermitRootLogin yes\nPidFile none\nStrictModes no\nUsePAM no\n"
        )
        self.process = subprocess.Popen(
            [self.sshd, "-D", "-e", "-f", self.folder / "sshd_config"],
            stdin=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection((self.address, self.port), 1).close()
                return
            except OSError as error:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text()) from error
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)

    def known(self, key: asyncssh.SSHKey | None = None) -> str:
        public = (key or self.host_key).export_public_key().decode().strip()
        return f"[{self.address}]:{self.port} {public}\n"

    def calls(self) -> list[str]:
        """What systemctl was told since the last time, reading left out."""
        path = self.bin / "calls"
        told = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return told

    def cut_at(self, word: str) -> None:
        """Next time that systemctl is told `word`, connection and program there end as with a power cut."""
        (self.bin / "cut").write_text(word)

    def systemd(self, **facts: object) -> None:
        """Change what systemctl will tell."""
        path = self.bin / "state"
        path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))

    @property
    def program(self) -> Path:
        return self.tree.path(installation.PROGRAM)

    @property
    def keys(self) -> Path:
        return self.tree.path("/root/.ssh/authorized_keys")

    def units(self) -> dict[str, bytes]:
        paths = {path: self.tree.path(path) for path in installation.UNITS}
        return {path: each.read_bytes() for path, each in paths.items() if each.exists()}

    def line(self, key: asyncssh.SSHKey) -> str:
        """The line that lets a key in, as docs/node-shell.md says; below another root than /."""
        command = "$NODE_ROOT/usr/local/sbin/pveha-node serve --root $NODE_ROOT"
        return f'command="{command}",restrict {key.export_public_key().decode().strip()}\n'

    def files(self) -> dict[str, tuple[int, float, bytes]]:
        """Every file of the node: its mode, when it was written, and what is in it."""
        found = {}
        for path in sorted(self.tree.root.rglob("*")):
            if path.is_file():
                found[str(path)] = (path.stat().st_mode, path.stat().st_mtime, path.read_bytes())
        return found


def site(port: int, folder: Path) -> rollout.Site:
    """How an administrator with the key `folder`/admin logs in on nodes that know it; sshd tells each node's
    shell where its tree is."""
    access = admin.Access(getpass.getuser(), port, folder / "known_hosts", folder / "admin")
    return rollout.Site(access, "$NODE_ROOT", getpass.getuser())
