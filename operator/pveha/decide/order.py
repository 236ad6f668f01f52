"""Which guests of a recovery may start now, and who waits for whom: a graph, priorities and a clock.

A guest waits until all that it depends on is ready, or until that has had its time and its policy says to go
on without it. Whoever waits for nothing starts: a slow branch holds up nobody beside it. Guests that depend
on each other in a circle wait for nothing, so that none of them is lost to a mistake in a manifest.
"""

import collections
import dataclasses
from collections.abc import Collection, Mapping

Key = tuple[int, int, int]
"""Sort key of recovery, as `protection.Protected.order`: what is smaller comes first."""


@dataclasses.dataclass(frozen=True, slots=True)
class Guest:
    """One guest as the order sees it. `key` sorts those that may start."""

    name: str
    key: Key
    after: frozenset[str] = frozenset()
    """Names of the guests that it depends on."""
    starting: bool = False
    """It is down, and to be started as soon as it may."""
    ready: bool = False
    """Who depends on it need not wait for it."""
    unready: str = ""
    """What is missing for that, as a clause: `its guest agent does not answer`."""
    since: float | None = None
    """Since when its time runs (the loop's time); None: it does not yet."""
    timeout: float = 300.0
    """Seconds that it has to become ready."""
    stops: bool = False
    """When they are over, who depends on it stays down."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """Why a guest is not started yet. `stopped`: not before somebody helps, as time is over."""

    on: tuple[str, ...]
    sentence: str
    stopped: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """What follows. Everything is by name."""

    start: tuple[str, ...] = ()
    """Who may start now, the most important first."""
    waits: Mapping[str, Wait] = dataclasses.field(default_factory=dict)
    overdue: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Who may start although these, which it depends on, are not ready: their time is over."""
    awaited: frozenset[str] = frozenset()
    """Whose readiness matters to anybody who is to be started, and whose time may run: those that wait
    themselves are not among them."""


NOTHING = Order()


def plan(guests: Mapping[str, Guest], circles: Collection[str], now: float) -> Order:
    """Who may start at `now`. A dependency that is not among `guests` is not waited for, and who is in one of
    `circles` waits for nobody."""
    candidates = sorted((each for each in guests.values() if each.starting), key=lambda each: each.key)
    start, waits, overdue = [], {}, {}
    needed: set[str] = set()
    for guest in candidates:
        missing = []
        if guest.name not in circles:
            needed |= guest.after & guests.keys()
            missing = [guests[name] for name in sorted(guest.after) if name in guests]
            missing = [each for each in missing if not each.ready]
        late = [each for each in missing if _is_over(each, now)]
        in_the_way = [each for each in missing if each not in late or each.stops]
        if in_the_way:
            waits[guest.name] = _wait(in_the_way, late)
            continue
        start.append(guest.name)
        if late:
            overdue[guest.name] = tuple(each.name for each in late)
    return Order(tuple(start), waits, overdue, frozenset(needed - waits.keys()))


def _is_over(guest: Guest, now: float) -> bool:
    return guest.since is not None and now - guest.since >= guest.timeout


def _wait(missing: list[Guest], late: list[Guest]) -> Wait:
    clauses = []
    for each in missing:
        why = f"{each.name} to be ready ({each.unready})"
        if each in late:
            why += f", for more than {each.timeout:g} s: its policy says startup.onTimeout: Stop"
        clauses.append(why)
    stopped = any(each in late for each in missing)
    return Wait(tuple(each.name for each in missing), f"waits for {'; and for '.join(clauses)}", stopped)


def in_circles(after: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    """Everybody who depends on himself, directly or not, with the shortest such circle: himself, who he
    depends on, and so on, himself again."""
    found = {}
    for name in sorted(_turning(after)):
        came_from: dict[str, str] = {}
        queue = collections.deque([name])
        while queue and name not in came_from:
            each = queue.popleft()
            for other in sorted(after.get(each, ())):
                if other not in came_from:
                    came_from[other] = each
                    queue.append(other)
        if name in came_from:
            circle = [name]
            while len(circle) == 1 or circle[-1] != name:
                circle.append(came_from[circle[-1]])
            found[name] = tuple(reversed(circle))
    return found


def _turning(after: Mapping[str, Collection[str]]) -> set[str]:
    """Who is left when those without dependencies, and those without dependents, are taken out again and
    again: circles, and what lies between two of them."""
    left = {name: set(others) for name, others in after.items()}
    while True:
        wanted = {other for others in left.values() for other in others}
        ends = [name for name, others in left.items() if name not in wanted or not others & left.keys()]
        if not ends:
            return set(left)
        for name in ends:
            del left[name]
