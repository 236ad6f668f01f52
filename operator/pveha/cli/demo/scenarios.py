"""What happens on the stage, and what must come of it: each scenario returns figures and complaints."""

import asyncio
import dataclasses
import json
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pveha.api import meta
from pveha.cli.demo.stage import NAMESPACE, Stage, say

FAST_BOUND_SECONDS = 11.5
"""p95 from power cut to running elsewhere: 10 s if the node must be switched off, of which corosync takes
6.6 s with its defaults, and 5 s more for 40 guests: here are 12."""
QDEVICE_BOUND_SECONDS = 20.0
"""The same with two nodes and a QDevice: its host waits 12 s for the dead node before it votes, and one node
starts all guests of the other."""
CONTAINERS_BOUND_SECONDS = 12.0
"""The same with containers, most of which one survivor starts."""
STATUS_SECONDS = 2.0
"""Until statuses show what has just been done."""
NET_SECONDS = 300.0
"""What pveha took out of native HA is back by then, with pveha gone, while a CRM master flushes (S10)."""
DRAINED_GUESTS = 20
DRAIN_MIGRATIONS = 4
"""safety.maxConcurrentMigrations."""
DRAIN_SECONDS = 300.0
"""Twenty guests, four at a time, each batch two rounds of the CRM."""
PAUSE_SECONDS = 1.0
"""A live migration halts the guest for a moment, which is no downtime."""
NATIVE_SECONDS = 240.0
"""Proxmox's own HA takes 135-178 s."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """Figures for the line of JSON, and what did not come as it must."""

    figures: dict[str, Any]
    complaints: tuple[str, ...]


async def node_loss(on: Stage) -> Result:
    """A node loses power; its death is proven through its BMC and its guests run elsewhere."""
    await _protected(on)
    return await _power_loss(on, FAST_BOUND_SECONDS)


async def two_node_qdevice(on: Stage) -> Result:
    """One of two nodes loses power; the QDevice votes for the other, which takes its guests over."""
    await _protected(on, "--nodes", "2", "--qdevice", of="two nodes and a QDevice")
    return await _power_loss(on, QDEVICE_BOUND_SECONDS)


async def containers(on: Stage) -> Result:
    """A node with virtual machines and containers loses power; all of them run elsewhere."""
    await _protected(on, "--containers", str(on.guests // 2), of="three nodes, half of them containers,")
    victims = _on(await on.world.ask("state"), on.victim)
    result = await _power_loss(on, CONTAINERS_BOUND_SECONDS)
    state = await on.world.ask("state")
    those = [vmid for vmid in victims if f"ct:{vmid}" in state["ha"]]
    mixed = 0 < len(those) < len(victims)
    complaints = () if mixed else (f"{len(those)} of {len(victims)} guests were containers",)
    return Result(result.figures | {"containers": len(those)}, result.complaints + complaints)


async def pdu_two_psus(on: Stage) -> Result:
    """Nodes without BMC, two power supplies each: one hangs, and both of its outlets must prove it off."""
    await on.open("--pdus", "a,b", of="three nodes at two PDUs")
    await on.drilled()
    on.start_operator()
    await on.until_protected()
    before = await on.world.ask("state")
    cut = await _break(on, f"hang node {on.victim}")
    victims = _on(before, on.victim)
    await on.until(lambda: _recovered(on, victims), 60, "the hung node's guests run elsewhere", since=cut)
    await on.until(lambda: _settled(on), 90, "Proxmox HA holds every guest again", since=cut)
    figures = await _figures(on, before, cut, victims)
    switched = sorted(each["name"] for each in await on.world.ask("bmc_log") if each["command"] == "off")
    complaints = _common(figures, victims, fencings=1)
    if switched != [f"a/{on.victim}", f"b/{on.victim}"]:
        complaints.append(f"switched off were {', '.join(switched)}")
    return Result(figures | {"outlets": len(switched)}, tuple(complaints))


async def manual_fence(on: Stage) -> Result:
    """A node dies with its BMC; a person makes sure that it is off and confirms it, and its guests run."""
    await on.open()
    await on.add_person()
    on.start_operator()
    await on.until_protected()
    before = await on.world.ask("state")
    await on.world.ask(f"kill bmc {on.victim}")
    cut = await _break(on, f"power off {on.victim}")
    victims = _on(before, on.victim)
    asked: list[str] = []

    async def is_asked() -> bool:
        asked[:] = re.findall(rf"{meta.CONFIRM_OFF_ANNOTATION}=\S+", await on.reason(on.victim))
        return bool(asked)

    await on.until(is_asked, 30, "a condition asks for a person's word", since=cut)
    moved = [line for line in await on.world.ask(f"log {cut}") if "configuration moved" in line]
    await on.show("annotate", "hacluster", "--all", asked[0])
    await on.until(lambda: _recovered(on, victims), 45, "the dead node's guests run elsewhere", since=cut)
    await on.until(lambda: _settled(on), 90, "Proxmox HA holds every guest again", since=cut)
    figures = await _figures(on, before, cut, victims)
    complaints = _common(figures, victims, fencings=0)
    if moved:
        complaints.append(f"something was done before anybody had confirmed: {moved}")
    return Result(figures, tuple(complaints))


async def _power_loss(on: Stage, bound: float) -> Result:
    """The victim loses power, and within a bound its guests run elsewhere."""
    before = await on.world.ask("state")
    cut = await _break(on, f"power off {on.victim}")
    victims = _on(before, on.victim)
    await on.until(lambda: _recovered(on, victims), 60, "the dead node's guests run elsewhere", since=cut)
    await on.until(lambda: _settled(on), 90, "Proxmox HA holds every guest again", since=cut)
    await asyncio.sleep(STATUS_SECONDS)
    await on.show("get", "pvm")
    await on.show("get", "hacluster")
    figures = await _figures(on, before, cut, victims)
    complaints = _common(figures, victims, fencings=1)
    if figures["downtime_p95_s"] > bound:
        complaints.append(f"p95 of downtime is {figures['downtime_p95_s']} s, more than {bound:g} s")
    return Result(figures, tuple(complaints))


async def operator_crash(on: Stage) -> Result:
    """The operator is killed between claim and start, and another comes 5 s later."""
    before, cut, victims = await _operator_lost(on)
    say("the operator was killed between claim and start; another one starts in 5 s")
    await asyncio.sleep(5)
    on.stop_operator()
    on.start_operator()
    await on.until(lambda: _recovered(on, victims), 120, "the dead node's guests run elsewhere", since=cut)
    await on.until(lambda: _settled(on), 120, "Proxmox HA holds every guest again", since=cut)
    figures = await _figures(on, before, cut, victims)
    starts = [line for line in await on.world.ask(f"log {cut}") if ": runs on " in line]
    complaints = _common(figures, victims, fencings=None)
    if len(starts) != len(victims):
        complaints.append(f"{len(starts)} starts for {len(victims)} guests")
    return Result(figures | {"starts": len(starts)}, tuple(complaints))


async def operator_gone(on: Stage) -> Result:
    """The operator dies between disown and adopt and never returns: the nodes' timer ends what it began."""
    before, cut, victims = await _operator_lost(on)
    marked = [vmid for vmid in await on.world.unsettled() if vmid in victims]
    say(f"the operator is gone for good; {len(marked)} guests are out of native HA")
    on.stop_operator()
    await on.until(
        lambda: _settled(on), NET_SECONDS, "Proxmox HA holds every guest again", since=cut, pause=1
    )
    settled = await on.world.ask("now")
    await on.until(lambda: _recovered(on, victims), 30, "the dead node's guests run elsewhere", since=cut)
    figures = await _figures(on, before, cut, victims) | {"engine": "Native"}
    state = await on.world.ask("state")
    left = [sid for sid, resource in state["ha"].items() if resource["state"] == "ignored"]
    complaints = _common(figures, victims, fencings=1)
    if left:
        complaints.append(f"still ignored: {', '.join(left)}")
    if not marked:
        complaints.append("the operator had taken nothing out of native HA when it died")
    return Result(
        figures | {"ignored": len(left), "settled_after_s": round(settled - cut, 1)}, tuple(complaints)
    )


