"""Plays a scenario file in real time: its data centre behind HTTPS, SSH and Redfish, operators as processes,
a real API server; and holds the end against that of the same file in virtual time.

Nothing of the world's timers is shortened. What is: the timeline begins as soon as pveha calls every guest
ready for failover (at latest after the file's `settle`), and unless it is played `to_the_end`, it ends when
everything has been as in virtual time for HOLD_SECONDS.
"""

import asyncio
import dataclasses
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.stories import proxy, theatre
from pveha.devkube import process
from pveha.model import mark
from pveha.sim import rig, scenario

SCENARIOS = theatre.ROOT / "tests" / "scenarios"
HOLD_SECONDS = 5.0
LOOK_SECONDS = 1.0
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 120.0
"""How much later than in virtual time the end may be reached: a machine may be busy."""

Facts = dict[str, Any]
_SENTENCE = re.compile(r"^\S+ [A-Z]+ +pveha\.control\.loop: \S+: (.*)$")
_EVENT = re.compile(r"^\S+ [A-Z]+ +pveha\.report\.events: \w+ [^/ ]+/(.*)$")


async def play(
    on: theatre.Theatre, name: str, trouble: str = "", seed: int = 0, *, to_the_end: bool = False
) -> None:
    """Play the scenario called `name`, with one of `proxy.TROUBLES` if wanted, and compare its end."""
    about = scenario.load(SCENARIOS / name)
    identity = await asyncio.to_thread(
        on.kube.admin.kubectl, "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"
    )
    place = await on.place("--scenario", str(SCENARIOS / name), "--identity", identity)
    through = None
    if trouble or any("kubernetes" in line for step in about.timeline for line in step.do):
        account = await asyncio.to_thread(on.account, place.name)
        through = await on.exits.enter_async_context(proxy.Proxy(account, seed))
    await _Live(on, place, about, through).play(trouble, to_the_end=to_the_end)


