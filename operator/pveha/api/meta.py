"""What all three resources share: the base model, metadata, references, conditions, checked strings.

Attribute names are snake_case; in manifests they are camelCase (`ca_secret_ref` is `caSecretRef`). Docstrings
under attributes end up as descriptions in the CRDs and in docs/reference.md, so they say why one would set
the field.
"""

import functools
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

GROUP = "pveha.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

TAKE_OVER_ANNOTATION = f"{GROUP}/take-over"
"""Set on an HACluster to the old owner's name to take the Proxmox cluster over from another operator (rule
S14)."""

REBIND_ANNOTATION = f"{GROUP}/rebind"
"""Set on an HACluster to a node's name (several: separated by commas) once a person has checked that the
node's BMC entry names the right machine: what contradicted it before is forgotten (rule S1)."""

DRILL_ANNOTATION = f"{GROUP}/fencing-drill"
"""Set on an HACluster to a node's name while a person does the drill that binds the node's outlets to it:
they are read every second and a half then (rule S1)."""

CONFIRM_OFF_ANNOTATION = f"{GROUP}/confirm-off"
"""Set on an HACluster to the id of a node's failure (status tells it; several: separated by commas) by a
person who has made sure that the node is off and stays off. Counts where a method `manual` is configured
(rule S1)."""

CONFIRM_UNPROTECT_ANNOTATION = f"{GROUP}/confirm-unprotect"
"""Set on an HACluster to the number of guests that the condition UnprotectHeld names, to let pveha unprotect
them."""

ACCEPT_DATA_LOSS_ANNOTATION = f"{GROUP}/accept-data-loss"
"""Set on a ProtectedVM to the id of its last failover once a person gives up what the lost node holds newer
than the replica that the guest was started from: its replication jobs run again (rule S19)."""

AUTO_PROTECT_LABEL = f"{GROUP}/auto-protect"
"""On a ProtectedVM that pveha made: the name of the entry of spec.autoProtect that selects its guest."""

END_QUARANTINE_ANNOTATION = f"{GROUP}/end-quarantine"
"""Set on an HACluster to a node's name (several: separated by commas) once a person has mended what made the
node flap: guests may be started on it again."""


def alias(attribute: str) -> str:
    """The name in manifests: camelCase, with Kubernetes' upper-case ID (`system_id` is `systemID`)."""
    return re.sub(r"Id$", "ID", to_camel(attribute))


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule of the CRD; `message` tells what to do. `path` moves the complaint to a field inside the
    object."""

    expression: str
    message: str
    path: str = ""

    def schema(self) -> dict[str, str]:
        path = {"fieldPath": self.path} if self.path else {}
        return {"rule": self.expression, "message": self.message, **path}


def cel(*rules: Rule) -> dict[str, Any]:
    """JSON schema extra for CEL rules."""
    return {"x-kubernetes-validations": [rule.schema() for rule in rules]}


def list_map(*keys: str) -> dict[str, Any]:
    """JSON schema extra for a list whose items are merged by `keys` in server-side apply."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


LIST_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
ATOMIC_MAP: dict[str, Any] = {"x-kubernetes-map-type": "atomic"}


@dataclass(frozen=True, slots=True)
class Matches:
    """A string that must match `pattern` (RE2 and Python, anchored by us), refused with `message` on both
    sides.

    In the CRD it is a CEL rule and not a `pattern`, whose refusal would only quote the expression.
    """

    pattern: str
    message: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        matches = re.compile(self.pattern).fullmatch

        def check(value: str) -> str:
            if matches(value) is None:
                raise PydanticCustomError("matches", "{reason}", {"reason": self.message})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), **cel(Rule(f"self.matches(r'^(?:{self.pattern})$')", self.message))}


ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Matches(
        r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?",
        "must be the name of an object in the same namespace: lower case letters, digits, '-' and '.'",
    ),
]
Label = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Matches(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", "must consist of lower case letters, digits and '-'"),
]
NodeName = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Matches(
        r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?",
        "must be the node's name as Proxmox shows it, without a domain: letters, digits and '-'",
    ),
]
Host = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Matches(
        r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*",
        "must be a DNS name or an IP address only: leave out https:// and paths, write the port into 'port'",
    ),
]
Port = Annotated[int, Field(ge=1, le=65535)]
Fingerprint = Annotated[
    str,
    Field(max_length=95),
    Matches(
        r"([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}",
        "must be a SHA-256 fingerprint, 32 bytes written AA:BB:...; "
        "'openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE' prints it; quote it in YAML",
    ),
]


