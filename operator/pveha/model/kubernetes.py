"""What pveha keeps in Kubernetes: names of objects, the Lease of a leader, Events."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

Manifest = Mapping[str, Any]
"""An object as the API server sends it: plain JSON values."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class ClusterKey:
    """One HACluster."""

    namespace: str
    name: str

    @override
    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectRef:
    """One object of pveha's kinds. `uid` tells it from an earlier or later one of the same name."""

    kind: str
    namespace: str
    name: str
    uid: str = dataclasses.field(default="", compare=False)

    @override
    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a kind in a namespace (or everywhere) as of `resource_version`."""

    objects: tuple[Manifest, ...]
    resource_version: str


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """A Lease of coordination.k8s.io/v1. An empty `holder` means that anybody may take it at once.

    `renew_timestamp` is the holder's wall clock, for people: nobody decides by it, but it must differ between
    two renewals, because an update that changes nothing leaves `resource_version` as it was.
    """

    namespace: str
    name: str
    holder: str
    duration_seconds: int
    acquire_timestamp: float
    renew_timestamp: float
    transitions: int = 0
    resource_version: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Occurrence:
    """An Event of events.k8s.io/v1; `count` > 1 turns the one of the same `name` into a series."""

    name: str
    regarding: ObjectRef
    reason: str
    message: str
    warning: bool
    instance: str
    """The replica that reports it."""
    first_timestamp: float
    last_timestamp: float
    count: int = 1
