"""The calls the simulated API serves, with their parameters and the privileges they need, as Proxmox VE 9.2
has them.

A contract test compares this table with the API's own schema. Parameters are checked as PVE's JSONSchema
does, and complaints are worded as it words them.
"""

import dataclasses
import enum
import re
from collections.abc import Callable, Mapping

MISSING = "property is missing and it is not optional"
UNKNOWN = "property is not defined in schema and the schema does not allow additional properties"

_VMID = re.compile(r"[1-9][0-9]{2,8}")
_CONFIG_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]+")
_NODE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")
_BOOLEANS = {
    "0": False,
    "off": False,
    "no": False,
    "false": False,
    "1": True,
    "on": True,
    "yes": True,
    "true": True,
}

Value = str | int | bool
Parameters = Mapping[str, Value]


class Type(enum.StrEnum):
    """JSON schema types that occur here."""

    STRING = "string"
    INTEGER = "integer"
    BOOLEAN = "boolean"


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter; `form` returns the complaint of a `format` check, or None."""

    type: Type = Type.STRING
    optional: bool = True
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    max_length: int | None = None
    form: Callable[[str], str | None] | None = None

    def read(self, text: str) -> Value:
        """The value of `text`; raises ValueError with Proxmox's complaint."""
        if self.form and (complaint := self.form(text)):
            raise ValueError(complaint)
        if self.choices and text not in self.choices:
            listed = ", ".join(self.choices)
            raise ValueError(f"value '{text}' does not have a value in the enumeration '{listed}'")
        match self.type:
            case Type.BOOLEAN:
                if text.lower() not in _BOOLEANS:
                    raise ValueError(f"type check ('boolean') failed - got '{text}'")
                return _BOOLEANS[text.lower()]
            case Type.INTEGER:
                return self._integer(text)
            case Type.STRING:
                if self.max_length is not None and len(text) > self.max_length:
                    raise ValueError(f"value may only be {self.max_length} characters long")
                return text

    def _integer(self, text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text):
            raise ValueError(f"type check ('integer') failed - got '{text}'")
        value = int(text)
        if self.minimum is not None and value < self.minimum:
            raise ValueError(f"value must have a minimum value of {self.minimum}")
        if self.maximum is not None and value > self.maximum:
            raise ValueError(f"value must have a maximum value of {self.maximum}")
        return value


def _matches(pattern: re.Pattern[str], complaint: str) -> Callable[[str], str | None]:
    def check(text: str) -> str | None:
        return None if pattern.fullmatch(text) else f"invalid format - {complaint.format(text)}\n"

    return check


def _vmid(text: str) -> str | None:
    """A text that is no number fails its type check instead."""
    if text.isdigit() and not _VMID.fullmatch(text):
        return "invalid format - value does not look like a valid VM ID\n"
    return None


