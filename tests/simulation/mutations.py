"""The deliberate bugs that the simulation must find (docs/safety.md), each as a patch of the production
code."""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pveha.act import context, fence, jobs, takeover, witness
from pveha.api import hacluster
from pveha.control import elector
from pveha.decide import (
    adoption,
    afterwards,
    evidence,
    failover,
    guards,
    history,
    holds,
    hosts,
    levels,
    memory,
    native_rules,
    order,
    protection,
    recall,
    replicas,
)
from pveha.model import cluster, operations, power, snapshot
from pveha.nodeshell import pveha_node
from pveha.sim import chaos

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
    patch.setattr(hosts, "lrm_alive", lambda *args: True)
    real_node = hosts._node
    patch.setattr(
        hosts, "_node", lambda *args, **named: dataclasses.replace(real_node(*args, **named), rank=0)
    )


def skip_the_read_back(patch: pytest.MonkeyPatch) -> None:
    async def see_off(*args: object) -> tuple[float, float]:
        now = asyncio.get_running_loop().time()
        return now, now

    patch.setattr(fence, "_see_off", see_off)


STALE_VIEW_SECONDS = 15.0


def trust_a_stale_view(patch: pytest.MonkeyPatch) -> None:
    """What nodes told in the last 15 s counts, whether or not they answer now, and nobody is asked again."""
    real = evidence.membership

    def membership(seen: snapshot.Snapshot, detection: hacluster.Detection) -> evidence.Membership:
        views = {
            name: dataclasses.replace(view, answered_at=seen.now)
            for name, view in seen.views.items()
            if seen.now - view.answered_at < STALE_VIEW_SECONDS
        }
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

    patch.setattr(protection, "wanted_state", was)


def forget_storms(patch: pytest.MonkeyPatch) -> None:
    """As soon as a storm is over everything goes on."""
    patch.setattr(guards, "cooldown", lambda *args: "")


def act_on_an_old_branch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(history, "place", lambda *args: history.Place.NEWEST)


def believe_any_word(patch: pytest.MonkeyPatch) -> None:
    """A confirmation counts for its node, whichever failure it names."""
    real = recall._confirmed

    def confirmed(node: memory.NodeMemory, said: frozenset[str], name: str, *args: Any) -> memory.NodeMemory:
        named = any(each.rpartition("-")[0] == name for each in said)
        return real(node, frozenset({node.failure}) if named else frozenset(), name, *args)

    patch.setattr(recall, "_confirmed", confirmed)


def believe_a_word_against_signs_of_life(patch: pytest.MonkeyPatch) -> None:
    async def answers(*args: object) -> bool:
        return False

    patch.setattr(levels, "signs_of_life", lambda *args: "")
    patch.setattr(fence, "_answers", answers)


def switch_on_at_once(patch: pytest.MonkeyPatch) -> None:
    """Whatever marks HA resources carry, and whatever is being done."""
    real = afterwards.power_on

    def power_on(seen: snapshot.Snapshot, *args: Any) -> list[operations.Operation]:
        config = seen.ha_config
        if config is not None:
            plain = {sid: dataclasses.replace(each, comment="") for sid, each in config.resources.items()}
            config = dataclasses.replace(config, resources=plain)
        return real(dataclasses.replace(seen, ha_config=config, operations=()), *args)

    patch.setattr(afterwards, "power_on", power_on)


def never_switch_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(afterwards, "power_on", lambda *args: [])


def believe_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recall, "_confirmed", lambda node, *args: node)


def cut_off_a_twin(patch: pytest.MonkeyPatch) -> None:
    """What else loses its power is not looked at (S3), nor in the second of the forced off."""
    real = fence.fence

    async def fence_alone(operation: operations.Fence, with_: context.Context) -> operations.Outcome:
        return await real(dataclasses.replace(operation, also=()), with_)

    patch.setattr(evidence, "_also_alive", lambda *args: "")
    patch.setattr(fence, "fence", fence_alone)


