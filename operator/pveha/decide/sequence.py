"""In which order the guests of lost nodes would be started, and when each is expected back.

It foretells what `order` and `failover` do round by round: who waits for nothing starts by priority, one turn
after the other; who depends on others starts when the last of them is ready, or has had its time.
"""

import dataclasses
import graphlib
import math
from collections.abc import Collection, Iterable, Mapping, Set

from pveha.decide import estimate, order, protection, readiness, told
from pveha.model import cluster, guests

TURN_SECONDS = 0.1
"""Between two guests of a node: each is disowned under a cluster-wide lock (40 guests: 4 s)."""
READY_SECONDS = 30.0
"""From a start until the guest agent answers, where no failover has told it yet."""
ASKED_SECONDS = 2.0
"""Between two questions to a guest agent: who started sooner after another had not waited for it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """The place of one guest."""

    number: int
    """1: it is the first to be started."""
    wave: int
    """1: it waits for nobody; n: for somebody of wave n - 1."""
    waits: tuple[str, ...] = ()
    """ProtectedVMs that it waits for."""
    overdue: tuple[str, ...] = ()
    """Those of them without which it is started when their time is over."""
    seconds: int | None = None
    """From the loss until it runs, rounded up; None: a person decides when, or it is not started."""
    held: str = ""
    """Why it is not started, a sentence: its policy says so. Empty: it is."""


def steps(
    going: Collection[protection.Protected], lost: Collection[protection.Protected], now: told.Round
) -> dict[int, Step]:
    """By vmid, for the guests that would be moved and are to run. `lost`: all guests of the lost nodes, also
    those that would stay down."""
    return _Forecast(going, {each.vmid for each in lost}, _Dependencies(now), now).steps()


class _Dependencies:
    """Who depends on whom in the whole cluster."""

    def __init__(self, now: told.Round) -> None:
        guests = now.protected.guests.values()
        self.dependents = [each for each in guests if each.pvm.spec.depends_on]
        self.by_name = {each.name: each for each in guests} if self.dependents else {}
        self.circles = order.in_circles({each.name: readiness.names_of(each) for each in self.dependents})


class _Forecast:
    """Times are seconds since the loss; infinite: never."""

    def __init__(
        self,
        going: Collection[protection.Protected],
        lost: Set[int],
        among: _Dependencies,
        now: told.Round,
    ) -> None:
        to_run = [each for each in going if protection.wanted_state(each) is cluster.HAState.STARTED]
        self._started = sorted(to_run, key=lambda each: each.order)
        self._going = {each.name: each for each in self._started}
        self._lost, self._all = lost, among.by_name
        self._proof = estimate.proof_seconds(now)
        self._asked = {
            name: estimate.needs_a_person(name, now) for name in {each.seen.node for each in self._started}
        }
        self._waits = {
            each.name: self._waited_for(each)
            for each in among.dependents
            if each.name in self._going and each.name not in among.circles
        }
        self._ready_after = self._learned(among.dependents)
        self._free: dict[str, float] = {}
        """From when on each waits for nobody."""
        self._start: dict[str, float] = {}
        self._runs: dict[str, float] = {}
        self._wave: dict[str, int] = {}

    def steps(self) -> dict[int, Step]:
        turn = {each.name: number * TURN_SECONDS for number, each in enumerate(self._started)}
        for name in self._in_turn():
            guest = self._going[name]
            own = self._proof + guest.policy.node_failure.delay_seconds
            waits = self._waits.get(name, [])
            self._free[name] = max((self._release(each) for each in waits), default=self._proof)
            self._start[name] = max(own + turn[name], self._free[name])
            learned = None if waits else estimate.learned_seconds(guest)
            runs = self._start[name] + estimate.START_SECONDS
            self._runs[name] = learned if learned is not None else runs
            self._wave[name] = 1 + max((self._wave.get(each, 1) for each in waits), default=0)
        ranked = sorted(self._started, key=lambda each: (self._start[each.name], each.order))
        return {guest.vmid: self._step(number, guest) for number, guest in enumerate(ranked, 1)}

    def _in_turn(self) -> Iterable[str]:
        """All names, each after those that it waits for."""
        if not self._waits:
            return self._going
        after = {name: self._going.keys() & self._waits.get(name, ()) for name in self._going}
        return graphlib.TopologicalSorter(after).static_order()

    def _step(self, number: int, guest: protection.Protected) -> Step:
        name, runs = guest.name, self._runs[guest.name]
        waits = self._waits.get(name, [])
        never = [each for each in waits if math.isinf(self._release(each))]
        held = ""
        if never:
            held = (
                f"it waits for {' and '.join(never)}, which would not get ready: the policy there says "
                "startup.onTimeout: Stop"
            )
        return Step(
            number,
            self._wave[name],
            tuple(waits),
            tuple(each for each in waits if each not in never and self._release(each) < self._ready(each)),
            None if self._asked[guest.seen.node] or never or math.isinf(runs) else estimate.rounded(runs),
            held,
        )

    def _waited_for(self, guest: protection.Protected) -> list[str]:
        """What it depends on that is not ready when the nodes are gone."""
        found = []
        for name in dict.fromkeys(readiness.names_of(guest)):
            other = self._all.get(name)
            if other is None or protection.wanted_state(other) is not cluster.HAState.STARTED:
                continue
            if other.vmid in self._lost or other.seen.status != "running":
                found.append(name)
        return found

    def _ready(self, name: str) -> float:
        """When it is ready."""
        if name not in self._runs:
            return math.inf
        guest = self._going[name]
        agent = guest.ref.kind is guests.GuestKind.VM and guest.config is not None and guest.config.agent
        if not agent:
            return self._runs[name] + guest.policy.startup.delay_seconds
        return self._runs[name] + self._ready_after.get(name, READY_SECONDS)

    def _release(self, name: str) -> float:
        """When those that depend on it need not wait for it any longer."""
        ready, startup = self._ready(name), self._all[name].policy.startup
        if startup.on_timeout is startup.on_timeout.STOP:
            return ready
        return min(ready, self._free.get(name, self._proof) + startup.ready_timeout_seconds)

    def _learned(self, dependents: list[protection.Protected]) -> dict[str, float]:
        """How long guests took to get ready in the last failover, as those tell that waited for them then."""
        found: dict[str, float] = {}
        for guest in dependents:
            for name in readiness.names_of(guest):
                other = self._going.get(name)
                if other is None:
                    continue
                mine, its = guest.pvm.status.last_failover, other.pvm.status.last_failover
                if mine is None or its is None or mine.id != its.id:
                    continue
                took, before = estimate.learned_seconds(guest), estimate.learned_seconds(other)
                if took is None or before is None:
                    continue
                waited = took - before - estimate.START_SECONDS
                if waited >= ASKED_SECONDS:
                    found[name] = min(waited, found.get(name, math.inf))
        return found


def of_plans(now: told.Round, targets: Mapping[str, Collection[int]]) -> dict[int, Step]:
    """For every node the steps of its own guests if it died alone; `targets`: by node, who would be moved."""
    there: dict[str, set[int]] = {}
    for vmid, guest in now.protected.guests.items():
        there.setdefault(guest.seen.node, set()).add(vmid)
    among = _Dependencies(now)
    found: dict[int, Step] = {}
    for name, moved in targets.items():
        going = [now.protected.guests[vmid] for vmid in moved]
        found |= _Forecast(going, there.get(name, set()), among, now).steps()
    return found
