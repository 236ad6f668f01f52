#!/usr/bin/env python3
"""pveha-node: the part of pveha that runs on the Proxmox VE nodes, for what no REST call does.

One file, Python 3.11's standard library, run as root by sshd as the forced command of pveha's key:

    command="/usr/local/sbin/pveha-node serve",restrict ssh-ed25519 AAAA... pveha

`serve` reads one request from SSH_ORIGINAL_COMMAND, `pveha-node/1 VERB --option value ...`, and answers one
line of JSON. It trusts nothing it is told: values match a pattern or are refused, paths are built here, and
what makes an effect safe is checked here, right before the effect. The rules cited (S14, ...) are those of
docs/safety.md.

Two more commands are for this node alone and reach no client: `pveha-node repair`, which a timer calls every
10 s, gives guests back to Proxmox's own HA that a pveha that is gone has left (S10), and `pveha-node timer
--print` writes the units of that timer.

Read in this order: `System` (everything outside this file), the readers of Proxmox's files, the
verbs, `repair`, `main`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

VERSION = "0.1.0"
PROTOCOL = 1

REGISTER = "/etc/pve/priv/pveha"
"""Epochs are directories e1, e2, ... here, because pmxcfs gives each mkdir to exactly one node (S13)."""
OWNER = f"{REGISTER}/owner"
NODES = "/etc/pve/nodes"
KEPT_EPOCHS = 16
CHECK_TO_RENAME_SECONDS = 0.2
CLAIM_SECONDS = 3.0
QMP_SECONDS = 0.8
"""For all guests together: `processes` has to answer within 2 s (S17)."""
KILL_SECONDS = 5.0
QUORUM_TOOL_SECONDS = 1.0
LONGEST_COMMAND = 65536

SIGHTINGS = "/run/pveha/marks.json"
"""What `repair` remembers between looks. A boot empties /run, as the monotonic clock begins anew."""
LOOKED = "/run/pveha/looked"
"""When `repair` last looked, by the monotonic clock: the only sign of a timer that has nothing to do."""
ENABLED = "/etc/systemd/system/timers.target.wants/pveha-repair.timer"
"""The link that `systemctl enable` makes."""
TOKEN_MS = 3000
TOKEN_COEFFICIENT_MS = 650
"""corosync's defaults where corosync.conf says nothing (corosync.conf(5), 3.1)."""
PATIENCE_SECONDS = 240.0
"""A living pveha has adopted what it took over, or given up, long before (S10)."""
ASTRAY_SECONDS = 30.0
"""How long the CRM may have a marked guest elsewhere than its configuration is: a living pveha ends that
after 15 s."""
FLUSHES = 2
"""Flushes of the CRM without the guest before it is given back (S8)."""
LRM_FRESH_SECONDS = 40.0
"""An LRM writes its status every 5 to 10 s."""
HA_MANAGER_SECONDS = 30.0
"""`ha-manager set` waits up to 10 s for its cluster-wide lock."""

HA_TYPES = {"qemu": "vm", "lxc": "ct"}
FOLDERS = {"qemu": "qemu-server", "lxc": "lxc"}
CLEARED_LOCKS = frozenset(
    ("backup", "mounted", "migrate", "snapshot", "snapshot-delete", "suspending", "suspended")
)
"""What native recovery clears (Manager.pm), minus rollback and clone, whose guests are half written (S18)."""
KILLABLE = frozenset(("inmigrate", "postmigrate", "paused", "prelaunch"))
DRIVES = frozenset(("ide", "sata", "scsi", "virtio", "efidisk", "tpmstate"))
UNSAFE_OPTIONS = ("two_node", "last_man_standing", "auto_tie_breaker", "allow_downscale", "expected_votes")
NO_IDENTITY = frozenset(
    (
        *("", "none", "notspecified", "notapplicable", "na", "unknown", "default", "defaultstring", "oem"),
        *("systemserialnumber", "serialnumber", "sernum", "tobefilledbyoem", "oemserial", "invalid", "empty"),
        *("0123456789", "123456789", "1234567890", "12345678"),
        "03000200040005000006000700080009",
    )
)
"""What boards say that were never given an identity, letters and digits only: many machines share it."""


class Refusal(Exception):
    """Answered as an error of this kind."""

    def __init__(self, kind: str, message: str, **details: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.details = details


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """A live process. `start_time` is field 22 of /proc/PID/stat; `argv` is empty once its memory is gone."""

    pid: int
    start_time: int
    name: str
    argv: tuple[str, ...]
    cgroup: str


@dataclasses.dataclass(frozen=True, slots=True)
class QMP:
    """Answer of a QMP socket: the run state, and which process listens (None if that cannot be told)."""

    state: str
    pid: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A guest process as `processes` reports it."""

    kind: str
    vmid: int
    process: Process
    state: str


class System:
    """The node outside this file. Paths are those of a real node; `root` moves the whole tree for tests."""

    def __init__(self, root: str = "/") -> None:
        self._root = pathlib.Path(root)

    def _path(self, path: str) -> pathlib.Path:
        return self._root / path.lstrip("/")

    def hostname(self) -> str:
        """Name of this node: Proxmox takes the first label of the host name."""
        if self._root == pathlib.Path("/"):
            return socket.gethostname().partition(".")[0]
        return self.read_text("/etc/hostname").strip().partition(".")[0]

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_clock(self) -> float:
        """Unix time."""
        return time.time()

    def read_text(self, path: str) -> str:
        """Contents; bytes that are not UTF-8 survive a `write_text` unchanged."""
        return self._path(path).read_bytes().decode("utf-8", "surrogateescape")

    def write_text(self, path: str, text: str) -> None:
        self._path(path).write_bytes(text.encode("utf-8", "surrogateescape"))

    def list_dir(self, path: str) -> list[str]:
        return sorted(entry.name for entry in self._path(path).iterdir())

    def exists(self, path: str) -> bool:
        return os.path.lexists(self._path(path))

    def make_dir(self, path: str) -> None:
        self._path(path).mkdir(mode=0o700)

    def remove_dir(self, path: str) -> None:
        self._path(path).rmdir()

    def remove_file(self, path: str) -> None:
        self._path(path).unlink()

    def rename(self, source: str, target: str) -> None:
        self._path(source).rename(self._path(target))

    def quorum_tool(self) -> str:
        """Output of `corosync-quorumtool -s`, "" if it cannot be run; its exit code varies with versions."""
        try:
            return subprocess.run(
                [self._path("/usr/sbin/corosync-quorumtool"), "-s"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=QUORUM_TOOL_SECONDS,
                check=False,
            ).stdout.decode("utf-8", "replace")
        except (OSError, subprocess.TimeoutExpired):
            return ""

    def set_ha_resource(self, sid: str, state: str, comment: str, digest: str) -> str:
        """Change an HA resource if the file still has this digest: "" or what speaks against it."""
        text = [f"--comment={comment}"] if comment else ["--delete=comment"]
        program = str(self._path("/usr/sbin/ha-manager"))
        command = [program, "set", sid, f"--state={state}", *text, f"--digest={digest}"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=HA_MANAGER_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return ascii(error)
        told = printable(done.stderr.decode("utf-8", "replace").strip())
        return "" if done.returncode == 0 else told or f"exit code {done.returncode}"

    def processes(self) -> list[Process]:
        """Every process that can still write: a zombie counts while one of its threads lives."""
        pids = [int(name) for name in self.list_dir("/proc") if re.fullmatch("[0-9]+", name)]
        return [process for pid in pids if (process := self._process(pid)) is not None]

    def _process(self, pid: int) -> Process | None:
        folder = self._path(f"/proc/{pid}")
        try:
            name, _, rest = (folder / "stat").read_text("utf-8", "replace").partition("(")[2].rpartition(")")
            fields = rest.split()
            state, threads, start_time = fields[0], int(fields[17]), int(fields[19])
            argv = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            cgroup = (folder / "cgroup").read_text("utf-8", "replace")
        except (OSError, ValueError, IndexError):
            return None
        if state in "ZX" and threads <= 1:
            return None
        return Process(pid, start_time, name, tuple(argv.rstrip("\0").split("\0")) if argv else (), cgroup)

    def qmp_states(self, vmids: Iterable[int], seconds: float) -> dict[int, QMP]:
        """Ask the QMP sockets of these guests, side by side; leave out those that do not answer in time."""
        deadline = time.monotonic() + seconds
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            asked = {vmid: pool.submit(self._qmp_state, vmid, deadline) for vmid in vmids}
        return {vmid: answer for vmid, each in asked.items() if (answer := each.result()) is not None}

    def _qmp_state(self, vmid: int, deadline: float) -> QMP | None:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                connection.connect(str(self._path(f"/run/qemu-server/{vmid}.qmp")))
                pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
                lines = _json_lines(connection, deadline)
                next(lines)
                connection.sendall(b'{"execute":"qmp_capabilities"}\n{"execute":"query-status"}\n')
                for line in lines:
                    answer = line.get("return")
                    if isinstance(answer, dict) and isinstance(answer.get("status"), str):
                        return QMP(answer["status"], pid)
        except (OSError, ValueError, StopIteration):
            pass
        return None

    def kill(self, pid: int, start_time: int) -> None:
        """SIGKILL exactly this process; raises ProcessLookupError if the pid is somebody else's by now."""
        descriptor = os.pidfd_open(pid)
        try:
            process = self._process(pid)
            if process is None or process.start_time != start_time:
                raise ProcessLookupError(pid)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)

    def wait_gone(self, pid: int, start_time: int, seconds: float) -> bool:
        """Whether the process has ended within `seconds`."""
        deadline = time.monotonic() + seconds
        while (process := self._process(pid)) is not None and process.start_time == start_time:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True


