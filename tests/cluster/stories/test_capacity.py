"""1,000 ProtectedVMs: a node is filled up, and those that no node would have room for are told so in time."""

import asyncio
import time

from cluster.stories.theatre import Place, Theatre, condition, heavy_story, until

GUESTS, NODES, GUEST_MIB = 1000, 8, 440
PER_NODE = GUESTS // NODES
ROOM = (62 * 1024) // GUEST_MIB - PER_NODE
"""Further guests that a node of 64 GiB has memory for, 2 GiB of which are its own: 19. Seven nodes take the
125 of an eighth, and six do not."""
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
    await until(lambda: _is(place, {}), "all guests are ready for failover", seconds=300.0, pause=2.0)
    ready = time.monotonic() - began
    full = {f"pve{number}": LEFT for number in range(1, NODES)}
    assert min(full.values()) > 0

    began = time.monotonic()
    for vmid in FILLERS:
        await place.world.ask(f"create guest {vmid} pve{NODES}")
    await until(lambda: _is(place, full), "those without room are told", seconds=TOLD_SECONDS, pause=0.5)
    told = time.monotonic() - began
    await asyncio.sleep(5.0)
    assert await _is(place, full)

    began = time.monotonic()
    for vmid in FILLERS:
        await place.world.ask(f"destroy guest {vmid}")
    await until(lambda: _is(place, {}), "all are ready again", seconds=TOLD_SECONDS, pause=0.5)
    again = time.monotonic() - began
    print(f"{GUESTS} guests: ready after {ready:.1f} s, told after {told:.1f} s, again after {again:.1f} s")


async def _is(place: Place, wanted: dict[str, int]) -> bool:
    """Whether so many guests of each node have no room elsewhere, and all others are ready."""
    left: dict[str, int] = {}
    found = (await place.objects("ProtectedVM")).values()
    for each in found:
        status, reason, _ = condition(each.get("status", {}), "FailoverReady")
        if (status, reason) == ("False", "NoCapacity"):
            node = each["status"]["node"]
            left[node] = left.get(node, 0) + 1
        elif status != "True":
            return False
    return len(found) == GUESTS and left == wanted
