"""Two nodes lost at the same time."""

import dataclasses

from pveha.model import cluster
from unit.decide import moment


def test_the_last_failure_does_not_alternate_between_them() -> None:
    """Found by `quiet is quiet`: the status was written every second as long as both stayed away."""
    at = moment.moment((60.0, "power off pve2"), until=74.0)
    gone = {
        name: cluster.MembershipView(
            view.witness,
            view.quorate,
            {**view.online, "pve3": False},
            view.addresses,
            view.answered_at,
        )
        for name, view in at.seen.views.items()
        if name == "pve1"
    }
    memo, told = at.memo, []
    for second in range(4):
        seen = dataclasses.replace(at.seen, views=gone, wall=at.seen.wall + second)
        decision = moment.Moment(seen, at.wanted, memo).decide()
        memo = decision.memory
        told.append(decision.report.cluster.last_failure)
    assert told[1:] == [told[1]] * 3