@functools.lru_cache(maxsize=4096)
def _rfc3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")[:-6] + "Z"


Time = Annotated[AwareDatetime, PlainSerializer(_rfc3339, return_type=str, when_used="json")]
"""A moment with a time zone; written as Kubernetes writes times, in whole seconds of UTC."""


class Model(BaseModel):
    """Base of everything in the API: frozen, named in camelCase outside, tolerant of fields it does not
    know."""

    model_config = ConfigDict(
        alias_generator=alias,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    def manifest(self) -> dict[str, Any]:
        """As Kubernetes wants it: camelCase, plain JSON values, absent instead of null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class NameRef(Model):
    """The name of another resource in the same namespace."""

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    name: ObjectName
    """Name of the resource, in the namespace of this one: namespaces separate tenants."""


class SecretRef(Model):
    """The name of a Secret in the same namespace."""

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    name: ObjectName
    """Name of the Secret, in the namespace of this object. Secrets are never written inline."""


class Condition(Model):
    """One observation about the object, in the form all Kubernetes tools understand."""

    model_config = ConfigDict(
        json_schema_extra={"required": ["type", "status", "reason", "message", "lastTransitionTime"]}
    )

    type: Annotated[str, Field(min_length=1, max_length=64)]
    """What is judged; the types and their reasons are listed in docs/reference.md."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=128)]
    """Why, in one word for programs."""
    message: Annotated[str, Field(max_length=4096)]
    """Why, in a sentence for people, with what to do about it."""
    last_transition_time: Time | None = None
    """When the status changed last."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The metadata.generation this was judged for: if it is older than the object's, the judgement is still
    to come."""


Conditions = Annotated[
    tuple[Condition, ...], Field(default=(), max_length=16, json_schema_extra=list_map("type"))
]


class Status(Model):
    """What all statuses begin with."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The metadata.generation that pveha has acted upon last."""
    conditions: Conditions = ()
    """What pveha judges about this object; types and reasons are listed in docs/reference.md."""

    def condition(self, kind: str) -> Condition | None:
        """The condition of type `kind`, if it has been judged."""
        return next((condition for condition in self.conditions if condition.type == kind), None)


class OwnerReference(Model):
    """The object that an object goes with: Kubernetes deletes it once that is gone."""

    kind: str
    name: str
    uid: str


class ObjectMeta(Model):
    """The part of Kubernetes' metadata that pveha reads. Objects read from files have no uid, generation or
    times."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; priority 1 is shown with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    description: str = ""

    def manifest(self) -> dict[str, Any]:
        column: dict[str, Any] = {"name": self.name, "jsonPath": self.path, "type": self.type}
        if self.priority:
            column["priority"] = self.priority
        if self.description:
            column["description"] = self.description
        return column


class Resource(Model):
    """A resource of the group. `kind_name`, `plural`, ... are what the CRD says of it beside the fields."""

    kind_name: ClassVar[str]
    plural: ClassVar[str]
    short_name: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]] = ()
    selectable: ClassVar[tuple[str, ...]] = ()
    rules: ClassVar[tuple[Rule, ...]] = ()
    """CEL rules on the whole object."""

    metadata: ObjectMeta

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name): unique within a kind."""
        return self.metadata.namespace, self.metadata.name
