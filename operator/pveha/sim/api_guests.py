"""Calls about guests: lists, configuration, status, and the tasks that start, stop and move them."""

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

from pveha.model import cluster, guests
from pveha.sim import api_call, guestfile, guestops, pmxcfs, views

if TYPE_CHECKING:
    from pveha.sim import world as worlds

_NUMBERS = {
    guests.GuestKind.VM: frozenset(("cores", "sockets", "kvm", "onboot", "template", "numa", "protection")),
    guests.GuestKind.CONTAINER: frozenset(
        ("cores", "memory", "swap", "onboot", "template", "unprivileged", "protection")
    ),
}
"""Configuration keys that the API returns as numbers; a VM's memory is a string."""

_PRESSURE = dict.fromkeys(
    (
        "pressurecpusome",
        "pressureiofull",
        "pressureiosome",
        "pressurememoryfull",
        "pressurememorysome",
    ),
    0,
)
_IDLE = {"disk": 0, "diskread": 0, "diskwrite": 0, "netin": 0, "netout": 0, "mem": 0, "cpu": 0}
_DISK = 8 << 30


# Lists and status


def resources(call: api_call.Call) -> list[dict[str, Any]]:
    """Guests as `/cluster/resources` shows them, by vmid."""
    tree = call.world.fs.tree(call.node)
    return [_resource(call.world, call.node, tree, tree.guests[vmid]) for vmid in sorted(tree.guests)]


async def listed(call: api_call.Call, kind: guests.GuestKind) -> object:
    """The guests of one kind whose configuration is on the answering node."""
    tree = call.world.fs.tree(call.node)
    return [
        _live(call.world, file, full=call.flag("full"))
        for vmid, file in sorted(tree.guests.items())
        if file.node == call.node and file.ref.kind is kind and call.caller.may(f"/vms/{vmid}", "VM.Audit")
    ]


async def config(call: api_call.Call, kind: guests.GuestKind) -> object:
    file = _file(call, kind)
    return {
        **_properties(file),
        "digest": hashlib.sha1(file.text.encode(), usedforsecurity=False).hexdigest(),
    }


async def current(call: api_call.Call, kind: guests.GuestKind) -> object:
    """What the node itself says of a guest it holds: never stale."""
    file = _file(call, kind)
    entry = _live(call.world, file, full=True)
    tree = call.world.fs.tree(call.node)
    managed = tree.resources.get(file.ref.sid)
    entry["ha"] = {"managed": int(managed is not None)}
    if managed and (service := tree.manager.services.get(file.ref.sid)):
        entry["ha"]["state"] = service.state
    if file.ref.kind is guests.GuestKind.VM and guestfile.value(file.text, "agent").startswith("1"):
        entry["agent"] = 1
    return entry


async def ping_agent(call: api_call.Call) -> object:
    """An answer of the agent, or after QEMU's patience that there is none."""
    problem = call.world.guests.agent_problem(call.node, _file(call, guests.GuestKind.VM))
    if problem:
        raise api_call.failed(problem, guestops.AGENT_SECONDS if problem == guestops.AGENT_ABSENT else 0.0)
    return {"result": {}}