async def bmc_dead(on: Stage) -> Result:
    """A node dies with its BMC: nothing is proven, pveha starts nothing, native HA recovers."""
    await _protected(on)
    before = await on.world.ask("state")
    await on.world.ask(f"kill bmc {on.victim}")
    cut = await _break(on, f"power off {on.victim}")
    victims = _on(before, on.victim)
    await on.until(
        lambda: _has_condition(on, "Degraded", "NodeUnprovable"), 60, "a condition says why", since=cut
    )
    reasons = await on.reasons()
    await on.until(
        lambda: _recovered(on, victims), NATIVE_SECONDS, "native HA recovers the guests", since=cut, pause=1.0
    )
    figures = await _figures(on, before, cut, victims) | {"engine": "Native"}
    calls = await on.world.ask("calls")
    starts = sum(
        count for call, count in calls.items() if call.startswith("POST") and call.endswith("/start")
    )
    complaints = _common(figures, victims, fencings=0)
    if starts:
        complaints.append(f"pveha started {starts} guests without proof")
    if "NodeUnprovable" not in reasons:
        complaints.append(f"no Event NodeUnprovable among {sorted(reasons)}")
    return Result(figures | {"started_by_pveha": starts}, tuple(complaints))


async def native(on: Stage) -> Result:
    """Engine Native: Proxmox's own HA recovers the guests of a dead node; pveha reports and does nothing."""
    await on.open()
    name = (await on.cluster())["metadata"]["name"]
    change = '{"spec":{"recovery":{"engine":"Native"}}}'
    await on.kubectl("patch", "hacluster", name, "-n", NAMESPACE, "--type", "merge", "-p", change)
    on.start_operator()
    await on.until_protected()
    before = await on.world.ask("state")
    cut = await _break(on, f"power off {on.victim}")
    victims = _on(before, on.victim)
    await on.until(
        lambda: _recovered(on, victims), NATIVE_SECONDS, "native HA recovers the guests", since=cut, pause=1.0
    )
    await on.until(lambda: _reported(on, victims), 60, "every recovery is reported", since=cut, pause=1.0)
    await on.show("get", "pvm")
    figures = await _figures(on, before, cut, victims) | {"engine": "Native"}
    claims = [line for line in await on.world.ask(f"log {cut}") if "by pveha-node" in line]
    complaints = _common(figures, victims, fencings=0)
    if claims or await on.world.unsettled():
        complaints.append(f"pveha did something: {claims}")
    return Result(figures, tuple(complaints))


