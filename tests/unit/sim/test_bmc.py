"""BMCs and how they can deceive."""

import asyncio

import pytest

import sim_worlds
from pveha.model import errors, power
from pveha.sim import config, faults, ports, world

PVE2 = power.Switch("pve2", "bmc")


def play(script: sim_worlds.Script) -> world.World:
    return sim_worlds.play(sim_worlds.build([config.Guest(101, "pve2")]), script)


async def off(running: world.World, wait: float = 5.0) -> power.PowerState:
    control = ports.SimPower(running)
    await control.force_off(PVE2)
    await asyncio.sleep(wait)
    return (await control.read(PVE2)).state


def test_forced_off_is_acknowledged_before_it_is_done() -> None:
    async def script(running: world.World) -> None:
        control = ports.SimPower(running)
        await control.force_off(PVE2)
        assert running.machines["pve2"].powered
        await asyncio.sleep(3)
        assert (await control.read(PVE2)).state is power.PowerState.OFF
        assert running.machines["pve2"].processes == {}

    assert [entry.outcome for entry in play(script).bmc_log] == ["acknowledged"]


@pytest.mark.parametrize(
    ("line", "powered", "reads"),
    [
        ("bmc lies pve2", True, power.PowerState.ON),
        ("bmc reads off pve2", False, power.PowerState.OFF),
        ("swap bmcs pve2 pve3", True, power.PowerState.OFF),
    ],
)
def test_what_an_acknowledged_off_may_mean(line: str, powered: bool, reads: power.PowerState) -> None:
    async def script(running: world.World) -> None:
        faults.apply(running, line)
        assert await off(running) is reads
        assert running.machines["pve2"].powered is powered

    play(script)


def test_swapped_bmcs_give_themselves_away_by_their_identity() -> None:
    async def script(running: world.World) -> None:
        faults.apply(running, "swap bmcs pve2 pve3")
        identities = (await ports.SimPower(running).read(PVE2)).identities
        dmi = (await ports.SimNodeShell(running).status("pve2")).identities
        assert not power.same_machine(identities, dmi)
        assert power.same_machine(identities, (await ports.SimNodeShell(running).status("pve3")).identities)

    play(script)


def test_a_refusal_is_an_error() -> None:
    async def script(running: world.World) -> None:
        faults.apply(running, "bmc refuses pve2")
        with pytest.raises(errors.Refused):
            await off(running)

    play(script)


@pytest.mark.parametrize("line", ["kill bmc pve2", "cut operator pve2 bmc", "bmc slow pve2 8"])
def test_no_answer_in_time_is_unreachable(line: str) -> None:
    async def script(running: world.World) -> None:
        faults.apply(running, line)
        with pytest.raises(errors.Unreachable):
            await ports.SimPower(running).read(PVE2)
        assert running.now() == 5

    play(script)


def test_an_off_that_comes_after_the_caller_gave_up_still_lands() -> None:
    async def script(running: world.World) -> None:
        faults.apply(running, "bmc slow pve2 8")
        with pytest.raises(errors.Unreachable):
            await off(running)
        assert running.machines["pve2"].powered
        await asyncio.sleep(8)
        assert not running.machines["pve2"].powered

    play(script)


def test_a_bmc_without_own_power_dies_with_its_node() -> None:
    async def script(running: world.World) -> None:
        for line in ("bmc dies with pve2", "power off pve2"):
            faults.apply(running, line)
        with pytest.raises(errors.Unreachable):
            await ports.SimPower(running).read(PVE2)

    play(script)


def test_a_power_cycle_reads_off_in_between() -> None:
    async def script(running: world.World) -> None:
        faults.apply(running, "bmc cycle pve2")
        await asyncio.sleep(4)
        assert (await ports.SimPower(running).read(PVE2)).state is power.PowerState.OFF
        await asyncio.sleep(8)
        assert (await ports.SimPower(running).read(PVE2)).state is power.PowerState.ON

    play(script)
