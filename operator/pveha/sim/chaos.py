"""Random faults from a seed: a data centre, operators, and a timeline of what goes wrong and when it is
mended.

A `Plan` is data: the same seed gives the same plan, any part of its timeline can be left out (`shrink`), and
playing it (`simulation`) draws no further random number than the world's own.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pveha.model import cluster, guests
from pveha.sim import config, machine, membership, mishaps, mishaps_people
from pveha.sim.dice import Dice

V = TypeVar("V")

FIRST_FAULT_SECONDS = 45.0
SPAN_SECONDS = 1500.0
"""Faults begin within this time after the first one; whatever lasts longer is mended at its end."""
FEWEST_FAULTS = 10
MOST_FAULTS = 11
ORDERED = {"startup": {"readyTimeoutSeconds": 90, "delaySeconds": 5}}
"""The FailoverPolicy of guests that others depend on in random runs."""
AUTO_PROTECT = [{"name": "auto", "tags": [mishaps_people.AUTO_TAG]}]
"""spec.autoProtect of every random run: it protects the guests that nobody has written a ProtectedVM for."""
NATIVE_SHARE = 0.15
"""Of all runs, with engine Native."""
AFTERWARDS_SHARE = 0.3
"""Of all runs, in which fenced nodes are switched on again, ..."""
AFTERWARDS_SECONDS = (0, 30, 60, 60, 300)
"""... so long after the proof at the earliest."""
CONFIRMED_SHARE = 0.25
"""Of all runs, in which a person may confirm that a node is off (level 9), ..."""
CONFIRMED_SECONDS = (60, 60, 600)
"""... which counts for so long."""
CHASSIS_SHARE = 0.15
"""Of all runs with four nodes or more, in which two share a chassis: who switches one off cuts both."""
QDEVICE_SHARE = 0.08
"""Of all runs, with so many nodes and a QDevice: ..."""
EVEN = (2, 4)
LOCKS_SHARE = 0.2
"""Of all runs, on a shared storage where a dead client's lock lives on, for so many seconds."""
LOCKS = (("nfs", 90.0), ("rbd", 30.0))
MIXED_SHARE = 0.25
"""Of all runs, in the middle of an upgrade: of pveha-node, or of Proxmox VE."""
OPENING_SECONDS = (20.0, 150.0)
"""So much later than the first one other faults begin where a node is to be switched on again, or a person is
to confirm that one is off."""
WISHING_SHARE = 0.3
"""Of all runs, with guests that wish something of their placement, and people who meddle with HA rules."""
CRAMPED_SHARE = 0.12
"""Of all runs with engine Fast and without such wishes: nodes that have no memory to spare, and guests of
which some may be stopped for more important ones."""
CRAMPED_BYTES = 20 << 30
"""Memory of each guest there: more than half of what a node has left for guests."""
REPLICATED_SHARE = 0.12
"""Of all runs without such wishes and with memory to spare: guests on local disks that are replicated."""
DATA_SECONDS = (60, 120, 300, 900, 900)
"""data.maxDataLossSeconds there."""
SYNC_SECONDS = (60.0, 60.0, 120.0, 300.0)
"""Intervals of their replication jobs."""
POLICY = "ordered"
"""Name of the FailoverPolicy of guests that depend on others, or are in a group."""
CLOSE_SECONDS = 45.0
"""Most faults begin so soon after another one: that is where protocols break."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, with the lines that do it and those that mend it, at times of the world."""

    kind: str
    steps: tuple[tuple[float, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Wishes:
    """What is wished of placement in one run."""

    groups: tuple[dict[str, str], ...] = ()
    """Of POLICY."""
    guests: Mapping[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Fields of the specs of their ProtectedVMs, by vmid."""
    zones: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By node."""


NO_WISHES = Wishes()


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All of one run. After `calm_at` everything is mended and has to come right by itself."""

    seed: int
    about: config.Config
    operators: tuple[str, ...]
    protect: tuple[int, ...]
    faults: tuple[Fault, ...]
    calm_at: float
    calm: tuple[str, ...]
    engine: str = "Fast"
    depends: tuple[tuple[int, int], ...] = ()
    """Pairs of protected guests of which the first depends on the second."""
    wishes: Wishes = NO_WISHES
    afterwards: int | None = None
    """After so many seconds fenced nodes are switched on again; None: never."""
    confirmed_seconds: int | None = None
    """How long a person's word that a node is off counts, behind all other methods; None: never."""
    lost_seconds: int | None = None
    """data.maxDataLossSeconds of guests that may be started from replicas; None: there are none."""

    @property
    def timeline(self) -> list[tuple[float, str]]:
        """Every line with its time, in order."""
        steps = [step for fault in self.faults for step in fault.steps]
        return sorted(steps, key=lambda step: step[0]) + [(self.calm_at, line) for line in self.calm]


POWER: Sequence[tuple[tuple[str, ...], bool]] = (
    *[((), True)] * 6,
    (("a",), True),
    (("a", "b"), True),
    (("a",), False),
    (("a", "b"), False),
)
"""Outlets of each machine, and whether it has a BMC: the fencing methods of a data centre."""
MENDING = (
    "revive bmc NODE",
    "bmc slow NODE 0",
    "bmc accepts NODE",
    "bmc obeys NODE",
    "bmc lives without NODE",
    "deliver answers NODE",
    "resume node NODE",
    "maintenance off NODE",
    "availability NODE Active",
    "migrations work NODE",
    "syncs work NODE",
    "starts work NODE",
    "slow api NODE 0",
    "set clock NODE 0",
)
UPGRADED = ("install node shell NODE", f"set version NODE {mishaps_people.NEW_VERSION}")
OFTEN_TIMES = 6
"""So often kinds that only some runs have stand among all others."""


def plan(
    seed: int,
    kinds: Iterable[str] = (),
    nodes: int | None = None,
    guest_count: int | None = None,
    fault_count: int | None = None,
) -> Plan:
    """The plan of a seed. `kinds` empty: all that the data centre can have."""
    rng = random.Random(seed)
    asked = frozenset(kinds)
    even = EVEN[1:] if asked & mishaps.OF_CHASSIS else EVEN
    nodes = nodes or _share(seed, "qdevice", QDEVICE_SHARE, even, bool(asked & mishaps.OF_QDEVICES))
    about = _data_centre(rng, seed, nodes, guest_count, asked)
    dice = Dice(rng, [node.name for node in about.nodes], [guest.vmid for guest in about.guests])
    wishing = random.Random(f"wishes {seed}").random() < WISHING_SHARE
    engine = "Native" if random.Random(f"engine {seed}").random() < NATIVE_SHARE else "Fast"
    cramped = engine == "Fast" and not wishing and random.Random(f"cramped {seed}").random() < CRAMPED_SHARE
    cramped = cramped and not asked & mishaps.OF_REPLICAS
    about = _cramped(about) if cramped else about
    limit = None
    if bool(asked & mishaps.OF_REPLICAS) or not (wishing or cramped):
        limit = _share(seed, "replicated", REPLICATED_SHARE, DATA_SECONDS, bool(asked & mishaps.OF_REPLICAS))
    about = _replicated(random.Random(f"replicas {seed}"), about) if limit is not None else about
    confirmed = _share(seed, "confirmed", CONFIRMED_SHARE, CONFIRMED_SECONDS, bool(asked & mishaps.OF_WORDS))
    shells, upgrades = mishaps.OF_SHELLS, mishaps.OF_UPGRADES
    upgrading = _share(seed, "mixed", MIXED_SHARE, (shells, shells, upgrades)) or frozenset()
    about = _with_chassis(seed, about, bool(asked & mishaps.OF_CHASSIS))
    often = upgrading - upgrades
    often |= mishaps.OF_WORDS if confirmed is not None else frozenset()
    often |= mishaps.OF_CHASSIS if any(node.chassis for node in about.nodes) else frozenset()
    often |= mishaps.OF_REPLICAS if limit is not None else frozenset()
    drawn = often | (mishaps.OF_QDEVICES if about.qdevice else frozenset())
    drawn |= mishaps.OF_WISHES if wishing else frozenset()
    possible = {
        kind for kind in mishaps.KINDS if mishaps.possible(kind, about.nodes[0].pdus, about.nodes[0].has_bmc)
    }
    chosen = sorted(asked) or sorted(possible - (mishaps.SPECIAL - drawn))
    weighted = chosen + [kind for kind in mishaps.OFTEN if kind in chosen]
    weighted += [kind for kind in sorted(often) for _ in range(OFTEN_TIMES) if not asked]
    at, faults = FIRST_FAULT_SECONDS, []
    if (asked or upgrading) >= upgrades:
        about, first = _upgrading(random.Random(f"upgrading {seed}"), dice, about)
        faults.append(first)
    afterwards = _share(seed, "afterwards", AFTERWARDS_SHARE, AFTERWARDS_SECONDS)
    if not asked and (confirmed is not None or afterwards is not None):
        own = random.Random(f"opening {seed}")
        faults.append(_opening(own, Dice(own, dice.names, dice.vmids), about, confirmed is not None))
        at = round(at + own.uniform(*OPENING_SECONDS), 2)
    count = rng.randint(FEWEST_FAULTS, MOST_FAULTS)
    for _ in range(fault_count or count):
        kind = rng.choice(weighted)
        steps = tuple((round(at + offset, 2), line) for offset, line in mishaps.KINDS[kind](dice, about))
        faults.append(Fault(kind, steps))
        far = rng.random() < 0.3
        at += dice.seconds(CLOSE_SECONDS, SPAN_SECONDS / 4) if far else dice.seconds(0.0, CLOSE_SECONDS)
        at = min(at, FIRST_FAULT_SECONDS + SPAN_SECONDS)
    protect = tuple(guest.vmid for guest in about.guests if rng.random() < 0.9)
    tagged = tuple(
        guest if guest.vmid in protect else dataclasses.replace(guest, tags=(mishaps_people.AUTO_TAG,))
        for guest in about.guests
    )
    about = dataclasses.replace(about, guests=tagged)
    last = max((at for fault in faults for at, _ in fault.steps), default=FIRST_FAULT_SECONDS)
    calm_at = round(last + 30.0, 2)
    stays_off = rng.choice([*dice.names, "", ""])
    old = {node.name for node in about.nodes if node.version == mishaps_people.OLD_VERSION}
    stays_off = "" if cramped or stays_off in old else stays_off  # that is believed until it is seen
    depends = _dependencies(random.Random(f"order {seed}"), protect)
    lines = mended(about, stays_off)
    lines += tuple(line.replace("NODE", name) for name in dice.names for line in UPGRADED)
    own = random.Random(f"wishes of {seed}")
    wishes = _wishes(own, about, protect) if wishing else _ranks(own, protect) if cramped else NO_WISHES
    if limit is not None:
        lines += tuple(f"accept data loss {guest.vmid}" for guest in about.guests if guest.replicas)
        wishes = _with_policy(wishes, [guest.vmid for guest in about.guests if guest.replicas], protect)
    return Plan(
        seed,
        about,
        ("a", "b"),
        protect,
        tuple(faults),
        calm_at,
        lines,
        engine,
        depends,
        wishes,
        afterwards,
        confirmed,
        limit,
    )


def _share(seed: int, what: str, part: float, values: Sequence[V], anyway: bool = False) -> V | None:
    """One of `values` in `part` of all runs, or in each of them, drawn so that it changes nothing else."""
    rng = random.Random(f"{what} {seed}")
    return rng.choice(values) if rng.random() < part or anyway else None


def _opening(rng: random.Random, dice: Dice, about: config.Config, by_word: bool) -> Fault:
    """What nothing else has disturbed yet: a person's word, or the loss of a node that stays away. Later most
    losses fall into storms, in which nothing is begun."""
    if by_word:
        kind = rng.choice(sorted(mishaps.OF_WORDS))
        lines = mishaps.KINDS[kind](dice, about)
    else:
        kind, how = rng.choice(
            [("power-loss", "power off"), ("hang", "hang node"), ("network-cut", "cut network")]
        )
        lines = [(0.0, f"{how} {rng.choice(about.guests).node}")]
    return Fault(kind, tuple((round(FIRST_FAULT_SECONDS + at, 2), line) for at, line in lines))


def _with_chassis(seed: int, about: config.Config, anyway: bool) -> config.Config:
    """Two nodes in one chassis, in some runs in which two others remain, and each node has a BMC."""
    fit = len(about.nodes) > 3 and all(node.has_bmc for node in about.nodes)
    pairs = tuple(itertools.combinations(sorted(node.name for node in about.nodes), 2))
    twins = (_share(seed, "chassis", CHASSIS_SHARE, pairs, anyway) if fit else None) or ()
    nodes = tuple(
        dataclasses.replace(node, chassis="c1") if node.name in twins else node for node in about.nodes
    )
    return dataclasses.replace(about, nodes=nodes)


def _upgrading(rng: random.Random, dice: Dice, about: config.Config) -> tuple[config.Config, Fault]:
    """Some nodes begin with the old version of Proxmox VE, and are upgraded."""
    old = rng.sample(dice.names, rng.randint(1, len(dice.names)))
    nodes = tuple(
        dataclasses.replace(node, version=mishaps_people.OLD_VERSION) if node.name in old else node
        for node in about.nodes
    )
    about = dataclasses.replace(about, nodes=nodes)
    (kind,) = mishaps.OF_UPGRADES
    lines = mishaps.KINDS[kind](Dice(rng, dice.names, dice.vmids), about)
    return about, Fault(kind, tuple((round(FIRST_FAULT_SECONDS + at, 2), line) for at, line in lines))


def _cramped(about: config.Config) -> config.Config:
    """Each node has room for its share of the guests, all registered by pveha: mostly, the loss of one leaves
    somebody down."""
    names = [node.name for node in about.nodes]
    guests_ = tuple(
        dataclasses.replace(guest, node=names[number % len(names)], memory=CRAMPED_BYTES, ha=None)
        for number, guest in enumerate(about.guests)
    )
    most = -(-len(guests_) // len(names))
    memory = most * CRAMPED_BYTES + CRAMPED_BYTES // 2
    nodes = tuple(dataclasses.replace(node, memory=memory) for node in about.nodes)
    return dataclasses.replace(about, nodes=nodes, guests=guests_)


def _replicated(rng: random.Random, about: config.Config) -> config.Config:
    """Most guests are on ZFS of their node, with a replica or two elsewhere."""
    names = [node.name for node in about.nodes]
    found = []
    for guest in about.guests:
        others = [name for name in names if name != guest.node]
        others = rng.sample(others, min(len(others), rng.choice([1, 1, 2])))
        copies = tuple(
            config.Replica(name, rng.choice(SYNC_SECONDS), rng.uniform(5.0, 60.0)) for name in others
        )
        local = rng.random() < 0.7
        found.append(dataclasses.replace(guest, storages=("zfs",), replicas=copies) if local else guest)
    storages = (*about.storages, config.Storage("zfs", shared=False, type="zfspool"))
    return dataclasses.replace(about, guests=tuple(found), storages=storages)


def _with_policy(wishes: Wishes, vmids: Sequence[int], protect: Sequence[int]) -> Wishes:
    """These guests have POLICY, which lets them be started from replicas."""
    policy = {"policyRef": {"name": POLICY}}
    found = {vmid: {**wishes.guests.get(vmid, {}), **policy} for vmid in vmids if vmid in protect}
    return dataclasses.replace(wishes, guests={**wishes.guests, **found})


def _ranks(rng: random.Random, protect: Sequence[int]) -> Wishes:
    """Priorities, and who may be stopped for a higher one."""
    found = {
        vmid: {
            "priority": rng.choice([10, 10, 100, 500]),
            "preemption": rng.choice(["Allowed", "Allowed", "Never"]),
        }
        for vmid in protect
    }
    return Wishes(guests=found)


def _wishes(rng: random.Random, about: config.Config, protect: Sequence[int]) -> Wishes:
    """Wishes that can be met while any two nodes are up: each guest has one, and a group is a pair."""
    names = [node.name for node in about.nodes]
    left = rng.sample(protect, len(protect))
    groups: list[dict[str, str]] = []
    found: dict[int, dict[str, Any]] = {}
    while left:
        what = rng.choice(["Separate", "Separate", "Together", "Required", "Preferred"])
        if what in ("Separate", "Together") and len(left) > 1:
            name = f"g{len(groups) + 1}"
            strength = rng.choice(["Required", "Required", "Required", "Preferred"])
            key = {"topologyKey": "Zone"} if rng.random() < 0.3 else {}
            groups.append({"name": name, "rule": what, "enforcement": strength, **key})
            for vmid in (left.pop(), left.pop()):
                found[vmid] = {"policyRef": {"name": POLICY}, "placement": {"groups": [name]}}
            continue
        of_nodes: dict[str, Any] = {"name": "nodes", "nodes": rng.sample(names, 2), "enforcement": "Required"}
        if what != "Required":
            of_nodes |= {"enforcement": "Preferred", "weight": rng.randint(1, 1000)}
        found[left.pop()] = {"placement": {"nodeAffinity": [of_nodes]}}
    zones = {name: f"zone-{number % 2}" for number, name in enumerate(names)}
    return Wishes(tuple(groups), found, zones)


def _dependencies(rng: random.Random, protect: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Who depends on whom, in two of three runs; now and then in a circle."""
    if rng.random() < 0.33:
        return ()
    pairs = {(one, other) for one in protect for other in protect if one > other and rng.random() < 0.4}
    if pairs and rng.random() < 0.1:
        one, other = min(pairs)
        pairs.add((other, one))
    return tuple(sorted(pairs))


def _data_centre(
    rng: random.Random,
    seed: int,
    nodes: int | None,
    guest_count: int | None,
    asked: frozenset[str] = frozenset(),
) -> config.Config:
    """One that can have the kinds of faults that are asked for. An even number of nodes that is given has a
    QDevice."""
    count = nodes or rng.choice([4, 4, 5] if asked & mishaps.OF_CHASSIS else [3, 3, 3, 4, 5])
    names = [f"pve{number}" for number in range(1, count + 1)]
    found = []
    for vmid in range(101, 101 + (guest_count or rng.randint(2, 6))):
        state = rng.choice([cluster.HAState.STARTED] * 5 + [cluster.HAState.STOPPED])
        kind = rng.choice([guests.GuestKind.VM] * 4 + [guests.GuestKind.CONTAINER])
        ref = guests.GuestRef(vmid, kind)
        registered = rng.random() < 0.7
        ha = cluster.HAResource(ref.sid, state, rng.choice(["", "the owner's text"]), rng.random() < 0.3)
        found.append(
            config.Guest(
                vmid,
                rng.choice(names),
                kind,
                running=state is cluster.HAState.STARTED,
                ha=ha if registered else None,
                onboot=rng.random() < 0.5,
            )
        )
    restores = [rng.choice(["off", "on", "last"]) for _ in names]
    fit = [power for power in POWER if all(mishaps.possible(kind, *power) for kind in asked)]
    if asked & mishaps.OF_CHASSIS:
        fit = [(pdus, has_bmc) for pdus, has_bmc in fit if has_bmc]
    pdus, has_bmc = rng.choice(fit or POWER)
    return config.Config(
        tuple(
            config.Node(name, power_restore=restore, pdus=pdus, has_bmc=has_bmc)
            for name, restore in zip(names, restores, strict=True)
        ),
        guests=tuple(found),
        storages=_storages(seed),
        qdevice=config.Qdevice() if nodes and nodes % 2 == 0 else None,
        timings=config.Timings(crm_round_takes=(0.02, 1.5)),
        seed=seed,
        master=rng.choice(names),
        shutdown_policy=rng.choice(["conditional", "freeze", "failover", "migrate"]),
    )


def _storages(seed: int) -> tuple[config.Storage, ...]:
    """The shared one is a shared LVM in most runs, which has no lock at all, and else NFS or RBD."""
    kind, seconds = _share(seed, "storage", LOCKS_SHARE, LOCKS) or ("lvm", 0.0)
    return (
        config.Storage("shared", type=kind, lock_seconds=seconds),
        config.Storage("local", shared=False, type="dir"),
    )


def mended(
    about: config.Config, stays_off: str = "", operators: Sequence[str] = ("a", "b")
) -> tuple[str, ...]:
    """Lines that mend everything; the node `stays_off` stays off if it is."""
    names = [node.name for node in about.nodes]
    lines = ["straighten pdus", "heal", "heal operator all", "slow crm 0", "expected votes 0", "arm"]
    lines += ["heal kubernetes all", "remove rule user-1"]
    lines += ["deliver kubernetes answers all", "unpause", "mode Enforce", "take over another"]
    lines += [f"corosync {option} 0" for option in membership.UNSAFE_OPTIONS]
    for name in names:
        lines += [line.replace("NODE", name) for line in MENDING]
        lines += [f"start {service} {name}" for service in machine.SERVICES]
        if name != stays_off:
            lines.append(f"power on {name}")
    lines += ["straighten bmcs", f"rebind {','.join(names)}"]
    lines += [f"start operator {name}" for name in operators]
    lines += [f"unlock guest {guest.vmid}" for guest in about.guests]
    return tuple(lines)
