"""What CapacityAssured tells is what comes true: nodes are filled by dice, and the loss is played."""

import asyncio
import random
import re

import pytest

from pveha.sim import clock, config, rig

GIB = 1 << 30
NAMES = ("pve1", "pve2", "pve3", "pve4")


def nearly_full(dice: random.Random) -> config.Config:
    """Four nodes with 14 GiB each for guests, of which about three quarters are in use."""
    guests = []
    for number, name in enumerate(NAMES):
        room = 14
        for vmid in range(100 * (number + 1), 100 * (number + 1) + 4):
            size = dice.choice([2, 3, 4, 6])
            if size <= room - 3:
                guests.append(config.managed(vmid, name, memory=size * GIB))
                room -= size
    nodes = tuple(config.Node(name, memory=16 * GIB) for name in NAMES)
    return config.Config(nodes, guests=tuple(guests))


async def lose_what_is_told(seed: int) -> tuple[str, set[int], set[int]]:
    """The reason of the condition, whom it says to stay down, and who does."""
    dice = random.Random(seed)
    about = nearly_full(dice)
    played = rig.Rig(about)
    priority = {guest.vmid: dice.choice([10, 100, 100, 500]) for guest in about.guests}
    for vmid in priority:
        played.protect(vmid, priority=priority[vmid])
    played.world.start()
    played.start_operator()
    await asyncio.sleep(60)
    told = played.cluster_status().status.condition("CapacityAssured")
    assert told is not None
    lost = re.match(r"if (\S+) were lost, [^:]*: (.*) \(all", told.message)
    worst, left = (lost[1], lost[2]) if lost else (dice.choice(NAMES), "")
    played.apply(f"power off {worst}")
    await asyncio.sleep(45)
    running = {vmid for name in NAMES for vmid in played.world.machines[name].processes}
    await played.kill_operator()
    stay = {int(vmid) for vmid in re.findall(r"\((\d+)\)", left)}
    return told.reason, stay, priority.keys() - running


@pytest.mark.parametrize("seed", range(12))
def test_what_is_told_comes_true(seed: int) -> None:
    reason, stay, stayed = clock.run(lose_what_is_told(seed))
    assert stayed == stay
    assert (reason == "OK") is not bool(stayed)