def _resource(
    world: "worlds.World", witness: str, tree: pmxcfs.Tree, file: guestfile.GuestFile
) -> dict[str, Any]:
    vmid = file.ref.vmid
    entry: dict[str, Any] = {
        "id": str(file.ref),
        "type": file.ref.kind.value,
        "vmid": vmid,
        "node": file.node,
        "status": views.guest_status(world, witness, file),
    }
    if service := tree.manager.services.get(file.ref.sid):
        entry["hastate"] = service.state
    elif file.ref.sid in tree.resources:
        entry["hastate"] = str(tree.resources[file.ref.sid].state)
    if pool := _pool(world, vmid):
        entry["pool"] = pool
    if entry["status"] == "unknown":
        return entry
    running = entry["status"] not in ("stopped", "unknown")
    process = world.machines[file.node].processes.get(vmid) if running else None
    entry |= {
        **_IDLE,
        "name": _name(file),
        "template": int(guestfile.value(file.text, "template") or 0),
        "maxcpu": views.guest_cpus(world, file),
        "maxmem": _memory(file),
        "maxdisk": _DISK,
        "uptime": int(views.guest_uptime(world, witness, file)) if running else 0,
    }
    if file.ref.kind is guests.GuestKind.VM:
        entry["memhost"] = 0
    if process:
        entry |= {"mem": _memory(file) // 2, "cpu": 0.01}
    if tags := guestfile.value(file.text, "tags"):
        entry["tags"] = tags
    if file.lock:
        entry["lock"] = file.lock
    return entry


def _live(world: "worlds.World", file: guestfile.GuestFile, *, full: bool) -> dict[str, Any]:
    """A guest as its own node lists it; `full` adds what is asked of QEMU itself."""
    process = world.machines[file.node].processes.get(file.ref.vmid)
    vm = file.ref.kind is guests.GuestKind.VM
    entry: dict[str, Any] = {
        "vmid": file.ref.vmid,
        "name": _name(file),
        "status": "running" if process else "stopped",
        "cpus": views.guest_cpus(world, file),
        "maxmem": _memory(file),
        "maxdisk": _DISK,
        "mem": _memory(file) // 2 if process else 0,
        "cpu": 0.01 if process else 0,
        "disk": 0,
        "netin": 0,
        "netout": 0,
        "uptime": int(world.now() - process.started_at) if process else 0,
    }
    if vm:
        entry["memhost"] = 0
    else:
        entry |= {"maxswap": 0, "diskread": 0, "diskwrite": 0}
    if process:
        entry |= _PRESSURE
        if vm:
            entry |= {"pid": process.pid, "pressurecpufull": 0}
    if full and vm:
        entry["qmpstatus"] = process.state if process else "stopped"
        if process:
            entry["nics"] = {f"tap{file.ref.vmid}i0": {"netin": 0, "netout": 0}}
    if tags := guestfile.value(file.text, "tags"):
        entry["tags"] = tags
    if file.lock:
        entry["lock"] = file.lock
    if guestfile.value(file.text, "template") == "1":
        entry["template"] = 1
    return entry


def _properties(file: guestfile.GuestFile) -> dict[str, Any]:
    """The keys of a configuration's first section, with the types the API gives them."""
    pairs = [line.partition(":") for line in file.text.split("\n[", 1)[0].splitlines() if ":" in line]
    numbers = _NUMBERS[file.ref.kind]
    return {key: int(text) if key in numbers else text.strip() for key, _, text in pairs}


def _name(file: guestfile.GuestFile) -> str:
    key = "name" if file.ref.kind is guests.GuestKind.VM else "hostname"
    return guestfile.value(file.text, key) or f"{file.ref.kind.ha_type.upper()}{file.ref.vmid}"


def _memory(file: guestfile.GuestFile) -> int:
    """Configured memory, in bytes."""
    return int(guestfile.value(file.text, "memory") or 512) << 20


def _pool(world: "worlds.World", vmid: int) -> str:
    about = world.guests.about.get(vmid)
    return about.pool if about else ""


def _ref(call: api_call.Call, kind: guests.GuestKind) -> guests.GuestRef:
    return guests.GuestRef(call.integer("vmid"), kind)


def _file(call: api_call.Call, kind: guests.GuestKind) -> guestfile.GuestFile:
    """The guest's configuration on the answering node; Proxmox's sentence if it is not there."""
    ref = _ref(call, kind)
    file = call.world.fs.tree(call.node).guests.get(ref.vmid)
    if file is None or file.node != call.node or file.ref.kind is not ref.kind:
        raise api_call.failed(f"Configuration file '{guestfile.path_of(ref, call.node)}' does not exist")
    return file


# Starting, stopping, moving


async def start(call: api_call.Call, kind: guests.GuestKind) -> object:
    """200 and an UPID for a guest that is missing, elsewhere, locked or running: only the task fails."""
    _allow_skiplock(call)
    api_call.needs_quorum(call)
    ref = _ref(call, kind)
    if _ha_managed(call, ref):
        return _queue(call, ref, "hastart", f"start for {_word(ref)} {ref.vmid}", _set_started(ref.sid))
    return call.world.guests.start(call.node, ref, call.caller.name, call.flag("skiplock")).upid


async def stop(call: api_call.Call, kind: guests.GuestKind) -> object:
    return await _stop(call, kind, shutdown=False)


async def shutdown(call: api_call.Call, kind: guests.GuestKind) -> object:
    return await _stop(call, kind, shutdown=True)


async def migrate(call: api_call.Call, kind: guests.GuestKind) -> object:
    """Asked for a dead target: 200 and an UPID, the task fails."""
    ref, target = _ref(call, kind), call.text("target")
    if target == call.node:
        raise api_call.bad_parameters({"target": "target is local node."})
    if target not in call.world.machines:
        raise api_call.failed(f"no such cluster node '{target}'")
    api_call.needs_quorum(call)
    file = _file(call, kind)
    if file.lock:
        raise api_call.failed(f"{_word(ref)} is locked ({file.lock})")
    running = ref.vmid in call.world.machines[call.node].processes
    if ref.kind is guests.GuestKind.VM and running and not call.flag("online"):
        raise api_call.failed("can't migrate running VM without --online")
    if (
        ref.kind is guests.GuestKind.CONTAINER
        and running
        and not (call.flag("online") or call.flag("restart"))
    ):
        raise api_call.failed("CT is running, use 'restart' to migrate it")
    if _ha_managed(call, ref):
        command = ("migrate", ref.sid, target)
        words = f"migration for {_word(ref)} {ref.vmid} to node {target}"
        return _queue(call, ref, "hamigrate", words, lambda tree: tree.commands.append(command))
    return call.world.guests.migrate(call.node, ref, target, call.caller.name).upid


async def migrate_precondition(call: api_call.Call, kind: guests.GuestKind) -> object:
    """Lists every other node, dead ones too: it looks at disks and devices only."""
    file = _file(call, kind)
    others = [name for name in call.world.machines if name != call.node]
    local = [
        {
            "volid": f"{name}:{volume}",
            "drivename": "scsi0",
            "size": _DISK,
            "shared": 0,
            "cdrom": 0,
            "is_attached": 1,
        }
        for name, volume in file.volumes
        if not call.world.storage.by_name[name].shared
    ]
    answer: dict[str, Any] = {"running": int(file.ref.vmid in call.world.machines[call.node].processes)}
    if file.ref.kind is guests.GuestKind.CONTAINER:
        return answer | {"allowed-nodes": others, "not-allowed-nodes": {}}
    return answer | {
        "allowed_nodes": others,
        "not_allowed_nodes": {name: {} for name in others},
        "local_disks": local,
        "local_resources": [],
        "mapped-resources": [],
        "mapped-resource-info": {},
        "has-dbus-vmstate": 1,
    }


async def _stop(call: api_call.Call, kind: guests.GuestKind, *, shutdown: bool) -> object:
    """Needs no quorum: a guest can always be stopped; what HA makes of it is another matter."""
    _allow_skiplock(call)
    ref = _ref(call, kind)
    if _ha_managed(call, ref):
        command = ("stop", ref.sid)
        return _queue(
            call,
            ref,
            "hastop",
            f"stop for {_word(ref)} {ref.vmid}",
            lambda tree: tree.commands.append(command),
        )
    return call.world.guests.stop(call.node, ref, call.caller.name, shutdown=shutdown).upid


def _queue(call: api_call.Call, ref: guests.GuestRef, kind: str, words: str, change: api_call.Change) -> str:
    """Begin a task that only tells the CRM, and ends as soon as that is written; returns its UPID."""
    task = call.world.tasks.begin(call.world.machines[call.node], kind, str(ref.vmid), call.caller.name)
    task.log.append(f"Requesting HA {words}")

    async def work() -> None:
        try:
            await api_call.write(call, change)
        except api_call.ApiError as error:
            call.world.tasks.end(task, error.message)
        else:
            call.world.tasks.end(task)

    call.spawn(work())
    return task.upid


def _set_started(sid: str) -> api_call.Change:
    def change(tree: pmxcfs.Tree) -> None:
        if sid in tree.resources:
            tree.resources[sid] = dataclasses.replace(tree.resources[sid], state=cluster.HAState.STARTED)

    return change


def _ha_managed(call: api_call.Call, ref: guests.GuestRef) -> bool:
    resource = call.world.fs.tree(call.node).resources.get(ref.sid)
    return resource is not None and resource.state is not cluster.HAState.IGNORED


def _allow_skiplock(call: api_call.Call) -> None:
    if call.flag("skiplock") and not call.caller.skips_locks:
        raise api_call.bad_parameters({"skiplock": "Only root may use this option."})


def _word(ref: guests.GuestRef) -> str:
    return "VM" if ref.kind is guests.GuestKind.VM else "CT"
