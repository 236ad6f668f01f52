"""One elector and, while it leads, one loop per HACluster."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import Protocol

from pveha.control import elector, unclaimed
from pveha.control.health import Health
from pveha.control.store import Store
from pveha.model import ports, specs
from pveha.model.kubernetes import ClusterKey
from pveha.report import applier, enrolment, events, status

BACKOFF_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses after a loop has failed again and again; one that lasted `CALM_SECONDS` begins at the first."""
CALM_SECONDS = 60.0
PERIOD_SECONDS = 0.5
"""Changes of the store are looked at no more often than this."""

log = logging.getLogger(__name__)


class ClusterLoop(Protocol):
    """`control.loop.run_cluster`: runs rounds until cancelled or until the cluster is gone."""

    async def __call__(
        self,
        key: ClusterKey,
        wanted: Callable[[], specs.Specs | None],
        kubernetes: ports.Kubernetes,
        leadership: ports.Leadership,
        reporter: status.StatusWriter,
        health: Health,
    ) -> None: ...


class Supervisor:
    """Starts and stops them as HAClusters come and go. `identity` is unique to this process."""

    def __init__(
        self,
        kubernetes: ports.Kubernetes,
        store: Store,
        health: Health,
        identity: str,
        run_cluster: ClusterLoop,
        lease_seconds: int = elector.DURATION_SECONDS,
        wall_now: Callable[[], float] = time.time,
    ) -> None:
        self._kubernetes = kubernetes
        self._store = store
        self._health = health
        self._identity = identity
        self._run_cluster = run_cluster
        self._lease_seconds = lease_seconds
        self._wall_now = wall_now
        self._candidates: dict[ClusterKey, asyncio.Task[None]] = {}
        self._stopping: set[ClusterKey] = set()

    async def run(self) -> None:
        """Supervise until cancelled; then all loops have ended and all Leases are released."""
        statuses = asyncio.create_task(
            unclaimed.Unclaimed(
                self._store, applier.StatusApplier(self._kubernetes, self._store.raw), self._wall_now
            ).run(),
            name="unclaimed objects",
        )
        try:
            while True:
                rung = self._store.changed.rung
                self._reconcile()
                await asyncio.sleep(PERIOD_SECONDS)
                await self._store.changed.wait(rung)
        finally:
            tasks = [statuses, *self._candidates.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _reconcile(self) -> None:
        clusters = self._store.clusters()
        for key in clusters - set(self._candidates):
            task = asyncio.create_task(self._take_part(key), name=f"candidate for {key}")
            self._candidates[key] = task
            task.add_done_callback(functools.partial(self._ended, key))
        for key in set(self._candidates) - clusters - self._stopping:
            log.info("HACluster %s is gone", key)
            self._stopping.add(key)
            self._candidates[key].cancel()

    def _ended(self, key: ClusterKey, task: asyncio.Task[None]) -> None:
        self._stopping.discard(key)
        del self._candidates[key]
        if not task.cancelled() and (error := task.exception()):
            log.error("%s ended with %r", task.get_name(), error)
        self._store.changed.ring()

    async def _take_part(self, key: ClusterKey) -> None:
        candidate = elector.Elector(
            self._kubernetes,
            key.namespace,
            f"pveha-{key.name}",
            self._identity,
            functools.partial(self._lead, key),
            self._wall_now,
            self._lease_seconds,
        )
        try:
            await candidate.run()
        finally:
            self._health.following(key)

    async def _lead(self, key: ClusterKey, leadership: ports.Leadership) -> None:
        """Run the cluster's loop as long as this is not cancelled, however often the loop fails."""
        self._health.leading(key)
        loop = asyncio.get_running_loop()
        failures = 0
        try:
            while True:
                began = loop.time()
                pause = PERIOD_SECONDS
                try:
                    if self._store.specs(key) is None:
                        # It cannot be read, which its status says; restarting this process would not help.
                        self._health.round(key, 0.0)
                    else:
                        await self._run_loop(key, leadership)
                except Exception:
                    failures = 0 if loop.time() - began > CALM_SECONDS else failures
                    pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
                    log.exception("the loop of %s failed and starts anew in %.0f s", key, pause)
                    failures += 1
                await asyncio.sleep(pause)
        finally:
            self._health.following(key)

    async def _run_loop(self, key: ClusterKey, leadership: ports.Leadership) -> None:
        wanted = functools.partial(self._store.specs, key)
        writes = self._health.metrics.status_writes
        reporter = status.StatusWriter(
            key,
            applier.StatusApplier(
                self._kubernetes,
                self._store.raw,
                lambda outcome: writes.labels(key.namespace, key.name, outcome).inc(),
            ),
            events.EventRecorder(self._kubernetes, self._identity, self._wall_now),
            enrolment.Enroller(self._kubernetes, leadership),
            wanted,
            self._health.metrics,
        )
        async with reporter:
            await self._run_cluster(key, wanted, self._kubernetes, leadership, reporter, self._health)