async def no_quorum(on: Stage) -> Result:
    """Two of three nodes lose power: the last is not quorate, nothing is done, an alarm is raised."""
    await _protected(on)
    before = await on.world.ask("state")
    cut = await _break(on, f"power off {on.victim}")
    await on.world.ask(f"power off {before['master']}")
    await on.until(
        lambda: _has_condition(on, "Quorate", "NoQuorum"), 60, "a condition raises the alarm", since=cut
    )
    await _watch(on, 45, cut)
    figures = await _figures(on, before, cut, [])
    complaints = _common(figures, [], fencings=0)
    moved = [line for line in await on.world.ask(f"log {cut}") if "configuration moved" in line]
    if moved:
        complaints.append(f"something was done without quorum: {moved}")
    return Result(figures | {"moved": len(moved)}, tuple(complaints))


async def isolated(on: Stage) -> Result:
    """A node is cut off but lives on: it is fenced before any of its guests is started elsewhere."""
    await _protected(on)
    before = await on.world.ask("state")
    cut = await _break(on, f"cut network {on.victim}")
    victims = _on(before, on.victim)
    await on.until(lambda: _recovered(on, victims), 120, "the cut-off node's guests run elsewhere", since=cut)
    await on.until(lambda: _settled(on), 120, "Proxmox HA holds every guest again", since=cut)
    figures = await _figures(on, before, cut, victims)
    log = await on.world.ask(f"log {cut}")
    off = next(
        (index for index, line in enumerate(log) if f"bmc {on.victim}" in line and "off" in line), len(log)
    )
    moved = next((index for index, line in enumerate(log) if "configuration moved" in line), 0)
    complaints = _common(figures, victims, fencings=1)
    if moved < off:
        complaints.append("a guest was claimed before its node was fenced")
    return Result(figures, tuple(complaints))


async def planned_reboot(on: Stage) -> Result:
    """Somebody reboots a node: it is not fenced, and its guests come back with it."""
    await _protected(on)
    before = await on.world.ask("state")
    cut = await _break(on, f"reboot {on.victim}")
    victims = _on(before, on.victim)
    await on.until(
        lambda: _has_condition(on, "Degraded", "NodePlannedDown"), 90, "it is seen as planned", since=cut
    )
    await on.until(lambda: _running_again(on, victims), 240, "its guests run again", since=cut, pause=1.0)
    figures = await _figures(on, before, cut, victims) | {"engine": "Native"}
    return Result(figures, tuple(_common(figures, victims, fencings=0)))


