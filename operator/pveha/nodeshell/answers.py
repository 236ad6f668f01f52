"""What `pveha-node` answers, checked by shape and turned into the model's values or the model's errors."""

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


class _Config(_Shape):
    guest: str
    node: str
    name: str
    identity: str
    memory_bytes: int
    storages: list[str]
    lock: str | None
    template: bool
    local_devices: list[str]


class _Inventory(_Shape):
    guests: list[_Config]


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
    configs = (
        node.GuestConfig(
            _ref(each.guest, on),
            each.node,
            each.name,
            each.identity,
            each.memory_bytes,
            frozenset(each.storages),
            each.lock,
            each.template,
            frozenset(each.local_devices),
        )
        for each in _shaped(_Inventory, result, on).guests
    )
    return node.GuestConfigs({config.ref.vmid: config for config in configs}, answered_at)


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
