"""Turns a decision's report into statuses, Events and metrics of one HACluster."""

import collections
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from pveha import api
from pveha.model import decision, specs
from pveha.model.kubernetes import ClusterKey, Manifest, ObjectRef
from pveha.report import applier, enrolment, events, metrics


class StatusWriter:
    """Reports on one cluster while this replica leads it; the supervisor enters and leaves it.

    `write` and `record` return at once; nothing is written of what has not changed.
    """

    def __init__(
        self,
        key: ClusterKey,
        applier: applier.StatusApplier,
        recorder: events.EventRecorder,
        enroller: enrolment.Enroller,
        specs: Callable[[], specs.Specs | None],
        metrics: metrics.Metrics,
    ) -> None:
        self._key = key
        self._applier = applier
        self._recorder = recorder
        self._enroller = enroller
        self._specs = specs
        self._metrics = metrics

    async def __aenter__(self) -> Self:
        await self._applier.__aenter__()
        await self._recorder.__aenter__()
        await self._enroller.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._enroller.__aexit__(kind, error, trace)
        await self._recorder.__aexit__(kind, error, trace)
        await self._applier.__aexit__(kind, error, trace)

    def write(self, report: decision.Report) -> None:
        """Have everything written that differs from what is stored.

        Objects that are not in `specs` (any more) are skipped. Where the report leaves `observedGeneration`
        out, that of the object in `specs` is filled in. A condition's transition time counts only if its
        status differs from the stored one.
        """
        wanted = self._specs()
        if wanted is None:
            return
        cluster = reference(wanted.cluster)
        self._submit(cluster, report.cluster, wanted.cluster.metadata.generation, urgent=True)
        named = {cluster}
        for name, status in report.guests.items():
            if name in wanted.guests or name in wanted.unreadable:
                ref, generation = self._guest(wanted, name)
                named.add(ref)
                if name in report.standing:
                    continue
                self._submit(ref, status, generation, urgent=self._in_operation(ref, status))
        for name, policy_status in report.policies.items():
            if policy := wanted.policies.get(name):
                named.add(reference(policy))
                self._submit(reference(policy), policy_status, policy.metadata.generation)
        for gone in self._applier.known() - named:
            self._applier.forget(gone)
        self._metrics.cluster_status(self._key, report.cluster)
        self._metrics.guest_conditions(self._key, failover_ready(report.guests))

    def record(self, events: Iterable[decision.Event]) -> None:
        """Have Events written."""
        wanted = self._specs()
        if wanted is None:
            return
        for event in events:
            about = self._guest(wanted, event.name)[0] if event.name else reference(wanted.cluster)
            self._recorder.record(about, event.reason, event.message, warning=event.warning)

    def enrol(self, changes: Mapping[str, decision.Enrol | decision.Dismiss]) -> None:
        """Have ProtectedVMs of ours made and deleted."""
        self._enroller.submit(changes)

    def _guest(self, wanted: specs.Specs, name: str) -> tuple[ObjectRef, int]:
        """A ProtectedVM and its generation, also of one that could not be read."""
        if guest := wanted.guests.get(name):
            return reference(guest), guest.metadata.generation
        ref = ObjectRef(api.ProtectedVM.kind_name, self._key.namespace, name)
        return ref, self._applier.generation(ref)

    def _submit(self, ref: ObjectRef, status: api.Status, generation: int, *, urgent: bool = False) -> None:
        self._applier.submit(ref, finished(status, self._applier.stored(ref), generation), urgent=urgent)

    def _in_operation(self, ref: ObjectRef, status: api.ProtectedVMStatus) -> bool:
        """Whether a failover of the guest is going on, or has ended since its status was written."""
        if status.last_failover is None:
            return False
        stored = self._applier.stored(ref).get("lastFailover") or {}
        return status.last_failover.completion_time is None or "completionTime" not in stored


def reference(resource: api.Resource) -> ObjectRef:
    """The object a resource was read from."""
    meta = resource.metadata
    return ObjectRef(resource.kind_name, meta.namespace, meta.name, meta.uid)


def failover_ready(guests: Mapping[str, api.ProtectedVMStatus]) -> dict[str, int]:
    """How many guests have FailoverReady True, False or Unknown (also: not judged)."""
    found = (status.condition("FailoverReady") for status in guests.values())
    return dict(collections.Counter(condition.status if condition else "Unknown" for condition in found))


def finished(status: api.Status, stored: Manifest, generation: int) -> Manifest:
    """The status as it is to be stored: with generations, and old transition times where they hold."""
    manifest: dict[str, Any] = status.manifest()
    manifest.setdefault("observedGeneration", generation)
    before = {condition["type"]: condition for condition in stored.get("conditions", ())}
    for condition in manifest.get("conditions", ()):
        condition.setdefault("observedGeneration", generation)
        old = before.get(condition["type"])
        if old is not None and old["status"] == condition["status"]:
            condition["lastTransitionTime"] = old["lastTransitionTime"]
    # An empty list says nothing and would be stored as such.
    return {name: value for name, value in manifest.items() if value != []}
