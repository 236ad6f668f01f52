"""Lines of a timeline with a manifest's fields in them, beside those of `faults` and `rig`."""

import re
from collections.abc import Callable
from typing import Any

import yaml

from pveha.model import errors
from pveha.sim import faults, rig, scenario

_YAML = r"(\{.*\})"


def do(on: rig.Rig, line: str) -> None:
    """Do what a line says. Errors: `ScenarioError`. What cannot be done at the moment is told and left."""
    words = " ".join(line.split())
    on.world.say("timeline", words)
    try:
        for pattern, _, act in (*LINES, *rig.OPERATOR_LINES):
            if match := re.fullmatch(pattern, words):
                act(on, *match.groups())
                return
        faults.apply(on.world, words)
    except (errors.OutsideError, OSError) as problem:
        on.world.say("timeline", f"not now: {problem}")
    except faults.UnknownFaultError as error:
        if isinstance(error.__cause__, KeyError):
            raise scenario.ScenarioError(str(error)) from error
        known = "; ".join(usage for table in (LINES, rig.OPERATOR_LINES) for _, usage, _ in table)
        raise scenario.ScenarioError(f"{error}; {known}") from error
    except KeyError as error:
        raise scenario.ScenarioError(f"{line!r}: there is no {error}") from error


def _mapping(text: str) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise scenario.ScenarioError(f"{text}: {error}") from error


def _cluster(on: rig.Rig, text: str) -> None:
    on.edit("HACluster", rig.CLUSTER, lambda manifest: manifest["spec"].update(_mapping(text)))


def _policy(on: rig.Rig, name: str, text: str) -> None:
    on.kubernetes.put(rig.policy(name, **_mapping(text)))


def _protect(on: rig.Rig, vmid: str, text: str) -> None:
    on.kubernetes.put(rig.protected_vm(int(vmid), **_mapping(text)))


def _claim(on: rig.Rig, vmid: str, name: str) -> None:
    manifest = rig.protected_vm(int(vmid))
    manifest["metadata"] |= {"name": name, "creationTimestamp": "2026-11-02T00:00:00Z"}
    on.kubernetes.put(manifest)


LINES: tuple[tuple[str, str, Callable[..., object]], ...] = (
    (rf"cluster {_YAML}", "cluster {FIELD: VALUE, ...}", _cluster),
    (rf"policy (\S+) {_YAML}", "policy NAME {FIELD: VALUE, ...}", _policy),
    (rf"protect (\d+) {_YAML}", "protect VMID {FIELD: VALUE, ...}", _protect),
    (r"protect (\d+) as (\S+)", "protect VMID as NAME", _claim),
)
"""Pattern, usage and act of each line."""
