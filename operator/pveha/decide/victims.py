"""Whom to stop so that a more important guest of a lost node finds room (`spec.preemption`)."""

import dataclasses
from collections.abc import Collection, Mapping, Set

from pveha.api import protectedvm
from pveha.api.conditions import FailoverReady
from pveha.decide import evidence, hosts, placement, protection, situation
from pveha.model import cluster


def needy(
    refusals: Mapping[int, protection.Refusal], protected: protection.Protection
) -> list[protection.Protected]:
    """Guests that are to run and have no room."""
    return _refused(FailoverReady.NO_CAPACITY, refusals, protected)


def left_to_native(
    refusals: Mapping[int, protection.Refusal], protected: protection.Protection
) -> list[protection.Protected]:
    """Guests that are to run and that native HA recovers."""
    return _refused(FailoverReady.NATIVE_AHEAD, refusals, protected)


def _refused(
    reason: FailoverReady, refusals: Mapping[int, protection.Refusal], protected: protection.Protection
) -> list[protection.Protected]:
    return [
        protected.guests[vmid]
        for vmid, refusal in refusals.items()
        if refusal.reason is reason
        and protection.wanted_state(protected.guests[vmid]) is cluster.HAState.STARTED
    ]


def choose(
    now: situation.Situation,
    down: Set[str],
    waiting: Collection[protection.Protected],
    placed: Collection[protection.Protected],
) -> Mapping[int, int]:
    """Guests to be stopped by vmid, each with the one of `waiting` that gets its place; `placed` have one."""
    below = max((guest.pvm.spec.priority for guest in waiting), default=0)
    may = [guest for guest in now.protected.guests.values() if _may_be_stopped(guest, below, now)]
    if not may:
        return {}
    demands = [placement.demand(guest) for guest in [*placed, *waiting]]
    demands += [
        dataclasses.replace(placement.demand(guest, guest.seen.node), preemptible=True) for guest in may
    ]
    locations = placement.locations_beside(now, down)
    question = placement.ask(now, demands, hosts.nodes(now, down), locations)
    return now.memo.plans.plan(question.asked, preempt=True).stopped


def _may_be_stopped(guest: protection.Protected, below: int, now: situation.Situation) -> bool:
    """Whether its owner allows it, its HA entry is ours, and it runs undisturbed."""
    where = guest.seen.node
    return (
        guest.pvm.spec.preemption is protectedvm.Preemption.ALLOWED
        and guest.pvm.spec.priority < below
        and guest.registered is not None
        and guest.registered.state is cluster.HAState.STARTED
        and guest.comment.owner == now.seen.owner
        and guest.comment.mark is None
        and not guest.comment.preempted
        and guest.seen.status == "running"
        and guest.lock is None
        and guest.service is not None
        and guest.service.state == "started"
        and guest.service.node == where
        and where in now.verdicts
        and now.verdicts[where].state is evidence.State.ONLINE
        and guest.vmid not in now.memo.moves
    )
