"""Two nodes lost at the same time."""

import dataclasses

from pveha.model import snapshot
from unit.decide import moment


def later(at: snapshot.Snapshot, seconds: float) -> snapshot.Snapshot:
    """The same seen again, with pve3, which holds no guest, gone too."""
    assert at.ha_status is not None
    assert at.inventory is not None
    guests = {
        vmid: dataclasses.replace(guest, node="pve1") if guest.node == "pve3" else guest
        for vmid, guest in at.inventory.guests.items()
    }
    view = at.views["pve1"]
    gone = dataclasses.replace(view, online={**view.online, "pve3": False}, answered_at=at.now + seconds)
    return dataclasses.replace(
        at,
        now=at.now + seconds,
        wall=at.wall + seconds,
        views={"pve1": gone},
        inventory=dataclasses.replace(at.inventory, guests=guests),
        ha_status=dataclasses.replace(at.ha_status, answered_at=at.now + seconds),
    )


def test_the_last_failure_does_not_alternate_between_them() -> None:
    """Found by `quiet is quiet`: the status was written every second as long as both stayed away."""
    at = moment.moment((60.0, "power off pve2"), until=74.0)
    memo, told = at.memo, []
    for second in range(1, 9):
        decision = moment.Moment(later(at.seen, second), at.wanted, memo).decide()
        memo = decision.memory
        told.append(decision.report.cluster.last_failure)
    assert told[-1] is not None
    assert told[-3:] == [told[-1]] * 3
