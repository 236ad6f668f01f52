"""Random clusters for the placing engine; the same seed, the same cluster."""

import dataclasses
import random
from collections.abc import Iterable

from pveha.decide.placing import problem

GIB = 1 << 30
SIZES = (1, 2, 2, 4, 4, 4, 8, 8, 16, 32)
"""Guests' memory in GiB."""
CORES_PER_CORE = 4
"""CPU overcommitment."""


@dataclasses.dataclass(frozen=True, slots=True)
class Instance:
    """A problem and the nodes that fail."""

    asked: problem.Problem
    down: frozenset[str]

    @property
    def to_place(self) -> tuple[problem.Guest, ...]:
        up = {node.name for node in self.asked.nodes} - self.down
        return tuple(guest for guest in self.asked.guests if guest.node not in up)

    @property
    def fill(self) -> float:
        """Memory of all guests by memory of the nodes that are left."""
        room = sum(node.memory for node in self.asked.nodes if node.name not in self.down)
        return sum(guest.memory for guest in self.asked.guests) / room


def large(nodes: int = 32, guests: int = 5000, fill: float = 0.8, seed: int = 1) -> problem.Problem:
    """Four zones; two of five guests tied to three quarters of the nodes; every 16th guest in a group that is
    separated by node, every 40th by zone, every 50th kept together; everybody planned somewhere."""
    dice = random.Random(seed)
    names = [f"pve{n:02d}" for n in range(1, nodes + 1)]
    made = _guests(dice, names, guests)
    made = [dataclasses.replace(guest, planned=dice.choice(names)) for guest in made]
    capacity = int(sum(guest.memory for guest in made) / nodes / fill)
    cores = sum(guest.cpu for guest in made) / nodes * 1.5
    return problem.Problem(
        tuple(
            problem.Node(name, capacity, cpu=cores, zone=f"zone-{n % 4}", used_memory=0)
            for n, name in enumerate(names)
        ),
        tuple(made),
        (
            *_apart(dice, made, guests // 48, problem.Topology.NODE),
            *_apart(dice, made, guests // 120, problem.Topology.ZONE),
            *_pairs(dice, made, guests // 100),
        ),
    )


def tight(seed: int) -> Instance:
    """8-24 nodes in 2-4 zones, of which one node, two, or a zone fails, or which all start from nothing; the
    guests need 85-102 % of the memory that is left."""
    dice = random.Random(seed)
    count = dice.randint(8, 24)
    names = [f"pve{n:02d}" for n in range(1, count + 1)]
    zones = {name: f"zone-{n % dice.choice([2, 3, 4])}" for n, name in enumerate(names)}
    kind = dice.choice(["node", "nodes", "zone", "start"])
    down = {
        "node": frozenset(dice.sample(names, 1)),
        "nodes": frozenset(dice.sample(names, 2)),
        "zone": frozenset(name for name in names if zones[name] == "zone-0"),
        "start": frozenset[str](),
    }[kind]
    made = _guests(dice, names, count * (dice.randint(3, 6) if kind == "start" else dice.randint(8, 16)))
    if kind == "start":
        made = [dataclasses.replace(guest, node="") for guest in made]
    fill = dice.uniform(0.86, 1.02)
    room = sum(guest.memory for guest in made) / fill / (count - len(down))
    cores = sum(guest.cpu for guest in made) / (count - len(down))
    used = {name: sum(guest.memory for guest in made if guest.node == name) for name in names}
    nodes = tuple(
        problem.Node(
            name, max(int(room), used[name] if name in down else 0), cpu=cores * 1.1, zone=zones[name]
        )
        for name in names
    )
    made = _shrink(nodes, made, down)
    groups = [
        *_apart(dice, made, len(made) // 12, problem.Topology.NODE),
        *_apart(dice, made, len(made) // 25, problem.Topology.ZONE),
        *_pairs(dice, made, len(made) // 25),
    ]
    return Instance(problem.Problem(nodes, tuple(made), tuple(groups)), down)


def _guests(dice: random.Random, names: list[str], count: int) -> list[problem.Guest]:
    """Guests on the nodes with the least on them, among those each can run on."""
    three_quarters = [frozenset(dice.sample(names, max(2, len(names) * 3 // 4))) for _ in range(4)]
    load = dict.fromkeys(names, 0)
    found: list[problem.Guest] = []
    for size in sorted((dice.choice(SIZES) for _ in range(count)), reverse=True):
        eligible = dice.choice([None, None, None, *dice.sample(three_quarters, 2)])
        home = min(eligible or names, key=lambda name: (load[name], name))
        load[home] += size
        found.append(
            problem.Guest(
                100 + len(found),
                size * GIB,
                home,
                cpu=float(dice.choice([1, 2, 2, 4])) / CORES_PER_CORE,
                priority=dice.choice([0, 0, 0, 100, 100, 200]),
                eligible=eligible,
            )
        )
    return found


def _shrink(
    nodes: Iterable[problem.Node], guests: list[problem.Guest], down: frozenset[str]
) -> list[problem.Guest]:
    """Guests that a surviving node has no room for run nowhere, and are to be placed too."""
    room = {node.name: (node.memory, node.cpu) for node in nodes}
    kept = []
    for guest in guests:
        memory, cpu = room.get(guest.node, (0, 0.0))
        if guest.node in down or (guest.memory <= memory and guest.cpu <= cpu):
            kept.append(guest)
            room[guest.node] = memory - guest.memory, cpu - guest.cpu
        else:
            kept.append(dataclasses.replace(guest, node=""))
    return kept


def _apart(
    dice: random.Random, guests: list[problem.Guest], count: int, topology: problem.Topology
) -> list[problem.Group]:
    return [
        problem.Group(
            f"apart-{topology.lower()}-{n}",
            problem.Rule.SEPARATE,
            frozenset(guest.vmid for guest in dice.sample(guests, 3 if n % 2 else 2)),
            topology=topology,
        )
        for n in range(count)
    ]


def _pairs(dice: random.Random, guests: list[problem.Guest], count: int) -> list[problem.Group]:
    """Guests of one node that have to stay together."""
    by_node: dict[str, list[int]] = {}
    for guest in guests:
        by_node.setdefault(guest.node, []).append(guest.vmid)
    crowded = sorted(node for node, vmids in by_node.items() if len(vmids) > 1)
    return [
        problem.Group(
            f"together-{n}",
            problem.Rule.TOGETHER,
            frozenset(dice.sample(by_node[dice.choice(crowded)], 2)),
        )
        for n in range(count)
    ]
