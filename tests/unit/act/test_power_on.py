"""A fenced node gets its power back by what took it."""

import dataclasses

import pytest

from act_fakes import World, a_method, perform
from pveha.act import power_on
from pveha.model import errors, operations, power

OPERATION = operations.PowerOn("on.pve2-1", "pve2", (a_method("a"), a_method("b")))


def test_everything_that_was_switched_off_is_switched_on() -> None:
    world = World()
    assert perform(world, lambda with_: power_on.power_on(OPERATION, with_)).error == ""
    assert world.did("power_on") == ["power_on pve2/a", "power_on pve2/b"]


def test_without_enough_of_the_lease_nothing_is_sent() -> None:
    world = World()
    world.lease = 9.0
    with pytest.raises(errors.NotLeader):
        perform(world, lambda with_: power_on.power_on(OPERATION, with_))
    assert world.did("power_on") == []


@pytest.mark.parametrize("now", ["another machine", "on"])
def test_what_names_another_machine_or_reads_on_is_not_switched_on(now: str) -> None:
    """BMCs have changed places since: nobody switches a machine on that its owner has shut down."""
    world = World()
    if now == "on":
        world.power = lambda at: power.PowerState.ON
    else:
        world.identity = frozenset({"uuid-pve3"})
    operation = dataclasses.replace(OPERATION, methods=(a_method("bmc"),))
    with pytest.raises(errors.Refused):
        perform(world, lambda with_: power_on.power_on(operation, with_))
    assert world.did("power_on") == []
