"""The process: watch, store, supervisor and health server, and their clean end."""

import asyncio
import dataclasses
import logging
import secrets
import signal
import socket
from collections.abc import Sequence

from pveha.control import elector, health, store, supervisor, watch
from pveha.kube import client, config

STOP_SECONDS = 9.0
"""From SIGTERM to the end: loops ended, Leases released."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What the command line says; `namespaces` None means all."""

    access: config.Access
    namespaces: Sequence[str] | None
    identity: str = dataclasses.field(default_factory=socket.gethostname)
    lease_seconds: int = elector.DURATION_SECONDS
    health_host: str = "0.0.0.0"
    health_port: int = 8080


async def run(options: Options, run_cluster: supervisor.ClusterLoop) -> int:
    """Run until SIGTERM or SIGINT (0), or until a part fails that cannot go on (1)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # A process that comes after a crash must not take its predecessor's Lease for its own.
    identity = f"{options.identity}_{secrets.token_hex(4)}"
    judge = health.Health()
    async with client.ApiServer(options.access) as kubernetes:
        known = store.Store()
        watcher = watch.Watch(kubernetes, options.access, options.namespaces, known, judge.metrics)
        judge.add_live("watch", watcher.not_live)
        judge.add_ready("watch", watcher.not_ready)
        leaders = supervisor.Supervisor(
            kubernetes, known, judge, identity, run_cluster, options.lease_seconds
        )
        server = health.HealthServer(judge, options.health_host, options.health_port)
        await server.start()
        log.info("pveha runs as %s", identity)
        parts = {
            asyncio.create_task(watcher.run(), name="watch"),
            asyncio.create_task(leaders.run(), name="supervisor"),
        }
        stopping = asyncio.create_task(stop.wait(), name="signal")
        try:
            await asyncio.wait({*parts, stopping}, return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping")
        finally:
            failed = await _end(parts | {stopping})
            await server.stop()
    return 1 if failed else 0


async def _end(tasks: set[asyncio.Task[None] | asyncio.Task[bool]]) -> bool:
    """Cancel and await `tasks`; says what went wrong and returns whether anything did."""
    for task in tasks:
        task.cancel()
    done, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
    for task in late:
        log.error("%s has not ended in %.0f s", task.get_name(), STOP_SECONDS)
    errors = {task.get_name(): task.exception() for task in done if not task.cancelled()}
    for name, error in errors.items():
        if error is not None:
            log.critical("%s ended: %s", name, error, exc_info=error)
    return bool(late) or any(error is not None for error in errors.values())
