"""Keep protected guests registered in Proxmox's own HA, the safety net, and leave everybody else's entries
alone."""

from collections.abc import Mapping

from pveha.api import failoverpolicy, protectedvm
from pveha.decide import evidence, protection
from pveha.model import cluster, guests, mark, operations, snapshot


def edits(
    seen: snapshot.Snapshot,
    verdicts: Mapping[str, evidence.Verdict],
    protected: protection.Protection,
    released: frozenset[int],
) -> list[operations.Edit]:
    """Changes of HA resources: missing ones are created, our own kept as the policy says and removed with the
    ProtectedVM.

    `released` are the vmids without a ProtectedVM whose entry may go (`enrolment`).
    """
    if seen.ha_config is None or seen.ha_status is None or not seen.ha_status.armed:
        return []
    result = []
    for guest in sorted(protected.guests.values(), key=lambda each: each.vmid):
        where = verdicts.get(guest.seen.node)
        if where is None or where.state is not evidence.State.ONLINE:
            continue
        if guest.registered is None:
            edit = _create(guest, seen.owner)
        elif guest.comment.owner == seen.owner and guest.comment.mark is None and not guest.comment.preempted:
            edit = _tend(guest, guest.registered)
        else:
            edit = None
        if edit is not None:
            result.append(edit)
    for sid, resource in sorted(seen.ha_config.resources.items()):
        ref = guests.parse_sid(sid)
        comment = mark.parse(resource.comment)
        at_rest = comment.owner == seen.owner and comment.mark is None and not comment.preempted
        if ref is not None and at_rest and ref.vmid in released:
            result.append(
                operations.Edit(sid, resource, None, "its ProtectedVM is gone: unregistered, left running")
            )
    return result


def _create(guest: protection.Protected, owner: str) -> operations.Edit | None:
    strategy = guest.pvm.spec.run_strategy
    if strategy is protectedvm.RunStrategy.FOLLOW and guest.seen.status not in ("running", "stopped"):
        return None
    runs = strategy is protectedvm.RunStrategy.ALWAYS or (
        strategy is protectedvm.RunStrategy.FOLLOW and guest.seen.status == "running"
    )
    state = cluster.HAState.STARTED if runs else cluster.HAState.STOPPED
    follows = guest.seen.node if strategy is protectedvm.RunStrategy.FOLLOW else ""
    return operations.Edit(guest.sid, None, entry(guest, state, owner), "registered in Proxmox HA", follows)


def entry(guest: protection.Protected, state: cluster.HAState, owner: str) -> cluster.HAResource:
    """The guest's HA resource as we make it."""
    return cluster.HAResource(
        guest.sid,
        state,
        str(mark.Comment(owner=owner)),
        guest.policy.failback.mode is failoverpolicy.FailbackMode.AUTOMATIC,
        guest.policy.guest_failure.restart.attempts,
        guest.policy.guest_failure.max_relocate,
    )


def _tend(guest: protection.Protected, registered: cluster.HAResource) -> operations.Edit | None:
    """Our own entry as it should be. The state is written for Always and Halted only, and only over its
    opposite."""
    state = registered.state
    strategy = guest.pvm.spec.run_strategy
    if strategy is protectedvm.RunStrategy.ALWAYS and state is cluster.HAState.STOPPED:
        state = cluster.HAState.STARTED
    elif strategy is protectedvm.RunStrategy.HALTED and state is cluster.HAState.STARTED:
        state = cluster.HAState.STOPPED
    wanted = cluster.HAResource(
        guest.sid,
        state,
        registered.comment,
        guest.policy.failback.mode is failoverpolicy.FailbackMode.AUTOMATIC,
        guest.policy.guest_failure.restart.attempts,
        guest.policy.guest_failure.max_relocate,
    )
    if wanted == registered:
        return None
    return operations.Edit(guest.sid, registered, wanted, "brought back to what its policy says")
