"""The node shell's `System` on a simulated node: the same `pveha-node`, its outside played by the world."""

import asyncio
import dataclasses
import errno
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from typing_extensions import override

from pveha.model import cluster, guests
from pveha.nodeshell import pveha_node

if TYPE_CHECKING:
    from pveha.sim import world as worlds

_PVE = "/etc/pve/"
_RUN = "/run/pveha/"
HALT_SECONDS = 0.3
"""How long a program that halts stands still between two looks at the clock: longer than a claim may take
from its check to the rename (S14)."""


class NodeSystem(pveha_node.System):
    """One node's files and processes. OSErrors are those of `pmxcfs.Pmxcfs`."""

    def __init__(self, world: "worlds.World", name: str, command: str = "") -> None:
        """`command` is what the program was called with."""
        super().__init__()
        self._command = command
        self._world = world
        self._name = name
        self._stood_still = 0.0

    @override
    def hostname(self) -> str:
        return self._name

    @override
    def monotonic(self) -> float:
        if self._world.machines[self._name].node_shell == "halting" and " claim " in self._command:
            self._stood_still += HALT_SECONDS
        return asyncio.get_running_loop().time() + self._stood_still

    @override
    def wall_clock(self) -> float:
        return self._world.wall_now(self._name)

    @override
    def read_text(self, path: str) -> str:
        if path.startswith(_PVE):
            return self._world.fs.read(self._name, path.removeprefix(_PVE))
        about = self._world.machines[self._name].about
        known = {
            "/etc/hostname": self._name,
            "/sys/class/dmi/id/product_uuid": about.uuid,
            "/sys/class/dmi/id/product_serial": about.serial,
        }
        if path in known:
            return f"{known[path]}\n"
        if (told := self._world.equipment.read(self._name, path)) is not None:
            return told
        machine = self._world.machines[self._name]
        if path == pveha_node.LOOKED and machine.timer:
            return f"{self.monotonic() - machine.timer_looked_ago}\n"
        if path in machine.run_files:
            return machine.run_files[path]
        for process in machine.processes.values():
            if path == f"/run/qemu-server/{process.ref.vmid}.pid" and process.ref.kind is guests.GuestKind.VM:
                return f"{process.pid}\n"
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    @override
    def write_text(self, path: str, text: str) -> None:
        if path == pveha_node.LOOKED:
            return
        if path.startswith(_RUN):
            self._world.machines[self._name].run_files[path] = text
            return
        self._world.fs.write(self._name, _inside(path), text)

    @override
    def list_dir(self, path: str) -> list[str]:
        if path.startswith(_PVE):
            return self._world.fs.listdir(self._name, path.removeprefix(_PVE))
        if path == "/run/qemu-server":
            processes = self._world.machines[self._name].processes.values()
            return [f"{p.ref.vmid}.pid" for p in processes if p.ref.kind is guests.GuestKind.VM]
        return self._world.equipment.list_dir(self._name, path)

    @override
    def exists(self, path: str) -> bool:
        if path == pveha_node.ENABLED:
            return self._world.machines[self._name].timer
        if path.startswith(_RUN):
            return path in self._world.machines[self._name].run_files
        if path.startswith(_PVE):
            return self._world.fs.exists(self._name, path.removeprefix(_PVE))
        return self._world.equipment.exists(self._name, path)

    @override
    def make_dir(self, path: str) -> None:
        if f"{path}/" == _RUN:
            return
        self._world.fs.mkdir(self._name, _inside(path))

    @override
    def remove_dir(self, path: str) -> None:
        self._world.fs.rmdir(self._name, _inside(path))

    @override
    def remove_file(self, path: str) -> None:
        self._world.machines[self._name].run_files.pop(path, None)

    @override
    def rename(self, source: str, target: str) -> None:
        self._world.fs.rename(self._name, _inside(source), _inside(target), self._command)

    @override
    def quorum_tool(self) -> str:
        if not self._world.machines[self._name].corosync_runs:
            return ""
        return self._world.membership.quorumtool(self._name)

    @override
    def set_ha_resource(self, sid: str, state: str, comment: str, digest: str) -> str:
        tree = self._world.fs.writable(self._name)
        if tree.digest != digest:
            return "detected modified configuration - try again"
        entry = tree.resources[sid]
        tree.resources[sid] = dataclasses.replace(entry, state=cluster.HAState(state), comment=comment)
        tree.version += 1
        self._world.changed()
        return ""

    @override
    def processes(self) -> list[pveha_node.Process]:
        found = []
        argv: tuple[str, ...]
        for process in self._world.machines[self._name].processes.values():
            vmid = process.ref.vmid
            if process.ref.kind is guests.GuestKind.VM:
                argv, cgroup = ("/usr/bin/kvm", "-id", str(vmid)), f"0::/qemu.slice/{vmid}.scope\n"
            else:
                argv, cgroup = ("/sbin/init",), f"0::/lxc/{vmid}/ns/init.scope\n"
            name = argv[0].rpartition("/")[2]
            found.append(pveha_node.Process(process.pid, process.start_time, name, argv, cgroup))
        return found

    @override
    def qmp_states(self, vmids: Iterable[int], seconds: float) -> dict[int, pveha_node.QMP]:
        processes = self._world.machines[self._name].processes
        return {
            vmid: pveha_node.QMP(processes[vmid].state, processes[vmid].pid)
            for vmid in vmids
            if vmid in processes
        }

    @override
    def kill(self, pid: int, start_time: int) -> None:
        for process in list(self._world.machines[self._name].processes.values()):
            if (process.pid, process.start_time) == (pid, start_time):
                self._world.guests.end(process, "killed by pveha-node")
                return
        raise ProcessLookupError(pid)

    @override
    def wait_gone(self, pid: int, start_time: int, seconds: float) -> bool:
        processes = self._world.machines[self._name].processes.values()
        return not any((process.pid, process.start_time) == (pid, start_time) for process in processes)


def _inside(path: str) -> str:
    """The path below /etc/pve; pveha-node writes nowhere else."""
    if not path.startswith(_PVE):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return path.removeprefix(_PVE)
