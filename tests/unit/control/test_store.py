"""The store: events and listings in any order give what is stored."""

import random
import sys
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from pveha import api
from pveha.control import store
from pveha.model import errors
from pveha.model.kubernetes import ClusterKey, Listing, ObjectRef

KEY = ClusterKey("default", "dc1")


def cluster(version: int, name: str = "dc1") -> dict[str, Any]:
    spec = {
        "endpoints": [{"host": "pve1.example.net"}],
        "credentialsSecretRef": {"name": "token"},
        "tls": {"caSecretRef": {"name": "ca"}},
    }
    return obj("HACluster", name, version, spec)


def guest(version: int, name: str = "web", vmid: int = 100, **spec: object) -> dict[str, Any]:
    return obj("ProtectedVM", name, version, {"clusterRef": {"name": "dc1"}, "vmid": vmid} | spec)


def policy(version: int, name: str = "gold") -> dict[str, Any]:
    return obj("FailoverPolicy", name, version, {})


def obj(kind: str, name: str, version: int, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"namespace": "default", "name": name, "uid": name, "resourceVersion": str(version)}
    return {"apiVersion": api.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def test_specs_are_the_cluster_its_guests_and_the_policies_of_its_namespace() -> None:
    known = store.Store()
    assert known.specs(KEY) is None
    for kind, thing in (("ProtectedVM", guest(1)), ("HACluster", cluster(2)), ("FailoverPolicy", policy(3))):
        known.event(kind, "ADDED", thing)
    found = known.specs(KEY)
    assert found is not None
    assert (list(found.guests), list(found.policies), found.unreadable) == (["web"], ["gold"], {})
    assert known.specs(KEY) is found
    known.event("ProtectedVM", "MODIFIED", guest(4, priority=7))
    changed = known.specs(KEY)
    assert changed is not None
    assert changed.guests["web"].spec.priority == 7
    known.event("ProtectedVM", "DELETED", guest(5))
    known.event("FailoverPolicy", "DELETED", policy(6))
    gone = known.specs(KEY)
    assert gone is not None
    assert (gone.guests, gone.policies) == ({}, {})
    known.event("HACluster", "DELETED", cluster(7))
    assert known.specs(KEY) is None
    assert known.clusters() == frozenset()


def test_an_object_that_the_models_refuse_is_reported_and_repaired() -> None:
    known = store.Store()
    known.event("HACluster", "ADDED", cluster(1))
    known.event("ProtectedVM", "ADDED", guest(2, vmid=5))
    found = known.specs(KEY)
    assert found is not None
    assert "vmid" in found.unreadable["web"]
    assert not found.guests
    known.event("ProtectedVM", "MODIFIED", guest(3, vmid=100))
    found = known.specs(KEY)
    assert found is not None
    assert (list(found.guests), found.unreadable) == (["web"], {})
    known.event("HACluster", "MODIFIED", obj("HACluster", "dc1", 4, {"endpoints": []}))
    assert known.specs(KEY) is None
    assert known.clusters() == {KEY}
    assert "credentialsSecretRef" in known.refused()[ObjectRef("HACluster", "default", "dc1")]


def test_only_what_people_change_is_a_new_revision() -> None:
    known = store.Store()
    known.event("HACluster", "ADDED", cluster(1))
    known.event("ProtectedVM", "ADDED", guest(2))

    def revision() -> int:
        found = known.specs(KEY)
        assert found is not None
        return found.revision

    before = revision()
    known.event("ProtectedVM", "MODIFIED", {**guest(3), "status": {"node": "pve2"}})
    found = known.specs(KEY)
    assert found is not None
    assert found.guests["web"].status.node == "pve2"
    assert revision() == before
    known.event("ProtectedVM", "MODIFIED", guest(4, priority=7))
    prior = revision()
    assert prior > before
    annotated = guest(5, priority=7)
    annotated["metadata"]["annotations"] = {"pveha.dev/confirm-unprotect": "3"}
    known.event("ProtectedVM", "MODIFIED", annotated)
    assert revision() > prior
    known.event("ProtectedVM", "DELETED", annotated)
    assert revision() > prior + 1


def test_an_object_being_deleted_no_longer_counts() -> None:
    known = store.Store()
    leaving = cluster(1)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    known.event("HACluster", None, leaving)
    assert known.clusters() == frozenset()


def test_guests_whose_cluster_does_not_exist_are_found() -> None:
    known = store.Store()
    known.event("ProtectedVM", "ADDED", guest(1))
    assert [orphan.name for orphan in known.guests_without_cluster()] == ["web"]
    known.event("HACluster", "ADDED", cluster(2))
    assert known.guests_without_cluster() == []


def test_a_listing_tells_what_the_watch_did_not() -> None:
    known = store.Store()
    known.event("ProtectedVM", None, guest(1, "old"))
    known.event("ProtectedVM", None, guest(2, "kept"))
    listing = Listing((guest(2, "kept"), guest(6, "new")), "7")
    assert known.listed("ProtectedVM", None, listing) == 6
    known.event("HACluster", None, cluster(8))
    found = known.specs(KEY)
    assert found is not None
    assert set(found.guests) == {"kept", "new"}
    known.event("ProtectedVM", "MODIFIED", guest(5, "old"))
    assert known.raw(ObjectRef("ProtectedVM", "default", "old")) is None
    assert known.listed("ProtectedVM", None, listing) == 0


def test_a_listing_of_one_namespace_says_nothing_about_others() -> None:
    known = store.Store()
    known.event("ProtectedVM", None, guest(1))
    assert known.listed("ProtectedVM", "elsewhere", Listing((), "9")) == 0
    assert known.raw(ObjectRef("ProtectedVM", "default", "web")) is not None


def test_a_restored_api_server_is_noticed() -> None:
    known = store.Store()
    known.listed("ProtectedVM", None, Listing((), "9"))
    with pytest.raises(errors.PvehaError, match="went back from 9 to 5"):
        known.listed("ProtectedVM", None, Listing((), "5"))


@hypothesis.given(seed=strategies.integers(0, 2**32), steps=strategies.integers(1, 30))
def test_late_events_and_listings_never_bring_back_the_past(seed: int, steps: int) -> None:
    dice = random.Random(seed)
    known, world = store.Store(), dict[str, dict[str, Any]]()
    messages: list[tuple[str, Any]] = []
    listings: list[tuple[str, Any]] = []
    for step in range(1, steps + 1):
        name = dice.choice("abc")
        if name in world and dice.random() < 0.4:
            del world[name]
            messages.append(("DELETED", guest(step, name)))
        else:
            world[name] = guest(step, name, priority=step)
            messages.append(("MODIFIED", world[name]))
        listings.append(("listing", Listing(tuple(world.values()), str(step))))
    # Both streams keep their own order, and each may lag behind the other.
    kept = sorted(dice.sample(range(steps), dice.randint(0, steps)))
    streams = [messages, [listings[index] for index in kept]]
    while any(streams):
        what, payload = dice.choice([stream for stream in streams if stream]).pop(0)
        if what == "listing":
            known.listed("ProtectedVM", None, payload)
        else:
            known.event("ProtectedVM", what, payload)
    known.event("HACluster", None, cluster(steps + 1))
    found = known.specs(KEY)
    assert found is not None
    assert {n: g.spec.priority for n, g in found.guests.items()} == {
        name: thing["spec"]["priority"] for name, thing in world.items()
    }


def test_5000_guests_cost_no_more_each_than_500() -> None:
    """Counted in calls of functions, which do not depend on how busy the machine is."""

    def calls_each(number: int) -> float:
        known = store.Store()
        known.event("HACluster", None, cluster(1))
        things = [guest(2 + index, f"vm{index}", 100 + index) for index in range(number)]
        calls = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += 1

        sys.setprofile(count)
        try:
            for thing in things:
                known.event("ProtectedVM", None, thing)
            found = known.specs(KEY)
        finally:
            sys.setprofile(None)
        assert found is not None
        assert len(found.guests) == number
        return calls / number

    assert calls_each(5000) < 1.1 * calls_each(500)
