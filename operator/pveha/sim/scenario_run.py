"""Plays scenarios in virtual time, and compares what happened with what should have."""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

from pveha.api import hacluster
from pveha.model import cluster, guests, mark
from pveha.sim import clock, resource_log, rig, scenario, scenario_steps, world

STEADY = frozenset({"started", "stopped"})
"""States in which the CRM has nothing left to do with a service."""
POLL_SECONDS = 0.05
"""Between two looks for the text that a step waits for."""
LOOP = "pveha.control.loop"
ELECTOR = "pveha.control.elector"
EVENTS = "pveha.report.events"
BUG = "BUG"
"""Subject of lines about an exception that nobody expected."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What came of a scenario. Times are in seconds since its timeline began."""

    about: str
    log: tuple[str, ...]
    guests: dict[int, dict[str, str]]
    downtime: dict[int, float]
    fenced: tuple[str, ...]
    taken_over: tuple[int, ...]
    recovered_by_native: tuple[int, ...]
    double_runs: int
    marks: dict[str, str]
    failures: tuple[str, ...]
    """What was expected and did not come, a sentence each."""

    def as_json(self) -> dict[str, Any]:
        """For `json.dumps`."""
        plain = dataclasses.asdict(self)
        plain["downtime"] = {vmid: round(seconds, 2) for vmid, seconds in self.downtime.items()}
        return {**plain, "passed": not self.failures}


def play(about: scenario.Scenario) -> Result:
    """Run a scenario to its end. Errors: `ScenarioError` for a timeline that cannot be done."""
    return clock.run(_Play(about).run())


class _Play:
    """One run of one scenario."""

    def __init__(self, about: scenario.Scenario) -> None:
        self._about = about
        self._rig = rig.Rig(about.world, about.cluster, operators=about.operators)
        for name, spec in about.policies.items():
            self._rig.kubernetes.put(rig.policy(name, **spec))
        for vmid, spec in about.protect.items():
            self._rig.kubernetes.put(rig.protected_vm(vmid, **spec))
        self._began = 0.0
        self._first = 0
        """Line of the world's log with which the timeline begins."""
        self._people: set[int] = set()
        """Lines of the BMCs' journal that are the timeline's."""

    @property
    def _world(self) -> world.World:
        return self._rig.world

    async def run(self) -> Result:
        self._world.start()
        resource_log.ResourceLog(self._world)
        with logged(self._world):
            for name in self._about.operators:
                self._rig.start_operator(name)
                await asyncio.sleep(1.0)
            await asyncio.sleep(self._about.settle - self._world.now())
            self._began, self._first = self._world.now(), len(self._world.log)
            before = dict(self._newest())
            for step in self._about.timeline:
                await self._wait(step)
                for line in step.do:
                    known = len(self._world.bmc_log)
                    scenario_steps.do(self._rig, line)
                    await asyncio.sleep(0)
                    self._people |= set(range(known, len(self._world.bmc_log)))
            await asyncio.sleep(max(0.0, self._began + self._about.end - self._world.now()))
            result = self._result(before)
            await self._rig.kill_operator()
        return result

    async def _wait(self, step: scenario.Step) -> None:
        now = self._world.now() - self._began
        if step.at is not None:
            if step.at < now - 1e-6:
                raise scenario.ScenarioError(f"the step at {step.at:g} comes too late: it is {now:g}")
            await asyncio.sleep(step.at - now)
            return
        seen = len(self._world.log)
        deadline = self._world.now() + step.within
        while not any(step.when in line for line in map(_line, self._world.log[seen:])):
            if self._world.now() >= deadline:
                told = "\n".join(self._lines())
                raise scenario.ScenarioError(f"{step.when!r} was not logged in {step.within:g} s:\n{told}")
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(step.after)

    def _newest(self) -> dict[str, cluster.HAResource]:
        return max(self._world.fs.trees.values(), key=lambda tree: tree.version).resources

    def _lines(self) -> tuple[str, ...]:
        return tuple(
            f"{event.at - self._began:9.2f}  {_line(event)}" for event in self._world.log[self._first :]
        )

    def _result(self, before: dict[str, cluster.HAResource]) -> Result:
        known = self._world.state_of_guests()
        fenced: list[str] = []
        level: set[str] = set()
        for number, entry in enumerate(self._world.bmc_log):
            if entry.command != "off" or number in self._people:
                continue
            pdu, _, node = entry.name.rpartition("/")
            if not (pdu and fenced and fenced[-1] == node and level and pdu not in level):
                fenced.append(node)
                level = set()
            level |= {pdu} if pdu else set()
        found = {sid: mark.parse(each.comment).mark for sid, each in self._newest().items()}
        result = Result(
            self._about.about,
            self._lines(),
            known,
            {vmid: self._world.downtime(vmid, self._began) for vmid in known},
            tuple(fenced),
            tuple(vmid for vmid in known if self._recovered_by(vmid) is hacluster.Engine.FAST),
            tuple(vmid for vmid in known if self._recovered_by(vmid) is hacluster.Engine.NATIVE),
            self._world.double_runs,
            {sid: str(each)[len("[pveha ") : -1] for sid, each in found.items() if each is not None},
            (),
        )
        return dataclasses.replace(result, failures=tuple(self._failures(result, before)))

    def _recovered_by(self, vmid: int) -> hacluster.Engine | None:
        try:
            done = self._rig.guest_status(vmid).status.last_failover
        except KeyError:
            return None
        return done.engine if done is not None else None

    # What should have come

    def _failures(self, result: Result, before: dict[str, cluster.HAResource]) -> Iterator[str]:
        expect = self._about.expect
        states = {vmid: f"{each['state']} on {each['node']}" for vmid, each in result.guests.items()}
        yield from _guest_failures(states, expect.guests)
        taken_over = [vmid for key in expect.taken_over for vmid in scenario.vmids(key, result.guests)]
        native = [vmid for key in expect.recovered_by_native for vmid in scenario.vmids(key, result.guests)]
        for name, got, wanted in (
            ("nodes fenced", result.fenced, expect.fenced),
            ("guests taken over", result.taken_over, tuple(sorted(taken_over))),
            ("double runs", result.double_runs, expect.double_runs),
            *(
                [("guests recovered by native HA", result.recovered_by_native, tuple(sorted(native)))]
                if native
                else []
            ),
        ):
            if got != wanted:
                yield f"{name}: {got}, expected {wanted}"
        yield from _differences("mark of {}", result.marks, expect.marks)
        for key, (least, most) in expect.downtime.items():
            for vmid in scenario.vmids(key, result.guests):
                seconds = result.downtime[vmid]
                if not least <= seconds <= most:
                    yield f"guest {vmid} was down for {seconds:.2f} s, expected {least:g} to {most:g}"
        yield from self._ha_failures(before)
        yield from _differences("service {} of the CRM", self._unsettled(), expect.crm)
        for key, wanted_reasons in expect.conditions.items():
            yield from _differences(
                f"condition {{}} of {key}", self._reasons(key, wanted_reasons), wanted_reasons
            )
        text = "\n".join(result.log)
        yield from self._rig.failures
        yield from (line for line in result.log if f" {BUG}: " in line)
        yield from (f"the log lacks {each!r}" for each in expect.log if each not in text)
        yield from (f"the log contains {each!r}" for each in expect.never if each in text)

    def _ha_failures(self, before: dict[str, cluster.HAResource]) -> Iterator[str]:
        """HA resources are what they were, in everything but our mark."""
        expect, now = self._about.expect.ha, self._newest()
        for sid in sorted(before.keys() | now.keys() | expect.keys()):
            old, new = before.get(sid), now.get(sid)
            wanted = expect.get(sid, scenario.state_of(old))
            if scenario.state_of(new) != wanted:
                yield f"HA resource {sid}: {scenario.state_of(new)}, expected {wanted}"
            elif old is not None and new is not None:
                plain = mark.parse(new.comment).with_mark(None)
                if dataclasses.replace(new, state=old.state, comment=str(plain)) != old:
                    yield f"HA resource {sid}: {new}, was {old}"

    def _unsettled(self) -> dict[str, str]:
        """Services that the CRM does not have where they are, in a steady state."""
        tree = max(self._world.fs.trees.values(), key=lambda each: each.version)
        found = {}
        for sid, resource in sorted(tree.resources.items()):
            ref = guests.parse_sid(sid)
            file = tree.guests.get(ref.vmid) if ref else None
            service = tree.manager.services.get(sid)
            if resource.state is cluster.HAState.IGNORED or file is None:
                continue
            if service is None:
                found[sid] = "absent"
            elif service.node != file.node or service.state not in STEADY:
                found[sid] = f"{service.state} on {service.node}"
        return found

    def _reasons(self, key: str, wanted: dict[str, str]) -> dict[str, str]:
        """Reasons of the conditions that are asked for."""
        try:
            status = (
                self._rig.cluster_status().status
                if key == "cluster"
                else self._rig.guest_status(int(key)).status
            )
        except (KeyError, ValueError) as error:
            raise scenario.ScenarioError(f"expect.conditions: there is nothing called {key}") from error
        return {each.type: each.reason for each in status.conditions if each.type in wanted}


