"""A Proxmox VE node as a directory tree, which `pveha_node.System` takes for the real one."""

import contextlib
import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pveha.nodeshell import pveha_node

CONFIG = """#Web server
boot: order=scsi0;net0
memory: 2048
name: web1
scsi0: shared:100/vm-100-disk-0.qcow2,size=1G
smbios1: uuid=9940C7E6-fb4e-4317-bb65-5802dbd6a513
"""

COROSYNC = """totem {
  cluster_name: lab
  interface {
    linknumber: 0
  }
}
nodelist {
  node {
    name: pve1
    nodeid: 1
    quorum_votes: 1
    ring0_addr: 192.0.2.11
  }
  node {
    name: pve2
    nodeid: 2
    quorum_votes: 1
    ring0_addr: 192.0.2.12
  }
  node {
    name: pve3
    nodeid: 3
    quorum_votes: 2
    ring0_addr: 192.0.2.13
  }
}
quorum {
  provider: corosync_votequorum
}
"""

QUORUM_TOOL = """#!/bin/sh
cat <<EOF
Quorum information
------------------
Quorate:          Yes

Votequorum information
----------------------
Expected votes:   4
Highest expected: 4
Total votes:      3
Quorum:           3
EOF
exit 1
"""


class Tree:
    """Node pve1, in a cluster of three of which pve3 is offline. Paths are those of a real node."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("/etc/hostname", "pve1.example.net\n")
        self.write("/etc/pve/corosync.conf", COROSYNC)
        self.write("/usr/sbin/corosync-quorumtool", QUORUM_TOOL).chmod(0o755)
        self.write("/sys/class/dmi/id/product_uuid", "4C4C4544-0042-3510-8051-B7C04F4D3232\n")
        self.write("/sys/class/dmi/id/product_serial", "7B5QM22\n")
        for folder in ("/etc/pve/priv", "/etc/pve/ha", "/run/qemu-server", "/proc"):
            self.path(folder).mkdir(parents=True)
        for node in ("pve1", "pve2", "pve3"):
            for folder in ("qemu-server", "lxc"):
                self.path(f"/etc/pve/nodes/{node}/{folder}").mkdir(parents=True)
        self.members(pve1=1, pve2=1, pve3=0)

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str) -> Path:
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def members(self, quorate: int = 1, **online: int) -> None:
        nodes = {name: {"id": 1, "online": each, "ip": "192.0.2.1"} for name, each in online.items()}
        cluster = {"name": "lab", "version": 3, "nodes": len(nodes), "quorate": quorate}
        content = {"nodename": "pve1", "version": 11, "cluster": cluster, "nodelist": nodes}
        self.write("/etc/pve/.members", json.dumps(content))

    def config(self, node: str, guest: str) -> Path:
        kind, _, vmid = guest.partition("/")
        folder = {"qemu": "qemu-server", "lxc": "lxc"}[kind]
        return self.path(f"/etc/pve/nodes/{node}/{folder}/{vmid}.conf")

    def guest(self, node: str, guest: str, text: str = CONFIG) -> Path:
        path = self.config(node, guest)
        path.write_text(text)
        return path

    def ha(
        self, sid: str, state: str = "ignored", comment: str = "db [pveha op=op1 epoch=1 was=started]"
    ) -> None:
        ha_type, _, vmid = sid.partition(":")
        path = self.path("/etc/pve/ha/resources.cfg")
        before = path.read_text() if path.exists() else ""
        path.write_text(
            f"{before}{ha_type}: {vmid}\n\tcomment {comment}\n\tmax_restart 1\n\tstate {state}\n\n"
        )

    def epochs(self, *numbers: int) -> None:
        for number in numbers:
            self.path(f"/etc/pve/priv/pveha/e{number}").mkdir(parents=True)

    def process(
        self,
        pid: int,
        *argv: str,
        name: str = "kvm",
        state: str = "S",
        threads: int = 1,
        start_time: int = 500,
        cgroup: str = "0::/qemu.slice/1.scope",
    ) -> None:
        """A process in /proc. Its 52 fields of `stat` count from `pid (name) state`."""
        fields = ["0"] * 49
        fields[16], fields[18] = str(threads), str(start_time)
        self.write(f"/proc/{pid}/stat", f"{pid} ({name}) {state} {' '.join(fields)}\n")
        self.write(f"/proc/{pid}/cmdline", "".join(f"{word}\0" for word in argv))
        self.write(f"/proc/{pid}/cgroup", f"{cgroup}\n")

    def ask(self, command: str, system: pveha_node.System | None = None) -> dict[str, Any]:
        """The whole answer to one request."""
        return pveha_node.main(["serve", "--root", str(self.root)], system, command)

    def result(self, command: str, system: pveha_node.System | None = None) -> dict[str, Any]:
        answer = self.ask(f"pveha-node/1 {command}", system)
        assert answer["ok"], answer
        result: dict[str, Any] = answer["result"]
        return result

    def error(self, command: str, system: pveha_node.System | None = None) -> str:
        """Kind of the error that a request is answered with."""
        answer = self.ask(f"pveha-node/1 {command}", system)
        assert not answer["ok"], answer
        kind: str = answer["error"]["kind"]
        return kind

    @contextlib.contextmanager
    def qmp(self, vmid: int, state: str, *, silent: bool = False) -> Iterator[None]:
        """A QMP socket that says `state`; a silent one accepts and never answers."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.path(f"/run/qemu-server/{vmid}.qmp")))
            listener.listen()
            thread = threading.Thread(target=_serve_qmp, args=(listener, state, silent))
            thread.start()
            try:
                yield
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()


@contextlib.contextmanager
def temporary() -> Iterator[Tree]:
    """A tree directly below the folder for temporary files, because the path of a socket must be short."""
    with tempfile.TemporaryDirectory(prefix="pn") as root:
        yield Tree(Path(root))


def _serve_qmp(listener: socket.socket, state: str, silent: bool) -> None:
    held = []
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        held.append(connection)
        if silent:
            continue
        with contextlib.suppress(OSError):
            connection.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
            connection.recv(4096)
            event = '{"timestamp": {}, "event": "RTC_CHANGE"}'
            answer = (
                f'{{"return": {{}}}}\r\n{event}\r\n{{"return": {{"status": "{state}", "running": true}}}}\r\n'
            )
            connection.sendall(answer.encode())
