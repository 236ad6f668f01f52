"""The loop of one cluster: observe, decide, act, report, while this replica leads."""

import asyncio
import contextlib
import logging
import pathlib
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from pveha import bell
from pveha.act import actor
from pveha.bmc import agent
from pveha.control import health as health_
from pveha.control import links
from pveha.decide import memory, recall, rounds
from pveha.model import errors, operations, ports, snapshot, specs
from pveha.model.kubernetes import ClusterKey
from pveha.observe import watcher
from pveha.report import status

log = logging.getLogger(__name__)

SECRETS_SECONDS = 60.0
"""Between two looks at the Secrets: a rotated token or key is used this long after it was written."""
RETRY_SECONDS = 10.0
"""Before Secrets that could not be used are read again."""
SECRET_DEADLINE_SECONDS = 10.0
SPECS_SECONDS = 1.0
"""Between two looks at what is wanted while nothing else happens."""
REPORT_SECONDS = 3.0
"""Between two reports while nothing happens that makes an Event and nothing is begun."""
QUIET_REPORT_SECONDS = (20.0, 60.0)
"""The same if nothing is new either, so that only what goes by the clock could be told: a tenth of the time
for which that has been so, within these bounds."""
UNFINISHED_SECONDS = 0.5
"""The least while plans are being worked out that go on with each report."""


class Clock(Protocol):
    """Wall time in Unix seconds."""

    def __call__(self) -> float: ...


async def run_cluster(
    key: ClusterKey,
    wanted: Callable[[], specs.Specs | None],
    kubernetes: ports.Kubernetes,
    leadership: ports.Leadership,
    reporter: status.StatusWriter,
    health: health_.Health,
    wall_now: Clock = time.time,
    agents: pathlib.Path = agent.FOLDER,
) -> None:
    """Run rounds until cancelled or the HACluster is gone. Links are made anew when it or its Secrets
    change."""
    owner = f"{await kubernetes.identity()}/{key.namespace}/{key.name}"
    memo: memory.Memory | None = None

    async def read(name: str) -> dict[str, bytes]:
        return await read_secret(kubernetes, key.namespace, name)

    while (now := wanted()) is not None:
        memo = memo or recall.first(now.cluster.status)
        try:
            made = await links.connect(now.cluster.spec, key.namespace, read, agents)
        except (errors.PvehaError, TimeoutError) as problem:
            log.warning("%s: %s", key, problem)
            _report_unusable(problem, now, leadership, reporter, owner, wall_now())
            health.round(key, 0.0)
            await asyncio.sleep(RETRY_SECONDS)
            continue

        async def changed(specs_now: specs.Specs, made: links.Links = made) -> bool:
            with contextlib.suppress(errors.PvehaError, TimeoutError):
                return (
                    await links.fingerprint(specs_now.cluster.spec, key.namespace, read) != made.fingerprint
                )
            return False

        try:
            memo = await run_linked(
                key,
                wanted,
                made.outside,
                made.learn,
                changed,
                leadership,
                reporter,
                health,
                owner,
                memo,
                wall_now,
            )
        finally:
            await made.close()


async def read_secret(kubernetes: ports.Kubernetes, namespace: str, name: str) -> dict[str, bytes]:
    """A Secret's data. A lost request is sent once more: there are many Secrets, and each one that is missing
    costs a new leader RETRY_SECONDS."""
    async with asyncio.timeout(SECRET_DEADLINE_SECONDS):
        try:
            return dict(await kubernetes.secret(namespace, name))
        except errors.Unreachable:
            return dict(await kubernetes.secret(namespace, name))


