"""What `pveha node` does and finds, decided without a node."""

import dataclasses
from typing import Any

import asyncssh
import pytest

from pveha.model import errors, node
from pveha.nodeshell import authorized, installation, pveha_node, remote

PUBLIC = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
NOW = 1_800_000_000.0
RUNNING = installation.Timer(True, True, False, NOW - 9000, NOW - 4, "success")
NO_TIMER = installation.Timer(False, False, False, 0.0, 0.0, "")
STATUS = node.NodeStatus(
    "pve1", pveha_node.VERSION, True, {}, node.Votes({}, 0, 0, 0, frozenset()), frozenset(), 0, None, 0.0
)
PROBE = installation.Probe(STATUS, "", True, "another command is refused")

INSTALLED = installation.State(
    "pve1",
    {"pve1": True, "pve2": True},
    True,
    {installation.PROGRAM: installation.program(), **installation.units()},
    "/etc/pve/priv/authorized_keys",
    True,
    f"{authorized.line(PUBLIC, authorized.COMMAND)}\n".encode(),
    RUNNING,
    (),
    NOW,
    0.0,
)
BARE = dataclasses.replace(INSTALLED, files=dict.fromkeys(installation.FILES), keys=None, timer=NO_TIMER)


def install(state: installation.State, force: bool = False) -> list[tuple[str, ...]]:
    """The steps: what each does, and to what."""
    return [_plain(step) for step in installation.install(state, PUBLIC, "/", force)]


def remove(state: installation.State, *removed: str, force: bool = False) -> list[tuple[str, ...]]:
    return [_plain(step) for step in installation.remove(state, frozenset(removed), "/", force)]


def _plain(step: installation.Step) -> tuple[str, ...]:
    if step.does["do"] == "systemctl":
        words: Any = step.does["words"]
        return ("systemctl", *words)
    return (str(step.does["do"]), str(step.does["path"]))


def with_timer(**facts: Any) -> installation.State:
    return dataclasses.replace(INSTALLED, timer=dataclasses.replace(RUNNING, **facts))


def with_file(path: str, content: bytes | None) -> installation.State:
    return dataclasses.replace(INSTALLED, files={**INSTALLED.files, path: content})


def wrong(state: installation.State, probe: installation.Probe = PROBE) -> dict[str, str]:
    return {each.name: each.text for each in installation.findings(state, probe, "/") if not each.ok}


def test_the_net_is_there_before_the_key() -> None:
    assert install(BARE) == [
        ("write", installation.PROGRAM),
        *(("write", path) for path in installation.UNITS),
        ("systemctl", "daemon-reload"),
        ("systemctl", "enable", "--now", remote.TIMER),
        ("write", "/etc/pve/priv/authorized_keys"),
    ]
    assert install(INSTALLED) == []


def test_the_key_goes_before_the_net() -> None:
    assert remove(INSTALLED, "pve1", "pve2") == [
        ("write", "/etc/pve/priv/authorized_keys"),
        ("systemctl", "disable", "--now", remote.TIMER),
        *(("remove", path) for path in installation.UNITS),
        ("systemctl", "daemon-reload"),
        ("remove", installation.PROGRAM),
    ]
    assert remove(BARE, "pve1", "pve2") == []


@pytest.mark.parametrize(
    ("facts", "steps"),
    [
        ({"need_reload": True}, [("daemon-reload",), ("restart", remote.TIMER)]),
        ({"active": False}, [("enable", "--now", remote.TIMER)]),
        ({"enabled": False}, [("enable", "--now", remote.TIMER)]),
        ({"need_reload": True, "active": False}, [("daemon-reload",), ("enable", "--now", remote.TIMER)]),
    ],
)
def test_a_timer_that_was_left_half_way(facts: dict[str, bool], steps: list[tuple[str, ...]]) -> None:
    assert install(with_timer(**facts)) == [("systemctl", *words) for words in steps]
    assert "timer" in wrong(with_timer(**facts))


def test_a_unit_that_was_changed_is_written_and_read_anew() -> None:
    assert install(with_file(installation.UNITS[1], b"# changed\n")) == [
        ("write", installation.UNITS[1]),
        ("systemctl", "daemon-reload"),
        ("systemctl", "restart", remote.TIMER),
    ]


def test_a_file_lost_while_only_the_key_is_left_is_still_removed() -> None:
    state = dataclasses.replace(BARE, keys=INSTALLED.keys, shared=False)
    assert remove(state, "pve1") == [("write", "/etc/pve/priv/authorized_keys")]


