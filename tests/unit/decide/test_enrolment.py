"""Who is enrolled by spec.autoProtect, and what keeps many guests from losing protection at once (S7)."""

import dataclasses
from typing import Any

import pytest

from decide_scene import OWNER, Scene, condition, edits
from pveha.api import hacluster, meta
from pveha.decide import enrolment, rounds
from pveha.model import cluster, decision, guests

UID = "11111111-0000-0000-0000-000000000000"
OURS = f"[pveha owner={OWNER}]"
GOLD = {"name": "gold", "tags": ["gold"], "policyRef": {"name": "gold"}}


def scene(*entries: dict[str, Any], count: int = 3) -> Scene:
    """`count` guests from 101 on with the tag gold, registered by pveha, without ProtectedVMs."""
    made = Scene({"autoProtect": list(entries)}).settle()
    made.uid = UID
    made.policies["gold"] = {}
    for vmid in range(101, 101 + count):
        made.add_guest(vmid, "pve1")
        made.set_guest(vmid, tags=frozenset({"gold"}))
        made.set_resource(f"vm:{vmid}", comment=OURS)
    made.protected.clear()
    return made


def enrolled(made: Scene, *vmids: int) -> None:
    """The ProtectedVMs of ours for these guests are there."""
    for vmid in vmids:
        made.enrolled[vmid] = "gold"


def changes(found: rounds.Decision) -> dict[str, str]:
    """What becomes of ProtectedVMs: the entry for one that is written, "" for one that is deleted."""
    return {
        name: change.manifest["metadata"]["labels"][meta.AUTO_PROTECT_LABEL]
        if isinstance(change, decision.Enrol)
        else ""
        for name, change in found.enrolment.items()
    }


def settled(made: Scene) -> rounds.Decision:
    return made.step(enrolment.SETTLED_SECONDS + 1.0)


def held(found: rounds.Decision) -> tuple[str, str]:
    return condition(found.report.cluster, "UnprotectHeld")


def guest(vmid: int = 101, **fields: Any) -> cluster.GuestResource:
    ref = guests.GuestRef(vmid, guests.GuestKind.VM)
    plain = {"node": "pve1", "status": "running", "name": "web-1", "max_memory": 1, "template": False}
    return cluster.GuestResource(**{"ref": ref, **plain, "lock": None, "ha_state": None, **fields})


@pytest.mark.parametrize(
    ("entry", "selected"),
    [
        ({"tags": ["a", "b"]}, True),
        ({"tags": ["b"]}, False),
        ({"tags": ["A"]}, False),
        ({"pools": ["prod", "test"]}, True),
        ({"pools": ["prod/web"]}, False),
        ({"namePattern": "web-*"}, True),
        ({"namePattern": "web"}, False),
        ({"namePattern": "*"}, True),
        ({"tags": ["a"], "pools": ["prod"], "namePattern": "web-?"}, True),
        ({"tags": ["a"], "pools": ["test"]}, False),
        ({"tags": ["a"], "namePattern": "db-*"}, False),
    ],
)
def test_of_an_entry_everything_given_must_hold(entry: dict[str, Any], selected: bool) -> None:
    parsed = hacluster.AutoProtect.model_validate({"name": "it", **entry})
    found = guest(tags=frozenset({"a", "c"}), pool="prod")
    inventory = cluster.Inventory({}, {101: found}, (), 0.0)
    assert (101 in enrolment.select([parsed], inventory)) is selected


def test_templates_and_guests_out_of_sight_are_never_selected() -> None:
    every = hacluster.AutoProtect(name="all", name_pattern="*")
    inventory = cluster.Inventory({}, {101: guest(template=True), 102: guest(102, status="unknown")}, (), 0.0)
    assert enrolment.select([every], inventory) == {}


