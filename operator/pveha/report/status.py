"""Turns a decision's report into statuses, Events and metrics of one HACluster."""

import collections
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from pveha import api
from pveha.api import meta
from pveha.model import decision, specs
from pveha.model.kubernetes import ClusterKey, Manifest, ObjectRef
from pveha.report import applier, events, metrics


class StatusWriter:
    """Reports on one cluster while this replica leads it; the supervisor enters and leaves it.

    `write` is called once a round, returns at once and does nothing if nothing changed.
    """

    def __init__(
        self,
        key: ClusterKey,
        applier: applier.StatusApplier,
        recorder: events.EventRecorder,
        specs: Callable[[], specs.Specs | None],
        metrics: metrics.Metrics,
        wall_now: Callable[[], float],
    ) -> None:
        self._key = key
        self._applier = applier
        self._recorder = recorder
        self._specs = specs
        self._metrics = metrics
        self._wall_now = wall_now

    async def __aenter__(self) -> Self:
        await self._applier.__aenter__()
        await self._recorder.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._recorder.__aexit__(kind, error, trace)
        await self._applier.__aexit__(kind, error, trace)

    def write(self, report: decision.Report) -> None:
        """Have everything written that differs from what is stored.

        Objects that are not in `specs` (any more) are skipped. Where the report leaves `observedGeneration`
        out, that of the object in `specs` is filled in. Transition times in the report are ignored.
        """
        wanted = self._specs()
        if wanted is None:
            return
        now = datetime.fromtimestamp(self._wall_now(), UTC)
        named: list[tuple[api.HACluster | api.ProtectedVM | api.FailoverPolicy, meta.Status, bool]] = [
            (wanted.cluster, report.cluster, True)
        ]
        for name, guest_status in report.guests.items():
            if guest := wanted.guests.get(name):
                named.append((guest, guest_status, self._in_operation(guest_ref(guest), guest_status)))
        for name, policy_status in report.policies.items():
            if policy := wanted.policies.get(name):
                named.append((policy, policy_status, False))

        refs = {}
        for resource, status, urgent in named:
            ref = refs[resource.kind_name, resource.name] = guest_ref(resource)
            manifest = finished(status, self._applier.stored(ref), resource.metadata.generation, now)
            self._applier.submit(ref, manifest, urgent=urgent)
        for gone in self._applier.known() - set(refs.values()):
            self._applier.forget(gone)

        for event in report.events:
            kind = api.ProtectedVM.kind_name if event.name else api.HACluster.kind_name
            name = event.name or wanted.cluster.name
            self._recorder.record(
                refs.get((kind, name)) or ObjectRef(kind, self._key.namespace, name),
                event.reason,
                event.message,
                warning=event.warning,
            )
        self._metrics.cluster_status(self._key, report.cluster)
        self._metrics.guest_conditions(self._key, failover_ready(report.guests))

    def _in_operation(self, ref: ObjectRef, status: api.ProtectedVMStatus) -> bool:
        """A failover that began, or ended, since the status was written last."""
        failover = status.last_failover
        if failover is None:
            return False
        return (
            failover.completion_time is None
            or self._applier.stored(ref).get("lastFailover") is None
            or (self._applier.stored(ref)["lastFailover"].get("completionTime") is None)
        )


def guest_ref(resource: api.HACluster | api.ProtectedVM | api.FailoverPolicy) -> ObjectRef:
    """The object a resource was read from."""
    meta = resource.metadata
    return ObjectRef(resource.kind_name, meta.namespace, meta.name, meta.uid)


def failover_ready(guests: Mapping[str, api.ProtectedVMStatus]) -> dict[str, int]:
    """How many guests have FailoverReady True, False or Unknown (also: not judged)."""
    found = (status.condition("FailoverReady") for status in guests.values())
    return dict(collections.Counter(condition.status if condition else "Unknown" for condition in found))


def finished(status: meta.Status, stored: Manifest, generation: int, now: datetime) -> Manifest:
    """The status as it is to be stored: with generations, and transition times that follow its changes."""
    manifest: dict[str, Any] = status.manifest()
    before = {condition.get("type"): condition for condition in stored.get("conditions", ())}
    manifest.setdefault("observedGeneration", generation)
    for condition in manifest.get("conditions", ()):
        condition.setdefault("observedGeneration", generation)
        old = before.get(condition["type"])
        unchanged = old is not None and old.get("status") == condition["status"]
        condition["lastTransitionTime"] = (
            old["lastTransitionTime"] if unchanged and old else now.strftime("%Y-%m-%dT%H:%M:%SZ")
        )
    return without_empty(manifest)


def without_empty(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Without the empty lists at the top, which say nothing and would be stored as such."""
    return {name: value for name, value in manifest.items() if value != []}
