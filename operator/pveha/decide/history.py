"""Whether the quorate nodes know all that the cluster has ever agreed upon.

A node that was off while others went on, and then boots alone with the vote of a QDevice, is quorate with the
`/etc/pve` of before: guests are where they were, what was moved, registered or given back since is undone.
History forks, and when the others come back one of its branches is lost. So nothing is done on a branch that
lacks something that is known of the cluster. The epoch register tells: it only grows, and a new number is
written whenever a node has left such a cluster, so that its own copy lacks that.
"""

import enum
from collections.abc import Iterable

from pveha.decide import evidence, memory
from pveha.model import operations, snapshot

LAG_SECONDS = 5.0
"""What a node tells of the register may have been read so long before it is answered."""
LEFT_SECONDS = 15.0
"""A node that stays away for longer is noted in the register. Most losses are by the epoch of their fence."""


class Place(enum.Enum):
    """Where the quorate nodes are in the history of their cluster."""

    NEWEST = "newest"
    UNKNOWN = "unknown"
    """They have not told the register since it was last known to grow."""
    BEHIND = "behind"


def follow(memo: memory.Memory, seen: snapshot.Snapshot, members: evidence.Membership) -> memory.Memory:
    """Note what each node tells of the epoch register, and accept an older branch once every node is on it:
    then no other is left. What was read before history is known again is of another branch."""
    told = dict(memo.register)
    for name, shell in seen.shells.items():
        heard = memory.Heard(shell.newest_epoch, shell.answered_at, shell.quorate)
        if (old := told.get(name)) is None or _replaces(heard, old):
            told[name] = heard
    present = evidence.survivors(members)
    for state in seen.operations:
        begun = isinstance(state.operation, operations.Begin | operations.Fence)
        if begun and state.outcome is not None and state.outcome.epoch is not None:
            heard = memory.Heard(state.outcome.epoch, state.outcome.at, True)
            told |= {name: heard for name in present if name not in told or told[name].epoch <= heard.epoch}
    best = max(told.values(), key=lambda each: each.epoch, default=None)
    if best is not None and best.epoch > memo.newest:
        memo = memory.changed(memo, newest=best.epoch, newest_at=best.at)
    whole = members.quorate and members.nodes <= set(present)
    since = (memo.whole_since if memo.whole_since is not None else seen.now) if whole else None
    memo = memory.changed(memo, register=told, whole_since=since)
    where = place(memo, members)
    if where is Place.NEWEST and memo.in_doubt:
        memo = memory.changed(memo, quorate_since=seen.now)
    memo = memory.changed(memo, in_doubt=where is not Place.NEWEST)
    if since is None or where is not Place.BEHIND:
        return memo
    agreed = {told[n].epoch for n in present if n in told and told[n].at > since + LAG_SECONDS}
    if len(agreed) != 1:
        return memo
    return memory.changed(memo, newest=agreed.pop(), newest_at=seen.now, epoch=None)


def _replaces(heard: memory.Heard, old: memory.Heard) -> bool:
    """A smaller number than before counts only if it was surely read later."""
    return heard.at > (old.at if heard.epoch >= old.epoch else old.at + LAG_SECONDS)


def place(memo: memory.Memory, members: evidence.Membership) -> Place:
    """Whether any node of the quorate membership has the newest number that was ever told."""
    here = [memo.register[name] for name in evidence.survivors(members) if name in memo.register]
    if memo.newest == 0 or any(each.epoch >= memo.newest for each in here):
        return Place.NEWEST
    anew = any(each.quorate and each.at > memo.newest_at + LAG_SECONDS for each in here)
    return Place.BEHIND if anew else Place.UNKNOWN


def left_unnoted(
    memo: memory.Memory,
    seen: snapshot.Snapshot,
    members: evidence.Membership,
    verdicts: Iterable[str],
) -> bool:
    """Whether a node has left a cluster that can go on without a majority of nodes, and no number has been
    written since."""
    if not any(shell.votes.qdevice for shell in seen.shells.values()):
        return False
    gone = [memo.node(name).offline_since for name in verdicts]
    return any(since is not None and memo.newest_at < since < seen.now - LEFT_SECONDS for since in gone)
