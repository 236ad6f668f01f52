"""The node's end of `pveha node`, on a directory tree."""

import base64
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pveha.nodeshell import remote
from unit.nodeshell.tree import Tree

PATH = "/usr/local/sbin/x"


def write(tree: Tree, content: bytes, before: bytes | None, path: str = PATH) -> None:
    digest = None if before is None else hashlib.sha256(before).hexdigest()
    step = {"do": "write", "path": path, "before": digest, "mode": 0o750}
    remote.apply(str(tree.root), [{**step, "content": base64.b64encode(content).decode()}])


def kind(raised: pytest.ExceptionInfo[remote.Problem]) -> str:
    return raised.value.kind


def test_a_file_is_replaced_if_it_is_what_was_expected(tree: Tree) -> None:
    write(tree, b"one", None)
    write(tree, b"two", b"one")
    assert tree.path(PATH).read_bytes() == b"two"
    assert tree.path(PATH).stat().st_mode & 0o7777 == 0o750
    with pytest.raises(remote.Problem) as raised:
        write(tree, b"three", b"one")
    assert kind(raised) == "Conflict"
    assert tree.path(PATH).read_bytes() == b"two"
    write(tree, b"two", b"one")
    assert [each.name for each in tree.path(PATH).parent.iterdir()] == ["x"]


def test_what_a_killed_run_left_is_swept_and_what_a_living_one_writes_is_not(tree: Tree) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = tree.write(f"{PATH}.pveha-new.pve1.{ended.pid}", "")
    alive = tree.write(f"{PATH}.pveha-new.pve1.1", "")
    elsewhere = tree.write(f"{PATH}.pveha-new.pve2.{ended.pid}", "")
    write(tree, b"one", None)
    assert [each.exists() for each in (dead, alive, elsewhere)] == [False, True, True]


def test_a_failed_write_leaves_the_file_and_nothing_beside_it(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tree, b"one", None)

    def full(descriptor: int) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(remote.Problem, match="No space left"):
        write(tree, b"two", b"one")
    assert tree.path(PATH).read_bytes() == b"one"
    assert [each.name for each in tree.path(PATH).parent.iterdir()] == ["x"]


@pytest.mark.parametrize(("path", "expected"), [("/etc/pve/priv/x", "NotQuorate"), (PATH, "NotRoot")])
def test_what_may_not_be_written(
    tree: Tree, path: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(remote.Problem) as raised:
        write(tree, b"one", None, path)
    assert kind(raised) == expected


def test_nothing_is_made_where_the_cluster_files_are_not_mounted(tree: Tree) -> None:
    tree.path("/etc/pve/priv").rmdir()
    with pytest.raises(remote.Problem) as raised:
        write(tree, b"one", None, "/etc/pve/priv/authorized_keys")
    assert kind(raised) == "NoProxmox"
    tree.path("/etc/pve/.members").unlink()
    with pytest.raises(remote.Problem) as raised:
        remote.look(str(tree.root), [])
    assert kind(raised) == "NoProxmox"


def test_where_keys_lead(tree: Tree) -> None:
    root = str(tree.root)
    assert remote.real_path(root, remote.KEYS) == remote.KEYS
    tree.path("/root/.ssh").mkdir(parents=True)
    tree.path(remote.KEYS).symlink_to("../../etc/pve/priv/authorized_keys")
    assert remote.real_path(root, remote.KEYS) == "/etc/pve/priv/authorized_keys"
    tree.path(remote.KEYS).unlink()
    tree.path(remote.KEYS).symlink_to("/nowhere/else")
    with pytest.raises(remote.Problem, match="out of"):
        remote.real_path(root, remote.KEYS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Sun 2026-11-22 22:26:33 UTC", 1795386393.0), ("", 0.0), ("n/a", 0.0), ("0", 0.0)],
)
def test_times_of_systemd(text: str, expected: float) -> None:
    assert remote.unix_time(text) == expected


def test_what_systemctl_says_against_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho Unit is masked >&2\nexit 3\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    remote.main("/", {"verb": "apply", "steps": [{"do": "systemctl", "words": ["enable", "x"]}]})
    output = capsys.readouterr().out
    assert "systemctl enable x ended with 3: 'Unit is masked'" in output
