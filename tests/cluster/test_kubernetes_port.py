"""The port Kubernetes: the same cases on the real API server and on the twin used in simulation."""

import base64
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pveha import api
from pveha.devkube import controlplane
from pveha.devkube.target import Target
from pveha.kube import client, config
from pveha.model import errors, kubernetes, ports
from pveha.model.kubernetes import ObjectRef
from pveha.sim.kubernetes import SimulatedKubernetes

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class World:
    """A port and what users do beside it."""

    port: ports.Kubernetes
    namespace: str
    put: Callable[[Mapping[str, Any]], object]
    delete: Callable[[str, str], object]
    put_secret: Callable[[str, Mapping[str, bytes]], None]

    def guest(self, name: str = "web", vmid: int = 100) -> ObjectRef:
        self.put(
            {
                "apiVersion": api.API_VERSION,
                "kind": "ProtectedVM",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {"clusterRef": {"name": "dc1"}, "vmid": vmid},
            }
        )
        return ObjectRef("ProtectedVM", self.namespace, name)

    def lease(self, holder: str = "a", renewed: float = 1.7e9) -> kubernetes.Lease:
        return kubernetes.Lease(self.namespace, "pveha-dc1", holder, 15, 1.7e9, renewed)

    async def stored(self, ref: ObjectRef) -> kubernetes.Manifest:
        listing = await self.port.list_objects(ref.kind, ref.namespace)
        return next(obj for obj in listing.objects if obj["metadata"]["name"] == ref.name)


@pytest.fixture(scope="module")
def server(kube: Target) -> Target:
    kube.admin.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    names = [f"crd/{resource.plural}.{api.GROUP}" for resource in api.RESOURCES]
    kube.admin.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return kube


