"""Shortens a plan that violates an invariant to the faults that are needed for it."""

import dataclasses
from collections.abc import Callable

from pveha.sim import chaos, simulation


def shrink(
    plan: chaos.Plan, play: Callable[[chaos.Plan], simulation.Result] = simulation.play, tries: int = 60
) -> chaos.Plan:
    """The shortest plan found in at most `tries` runs in which the first violated rule is still violated."""
    found = play(plan).violations
    if not found:
        return plan
    rule = found[0].rule

    def broken(candidate: chaos.Plan) -> bool:
        return any(violation.rule == rule for violation in play(candidate).violations)

    size = max(1, len(plan.faults) // 2)
    while size and tries > 0:
        start, shorter = 0, False
        while start < len(plan.faults) and tries > 0:
            left = plan.faults[:start] + plan.faults[start + size :]
            candidate = dataclasses.replace(plan, faults=left)
            tries -= 1
            if broken(candidate):
                plan, shorter = candidate, True
            else:
                start += size
        if not shorter or size > len(plan.faults):
            size //= 2
    return plan