async def api_flap(on: Stage) -> Result:
    """The operator loses its path to Proxmox for 30 s: nothing is fenced, no guest is touched."""
    await _protected(on)
    before = await on.world.ask("state")
    cut = await _break(on, "cut operator all")
    await on.until(
        lambda: _has_condition(on, "Connected", "Unreachable"), 30, "a condition says so", since=cut
    )
    await asyncio.sleep(max(0.0, 30 - (await on.world.ask("now") - cut)))
    await on.world.ask("heal operator all")
    await on.until(lambda: _has_condition(on, "Ready", "OK"), 60, "all is well again", since=cut)
    await _watch(on, 15, cut)
    figures = await _figures(on, before, cut, [])
    return Result(figures, tuple(_common(figures, [], fencings=0)))


async def drain(on: Stage) -> Result:
    """A node with 20 guests is drained: it empties by live migration, and no guest is down."""
    on.guests = 3 * DRAINED_GUESTS
    await _protected(on)
    before = await on.world.ask("state")
    began: float = await on.world.ask("now")
    on.fault()
    await on.set_availability(on.victim, "Drain", migrations=DRAIN_MIGRATIONS)
    victims = _on(before, on.victim)
    empty = "the node is empty"
    await on.until(lambda: _has_condition(on, "Drained", "OK"), DRAIN_SECONDS, empty, since=began, pause=1.0)
    ended: float = await on.world.ask("now")
    await on.until(lambda: _settled(on), 60, "Proxmox HA has every guest where it is", since=began)
    await on.show("get", "hacluster")
    await on.show("get", "pvm")
    after = await on.world.ask("state")
    left = [vmid for vmid in _on(after, on.victim) if after["guests"][vmid]["state"] != "stopped"]
    downtimes = await on.world.ask(f"downtimes {began}")
    worst = max(downtimes.values(), default=0.0)
    figures = await _figures(on, before, began, victims) | {
        "engine": "Migration",
        "left": len(left),
        "drained_after_s": round(ended - began, 1),
        "longest_pause_s": round(worst, 2),
        "down": sum(each > PAUSE_SECONDS for each in downtimes.values()),
    }
    complaints = _common(figures, victims, fencings=0)
    if left:
        complaints.append(f"{len(left)} guests are left on {on.victim}")
    if len(victims) < DRAINED_GUESTS:
        complaints.append(f"only {len(victims)} guests were on {on.victim}")
    if figures["down"]:
        complaints.append(f"{figures['down']} guests were down for up to {worst:.1f} s")
    return Result(figures, tuple(complaints))


async def canary(on: Stage) -> Result:
    """A BMC acknowledges the off and does nothing; an operator that believes it is caught in double runs."""
    counted = {}
    figures: dict[str, Any] = {}
    for operator in ("canary", None):
        await on.open()
        on.start_operator(operator)
        await on.until_protected()
        before = await on.world.ask("state")
        await on.world.ask(f"bmc lies {on.victim}")
        cut = await _break(on, f"cut network {on.victim}")
        await _watch(on, 60, cut)
        counted[operator] = await on.world.ask("double_runs")
        figures = await _figures(on, before, cut, _on(before, on.victim))
        await on.close_world()
    figures |= {"double_runs": counted["canary"], "double_runs_with_real_operator": counted[None]}
    complaints = []
    if counted["canary"] < 1:
        complaints.append(
            "the operator that believes a lying BMC was not caught: double runs are not counted"
        )
    if counted[None] > 0:
        complaints.append(f"the real operator made {counted[None]} double runs")
    return Result(figures, tuple(complaints))


Scenario = Callable[[Stage], Awaitable[Result]]
ALL: dict[str, Scenario] = {
    "node-loss": node_loss,
    "two-node-qdevice": two_node_qdevice,
    "containers": containers,
    "pdu-two-psus": pdu_two_psus,
    "manual-fence": manual_fence,
    "operator-crash": operator_crash,
    "operator-gone": operator_gone,
    "bmc-dead": bmc_dead,
    "native": native,
    "no-quorum": no_quorum,
    "isolated": isolated,
    "planned-reboot": planned_reboot,
    "api-flap": api_flap,
    "drain": drain,
    "canary": canary,
}


