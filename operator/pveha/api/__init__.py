"""The three resources of group pveha.dev, as people write them.

`hacluster.py`, `failoverpolicy.py` and `protectedvm.py` hold one resource each; `meta.py` what they share;
`conditions.py` every condition type and reason with its meaning and remedy. `schema.py` makes the CRDs
(crds/) and docs/reference.md from these models, so a field exists in one place only. Cross-field rules are
CEL and judged by the API server; the models check again only what safety hangs on: that certificates are
verified.
"""

from collections.abc import Mapping
from typing import Any

import pydantic

from pveha.api import conditions
from pveha.api.failoverpolicy import (
    FailbackMode,
    FailoverPolicy,
    FailoverPolicySpec,
    FailoverPolicyStatus,
    NodeFailureAction,
)
from pveha.api.hacluster import (
    Engine,
    GuestCounters,
    HACluster,
    HAClusterSpec,
    HAClusterStatus,
    LastFailure,
    Mode,
    NodeCounters,
    NotOnline,
    OperationStatus,
)
from pveha.api.meta import API_VERSION, GROUP, VERSION, Condition, Resource, Status
from pveha.api.protectedvm import (
    FailoverPlan,
    GuestStatus,
    LastFailover,
    ProtectedVM,
    ProtectedVMSpec,
    ProtectedVMStatus,
    RunStrategy,
)

__all__ = [
    "API_VERSION",
    "GROUP",
    "RESOURCES",
    "VERSION",
    "Condition",
    "Engine",
    "FailbackMode",
    "FailoverPlan",
    "FailoverPolicy",
    "FailoverPolicySpec",
    "FailoverPolicyStatus",
    "GuestCounters",
    "GuestStatus",
    "HACluster",
    "HAClusterSpec",
    "HAClusterStatus",
    "LastFailover",
    "LastFailure",
    "ManifestError",
    "Mode",
    "NodeCounters",
    "NodeFailureAction",
    "NotOnline",
    "OperationStatus",
    "ProtectedVM",
    "ProtectedVMSpec",
    "ProtectedVMStatus",
    "Resource",
    "RunStrategy",
    "Status",
    "conditions",
    "parse",
]

RESOURCES: tuple[type[HACluster] | type[FailoverPolicy] | type[ProtectedVM], ...] = (
    HACluster,
    FailoverPolicy,
    ProtectedVM,
)


class ManifestError(ValueError):
    """An object that is none of ours, or whose fields do not hold what the models say. The text names object
    and fields."""


def parse(obj: Mapping[str, Any], *, strict: bool = False) -> HACluster | FailoverPolicy | ProtectedVM:
    """The typed resource of a manifest. Raises ManifestError.

    Unknown fields are ignored, so that an older operator can read objects of a newer one; with `strict`
    (files read by the CLI) unknown fields of the spec are refused.
    """
    kind, version = obj.get("kind"), obj.get("apiVersion")
    resource = next((r for r in RESOURCES if r.kind_name == kind and version == API_VERSION), None)
    if resource is None:
        kinds = ", ".join(r.kind_name for r in RESOURCES)
        raise ManifestError(
            f"{kind or 'object without kind'} of {version}: pveha knows {kinds} of {API_VERSION}"
        )
    try:
        parsed = resource.model_validate(obj)
        if strict:
            type(parsed.spec).model_validate(obj.get("spec", {}), extra="forbid")
    except pydantic.ValidationError as error:
        name = (obj.get("metadata") or {}).get("name", "without a name")
        details = "; ".join(f"{_path(location)}: {message}" for location, message in _leaves(error))
        raise ManifestError(f"{kind} {name}: {details}") from None
    return parsed


def _leaves(error: pydantic.ValidationError) -> list[tuple[tuple[int | str, ...], str]]:
    """Location and message of each error, without those that only follow from one further inside."""
    errors = [(e["loc"], e["msg"]) for e in error.errors(include_url=False)]
    return [
        (location, message)
        for location, message in errors
        if not any(len(other) > len(location) and other[: len(location)] == location for other, _ in errors)
    ]


def _path(location: tuple[int | str, ...]) -> str:
    return (
        "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
        or "object"
    )
