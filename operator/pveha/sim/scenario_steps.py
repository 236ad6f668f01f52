"""Lines of a timeline that are not faults of the data centre: about the operator, and what users do in
Kubernetes."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import yaml

from pveha.model import errors
from pveha.sim import faults, rig, scenario

_YAML = r"(\{.*\})"
_Act = Callable[..., Awaitable[None]]


class Steps:
    """Does the lines of one scenario's timeline."""

    def __init__(self, about: scenario.Scenario, on: rig.Rig) -> None:
        self._about = about
        self._rig = on
        self._spec = dict(about.cluster)
        self._forms: tuple[tuple[str, str, _Act], ...] = (
            ("kill operator", "kill operator", self._kill),
            ("start operator", "start operator", self._start),
            ("lose lease", "lose lease", self._lose_lease),
            ("hold lease", "hold lease", self._hold_lease),
            ("kubernetes down", "kubernetes down", self._kubernetes_down),
            ("kubernetes up", "kubernetes up", self._kubernetes_up),
            ("cluster {SPEC}", rf"cluster {_YAML}", self._cluster),
            ("annotate cluster {ANNOTATIONS}", rf"annotate cluster {_YAML}", self._annotate),
            ("policy NAME {SPEC}", rf"policy (\S+) {_YAML}", self._policy),
            ("protect VMID [{SPEC}]", rf"protect (\d+)(?: {_YAML})?", self._protect),
            ("unprotect VMID", r"unprotect (\d+)", self._unprotect),
        )

    async def do(self, line: str) -> None:
        """Do what a line says. Errors: `ScenarioError`."""
        words = " ".join(line.split())
        self._rig.world.say("timeline", words)
        for _, pattern, act in self._forms:
            if match := re.fullmatch(pattern, words):
                await act(*match.groups())
                return
        try:
            faults.apply(self._rig.world, words)
        except faults.UnknownFaultError as error:
            known = "; ".join(usage for usage, _, _ in self._forms)
            raise scenario.ScenarioError(f"{error}; {known}") from error
        except (errors.PvehaError, OSError) as error:
            raise scenario.ScenarioError(f"{line!r}: {error}") from error

    async def _kill(self) -> None:
        await self._rig.kill_operator()

    async def _start(self) -> None:
        self._rig.start_operator()

    async def _lose_lease(self) -> None:
        self._rig.apply("take lease")

    async def _hold_lease(self) -> None:
        self._rig.apply("delete lease")

    async def _kubernetes_down(self) -> None:
        self._rig.kubernetes.unreachable = True

    async def _kubernetes_up(self) -> None:
        self._rig.kubernetes.unreachable = False

    async def _cluster(self, text: str) -> None:
        self._spec.update(_mapping(text))
        old = self._rig.kubernetes.get("HACluster", rig.NAMESPACE, rig.CLUSTER)
        new = rig.hacluster(self._about.world, self._spec)
        new["metadata"]["annotations"] = old["metadata"].get("annotations", {})
        self._rig.kubernetes.put(new)

    async def _annotate(self, text: str) -> None:
        new = dict(self._rig.kubernetes.get("HACluster", rig.NAMESPACE, rig.CLUSTER))
        new["metadata"]["annotations"] = _mapping(text)
        self._rig.kubernetes.put(new)

    async def _policy(self, name: str, text: str) -> None:
        self._rig.kubernetes.put(rig.policy(name, **_mapping(text)))

    async def _protect(self, vmid: str, text: str | None) -> None:
        self._rig.kubernetes.put(rig.protected_vm(int(vmid), **_mapping(text or "{}")))

    async def _unprotect(self, vmid: str) -> None:
        self._rig.kubernetes.delete("ProtectedVM", rig.NAMESPACE, f"vm{vmid}")


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise scenario.ScenarioError(f"{text}: {error}") from error
    return dict(value)
