"""A problem in numbers, made once and read by every plan of it."""

from collections.abc import Iterable

from pveha.decide.placing import problem

MILLI = 1000
"""CPU is counted in thousandths of a core, so that sums do not depend on their order."""
UNLIMITED = 1 << 40
"""Thousandths of a core of a node without a limit."""
WISH_LIMIT = 100_000
RANK_STEP = 2.0
"""What a rank outweighs: any share of a node's memory."""
WISH_STEP = 16.0
"""What the least wish outweighs: seven ranks."""


class Index:
    """Nodes by name and guests in the order of placing, numbered from 0; sets of nodes are bits of an int.

    The order of placing: higher priority, fewer nodes to choose from, more memory, `order`, vmid.
    """

    __slots__ = (
        "accepting", "anywhere", "at", "cpu", "cpu_share", "elsewhere", "free_cpu", "free_memory", "groups",
        "guests", "home", "level", "mask", "members", "memory", "memory_share", "nodes", "number", "on",
        "planned", "problem", "reach", "separate", "soft", "standing", "together", "vmid",
    )  # fmt: skip

    def __init__(self, asked: problem.Problem):
        self.problem = asked
        self.nodes = tuple(sorted(asked.nodes, key=lambda node: node.name))
        self.number = {node.name: n for n, node in enumerate(self.nodes)}
        self.anywhere = (1 << len(self.nodes)) - 1
        self.accepting = sum(1 << n for n, node in enumerate(self.nodes) if node.accepts)
        self.standing = [-RANK_STEP * node.rank for node in self.nodes]
        self.memory_share = [1.0 / max(node.memory, 1) for node in self.nodes]
        self.cpu_share = [1.0 / (node.cpu * MILLI) if node.cpu else 0.0 for node in self.nodes]
        self.reach = {
            problem.Topology.NODE: [1 << n for n in range(len(self.nodes))],
            problem.Topology.ZONE: _zones(self.nodes),
        }
        self._number_guests(asked.guests)
        self._count_free()
        self._join(asked.groups)

    def bits(self, names: Iterable[str]) -> int:
        """The set of those of `names` that are nodes."""
        found = 0
        for name in names:
            n = self.number.get(name)
            if n is not None:
                found |= 1 << n
        return found

    def _number_guests(self, guests: Iterable[problem.Guest]) -> None:
        masks: dict[frozenset[str] | None, int] = {None: self.anywhere}
        turns = []
        for guest in guests:
            mask = masks.get(guest.eligible)
            if mask is None:
                mask = masks[guest.eligible] = self.bits(guest.eligible or ())
            turns.append(
                (-guest.priority, mask.bit_count(), -guest.memory, guest.order, guest.vmid, mask, guest)
            )
        turns.sort(key=lambda turn: turn[:5])
        self.guests = tuple(turn[6] for turn in turns)
        self.mask = [turn[5] for turn in turns]
        self.vmid = [turn[4] for turn in turns]
        self.memory = [-turn[2] for turn in turns]
        self.cpu = [round(guest.cpu * MILLI) for guest in self.guests]
        self.home = [self.number.get(guest.node, -1) for guest in self.guests]
        self.planned = [self.number.get(guest.planned, -1) for guest in self.guests]
        self.at = {vmid: g for g, vmid in enumerate(self.vmid)}
        self.level: list[int] = []
        """Of a guest: 0 for the highest priority there is, 1 for the next, and so on."""
        seen: dict[int, int] = {}
        for turn in turns:
            self.level.append(seen.setdefault(turn[0], len(seen)))

    def _count_free(self) -> None:
        self.on: list[list[int]] = [[] for _ in self.nodes]
        self.elsewhere: list[int] = []
        """Guests that run nowhere."""
        self.free_memory = [node.memory - node.used_memory for node in self.nodes]
        self.free_cpu = [
            round((node.cpu - node.used_cpu) * MILLI) if node.cpu else UNLIMITED for node in self.nodes
        ]
        memory, cpu = self.free_memory, self.free_cpu
        for g, n in enumerate(self.home):
            if n < 0:
                if not self.guests[g].stays:
                    self.elsewhere.append(g)
                continue
            if not self.guests[g].stays:
                self.on[n].append(g)
            memory[n] -= self.memory[g]
            cpu[n] -= self.cpu[g]

    def _join(self, groups: Iterable[problem.Group]) -> None:
        self.groups = tuple(sorted(groups, key=_sort_key))
        self.members: list[list[int]] = []
        self.separate: dict[int, list[int]] = {}
        """Guest → the numbers of the hard groups that keep it apart from others."""
        self.together: dict[int, list[int]] = {}
        self.soft: dict[int, list[int]] = {}
        for number, group in enumerate(self.groups):
            found = sorted(self.at[vmid] for vmid in group.vmids if vmid in self.at)
            self.members.append(found)
            if not group.required:
                kind = self.soft
            elif group.rule is problem.Rule.SEPARATE:
                kind = self.separate
            else:
                kind = self.together
            for g in found:
                kind.setdefault(g, []).append(number)


def _sort_key(group: problem.Group) -> tuple[str, str, str, bool, int, list[int]]:
    return group.name, group.rule, group.topology, group.required, group.weight, sorted(group.vmids)


def _zones(nodes: tuple[problem.Node, ...]) -> list[int]:
    """For each node the set of nodes in its zone."""
    zones: dict[str, int] = {}
    for n, node in enumerate(nodes):
        if node.zone:
            zones[node.zone] = zones.get(node.zone, 0) | 1 << n
    return [zones[node.zone] if node.zone else 1 << n for n, node in enumerate(nodes)]
