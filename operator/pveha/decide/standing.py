"""Whose status stands still while a failure is handled: of guests that it does not concern.

Their plans may change with the lost node, and they are told when it is over. Until then the API server has to
do with those that are being recovered alone, however many others there are.
"""

from pveha.decide import evidence, protection, report_guests, told
from pveha.model import operations

UNDECIDED_SECONDS = 15.0
"""How long a node may be on its way to another state."""
HANDLED_SECONDS = 60.0
"""How long an operation of a failure may take; after that its end is not waited for."""
ON_THE_WAY = evidence.PASSING | {evidence.State.DOWN}


def standing(now: told.Round) -> frozenset[str]:
    """Names of ProtectedVMs of which nothing is to be told in this round."""
    if not _is_handled(now):
        return frozenset()
    moving = now.seen.takeovers().keys() | now.startup.waits.keys() | now.memo.losses.keys()
    return frozenset(
        guest.name
        for vmid, guest in now.protected.guests.items()
        if vmid not in moving and _is_beside(guest, now)
    )


def _is_handled(now: told.Round) -> bool:
    return any(_is_in_doubt(name, now) for name in now.verdicts) or any(
        isinstance(state.operation, operations.Fence | operations.Takeover)
        and state.outcome is None
        and now.seen.now - state.started_at < HANDLED_SECONDS
        for state in now.seen.operations
    )


def _is_in_doubt(name: str, now: told.Round) -> bool:
    """Whether a node is on its way to another state, or lost with guests that are to be taken over."""
    state, since = now.verdicts[name].state, now.seen.now - now.memo.node(name).state_since
    if state is evidence.State.FENCED:
        return since < HANDLED_SECONDS and name in now.recoveries and bool(now.recoveries[name].items)
    return state in ON_THE_WAY and since < UNDECIDED_SECONDS


def _is_beside(guest: protection.Protected, now: told.Round) -> bool:
    """Whether the guest runs where it did, under a status that tells of it as it is wanted now."""
    status, where = guest.pvm.status, now.verdicts.get(guest.seen.node)
    return (
        status.observed_generation == guest.pvm.metadata.generation
        and status.node == guest.seen.node
        and where is not None
        and where.state is evidence.State.ONLINE
        and guest.comment.mark is None
        and not guest.comment.preempted
        and status.last_failover == report_guests.last_failover(guest, now)
    )