async def run_linked(
    key: ClusterKey,
    wanted: Callable[[], specs.Specs | None],
    outside: watcher.Outside,
    learn: Callable[[snapshot.Snapshot], None],
    changed: Callable[[specs.Specs], Awaitable[bool]],
    leadership: ports.Leadership,
    reporter: status.StatusWriter,
    health: health_.Health,
    owner: str,
    memo: memory.Memory,
    wall_now: Clock,
) -> memory.Memory:
    """Rounds over one set of ports; returns when these have `changed` and no operation is in flight.

    `learn` is shown every snapshot, for what the ports can learn of the cluster from it.
    """
    loop = asyncio.get_running_loop()
    now = wanted()
    if now is None:
        return memo
    names = [node.name for node in now.cluster.spec.nodes]
    period = float(now.cluster.spec.detection.probe_period_seconds)
    check_at = loop.time() + SECRETS_SECONDS
    reported_at, new_at, untold = float("-inf"), loop.time(), True
    soon = float("inf")
    said = ""
    async with (
        watcher.Watcher(outside, names, owner, period, wall_now) as observer,
        actor.Actor(
            outside.hypervisor, outside.shell, outside.power, leadership, wall_now, observer.news
        ) as doer,
    ):
        while (now := wanted()) is not None:
            began, rung = loop.time(), observer.news.rung
            states = doer.states()
            seen = observer.snapshot(states, leadership.remaining())
            learn(seen)
            decision = rounds.decide(seen, now, memo)
            memo = decision.memory
            if decision.sentence != said:
                log.info("%s: %s", key, decision.sentence)
                said, untold = decision.sentence, True
            doer.apply(decision.start, decision.cancel)
            observer.look(decision.looking)
            if untold or decision.looking.urgent or decision.looking.closely:
                new_at, pause = loop.time(), REPORT_SECONDS
            else:
                least, most = QUIET_REPORT_SECONDS
                pause = min(most, max(least, (loop.time() - new_at) / 10))
            pause = pause if decision.looking.urgent else min(pause, soon)
            if decision.events or decision.start or loop.time() >= reported_at + pause:
                reported_at, untold = loop.time(), False
                report = decision.report
                reporter.write(report)
                soon = _next(report.unfinished, loop.time() - reported_at)
            reporter.record(decision.events)
            reporter.enrol(decision.enrolment)
            _note(key, states, health, observer)
            health.round(key, loop.time() - began)
            if loop.time() >= check_at:
                check_at = loop.time() + SECRETS_SECONDS
                if not states and await changed(now):
                    log.info("%s: connection settings have changed: connecting anew", key)
                    return memo
            wake_after = min(decision.wake_after, soon)
            untold |= await _wait(loop.time() + wake_after, wanted, now, observer.news, rung)
    return memo


def _next(unfinished: float, took: float) -> float:
    """Seconds until the next report, for a `decision.Report.unfinished` that took so long."""
    return max(UNFINISHED_SECONDS, took / unfinished) if unfinished else float("inf")


async def _wait(
    until: float, wanted: Callable[[], specs.Specs | None], now: specs.Specs, news: bell.Bell, rung: int
) -> bool:
    """Sleep until the next round is due, there is news since `rung`, or something else than `now` is wanted;
    whether it was something else than the time."""
    loop = asyncio.get_running_loop()

    def is_wanted() -> bool:
        newest = wanted()
        return newest is not None and newest.revision == now.revision

    while is_wanted() and loop.time() < until:
        if await news.wait(rung, min(until, loop.time() + SPECS_SECONDS)):
            return True
    return not is_wanted()


def _note(
    key: ClusterKey,
    states: tuple[operations.OperationState, ...],
    health: health_.Health,
    observer: watcher.Watcher,
) -> None:
    for state in states:
        if state.outcome is not None:
            outcome = "Succeeded" if not state.outcome.error else "Failed"
            health.operation_ended(key, type(state.operation).__name__, outcome)
            observer.refresh()


def _report_unusable(
    problem: Exception,
    now: specs.Specs,
    leadership: ports.Leadership,
    reporter: status.StatusWriter,
    owner: str,
    wall: float,
) -> None:
    """Tell users why the cluster cannot be watched at all: a snapshot with that one problem says the rest."""
    loop_now = asyncio.get_running_loop().time()
    text = str(problem) or "Kubernetes did not answer in time"
    trouble = snapshot.Problem(type(problem).__name__, text, loop_now)
    seen = snapshot.Snapshot(
        now=loop_now,
        wall=wall,
        started_at=loop_now,
        lease_remaining=leadership.remaining(),
        owner=owner,
        views={},
        probes={},
        inventory=None,
        ha_config=None,
        ha_status=None,
        rule_config=None,
        version="",
        power={},
        shells={},
        configs=None,
        problems={"hypervisor": trouble},
        operations=(),
    )
    reporter.write(rounds.decide(seen, now, recall.first(now.cluster.status)).report)