def _json_lines(connection: socket.socket, deadline: float) -> Iterator[dict[str, Any]]:
    """JSON objects a socket sends, one a line; ends at the deadline, whatever the pace of the other side."""
    buffer = b""
    while len(buffer) < LONGEST_COMMAND:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([connection], [], [], left)[0]:
            return
        received = connection.recv(4096)
        if not received:
            return
        *lines, buffer = (buffer + received).split(b"\n")
        for line in lines:
            value = json.loads(line)
            if isinstance(value, dict):
                yield value


# --- readers of Proxmox's files -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Membership:
    """/etc/pve/.members: who this node's pmxcfs sees. A node without a cluster is not quorate."""

    quorate: bool
    online: Mapping[str, bool]


def read_membership(system: System) -> Membership:
    try:
        content = json.loads(system.read_text("/etc/pve/.members"))
        cluster = content.get("cluster", {})
        online = {str(name): each.get("online") == 1 for name, each in content.get("nodelist", {}).items()}
        return Membership(cluster.get("quorate") == 1, online)
    except OSError as error:
        raise Refusal("Failed", f"/etc/pve cannot be read, is pve-cluster running? {error!a}") from error
    except (ValueError, AttributeError) as error:
        raise Refusal("Failed", f"/etc/pve/.members has an unknown form: {error!a}") from error


def read_epochs(system: System) -> list[int]:
    """Epochs in the register, oldest first."""
    try:
        names = system.list_dir(REGISTER)
    except FileNotFoundError:
        return []
    return sorted(int(name[1:]) for name in names if re.fullmatch(r"e[1-9][0-9]{0,11}", name))


def newest_epoch(system: System) -> int:
    return max(read_epochs(system), default=0)


def read_owner(system: System) -> str | None:
    try:
        return system.read_text(OWNER).strip() or None
    except FileNotFoundError:
        return None


def read_corosync(system: System) -> dict[str, Any]:
    """corosync.conf: sections become dicts, repeated ones (`node`) lists of them; empty if not readable."""
    top: dict[str, Any] = {}
    stack = [top]
    try:
        text = system.read_text("/etc/pve/corosync.conf")
    except OSError:
        return top
    for line in (each.strip() for each in text.splitlines()):
        if line.startswith("#"):
            continue
        if line.endswith("{"):
            section: dict[str, Any] = {}
            stack[-1].setdefault(line[:-1].strip() + "{", []).append(section)
            stack.append(section)
        elif line == "}" and len(stack) > 1:
            stack.pop()
        elif ":" in line:
            key, _, value = line.partition(":")
            stack[-1][key.strip()] = value.strip()
    return top


def read_votes(system: System, conf: dict[str, Any]) -> dict[str, Any]:
    """Votes configured and live (S6). What cannot be read is 0, which no check takes for enough.

    A QDevice without `votes` has one less than all nodes; with its algorithm `test` it votes for every part
    at once (corosync-qdevice(8) and its source).
    """
    configured = {
        node.get("name") or node.get("ring0_addr", ""): _number(node.get("quorum_votes", "1"))
        for nodelist in conf.get("nodelist{", [])
        for node in nodelist.get("node{", [])
    }
    quorum: dict[str, Any] = next(iter(conf.get("quorum{", [])), {})
    devices = quorum.get("device{", [])
    algorithms = [net.get("algorithm") for device in devices for net in device.get("net{", [])]
    unsafe = [name for name in UNSAFE_OPTIONS if quorum.get(name, "0").lower() not in ("", "0", "no", "off")]
    live = dict(re.findall(r"^(Expected votes|Total votes):\s*([0-9]+)", system.quorum_tool(), re.MULTILINE))
    return {
        "configured": configured,
        "qdevice": sum(_number(device.get("votes", str(sum(configured.values()) - 1))) for device in devices),
        "expected": _number(live.get("Expected votes", "0")),
        "total": _number(live.get("Total votes", "0")),
        "unsafe_options": unsafe + ["device.net.algorithm=test"] * ("test" in algorithms),
    }


def read_totem(conf: dict[str, Any]) -> dict[str, int]:
    """How corosync notices a loss, in milliseconds; `consensus` 0: not set, 1.2 times the token's timeout."""
    totem: dict[str, Any] = next(iter(conf.get("totem{", [])), {})
    return {
        "token": _number(totem.get("token", "")) or TOKEN_MS,
        "token_coefficient": _number(totem.get("token_coefficient", str(TOKEN_COEFFICIENT_MS))),
        "consensus": _number(totem.get("consensus", "")),
    }


def read_timer(system: System) -> dict[str, Any]:
    """Whether the timer is enabled, and how many seconds ago `repair` last looked (None: not since boot)."""
    age = None
    with contextlib.suppress(OSError, ValueError):
        age = max(0.0, system.monotonic() - float(system.read_text(LOOKED)))
    return {"enabled": system.exists(ENABLED), "looked_seconds_ago": age}


def _number(text: str) -> int:
    return int(text) if re.fullmatch("[0-9]{1,15}", text) else 0


