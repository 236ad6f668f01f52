"""Whether this process does its work, and the HTTP server that says so: /healthz, /readyz, /metrics."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping

from aiohttp import web

from pveha.model.kubernetes import ClusterKey
from pveha.report.metrics import Metrics

ROUND_STALE_SECONDS = 30.0
"""A leading loop without a round for so long is stuck: rounds are due every second and never wait."""

log = logging.getLogger(__name__)

Check = Callable[[], str]
"""Returns what is wrong, in a sentence, or "" when nothing is."""


@dataclasses.dataclass(slots=True)
class _Loop:
    last_round: float


class Health:
    """What the parts of the process report, and the judgement that follows.

    The loop of a cluster calls `round` once a round and `operation_ended` once an operation. Everything else
    is called by the supervisor and the operator.
    """

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self._loops: dict[ClusterKey, _Loop] = {}
        self._live: dict[str, Check] = {}
        self._ready: dict[str, Check] = {}

    def round(self, key: ClusterKey, seconds: float) -> None:
        """A round ended that took `seconds`."""
        if loop := self._loops.get(key):
            loop.last_round = asyncio.get_running_loop().time()
        self.metrics.rounds.labels(key.namespace, key.name).inc()
        self.metrics.round_seconds.labels(key.namespace, key.name).observe(seconds)

    def operation_ended(self, key: ClusterKey, kind: str, outcome: str) -> None:
        """An operation ended; `kind` is the name of its class, `outcome` Succeeded, Failed or Cancelled."""
        self.metrics.operations.labels(key.namespace, key.name, kind, outcome).inc()

    def leading(self, key: ClusterKey) -> None:
        """This replica leads the cluster from now on: rounds are expected."""
        self._loops[key] = _Loop(asyncio.get_running_loop().time())
        self.metrics.leader.labels(key.namespace, key.name).set(1)

    def following(self, key: ClusterKey) -> None:
        """This replica does not lead the cluster (any more)."""
        self._loops.pop(key, None)
        self.metrics.leader.labels(key.namespace, key.name).set(0)
        self.metrics.forget(key)

    def add_live(self, name: str, check: Check) -> None:
        """`check` belongs to /healthz: while it complains, the process should be restarted."""
        self._live[name] = check

    def add_ready(self, name: str, check: Check) -> None:
        """`check` belongs to /readyz: while it complains, the process cannot do its work yet."""
        self._ready[name] = check

    def live(self) -> Mapping[str, str]:
        """What is wrong with the process, by part; empty when all is well."""
        now = asyncio.get_running_loop().time()
        problems = {
            f"loop {key}": f"no round for {now - loop.last_round:.0f} s"
            for key, loop in self._loops.items()
            if now - loop.last_round > ROUND_STALE_SECONDS
        }
        return problems | _complaints(self._live)

    def ready(self) -> Mapping[str, str]:
        """What the process still waits for, by part; empty when it works."""
        return _complaints(self._ready)

    def exposition(self) -> bytes:
        """/metrics, with the ages as of now."""
        now = asyncio.get_running_loop().time()
        for key, loop in self._loops.items():
            self.metrics.since_round.labels(key.namespace, key.name).set(now - loop.last_round)
        return self.metrics.text()


def _complaints(checks: Mapping[str, Check]) -> dict[str, str]:
    return {name: complaint for name, check in checks.items() if (complaint := check())}


class HealthServer:
    """Serves `health` on `host:port`; port 0 takes a free one, `port` tells which."""

    def __init__(self, health: Health, host: str, port: int) -> None:
        self._health = health
        self._host = host
        self.port = port
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        log.info("health and metrics on http://%s:%d/healthz, /readyz, /metrics", self._host, self.port)

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return _answer(self._health.live())

    async def _readyz(self, request: web.Request) -> web.Response:
        return _answer(self._health.ready())

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self._health.exposition(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )


def _answer(problems: Mapping[str, str]) -> web.Response:
    if not problems:
        return web.Response(text="ok\n")
    return web.Response(status=503, text="".join(f"{name}: {text}\n" for name, text in problems.items()))
