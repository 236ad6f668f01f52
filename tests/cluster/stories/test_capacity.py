"""1,000 ProtectedVMs: a node is filled up, and those that no node would have room for are told so in time."""

import asyncio
import collections
import time

from cluster.stories.theatre import Place, Theatre, condition, heavy_story, until_equal

GUESTS, NODES, GUEST_MIB = 1000, 8, 436
PER_NODE = GUESTS // NODES
ROOM = (62 * 1024 - 512) // GUEST_MIB - PER_NODE
"""Further guests that a node of 64 GiB has memory for, 2 GiB of which are its own and half a GiB its reserve:
19. Seven nodes take the 125 of an eighth, and six do not."""
LEFT = PER_NODE - (NODES - 2) * ROOM
FILLERS = range(5000, 5005)
"""Guests of 2 GiB that nobody protects."""
TOLD_SECONDS = 15.0


@heavy_story
async def test_1000_guests_are_told_that_a_node_is_full_and_that_it_is_free_again(on: Theatre) -> None:
    place = await on.place(
        "--nodes", str(NODES), "--guests", str(GUESTS), "--guest-mib", str(GUEST_MIB), "--managed"
    )
    await on.operator(place)
    began = time.monotonic()
    await until_equal(lambda: _refused(place), {}, "guests that are not ready for failover", seconds=300.0)
    ready = time.monotonic() - began
    full = {f"NoCapacity on pve{number}": LEFT for number in range(1, NODES)}
    assert LEFT > 0

    began = time.monotonic()
    for vmid in FILLERS:
        await place.world.ask(f"create guest {vmid} pve{NODES}")
    await until_equal(lambda: _refused(place), full, "guests without room", seconds=TOLD_SECONDS)
    told = time.monotonic() - began
    await asyncio.sleep(5.0)
    assert await _refused(place) == full

    began = time.monotonic()
    for vmid in FILLERS:
        await place.world.ask(f"destroy guest {vmid}")
    await until_equal(lambda: _refused(place), {}, "guests that are not ready again", seconds=TOLD_SECONDS)
    again = time.monotonic() - began
    print(f"{GUESTS} guests: ready after {ready:.1f} s, told after {told:.1f} s, again after {again:.1f} s")


async def _refused(place: Place) -> dict[str, int]:
    """How many guests are not ready for failover, by reason and node."""
    found = (await place.objects("ProtectedVM")).values()
    assert len(found) == GUESTS
    refused: collections.Counter[str] = collections.Counter()
    for each in found:
        status, reason, _ = condition(each.get("status", {}), "FailoverReady")
        if status != "True":
            refused[f"{reason} on {each.get('status', {}).get('node')}"] += 1
    return dict(refused)
