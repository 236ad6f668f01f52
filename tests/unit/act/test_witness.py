"""Who counts as a live witness of a loss (S6)."""

import asyncio
import gc
from typing import Any

import pytest

from act_fakes import World
from pveha.act import witness
from pveha.model import errors, node


def told(name: str, epoch: int = 3, *, quorate: bool = True, sees_lost: bool = False) -> node.NodeProcesses:
    return node.NodeProcesses(name, quorate, {"pve1": True, "pve2": sees_lost, "pve3": True}, epoch, (), 0.0)


def confirm(*answers: node.NodeProcesses, alive: frozenset[str] = frozenset(), survivors: int = 2) -> None:
    witness.confirm_gone("pve2", 3, {answer.node: answer for answer in answers}, survivors, alive)


def test_two_witnesses_of_the_epoch_suffice() -> None:
    confirm(told("pve1"), told("pve3"))


def test_a_frozen_witness_does_not_count() -> None:
    with pytest.raises(witness.TooFewWitnesses):
        confirm(told("pve1"), told("pve3", epoch=2))


def test_a_node_whose_lrm_writes_stands_in_for_its_silent_node_shell() -> None:
    with pytest.raises(witness.TooFewWitnesses):
        confirm(told("pve1"))
    confirm(told("pve1"), alive=frozenset({"pve3"}))


@pytest.mark.parametrize("survivors", [1, 2])
def test_lrms_alone_are_no_witnesses_in_this_second(survivors: int) -> None:
    with pytest.raises(witness.TooFewWitnesses):
        confirm(alive=frozenset({"pve1", "pve3"}), survivors=survivors)


def test_what_a_node_shell_says_outweighs_what_the_api_showed() -> None:
    with pytest.raises(witness.TooFewWitnesses):
        confirm(told("pve1"), told("pve3", quorate=False), alive=frozenset({"pve3"}))
    with pytest.raises(errors.Refused):
        confirm(told("pve1"), told("pve3", sees_lost=True), alive=frozenset({"pve3"}))


async def test_a_scan_that_is_cancelled_before_it_begins_leaves_no_call_behind() -> None:
    """The leader dies in the very moment: a call that was made and not awaited would be a RuntimeWarning."""
    world: Any = World()
    scan = asyncio.ensure_future(witness.scan(world, ("pve1", "pve3")))
    asyncio.get_running_loop().call_soon(scan.cancel)
    with pytest.raises(asyncio.CancelledError):
        await scan
    gc.collect()
    assert not world.did("processes")
