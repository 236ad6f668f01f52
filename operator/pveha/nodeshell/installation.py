"""What `pveha node` does on a node, decided from what is there: pure functions from a `State` to steps.

The steps bring a node nearer to what is wanted; when none is left, nothing is to be done. `remote` carries
them out.
"""

import base64
import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from pveha.model import errors, node
from pveha.nodeshell import authorized, pveha_node, remote

PROGRAM = "/usr/local/sbin/pveha-node"
UNITS = tuple(f"/etc/systemd/system/{name}" for name in (remote.SERVICE, remote.TIMER))
FILES = (PROGRAM, *UNITS)
CLOCK_SECONDS = 5.0
"""More than a node that keeps its time is ever off; 40 s behind harm (docs/failure-modes.md, Clocks)."""
LAST_RUN_SECONDS = 180.0
"""The timer's service may take 120 s, and begins again 10 s later."""
_OURS = '"""pveha-node: '


@dataclasses.dataclass(frozen=True, slots=True)
class Timer:
    """What systemd says of the timer. Times are Unix seconds of the node's clock, 0 for never."""

    enabled: bool
    active: bool
    need_reload: bool
    active_since: float
    last_run: float
    last_result: str


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """A node as it was found. `files` are those of `FILES`, None for none; `keys` is authorized_keys.

    `shared` says that all nodes share this file. `marks` are HA resources with the mark of an open operation.
    `time` is the node's clock in Unix seconds, `clock_off` how far it is ahead, as far as that is certain.
    """

    node: str
    members: Mapping[str, bool]
    quorate: bool
    files: Mapping[str, bytes | None]
    keys_path: str
    shared: bool
    keys: bytes | None
    timer: Timer
    marks: tuple[str, ...]
    time: float
    clock_off: float


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One change: what people are told of it ("" for nothing), and what `remote` does."""

    says: str
    does: Mapping[str, object]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Whether one thing is as it must be; `text` says what it is, and the remedy if it is not."""

    name: str
    ok: bool
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """What the operator's key got: a status or the error instead, and what a free command was answered."""

    status: node.NodeStatus | None
    problem: str
    confined: bool
    free_command: str


def command(root: str) -> str:
    """The forced command; on a real node `root` is /."""
    return authorized.COMMAND if root == "/" else f"{root}{authorized.COMMAND} --root {root}"


@functools.cache
def program() -> bytes:
    """The file that is installed, which is the module `pveha_node`."""
    return Path(pveha_node.__file__).read_bytes()


def units() -> dict[str, bytes]:
    """The timer's units by path, as `pveha-node timer --print` writes them."""
    parts = re.split(r"^(?=# /etc/)", pveha_node.TIMER, flags=re.MULTILINE)
    return {part.partition("\n")[0][2:]: part.encode() for part in parts if part}


def version(content: bytes) -> str | None:
    """Version of a pveha-node; None if the file is something else."""
    text = content.decode("utf-8", "replace")
    found = re.search(r'^VERSION = "([0-9]+(?:\.[0-9]+)*)"$', text, re.MULTILINE)
    return found[1] if found and _OURS in text[:200] else None


def key_lines(state: State, root: str) -> list[authorized.Line]:
    """The lines of authorized_keys that are pveha's."""
    return [line for line in authorized.read(_text(state.keys)) if line.runs(command(root))]


def install(state: State, public_key: str, root: str, force: bool) -> list[Step]:
    """Program, timer and then the key, so that nothing is taken over before the net is there (S10).

    Raises Refused for what a person has to decide.
    """
    return [*_program(state, force), *_timer(state), *_key(state, public_key, root)]


def _program(state: State, force: bool) -> list[Step]:
    found, wanted = state.files[PROGRAM], program()
    if found == wanted:
        return []
    there = None if found is None else version(found)
    if found is not None and there is None and not force:
        message = f"{PROGRAM} is not a pveha-node: look what it is, and move it away or repeat with --force"
        raise errors.Refused(message)
    if there is not None and _number(there) > _number(pveha_node.VERSION) and not force:
        message = f"pveha-node {there} is newer than this pveha's {pveha_node.VERSION}"
        raise errors.Refused(f"{message}: use the newer pveha, or repeat with --force")
    how = "installed"
    if found is not None:
        how = f"replaces {there}" if there != pveha_node.VERSION else "replaces one of another content"
    return [_write(f"pveha-node {pveha_node.VERSION} {how}", PROGRAM, found, wanted, 0o755)]