@pytest.fixture(params=["real", "twin"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "twin":
        twin = SimulatedKubernetes()
        yield World(
            twin,
            "default",
            twin.put,
            lambda kind, name: twin.delete(kind, "default", name),
            lambda name, data: twin.put_secret("default", name, data),
        )
        return
    server: Target = request.getfixturevalue("server")
    admin = server.admin

    def put_secret(name: str, data: Mapping[str, bytes]) -> None:
        coded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        metadata = {"name": name, "namespace": namespace}
        admin.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": coded})

    with server.namespace() as namespace:
        async with client.ApiServer(config.Access(admin.kubeconfig)) as port:
            yield World(
                port,
                namespace,
                admin.apply,
                lambda kind, name: admin.kubectl("delete", kind, name, "-n", namespace),
                put_secret,
            )
        admin.kubectl("delete", "haclusters,failoverpolicies,protectedvms", "--all", "-n", namespace)


async def test_an_identity_stays_the_same(world: World) -> None:
    assert len(await world.port.identity()) == 36
    assert await world.port.identity() == await world.port.identity()


async def test_listing_shows_whole_objects_of_the_kind_and_namespace(world: World) -> None:
    world.guest("web")
    world.guest("db", 101)
    listing = await world.port.list_objects("ProtectedVM", world.namespace)
    assert sorted(obj["metadata"]["name"] for obj in listing.objects) == ["db", "web"]
    parsed = [api.parse(obj) for obj in listing.objects]
    assert all(isinstance(guest, api.ProtectedVM) and guest.metadata.uid for guest in parsed)
    assert int(listing.resource_version) >= max(
        int(obj["metadata"]["resourceVersion"]) for obj in listing.objects
    )
    everywhere = await world.port.list_objects("ProtectedVM", None)
    assert len(everywhere.objects) >= 2
    assert (await world.port.list_objects("HACluster", world.namespace)).objects == ()


async def test_status_is_what_was_applied_last(world: World) -> None:
    ref = world.guest()
    first = await world.port.apply_status(ref, {"node": "pve1", "failoverPlan": {"targetNode": "pve2"}})
    assert first["status"] == {"node": "pve1", "failoverPlan": {"targetNode": "pve2"}}
    await world.port.apply_status(ref, {"node": "pve2"})
    assert (await world.stored(ref))["status"] == {"node": "pve2"}


async def test_the_same_status_again_changes_nothing(world: World) -> None:
    ref = world.guest()
    first = await world.port.apply_status(ref, {"node": "pve1"})
    again = await world.port.apply_status(ref, {"node": "pve1"})
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_status_does_not_touch_the_spec_or_its_generation(world: World) -> None:
    ref = world.guest()
    before = await world.stored(ref)
    after = await world.port.apply_status(ref, {"node": "pve1"})
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]


async def test_status_of_what_does_not_exist_is_not_found(world: World) -> None:
    with pytest.raises(errors.NotFound):
        await world.port.apply_status(ObjectRef("ProtectedVM", world.namespace, "none"), {"node": "pve1"})


async def test_status_of_another_object_of_the_name_conflicts(world: World) -> None:
    ref = world.guest()
    first = await world.port.apply_status(ref, {"node": "pve1"})
    version = first["metadata"]["resourceVersion"]
    second = await world.port.apply_status(ref, {"node": "pve2"}, version)
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    with pytest.raises(errors.Conflict):
        await world.port.apply_status(ref, {"node": "pve3"}, version)
    world.delete("ProtectedVM", "web")
    world.guest()
    with pytest.raises(errors.Conflict):
        await world.port.apply_status(ref, {"node": "pve3"}, second["metadata"]["resourceVersion"])


def enrolled(world: World, vmid: int = 100, policy: str = "", name: str = "dc1-100") -> kubernetes.Manifest:
    reference = {"policyRef": {"name": policy}} if policy else {}
    owner = {
        "apiVersion": api.API_VERSION, "kind": "HACluster", "name": "dc1", "uid": "1", "controller": True
    }  # fmt: skip
    return {
        "apiVersion": api.API_VERSION,
        "kind": "ProtectedVM",
        "metadata": {
            "name": name,
            "namespace": world.namespace,
            "labels": {"pveha.dev/auto-protect": policy or "all"},
            "ownerReferences": [owner],
        },
        "spec": {"clusterRef": {"name": "dc1"}, "vmid": vmid, **reference},
    }


async def test_an_enrolled_guest_is_made_changed_and_left_alone(world: World) -> None:
    made = await world.port.apply_guest(enrolled(world, policy="gold"), ours=False)
    parsed = api.parse(made)
    assert isinstance(parsed, api.ProtectedVM)
    assert (parsed.spec.vmid, parsed.metadata.labels) == (100, {"pveha.dev/auto-protect": "gold"})
    assert [(each.kind, each.uid) for each in parsed.metadata.owner_references] == [("HACluster", "1")]
    again = await world.port.apply_guest(enrolled(world, policy="gold"), ours=True)
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    changed = await world.port.apply_guest(enrolled(world), ours=True)
    assert "policyRef" not in changed["spec"]
    assert changed["metadata"]["labels"] == {"pveha.dev/auto-protect": "all"}
    assert changed["metadata"]["generation"] == made["metadata"]["generation"] + 1


async def test_what_others_add_to_an_enrolled_guest_stays(world: World) -> None:
    made = dict(await world.port.apply_guest(enrolled(world), ours=False))
    metadata = {key: made["metadata"][key] for key in ("name", "namespace", "labels", "ownerReferences")}
    world.put({**made, "metadata": metadata, "spec": {**made["spec"], "priority": 7}})
    after = await world.port.apply_guest(enrolled(world, policy="gold"), ours=True)
    assert (after["spec"]["priority"], after["spec"]["policyRef"]) == (7, {"name": "gold"})


async def test_an_enrolled_guest_never_takes_the_place_of_another(world: World) -> None:
    ref = world.guest("dc1-100", 555)
    before = await world.stored(ref)
    with pytest.raises(errors.Conflict):
        await world.port.apply_guest(enrolled(world), ours=False)
    with pytest.raises(errors.Refused, match="immutable"):
        await world.port.apply_guest(enrolled(world), ours=True)
    assert (await world.stored(ref))["spec"] == before["spec"]


async def test_only_the_guest_that_was_seen_is_dismissed(world: World) -> None:
    with pytest.raises(errors.NotFound):
        await world.port.delete_guest(ObjectRef("ProtectedVM", world.namespace, "dc1-100", "1"), "1")
    made = (await world.port.apply_guest(enrolled(world), ours=False))["metadata"]
    ref = ObjectRef("ProtectedVM", world.namespace, "dc1-100", made["uid"])
    stranger = dataclasses.replace(ref, uid="00000000-0000-0000-0000-000000000009")
    with pytest.raises(errors.Conflict):
        await world.port.delete_guest(stranger, made["resourceVersion"])
    changed = (await world.port.apply_guest(enrolled(world, policy="gold"), ours=True))["metadata"]
    with pytest.raises(errors.Conflict):
        await world.port.delete_guest(ref, made["resourceVersion"])
    await world.port.delete_guest(ref, changed["resourceVersion"])
    assert (await world.port.list_objects("ProtectedVM", world.namespace)).objects == ()


async def test_secrets_are_decoded(world: World) -> None:
    world.put_secret("token", {"tokenID": b"root@pam!x", "tokenSecret": b"\x00\xff"})
    assert await world.port.secret(world.namespace, "token") == {
        "tokenID": b"root@pam!x",
        "tokenSecret": b"\x00\xff",
    }
    with pytest.raises(errors.NotFound, match="none"):
        await world.port.secret(world.namespace, "none")


async def test_a_lease_comes_back_as_it_was_written(world: World) -> None:
    with pytest.raises(errors.NotFound):
        await world.port.get_lease(world.namespace, "pveha-dc1")
    created = await world.port.create_lease(world.lease(renewed=1.7e9 + 0.25))
    assert dataclasses.replace(created, resource_version="") == world.lease(renewed=1.7e9 + 0.25)
    assert await world.port.get_lease(world.namespace, "pveha-dc1") == created
    with pytest.raises(errors.AlreadyExists):
        await world.port.create_lease(world.lease())


async def test_only_who_has_seen_a_lease_last_may_update_it(world: World) -> None:
    created = await world.port.create_lease(world.lease())
    taken = await world.port.update_lease(dataclasses.replace(created, holder="b", transitions=1))
    assert taken.resource_version != created.resource_version
    with pytest.raises(errors.Conflict):
        await world.port.update_lease(dataclasses.replace(created, renew_timestamp=1.8e9))
    assert (await world.port.get_lease(world.namespace, "pveha-dc1")).holder == "b"
    released = await world.port.update_lease(dataclasses.replace(taken, holder=""))
    assert released.holder == ""


async def test_an_update_of_a_lease_that_changes_nothing_keeps_its_version(world: World) -> None:
    created = await world.port.create_lease(world.lease())
    assert await world.port.update_lease(created) == created


async def test_updating_a_lease_that_is_gone_makes_it_again(world: World) -> None:
    gone = dataclasses.replace(world.lease(), resource_version="1")
    made = await world.port.update_lease(gone)
    assert await world.port.get_lease(world.namespace, "pveha-dc1") == made


def occurrence(ref: ObjectRef, count: int = 1) -> kubernetes.Occurrence:
    return kubernetes.Occurrence(
        "web.1", ref, "NodeDown", "pve1 is down", True, "me_1", 1.7e9, 1.7e9 + count, count
    )


async def test_an_event_that_repeats_becomes_a_series(world: World, request: pytest.FixtureRequest) -> None:
    ref = world.guest()
    for count in (1, 1, 2, 7):
        await world.port.record(occurrence(ref, count))
    if isinstance(world.port, SimulatedKubernetes):
        assert [each.count for each in world.port.occurrences.values()] == [7]
        return
    admin = request.getfixturevalue("server").admin
    shown = json.loads(admin.kubectl("get", "events.events.k8s.io", "-n", world.namespace, "-o", "json"))
    (event,) = shown["items"]
    assert (event["reason"], event["note"], event["type"]) == ("NodeDown", "pve1 is down", "Warning")
    assert event["regarding"]["name"] == "web"
    assert event["series"]["count"] == 7


async def test_a_series_whose_event_has_expired_begins_again(world: World) -> None:
    await world.port.record(occurrence(world.guest(), 5))


async def test_a_server_that_does_not_answer_is_unreachable(
    server: Target, control_plane: controlplane.ControlPlane, namespace: str
) -> None:
    async with client.ApiServer(config.Access(server.admin.kubeconfig), request_seconds=2) as port:
        await port.identity()
        control_plane.kill_api_server()
        with pytest.raises(errors.Unreachable):
            await port.get_lease(namespace, "pveha-dc1")
        control_plane.start_api_server()
        with pytest.raises(errors.NotFound):
            await port.get_lease(namespace, "pveha-dc1")


async def test_a_twin_that_is_cut_is_unreachable() -> None:
    twin = SimulatedKubernetes()
    twin.unreachable = True
    with pytest.raises(errors.Unreachable):
        await twin.get_lease("default", "pveha-dc1")


async def test_wrong_credentials_and_missing_rights_are_told_apart(server: Target, tmp_path: Path) -> None:
    with server.namespace() as namespace:
        poor = server.admin.service_account(namespace, "poor", [], tmp_path / "poor")
        async with client.ApiServer(config.Access(poor.kubeconfig)) as port:
            with pytest.raises(errors.Forbidden, match="haclusters"):
                await port.list_objects("HACluster", namespace)
        poor.kubectl("config", "set-credentials", user_of(poor.kubeconfig), "--token=wrong")
        async with client.ApiServer(config.Access(poor.kubeconfig)) as port:
            with pytest.raises(errors.Unauthorized):
                await port.list_objects("HACluster", namespace)


def user_of(kubeconfig: Path) -> str:
    """Name of the only user of a kubeconfig."""
    (user,) = yaml.safe_load(kubeconfig.read_text())["users"]
    return str(user["name"])


async def test_a_kubeconfig_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidConfiguration, match="--kubeconfig"):
        async with client.ApiServer(config.Access(tmp_path / "none")):
            pass


async def test_long_listings_come_in_pages(server: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE", 3)
    with server.namespace() as namespace:
        server.admin.apply(
            *(
                {
                    "apiVersion": api.API_VERSION,
                    "kind": "FailoverPolicy",
                    "metadata": {"name": f"p{index}", "namespace": namespace},
                    "spec": {},
                }
                for index in range(8)
            )
        )
        async with client.ApiServer(config.Access(server.admin.kubeconfig)) as port:
            listing = await port.list_objects("FailoverPolicy", namespace)
        assert len({obj["metadata"]["name"] for obj in listing.objects}) == 8
        assert {obj["kind"] for obj in listing.objects} == {"FailoverPolicy"}
        server.admin.kubectl("delete", "failoverpolicies", "--all", "-n", namespace)
