"""The resources as last seen: fed by the watch event by event, corrected by listing everything now and then.

Events and listings arrive in any order, so an object is replaced only by one with a newer resourceVersion,
and a deletion is remembered until a listing has confirmed it. Kopf does not tell of objects that vanished
while a watch was broken (410); the listing does.
"""

import logging
from collections.abc import Mapping
from typing import TypeVar

from pveha import api, bell
from pveha.model import errors, specs
from pveha.model.kubernetes import ClusterKey, Listing, Manifest, ObjectRef
from pveha.report.applier import version

KINDS: tuple[str, ...] = tuple(resource.kind_name for resource in api.RESOURCES)

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

log = logging.getLogger(__name__)


class HistoryError(errors.PvehaError):
    """A listing is of a moment before that of an earlier listing."""


class Store:
    """All HAClusters, FailoverPolicies and ProtectedVMs that this process may see."""

    def __init__(self) -> None:
        self.changed = bell.Bell()
        """Rings on every change."""
        self._raw: dict[ObjectRef, Manifest] = {}
        self._deleted: dict[ObjectRef, int] = {}
        self._told: dict[str, int] = {}
        self._listed_at: dict[tuple[str, str | None], int] = {}
        self._parsed: dict[ObjectRef, api.HACluster | api.FailoverPolicy | api.ProtectedVM] = {}
        self._refused: dict[ObjectRef, str] = {}
        self._policies: dict[str, dict[str, api.FailoverPolicy]] = {}
        self._guests: dict[ClusterKey, dict[str, api.ProtectedVM]] = {}
        self._refused_guests: dict[ClusterKey, dict[str, str]] = {}
        self._specs: dict[ClusterKey, specs.Specs] = {}
        self.revision = 0
        """Grows with each change but for one of status."""

    def told(self, kind: str) -> int:
        """The highest resourceVersion of which events of a kind have told."""
        return self._told.get(kind, 0)

    def event(self, kind: str, event: str | None, obj: Manifest) -> None:
        """Take what a watch says: `ADDED`, `MODIFIED`, `DELETED`, or None for an object that was listed."""
        ref = _ref(kind, obj)
        self._told[kind] = max(self.told(kind), version(obj))
        if event == "DELETED":
            self._deleted[ref] = max(version(obj), self._deleted.get(ref, 0))
            if ref in self._raw and version(self._raw[ref]) <= version(obj):
                self._remove(ref)
        elif version(obj) > max(self._deleted.get(ref, 0), version(self._raw.get(ref, {}))):
            self._put(ref, obj)

    def listed(self, kind: str, namespace: str | None, listing: Listing) -> int:
        """Take a listing of a kind; returns the highest resourceVersion of which events had not told, or 0.

        Raises HistoryError if the server's history has gone backwards; nothing is taken then.
        """
        at = int(listing.resource_version or 0)
        if at < self._listed_at.get((kind, namespace), 0):
            raise HistoryError(
                f"the API server's history went back from {self._listed_at[kind, namespace]} to {at}, "
                "which lasts only after a restore from a backup: pveha must start anew then"
            )
        self._listed_at[kind, namespace] = at
        untold = 0
        named = set()
        for obj in listing.objects:
            ref = _ref(kind, obj)
            named.add(ref)
            if version(obj) > max(self._deleted.get(ref, 0), version(self._raw.get(ref, {}))):
                self._put(ref, obj)
                untold = max(untold, version(obj))
        for ref in [ref for ref in self._deleted if _within(ref, kind, namespace)]:
            if self._deleted[ref] <= at:
                del self._deleted[ref]
        for ref in [ref for ref in self._raw if _within(ref, kind, namespace) and ref not in named]:
            if version(self._raw[ref]) <= at:
                self._remove(ref)
                self._deleted[ref] = at
        return untold

    def raw(self, ref: ObjectRef) -> Manifest | None:
        """An object as it was seen last."""
        return self._raw.get(ref)

    def clusters(self) -> frozenset[ClusterKey]:
        """All HAClusters, those that cannot be read included."""
        return frozenset(
            ClusterKey(ref.namespace, ref.name)
            for ref in (*self._parsed, *self._refused)
            if ref.kind == api.HACluster.kind_name
        )

    def refused(self) -> Mapping[ObjectRef, str]:
        """Objects that the models refuse, with the reason."""
        return self._refused

    def cluster_of(self, ref: ObjectRef) -> ClusterKey | None:
        """The cluster that a ProtectedVM names, also if the rest of it is refused."""
        return _cluster_of(self._raw.get(ref, {}))

    def guests_without_cluster(self) -> list[api.ProtectedVM]:
        """ProtectedVMs that name an HACluster which does not exist."""
        clusters = self.clusters()
        return [
            guest for key, guests in self._guests.items() if key not in clusters for guest in guests.values()
        ]

    def specs(self, key: ClusterKey) -> specs.Specs | None:
        """What is wanted of a cluster; None if it does not exist or cannot be read. The same object until it
        changes."""
        if key in self._specs:
            return self._specs[key]
        cluster = self._parsed.get(ObjectRef(api.HACluster.kind_name, key.namespace, key.name))
        if not isinstance(cluster, api.HACluster):
            return None
        self._specs[key] = specs.Specs(
            cluster=cluster,
            policies=dict(self._policies.get(key.namespace, {})),
            guests=dict(self._guests.get(key, {})),
            unreadable=dict(self._refused_guests.get(key, {})),
            revision=self.revision,
        )
        return self._specs[key]

    def _put(self, ref: ObjectRef, obj: Manifest) -> None:
        known_reason = self._refused.get(ref)
        if ref not in self._raw or _wish(self._raw[ref]) != _wish(obj):
            self.revision += 1
        self._raw[ref] = obj
        self._forget(ref)
        if obj["metadata"].get("deletionTimestamp"):
            return
        try:
            parsed = api.parse(obj)
        except api.ManifestError as error:
            if str(error) != known_reason:
                log.warning("%s cannot be used: %s", ref, error)
            self._refused[ref] = str(error)
            if ref.kind == api.ProtectedVM.kind_name and (key := _cluster_of(obj)):
                self._refused_guests.setdefault(key, {})[ref.name] = str(error)
                self._specs.pop(key, None)
            return
        self._parsed[ref] = parsed
        self._index(ref, parsed, add=True)

    def _remove(self, ref: ObjectRef) -> None:
        del self._raw[ref]
        self.revision += 1
        self._forget(ref)

    def _forget(self, ref: ObjectRef) -> None:
        self.changed.ring()
        self._refused.pop(ref, None)
        if ref.kind == api.ProtectedVM.kind_name:
            for key, names in self._refused_guests.items():
                if key.namespace == ref.namespace and names.pop(ref.name, ""):
                    self._specs.pop(key, None)
        if parsed := self._parsed.pop(ref, None):
            self._index(ref, parsed, add=False)

    def _index(
        self, ref: ObjectRef, parsed: api.HACluster | api.FailoverPolicy | api.ProtectedVM, *, add: bool
    ) -> None:
        """Add to or take from the indices, and drop the specs that this changes."""
        match parsed:
            case api.HACluster():
                self._specs.pop(ClusterKey(ref.namespace, ref.name), None)
            case api.FailoverPolicy():
                _set(self._policies, ref.namespace, ref.name, parsed if add else None)
                for key in [key for key in self._specs if key.namespace == ref.namespace]:
                    del self._specs[key]
            case api.ProtectedVM():
                key = ClusterKey(ref.namespace, parsed.spec.cluster_ref.name)
                _set(self._guests, key, ref.name, parsed if add else None)
                self._specs.pop(key, None)