def _timer(state: State) -> list[Step]:
    steps = [
        _write("", path, state.files[path], content, 0o644)
        for path, content in units().items()
        if state.files[path] != content
    ]
    if steps or state.timer.need_reload:
        steps.append(_systemctl("timer's units written" if steps else "systemd reloaded", "daemon-reload"))
        if state.timer.active:
            steps.append(_systemctl("", "restart", remote.TIMER))
    if not (state.timer.enabled and state.timer.active):
        steps.append(_systemctl("timer enabled", "enable", "--now", remote.TIMER))
    return steps


def _key(state: State, public_key: str, root: str) -> list[Step]:
    new = authorized.line(public_key, command(root))
    (wanted,) = authorized.read(new)
    text = _text(state.keys)
    lines = [line for line in authorized.read(text) if line.fingerprint == wanted.fingerprint]
    for line in lines:
        if not line.confined(command(root)):
            message = f"line {line.number} of {state.keys_path} allows pveha's key more than pveha-node"
            raise errors.Refused(f"{message}: remove this line, or use a key of its own (`pveha node key`)")
    if lines:
        return []
    where = f"in {state.keys_path}, which all nodes share" if state.shared else f"in {state.keys_path}"
    return [_write_keys(f"key authorized {where}", state, authorized.add(text, new))]


def remove(state: State, removed: frozenset[str], root: str, force: bool) -> list[Step]:
    """The other way round. `removed` are the nodes that are removed from in the same go: a key that other
    nodes share stays.

    Raises Refused while an operation is open, because the timer is its net (S10).
    """
    if state.marks and not force:
        message = f"an operation of pveha is open ({', '.join(state.marks)}), and the timer is its net"
        raise errors.Refused(
            f"{message}: wait until `ha-manager config` shows no op=, or repeat with --force"
        )
    steps = []
    lines = key_lines(state, root)
    if lines and not sharers(state, removed):
        steps.append(_write_keys("key removed", state, authorized.without(_text(state.keys), lines)))
    units_there = [path for path in UNITS if _is_unit(path, state.files[path])]
    if units_there:
        if state.timer.enabled or state.timer.active:
            steps.append(_systemctl("", "disable", "--now", remote.TIMER))
        steps += [_remove("", path, state.files[path]) for path in units_there]
        steps.append(_systemctl("timer removed", "daemon-reload"))
    elif state.timer.need_reload:
        steps.append(_systemctl("systemd reloaded", "daemon-reload"))
    found = state.files[PROGRAM]
    if found is not None and version(found) is not None:
        steps.append(_remove("pveha-node removed", PROGRAM, found))
    return steps


def sharers(state: State, removed: frozenset[str]) -> list[str]:
    """Nodes that share authorized_keys with this one and keep their pveha-node."""
    return sorted(state.members.keys() - removed) if state.shared else []


def left(state: State, removed: frozenset[str], root: str) -> list[str]:
    """What `remove` leaves, and why."""
    told = []
    if (others := sharers(state, removed)) and key_lines(state, root):
        share = f"{', '.join(others)} share{'s' if len(others) == 1 else ''} {state.keys_path}"
        remedy = "name these nodes as well, or use `pveha node remove-key`"
        told.append(f"the key's line stays, because {share}: {remedy}")
    told += [
        f"{path} stays, because it is not pveha's"
        for path in FILES
        if (content := state.files[path]) is not None
        and not (_is_unit(path, content) or (path == PROGRAM and version(content) is not None))
    ]
    return told


def remove_key(state: State, fingerprint: str, root: str) -> list[Step]:
    """Only lines that run pveha-node; every other line is somebody else's."""
    lines = [line for line in key_lines(state, root) if line.fingerprint == fingerprint]
    if not lines:
        return []
    return [_write_keys(f"key {fingerprint} removed", state, authorized.without(_text(state.keys), lines))]


def after_remove_key(state: State, fingerprint: str, root: str) -> list[str]:
    """What people should know after it."""
    told = [
        f"line {line.number} of {state.keys_path} still allows this key something else: look at it"
        for line in authorized.read(_text(state.keys))
        if line.fingerprint == fingerprint and not line.runs(command(root))
    ]
    if not key_lines(state, root):
        told.append("no key of pveha is left here: the operator cannot log in")
    return told


