"""Calls about storage replication: jobs, and what each node tells of their syncs.

No job was ever made on the cluster whose answers were recorded: these follow the API's schema, and for the
rest Proxmox's sources (pve-manager `API2/ReplicationConfig.pm`, `API2/Replication.pm`).
"""

import dataclasses
from typing import Any

from pveha.model import replication
from pveha.sim import api_call, api_cluster, pmxcfs, replicas

_MODIFIED = "detected modified configuration - file changed by other user? Try again."


async def list_jobs(call: api_call.Call) -> object:
    """Those of guests that may be seen."""
    jobs = call.world.fs.tree(call.node).jobs.values()
    return [replicas.entry(job) for job in jobs if api_cluster.may_see(call, job.vmid)]


async def get_job(call: api_call.Call) -> object:
    jobs = call.world.fs.tree(call.node).jobs
    job = _job(call, jobs)
    if not api_cluster.may_see(call, job.vmid):
        raise api_call.ApiError(403, f"Permission check failed (/vms/{job.vmid}, VM.Audit)")
    return {**replicas.entry(job), "digest": replicas.digest(jobs)}


async def update_job(call: api_call.Call) -> object:
    present = _job(call, call.world.fs.tree(call.node).jobs)
    if not call.caller.may(f"/vms/{present.vmid}", "VM.Replicate"):
        raise api_call.ApiError(403, f"Permission check failed (/vms/{present.vmid}, VM.Replicate)")

    def update(tree: pmxcfs.Tree) -> None:
        if call.text("digest") not in ("", replicas.digest(tree.jobs)):
            raise api_call.failed(_MODIFIED)
        job = _job(call, tree.jobs)
        gone = call.text("delete").split(",")
        changed: dict[str, Any] = {"disabled": False} if "disable" in gone else {}
        changed |= {"comment": ""} if "comment" in gone else {}
        changed |= {"disabled": call.flag("disable")} if "disable" in call.values else {}
        changed |= {"comment": call.text("comment")} if "comment" in call.values else {}
        tree.jobs[job.id] = dataclasses.replace(job, **changed)

    await api_call.write(call, update, lock="file-replication_cfg")
    return None


async def states(call: api_call.Call) -> object:
    world, wanted = call.world, call.integer("guest")
    found = []
    for job, state in world.replicas.told(call.node, world.fs.tree(call.node)):
        if wanted not in (0, job.vmid) or not api_cluster.may_see(call, job.vmid):
            continue
        entry = replicas.entry(job) | {
            "vmtype": world.fs.tree(call.node).guests[job.vmid].ref.kind.value,
            "last_sync": int(state.last_sync),
            "last_try": int(state.last_try),
            "next_sync": int(state.next_sync),
            "duration": replicas.SYNC_SECONDS,
            "fail_count": state.fail_count,
        }
        found.append(entry | ({"error": state.error} if state.error else {}))
    return found


def _job(call: api_call.Call, jobs: dict[str, replication.Job]) -> replication.Job:
    id_ = call.text("id")
    if id_ not in jobs:
        raise api_call.failed(f"no such job '{id_}'")
    return jobs[id_]