@pytest.mark.parametrize(
    ("there", "newer"),
    [("0.0.9", False), ("0.1", False), ("0.1.0.1", True), ("0.10.0", True), ("1.0.0", True)],
)
def test_versions_are_compared_by_number(there: str, newer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pveha_node, "VERSION", "0.1.0")
    content = f'#!/usr/bin/env python3\n"""pveha-node: x\n"""\nVERSION = "{there}"\n'.encode()
    state = with_file(installation.PROGRAM, content)
    assert installation.version(content) == there
    assert there in wrong(state)["version"]
    assert ("use the newer pveha" in wrong(state)["version"]) == newer
    assert install(state, force=True) == [("write", installation.PROGRAM)]
    if newer:
        with pytest.raises(errors.Refused, match="is newer"):
            install(state)
    else:
        assert install(state) == [("write", installation.PROGRAM)]


def test_only_a_pveha_node_is_taken_for_one() -> None:
    assert installation.version(installation.program()) == pveha_node.VERSION
    assert installation.version(b'VERSION = "1.0"\n') is None
    assert remove(with_file(installation.PROGRAM, b'VERSION = "1.0"\n'), "pve1")[-1][0] == "systemctl"


def test_an_open_operation_keeps_the_net() -> None:
    state = dataclasses.replace(INSTALLED, marks=("vm:101",))
    with pytest.raises(errors.Refused, match="vm:101"):
        remove(state, "pve1", "pve2")
    assert len(remove(state, "pve1", "pve2", force=True)) == len(remove(INSTALLED, "pve1", "pve2"))
    assert install(state) == []


def test_all_is_well() -> None:
    assert wrong(INSTALLED) == {}


@pytest.mark.parametrize(
    ("state", "name", "text"),
    [
        (with_timer(last_run=0.0), "last run", "never"),
        (with_timer(last_run=NOW - 1000), "last run", "1000 s ago"),
        (with_timer(last_result="exit-code"), "last run", "exit-code"),
        (dataclasses.replace(INSTALLED, clock_off=5.5), "clock", "5.5 s ahead of"),
        (dataclasses.replace(INSTALLED, clock_off=-50.0), "clock", "50.0 s behind"),
        (dataclasses.replace(INSTALLED, quorate=False), "quorum", "no quorum"),
        (dataclasses.replace(INSTALLED, keys=b""), "keys", "has no key of pveha"),
        (with_file(installation.UNITS[0], None), "timer", installation.UNITS[0]),
        (with_file(installation.PROGRAM, None), "version", "not installed"),
        (with_file(installation.PROGRAM, b"x"), "version", "not a pveha-node"),
        (with_file(installation.PROGRAM, installation.program() + b"#"), "version", "not the one"),
    ],
)
def test_each_thing_that_is_wrong_is_found(state: installation.State, name: str, text: str) -> None:
    found = wrong(state)
    assert list(found) == [name]
    assert text in found[name]


def test_a_timer_that_has_just_begun_need_not_have_run() -> None:
    assert wrong(with_timer(last_run=0.0, active_since=NOW - 10)) == {}


def test_a_line_that_allows_more_is_found_and_not_taken() -> None:
    assert INSTALLED.keys is not None
    state = dataclasses.replace(INSTALLED, keys=INSTALLED.keys.replace(b"restrict", b"restrict,pty"))
    assert "line 1, allows too much" in wrong(state)["keys"]
    with pytest.raises(errors.Refused, match="line 1 of"):
        install(state)


def test_what_the_operators_key_gets_is_a_finding() -> None:
    probe = installation.Probe(None, "no answer", False, "the key runs any command")
    assert wrong(INSTALLED, probe) == {"status": "no answer", "forced command": "the key runs any command"}


def test_the_key_of_a_node_that_stays_is_left() -> None:
    told = installation.left(INSTALLED, frozenset(("pve1",)), "/")
    assert len(told) == 1
    assert "pve2 shares /etc/pve/priv/authorized_keys" in told[0]
    assert ("write", INSTALLED.keys_path) not in remove(INSTALLED, "pve1")


def test_units_are_those_that_the_node_prints() -> None:
    assert b"".join(installation.units().values()).decode() == pveha_node.TIMER
    assert tuple(installation.units()) == installation.UNITS
