"""A fenced node gets its power back by what took it."""

import pytest

from act_fakes import World, a_method, perform
from pveha.act import power_on
from pveha.model import errors, operations

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
