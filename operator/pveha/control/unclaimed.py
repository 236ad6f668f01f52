"""Statuses of objects that no loop speaks for: their HACluster does not exist, or they cannot be read.

Every replica does this, and all come to the same words, so whoever is first makes it quiet for the others.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pveha import api
from pveha.api import conditions
from pveha.control.store import Store
from pveha.model.kubernetes import ClusterKey, Manifest, ObjectRef
from pveha.report import applier, status

PERIOD_SECONDS = 2.0
GRACE_SECONDS = 5.0
"""Objects applied together arrive in any order."""

_READY = {
    api.HACluster.kind_name: conditions.ClusterCondition.READY,
    api.FailoverPolicy.kind_name: conditions.PolicyCondition.READY,
    api.ProtectedVM.kind_name: conditions.GuestCondition.READY,
}


class Unclaimed:
    """Writes these statuses through `applier` until cancelled."""

    def __init__(self, store: Store, applier: applier.StatusApplier, wall_now: Callable[[], float]) -> None:
        self._store = store
        self._applier = applier
        self._wall_now = wall_now
        self._since: dict[ObjectRef, float] = {}
        self._looked_at = -1
        """The store's revision then."""

    async def run(self) -> None:
        async with self._applier:
            while True:
                rung = self._store.changed.rung
                self._look()
                await asyncio.sleep(PERIOD_SECONDS)
                if not self._since:
                    await self._store.changed.wait(rung)

    def _look(self) -> None:
        if self._store.revision == self._looked_at and not self._since:
            return
        self._looked_at = self._store.revision
        now = asyncio.get_running_loop().time()
        wanted = self._wanted()
        for gone in [ref for ref in self._since if ref not in wanted]:
            del self._since[gone]
            self._applier.forget(gone)
        for ref, condition in wanted.items():
            if now - self._since.setdefault(ref, now) >= GRACE_SECONDS:
                generation = self._applier.generation(ref)
                stored = self._applier.stored(ref)
                manifest = status.finished(api.Status(conditions=condition), stored, generation)
                self._applier.submit(ref, {**_remembering(stored), **manifest})

    def _wanted(self) -> dict[ObjectRef, tuple[api.Condition, ...]]:
        found = {}
        for guest in self._store.guests_without_cluster():
            message = (
                f"there is no HACluster {guest.spec.cluster_ref.name} in the namespace {guest.namespace}"
            )
            found[status.reference(guest)] = self._unready(
                api.ProtectedVM.kind_name, conditions.GuestReady.CLUSTER_NOT_FOUND, message
            )
        clusters = self._store.clusters()
        for ref, reason in self._store.refused().items():
            cluster = ref.kind == api.ProtectedVM.kind_name and self._store.cluster_of(ref)
            if not (isinstance(cluster, ClusterKey) and cluster in clusters):
                found[ref] = self._unready(ref.kind, conditions.ClusterReady.INVALID, reason)
        return found

    def _unready(self, kind: str, reason: str, message: str) -> tuple[api.Condition, ...]:
        now = datetime.fromtimestamp(self._wall_now(), UTC)
        ready = api.Condition(
            type=_READY[kind], status="False", reason=reason, message=message[:4096], last_transition_time=now
        )
        if kind != api.ProtectedVM.kind_name:
            return (ready,)
        failover = api.Condition(
            type=conditions.GuestCondition.FAILOVER_READY,
            status="False",
            reason=conditions.FailoverReady.NOT_READY,
            message="see the condition Ready",
            last_transition_time=now,
        )
        return (ready, failover)


def _remembering(stored: Manifest) -> dict[str, Any]:
    """What must outlive the moment: which guest was meant, what became of it last, which BMCs are bound or
    void."""
    return {
        name: stored[name] for name in ("guest", "lastFailover", "lastFailure", "bindings") if name in stored
    }
