"""Calls about the whole cluster: membership, resources, tasks, permissions, version."""

from collections.abc import Iterator
from typing import Any

from pveha.sim import api_call, api_guests, api_tasks, views

VERSION = {"version": "9.2.11", "release": "9.2", "repoid": "14a22df3c0de5a1b"}
DISK = 256 << 30
"""Size of every node's root disk and storages, in bytes: nothing here fills up."""

_CONTENT = {True: "images,rootdir", False: "iso,vztmpl,backup,images,rootdir,snippets"}


async def version(call: api_call.Call) -> object:
    return about_version(call.world.machines[call.node].version)


def about_version(number: str) -> dict[str, str]:
    """`GET /version`."""
    return VERSION | {"version": number, "release": ".".join(number.split(".")[:2])}


async def permissions(call: api_call.Call) -> object:
    if path := call.text("path"):
        return {path: dict.fromkeys(sorted(call.caller.privileges(path)), 1)}
    return call.caller.permissions()


async def status(call: api_call.Call) -> object:
    members = call.world.membership.members_file(call.node)
    about = members["cluster"]
    cluster = {
        "type": "cluster",
        "id": "cluster",
        "name": about["name"],
        "version": about["version"],
        "nodes": about["nodes"],
        "quorate": about["quorate"],
    }
    return [
        cluster,
        *(
            {
                "type": "node",
                "id": f"node/{name}",
                "name": name,
                "nodeid": node["id"],
                "ip": node["ip"],
                "online": node["online"],
                "local": int(name == call.node),
                "level": "",
            }
            for name, node in members["nodelist"].items()
        ),
    ]


async def ceph_status(call: api_call.Call) -> object:
    """`GET /cluster/ceph/status`, what pveha reads of it."""
    monitors, quorum = call.world.config.ceph, call.world.ceph_quorum
    if not monitors:
        raise api_call.failed("binary not installed: /usr/bin/ceph-mon")
    if not quorum:
        raise api_call.failed("got timeout")
    names = [name for name in monitors if name in quorum]
    return {"quorum_names": names, "quorum": list(range(len(names))), "monmap": {"num_mons": len(monitors)}}


async def nodes(call: api_call.Call) -> object:
    return [
        {**node_entry(call, name), "ssl_fingerprint": call.fingerprints.get(name, "")}
        for name in call.world.machines
    ]


async def resources(call: api_call.Call) -> object:
    wanted = call.text("type")
    answer: list[dict[str, Any]] = []
    if wanted in ("", "vm"):
        shown = [entry for entry in api_guests.resources(call) if may_see(call, entry["vmid"])]
        if not wanted:
            answer += _pools(shown)
        answer += shown
    if wanted in ("", "node"):
        answer += [_node_resource(call, name) for name in call.world.machines]
    if wanted in ("", "storage"):
        answer += _storages(call)
    if wanted in ("", "sdn") and call.caller.may("/sdn", "SDN.Audit", "SDN.Use", "SDN.Allocate"):
        answer += [
            {
                "id": f"network/{name}/zone/localnetwork",
                "type": "network",
                "network-type": "zone",
                "network": "localnetwork",
                "node": name,
                "status": "ok",
            }
            for name in call.world.machines
        ]
    return answer


async def tasks(call: api_call.Call) -> object:
    return api_tasks.of_cluster(call)


def node_entry(call: api_call.Call, name: str) -> dict[str, Any]:
    """A node as `/nodes` shows it; what is measured is missing while it is not online, and for a stranger."""
    world = call.world
    about = world.machines[name].about
    entry: dict[str, Any] = {"id": f"node/{name}", "type": "node", "node": name, "level": ""}
    entry["status"] = views.node_status(world, call.node, name)
    since = world.membership.separated_at.get((call.node, name))
    if since is not None and world.now() - since > world.timings.status_lifetime:
        del entry["level"]
        return entry
    if not call.caller.may(f"/nodes/{name}", "Sys.Audit"):
        return entry
    entry |= {"maxcpu": about.cpus, "maxmem": about.memory, "maxdisk": DISK}
    if entry["status"] == "online":
        entry |= {
            "cpu": 0.05,
            "mem": views.used_memory(world, name),
            "disk": DISK // 10,
            "uptime": int(world.machines[name].uptime),
        }
    return entry


def _node_resource(call: api_call.Call, name: str) -> dict[str, Any]:
    entry = {**node_entry(call, name), "cgroup-mode": 2}
    state = call.world.fs.tree(call.node).manager.node_status.get(name)
    return entry | ({"hastate": state} if state else {})


def may_see(call: api_call.Call, vmid: int) -> bool:
    return call.caller.may(f"/vms/{vmid}", "VM.Audit")


def _pools(shown: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for pool in sorted({str(entry["pool"]) for entry in shown if entry.get("pool")}):
        entry: dict[str, Any] = {"id": f"/pool/{pool}", "type": "pool", "pool": pool}
        running = [each for each in shown if each.get("pool") == pool and each["status"] == "running"]
        for name in ("maxcpu", "maxmem", "mem", "cpu") if running else ():
            entry[name] = sum(each.get(name, 0) for each in running)
        if running:
            entry["uptime"] = max(each.get("uptime", 0) for each in running)
        yield entry


def _storages(call: api_call.Call) -> Iterator[dict[str, Any]]:
    world = call.world
    for storage in world.config.storages:
        if not call.caller.may(f"/storage/{storage.name}", "Datastore.Audit", "Datastore.AllocateSpace"):
            continue
        for name in storage.nodes or tuple(world.machines):
            entry: dict[str, Any] = {
                "id": f"storage/{name}/{storage.name}",
                "type": "storage",
                "storage": storage.name,
                "node": name,
                "shared": int(storage.shared),
                "plugintype": storage.type,
                "content": _CONTENT[storage.shared],
                "status": "available"
                if views.storage_available(world, call.node, name, storage.name)
                else "unknown",
            }
            if entry["status"] == "available":
                entry |= {"disk": DISK // 10, "maxdisk": DISK}
            yield entry
