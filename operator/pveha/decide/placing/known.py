"""Answers given before, taken again while all that they follow from is the same, and those that are being
worked out over several rounds."""

import dataclasses
from collections.abc import Generator, Mapping

from pveha.decide.placing import admission, problem, singles
from pveha.decide.placing import plan as engine

KEPT = 8
"""Plans for one moment that are kept: one for each node that is lost or being emptied."""


SEARCHES = 2
"""Plans for single nodes that a round searches for: each takes up to 0.1 s."""


PLACINGS = 12_000
"""Work on one question of capacity in a round: less than 0.1 s."""
SINGLES_SHARE = 0.5
"""Of the processor: each guest's own plan should be told within seconds, ..."""
CAPACITY_SHARE = 0.2
"""... and what the whole has room for may take a minute."""
BAND = 64
"""What nodes have in use counts for capacity as changed when it has moved by this part of the node's
memory."""


@dataclasses.dataclass(slots=True)
class _Admitting:
    """A question of capacity."""

    asked: tuple[problem.Problem, int, admission.Units]
    work: Generator[int, None, admission.Admission] | None
    """None: `answer` is the answer to it."""
    answer: admission.Admission | None = None
    """While there is work, the one to the question before, if only the cluster is another."""


class Known:
    """What the rounds before have found."""

    __slots__ = ("_admitting", "_plans", "_singles", "_singles_of", "unfinished")

    def __init__(self) -> None:
        self.unfinished = 0.0
        """Part of the processor that asking again is worth, because an answer may change by it; 0: none may.
        Whoever wants to know sets it to 0 first."""
        self._admitting: dict[str, _Admitting] = {}
        self._plans: list[tuple[problem.Problem, bool, engine.Placement]] = []
        self._singles: singles.Singles | None = None
        self._singles_of: problem.Problem | None = None

    def plan(self, asked: problem.Problem, *, preempt: bool = False) -> engine.Placement:
        """`engine.plan` with no further node thought away."""
        for known, preempted, made in self._plans:
            if preempted is preempt and known == asked:
                return made
        made = engine.plan(asked, frozenset(), preempt)
        self._plans = [(asked, preempt, made), *self._plans[: KEPT - 1]]
        return made

    def each(self, asked: problem.Problem) -> Mapping[str, engine.Placement]:
        """`singles.plan_each`, a few searches in each round."""
        known = self._singles
        if known is None or known.behind or self._singles_of != asked:
            known = self._singles = singles.plan_each(asked, known, SEARCHES)
            self._singles_of = asked
        if known.behind:
            self.unfinished = max(self.unfinished, SINGLES_SHARE)
        return known.plans

    def admit(
        self, about: str, asked: problem.Problem, failures: int, units: admission.Units
    ) -> admission.Admission | None:
        """`admission.admit`, some of the work in each round; the newest answer there is, or None. Questions
        that differ in what they are `about` are worked on independently."""
        known = self._admitting.get(about)
        if known is not None:
            asked = _steadied(asked, known.asked[0])
        question = asked, failures, units
        if known is None or known.asked[1:] != question[1:]:
            known = self._admitting[about] = _Admitting(question, admission.admitting(*question))
        elif known.work is None and known.asked != question:
            known.asked, known.work = question, admission.admitting(*question)
        left = PLACINGS
        while known.work is not None and left > 0:
            try:
                left -= next(known.work)
            except StopIteration as end:
                known.answer, known.work = end.value, None
        if known.work is not None:
            self.unfinished = max(self.unfinished, CAPACITY_SHARE)
        return known.answer


def _steadied(asked: problem.Problem, before: problem.Problem) -> problem.Problem:
    """`asked` with what nodes had in use `before`, where that has hardly changed."""
    old = {node.name: node.used_memory for node in before.nodes}
    nodes = tuple(
        dataclasses.replace(node, used_memory=old[node.name])
        if node.used_memory != old.get(node.name, node.used_memory)
        and abs(node.used_memory - old[node.name]) * BAND < node.memory
        else node
        for node in asked.nodes
    )
    return dataclasses.replace(asked, nodes=nodes)
