"""What a node's fencing methods say together, level by level (S1, S3), and which level would be used."""

import dataclasses

from pveha.api import fencing, hacluster, meta
from pveha.decide import memory as memories
from pveha.model import operations, power, snapshot

POWER_FRESH_SECONDS = 10.0
"""A power reading older than this says nothing (S2 wants claims no later than 10 s after one)."""
READING_SECONDS = 5.0
"""How long the power of a node that has just gone may take to be read: in calm times it is read rarely."""

Methods = list[tuple[fencing.FencingMethod, fencing.NodeFencing]]


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """One level. `state` is what its methods read together: Off if all do, On if any does; None: unknown."""

    number: int
    methods: tuple[operations.Method, ...]
    state: power.PowerState | None
    why: str = ""
    """Why `state` is unknown."""
    awaited: bool = False
    """Bound, and not asked in vain: a reading may come any moment."""

    @property
    def off_since(self) -> float | None:
        """Since when all of it has read off."""
        since = [method.off_since for method in self.methods if not method.manual]
        known = [each for each in since if each is not None]
        return max(known, default=None) if len(known) == len(since) else None

    @property
    def sign(self) -> str:
        """What it reads, for people."""
        device = "its BMC" if all(method.tells_who for method in self.methods) else "its power"
        if all(method.manual for method in self.methods):
            return "a person has confirmed that it is off"
        return f"{device} reads {'off' if self.state is power.PowerState.OFF else 'on'}"


def levels(
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    name: str,
    remembered: memories.NodeMemory,
    untrusted: frozenset[str] = frozenset(),
) -> tuple[Level, ...]:
    """Every level of node `name`; methods that are `untrusted` say nothing."""
    return tuple(
        _level(number, methods, seen, name, remembered, untrusted) for number, methods in spec.levels(name)
    )


def _level(
    number: int,
    methods: Methods,
    seen: snapshot.Snapshot,
    name: str,
    remembered: memories.NodeMemory,
    untrusted: frozenset[str],
) -> Level:
    states, reasons, awaited = [], [], True
    for method, _ in methods:
        state, why, may_come = _state(method, seen, name, remembered, untrusted)
        states.append(state)
        awaited = awaited and (state is not None or may_come)
        if state is None:
            reasons.append(why if method.tells_who or method.manual else f"{why} ({method.name})")
    return Level(
        number,
        tuple(_method(method, name, remembered) for method, _ in methods),
        None if reasons else _together(states),
        ", ".join(dict.fromkeys(reasons)),
        bool(reasons) and awaited,
    )


def _together(states: list[power.PowerState | None]) -> power.PowerState:
    if all(state is power.PowerState.OFF for state in states):
        return power.PowerState.OFF
    return power.PowerState.ON if power.PowerState.ON in states else power.PowerState.CHANGING


def _method(method: fencing.FencingMethod, name: str, remembered: memories.NodeMemory) -> operations.Method:
    return operations.Method(
        power.Switch(name, method.name),
        remembered.identities if method.tells_who else frozenset(),
        float(method.effective_timeout_seconds),
        method.manual is not None,
        remembered.method(method.name).off_since,
    )


def _state(
    method: fencing.FencingMethod,
    seen: snapshot.Snapshot,
    name: str,
    remembered: memories.NodeMemory,
    untrusted: frozenset[str],
) -> tuple[power.PowerState | None, str, bool]:
    """What a method reads now; if nothing that counts, why, and whether that may change by itself."""
    if method.manual is not None:
        return _confirmation(method.manual, seen, name, remembered)
    known = remembered.method(method.name)
    if known.voided or method.name in untrusted:
        return None, known.voided or f"{method.name} contradicts what the cluster shows", False
    if not known.bound:
        text = "no BMC was bound to it while it was online" if method.tells_who else "no drill has bound it"
        return None, text, False
    switch = power.Switch(name, method.name)
    reading = fresh(seen, switch)
    if reading is not None and (
        not method.tells_who or power.same_machine(reading.identities, remembered.identities)
    ):
        return reading.state, "", False
    device = "its BMC" if method.tells_who else "its outlet"
    if problem := seen.problems.get(f"power/{switch}"):
        return None, f"{device} does not answer ({problem.message})", False
    return None, f"{device} has not answered lately", True


