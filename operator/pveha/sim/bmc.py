"""BMCs: power control beside the machine, with an identity, delays and faults of their own."""

import dataclasses
from typing import TYPE_CHECKING

from pveha.model import power

if TYPE_CHECKING:
    from pveha.sim import world as worlds


@dataclasses.dataclass(slots=True)
class Bmc:
    """The BMC of one node.

    `machine` is the machine it really switches, `identities` what it says it is (two BMCs swapped: both
    differ).
    """

    name: str
    machine: str
    identities: frozenset[str]
    uuid: str
    serial: str
    alive: bool = True
    delay: float = 0.0
    refuses: bool = False
    lies: bool = False
    """Acknowledges commands without doing them; reads stay true."""
    reads_off: bool = False
    """Reads Off whatever the machine does."""
    dies_with_node: bool = False
    busy_until: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """A line of the journal `World.bmc_log`."""

    at: float
    name: str
    command: str
    outcome: str


class Bmcs:
    """The BMCs of a world by node name; nodes without one are absent."""

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        self.by_name: dict[str, Bmc] = {}
        self.log: list[Command] = []
        for node in world.config.nodes:
            if node.has_bmc:
                uuid = node.bmc_uuid or node.uuid
                serial = node.serial if node.bmc_uuid is None else f"sim-{node.bmc_uuid[:8]}"
                self.by_name[node.name] = Bmc(node.name, node.name, frozenset({uuid, serial}), uuid, serial)

    def answers(self, name: str) -> bool:
        """Whether the BMC answers at all (the path to it apart)."""
        bmc = self.by_name.get(name)
        if bmc is None or not bmc.alive or not self._world.pdus.fed(bmc.machine):
            return False
        return not bmc.dies_with_node or self._world.machines[bmc.machine].powered

    def busy(self, name: str) -> bool:
        """Whether it has no time for commands now."""
        return self._world.now() < self.by_name[name].busy_until

    def state(self, name: str) -> power.PowerState:
        bmc = self.by_name[name]
        on = self._world.machines[bmc.machine].powered and not bmc.reads_off
        return power.PowerState.ON if on else power.PowerState.OFF

    def latency(self, name: str) -> float:
        return self._world.between(self._world.timings.bmc_call) + self.by_name[name].delay

    def together(self, machine: str) -> list[str]:
        """Machines that lose their power when this one is forced off."""
        chassis = self._world.machines[machine].about.chassis
        return [
            each.name
            for each in self._world.config.nodes
            if each.name == machine or (chassis and each.chassis == chassis)
        ]

    def command(self, name: str, command: str) -> bool:
        """Carry out `off`, `shutdown`, `on` or `cycle`. False: refused. True: acknowledged; the effect comes
        later."""
        bmc = self.by_name[name]
        outcome = "refused" if bmc.refuses else "acknowledged, not done" if bmc.lies else "acknowledged"
        self.log.append(Command(self._world.now(), name, command, outcome))
        self._world.say(f"bmc {name}", f"{command}: {outcome}")
        if bmc.refuses:
            return False
        if not bmc.lies:
            machine = self._world.machines[bmc.machine]
            delay = self._world.between(self._world.timings.bmc_off)
            if command == "off":
                for each in self.together(machine.name):
                    why = "by its BMC" if each == machine.name else "with its chassis"
                    self._world.later(delay, self._world.machines[each].power_off, f"power off {why}")
            elif command == "shutdown":
                self._world.later(delay, self._world.shutdown, bmc.machine)
            elif command == "on":
                self._world.later(self._world.timings.bmc_on, machine.power_on)
            elif command == "cycle":
                self._world.later(delay, machine.power_off, "power cycle by its BMC")
                self._world.later(delay + 7.0, machine.power_on)
        self._world.changed()
        return True