REQUIRED_NODE = Parameter(
    optional=False, form=_matches(_NODE, "value '{}' does not look like a valid node name")
)
_NODE_NAME = dataclasses.replace(REQUIRED_NODE, optional=True)
_CONFIG = Parameter(form=_matches(_CONFIG_ID, "invalid configuration ID '{}'"))
_BOOLEAN = Parameter(Type.BOOLEAN)
_COUNT = Parameter(Type.INTEGER, minimum=0)
_INTEGER = Parameter(Type.INTEGER)
_TEXT = Parameter()
_COMMENT = Parameter(max_length=4096)
_SID = Parameter(optional=False)
_JOB = Parameter(
    optional=False,
    form=_matches(re.compile(r"[1-9][0-9]{2,8}-\d{1,9}"), "value '{}' does not match the regex pattern"),
)
_GUEST = {
    "node": REQUIRED_NODE,
    "vmid": Parameter(Type.INTEGER, optional=False, minimum=100, maximum=999_999_999, form=_vmid),
}
_STATE = Parameter(choices=("started", "stopped", "enabled", "disabled", "ignored"))
_KIND = Parameter(choices=("ct", "vm"))
_RULE_TYPE = Parameter(choices=("node-affinity", "resource-affinity"))
_RESOURCE = {
    "comment": _COMMENT,
    "failback": _BOOLEAN,
    "group": _CONFIG,
    "max_relocate": _COUNT,
    "max_restart": _COUNT,
    "sid": _SID,
    "state": _STATE,
}
_RULE = {
    "rule": dataclasses.replace(_CONFIG, optional=False),
    "type": dataclasses.replace(_RULE_TYPE, optional=False),
}
_RULE_ANY = {**_RULE, "resources": _TEXT, "comment": _COMMENT, "disable": _BOOLEAN}
RULE_TYPES: Mapping[str, Mapping[str, Parameter]] = {
    "node-affinity": {**_RULE_ANY, "nodes": _TEXT, "strict": _BOOLEAN},
    "resource-affinity": {**_RULE_ANY, "affinity": Parameter(choices=("positive", "negative"))},
}
"""A rule's parameters depend on its type, which the schema does not show."""
RULE_NEEDS: Mapping[str, tuple[str, ...]] = {
    "node-affinity": ("resources", "nodes"),
    "resource-affinity": ("resources", "affinity"),
}
_MIGRATE = {"migration_network": _TEXT, "migration_type": Parameter(choices=("secure", "insecure"))}


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `privileges`: any of them on `on` lets the call pass; none: the handler
    filters.

    `proxied`: answered by the node in the path. `protected`: needs that node's pvedaemon.
    """

    method: str
    path: str
    parameters: Mapping[str, Parameter]
    on: str = "/"
    privileges: tuple[str, ...] = ()
    proxied: bool = False
    protected: bool = False

    @property
    def key(self) -> str:
        return f"{self.method} {self.path}"


CEPH = Route("GET", "/cluster/ceph/status", {}, privileges=("Sys.Audit", "Datastore.Audit"), protected=True)
"""Recorded where there is no Ceph; not in the part of the schema that the contract test has."""


def _routes() -> tuple[Route, ...]:
    audit, console = ("Sys.Audit",), ("Sys.Console",)
    sid = {"sid": _SID}
    node = {"node": REQUIRED_NODE}
    task = {**node, "upid": Parameter(optional=False)}
    resources, rules = "/cluster/ha/resources", "/cluster/ha/rules"
    update = {"delete": Parameter(max_length=4096), "digest": Parameter(max_length=64)}
    return (
        Route("GET", "/version", {}),
        Route("GET", "/access/permissions", {"path": _TEXT, "userid": _TEXT}),
        Route("GET", "/cluster/status", {}, privileges=audit, protected=True),
        Route("GET", "/cluster/resources", {"type": Parameter(choices=("vm", "storage", "node", "sdn"))}),
        Route("GET", "/cluster/tasks", {}),
        CEPH,
        Route("GET", "/cluster/replication", {}),
        Route("GET", "/cluster/replication/{id}", {"id": _JOB}),
        Route(
            "PUT",
            "/cluster/replication/{id}",
            {"id": _JOB, "comment": _COMMENT, "disable": _BOOLEAN, **update},
            protected=True,
        ),
        Route(
            "GET",
            "/nodes/{node}/replication",
            {**node, "guest": dataclasses.replace(_GUEST["vmid"], optional=True)},
            proxied=True,
            protected=True,
        ),
        Route("GET", resources, {"type": _KIND}, privileges=audit),
        Route("POST", resources, {**_RESOURCE, "type": _KIND}, privileges=console, protected=True),
        Route("GET", f"{resources}/{{sid}}", sid, privileges=audit),
        Route("PUT", f"{resources}/{{sid}}", {**_RESOURCE, **update}, privileges=console, protected=True),
        Route(
            "DELETE", f"{resources}/{{sid}}", {**sid, "purge": _BOOLEAN}, privileges=console, protected=True
        ),
        *(
            Route(
                "POST",
                f"{resources}/{{sid}}/{verb}",
                {**sid, "node": REQUIRED_NODE},
                privileges=console,
                protected=True,
            )
            for verb in ("migrate", "relocate")
        ),
        Route("GET", rules, {"resource": _TEXT, "type": _RULE_TYPE}, privileges=audit),
        Route("POST", rules, _RULE, privileges=console, protected=True),
        Route("GET", f"{rules}/{{rule}}", {"rule": _RULE["rule"]}, privileges=audit),
        Route("PUT", f"{rules}/{{rule}}", {**_RULE, **update}, privileges=console, protected=True),
        Route("DELETE", f"{rules}/{{rule}}", {"rule": _RULE["rule"]}, privileges=console, protected=True),
        Route("GET", "/cluster/ha/status/current", {}, privileges=audit),
        Route("GET", "/cluster/ha/status/manager_status", {}, privileges=audit),
        Route(
            "POST",
            "/cluster/ha/status/disarm-ha",
            {"resource-mode": Parameter(optional=False, choices=("freeze", "ignore"))},
            privileges=console,
            protected=True,
        ),
        Route("POST", "/cluster/ha/status/arm-ha", {}, privileges=console, protected=True),
        Route("GET", "/nodes", {}),
        Route("GET", "/nodes/{node}/version", node, proxied=True),
        Route("GET", "/nodes/{node}/status", node, "/nodes/{node}", audit, proxied=True),
        Route(
            "POST",
            "/nodes/{node}/status",
            {**node, "command": Parameter(optional=False, choices=("reboot", "shutdown"))},
            "/nodes/{node}",
            ("Sys.PowerMgmt",),
            proxied=True,
            protected=True,
        ),
        Route(
            "GET",
            "/nodes/{node}/tasks",
            {
                **node,
                "limit": _COUNT,
                "source": Parameter(choices=("archive", "active", "all")),
                "start": _COUNT,
                "vmid": dataclasses.replace(_GUEST["vmid"], optional=True),
            },
            proxied=True,
        ),
        Route("GET", "/nodes/{node}/tasks/{upid}/status", task, proxied=True, protected=True),
        Route(
            "GET",
            "/nodes/{node}/tasks/{upid}/log",
            {**task, "limit": _COUNT, "start": _COUNT},
            proxied=True,
            protected=True,
        ),
        *_guest_routes("qemu"),
        *_guest_routes("lxc"),
    )


_AGENT = ("VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted")


def _guest_routes(kind: str) -> tuple[Route, ...]:
    path = f"/nodes/{{node}}/{kind}/{{vmid}}"
    vm = kind == "qemu"

    def guest(
        method: str, end: str, parameters: Mapping[str, Parameter], *privileges: str, protected: bool
    ) -> Route:
        return Route(
            method,
            path + end,
            {**_GUEST, **parameters},
            "/vms/{vmid}",
            privileges,
            proxied=True,
            protected=protected,
        )

    skiplock = {"skiplock": _BOOLEAN}
    timeout = {"timeout": _COUNT}
    stop = {**skiplock, "overrule-shutdown": _BOOLEAN, **(timeout if vm else {})}
    shutdown = {**timeout, "forceStop": _BOOLEAN, **(skiplock if vm else {})}
    target = {"target": REQUIRED_NODE, "online": _BOOLEAN}
    migrate = {
        **target,
        **({**_MIGRATE, "force": _BOOLEAN, "with-local-disks": _BOOLEAN} if vm else {"restart": _BOOLEAN}),
    }
    config = {"current": _BOOLEAN, "snapshot": _CONFIG}
    return (
        Route(
            "GET",
            f"/nodes/{{node}}/{kind}",
            {"node": REQUIRED_NODE, **({"full": _BOOLEAN} if vm else {})},
            proxied=True,
            protected=True,
        ),
        guest("GET", "/config", config, "VM.Audit", protected=False),
        guest("GET", "/status/current", {}, "VM.Audit", protected=True),
        guest(
            "POST", "/status/start", {**skiplock, **(timeout if vm else {})}, "VM.PowerMgmt", protected=True
        ),
        guest("POST", "/status/stop", stop, "VM.PowerMgmt", protected=True),
        guest("POST", "/status/shutdown", shutdown, "VM.PowerMgmt", protected=True),
        *((guest("POST", "/agent/ping", {}, *_AGENT, protected=True),) if vm else ()),
        guest("GET", "/migrate", {"target": _NODE_NAME}, "VM.Migrate", protected=True),
        guest("POST", "/migrate", migrate, "VM.Migrate", protected=True),
    )


ROUTES = _routes()
_BY_SHAPE: Mapping[tuple[str, int], tuple[Route, ...]] = {
    shape: tuple(route for route in ROUTES if (route.method, route.path.count("/")) == shape)
    for shape in {(route.method, route.path.count("/")) for route in ROUTES}
}


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The route of a call with the parameters its path holds."""
    parts = path.split("/")
    for route in _BY_SHAPE.get((method, len(parts) - 1), ()):
        names = route.path.split("/")
        if all(
            name == part or (name.startswith("{") and part) for name, part in zip(names, parts, strict=True)
        ):
            return route, {
                name[1:-1]: part for name, part in zip(names, parts, strict=True) if name.startswith("{")
            }
    return None


def read(
    parameters: Mapping[str, Parameter], given: Mapping[str, str]
) -> tuple[dict[str, Value], dict[str, str]]:
    """The values of `given`, and the complaints by parameter."""
    values: dict[str, Value] = {}
    complaints = {
        name: MISSING
        for name, parameter in parameters.items()
        if not parameter.optional and name not in given
    }
    for name, text in given.items():
        if name not in parameters:
            complaints[name] = UNKNOWN
            continue
        try:
            values[name] = parameters[name].read(text)
        except ValueError as complaint:
            complaints[name] = str(complaint)
    return values, complaints