def test_the_first_entry_counts_and_the_manifest_is_owned() -> None:
    made = scene({"name": "web", "namePattern": "vm101"}, GOLD, count=2)
    made.step(1.0)
    found = made.step(6.0)
    assert changes(found) == {"dc1-101": "web", "dc1-102": "gold"}
    written = found.enrolment["dc1-102"]
    assert isinstance(written, decision.Enrol)
    assert written.manifest["spec"] == {
        "clusterRef": {"name": "dc1"}, "vmid": 102, "policyRef": {"name": "gold"}
    }  # fmt: skip
    (owner,) = written.manifest["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("HACluster", "dc1", UID)


def test_what_is_as_wanted_is_left_alone_and_another_entry_is_followed() -> None:
    made = scene(GOLD)
    enrolled(made, 101, 102, 103)
    assert changes(settled(made)) == {}
    made.spec["autoProtect"] = [{"name": "silver", "tags": ["gold"]}]
    assert changes(made.step(0.5)) == dict.fromkeys(("dc1-101", "dc1-102", "dc1-103"), "silver")


def test_a_hand_written_one_wins_at_once() -> None:
    made = scene(GOLD)
    enrolled(made, 101, 102, 103)
    settled(made)
    made.protected[101] = {}
    found = made.step(0.5)
    assert changes(found) == {"dc1-101": ""}
    assert condition(found.report.guests["vm101"], "Ready")[0] == "True"
    assert edits(found) == {}


def test_an_object_of_the_name_that_is_not_ours_is_not_touched() -> None:
    made = scene(GOLD, count=1)
    made.strangers["dc1-101"] = 555
    assert changes(settled(made)) == {}


def test_a_guest_that_is_no_longer_selected_goes_after_a_while_with_its_entry() -> None:
    made = scene(GOLD)
    enrolled(made, 101, 102, 103)
    settled(made)
    made.set_guest(101, tags=frozenset())
    assert changes(made.step(enrolment.SETTLED_SECONDS - 1.0)) == {}
    assert changes(made.step(2.0)) == {"dc1-101": ""}
    del made.enrolled[101]
    assert set(edits(made.step(0.5))) == {"vm:101"}


def test_a_guest_whose_node_does_not_report_keeps_its_own() -> None:
    made = scene(GOLD)
    enrolled(made, 101, 102, 103)
    for vmid in (101, 102, 103):
        made.set_guest(vmid, status="unknown", name="", tags=frozenset())
    assert changes(settled(made)) == {}


@pytest.mark.parametrize("registered", [True, False])
def test_a_guest_that_vanished_is_gone_only_if_its_entry_is(registered: bool) -> None:
    made = scene(GOLD, count=10)
    enrolled(made, *range(101, 111))
    settled(made)
    for vmid in range(101, 111):
        del made.guests[vmid]
        if not registered:
            del made.resources[f"vm:{vmid}"]
    found = settled(made)
    assert len(changes(found)) == (0 if registered else 10)
    assert held(found) == (("True", "MassRemoval") if registered else ("False", "None"))


@pytest.mark.parametrize(
    ("count", "lost", "stays"), [(6, 5, False), (6, 6, True), (50, 10, False), (50, 11, True)]
)
def test_more_than_five_and_a_fifth_at_once_are_held(count: int, lost: int, stays: bool) -> None:
    made = scene(GOLD, count=count)
    enrolled(made, *range(101, 101 + count))
    settled(made)
    for vmid in range(101, 101 + lost):
        made.set_guest(vmid, tags=frozenset())
    found = settled(made)
    assert held(found) == (("True", "MassRemoval") if stays else ("False", "None"))
    assert len(changes(found)) == (0 if stays else lost)


def test_entries_without_any_protected_vm_are_held_by_a_new_leader_too() -> None:
    made = scene(count=8)
    found = settled(made)
    assert held(found) == ("True", "MassRemoval")
    assert edits(found) == {}
    told = found.report.cluster.condition("UnprotectHeld")
    assert told is not None
    assert f"{meta.CONFIRM_UNPROTECT_ANNOTATION}=8" in told.message


@pytest.mark.parametrize(
    ("text", "taken"), [("7", False), ("8", True), ("9", True), ("all", False), ("-8", False)]
)
def test_a_confirmation_names_at_least_as_many(text: str, taken: bool) -> None:
    made = scene(count=8)
    settled(made)
    made.annotations[meta.CONFIRM_UNPROTECT_ANNOTATION] = text
    assert len(edits(made.step(0.5))) == (8 if taken else 0)


def test_a_confirmation_counts_once_also_for_the_next_leader() -> None:
    made = scene(count=8)
    settled(made)
    made.annotations[meta.CONFIRM_UNPROTECT_ANNOTATION] = "8"
    found = made.step(0.5)
    status = found.report.cluster.unprotect_confirmed
    assert status == hacluster.UnprotectConfirmation(annotation="8", left=8)
    for vmid in range(101, 109):
        del made.resources[f"vm:{vmid}"]
    status = made.step(0.5).report.cluster.unprotect_confirmed
    assert status == hacluster.UnprotectConfirmation(annotation="8", left=0)

    after = scene(count=8)
    after.annotations[meta.CONFIRM_UNPROTECT_ANNOTATION] = "8"
    after.memory = dataclasses.replace(
        after.memory, unprotect=enrolment.remembered(hacluster.HAClusterStatus(unprotect_confirmed=status))
    )
    assert held(settled(after)) == ("True", "MassRemoval")
    del after.annotations[meta.CONFIRM_UNPROTECT_ANNOTATION]
    after.step(0.5)
    after.annotations[meta.CONFIRM_UNPROTECT_ANNOTATION] = "8"
    assert len(edits(after.step(0.5))) == 8


def test_what_comes_back_meanwhile_puts_the_others_off() -> None:
    """Manifests that are applied one after the other are not outrun."""
    made = scene(count=8)
    settled(made)
    for vmid in range(101, 107):
        made.protected[vmid] = {}
        assert edits(made.step(5.0)) == {}
    assert edits(made.step(10.0)) == {}
    assert set(edits(made.step(0.5))) == {"vm:107", "vm:108"}


@pytest.mark.parametrize("spec", [{"pauseRequests": ["works"]}, {"mode": "Observe"}])
def test_paused_nothing_is_enrolled_and_observing_it_is(spec: dict[str, Any]) -> None:
    made = scene(GOLD)
    made.spec.update(spec)
    found = settled(made)
    assert bool(changes(found)) is (spec == {"mode": "Observe"})
    assert edits(found) == {}
