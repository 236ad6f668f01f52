"""A guest that is stopped for another is never forgotten, whenever the operator dies and whatever its owner
does."""

import asyncio
import dataclasses

import pytest

from pveha.model import cluster, mark
from pveha.sim import clock, config, invariants, rig

GIB = 1 << 30
SIZE = 10 * GIB
IMPORTANT, STOPPED, SPARED, OTHER = 101, 102, 103, 104
"""`OTHER` has Proxmox's HA in use, with its master on its node, before pveha registers anybody."""
NOT_FOR_WANT_OF_ROOM = "runs again in time"
"""A promise about guests that have room."""
EFFECTS = 26
"""More side effects than the whole story has, statuses apart."""


@dataclasses.dataclass
class Story:
    """What came of the loss of pve2, where the important guest ran; pve2 is back after two minutes."""

    violations: list[str]
    running: dict[int, str]
    resources: dict[str, cluster.HAResource]
    spared: bool
    """Whether the guest that does not allow it ran all the time."""

    def preempted(self) -> list[str]:
        return [sid for sid, each in self.resources.items() if mark.parse(each.comment).preempted]


async def story(*lines: tuple[float, str], allowed: bool = True, seconds: float = 540) -> Story:
    guests = [
        config.managed(IMPORTANT, "pve2", memory=SIZE),
        config.managed(STOPPED, "pve1", memory=SIZE),
        config.managed(SPARED, "pve3", memory=SIZE),
    ]
    guests = [dataclasses.replace(guest, ha=None) for guest in guests]
    guests.append(config.managed(OTHER, "pve1", memory=GIB))
    nodes = tuple(config.Node(f"pve{n}", memory=16 * GIB) for n in (1, 2, 3))
    played = rig.Rig(config.Config(nodes, guests=tuple(guests), master="pve1"))
    played.protect(IMPORTANT, priority=500)
    played.protect(STOPPED, priority=50, preemption="Allowed" if allowed else "Never")
    played.protect(SPARED, priority=10)
    watching = invariants.Invariants(played)
    played.world.start()
    played.start_operator()
    spared = True
    await asyncio.sleep(120)
    start = played.world.now()
    timeline = sorted([(0.0, "power off pve2"), (120.0, "power on pve2"), *lines])
    while timeline or played.world.now() < start + seconds:
        while timeline and timeline[0][0] + start <= played.world.now():
            played.apply(timeline.pop(0)[1])
        spared = spared and SPARED in played.world.machines["pve3"].processes
        await asyncio.sleep(0.25)
    running = {
        vmid: name for name, on in played.world.machines.items() for vmid in on.processes if vmid != OTHER
    }
    resources = dict(played.world.newest.resources)
    await played.kill_operator()
    violations = [str(each) for each in watching.violations if each.rule != NOT_FOR_WANT_OF_ROOM]
    return Story(violations, running, resources, spared)


def came_right(told: Story) -> None:
    assert told.violations == []
    assert told.running.keys() == {IMPORTANT, STOPPED, SPARED}
    assert told.spared
    assert told.preempted() == []
    assert all(each.state is cluster.HAState.STARTED for each in told.resources.values())


def test_the_important_guest_gets_the_room_and_the_other_is_back_later() -> None:
    soon = clock.run(story(seconds=60))
    assert soon.running == {IMPORTANT: "pve1", SPARED: "pve3"}
    assert soon.preempted() == [f"vm:{STOPPED}"]
    came_right(clock.run(story()))


def test_nobody_is_stopped_who_does_not_allow_it() -> None:
    told = clock.run(story(allowed=False, seconds=60))
    assert told.running == {STOPPED: "pve1", SPARED: "pve3"}
    assert told.preempted() == []


@pytest.mark.parametrize("effect", range(1, EFFECTS))
def test_killed_after_any_effect_the_next_operator_goes_on(effect: int) -> None:
    came_right(clock.run(story((-0.1, f"kill operator a after {effect} effects restart after 20"))))


def test_what_its_owner_has_set_meanwhile_holds() -> None:
    told = clock.run(story((60.0, f"set vm:{STOPPED} disabled")))
    assert told.violations == []
    assert told.running.keys() == {IMPORTANT, SPARED}
    assert told.resources[f"vm:{STOPPED}"].state is cluster.HAState.DISABLED
    assert told.preempted() == []


def test_its_owner_may_start_it() -> None:
    told = clock.run(story((60.0, f"set vm:{STOPPED} started"), seconds=110))
    assert told.running[STOPPED] == "pve1"
    assert told.preempted() == []


def test_it_is_found_where_somebody_has_moved_it() -> None:
    told = clock.run(story((70.0, f"move config {STOPPED} pve3 by pve1")))
    came_right(told)
