"""Changes of HA resources that fail are tried again, but not in every round."""

import dataclasses

from pveha.decide import outcomes
from pveha.model import operations
from unit.decide import moment


def test_broken_off_changes_pause_for_a_moment() -> None:
    now = moment.moment(until=40.0)
    edit = operations.EditHA("edit.1.1", ())
    for refused, error, pause in (
        ((), "", 0.0),
        (
            (),
            "8.7 s of the lease are left, 10 s are needed: nothing was sent",
            outcomes.REFUSED_RETRY_SECONDS,
        ),
        ((operations.Edit("vm:101", None, None, "x"),), "no quorum", outcomes.EDIT_RETRY_SECONDS),
    ):
        outcome = operations.Outcome(now.seen.now, error=error, refused=refused)
        state = operations.OperationState(edit, now.seen.now, now.seen.wall, "", outcome)
        seen = dataclasses.replace(now.seen, operations=(state,))
        decision = dataclasses.replace(now, seen=seen).decide()
        assert decision.memory.edit_retry_at == now.seen.now + pause
