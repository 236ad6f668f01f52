"""The format of scenario files: a world, what is protected in it, a timeline of faults, and what must hold.

docs/simulation.md describes every field and every line of a timeline. `scenario_run` plays a scenario.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pydantic
import yaml

from pveha.model import cluster, errors, guests, mark
from pveha.sim import config, rig

FILE = "scenario.yaml"
LOG = "expected.log"
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class ScenarioError(errors.PvehaError):
    """A scenario file that cannot be understood, or a line of it that cannot be done."""


class Strict(pydantic.BaseModel):
    """Unknown fields are errors."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Step(Strict):
    """Lines to do at a time, or some time after the log says something."""

    at: float | None = None
    """Seconds since the timeline began."""
    when: str = ""
    """Text that a line logged since the step before must contain."""
    after: float = 0.0
    """Seconds to wait after that."""
    within: float = 600.0
    """Seconds in which that must happen."""
    do: Annotated[tuple[str, ...], pydantic.BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]

    @pydantic.model_validator(mode="after")
    def _one_of_two(self) -> "Step":
        if (self.at is None) == (not self.when):
            raise ValueError("a step has either `at` or `when`")
        return self


Bound = Annotated[
    tuple[float, float], pydantic.BeforeValidator(lambda v: (0.0, v) if isinstance(v, int | float) else v)
]
"""At most this many seconds, or [at least, at most]."""


class Expect(Strict):
    """What must hold when the scenario ends, beside the log."""

    guests: dict[str, str]
    """Every guest by vmid or range of vmids: `running on pve1`, `stopped on pve2 or pve3`."""
    fenced: tuple[str, ...] = ()
    """Nodes that the operator told a BMC, or the outlets of a level, to switch off, in order."""
    taken_over: tuple[str, ...] = ()
    """Guests, or ranges of them, that the operator itself brought back on another node."""
    recovered_by_native: tuple[str, ...] = ()
    """Guests, or ranges of them, that Proxmox's own HA brought back on another node, as their ProtectedVMs
    tell; none given: not looked at."""
    downtime: dict[str, Bound] = {}
    """By vmid, range of vmids or `all`: seconds since the timeline began in which the guest ran nowhere."""
    double_runs: int = 0
    marks: dict[str, str] = {}
    """Marks of ours left in comments of HA resources, by service id, without brackets."""
    ha: dict[str, str] = {}
    """HA resources that differ from what they were when the timeline began: a state, or `absent`."""
    crm: dict[str, str] = {}
    """Services that the CRM has elsewhere than their configuration, or in no steady state: `state on node`,
    or `absent`."""
    conditions: dict[str, dict[str, str]] = {}
    """Reasons of conditions: under `cluster`, or a vmid."""
    log: tuple[str, ...] = ()
    """Texts that lines of the log must contain."""
    never: tuple[str, ...] = ()
    """Texts that no line of the log may contain."""


class Scenario(Strict):
    """One scenario."""

    about: Annotated[str, pydantic.StringConstraints(strip_whitespace=True, min_length=10)]
    """What happens and what should come of it, in a sentence or two."""
    bug: str = ""
    """What is known to go wrong: the scenario is expected to fail until that is mended."""
    world: Annotated[config.Config, pydantic.BeforeValidator(lambda value: read_world(value)[0])]
    protect: dict[int, dict[str, Any]] = {}
    """Guests with a ProtectedVM, and fields of its spec beyond vmid and clusterRef."""
    cluster: dict[str, Any] = {}
    """Fields of the HACluster's spec other than the complete one in Enforce that is the default."""
    policies: dict[str, dict[str, Any]] = {}
    """FailoverPolicies: specs by name."""
    operators: tuple[str, ...] = ("a",)
    """Replicas of pveha, by name; the first is started (and leads) before the others."""
    settle: float = 60.0
    """Seconds of the world before the timeline begins."""
    timeline: tuple[Step, ...] = ()
    end: float
    """Seconds after which the scenario ends, counted like `at`."""
    expect: Expect

    @pydantic.model_validator(mode="before")
    @classmethod
    def _protection(cls, document: Any) -> Any:
        """Guests say in the world's list how they are protected."""
        if isinstance(document, dict) and "protect" not in document:
            document = {**document, "protect": read_world(document.get("world"))[1]}
        return document


