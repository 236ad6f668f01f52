"""Power distribution units: outlets that feed the machines' power supplies, and say nothing of what they
feed."""

import dataclasses
from typing import TYPE_CHECKING

from pveha.model import power
from pveha.sim import bmc

if TYPE_CHECKING:
    from pveha.sim import world as worlds


@dataclasses.dataclass(slots=True)
class Outlet:
    """The outlet of a PDU that is labelled with a node's name. `machine` is what it really feeds."""

    pdu: str
    node: str
    machine: str
    on: bool = True
    stuck: bool = False
    """Acknowledges commands and stays as it is; reads stay true."""


class Pdus:
    """All outlets of a world, by (PDU, node as labelled). A machine without any is fed otherwise."""

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        self.dead: set[str] = set()
        self.outlets = {
            (pdu, node.name): Outlet(pdu, node.name, node.name)
            for node in world.config.nodes
            for pdu in node.pdus
        }

    @property
    def names(self) -> frozenset[str]:
        return frozenset(pdu for pdu, _ in self.outlets)

    def fed(self, machine: str) -> bool:
        """Whether any power supply of the machine has power."""
        feeding = [outlet for outlet in self.outlets.values() if outlet.machine == machine]
        return not feeding or any(outlet.on for outlet in feeding)

    def state(self, pdu: str, node: str) -> power.PowerState:
        return power.PowerState.ON if self.outlets[pdu, node].on else power.PowerState.OFF

    def command(self, pdu: str, node: str, command: str) -> None:
        """Switch an outlet `on` or `off`: acknowledged now, done a moment later."""
        world, outlet = self._world, self.outlets[pdu, node]
        outcome = "acknowledged, not done" if outlet.stuck else "acknowledged"
        world.bmcs.log.append(bmc.Command(world.now(), f"{pdu}/{node}", command, outcome))
        world.say(f"pdu {pdu}", f"outlet {node} {command}: {outcome}")
        if not outlet.stuck:
            delay = world.between(world.timings.bmc_off)
            world.later(delay, self.set, pdu, node, command == "on")
        world.changed()

    def set(self, pdu: str, node: str, on: bool) -> None:
        """The outlet switches. A machine that gets power back follows its restore policy."""
        outlet = self.outlets[pdu, node]
        if outlet.on is on:
            return
        fed = self.fed(outlet.machine)
        outlet.on = on
        self._world.say(f"pdu {pdu}", f"outlet {node} is {'on' if on else 'off'}")
        self._fed(outlet.machine, fed)

    def _fed(self, name: str, before: bool) -> None:
        machine = self._world.machines[name]
        if before and not self.fed(name):
            machine.was_on = machine.powered
            machine.power_off("no power supply has power")
        elif not before and self.fed(name):
            policy = machine.about.power_restore
            if policy == "on" or (policy == "last" and machine.was_on):
                machine.power_on()
        self._world.changed()

    def swap(self, pdu: str, a: str, b: str) -> None:
        """Two cables change places."""
        one, other = self.outlets[pdu, a], self.outlets[pdu, b]
        machines = (one.machine, other.machine)
        fed = {machine: self.fed(machine) for machine in machines}
        one.machine, other.machine = other.machine, one.machine
        self._world.say(f"pdu {pdu}", f"the cables of {a} and {b} changed places")
        for machine in machines:
            self._fed(machine, fed[machine])

    def straighten(self) -> None:
        """Every cable is where its label says, every outlet can be switched and is on."""
        for outlet in self.outlets.values():
            if outlet.machine != outlet.node:
                self.swap(outlet.pdu, outlet.node, outlet.machine)
            outlet.stuck = False
            self.set(outlet.pdu, outlet.node, on=True)
        self.dead.clear()