def read_identities(system: System) -> list[str]:
    """DMI UUID and serial of the machine, lower case, without those that identify nothing (S1)."""
    found = set()
    for name in ("product_uuid", "product_serial"):
        with contextlib.suppress(OSError):
            identity = system.read_text(f"/sys/class/dmi/id/{name}").strip().lower()
            plain = re.sub("[^a-z0-9]", "", identity)
            if plain not in NO_IDENTITY and len(set(plain)) > 1:
                found.add(identity)
    return sorted(found)


def read_ha_resources(system: System) -> dict[str, dict[str, str]]:
    """ha/resources.cfg by service id: `vm: 100`, then a tab and a property a line; comments are raw."""
    try:
        text = system.read_text("/etc/pve/ha/resources.cfg")
    except FileNotFoundError:
        return {}
    entries: dict[str, dict[str, str]] = {}
    entry: dict[str, str] = {}
    for line in text.split("\n"):
        if header := re.fullmatch(r"([a-z]+):\s*(\S+)\s*", line):
            entry = entries[f"{header[1]}:{header[2]}"] = {}
        elif prop := re.fullmatch(r"\s+(\S+)(?:\s+(.*\S))?\s*", line):
            entry[prop[1]] = prop[2] or ""
        elif not line.strip():
            entry = {}
    return entries


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """pveha's mark in a comment: which operation set the entry to `ignored`, in which epoch, what it was."""

    op: str
    epoch: int
    was: str


def read_mark(comment: str) -> Mark | None:
    """The operation's mark in a comment; only the first mark counts, and a hold (S11) is no operation's."""
    for match in re.finditer(r" ?\[pveha ([^\[\]]*)\]", comment):
        fields = dict(part.partition("=")[::2] for part in match[1].split())
        if fields.get("was") not in ("started", "stopped", "disabled", "ignored"):
            continue
        if set(fields) == {"hold", "was"}:
            return None
        if set(fields) == {"op", "epoch", "was"}:
            with contextlib.suppress(ValueError):
                return Mark(fields["op"], int(fields["epoch"]), fields["was"])
    return None


def split_config(text: str) -> tuple[str, str]:
    """A guest's configuration as of now, and the sections of snapshots and pending changes after it."""
    section = re.search(r"^\[", text, re.MULTILINE)
    return (text[: section.start()], text[section.start() :]) if section else (text, "")


def read_config(text: str) -> dict[str, str]:
    current, _ = split_config(text)
    return dict(re.findall(r"^([a-z][a-z0-9_.-]*):[ \t]*(.*?)[ \t\r]*$", current, re.MULTILINE))


def without_lock(text: str) -> str:
    """The configuration with its lock removed and every other byte as it was."""
    current, rest = split_config(text)
    return re.sub(r"^lock:.*(?:\n|\Z)", "", current, flags=re.MULTILINE) + rest


def read_properties(value: str, default: str) -> dict[str, str]:
    """A property string, `local:100/x.raw,size=1G`; the part without a key is `default`."""
    properties = {}
    for part in value.split(","):
        key, equals, content = part.partition("=")
        properties[key if equals else default] = content if equals else part
    return properties


def describe_guest(kind: str, vmid: int, node: str, text: str) -> dict[str, Any]:
    """What failover depends on in a guest's configuration file."""
    return describe_config(kind, vmid, node, read_config(text))


def describe_config(kind: str, vmid: int, node: str, config: Mapping[str, str]) -> dict[str, Any]:
    """What failover depends on in a guest's configuration, by key."""
    volumes, media, cloudinit, local = (
        read_vm_volumes(config) if kind == "qemu" else read_container_volumes(config)
    )
    name = config.get("name") or config.get("hostname") or f"{HA_TYPES[kind].upper()}{vmid}"
    smbios = read_properties(config.get("smbios1", ""), "uuid").get("uuid", "").lower()
    memory = read_properties(config.get("memory", "512"), "current").get("current", "512")
    cpu, cpu_flags = read_cpu(config) if kind == "qemu" else ("", [])
    cores = config.get("cores", "1" if kind == "qemu" else "0")
    return {
        "guest": f"{kind}/{vmid}",
        "node": node,
        "name": printable(name),
        "identity": smbios if kind == "qemu" else ",".join(sorted(volumes)),
        "memory_bytes": _number(memory) * 1024 * 1024,
        "storages": sorted({volume.partition(":")[0] for volume in volumes}),
        "unreplicated": sorted(read_unreplicated(config)),
        "lock": config.get("lock") or None,
        "template": config.get("template") == "1",
        "local_devices": sorted(local),
        "networks": read_networks(config),
        "mappings": sorted(read_mappings(config)),
        "media": sorted(media),
        "cloudinit": sorted(cloudinit),
        "cpu": cpu,
        "cpu_flags": cpu_flags,
        "cores": _number(cores) * (_number(config.get("sockets", "1")) or 1),
        "machine": printable(read_properties(config.get("machine", ""), "type").get("type", "")),
        "onboot": config.get("onboot") == "1",
        "agent": read_properties(config.get("agent", ""), "enabled").get("enabled") == "1",
    }


def read_vm_volumes(config: Mapping[str, str]) -> tuple[set[str], set[str], set[str], set[str]]:
    """Volumes of a VM, files in its CD drives, storages of its cloud-init volumes (which a start makes anew
    where they are missing), and the keys that bind it to one node's hardware or files."""
    volumes: set[str] = set()
    media: set[str] = set()
    cloudinit, local = set(), set()
    for key, value in config.items():
        kind = key.rstrip("0123456789")
        if (kind in DRIVES and kind != key) or key == "cdrom":
            drive = read_properties(value, "file")
            source = printable(drive.get("file", ""))
            if source.startswith("/") or source == "cdrom":
                local.add(key)
            elif re.search(r"[:/]vm-[0-9]+-cloudinit(?:\.[a-z0-9]+)?$", source):
                cloudinit.add(source.partition(":")[0])
            elif ":" in source:
                (media if drive.get("media") == "cdrom" or ":iso/" in source else volumes).add(source)
        elif kind == key:
            continue
        elif kind == "hostpci":
            if "mapping" not in read_properties(value, "host"):
                local.add(key)
        elif kind == "parallel":
            local.add(key)
        elif kind == "usb":
            usb = read_properties(value, "host")
            if "mapping" not in usb and usb.get("host", "") not in ("", "spice"):
                local.add(key)
        elif kind == "serial" and value != "socket":
            local.add(key)
    return volumes, media, cloudinit, local


def read_container_volumes(config: Mapping[str, str]) -> tuple[set[str], set[str], set[str], set[str]]:
    """As `read_vm_volumes` (a mount point with `shared=1` is a path that all nodes have)."""
    volumes, local = set(), set()
    for key, value in config.items():
        if re.fullmatch(r"rootfs|mp[0-9]+", key):
            mount = read_properties(value, "volume")
            source = printable(mount.get("volume", ""))
            if source.startswith("/"):
                if mount.get("shared") != "1":
                    local.add(key)
            elif ":" in source:
                volumes.add(source)
        elif re.fullmatch(r"dev[0-9]+", key) or key == "lxc.mount.entry":
            local.add(key)
    return volumes, set(), set(), local


def read_unreplicated(config: Mapping[str, str]) -> set[str]:
    """Storages of volumes that storage replication leaves out (`replicate=0`)."""
    found = set()
    for value in config.values():
        if "replicate=0" in value:
            volume = read_properties(value, "file")
            source = printable(volume.get("file", volume.get("volume", "")))
            if volume.get("replicate") == "0" and ":" in source:
                found.add(source.partition(":")[0])
    return found