def _set(index: dict[_Key, dict[str, _Value]], key: _Key, name: str, value: _Value | None) -> None:
    """Set or, with None, remove `index[key][name]`; no empty dictionary is left."""
    names = index.setdefault(key, {})
    if value is None:
        names.pop(name, None)
    else:
        names[name] = value
    if not names:
        del index[key]


def _ref(kind: str, obj: Manifest) -> ObjectRef:
    metadata = obj["metadata"]
    return ObjectRef(kind, metadata["namespace"], metadata["name"], metadata.get("uid", ""))


def _wish(obj: Manifest) -> tuple[object, ...]:
    """All of an object that is not told by its controller or its server."""
    metadata = obj["metadata"]
    return (
        obj.get("spec"),
        metadata.get("annotations"),
        metadata.get("labels"),
        metadata.get("ownerReferences"),
        metadata.get("deletionTimestamp"),
    )


def _within(ref: ObjectRef, kind: str, namespace: str | None) -> bool:
    return ref.kind == kind and namespace in (None, ref.namespace)


def _cluster_of(obj: Manifest) -> ClusterKey | None:
    """The cluster that a ProtectedVM names, if at least that can be read."""
    try:
        return ClusterKey(obj["metadata"]["namespace"], str(obj["spec"]["clusterRef"]["name"]))
    except (KeyError, TypeError):
        return None
