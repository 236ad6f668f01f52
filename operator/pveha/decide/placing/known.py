"""Plans made before, taken again while all that they follow from is the same: what changes is only time."""

from collections.abc import Mapping

from pveha.decide.placing import plan as engine
from pveha.decide.placing import problem, singles

KEPT = 8
"""Plans for one moment that are kept: one for each node that is lost or being emptied."""


SEARCHES = 2
"""Plans for single nodes that a round searches for: each takes up to 0.1 s."""


class Known:
    """The plans of the rounds before."""

    __slots__ = ("_plans", "_singles", "_singles_of")

    def __init__(self) -> None:
        self._plans: list[tuple[problem.Problem, engine.Placement]] = []
        self._singles: singles.Singles | None = None
        self._singles_of: problem.Problem | None = None

    def plan(self, asked: problem.Problem) -> engine.Placement:
        """`engine.plan` with no further node thought away."""
        for known in self._plans:
            if known[0] == asked:
                return known[1]
        made = engine.plan(asked, frozenset())
        self._plans = [(asked, made), *self._plans[: KEPT - 1]]
        return made

    def each(self, asked: problem.Problem) -> Mapping[str, engine.Placement]:
        """`singles.plan_each`, a few searches in each round."""
        known = self._singles
        if known is None or known.behind or self._singles_of != asked:
            known = self._singles = singles.plan_each(asked, known, SEARCHES)
            self._singles_of = asked
        return known.plans