async def _operator_lost(on: Stage) -> tuple[dict[str, Any], float, list[str]]:
    """A node dies, and the operator with it as soon as guests are claimed: state before, time, victims."""
    await on.open()
    on.start_operator("crash-after-claim")
    await on.until_protected()
    before = await on.world.ask("state")
    cut = await _break(on, f"power off {on.victim}")
    victims = _on(before, on.victim)
    await on.until(
        lambda: _true(not on.operator_runs), 60, "the operator has claimed guests and died", since=cut
    )
    return before, cut, victims


async def _protected(on: Stage, *arguments: str, of: str = "three nodes") -> None:
    await on.open(*arguments, of=of)
    on.start_operator()
    await on.until_protected()
    await on.show("get", "hacluster")
    await on.show("get", "pvm")


async def _break(on: Stage, fault: str) -> float:
    on.fault()
    cut: float = await on.world.ask(fault)
    print(f"\n{time.strftime('%H:%M:%S')}  {fault}", flush=True)
    return cut


async def _watch(on: Stage, seconds: float, since: float) -> None:
    """Let time pass and tell what happens."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await on.tell(since)
        await asyncio.sleep(1.0)


def _on(state: dict[str, Any], node: str) -> list[str]:
    return [vmid for vmid, guest in state["guests"].items() if guest["node"] == node]


async def _true(value: bool) -> bool:
    return value


async def _recovered(on: Stage, victims: list[str]) -> bool:
    guests = (await on.world.ask("state"))["guests"]
    return all(guests[vmid]["node"] != on.victim and guests[vmid]["state"] == "running" for vmid in victims)


async def _reported(on: Stage, victims: list[str]) -> bool:
    """Whether the statuses say of all that Proxmox's own HA has recovered them."""
    found = json.loads(await on.kubectl("get", "pvm", "-o", "json", "-n", NAMESPACE))["items"]
    engines = {
        str(each["spec"]["vmid"]): each.get("status", {}).get("lastFailover", {}).get("engine")
        for each in found
    }
    return all(engines.get(str(vmid)) == "Native" for vmid in victims)


async def _running_again(on: Stage, victims: list[str]) -> bool:
    state = await on.world.ask("state")
    back = state["nodes"][on.victim]["quorate"]
    return back and all(state["guests"][vmid]["state"] == "running" for vmid in victims)


async def _settled(on: Stage) -> bool:
    return not await on.world.unsettled()


async def _has_condition(on: Stage, type_: str, reason: str) -> bool:
    return (await on.condition(type_)).get("reason") == reason


async def _figures(on: Stage, before: dict[str, Any], cut: float, victims: list[str]) -> dict[str, Any]:
    after, commands = await on.world.ask("state"), await on.world.ask("bmc_log")
    downtimes = await on.world.ask(f"downtimes {cut}")
    own = sorted(downtimes[vmid] for vmid in victims)
    lost = {name for name, node in after["nodes"].items() if not node["quorate"]} | {on.victim}
    others = [vmid for vmid, guest in before["guests"].items() if guest["node"] not in lost]
    return {
        "guests": len(victims),
        "recovered": sum(after["guests"][vmid]["state"] == "running" for vmid in victims),
        "downtime_p50_s": round(statistics.median(own), 2) if own else 0.0,
        "downtime_p95_s": round(own[max(0, -(-len(own) * 95 // 100) - 1)], 2) if own else 0.0,
        "double_runs": await on.world.ask("double_runs"),
        "fencings": len({each["name"].rpartition("/")[2] for each in commands if each["command"] == "off"}),
        "engine": "Fast",
        "others_untouched": all(
            after["guests"][vmid] == before["guests"][vmid] and downtimes[vmid] == 0 for vmid in others
        ),
    }


def _common(figures: dict[str, Any], victims: list[str], fencings: int | None) -> list[str]:
    complaints = []
    if figures["recovered"] != len(victims):
        complaints.append(f"{figures['recovered']} of {len(victims)} guests were recovered")
    if figures["double_runs"]:
        complaints.append(f"{figures['double_runs']} double runs")
    if fencings is not None and figures["fencings"] != fencings:
        complaints.append(f"{figures['fencings']} nodes were fenced, not {fencings}")
    if not figures["others_untouched"]:
        complaints.append("guests of other nodes were touched")
    return complaints
