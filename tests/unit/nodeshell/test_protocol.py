"""What `pveha-node` lets in: no request leaves the paths it is meant for, or goes unanswered."""

import ast
import json
import re
import shlex
import sys
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st
from typing_extensions import override

import pveha
from pveha.model import mark
from pveha.nodeshell import pveha_node
from unit.nodeshell.tree import CONFIG, Tree

FILE = Path(pveha_node.__file__)


def test_the_file_needs_only_the_standard_library_and_has_pveha_version() -> None:
    imported = set()
    for each in ast.walk(ast.parse(FILE.read_text())):
        if isinstance(each, ast.Import):
            imported |= {alias.name for alias in each.names}
        elif isinstance(each, ast.ImportFrom):
            imported.add(each.module or "")
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    assert pveha.__version__ == pveha_node.VERSION


@pytest.mark.parametrize(
    "command", ["", "bash", "scp -t /", "pveha-node", "pveha-node/1", "pveha-node/1 reboot"]
)
def test_anything_else_is_refused(tree: Tree, command: str) -> None:
    assert tree.ask(command)["error"]["kind"] == "BadRequest"


def test_an_interactive_login_is_refused(tree: Tree) -> None:
    assert pveha_node.main(["serve", "--root", str(tree.root)], None, None)["error"]["kind"] == "BadRequest"


def test_another_protocol_is_a_clear_error(tree: Tree) -> None:
    answer = tree.ask("pveha-node/2 status")
    assert answer["error"]["kind"] == "WrongProtocol"
    assert (answer["version"], answer["protocol"]) == (pveha_node.VERSION, 1)


@pytest.mark.parametrize(
    "command",
    [
        "status --root /",
        "begin",
        "begin --owner",
        "begin --owner a b",
        "begin --owner a --owner b",
        "begin --owner 'a b'",
        "begin --owner '[x]'",
        "begin --owner 'a\n'",
        "kill --epoch 1 --vmid 101 --pid -1 --start-time 1",
        "kill --epoch 1 --vmid 101 --pid 0 --start-time 1",
        "claim --epoch 1 --op a --from pve3 --to pve1",
        "claim --epoch 1 --op a --from pve3 --to pve1 --guest qemu/../101",
        "claim --epoch 1 --op a --from .. --to pve1 --guest qemu/101",
        "claim --epoch 1 --op a --from pve3/../pve2 --to pve1 --guest qemu/101",
        "claim --epoch 1 --op a --from pve3 --to pve1 --guest openvz/101",
        "claim --epoch 0 --op a --from pve3 --to pve1 --guest qemu/101",
        "claim --epoch \u0661 --op a --from pve3 --to pve1 --guest qemu/101",
        "status 'unclosed",
        "status " + "x" * 70000,
    ],
)
def test_options_of_another_form_are_refused(tree: Tree, command: str) -> None:
    assert tree.error(command) == "BadRequest"


@pytest.mark.parametrize(
    "argv", [[], ["shell"], ["serve", "extra"], ["serve", "--root"], ["serve", "--user", "x"]]
)
def test_a_wrong_forced_command_is_an_error(argv: list[str]) -> None:
    assert pveha_node.main(argv, None, "pveha-node/1 status")["error"]["kind"] == "BadRequest"


