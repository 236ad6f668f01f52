"""The deliberate bugs that the simulation must find (docs/safety.md), each as a patch of the production
code."""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pveha.act import context, fence, takeover, witness
from pveha.api import hacluster
from pveha.control import elector
from pveha.decide import adoption, evidence, failover, guards, memory, placement, protection, recall
from pveha.model import cluster, operations, power, snapshot
from pveha.nodeshell import pveha_node

Patch = Callable[[pytest.MonkeyPatch], None]


def trust_an_unbound_bmc(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(power, "same_machine", lambda bmc, dmi: True)


def adopt_after_one_flush(patch: pytest.MonkeyPatch) -> None:
    """The next flush counts, whether or not the CRM has dropped the guest in it."""
    real = recall._guests

    def guests(seen: snapshot.Snapshot, memo: memory.Memory) -> dict[str, memory.GuestMemory]:
        flushed = seen.ha_status.timestamp if seen.ha_status else 0
        return {
            sid: dataclasses.replace(guest, dropped_flushes=frozenset({1, 2}))
            if guest.ignored_seen is not None and flushed > guest.ignored_seen
            else guest
            for sid, guest in real(seen, memo).items()
        }

    patch.setattr(recall, "_guests", guests)


def adopt_as_started(patch: pytest.MonkeyPatch) -> None:
    real = adoption.edits

    def edits(*args: Any) -> list[operations.Edit]:
        return [
            dataclasses.replace(
                edit, desired=dataclasses.replace(edit.desired, state=cluster.HAState.STARTED)
            )
            if edit.desired is not None and edit.why.endswith("adopted")
            else edit
            for edit in real(*args)
        ]

    patch.setattr(adoption, "edits", edits)


def claim_without_reading_ignored(patch: pytest.MonkeyPatch) -> None:
    real = pveha_node.claim_objection

    def objection(system: pveha_node.System, wanted: pveha_node.Claim) -> str | None:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(pveha_node, "read_ha_resources", lambda system: {})
            return real(system, wanted)

    patch.setattr(pveha_node, "claim_objection", objection)


def claim_without_epoch(patch: pytest.MonkeyPatch) -> None:
    real = pveha_node.claim_objection

    def objection(system: pveha_node.System, wanted: pveha_node.Claim) -> str | None:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(pveha_node, "newest_epoch", lambda system: wanted.epoch)
            return real(system, wanted)

    patch.setattr(pveha_node, "claim_objection", objection)


def skip_the_process_scan(patch: pytest.MonkeyPatch) -> None:
    async def processes(*args: object) -> takeover.Results:
        return {}

    patch.setattr(takeover, "_processes", processes)


def treat_planned_as_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(evidence, "planned", lambda name, status: "")


def adopt_onto_an_idle_lrm(patch: pytest.MonkeyPatch) -> None:
    real = adoption.edits

    def edits(seen: snapshot.Snapshot, *args: Any) -> list[operations.Edit]:
        if seen.ha_status is not None:
            lrms = {
                name: dataclasses.replace(lrm, state="active") for name, lrm in seen.ha_status.lrms.items()
            }
            seen = dataclasses.replace(seen, ha_status=dataclasses.replace(seen.ha_status, lrms=lrms))
        return real(seen, *args)

    patch.setattr(adoption, "edits", edits)
    patch.setattr(placement, "lrm_alive", lambda *args: True)


def skip_the_read_back(patch: pytest.MonkeyPatch) -> None:
    async def see_off(*args: object) -> tuple[float, float]:
        now = asyncio.get_running_loop().time()
        return now, now

    patch.setattr(fence, "_see_off", see_off)


def trust_a_stale_view(patch: pytest.MonkeyPatch) -> None:
    real = evidence.membership

    def membership(seen: snapshot.Snapshot, detection: hacluster.Detection) -> evidence.Membership:
        views = {name: dataclasses.replace(view, answered_at=seen.now) for name, view in seen.views.items()}
        return real(dataclasses.replace(seen, views=views, probes={}), detection)

    patch.setattr(evidence, "membership", membership)
    patch.setattr(witness, "confirm_gone", lambda *args: None)


def ignore_the_lease(patch: pytest.MonkeyPatch) -> None:
    async def renew(self: elector.Elector) -> None:
        await asyncio.Event().wait()

    patch.setattr(elector.Elector, "_renew", renew)
    patch.setattr(elector.Elector, "remaining", lambda self: 60.0)
    patch.setattr(context.Context, "require", lambda self, seconds: None)


def disown_again_over_our_own_mark(patch: pytest.MonkeyPatch) -> None:
    """A step that is not idempotent is run again: what is to be restored becomes `ignored`."""

    def was(guest: protection.Protected, *args: object) -> cluster.HAState:
        return guest.registered.state if guest.registered is not None else cluster.HAState.STARTED

    patch.setattr(failover, "_was", was)


def forget_storms(patch: pytest.MonkeyPatch) -> None:
    """As soon as a storm is over everything goes on."""
    patch.setattr(guards, "cooldown", lambda *args: "")


def never_take_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(failover, "_batches", lambda recovery, seen, spec, memo, *args: ([], memo))


def report_without_starting(patch: pytest.MonkeyPatch) -> None:
    async def start(operation: operations.Takeover, item: operations.TakeoverItem, *args: Any) -> None:
        results = args[1]
        now = asyncio.get_running_loop().time()
        results[item.ref] = operations.GuestResult(item.ref, "Running", running_at=now)

    patch.setattr(takeover, "_start", start)


def no_end_to_a_takeover(patch: pytest.MonkeyPatch) -> None:
    """Nobody gives a guest back, neither pveha nor the timer."""
    patch.setattr(adoption, "edits", lambda *args: [])
    patch.setattr(pveha_node, "repair", lambda system: [])


Found = tuple[Patch, tuple[str, ...], str]
"""A bug, the kinds of faults under which it shows soonest, and the rule that it violates."""

MUTATIONS: Mapping[str, Found] = {
    "trust an unbound BMC": (
        trust_an_unbound_bmc,
        ("bmc-swapped", "network-cut", "hang", "power-loss"),
        "rename only while off",
    ),
    "adopt as started": (adopt_as_started, ("power-loss",), "comes right"),
    "claim without reading ignored": (
        claim_without_reading_ignored,
        ("owner-at-effect",),
        "disowned before moved",
    ),
    "never take over": (never_take_over, ("power-loss",), "runs again in time"),
    "report without starting": (report_without_starting, ("power-loss",), "reported is true"),
    "no end to a takeover": (no_end_to_a_takeover, ("power-loss",), "undone"),
    "treat PlannedDown as Down": (treat_planned_as_down, ("planned",), "planned is not dead"),
    "skip read-back": (skip_the_read_back, ("bmc-lies", "network-cut", "hang"), "rename only while off"),
    "no storm cooldown": (forget_storms, ("double-failure", "power-button"), "no new operation"),
    "ignore the lease": (
        ignore_the_lease,
        ("lease-lost", "kubernetes-cut", "power-loss"),
        "nothing without the Lease",
    ),
}

RARE: Mapping[str, Found] = {
    "adopt after one flush": (adopt_after_one_flush, ("power-loss", "power-blip"), "the CRM lives"),
    "no epoch in claim": (claim_without_epoch, ("leader-stopped",), "epoch at effect"),
    "skip the process scan": (skip_the_process_scan, ("migration-broken",), "one writer"),
    "adopt onto an idle LRM": (adopt_onto_an_idle_lrm, ("idle-target",), "one writer"),
    "trust a stale view": (
        trust_a_stale_view,
        ("network-flap", "quorum-loss", "answers-lost", "api-hang"),
        "no live node is fenced",
    ),
    "re-run a step that is not idempotent": (
        disown_again_over_our_own_mark,
        ("operator-killed-at-effect", "meddling-at-effect"),
        "comes right",
    ),
}
"""Bugs that need a rarer coincidence: looked for in the long form only."""