def begin_on_any_version(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(guards, "_is_old", lambda version: False)


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


def start_in_any_order(patch: pytest.MonkeyPatch) -> None:
    plan = order.plan

    def hasty(*args: Any) -> order.Order:
        return dataclasses.replace(plan(*args), waits={})

    patch.setattr(order, "plan", hasty)


def take_every_rule_for_ours(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(native_rules, "is_ours", lambda rule, owner: True)


def never_write_a_rule(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(native_rules, "_edits", lambda ours, wanted: iter(()))


def leave_replication_on(patch: pytest.MonkeyPatch) -> None:
    async def hold(*args: object) -> None:
        pass

    patch.setattr(jobs, "hold", hold)


def take_every_loss_for_accepted(patch: pytest.MonkeyPatch) -> None:
    class Everything(frozenset[str]):
        def __contains__(self, failure: object) -> bool:
            return True

    patch.setattr(holds, "accepted", lambda *args: Everything())


def believe_an_old_replica(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replicas, "alive_at", lambda *args: 0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Story:
    """Under what a bug shows soonest, and the rule that it violates."""

    bug: Patch
    kinds: tuple[str, ...]
    """Of faults."""
    rule: str
    nodes: int | None = None
    guest_count: int | None = None
    fault_count: int | None = None
    """None: as many as in any random run."""

    def plan(self, seed: int) -> chaos.Plan:
        """The story as this seed has it."""
        return chaos.plan(seed, self.kinds, self.nodes, self.guest_count, self.fault_count)


MUTATIONS: Mapping[str, Story] = {
    "trust an unbound BMC": Story(
        trust_an_unbound_bmc,
        ("bmc-swapped", "network-cut"),
        "no live node is fenced",
        nodes=4,
        fault_count=2,
    ),
    "adopt after one flush": Story(
        adopt_after_one_flush, ("crm-slow",), "dropped before given back", nodes=3, fault_count=1
    ),
    "adopt as started": Story(adopt_as_started, ("power-loss",), "comes right"),
    "claim without reading ignored": Story(
        claim_without_reading_ignored, ("owner-at-effect",), "disowned before moved"
    ),
    "no epoch in claim": Story(
        claim_without_epoch, ("leader-stopped-sending",), "epoch at effect", fault_count=1
    ),
    "skip the process scan": Story(
        skip_the_process_scan, ("migration-halfway", "moved-then-lost"), "one writer"
    ),
    "treat PlannedDown as Down": Story(treat_planned_as_down, ("planned",), "planned is not dead"),
    "adopt onto an idle LRM": Story(
        adopt_onto_an_idle_lrm, ("idle-target",), "one writer", nodes=3, guest_count=2, fault_count=1
    ),
    "skip read-back": Story(skip_the_read_back, ("bmc-lies", "network-cut", "hang"), "rename only while off"),
    "trust a stale view": Story(trust_a_stale_view, ("last-views",), "no live node is fenced"),
    "ignore the lease": Story(
        ignore_the_lease, ("lease-lost", "kubernetes-cut", "power-loss"), "nothing without the Lease"
    ),
    "re-run a step that is not idempotent": Story(
        disown_again_over_our_own_mark, ("operator-killed-at-effect",), "comes right"
    ),
    "act on an old branch of history": Story(
        act_on_an_old_branch, ("history-forked",), "no old branch", nodes=2, fault_count=1
    ),
    "believe any word": Story(
        believe_any_word, ("confirmed-before",), "only what is proven off is left", fault_count=2
    ),
    "believe a word against signs of life": Story(
        believe_a_word_against_signs_of_life,
        ("confirmed-wrongly",),
        "rename only while off",
        fault_count=4,
    ),
    "switch on at once": Story(
        switch_on_at_once, ("power-loss",), "switched on in its time", guest_count=6, fault_count=2
    ),
    "never switch on again": Story(
        never_switch_on, ("power-loss",), "switched on in its time", guest_count=3, fault_count=2
    ),
    "believe nobody": Story(
        believe_nobody, ("confirmed-off",), "runs again in time", guest_count=6, fault_count=1
    ),
    "cut off a twin": Story(
        cut_off_a_twin, ("chassis-lost",), "no live node is fenced", nodes=5, fault_count=2
    ),
    "begin on any version": Story(
        begin_on_any_version, ("proxmox-upgraded", "power-loss"), "no new operation", fault_count=4
    ),
    "never take over": Story(never_take_over, ("power-loss",), "runs again in time"),
    "report without starting": Story(report_without_starting, ("power-loss",), "reported is true"),
    "no end to a takeover": Story(no_end_to_a_takeover, ("power-loss",), "undone"),
    "start in any order": Story(start_in_any_order, ("power-loss",), "restart order", guest_count=6),
    "take every HA rule for ours": Story(
        take_every_rule_for_ours, ("user-adds-a-rule",), "foreign rules are never changed", fault_count=4
    ),
    "never write an HA rule": Story(
        never_write_a_rule, ("user-edits-our-rule",), "comes right", guest_count=6, fault_count=1
    ),
    "forget to disable the replication job": Story(
        leave_replication_on, ("replica-taken",), "newer data stays", fault_count=2
    ),
    "take every loss for accepted": Story(
        take_every_loss_for_accepted, ("replica-taken",), "newer data stays", fault_count=2
    ),
    "believe an old replica": Story(
        believe_an_old_replica, ("replica-taken", "syncs-fail"), "young enough", fault_count=4
    ),
    "no storm cooldown": Story(forget_storms, ("double-failure", "power-button"), "no new operation"),
}
"""The deliberate bugs of the safety rules, and others without which other rules could not fail."""