class Watched(pveha_node.System):
    """Notes every path that is touched."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.touched: set[str] = set()

    @override
    def read_text(self, path: str) -> str:
        self.touched.add(path)
        return super().read_text(path)

    @override
    def write_text(self, path: str, text: str) -> None:
        self.touched.add(path)
        super().write_text(path, text)

    @override
    def list_dir(self, path: str) -> list[str]:
        self.touched.add(path)
        return super().list_dir(path)

    @override
    def exists(self, path: str) -> bool:
        self.touched.add(path)
        return super().exists(path)

    @override
    def make_dir(self, path: str) -> None:
        self.touched.add(path)
        super().make_dir(path)

    @override
    def remove_dir(self, path: str) -> None:
        self.touched.add(path)
        super().remove_dir(path)

    @override
    def rename(self, source: str, target: str) -> None:
        self.touched |= {source, target}
        super().rename(source, target)


KNOWN_PATHS = re.compile(
    r"/etc/hostname|/etc/pve/(\.members|corosync\.conf|ha/resources\.cfg)|/sys/class/dmi/id/product_(uuid|serial)"
    r"|/etc/pve/priv/pveha(/e[0-9]+|/owner(\.tmp\.pve1\.[0-9]+)?)?|/run/qemu-server(/[0-9]+\.pid)?|/proc"
    r"|/run/pveha/looked|/etc/systemd/system/timers\.target\.wants/pveha-repair\.timer"
    r"|/etc/pve/nodes(/[A-Za-z0-9-]+/(qemu-server|lxc)(/[0-9]+\.conf(\.tmp\.pve1\.[0-9]+)?)?)?"
)
WORDS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            *(
                "pveha-node/1",
                "pveha-node/2",
                "--root",
                "--owner",
                "--take-over",
                "--epoch",
                "--op",
                "--from",
            ),
            *("--to", "--guest", "--vmid", "--pid", "--start-time", "pve1", "pve3", "1", "2", "101", "op1"),
            *("qemu/101", "lxc/101", "../../x", "pve3/../pve1", "/etc/passwd", "a.b.c", "-1", "\0", "$(id)"),
            *pveha_node.VERBS,
        ]
    ),
)
VALUES = {
    "owner": ["a.b.c", "/../x", "../x"],
    "take-over": ["a.b.c", "x/../../y"],
    "epoch": ["1", "2", "-1", "1e9", "9" * 30],
    "op": ["op1", "../op1", "op1 "],
    "from": ["pve3", "pve2", "..", "pve3/..", "pve1"],
    "to": ["pve1", "..", "pve2"],
    "guest": ["qemu/101", "lxc/101", "qemu/../101", "qemu/101.conf", "/101", "qemu/999999999"],
    "vmid": ["101", "../101"],
    "pid": ["1", "0", "-1"],
    "start-time": ["1", "-1", "x"],
}
OPTIONS = st.sampled_from(sorted(VALUES)).flatmap(
    lambda name: st.tuples(st.just(f"--{name}"), st.sampled_from(VALUES[name]) | st.text(max_size=20))
)
COMMANDS = st.one_of(
    st.text(),
    st.lists(WORDS).map(shlex.join),
    st.tuples(st.sampled_from(sorted(pveha_node.VERBS)), st.lists(OPTIONS, max_size=8)).map(
        lambda parts: shlex.join(["pveha-node/1", parts[0], *(word for pair in parts[1] for word in pair)])
    ),
    st.permutations([(name, VALUES[name][0]) for name in ("epoch", "op", "from", "to", "guest")]).map(
        lambda pairs: shlex.join(
            ["pveha-node/1", "claim", *(w for name, v in pairs for w in (f"--{name}", v))]
        )
    ),
)


@hypothesis.given(command=COMMANDS)
@hypothesis.settings(
    max_examples=400, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_no_request_leaves_the_known_paths_or_goes_unanswered(tree: Tree, command: str) -> None:
    tree.path("/etc/pve/priv/pveha/e1").mkdir(parents=True, exist_ok=True)
    tree.guest("pve3", "qemu/101", CONFIG)
    system = Watched(str(tree.root))
    answer = tree.ask(command, system)
    assert isinstance(answer["ok"], bool)
    assert ("result" in answer) == answer["ok"]
    assert answer["ok"] or answer["error"]["kind"] != "Failed", answer
    assert json.loads(json.dumps(answer)) == answer
    assert [path for path in system.touched if not KNOWN_PATHS.fullmatch(path)] == []


COMMENTS = st.lists(
    st.one_of(
        st.text(max_size=10),
        st.sampled_from(
            [
                "[pveha op=o1 epoch=7 was=started]",
                " [pveha op=o2 epoch=8 was=stopped]",
                "[pveha owner=a.b.c]",
                "[pveha hold=pve3 was=started]",
                "[pveha op=o1 epoch=x was=started]",
                "[pveha op=o1 epoch=7 was=gone]",
                "[pveha op=o1 epoch=7]",
                "[pveha op= epoch=7 was=started]",
                "[pveha was=started op=o1 epoch=+7]",
                "[pveha ",
                "]",
                "op=o1 epoch=7 was=started",
            ]
        ),
    )
).map("".join)


@hypothesis.given(comment=COMMENTS)
def test_marks_are_read_as_pveha_reads_them(comment: str) -> None:
    found = mark.parse(comment).mark
    expected = (
        None if found is None or found.hold else pveha_node.Mark(found.op, found.epoch, found.was.value)
    )
    assert pveha_node.read_mark(comment) == expected