def _confirmation(
    manual: fencing.Manual, seen: snapshot.Snapshot, name: str, remembered: memories.NodeMemory
) -> tuple[power.PowerState | None, str, bool]:
    """A person's word counts for this failure, for a time, and against no sign of life (S1)."""
    if remembered.refuted:
        return None, f"the confirmation that it is off was wrong: {remembered.refuted}", False
    if remembered.confirmed_at is None:
        text = "nobody has confirmed that it is off: once it is, annotate the HACluster with "
        return None, f"{text}{meta.CONFIRM_OFF_ANNOTATION}={remembered.failure}", False
    if seen.now - remembered.confirmed_at > manual.effective_confirmed_seconds:
        return None, "the confirmation that it is off is too old", False
    if alive := signs_of_life(seen, name, remembered, float("-inf")):
        return None, f"it was confirmed to be off, but {alive}", False
    return power.PowerState.OFF, "", False


def signs_of_life(seen: snapshot.Snapshot, name: str, remembered: memories.NodeMemory, after: float) -> str:
    """What shows that the node lives or has power, asked later than `after`, or an empty string.

    A device that says it speaks of this very machine need not be bound for that.
    """
    probe = seen.probes.get(name)
    if probe is not None and probe.failed_since is None and probe.asked_at > after:
        return f"{name} answers"
    for switch, reading in seen.power.items():
        if (
            switch.node == name
            and reading.state is not power.PowerState.OFF
            and reading.asked_at > after
            and reading.answered_at >= seen.now - POWER_FRESH_SECONDS
            and power.same_machine(reading.identities, remembered.identities)
        ):
            return f"its BMC ({switch.method}) reads {reading.state.value}"
    return ""


def fresh(seen: snapshot.Snapshot, switch: power.Switch) -> power.PowerReading | None:
    """The switch's reading, if it is not too old."""
    reading = seen.power.get(switch)
    if reading is None or reading.answered_at < seen.now - POWER_FRESH_SECONDS:
        return None
    return reading


def contradicted(
    seen: snapshot.Snapshot, spec: hacluster.HAClusterSpec, name: str, remembered: memories.NodeMemory
) -> frozenset[str]:
    """Methods that read off while the node answers a call made after that: they switch another machine (S1).

    A device that names the machine contradicts by itself; outlets only if all of a level do, because one of
    two power supplies may be off.
    """
    probe = seen.probes.get(name)
    if probe is None or probe.failed_since is not None or probe.answered_at < probe.asked_at:
        return frozenset()
    found: set[str] = set()
    for _, methods in spec.levels(name):
        off = {}
        for method, _ in methods:
            reading = fresh(seen, power.Switch(name, method.name))
            known = remembered.method(method.name)
            if method.manual is not None or reading is None or not known.bound or known.voided:
                continue
            if method.tells_who and not power.same_machine(reading.identities, remembered.identities):
                continue
            if reading.state is power.PowerState.OFF and probe.asked_at > reading.answered_at:
                off[method.name] = method.tells_who
        outlets = [method.name for method, _ in methods if method.agent is not None]
        found |= {each for each, tells_who in off.items() if tells_who}
        if outlets and all(each in off for each in outlets) and len(outlets) == len(methods):
            found |= set(outlets)
    return frozenset(found)


def choose(found: tuple[Level, ...], tried: frozenset[int]) -> tuple[Level | None, bool]:
    """The level to fence by: the first that can be read and was not tried in vain, else the first that can be
    read; and whether a level before it may be read any moment."""
    awaited = False
    for level in found:
        if level.state is not None and level.number not in tried:
            return level, awaited
        awaited = awaited or (level.awaited and level.number not in tried)
    return next((level for level in found if level.state is not None), None), awaited


def provable(level: Methods, remembered: memories.NodeMemory) -> bool:
    """Whether all methods of a level are bound; a person counts as such."""
    return all(
        method.manual is not None
        or (remembered.method(method.name).bound and not remembered.method(method.name).voided)
        for method, _ in level
    )


def by_a_person(level: Methods) -> bool:
    """Whether the level needs a person."""
    return any(method.manual is not None for method, _ in level)


def watchers(
    spec: hacluster.HAClusterSpec, name: str, remembered: memories.NodeMemory, number: int
) -> tuple[operations.Method, ...]:
    """The methods of other levels whose readings name the node: none may read on once level `number` reads
    off."""
    return tuple(
        _method(method, name, remembered)
        for other, level in spec.levels(name)
        for method, _ in level
        if other != number and method.tells_who and remembered.identities
    )