def read_networks(config: Mapping[str, str]) -> list[dict[str, Any]]:
    """The bridges (or SDN vnets) of a guest's network devices, each with the VLAN it is tagged with (0: none)
    and whether it carries trunks."""
    found = set()
    for key, value in config.items():
        if key.startswith("net") and key[3:].isdecimal():
            device = read_properties(value, "model")
            if bridge := printable(device.get("bridge", "")):
                found.add((bridge, _number(device.get("tag", "")), bool(device.get("trunks"))))
    return [{"bridge": bridge, "tag": tag, "trunks": trunks} for bridge, tag, trunks in sorted(found)]


def read_mappings(config: Mapping[str, str]) -> set[str]:
    """Resource mappings that a VM uses: `pci/NAME`, `usb/NAME`, `dir/NAME`."""
    found = set()
    for key, value in config.items():
        kind = key.rstrip("0123456789")
        if kind == key:
            continue
        if kind in ("hostpci", "usb"):
            if name := printable(read_properties(value, "host").get("mapping", "")):
                found.add(f"{'pci' if kind == 'hostpci' else 'usb'}/{name}")
        elif kind == "virtiofs":
            found.add(f"dir/{printable(read_properties(value, 'dirid').get('dirid', ''))}")
    return found


def read_cpu(config: Mapping[str, str]) -> tuple[str, list[str]]:
    """CPU type and the flags that are switched on beside it; "" where the node's CPU does not matter: it is
    emulated."""
    if config.get("kvm") == "0" or config.get("arch", "x86_64") != "x86_64":
        return "", []
    properties = read_properties(config.get("cpu", "kvm64"), "cputype")
    flags = properties.get("flags", "").split(";")
    return printable(properties.get("cputype", "kvm64")), sorted(
        printable(flag[1:]) for flag in flags if flag.startswith("+")
    )