def findings(state: State, probe: Probe, root: str) -> list[Finding]:
    """Whether everything is as the Fast engine needs it."""
    return [
        _version(state),
        _authorized(state, root),
        Finding("status", probe.status is not None, probe.problem or "the operator's key gets its answer"),
        Finding("forced command", probe.confined, probe.free_command),
        _timer_finding(state),
        _last_run(state),
        Finding(
            "quorum",
            state.quorate,
            "quorate" if state.quorate else "the node has no quorum: look at `pvecm status`",
        ),
        _clock(state),
    ]


def _version(state: State) -> Finding:
    found = state.files[PROGRAM]
    there = None if found is None else version(found)
    remedy = "run `pveha node install`"
    if found is None:
        what = "pveha-node is not installed"
    elif found == program():
        return Finding("version", True, pveha_node.VERSION)
    elif there is None:
        what = f"{PROGRAM} is not a pveha-node"
    elif there == pveha_node.VERSION:
        what = f"pveha-node {there} is not the one of this pveha"
    else:
        what = f"pveha-node is {there}, this pveha's {pveha_node.VERSION}"
        remedy = remedy if _number(there) < _number(pveha_node.VERSION) else "use the newer pveha"
    return Finding("version", False, f"{what}: {remedy}")


def _authorized(state: State, root: str) -> Finding:
    lines = key_lines(state, root)
    if loose := [line for line in lines if not line.confined(command(root))]:
        numbers = ", ".join(str(line.number) for line in loose)
        remedy = "write `restrict` and nothing beside command= and from=, or run `pveha node remove-key`"
        return Finding("keys", False, f"{state.keys_path}, line {numbers}, allows too much: {remedy}")
    if not lines:
        return Finding("keys", False, f"{state.keys_path} has no key of pveha: run `pveha node install`")
    return Finding("keys", True, ", ".join(line.fingerprint for line in lines))


def _timer_finding(state: State) -> Finding:
    wrong = [path for path, content in units().items() if state.files[path] != content]
    timer = state.timer
    if wrong or timer.need_reload or not (timer.enabled and timer.active):
        what = f"{', '.join(wrong)} missing or different" if wrong else "systemd has not read its units anew"
        what = what if wrong or timer.need_reload else "not enabled" if timer.active else "not active"
        return Finding("timer", False, f"{remote.TIMER}: {what}: run `pveha node install`")
    return Finding("timer", True, "enabled and active")


def _last_run(state: State) -> Finding:
    timer = state.timer
    ago = state.time - timer.last_run
    look = f"look at `journalctl -u {remote.SERVICE}`"
    if not timer.last_run or ago > LAST_RUN_SECONDS:
        if timer.active and state.time - timer.active_since < LAST_RUN_SECONDS:
            return Finding("last run", True, "not yet, the timer has just begun")
        when = f"{ago:.0f} s ago" if timer.last_run else "never"
        return Finding("last run", False, f"{when}: {look}")
    if timer.last_result not in ("", "success"):
        return Finding("last run", False, f"{ago:.0f} s ago, ended with {timer.last_result}: {look}")
    return Finding("last run", True, f"{max(ago, 0.0):.0f} s ago")


def _clock(state: State) -> Finding:
    off = state.clock_off
    if abs(off) <= CLOCK_SECONDS:
        return Finding("clock", True, "right" if not off else f"{off:+.1f} s")
    word = "ahead of" if off > 0 else "behind"
    remedy = "look at `timedatectl` on both"
    return Finding("clock", False, f"at least {abs(off):.1f} s {word} this machine's: {remedy}")


def _number(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _is_unit(path: str, content: bytes | None) -> bool:
    """Whether a unit is one that some pveha-node wrote: it begins with its own path."""
    return content is not None and content.startswith(f"# {path}\n".encode())


def _text(content: bytes | None) -> str:
    return (content or b"").decode("utf-8", "surrogateescape")


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _write(says: str, path: str, before: bytes | None, content: bytes, mode: int) -> Step:
    encoded = base64.b64encode(content).decode()
    does = {"do": "write", "path": path, "before": _digest(before), "content": encoded, "mode": mode}
    return Step(says, does)


def _write_keys(says: str, state: State, text: str) -> Step:
    return _write(says, state.keys_path, state.keys, text.encode("utf-8", "surrogateescape"), 0o600)


def _remove(says: str, path: str, before: bytes | None) -> Step:
    return Step(says, {"do": "remove", "path": path, "before": _digest(before)})


def _systemctl(says: str, *words: str) -> Step:
    return Step(says, {"do": "systemctl", "words": list(words)})
