"""One line of autoProtect enrols 500 guests within a minute, and deleting it unprotects none of them."""

import asyncio
import time

from cluster.stories.theatre import Object, Place, Theatre, heavy_story, until

GUESTS = 500
ENROLLED_SECONDS = 60.0
HELD_SECONDS = 20.0


@heavy_story
async def test_500_guests_are_enrolled_by_one_line_and_kept_when_it_is_deleted(on: Theatre) -> None:
    place = await on.place("--guests", str(GUESTS), "--guest-mib", "64", without="ProtectedVM")
    await on.operator(place)
    await until(lambda: _is(place, "Acting", "OK"), "pveha acts")
    first = min(map(int, (await place.state())["guests"]))
    await place.world.ask(f"tag guest {first}-{first + GUESTS - 1} gold")

    began = time.monotonic()
    await _auto_protect(place, {"name": "gold", "tags": ["gold"]})
    await until(lambda: _enrolled(place), f"{GUESTS} ProtectedVMs", seconds=ENROLLED_SECONDS)
    enrolled = time.monotonic() - began
    assert enrolled <= ENROLLED_SECONDS
    await until(lambda: _registered(place), f"{GUESTS} guests are registered", seconds=300.0, pause=2.0)
    registered = time.monotonic() - began
    print(f"{GUESTS} guests: ProtectedVMs after {enrolled:.0f} s, registered after {registered:.0f} s")

    before = await place.state()
    await _auto_protect(place)
    await until(lambda: _is(place, "UnprotectHeld", "MassRemoval"), "the removal is held")
    _, _, message = await place.condition("UnprotectHeld")
    assert f"pveha.dev/confirm-unprotect={GUESTS}" in message
    await asyncio.sleep(HELD_SECONDS)
    assert await _enrolled(place)
    after = await place.state()
    assert (after["guests"], set(after["ha"])) == (before["guests"], set(before["ha"]))


async def _auto_protect(place: Place, *entries: Object) -> None:
    manifest = place.manifest("HACluster")
    manifest["spec"]["autoProtect"] = list(entries)
    await place.apply(manifest)


async def _is(place: Place, type_: str, reason: str) -> bool:
    return (await place.condition(type_))[1] == reason


async def _enrolled(place: Place) -> bool:
    found = (await place.objects("ProtectedVM")).values()
    ours = [
        each for each in found if each["metadata"].get("labels", {}).get("pveha.dev/auto-protect") == "gold"
    ]
    return len(ours) == GUESTS


async def _registered(place: Place) -> bool:
    return len((await place.state())["ha"]) == GUESTS