def printable(text: str) -> str:
    """`text` as valid Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_equipment(system: System) -> dict[str, Any]:
    """What this node has that guests need of the node they start on. What cannot be read is None."""
    cpus, flags = read_host_cpu(system)
    return {
        "node": system.hostname(),
        "bridges": read_bridges(system),
        "mappings": read_node_mappings(system),
        "cpus": cpus,
        "cpu_flags": flags,
        "qemu": read_qemu_version(system),
        "media": read_media(system),
    }


def read_bridges(system: System) -> list[dict[str, Any]] | None:
    """The bridges that exist now, SDN vnets among them, as PVE::Network looks for them at a guest's start.

    `vlans` are those that its uplink carries ("" where nothing is said of it); `uplink`: a port that leads
    out of the node, without which a bridge that is not VLAN-aware carries no tags.
    """
    try:
        links = system.list_dir("/sys/class/net")
    except OSError:
        return None
    configured = read_interfaces(system)
    found = []
    for name in links:
        folder, options = f"/sys/class/net/{name}", configured.get(name, {})
        if re.fullmatch(r"fw(?:br|pr|ln)[0-9]+[a-z][0-9]+|(?:tap|veth)[0-9]+i[0-9]+|lo", name):
            continue
        if system.exists(f"{folder}/bridge"):
            aware = _first_line(system, f"{folder}/bridge/vlan_filtering") not in ("", "0")
            ports = system.list_dir(f"{folder}/brif") if system.exists(f"{folder}/brif") else []
            uplink = any(_leads_out(system, port) for port in ports)
        elif options.get("ovs_type") == "OVSBridge":
            aware = uplink = True
        else:
            continue
        vlans = " ".join(options.get("bridge-vids", "").replace(",", " ").split())
        found.append({"name": printable(name), "vlan_aware": aware, "vlans": vlans, "uplink": uplink})
    return found


def _leads_out(system: System, port: str) -> bool:
    """Whether a port of a bridge is a network card, a bond or a VLAN of one."""
    folder = f"/sys/class/net/{port}"
    if system.exists(f"{folder}/device") or system.exists(f"{folder}/bonding"):
        return True
    with contextlib.suppress(OSError):
        return "DEVTYPE=vlan" in system.read_text(f"{folder}/uevent")
    return False


def _first_line(system: System, path: str) -> str:
    """The first line of a file, "" if there is none."""
    try:
        return system.read_text(path).strip().partition("\n")[0]
    except OSError:
        return ""


def read_interfaces(system: System) -> dict[str, dict[str, str]]:
    """Options of each `iface` in /etc/network/interfaces and the files beside it, with `-` for `_` in
    bridge options."""
    texts = []
    with contextlib.suppress(OSError):
        texts.append(system.read_text("/etc/network/interfaces"))
    with contextlib.suppress(OSError):
        folder = "/etc/network/interfaces.d"
        texts += [system.read_text(f"{folder}/{name}") for name in system.list_dir(folder)]
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        options: dict[str, str] = {}
        for line in text.splitlines():
            word, _, value = line.strip().partition(" ")
            if word == "iface":
                options = found.setdefault(value.split()[0] if value.split() else "", {})
            elif word in ("auto", "source", "source-directory", "mapping") or word.startswith("allow-"):
                options = {}
            elif word and not word.startswith("#"):
                options[word.replace("bridge_", "bridge-")] = value.strip()
    return found


def read_sections(system: System, path: str) -> dict[str, list[tuple[str, str]]] | None:
    """A file of sections (storage.cfg: `type: NAME`; mapping/*.cfg: `NAME`) with their lines by name; None if
    it cannot be read, empty if there is none."""
    try:
        text = system.read_text(path)
    except FileNotFoundError:
        return {}
    except OSError:
        return None
    sections: dict[str, list[tuple[str, str]]] = {}
    lines: list[tuple[str, str]] = []
    for line in text.splitlines():
        if header := re.fullmatch(r"(?:([a-z]+):\s*)?(\S+)\s*", line):
            lines = sections[header[2]] = [("type", header[1] or "")]
        elif prop := re.fullmatch(r"\s+(\S+)(?:\s+(.*\S))?\s*", line):
            lines.append((prop[1], prop[2] or ""))
    return sections


def read_node_mappings(system: System) -> list[str] | None:
    """Resource mappings that lead to something on this node: `pci/NAME`, `usb/NAME`, `dir/NAME`."""
    found, here = set(), system.hostname()
    for kind, file in (("pci", "pci"), ("usb", "usb"), ("dir", "directory")):
        sections = read_sections(system, f"/etc/pve/mapping/{file}.cfg")
        if sections is None:
            return None
        for name, lines in sections.items():
            maps = [read_properties(value, "") for key, value in lines if key == "map"]
            if any(each.get("node") == here and _is_there(system, kind, each) for each in maps):
                found.add(printable(f"{kind}/{name}"))
    return sorted(found)


def _is_there(system: System, kind: str, entry: Mapping[str, str]) -> bool:
    """Whether the device of a PCI mapping is in the machine; a USB device may be plugged in later."""
    if kind != "pci":
        return True
    paths = [path if "." in path else f"{path}.0" for path in entry.get("path", "").split(";") if path]
    return bool(paths) and all(
        re.fullmatch("[0-9a-f:.]+", path) is not None and system.exists(f"/sys/bus/pci/devices/{path}")
        for path in paths
    )


def read_host_cpu(system: System) -> tuple[int | None, list[str] | None]:
    """Number of CPUs and flags of the first one, by the kernel's names."""
    try:
        text = system.read_text("/proc/cpuinfo")
    except OSError:
        return None, None
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    cpus = len(re.findall(r"^processor\s*:", text, re.MULTILINE))
    return cpus or None, sorted(set(flags[1].split())) if flags else None


def read_qemu_version(system: System) -> str | None:
    """The newest version of machine types that the installed QEMU knows, `10.1`: that is its own."""
    try:
        known = json.loads(system.read_text("/usr/share/kvm/machine-versions-x86_64.json"))
        versions = [re.match(r"([0-9]+)\.([0-9]+)", str(each["version"])) for each in known]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    newest = max(((int(each[1]), int(each[2])) for each in versions if each), default=None)
    return f"{newest[0]}.{newest[1]}" if newest else None


def read_media(system: System) -> list[str] | None:
    """Volume ids of the ISO files on storages that are folders of this node alone."""
    sections = read_sections(system, "/etc/pve/storage.cfg")
    if sections is None:
        return None
    found = []
    for name, lines in sections.items():
        options = dict(lines)
        nodes = options.get("nodes", "")
        if (
            options["type"] not in ("dir", "btrfs")
            or options.get("shared", "0") == "1"
            or "disable" in options
            or (nodes and system.hostname() not in re.split(r"[,;\s]+", nodes))
        ):
            continue
        content = read_properties(options.get("content-dirs", ""), "").get("iso", "template/iso")
        with contextlib.suppress(OSError):
            names = system.list_dir(f"{options.get('path', '').rstrip('/')}/{content}")
            found += [printable(f"{name}:iso/{each}") for each in names]
    return found


def config_path(node: str, kind: str, vmid: int) -> str:
    return f"{NODES}/{node}/{FOLDERS[kind]}/{vmid}.conf"


def guest_processes(system: System) -> list[Member]:
    """Every live QEMU process and, per container, its first process, whether or not configured here (S17)."""
    processes = system.processes()
    return [*vm_processes(system, processes), *container_processes(processes)]


def vm_processes(system: System, processes: list[Process]) -> list[Member]:
    found: dict[int, set[Process]] = {}
    by_pid = {process.pid: process for process in processes}
    for process in processes:
        if is_qemu(process) and (vmid := option_number(process, "-id")) is not None:
            found.setdefault(vmid, set()).add(process)
    for vmid, pid in pid_files(system):
        process_ = by_pid.get(pid)
        if process_ is not None and is_qemu(process_) and option_number(process_, "-id") in (vmid, None):
            found.setdefault(vmid, set()).add(process_)
    answers = system.qmp_states(sorted(found), QMP_SECONDS) if found else {}
    members = []
    for vmid, group in sorted(found.items()):
        answer = answers.get(vmid)
        for process in sorted(group, key=lambda each: each.pid):
            heard = answer is not None and (len(group) == 1 or answer.pid == process.pid)
            members.append(Member("qemu", vmid, process, answer.state if answer and heard else "unknown"))
    return members


def is_qemu(process: Process) -> bool:
    program = process.argv[0].rpartition("/")[2] if process.argv else process.name
    return program == "kvm" or program.startswith("qemu-system-")


def option_number(process: Process, name: str) -> int | None:
    """The number that follows an option on a command line."""
    for option, value in zip(process.argv, process.argv[1:], strict=False):
        if option == name and re.fullmatch("[1-9][0-9]{0,8}", value):
            return int(value)
    return None


def pid_files(system: System) -> list[tuple[int, int]]:
    """(vmid, pid) of the pid files that qemu-server keeps; some may be stale."""
    found = []
    with contextlib.suppress(OSError):
        for name in system.list_dir("/run/qemu-server"):
            if match := re.fullmatch(r"([1-9][0-9]{0,8})\.pid", name):
                with contextlib.suppress(OSError):
                    pid = system.read_text(f"/run/qemu-server/{name}").strip()
                    found.append((int(match[1]), _number(pid)))
    return found


def container_processes(processes: list[Process]) -> list[Member]:
    """The first process inside each container (cgroup /lxc/ID), else its lxc-start, state `unknown`."""
    inside: dict[int, list[Process]] = {}
    monitors: dict[int, list[Process]] = {}
    for process in processes:
        if match := re.search(r"/lxc/([1-9][0-9]{0,8})(?:/|$)", process.cgroup, re.MULTILINE):
            inside.setdefault(int(match[1]), []).append(process)
        elif (vmid := monitored_id(process)) is not None:
            monitors.setdefault(vmid, []).append(process)
    members = []
    for vmid in sorted(inside.keys() | monitors.keys()):
        first = min(inside.get(vmid) or monitors[vmid], key=lambda each: (each.start_time, each.pid))
        members.append(Member("lxc", vmid, first, "running" if vmid in inside else "unknown"))
    return members


def monitored_id(process: Process) -> int | None:
    """Which container a process of LXC itself watches over."""
    if match := re.search(r"/lxc\.monitor/([1-9][0-9]{0,8})(?:/|$)", process.cgroup, re.MULTILINE):
        return int(match[1])
    if process.argv and process.argv[0].rpartition("/")[2] == "lxc-start":
        return option_number(process, "-n")
    return None


# --- verbs ----------------------------------------------------------------------------------------

Options = Mapping[str, list[str]]


def status(system: System, _: Options) -> dict[str, Any]:
    membership, corosync = read_membership(system), read_corosync(system)
    return {
        "version": VERSION,
        "node": system.hostname(),
        "quorate": membership.quorate,
        "members": dict(membership.online),
        "votes": read_votes(system, corosync),
        "identities": read_identities(system),
        "newest_epoch": newest_epoch(system),
        "owner": read_owner(system),
        "time": system.wall_clock(),
        "totem": read_totem(corosync),
        "timer": read_timer(system),
    }


def inventory(system: System, options: Options) -> dict[str, Any]:
    """Every guest of the cluster, or with `--about node` what this node has for guests. Configurations are
    read again if one moved meanwhile, so that none is missed."""
    if options.get("about") == ["node"]:
        return {"equipment": read_equipment(system)}
    if not read_membership(system).quorate:
        raise Refusal("NotQuorate", "this node has no quorum, its view of the configurations may be old")
    for _attempt in range(3):
        with contextlib.suppress(FileNotFoundError):
            return {"guests": list(read_guests(system).values())}
    raise Refusal("Failed", "configurations kept moving while they were read")


def read_guests(system: System) -> dict[int, dict[str, Any]]:
    found = {}
    for node in system.list_dir(NODES):
        for kind, folder in FOLDERS.items():
            path = f"{NODES}/{node}/{folder}"
            for name in system.list_dir(path) if system.exists(path) else []:
                if match := re.fullmatch(r"([1-9][0-9]{0,8})\.conf", name):
                    vmid = int(match[1])
                    found[vmid] = describe_guest(kind, vmid, node, system.read_text(f"{path}/{name}"))
    return found


def processes(system: System, _: Options) -> dict[str, Any]:
    membership = read_membership(system)
    return {
        "node": system.hostname(),
        "quorate": membership.quorate,
        "members": dict(membership.online),
        "newest_epoch": newest_epoch(system),
        "processes": [
            {
                "guest": f"{each.kind}/{each.vmid}",
                "pid": each.process.pid,
                "start_time": each.process.start_time,
                "state": each.state,
            }
            for each in guest_processes(system)
        ],
    }


def begin(system: System, options: Options) -> dict[str, Any]:
    """Open an epoch (S13) for an owner (S14).

    The owner is written before the epoch is made and read again after it: whoever else wrote it in between
    makes a newer epoch after that, so whoever holds the newest epoch for good is the one the register names.
    """
    owner = options["owner"][0]
    take_over = options.get("take-over", [None])[0]
    if not read_membership(system).quorate:
        raise Refusal("NotQuorate", "this node has no quorum")
    try:
        with contextlib.suppress(FileExistsError):
            system.make_dir(REGISTER)
        present = read_owner(system)
        if present != owner:
            if present is not None and present != take_over:
                raise another_owner(present)
            replace_file(system, OWNER, f"{owner}\n")
        epoch = make_epoch(system)
    except PermissionError as error:
        raise Refusal("NotQuorate", "writing below /etc/pve was denied: no quorum") from error
    present = read_owner(system)
    if present != owner:
        raise another_owner(present or "")
    for old in read_epochs(system)[:-KEPT_EPOCHS]:
        with contextlib.suppress(OSError):
            system.remove_dir(f"{REGISTER}/e{old}")
    return {"epoch": epoch}


def another_owner(present: str) -> Refusal:
    return Refusal("AnotherOwner", f"this cluster belongs to {printable(present)}", owner=printable(present))


def make_epoch(system: System) -> int:
    for _attempt in range(64):
        epoch = newest_epoch(system) + 1
        with contextlib.suppress(FileExistsError):
            system.make_dir(f"{REGISTER}/e{epoch}")
            return epoch
    raise Refusal("Failed", "others kept opening epochs")


def replace_file(system: System, path: str, text: str) -> None:
    """Proxmox's own way of writing a file in pmxcfs: beside it, then renamed over it."""
    beside = f"{path}.tmp.{system.hostname()}.{os.getpid()}"
    system.write_text(beside, text)
    system.rename(beside, path)


def claim(system: System, options: Options) -> dict[str, Any]:
    """Move configurations of a dead node to this one (S14), the locks of S18 cleared."""
    host = system.hostname()
    epoch, op, dead, to = int(options["epoch"][0]), options["op"][0], options["from"][0], options["to"][0]
    if to != host:
        raise Refusal("BadRequest", f"this node is {host}, not {to}")
    if dead == host:
        raise Refusal("BadRequest", f"{dead} is this node itself")
    guests = [guest.split("/") for guest in options["guest"]]
    deadline = system.monotonic() + CLAIM_SECONDS
    results = []
    for kind, vmid in guests:
        result = claim_guest(system, Claim(epoch, op, dead, host, kind, int(vmid)), deadline)
        results.append({"guest": f"{kind}/{vmid}", **result})
    return {"results": results}


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """One guest to be moved from `dead` to `host`."""

    epoch: int
    op: str
    dead: str
    host: str
    kind: str
    vmid: int

    @property
    def source(self) -> str:
        return config_path(self.dead, self.kind, self.vmid)

    @property
    def target(self) -> str:
        return config_path(self.host, self.kind, self.vmid)


def claim_guest(system: System, wanted: Claim, deadline: float) -> dict[str, Any]:
    """Check, rename, clear the lock. Nothing that can block stands between the checks and the rename."""
    checked_at = system.monotonic()
    try:
        if objection := claim_objection(system, wanted):
            if objection == "AlreadyHere":
                return finish_claim(system, wanted, objection)
            return claim_result(claimed=False, reason=objection)
        now = system.monotonic()
        if now - checked_at > CHECK_TO_RENAME_SECONDS or now > deadline:
            return claim_result(claimed=False, reason="TooSlow")
        system.rename(wanted.source, wanted.target)
    except FileNotFoundError:
        return claim_result(claimed=False, reason="SourceGone")
    except FileExistsError:
        return claim_result(claimed=False, reason="TargetExists")
    except PermissionError:
        return claim_result(claimed=False, reason="NotQuorate")
    except (OSError, Refusal) as error:
        return claim_result(claimed=False, reason=f"Failed: {error!a}")
    return finish_claim(system, wanted, "Claimed")


def claim_objection(system: System, wanted: Claim) -> str | None:
    """Why this guest may not be moved, or None."""
    membership = read_membership(system)
    if not membership.quorate:
        return "NotQuorate"
    if newest_epoch(system) != wanted.epoch:
        return "StaleEpoch"
    if wanted.dead not in membership.online:
        return "NodeUnknown"
    if membership.online[wanted.dead]:
        return "NodeOnline"
    entry = read_ha_resources(system).get(f"{HA_TYPES[wanted.kind]}:{wanted.vmid}")
    mark = read_mark(entry.get("comment", "")) if entry else None
    ours = mark is not None and (mark.op, mark.epoch) == (wanted.op, wanted.epoch)
    if entry is not None and not (ours and entry.get("state") == "ignored"):
        return "NotDisowned"
    if system.exists(wanted.target):
        return "AlreadyHere" if ours and not system.exists(wanted.source) else "TargetExists"
    if not system.exists(wanted.source):
        return "SourceGone"
    lock = read_config(system.read_text(wanted.source)).get("lock")
    return "LockHeld" if lock and lock not in CLEARED_LOCKS else None


def finish_claim(system: System, wanted: Claim, reason: str) -> dict[str, Any]:
    """Clear the lock in the file on this node, unless (on a second try) the guest already runs here."""
    try:
        text = system.read_text(wanted.target)
        lock = read_config(text).get("lock")
        if lock not in CLEARED_LOCKS:
            return claim_result(claimed=True, reason=reason)
        if reason == "AlreadyHere" and any(each.vmid == wanted.vmid for each in guest_processes(system)):
            return claim_result(claimed=True, reason=reason)
        replace_file(system, wanted.target, without_lock(text))
    except OSError:
        return claim_result(claimed=True, reason="LockNotCleared")
    return claim_result(claimed=True, reason=reason, cleared_lock=lock)


def claim_result(*, claimed: bool, reason: str, cleared_lock: str | None = None) -> dict[str, Any]:
    return {"claimed": claimed, "reason": reason, "cleared_lock": cleared_lock}


def kill(system: System, options: Options) -> dict[str, Any]:
    """End a VM's process that a migration left behind (S17). One that is gone already counts as ended."""
    epoch, vmid = int(options["epoch"][0]), int(options["vmid"][0])
    pid, start_time = int(options["pid"][0]), int(options["start-time"][0])
    if not read_membership(system).quorate:
        raise Refusal("NotQuorate", "this node has no quorum")
    if newest_epoch(system) != epoch:
        raise Refusal("StaleEpoch", f"the newest epoch is {newest_epoch(system)}, not {epoch}")
    members = [each for each in guest_processes(system) if each.process.pid == pid and each.vmid == vmid]
    if not any(each.process.start_time == start_time for each in members):
        if any(each.pid == pid and each.start_time == start_time for each in system.processes()):
            raise Refusal("Refused", f"process {pid} is not guest {vmid}")
        return {"killed": False}
    member = members[0]
    if member.kind != "qemu" or member.state not in KILLABLE:
        state = printable(member.state)
        raise Refusal("Refused", f"{member.kind}/{vmid} is {state}: no migration left it like that")
    with contextlib.suppress(ProcessLookupError):
        system.kill(pid, start_time)
    if not system.wait_gone(pid, start_time, KILL_SECONDS):
        message = f"process {pid} of guest {vmid} still exists {KILL_SECONDS:.0f} s after SIGKILL"
        raise Refusal("Failed", message)
    return {"killed": True}


# --- the net underneath: what nodes do when pveha is gone (S10) --------------------------------------

TIMER = """\
# /etc/systemd/system/pveha-repair.service
[Unit]
Description=Give guests that a pveha that is gone has taken over back to Proxmox HA
After=pve-cluster.service
ConditionPathExists=/etc/pve/ha/resources.cfg

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/pveha-node repair
TimeoutStartSec=120
LogLevelMax=notice

# /etc/systemd/system/pveha-repair.timer
[Unit]
Description=Look every 10 s for guests that a pveha that is gone has taken over

[Timer]
OnBootSec=30
OnUnitInactiveSec=10
AccuracySec=1

[Install]
WantedBy=timers.target
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Sighting:
    """An operation's mark since this node first saw it. Times are monotonic.

    `seen` is the CRM's timestamp when the entry was first read in this state, `absent` are those of later
    flushes without the guest. `astray` is since when the CRM has it on another node than its configuration
    is, 0 if it does not.
    """

    mark: str
    state: str
    first: float
    seen: int
    absent: tuple[int, ...] = ()
    astray: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Sightings:
    """Contents of `SIGHTINGS`: marks by service id; per LRM its timestamp, and when that was seen to move."""

    marks: Mapping[str, Sighting]
    lrms: Mapping[str, tuple[int, float]]


def repair(system: System) -> list[str]:
    """Look once, and say what was done, a line each.

    Every node counts, the CRM master's node acts: that is one at a time, none while no CRM works, and a new
    master's node has counted as well.
    """
    note_look(system)
    membership = read_membership(system)
    if not membership.quorate:
        return []
    marked = {
        sid: (entry, found)
        for sid, entry in read_ha_resources(system).items()
        if (found := read_mark(entry.get("comment", ""))) is not None
    }
    if not marked and not system.exists(SIGHTINGS):
        return []
    if not marked:
        system.remove_file(SIGHTINGS)
        return []
    manager = read_json(system, "/etc/pve/ha/manager_status")
    sightings = look(system, marked, manager, membership)
    write_sightings(system, sightings)
    if manager.get("master_node") != system.hostname() or manager.get("disarm"):
        return []
    told = []
    for sid, (entry, found) in sorted(marked.items()):
        sighting = sightings.marks[sid]
        if sighting.astray and entry.get("state", "started") != "ignored":
            if system.monotonic() - sighting.astray >= ASTRAY_SECONDS:
                told.append(f"{sid}: {take_back(system, sid, entry, found, sighting)}")
            continue
        if system.monotonic() - sighting.first < PATIENCE_SECONDS:
            continue
        if objection := adoption_objection(system, sid, found, sighting, sightings, membership):
            told.append(f"{sid}: left alone: {objection}")
            continue
        state = found.was if entry.get("state") == "ignored" else entry.get("state", "started")
        told.append(f"{sid}: {give_back(system, sid, state, sighting)}")
    return told


def note_look(system: System) -> None:
    """Leave word for `status` that the timer works; looking does not depend on it."""
    with contextlib.suppress(OSError):
        system.make_dir(LOOKED.rpartition("/")[0])
    with contextlib.suppress(OSError):
        system.write_text(LOOKED, f"{system.monotonic()}\n")


def look(
    system: System,
    marked: Mapping[str, tuple[Mapping[str, str], Mark]],
    manager: Mapping[str, Any],
    membership: Membership,
) -> Sightings:
    """What was seen before, brought up to date."""
    before, now = read_sightings(system), system.monotonic()
    services = manager.get("service_status") or {}
    flush = int(manager.get("timestamp") or 0)
    marks = {}
    for sid, (entry, found) in marked.items():
        text, state = f"{found.op} {found.epoch} {found.was}", entry.get("state", "started")
        old = before.marks.get(sid)
        if old is None or old.mark.split()[:2] != text.split()[:2]:
            old = Sighting(text, state, now, flush)
        elif (old.mark, old.state) != (text, state):
            old = Sighting(text, state, old.first, flush)
        elif sid in services:
            old = dataclasses.replace(old, absent=())
        elif flush != old.seen and flush not in old.absent and len(old.absent) < FLUSHES:
            old = dataclasses.replace(old, absent=(*old.absent, flush))
        since = (old.astray or now) if is_astray(system, sid, services.get(sid), membership) else 0.0
        marks[sid] = dataclasses.replace(old, astray=since)
    lrms = {}
    for node in membership.online:
        stamp = int(read_json(system, f"{NODES}/{node}/lrm_status").get("timestamp") or 0)
        known = before.lrms.get(node)
        lrms[node] = known if known is not None and known[0] == stamp else (stamp, now)
    return Sightings(marks, lrms)


def is_astray(system: System, sid: str, record: Mapping[str, Any] | None, membership: Membership) -> bool:
    """Whether the CRM has the guest on another node than its configuration is, and does not move it."""
    if record is None or record.get("state") in ("migrate", "relocate"):
        return False
    where = configured_on(system, sid, membership)
    return where is not None and record.get("node") != where


def configured_on(system: System, sid: str, membership: Membership) -> str | None:
    """The node with the guest's configuration."""
    kind = {ha_type: kind for kind, ha_type in HA_TYPES.items()}.get(sid.partition(":")[0], "")
    number = sid.partition(":")[2]
    if not kind or not re.fullmatch("[1-9][0-9]{0,8}", number):
        return None
    paths = {node: config_path(node, kind, int(number)) for node in membership.online}
    return next((node for node, path in paths.items() if system.exists(path)), None)


def adoption_objection(
    system: System,
    sid: str,
    found: Mark,
    sighting: Sighting,
    sightings: Sightings,
    membership: Membership,
) -> str:
    """Why an entry must stay as it is in this run, or "" (S8, S11)."""
    if sighting.state != "ignored":
        return ""
    where = configured_on(system, sid, membership)
    if where is None:
        return "no node has its configuration"
    vmid = int(sid.partition(":")[2])
    record = (read_json(system, "/etc/pve/ha/manager_status").get("service_status") or {}).get(sid)
    if record is not None and (record.get("node") != where or membership.online[where]):
        return f"the CRM still has it on {record.get('node')}, its configuration is on {where}"
    if record is None and len(sighting.absent) < FLUSHES:
        return "the CRM has not yet flushed twice without it"
    if found.was != "started":
        return ""
    lrm = read_json(system, f"{NODES}/{where}/lrm_status")
    fresh = system.monotonic() - sightings.lrms[where][1] <= LRM_FRESH_SECONDS
    if membership.online[where] and not (fresh and lrm.get("mode", "active") == "active"):
        return f"the LRM of {where} does not work"
    if not membership.online[where] and lrm.get("state") != "active":
        return f"{where} is offline and no watchdog of its LRM has reset it"
    if where != system.hostname() and any(each.vmid == vmid for each in guest_processes(system)):
        return f"a process of it lives here, its configuration is on {where}"
    return ""


def give_back(system: System, sid: str, state: str, sighting: Sighting) -> str:
    """Write the state and remove the mark, unless the file changes in that very moment."""
    text = system.read_text("/etc/pve/ha/resources.cfg")
    entry = read_ha_resources(system).get(sid, {})
    found = read_mark(entry.get("comment", ""))
    unchanged = found is not None and f"{found.op} {found.epoch} {found.was}" == sighting.mark
    if not unchanged or entry.get("state", "started") != sighting.state:
        return "changed by somebody else"
    problem = system.set_ha_resource(sid, state, without_mark(entry.get("comment", "")), digest_of(text))
    return f"not given back: {problem}" if problem else f"given back to Proxmox HA as {state}"


def take_back(system: System, sid: str, entry: Mapping[str, str], found: Mark, sighting: Sighting) -> str:
    """Ignore a guest once more whose owner gave it back to the CRM before that had dropped it: its old record
    would stop HA of the whole cluster (S8). The mark says what its owner wants."""
    text = system.read_text("/etc/pve/ha/resources.cfg")
    if read_ha_resources(system).get(sid) != entry:
        return "changed by somebody else"
    was = f"[pveha op={found.op} epoch={found.epoch} was={sighting.state}]"
    comment = f"{without_mark(entry.get('comment', ''))} {was}".strip()
    problem = system.set_ha_resource(sid, "ignored", comment, digest_of(text))
    return f"not taken back: {problem}" if problem else "given back too early: ignored once more"


def digest_of(text: str) -> str:
    """What Proxmox calls the digest of a configuration file."""
    return hashlib.sha1(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()


def without_mark(comment: str) -> str:
    """A comment without the operation's mark; who owns the entry stays in it."""
    for match in re.finditer(r" ?\[pveha ([^\[\]]*)\]", comment):
        if read_mark(match[0]) is not None:
            return (comment[: match.start()] + comment[match.end() :]).strip()
    return comment


def read_json(system: System, path: str) -> dict[str, Any]:
    """A JSON object; empty if there is none."""
    try:
        content = json.loads(system.read_text(path))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_sightings(system: System) -> Sightings:
    """What was remembered; what cannot be read is forgotten, and counted anew."""
    content = read_json(system, SIGHTINGS)
    try:
        marks = {
            sid: Sighting(
                each["mark"],
                each["state"],
                each["first"],
                each["seen"],
                tuple(each["absent"]),
                each["astray"],
            )
            for sid, each in content["marks"].items()
        }
        return Sightings(marks, {node: (stamp, at) for node, (stamp, at) in content["lrms"].items()})
    except (KeyError, TypeError, ValueError, AttributeError):
        return Sightings({}, {})


def write_sightings(system: System, sightings: Sightings) -> None:
    with contextlib.suppress(FileExistsError):
        system.make_dir(SIGHTINGS.rpartition("/")[0])
    marks = {sid: dataclasses.asdict(each) for sid, each in sightings.marks.items()}
    system.write_text(SIGHTINGS, json.dumps({"marks": marks, "lrms": sightings.lrms}))


# --- the protocol ---------------------------------------------------------------------------------

_NODE = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_VMID = "[1-9][0-9]{2,8}"
_OWNER = "[A-Za-z0-9][A-Za-z0-9._/-]{0,399}"
_EPOCH = "[1-9][0-9]{0,11}"


@dataclasses.dataclass(frozen=True, slots=True)
class Verb:
    """A verb and the patterns of its options; `many` options may be repeated."""

    run: Callable[[System, Options], dict[str, Any]]
    required: Mapping[str, str] = dataclasses.field(default_factory=dict)
    optional: Mapping[str, str] = dataclasses.field(default_factory=dict)
    many: frozenset[str] = frozenset()


VERBS = {
    "status": Verb(status),
    "inventory": Verb(inventory, optional={"about": "cluster|node"}),
    "processes": Verb(processes),
    "begin": Verb(begin, {"owner": _OWNER}, {"take-over": _OWNER}),
    "claim": Verb(
        claim,
        {
            "epoch": _EPOCH,
            "op": "[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
            "from": _NODE,
            "to": _NODE,
            "guest": f"(?:qemu|lxc)/{_VMID}",
        },
        many=frozenset(("guest",)),
    ),
    "kill": Verb(
        kill, {"epoch": _EPOCH, "vmid": _VMID, "pid": "[1-9][0-9]{0,9}", "start-time": "[0-9]{1,19}"}
    ),
}


def read_request(command: str) -> tuple[Verb, Options]:
    """`pveha-node/1 VERB --option value ...`, or a refusal that says what is wrong with it."""
    if len(command) > LONGEST_COMMAND:
        raise Refusal("BadRequest", f"longer than {LONGEST_COMMAND} characters")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Refusal("BadRequest", f"not a command line: {error!a}") from error
    if not words or not (protocol := re.fullmatch("pveha-node/([0-9]{1,6})", words[0])):
        raise Refusal("BadRequest", "this key may only be used for `pveha-node/PROTOCOL VERB ...`")
    if int(protocol[1]) != PROTOCOL:
        message = f"asked for protocol {protocol[1]}, pveha-node {VERSION} here speaks {PROTOCOL}"
        raise Refusal("WrongProtocol", message)
    verb = VERBS.get(words[1]) if len(words) > 1 else None
    if verb is None:
        raise Refusal("BadRequest", f"no such verb; pveha-node {VERSION} has: {', '.join(VERBS)}")
    patterns = {**verb.required, **verb.optional}
    options: dict[str, list[str]] = {}
    rest = words[2:]
    if len(rest) % 2:
        raise Refusal("BadRequest", "options come in pairs: --name value")
    for flag, value in zip(rest[::2], rest[1::2], strict=True):
        name = flag.removeprefix("--")
        if not flag.startswith("--") or name not in patterns:
            raise Refusal("BadRequest", f"no such option: {flag!a:.80}")
        if not re.fullmatch(patterns[name], value):
            raise Refusal("BadRequest", f"--{name} does not take {value!a:.80}")
        if name in options and name not in verb.many:
            raise Refusal("BadRequest", f"--{name} is given twice")
        options.setdefault(name, []).append(value)
    if missing := sorted(verb.required.keys() - options.keys()):
        raise Refusal("BadRequest", f"missing: --{', --'.join(missing)}")
    return verb, options


def main(argv: list[str], system: System | None, original_command: str | None) -> dict[str, Any]:
    """Answer one request. `argv` is the forced command's, which no client can set: `serve [--root DIR]`."""
    answer: dict[str, Any] = {"version": VERSION, "protocol": PROTOCOL}
    try:
        if argv[:1] != ["serve"] or (len(argv) != 1 and not (len(argv) == 3 and argv[1] == "--root")):
            raise Refusal("BadRequest", 'usage, in authorized_keys: command="pveha-node serve"')
        root = argv[2] if len(argv) == 3 else "/"
        verb, options = read_request(original_command or "")
        result = verb.run(System(root) if system is None else system, options)
        return {**answer, "ok": True, "result": result}
    except Refusal as refusal:
        error = {"kind": refusal.kind, "message": str(refusal), **refusal.details}
    except Exception as error_:
        error = {"kind": "Failed", "message": ascii(error_)}
    return {**answer, "ok": False, "error": error}


def local(argv: list[str], system: System) -> int:
    """A command for this node alone; its exit code. The key's forced command is `serve`, so no client gets
    here."""
    if argv == ["timer", "--print"]:
        print(TIMER, end="", flush=True)
        return 0
    try:
        for line in repair(system):
            print(f"<5>{line}", flush=True)
    except (Refusal, OSError) as error:
        print(f"<4>pveha-node repair: {error!a}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1:] in (["repair"], ["timer", "--print"]):
        sys.exit(local(sys.argv[1:], System()))
    print(json.dumps(main(sys.argv[1:], None, os.environ.get("SSH_ORIGINAL_COMMAND"))), flush=True)
