"""What `pveha-node` answers, checked by shape and turned into the model's values or the model's errors."""

import functools
import re
from collections.abc import Mapping
from typing import TypeVar

import pydantic

from pveha.model import errors, guests, node
from pveha.nodeshell import pveha_node


class _Shape(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)


_AnyShape = TypeVar("_AnyShape", bound=_Shape)


class _Error(_Shape):
    kind: str
    message: str
    owner: str = ""


class _Head(_Shape):
    """What every protocol has in common."""

    version: str
    protocol: int


class Answer(_Head):
    """One answer; `result` is there if and only if `ok`."""

    ok: bool
    result: dict[str, pydantic.JsonValue] | None = None
    error: _Error | None = None


class _Votes(_Shape):
    configured: dict[str, int]
    qdevice: int
    expected: int
    total: int
    unsafe_options: list[str]


class _Totem(_Shape):
    token: int
    token_coefficient: int
    consensus: int


class _Timer(_Shape):
    enabled: bool
    looked_seconds_ago: float | None


class _Status(_Shape):
    version: str
    node: str
    quorate: bool
    members: dict[str, bool]
    votes: _Votes
    identities: list[str]
    newest_epoch: int
    owner: str | None
    time: float | None = None
    totem: _Totem | None = None
    timer: _Timer | None = None


class _Network(_Shape):
    bridge: str
    tag: int
    trunks: bool


class _Config(_Shape):
    """An older pveha-node does not tell what has a default."""

    guest: str
    node: str
    name: str
    identity: str
    memory_bytes: int
    storages: list[str]
    unreplicated: list[str] | None = None
    lock: str | None
    template: bool
    local_devices: list[str]
    networks: list[_Network] = []
    mappings: list[str] = []
    media: list[str] = []
    cloudinit: list[str] = []
    cpu: str = ""
    cpu_flags: list[str] = []
    cores: int = 0
    machine: str = ""
    onboot: bool = False
    agent: bool = False


class _Inventory(_Shape):
    guests: list[_Config]


class _Bridge(_Shape):
    name: str
    vlan_aware: bool
    vlans: str
    uplink: bool


class _Equipment(_Shape):
    node: str
    bridges: list[_Bridge] | None
    mappings: list[str] | None
    cpus: int | None
    cpu_flags: list[str] | None
    qemu: str | None
    media: list[str] | None


class _EquipmentAnswer(_Shape):
    equipment: _Equipment


class _Process(_Shape):
    guest: str
    pid: int
    start_time: int
    state: str


class _Processes(_Shape):
    node: str
    quorate: bool
    members: dict[str, bool]
    newest_epoch: int
    processes: list[_Process]


class _Begin(_Shape):
    epoch: int = pydantic.Field(ge=1)


class _Claimed(_Shape):
    guest: str
    claimed: bool
    reason: str
    cleared_lock: str | None


class _Claim(_Shape):
    results: list[_Claimed]


class _Kill(_Shape):
    killed: bool


def read(text: bytes | str, on: str) -> dict[str, pydantic.JsonValue]:
    """The result in an answer of node `on`, or the error it stands for."""
    try:
        head = _Head.model_validate_json(text)
        if head.protocol != pveha_node.PROTOCOL:
            raise _other_version(on, head)
        answer = Answer.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise _bad(on, error) from error
    if answer.ok and answer.result is not None:
        return answer.result
    if answer.error is None:
        message = f"pveha-node on {on} answered neither a result nor an error"
        raise errors.BadAnswer(message)
    message = f"pveha-node on {on}: {answer.error.message}"
    match answer.error.kind:
        case "StaleEpoch":
            raise errors.StaleEpoch(message)
        case "NotQuorate":
            raise errors.NoQuorum(message)
        case "AnotherOwner":
            raise errors.AnotherOwner(message, answer.error.owner)
        case "WrongProtocol":
            raise _other_version(on, head)
        case "Failed":
            raise errors.OutsideError(message)
        case _:
            raise errors.Refused(message)


def is_refusal(text: bytes | str) -> bool:
    """Whether this is pveha-node's answer to a command that is none of its own."""
    try:
        answer = Answer.model_validate_json(text)
    except pydantic.ValidationError:
        return False
    return not answer.ok and answer.error is not None and answer.error.kind == "BadRequest"


def status(result: object, on: str, answered_at: float) -> node.NodeStatus:
    found = _shaped(_Status, result, on)
    votes = found.votes
    return node.NodeStatus(
        _itself(found.node, on),
        found.version,
        found.quorate,
        found.members,
        node.Votes(
            votes.configured, votes.qdevice, votes.expected, votes.total, frozenset(votes.unsafe_options)
        ),
        frozenset(found.identities),
        found.newest_epoch,
        found.owner,
        answered_at,
        found.time,
        node.Totem(**found.totem.model_dump()) if found.totem else None,
        node.Timer(**found.timer.model_dump()) if found.timer else None,
    )


def inventory(result: object, on: str, answered_at: float) -> node.GuestConfigs:
    configs = (_config(each, on, answered_at) for each in _shaped(_Inventory, result, on).guests)
    return node.GuestConfigs({config.ref.vmid: config for config in configs}, answered_at)