class _Live:
    def __init__(
        self,
        on: theatre.Theatre,
        place: theatre.Place,
        about: scenario.Scenario,
        through: proxy.Proxy | None,
    ) -> None:
        self._on = on
        self._place = place
        self._about = about
        self._proxy = through
        self._operators: dict[str, process.Process] = {}
        self._people: set[int] = set()
        """Lines of the BMCs' journal that are the timeline's."""
        self._heard: dict[Path, int] = {}
        """How far each operator's log has been read."""

    async def play(self, trouble: str, *, to_the_end: bool) -> None:
        for name in self._about.operators:
            await self._start(name)
            await theatre.until(self._place.leader, "somebody leads", pause=0.2)
        settled = time.monotonic() + self._about.settle

        async def settled_or_ready() -> bool:
            return time.monotonic() >= settled or await self._ready()

        await theatre.until(settled_or_ready, "the timeline begins", self._about.settle + PATIENCE_SECONDS)
        before = (await self._place.state())["ha"]
        if self._proxy:
            self._proxy.trouble = trouble
        began = time.monotonic()
        for step in self._about.timeline:
            await self._wait(step, began)
            for line in step.do:
                await self._do(line)
        wanted = self._wanted(before, trouble)
        await self._compare(wanted, began, to_the_end=to_the_end)
        if self._proxy and trouble:
            assert self._proxy.done[trouble], f"there were no {trouble}"

    async def _ready(self) -> bool:
        guests = (await self._place.objects("ProtectedVM")).values()
        conditions = [theatre.condition(guest.get("status", {}), "FailoverReady") for guest in guests]
        acting = await self._place.condition("Acting")
        return acting[1] == "OK" and all(status == "True" for status, _, _ in conditions)

    # The timeline

    async def _wait(self, step: scenario.Step, began: float) -> None:
        if step.at is not None:
            await asyncio.sleep(max(0.0, began + step.at - time.monotonic()))
            return
        seen = len(await self._place.world.ask("lines"))
        self._listen()
        deadline = time.monotonic() + step.within
        while True:
            lines = await self._place.world.ask(f"lines {seen}")
            seen += len(lines)
            if any(step.when in line for line in (*lines, *self._listen())):
                break
            assert time.monotonic() < deadline, f"{step.when!r} was not logged in {step.within:g} s"
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(step.after)

    def _listen(self) -> list[str]:
        """What operators have said since the last call, in the words of scenario logs."""
        lines: list[str] = []
        for log in {operator.log for operator in self._operators.values()}:
            data = log.read_bytes()
            text = data[self._heard.get(log, 0) :].rpartition(b"\n")[0]
            self._heard[log] = self._heard.get(log, 0) + len(text)
            lines += map(_heard, text.decode(errors="replace").splitlines())
        return lines

    async def _do(self, line: str) -> None:
        words = " ".join(line.split())
        if match := re.fullmatch(r"kill operator (\w+)", words):
            await asyncio.to_thread(self._operators[match[1]].kill)
        elif match := re.fullmatch(r"start operator (\w+)", words):
            await self._start(match[1])
        elif match := re.fullmatch(r"(cut|heal) kubernetes all", words):
            assert self._proxy
            self._proxy.cut(off=match[1] == "cut")
        elif match := re.fullmatch(r"cluster (\{.*\})", words):
            patch = json.dumps({"spec": yaml.safe_load(match[1])})
            await self._place.kubectl("patch", "hacluster", rig.CLUSTER, "--type=merge", "-p", patch)
        elif match := re.fullmatch(r"protect (\d+)(?: (\{.*\}))?", words):
            manifest = rig.protected_vm(int(match[1]), **yaml.safe_load(match[2] or "{}"))
            manifest["metadata"] = {"name": manifest["metadata"]["name"], "namespace": self._place.name}
            await self._place.apply(manifest)
        elif match := re.fullmatch(r"unprotect (\d+)", words):
            await self._place.kubectl("delete", "protectedvm", f"vm{match[1]}", "--wait=false")
        else:
            known = len(await self._place.world.ask("bmc_log"))
            await self._place.world.ask(words)
            if re.match(r"bmc (off|on|cycle|shutdown) ", words):
                self._people.add(known)

    async def _start(self, name: str) -> None:
        kubeconfig = self._proxy.kubeconfig if self._proxy else None
        self._operators[name] = await self._on.operator(self._place, name=name, kubeconfig=kubeconfig)

    # The end

    def _wanted(self, before: Mapping[str, Any], trouble: str) -> Facts:
        """The end in virtual time. Who of pveha and Proxmox's own HA gets there first is left open where hung
        calls cost the Lease; and how much of it a status tells, where the operator is killed."""
        virtual, expect = self._place.world.about["virtual"], self._about.expect
        assert virtual["passed"], virtual["failures"]
        ha = {sid: each["state"] for sid, each in before.items()} | expect.ha
        facts: Facts = {
            "guests": virtual["guests"],
            "double runs": virtual["double_runs"],
            "marks": virtual["marks"],
            "HA states": {sid: state for sid, state in ha.items() if state != "absent"},
            "comments": {sid: _plain(each) for sid, each in before.items() if ha[sid] != "absent"},
        }
        if trouble != "hung-calls":
            facts["nodes fenced"] = sorted(set(virtual["fenced"]))
        if not trouble:
            if not any(line.startswith("kill operator") for step in self._about.timeline for line in step.do):
                facts["fencings"] = list(virtual["fenced"])
                facts["guests taken over"] = virtual["taken_over"]
            facts["conditions"] = {key: dict(reasons) for key, reasons in expect.conditions.items()}
        return facts

    async def _facts(self) -> Facts:
        state, statuses = await self._place.state(), await self._place.objects("ProtectedVM")
        journal = await self._place.world.ask("bmc_log")
        fenced = [
            entry["name"]
            for number, entry in enumerate(journal)
            if entry["command"] == "off" and number not in self._people
        ]
        marks = {sid: mark.parse(each["comment"]).mark for sid, each in state["ha"].items()}
        failovers = {
            guest["spec"]["vmid"]: guest.get("status", {}).get("lastFailover", {})
            for guest in statuses.values()
        }
        return {
            "guests": state["guests"],
            "double runs": await self._place.world.ask("double_runs"),
            "marks": {sid: str(each)[len("[pveha ") : -1] for sid, each in marks.items() if each},
            "HA states": {sid: each["state"] for sid, each in state["ha"].items()},
            "comments": {sid: _plain(each) for sid, each in state["ha"].items()},
            "nodes fenced": sorted(set(fenced)),
            "fencings": fenced,
            "guests taken over": sorted(v for v, last in failovers.items() if last.get("engine") == "Fast"),
            "conditions": {key: await self._reasons(key) for key in self._about.expect.conditions},
        }

    async def _reasons(self, key: str) -> dict[str, str]:
        kind, name = ("HACluster", rig.CLUSTER) if key == "cluster" else ("ProtectedVM", f"vm{key}")
        wanted = self._about.expect.conditions[key]
        found = (await self._place.status(name, kind)).get("conditions", [])
        return {each["type"]: each["reason"] for each in found if each["type"] in wanted}

    async def _compare(self, wanted: Facts, began: float, *, to_the_end: bool) -> None:
        end = began + self._about.end
        good_since: float | None = None
        while True:
            now = time.monotonic()
            found = await self._facts()
            wrong = {key: (found[key], value) for key, value in wanted.items() if found[key] != value}
            good_since = None if wrong else good_since or now
            assert not found["double runs"], await self._story(wrong)
            if good_since and now - good_since >= HOLD_SECONDS and (now >= end or not to_the_end):
                return
            assert now < end + PATIENCE_SECONDS, await self._story(wrong)
            await asyncio.sleep(LOOK_SECONDS)

    async def _story(self, wrong: Mapping[str, tuple[object, object]]) -> str:
        told = [f"{key}: {got}, in virtual time {value}" for key, (got, value) in wrong.items()]
        done = dict(self._proxy.done) if self._proxy else {}
        logs = [each.log.read_text(errors="replace") for each in self._operators.values()]
        said = [line for log in logs for line in log.splitlines() if " pveha." in line]
        world = await self._place.world.ask("log")
        return "\n".join([self._about.about, *told, f"proxy: {done}", *said, *world])


def _heard(line: str) -> str:
    """A line of an operator's log as scenario logs have it."""
    if match := _SENTENCE.match(line):
        return f"pveha: {match[1]}"
    return f"event {match[1]}" if (match := _EVENT.match(line)) else ""


def _plain(resource: Mapping[str, Any]) -> str:
    """The comment of an HA resource, without our mark."""
    return str(dataclasses.replace(mark.parse(resource["comment"]), mark=None))
