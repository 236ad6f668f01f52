"""The node's end of `pveha node`: looks at what is installed, and changes it in steps.

`admin` sends this file together with `pveha_node.py` to a node's python3 over the administrator's login, so
it is Python 3.11's standard library only, and it stays nowhere. What has to be done is decided on the other
side (`installation`); a step says what it expects to find, and changes nothing if it finds something else.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import time
from typing import Any

from pveha.nodeshell import pveha_node

KEYS = "/root/.ssh/authorized_keys"
"""On a node of a cluster a link into /etc/pve, whose files all nodes share."""
CLUSTER_FILES = "/etc/pve"
TIMER = "pveha-repair.timer"
SERVICE = "pveha-repair.service"
SYSTEMCTL_SECONDS = 30.0
SHOWN = ("ActiveState", "UnitFileState", "NeedDaemonReload", "LastTriggerUSec", "ActiveEnterTimestamp")


class Problem(Exception):
    """Told as an error of this kind."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def main(root: str, request: dict[str, Any]) -> None:
    """Do one request and print its answer, one line of JSON: `result`, or `error`."""
    try:
        if request["verb"] == "look":
            answer = {"result": look(root, request["files"])}
        else:
            answer = {"result": apply(root, request["steps"])}
    except Problem as problem:
        answer = {"error": {"kind": problem.kind, "message": str(problem)}}
    except Exception as error:
        answer = {"error": {"kind": "Failed", "message": ascii(error)}}
    print(json.dumps(answer), flush=True)


# --- looking --------------------------------------------------------------------------------------


def look(root: str, files: list[str]) -> dict[str, Any]:
    """What is there; `files` are read as well."""
    system = pveha_node.System(root)
    if not system.exists("/etc/pve/.members"):
        raise Problem(
            "NoProxmox", "there is no /etc/pve/.members: no Proxmox VE node, or pve-cluster is not running"
        )
    membership = pveha_node.read_membership(system)
    keys = real_path(root, KEYS)
    marked = {
        sid: pveha_node.read_mark(entry.get("comment", ""))
        for sid, entry in pveha_node.read_ha_resources(system).items()
    }
    return {
        "node": system.hostname(),
        "members": dict(membership.online),
        "quorate": membership.quorate,
        "files": {path: contents(local(root, path)) for path in files},
        "keys": {"path": keys, "shared": in_cluster_files(keys), "content": contents(local(root, keys))},
        "timer": look_at_timer(),
        "marks": sorted(sid for sid, mark in marked.items() if mark is not None),
        "time": time.time(),
    }


def look_at_timer() -> dict[str, Any]:
    """What systemd says of the timer and of its service's last run. Times are Unix seconds, 0 for never."""
    timer = show(TIMER, SHOWN)
    service = show(SERVICE, ("Result", "NeedDaemonReload"))
    return {
        "enabled": timer["UnitFileState"] == "enabled",
        "active": timer["ActiveState"] == "active",
        "need_reload": "yes" in (timer["NeedDaemonReload"], service["NeedDaemonReload"]),
        "active_since": unix_time(timer["ActiveEnterTimestamp"]),
        "last_run": unix_time(timer["LastTriggerUSec"]),
        "last_result": service["Result"],
    }


def show(unit: str, names: tuple[str, ...]) -> dict[str, str]:
    """Properties of a unit, "" for what systemd does not tell."""
    output = systemctl(["show", f"--property={','.join(names)}", unit])
    told = dict(line.partition("=")[::2] for line in output.splitlines())
    return {name: told.get(name, "") for name in names}


def unix_time(text: str) -> float:
    """`Sun 2026-11-22 22:26:33 UTC`, 0 for what is no time."""
    match = re.fullmatch(r"[A-Z][a-z]{2} ([0-9-]{10} [0-9:]{8}) UTC", text)
    return datetime.datetime.fromisoformat(f"{match[1]}+00:00").timestamp() if match else 0.0


