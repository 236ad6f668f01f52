"""Calls about tasks: lists, status and log, by UPID."""

import re
from typing import Any

from pveha.sim import api_call
from pveha.sim import tasks as task_model

_UPID = re.compile(r"UPID:[A-Za-z0-9-]+:[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:[^:\s]+:[^:\s]*:[^:\s]+:")
CLUSTER_SHOWS = 25
"""`/cluster/tasks` holds the newest of each node."""


async def status(call: api_call.Call) -> object:
    task = _task(call)
    entry = {**_about(task), "pid": task.pid, "pstart": task.pstart}
    if task.exit_status is None:
        return entry | {"status": "running"}
    return entry | {"status": "stopped", "exitstatus": task.exit_status}


async def log(call: api_call.Call) -> object:
    task = _task(call)
    lines = [{"n": number, "t": text} for number, text in enumerate(task.log, 1)]
    start = call.integer("start")
    return api_call.Paged(lines[start : start + call.integer("limit", 50)], len(lines))


async def of_node(call: api_call.Call) -> object:
    """Tasks of one node, the newest first: ended ones unless `source` says otherwise."""
    source, vmid = call.text("source", "archive"), call.text("vmid")
    chosen = [
        task
        for task in _newest_first(call)
        if task.node == call.node
        and (source == "all" or (task.exit_status is None) is (source == "active"))
        and vmid in ("", task.id)
        and _may_see(call, task)
    ]
    entries = []
    for task in chosen:
        entry = {**_about(task), "pid": task.pid, "pstart": task.pstart}
        if task.exit_status is None:
            entries.append(entry | {"status": "RUNNING", "saved": "0"})
        else:
            entries.append(entry | {"status": task.exit_status, "endtime": task.end_timestamp})
    start = call.integer("start")
    shown = entries[start : start + call.integer("limit", 50)]
    return api_call.Paged(shown, len(entries)) if shown else shown


def of_cluster(call: api_call.Call) -> list[dict[str, Any]]:
    """The newest tasks of each node, running ones first."""
    shown: dict[str, int] = {}
    entries = []
    for task in sorted(_newest_first(call), key=lambda task: task.exit_status is not None):
        shown[task.node] = shown.get(task.node, 0) + 1
        if shown[task.node] > CLUSTER_SHOWS or not _may_see(call, task):
            continue
        if task.exit_status is None:
            entries.append({**_about(task), "saved": "0", "pid": task.pid})
        else:
            ended = {"saved": "1", "status": task.exit_status, "endtime": task.end_timestamp}
            entries.append({**_about(task), **ended})
    return entries


def _task(call: api_call.Call) -> task_model.Task:
    upid = call.text("upid")
    if not _UPID.fullmatch(upid):
        raise api_call.bad_parameters({"upid": "unable to parse worker upid"})
    task = call.world.tasks.by_upid.get(upid)
    if task is None or task.node != call.node:
        raise api_call.bad_parameters({"upid": "no such task"})
    if not _may_see(call, task):
        raise api_call.ApiError(403, f"Permission check failed (/nodes/{call.node}, Sys.Audit)")
    return task


def _may_see(call: api_call.Call, task: task_model.Task) -> bool:
    return task.user == call.caller.name or call.caller.may(f"/nodes/{task.node}", "Sys.Audit")


def _newest_first(call: api_call.Call) -> list[task_model.Task]:
    return list(reversed(call.world.tasks.by_upid.values()))


def _about(task: task_model.Task) -> dict[str, Any]:
    user, _, token = task.user.partition("!")
    entry: dict[str, Any] = {
        "upid": task.upid,
        "node": task.node,
        "type": task.type,
        "id": task.id,
        "user": user,
        "starttime": task.start_timestamp,
    }
    return entry | ({"tokenid": token} if token else {})