def described(
    ref: guests.GuestRef, on: str, config: Mapping[str, str], answered_at: float
) -> node.GuestConfig:
    """What pveha-node would tell of a configuration that the API has told, by key."""
    found = pveha_node.describe_config(ref.kind.value, ref.vmid, on, config)
    return _config(_shaped(_Config, found, on), on, answered_at)


def _config(each: _Config, on: str, read_at: float) -> node.GuestConfig:
    ref = _ref(each.guest, on)
    needs = _needs(
        tuple((network.bridge, network.tag, network.trunks) for network in each.networks),
        tuple(each.mappings),
        tuple(each.media),
        tuple(each.cloudinit),
        each.cpu,
        tuple(each.cpu_flags),
        each.cores if ref.kind is guests.GuestKind.VM else 0,
        each.machine,
    )
    return node.GuestConfig(
        ref,
        each.node,
        each.name,
        each.identity,
        each.memory_bytes,
        frozenset(each.storages),
        each.lock,
        each.template,
        frozenset(each.local_devices),
        needs,
        each.cores,
        each.onboot,
        each.agent,
        None if each.unreplicated is None else frozenset(each.unreplicated),
        read_at,
    )


@functools.lru_cache(maxsize=10_000)
def _needs(
    networks: tuple[tuple[str, int, bool], ...],
    mappings: tuple[str, ...],
    media: tuple[str, ...],
    cloudinit: tuple[str, ...],
    cpu: str,
    cpu_flags: tuple[str, ...],
    cores: int,
    machine: str,
) -> node.Needs:
    """Guests that need the same share one value, from one answer to the next."""
    return node.Needs(
        frozenset(node.Network(*each) for each in networks),
        frozenset(mappings),
        frozenset(media),
        frozenset(cloudinit),
        cpu,
        frozenset(cpu_flags),
        cores,
        machine,
    )


def equipment(result: object, on: str, answered_at: float) -> node.Equipment:
    found = _shaped(_EquipmentAnswer, result, on).equipment
    bridges = found.bridges
    version = re.fullmatch(r"(\d+)\.(\d+)", found.qemu or "")
    return node.Equipment(
        _itself(found.node, on),
        answered_at,
        None
        if bridges is None
        else {
            each.name: node.Bridge(each.name, each.vlan_aware, _ranges(each.vlans), each.uplink)
            for each in bridges
        },
        None if found.mappings is None else frozenset(found.mappings),
        found.cpus,
        None if found.cpu_flags is None else frozenset(found.cpu_flags),
        (int(version[1]), int(version[2])) if version else None,
        None if found.media is None else frozenset(found.media),
    )


def _ranges(vlans: str) -> tuple[tuple[int, int], ...]:
    """`2-100 200` as ((2, 100), (200, 200)); none if any of it cannot be read."""
    found = []
    for word in vlans.split():
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", word)
        if match is None:
            return ()
        found.append((int(match[1]), int(match[2] or match[1])))
    return tuple(found)


def processes(result: object, on: str, answered_at: float) -> node.NodeProcesses:
    found = _shaped(_Processes, result, on)
    return node.NodeProcesses(
        _itself(found.node, on),
        found.quorate,
        found.members,
        found.newest_epoch,
        tuple(
            node.GuestProcess(_ref(each.guest, on), each.pid, each.start_time, each.state)
            for each in found.processes
        ),
        answered_at,
    )


def begin(result: object, on: str) -> int:
    return _shaped(_Begin, result, on).epoch


def claim(result: object, on: str, refs: tuple[guests.GuestRef, ...]) -> tuple[node.ClaimResult, ...]:
    """One result for each guest asked for, in that order."""
    results = tuple(
        node.ClaimResult(_ref(each.guest, on), each.claimed, each.reason, each.cleared_lock)
        for each in _shaped(_Claim, result, on).results
    )
    if [each.ref.path for each in results] != [ref.path for ref in refs]:
        message = f"pveha-node on {on} answered for other guests than it was asked to claim"
        raise errors.BadAnswer(message)
    return results


def kill(result: object, on: str) -> None:
    _shaped(_Kill, result, on)


def _shaped(shape: type[_AnyShape], result: object, on: str) -> _AnyShape:
    try:
        return shape.model_validate(result)
    except pydantic.ValidationError as error:
        raise _bad(on, error) from error


def _bad(on: str, error: pydantic.ValidationError) -> errors.BadAnswer:
    fields = ", ".join(".".join(map(str, each["loc"])) or "(whole)" for each in error.errors()[:5])
    return errors.BadAnswer(f"pveha-node on {on} answered in an unknown form, see {fields}")


def _other_version(on: str, head: _Head) -> errors.BadAnswer:
    spoken = f"pveha-node {head.version} on {on} speaks protocol {head.protocol}"
    remedy = f"install pveha-node {pveha_node.VERSION} there"
    return errors.BadAnswer(f"{spoken}, this operator {pveha_node.PROTOCOL}: {remedy}")


def _itself(name: str, on: str) -> str:
    if name != on:
        message = f"the node shell's address of {on} leads to {name}: correct the node's address"
        raise errors.BadAnswer(message)
    return name


def _ref(path: str, on: str) -> guests.GuestRef:
    ref = guests.parse_path(path)
    if ref is None:
        message = f"pveha-node on {on} names a guest {path!r}"
        raise errors.BadAnswer(message)
    return ref
