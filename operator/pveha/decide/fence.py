"""When a lost node is fenced, and who has to agree that it is gone."""

from collections.abc import Iterable

from pveha.api import hacluster
from pveha.decide import evidence, levels, memory
from pveha.model import operations, snapshot

ALIVE_SECONDS = 10.0
"""An LRM's timestamp that moves this long after a loss was written after it: what is read may be a round
old."""


def fence(
    name: str,
    verdict: evidence.Verdict,
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    members: evidence.Membership,
) -> operations.Fence | None:
    """A fence of a lost node, once patience is over."""
    survivors = evidence.survivors(members)
    due = verdict.fence_at is not None and verdict.fence_at <= seen.now
    if (
        not due
        or not evidence.announcements_read(seen, memo.node(name).offline_since or seen.now)
        or verdict.level is None
        or votes_unsafe(seen, survivors)
    ):
        return None
    configured = spec.node(name)
    remembered = memo.node(name)
    return operations.Fence(
        id=f"fence.{remembered.failure}.{remembered.fence_attempts}",
        node=name,
        failure=remembered.failure,
        owner=seen.owner,
        survivors=tuple(sorted(survivors, key=lambda each: f"shell/{each}" in seen.problems)),
        level=verdict.level.number,
        methods=verdict.level.methods,
        node_answered=_is_heard(name, seen, spec, remembered),
        alive=alive_witnesses(name, seen, memo, members),
        also=tuple(other for other in configured.also_cuts_off if other in members.nodes)
        if configured is not None
        else (),
        watchers=levels.watchers(spec, name, remembered, verdict.level.number),
    )


def _is_heard(
    name: str, seen: snapshot.Snapshot, spec: hacluster.HAClusterSpec, remembered: memory.NodeMemory
) -> bool:
    """Whether an answer of the node itself is no news, or no reason to wait any longer (S5)."""
    probe = seen.probes.get(name)
    answers = probe is not None and probe.failed_since is None
    since = remembered.offline_since
    return answers or (since is not None and seen.now - since >= spec.safety.isolated_grace_seconds)


def votes_unsafe(seen: snapshot.Snapshot, among: Iterable[str]) -> str:
    """Why quorum does not exclude a second quorate partition (S6), or an empty string."""
    told = [seen.shells[name] for name in among if name in seen.shells]
    if not told:
        return "no node shell has told the votes of corosync yet"
    for shell in told:
        if shell.votes.unsafe_options:
            options = ", ".join(sorted(shell.votes.unsafe_options))
            return f"corosync on {shell.node} uses {options}: remove it from corosync.conf"
        if not shell.votes.trustworthy:
            configured = sum(shell.votes.configured.values()) + shell.votes.qdevice
            return (
                f"corosync on {shell.node} expects {shell.votes.expected} votes but {configured} are "
                f"configured: 'pvecm expected {configured}'"
            )
    return ""


def without_qdevice(seen: snapshot.Snapshot, among: Iterable[str]) -> tuple[str, ...]:
    """The nodes that do not count the vote of the QDevice that they have."""
    told = (seen.shells[name] for name in among if name in seen.shells)
    return tuple(shell.node for shell in told if shell.quorate and shell.lacks_qdevice)


def alive_witnesses(
    lost: str, seen: snapshot.Snapshot, memo: memory.Memory, members: evidence.Membership
) -> frozenset[str]:
    """Quorate nodes that say `lost` is gone and whose LRM has written its state since: not frozen (S6).

    They stand in for nodes whose node shell does not answer.
    """
    since = memo.node(lost).offline_since
    return frozenset(
        view.witness
        for view in members.witnesses
        if since is not None
        and not view.online.get(lost, False)
        and view.answered_at > since
        and memo.node(view.witness).lrm_moved_at > since + ALIVE_SECONDS
    )
