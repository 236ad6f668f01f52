"""No side effect is sent when the Lease has less left than the effect may take (design §6)."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from typing_extensions import override

from act_fakes import World, a_fence, a_takeover, an_item, perform, process
from pveha.act import context, epoch, fence, migrate, registration, takeover
from pveha.model import cluster, errors, guests, operations

Operation = Callable[[context.Context], Coroutine[Any, Any, operations.Outcome]]


class Shrinking(World):
    """After so many calls hardly anything is left of the Lease."""

    def __init__(self, after: float = float("inf")) -> None:
        super().__init__()
        self._after = after
        self.resources["vm:102"] = an_item().registered or cluster.HAResource("vm:102")

    @override
    def remaining(self) -> float:
        return 60.0 if len(self.calls) < self._after else 0.5


def edit(desired: bool, expected: bool) -> Operation:
    present = an_item().registered
    assert present is not None
    changed = cluster.HAResource("vm:102", cluster.HAState.STOPPED, "of the shop", failback=False)
    change = operations.Edit("vm:102", present if expected else None, changed if desired else None, "because")
    return lambda with_: registration.edit(operations.EditHA("edit.1", (change,)), with_)


def move(*, managed: bool) -> Operation:
    ref = guests.GuestRef(102 if managed else 103, guests.GuestKind.VM)
    operation = operations.Migrate("migrate.1", ref, "pve1", "pve3", managed)
    return lambda with_: migrate.migrate(operation, with_)


EFFECTS: dict[str, Operation] = {
    "migrate": move(managed=False),
    "migrate_service": move(managed=True),
    "begin": lambda with_: epoch.begin(operations.Begin("begin.1", "pve1", "me"), with_),
    "force_off": lambda with_: fence.fence(a_fence(), with_),
    "kill": lambda with_: takeover.take_over(a_takeover(an_item(lock="migrate")), with_),
    "update": lambda with_: takeover.take_over(a_takeover(), with_),
    "claim": lambda with_: takeover.take_over(a_takeover(), with_),
    "start": lambda with_: takeover.take_over(a_takeover(), with_),
    "delete": edit(desired=False, expected=True),
    "update of an edit": edit(desired=True, expected=True),
}


def world_of(effect: str, after: float = float("inf")) -> Shrinking:
    world = Shrinking(after)
    if effect == "kill":
        world.processes_on = {"pve3": (process("inmigrate"),)}
    return world


def play(effect: str, world: World) -> None:
    """Until the operation ends, or has waited for a minute in vain."""

    async def story(with_: context.Context) -> operations.Outcome:
        try:
            async with asyncio.timeout(60):
                return await EFFECTS[effect](with_)
        except (TimeoutError, errors.OutsideError, errors.NotLeader) as problem:
            return operations.Outcome(0.0, error=str(problem))

    perform(world, story)


@pytest.mark.parametrize("effect", EFFECTS)
def test_it_is_not_sent_on_the_last_of_the_lease(effect: str) -> None:
    call = effect.partition(" ")[0]
    led = world_of(effect)
    play(effect, led)
    before = [each.split()[0] for each in led.calls].index(call)
    leaving = world_of(effect, after=before)
    play(effect, leaving)
    assert led.calls[:before] == leaving.calls[:before]
    assert leaving.did(call) == []
