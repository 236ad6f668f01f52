"""Operators die and the API server goes away, in the middle of a takeover."""

import asyncio
import collections
import re
import time

from cluster.stories.theatre import ROOT, Place, Theatre, condition, story, until, until_equal
from pveha.devkube import binaries, controlplane, target

LEASE_SECONDS = 15.0
"""What `pveha run` has unless told otherwise."""
OUTAGE_SECONDS = 22.0
NATIVE = re.compile(r"vm:(\d+): recover from fenced node ")
STARTED = re.compile(r"/(\d+): runs on ")


@story
async def test_leader_killed_in_mid_takeover(on: Theatre) -> None:
    place = await on.place("--guests", "36")
    operators = {name: await on.operator(place, name=name) for name in ("one", "two")}
    await until(place.protected, "every guest is protected")
    leader, victim = await place.leader(), await place.victim()
    victims = await place.on(victim)
    cut = await place.world.ask(f"power off {victim}")
    await until(lambda: _claims(place, cut), "the first guest is claimed", pause=0.02)
    operators[leader].kill()
    assert not await place.recovered(victims, victim)

    await until(lambda: place.recovered(victims, victim), "the dead node's guests run elsewhere")
    await until(place.settled, "no mark is left and Proxmox HA holds every guest")
    assert {leader, await place.leader()} == {"one", "two"}
    await _each_started_once(place, victims, cut)


@story
async def test_api_server_away_in_mid_takeover(on: Theatre) -> None:
    """A control plane of its own, as the others' must go on."""
    programs = await asyncio.to_thread(binaries.ensure)
    plane = await on.exits.enter_async_context(controlplane.ControlPlane(programs))
    on.use(target.Target("own", plane.admin, on.folder, plane))
    await asyncio.to_thread(plane.admin.kubectl, "apply", "--server-side", "-k", str(ROOT / "crds"))
    place = await on.place("--guests", "36")
    await on.operator(place)
    await until(place.protected, "every guest is protected")
    victim = await place.victim()
    victims = await place.on(victim)
    cut = await place.world.ask(f"power off {victim}")
    await until(lambda: _claims(place, cut), "the first guest is claimed", pause=0.02)
    await asyncio.to_thread(plane.kill_api_server)
    away = time.monotonic()
    await asyncio.sleep(LEASE_SECONDS)
    acts = await _acts(place)
    assert await place.world.unsettled(), "there is something left to do, or this shows nothing"
    await asyncio.sleep(OUTAGE_SECONDS - LEASE_SECONDS)
    assert await _acts(place) == acts, "it went on acting when its Lease could have been taken"
    assert time.monotonic() - away >= OUTAGE_SECONDS
    await asyncio.to_thread(plane.start_api_server)

    await until(lambda: place.recovered(victims, victim), "the dead node's guests run elsewhere")
    await until(place.settled, "no mark is left and Proxmox HA holds every guest")
    await _each_started_once(place, victims, cut)
    native = await _native(place, cut)
    assert len(native) < len(victims), "nothing was left to it when it came back"
    await until_equal(lambda: _recovered(place), len(victims), "the status tells what was done meanwhile")


async def _claims(place: Place, since: float) -> list[str]:
    """Proxmox's own HA takes minutes: whatever is moved before is moved by us."""
    return [line for line in await place.world.ask(f"log {since}") if "configuration moved" in line]


async def _native(place: Place, since: float) -> set[str]:
    """Guests that Proxmox's own HA was faster to recover, as it may be on a busy machine."""
    log = await place.world.ask(f"log {since}")
    return {match[1] for line in log if (match := NATIVE.search(line))}


async def _each_started_once(place: Place, victims: list[str], since: float) -> None:
    log = await place.world.ask(f"log {since}")
    starts = collections.Counter(match[1] for line in log if (match := STARTED.search(line)))
    assert starts == dict.fromkeys(victims, 1)
    assert await place.world.ask("double_runs") == 0
    assert not [sid for sid, each in (await place.state())["ha"].items() if " op=" in each["comment"]]


async def _acts(place: Place) -> dict[str, int]:
    """What has been done to the data centre so far, and not only read."""
    calls, shell = await place.world.ask("calls"), await place.world.ask("shell_calls")
    acts = {call: count for call, count in calls.items() if not call.startswith("GET ")}
    acts |= {verb: count for verb, count in shell.items() if verb in ("begin", "claim", "kill")}
    return acts | {"bmc": len(await place.world.ask("bmc_log"))}


async def _recovered(place: Place) -> int:
    status = await place.status()
    return (
        sum(
            condition(guest.get("status", {}), "Ready")[0] == "True" and "lastFailover" in guest["status"]
            for guest in (await place.objects("ProtectedVM")).values()
        )
        if "completionTime" in status.get("lastFailure", {})
        else 0
    )
