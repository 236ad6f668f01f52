"""The API server in memory, as far as pveha uses it; held to the same tests as the real one.

Faults on command: `unreachable` refuses every request, `hang` is awaited before each request has its effect
and `lose` afterwards, so that a request can be late, lost, or done without its answer arriving.
"""

import dataclasses
import json
import marshal
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pveha import api
from pveha.model import errors, kubernetes

Fault = Callable[[str], Awaitable[None]]
"""Gets the request's name; may sleep, and raise `Unreachable`."""


IDENTITY = str(uuid.UUID(int=1))


CREATED = "2026-11-18T00:00:00Z"
"""When everything was created that does not say so itself: later than what scenarios begin with."""


async def no_fault(request: str) -> None:
    """Let the request pass."""


def _copy(manifest: kubernetes.Manifest) -> dict[str, Any]:
    """What comes over the wire: nobody shares anything with anybody."""
    copied: dict[str, Any] = marshal.loads(marshal.dumps(dict(manifest)))
    return copied


def _sent(manifest: kubernetes.Manifest) -> dict[str, Any]:
    """What arrives of a request's body: JSON knows no tuples."""
    arrived: dict[str, Any] = json.loads(json.dumps(manifest))
    return arrived


def _without_version(obj: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    return {"metadata": metadata, "spec": obj.get("spec"), "kind": obj["kind"]}


class SimulatedKubernetes:
    """One API server; `watch` callbacks get (`ADDED` | `MODIFIED` | `DELETED`, object) as a watch would."""

    def __init__(self) -> None:
        self.unreachable = False
        self.hang: Fault = no_fault
        self.lose: Fault = no_fault
        self.writes = 0
        """Changes of any resourceVersion."""
        self.watchers: list[Callable[[str, kubernetes.Manifest], None]] = []
        self.occurrences: dict[str, kubernetes.Occurrence] = {}
        self._identity = IDENTITY
        self._version = 0
        self._objects: dict[kubernetes.ObjectRef, dict[str, Any]] = {}
        self._secrets: dict[tuple[str, str], dict[str, bytes]] = {}
        self._leases: dict[tuple[str, str], kubernetes.Lease] = {}

    # What users do; no fault stops them.

    def put(self, manifest: kubernetes.Manifest) -> kubernetes.Manifest:
        """Create an object or replace its spec, as `kubectl apply` does; the status is kept."""
        parsed = api.parse(manifest)
        ref = kubernetes.ObjectRef(parsed.kind_name, parsed.namespace, parsed.name)
        old = self._objects.get(ref)
        new = _sent(dict(manifest))
        metadata = new.setdefault("metadata", {})
        metadata["namespace"] = parsed.namespace
        new["status"] = old.get("status", {}) if old else {}
        if old is None:
            metadata |= {"uid": str(uuid.UUID(int=self._version + 2)), "generation": 1}
        else:
            generation = old["metadata"]["generation"] + (old.get("spec") != new.get("spec"))
            metadata |= {"uid": old["metadata"]["uid"], "generation": generation}
        self._store(ref, new)
        return _copy(new)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object."""
        obj = self._objects.pop(kubernetes.ObjectRef(kind, namespace, name))
        obj["metadata"]["resourceVersion"] = self._next_version()
        self._tell("DELETED", obj)

    def owned_by(self, uid: str) -> list[str]:
        """Names of the ProtectedVMs that go when their owner does."""
        return [
            ref.name
            for ref, obj in self._objects.items()
            if any(owner["uid"] == uid for owner in obj["metadata"].get("ownerReferences", ()))
        ]

    def put_secret(self, namespace: str, name: str, data: Mapping[str, bytes]) -> None:
        """Create or replace a Secret."""
        self._secrets[namespace, name] = dict(data)

    def get(self, kind: str, namespace: str, name: str) -> kubernetes.Manifest:
        """An object as it is stored now."""
        return _copy(self._objects[kubernetes.ObjectRef(kind, namespace, name)])

    def resource_version(self, kind: str, namespace: str, name: str) -> str:
        """The resourceVersion of an object."""
        return str(self._objects[kubernetes.ObjectRef(kind, namespace, name)]["metadata"]["resourceVersion"])

    def hold_lease(self, namespace: str, name: str, holder: str) -> None:
        """Somebody else writes himself into a Lease, whoever held it."""
        old = self._leases.get((namespace, name))
        taken = kubernetes.Lease(namespace, name, holder, 15, 0.0, 0.0, old.transitions + 1 if old else 0)
        self._leases[namespace, name] = dataclasses.replace(taken, resource_version=self._next_version())

    def lease_holder(self, namespace: str, name: str) -> str:
        """Who holds a Lease; "" if nobody does."""
        lease = self._leases.get((namespace, name))
        return lease.holder if lease is not None else ""

    def delete_lease(self, namespace: str, name: str) -> None:
        """Delete a Lease, as a person might."""
        del self._leases[namespace, name]

    def write_status(self, kind: str, namespace: str, name: str, status: kubernetes.Manifest) -> None:
        """An object's status as somebody has left it."""
        ref = kubernetes.ObjectRef(kind, namespace, name)
        self._store(ref, {**self._objects[ref], "status": dict(status)})

    def forget_status(self, kind: str, namespace: str, name: str) -> None:
        """An object's status is lost, as after a restore from a backup."""
        ref = kubernetes.ObjectRef(kind, namespace, name)
        self._store(ref, {**self._objects[ref], "status": {}})

    # The port.

    async def identity(self) -> str:
        await self._before("identity")
        return self._identity

    async def list_objects(self, kind: str, namespace: str | None) -> kubernetes.Listing:
        await self._before("list_objects")
        found = tuple(
            _copy(obj)
            for ref, obj in self._objects.items()
            if ref.kind == kind and namespace in (None, ref.namespace)
        )
        listing = kubernetes.Listing(found, str(self._version))
        await self.lose("list_objects")
        return listing

    async def apply_status(
        self, ref: kubernetes.ObjectRef, status: kubernetes.Manifest, resource_version: str = ""
    ) -> kubernetes.Manifest:
        await self._before("apply_status")
        obj = self._objects.get(ref)
        if obj is None:
            raise errors.NotFound(f"{ref} does not exist")
        if resource_version and resource_version != obj["metadata"]["resourceVersion"]:
            raise errors.Conflict(f"{ref} has changed")
        if obj.get("status", {}) != status:
            self._store(ref, {**obj, "status": _sent(dict(status))})
        answer = _copy(self._objects[ref])
        await self.lose("apply_status")
        return answer

    async def apply_guest(self, manifest: kubernetes.Manifest, *, ours: bool) -> kubernetes.Manifest:
        await self._before("apply_guest")
        parsed = api.parse(manifest)
        ref = kubernetes.ObjectRef(parsed.kind_name, parsed.namespace, parsed.name)
        old = self._objects.get(ref)
        new = _sent(dict(manifest))
        if old is not None:
            written = {**old["spec"], **new["spec"]}
            if "policyRef" not in new["spec"] and ours:
                written.pop("policyRef", None)
            if written != old["spec"] and not ours:
                raise errors.Conflict(f"{ref}: somebody else wrote other values")
            if (written["clusterRef"], written["vmid"]) != (old["spec"]["clusterRef"], old["spec"]["vmid"]):
                raise errors.Refused(f"{ref}: clusterRef and vmid are immutable")
            labels = {**old["metadata"].get("labels", {}), **new["metadata"].get("labels", {})}
            new = {**new, "spec": written}
            new["metadata"] = {**old["metadata"], **new["metadata"], "labels": labels}
            if _without_version(new) == _without_version({**old, "status": {}}):
                return _copy(old)
        new["metadata"].setdefault("creationTimestamp", CREATED)
        stored = self.put(new)
        await self.lose("apply_guest")
        return stored

    async def delete_guest(self, ref: kubernetes.ObjectRef, resource_version: str) -> None:
        await self._before("delete_guest")
        if ref not in self._objects:
            raise errors.NotFound(f"{ref} does not exist")
        metadata = self._objects[ref]["metadata"]
        if (ref.uid, resource_version) != (metadata["uid"], metadata["resourceVersion"]):
            raise errors.Conflict(f"{ref} has changed")
        self.delete(ref.kind, ref.namespace, ref.name)
        await self.lose("delete_guest")

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes]:
        await self._before("secret")
        if (namespace, name) not in self._secrets:
            raise errors.NotFound(f"Secret {namespace}/{name} does not exist")
        return dict(self._secrets[namespace, name])

    async def record(self, occurrence: kubernetes.Occurrence) -> None:
        await self._before("record")
        self.occurrences[occurrence.name] = occurrence
        await self.lose("record")

    async def get_lease(self, namespace: str, name: str) -> kubernetes.Lease:
        await self._before("get_lease")
        if (namespace, name) not in self._leases:
            raise errors.NotFound(f"Lease {namespace}/{name} does not exist")
        lease = self._leases[namespace, name]
        await self.lose("get_lease")
        return lease

    async def create_lease(self, lease: kubernetes.Lease) -> kubernetes.Lease:
        await self._before("create_lease")
        key = lease.namespace, lease.name
        if key in self._leases:
            raise errors.AlreadyExists(f"Lease {lease.namespace}/{lease.name} exists")
        self._leases[key] = created = dataclasses.replace(lease, resource_version=self._next_version())
        await self.lose("create_lease")
        return created

    async def update_lease(self, lease: kubernetes.Lease) -> kubernetes.Lease:
        await self._before("update_lease")
        key = lease.namespace, lease.name
        stored = self._leases.get(key)
        if stored and lease.resource_version != stored.resource_version:
            raise errors.Conflict(f"Lease {lease.namespace}/{lease.name} has changed")
        if lease != stored:
            self._leases[key] = dataclasses.replace(lease, resource_version=self._next_version())
        updated = self._leases[key]
        await self.lose("update_lease")
        return updated

    async def _before(self, request: str) -> None:
        if self.unreachable:
            raise errors.Unreachable(f"{request}: the simulated API server is unreachable")
        await self.hang(request)

    def _next_version(self) -> str:
        self._version += 1
        self.writes += 1
        return str(self._version)

    def _store(self, ref: kubernetes.ObjectRef, obj: dict[str, Any]) -> None:
        kind = "MODIFIED" if ref in self._objects else "ADDED"
        obj["metadata"] = {**obj["metadata"], "resourceVersion": self._next_version()}
        self._objects[ref] = obj
        self._tell(kind, obj)

    def _tell(self, event: str, obj: dict[str, Any]) -> None:
        for watcher in self.watchers:
            watcher(event, _copy(obj))