def _line(event: world.Event) -> str:
    return f"{event.subject}: {event.text}"


def _guest_failures(states: dict[int, str], wanted: dict[str, str]) -> Iterator[str]:
    named = {vmid: text for key, text in wanted.items() for vmid in scenario.vmids(key, states)}
    for vmid in sorted(states.keys() | named.keys()):
        got, text = states.get(vmid, "absent"), named.get(vmid, "nothing")
        state, _, node = got.partition(" on ")
        if got != text and node not in text.removeprefix(f"{state} on ").split(" or "):
            yield f"guest {vmid}: {got}, expected {text}"


def _differences(what: str, got: dict[Any, str], wanted: dict[Any, str]) -> Iterator[str]:
    for key in sorted(got.keys() | wanted.keys()):
        if got.get(key) != wanted.get(key):
            yield f"{what.format(key)}: {got.get(key, 'none')}, expected {wanted.get(key, 'none')}"


class _Teller(logging.Handler):
    """Writes what the operator says into the world's log."""

    def __init__(self, to: world.World) -> None:
        super().__init__(logging.INFO)
        self._world = to

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        if record.name == LOOP and len(arguments) == 2:
            self._world.say("pveha", str(arguments[1]))
        elif record.name == EVENTS and len(arguments) == 3:
            self._world.say(f"event {getattr(arguments[0], 'name', '')}", f"{arguments[1]}: {arguments[2]}")
        elif record.name == ELECTOR or record.levelno > logging.INFO:
            self._world.say("pveha", record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            self._world.say(BUG, repr(record.exc_info[1]))


@contextlib.contextmanager
def logged(to: world.World) -> Iterator[None]:
    """Let the operator's sentences, failed operations and Events appear in the world's log alone."""
    logger, teller = logging.getLogger("pveha"), _Teller(to)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(teller)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(teller)
        logger.setLevel(level)
        logger.propagate = propagate