def load(path: pathlib.Path) -> Scenario:
    """Read a scenario from its file or folder. Errors: `ScenarioError`."""
    file = path / FILE if path.is_dir() else path
    try:
        return parse(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ScenarioError(f"{file}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ScenarioError(f"{file}: {error}") from error
    except ScenarioError as error:
        raise ScenarioError(f"{file}: {error}") from error


def parse(document: Any) -> Scenario:
    """A scenario from what its YAML says."""
    try:
        return Scenario.model_validate(document)
    except pydantic.ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ScenarioError("; ".join(problems)) from error


def dump(document: Mapping[str, Any]) -> str:
    """The text of a scenario file."""
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=110)


def write_world(about: config.Config) -> dict[str, Any]:
    """A world as scenario files have it: every field that is not the default."""
    plain: dict[str, Any] = pydantic.TypeAdapter(config.Config).dump_python(
        about, mode="json", exclude_defaults=True
    )
    return plain


def read_world(value: Any) -> tuple[config.Config, dict[int, dict[str, Any]]]:
    """A data centre, and the specs of its guests' ProtectedVMs."""
    if isinstance(value, config.Config):
        return value, {}
    if not isinstance(value, dict):
        raise ValueError("world: must be a mapping with nodes and guests")
    plain = dict(value)
    nodes = plain.get("nodes", 3)
    if isinstance(nodes, int):
        nodes = [f"pve{number}" for number in range(1, nodes + 1)]
    plain["nodes"] = [_sized({"name": node} if isinstance(node, str) else node) for node in nodes]
    listed, protect = [], {}
    for entry in plain.get("guests", ()):
        guest = _sized(entry)
        spec = guest.pop("protect", True)
        for vmid in _vmids(guest.get("vmid")):
            listed.append(_guest({**guest, "vmid": vmid}, protected=spec is not False))
            if spec is not False:
                protect[vmid] = {} if spec is True else dict(spec)
    plain["guests"] = listed
    _known(config.Config, plain, "world")
    return pydantic.TypeAdapter(config.Config).validate_python(plain), protect


def vmids(text: str, every: Mapping[int, object]) -> list[int]:
    """The guests that a key of `expect.downtime` names."""
    return list(every) if text == "all" else _vmids(text)


def _vmids(value: Any) -> list[int]:
    """`101`, or `101-140`."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", str(value))
    if not match:
        raise ValueError(f"{value!r} is neither a vmid nor a range of vmids")
    return list(range(int(match[1]), int(match[2] or match[1]) + 1))


def _sized(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Memory may be given as 64G."""
    result = dict(entry)
    text = result.get("memory")
    if isinstance(text, str) and (match := re.fullmatch(r"(\d+)([KMG])", text)):
        result["memory"] = int(match[1]) * UNITS[match[2]]
    return result


def _guest(entry: dict[str, Any], protected: bool) -> dict[str, Any]:
    """A guest's fields. Without `ha` a protected guest is registered as by pveha, another one not at all."""
    kinds = {kind.ha_type: kind for kind in guests.GuestKind}
    if entry.get("kind") in kinds:
        entry["kind"] = kinds[entry["kind"]]
    kind = entry.get("kind", guests.GuestKind.VM)
    ha = entry.pop("ha", "ours" if protected else "none")
    if ha != "none":
        fields = {"state": ha} if isinstance(ha, str) else dict(ha)
        if ha == "ours":
            state = "started" if entry.get("running", True) else "stopped"
            fields = {"state": state, "comment": str(mark.Comment(owner=rig.OWNER)), "failback": False}
        entry["ha"] = {"sid": guests.GuestRef(entry["vmid"], kind).sid, **fields}
    if isinstance(entry.get("extra"), dict):
        entry["extra"] = tuple((key, str(text)) for key, text in entry["extra"].items())
    return entry


def _known(kind: type, value: Any, where: str) -> None:
    """Raise for a field that a dataclass does not have: pydantic would ignore it."""
    if not isinstance(value, Mapping):
        return
    hints = get_type_hints(kind)
    for key, content in value.items():
        if key not in hints:
            raise ValueError(f"{where}: there is no field {key}; there are {', '.join(sorted(hints))}")
        for inner in _dataclasses_in(hints[key]):
            entries = content if isinstance(content, list | tuple) else [content]
            for entry in entries:
                _known(inner, entry, f"{where}.{key}")


def _dataclasses_in(hint: Any) -> list[type]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return [hint]
    if get_origin(hint) is Literal:
        return []
    return [found for argument in get_args(hint) for found in _dataclasses_in(argument)]


def state_of(resource: cluster.HAResource | None) -> str:
    """How `expect.ha` names the state of an HA resource."""
    return str(resource.state) if resource is not None else "absent"
