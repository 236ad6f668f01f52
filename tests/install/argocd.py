"""Argo CD's way to run a health check: Lua 5.1 with the libraries base and table, the object as `obj`."""

import functools
from collections.abc import Mapping
from typing import Any

import yaml
from lupa import lua51

from install import render

FILE = render.ROOT / "manifests" / "argocd" / "argocd-cm.yaml"
STATUSES = ("Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown")
"""What Argo CD understands; of the last two we say none."""
ABSENT = ("string", "math", "io", "os", "debug", "coroutine", "package", "require", "dofile", "loadfile")
STRIP = f"for _, name in ipairs({{{', '.join(repr(name) for name in ABSENT)}}}) do _G[name] = nil end"

Object = Mapping[str, Any]


@functools.cache
def checks() -> dict[str, str]:
    """Kind → Lua."""
    prefix = "resource.customizations.health.pveha.dev_"
    data = yaml.safe_load(FILE.read_text(encoding="utf-8"))["data"]
    return {key.removeprefix(prefix): text for key, text in data.items()}


def health(obj: Object) -> tuple[str, str]:
    """Status and message of the health that the check of its kind sees in an object."""
    return run(checks()[obj["kind"]], obj)


def run(check: str, obj: Object) -> tuple[str, str]:
    """Status and message that a check returns for an object."""
    runtime = lua51.LuaRuntime(unpack_returned_tuples=True)
    runtime.execute("getmetatable('').__index = nil")  # methods of strings
    runtime.execute(STRIP)
    runtime.globals()["obj"] = table(runtime, obj)
    result = runtime.execute(check)
    return str(result["status"]), str(result["message"])


def table(runtime: Any, value: Any) -> Any:
    """A JSON value in Lua."""
    if isinstance(value, Mapping):
        return runtime.table_from({key: table(runtime, each) for key, each in value.items()})
    if isinstance(value, list | tuple):
        return runtime.table_from([table(runtime, each) for each in value])
    return value
