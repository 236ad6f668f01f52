"""The timer on each node that calls `pveha-node repair` every 10 s (S10)."""

from typing import TYPE_CHECKING

from pveha.nodeshell import pveha_node
from pveha.sim import node_system

if TYPE_CHECKING:
    from pveha.sim import machine as machines
    from pveha.sim import world as worlds

PERIOD_SECONDS = 10.0
SPREAD_SECONDS = 0.7
"""Between the timers of one node and the next."""


class Net:
    """The timers of all nodes. They run only while something is marked: before that, a look does nothing."""

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        self._ticking: dict[str, int] = {}
        """Node and its life whose timer runs."""

    def wake(self) -> None:
        """HA resources have changed, or a node has booted."""
        for node in self._world.machines.values():
            if (
                node.timer
                and node.up
                and self._ticking.get(node.name) != node.boot_id
                and self._is_marked(node)
            ):
                self._ticking[node.name] = node.boot_id
                node.later(PERIOD_SECONDS - SPREAD_SECONDS * node.nodeid, self._look, node)

    def _is_marked(self, node: "machines.Machine") -> bool:
        resources = self._world.fs.trees[node.name].resources.values()
        return bool(node.run_files) or any("[pveha op=" in each.comment for each in resources)

    def _look(self, node: "machines.Machine") -> None:
        if not self._is_marked(node):
            del self._ticking[node.name]
            return
        node.later(PERIOD_SECONDS, self._look, node)
        if not node.runs("pmxcfs") or self._world.fs.blocked(node.name):
            return
        for line in pveha_node.repair(node_system.NodeSystem(self._world, node.name, "pveha-node repair")):
            self._world.say(f"net {node.name}", line)