def systemctl(words: list[str]) -> str:
    """Its output; times in it are UTC."""
    try:
        done = subprocess.run(
            ["systemctl", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SYSTEMCTL_SECONDS,
            env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Problem("Failed", f"systemctl {' '.join(words)}: {error!a}") from error
    if done.returncode != 0:
        said = ascii(done.stderr.decode("utf-8", "replace").strip())
        raise Problem("Failed", f"systemctl {' '.join(words)} ended with {done.returncode}: {said}")
    return done.stdout.decode("utf-8", "replace")


# --- paths ----------------------------------------------------------------------------------------


def local(root: str, path: str) -> pathlib.Path:
    return pathlib.Path(root) / path.lstrip("/")


def real_path(root: str, path: str) -> str:
    """Where a path leads, links followed."""
    real = local(root, path).resolve()
    for top in (CLUSTER_FILES, "/"):
        with contextlib.suppress(ValueError):
            return str(pathlib.PurePosixPath(top) / real.relative_to(local(root, top).resolve()))
    raise Problem("Failed", f"{path} leads to {real}, out of {root}")


def in_cluster_files(path: str) -> bool:
    return path.startswith(f"{CLUSTER_FILES}/")


def contents(path: pathlib.Path) -> str | None:
    """A file in base64, None if there is none."""
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except FileNotFoundError:
        return None


# --- changing -------------------------------------------------------------------------------------


def apply(root: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Do the steps in order; the first that fails ends it."""
    for step in steps:
        try:
            if step["do"] == "systemctl":
                systemctl(step["words"])
            elif step["do"] == "write":
                write(root, step["path"], step["before"], base64.b64decode(step["content"]), step["mode"])
            else:
                remove(root, step["path"], step["before"])
        except OSError as error:
            raise refused(step["path"], error) from error
    return {"done": len(steps)}


def refused(path: str, error: OSError) -> Problem:
    if in_cluster_files(path) and isinstance(error, PermissionError):
        return Problem(
            "NotQuorate", f"{path} cannot be written: the cluster file system is read-only without quorum"
        )
    if isinstance(error, PermissionError):
        return Problem("NotRoot", f"{path} cannot be written: {error.strerror}")
    return Problem("Failed", f"{path}: {error!a}")


def write(root: str, path: str, before: str | None, content: bytes, mode: int) -> None:
    """Replace a file in one moment. pmxcfs has its own owners and modes and refuses to be told others."""
    target = local(root, path)
    if has(target, hashlib.sha256(content).hexdigest()):
        return
    expect(target, path, before)
    if not target.parent.exists():
        if in_cluster_files(path):
            raise Problem("NoProxmox", f"there is no {path.rpartition('/')[0]}: pve-cluster is not running")
        target.parent.mkdir(mode=0o700, parents=True)
    beside = f"{target.name}.pveha-new.{pveha_node.System(root).hostname()}."
    sweep(target.parent, beside)
    new = target.with_name(f"{beside}{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if not in_cluster_files(path):
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        expect(target, path, before)
        new.rename(target)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def sweep(folder: pathlib.Path, beside: str) -> None:
    """Remove what an earlier run on this node left that was killed between writing and renaming."""
    for left in folder.glob(f"{beside}*"):
        pid = left.name.removeprefix(beside)
        if pid.isdecimal() and not pathlib.Path(f"/proc/{pid}").exists():
            left.unlink(missing_ok=True)


def remove(root: str, path: str, before: str | None) -> None:
    target = local(root, path)
    if target.exists():
        expect(target, path, before)
        target.unlink()


def expect(target: pathlib.Path, path: str, before: str | None) -> None:
    if not has(target, before):
        raise Problem("Conflict", f"{path} was changed by somebody else meanwhile")


def has(target: pathlib.Path, digest: str | None) -> bool:
    """Whether a file has this SHA-256; None stands for no file."""
    try:
        return hashlib.sha256(target.read_bytes()).hexdigest() == digest
    except FileNotFoundError:
        return digest is None
