"""`pveha-node claim`: a configuration moves only while all that makes it safe holds (S14, S18)."""

from collections.abc import Callable

import pytest
from typing_extensions import override

from pveha.nodeshell import pveha_node
from unit.nodeshell.tree import CONFIG, Tree

CLAIM = "claim --epoch 1 --op op1 --from pve3 --to pve1 --guest qemu/101"


@pytest.fixture
def dead(tree: Tree) -> Tree:
    """Node pve3 is off and holds guest 101, which we have disowned in epoch 1."""
    tree.epochs(1)
    tree.guest("pve3", "qemu/101")
    tree.ha("vm:101")
    return tree


def reason(tree: Tree, command: str = CLAIM, system: pveha_node.System | None = None) -> tuple[bool, str]:
    (result,) = tree.result(command, system)["results"]
    return result["claimed"], result["reason"]


def test_the_configuration_moves(dead: Tree) -> None:
    assert dead.result(CLAIM)["results"] == [
        {"guest": "qemu/101", "claimed": True, "reason": "Claimed", "cleared_lock": None}
    ]
    assert dead.config("pve1", "qemu/101").read_text() == CONFIG
    assert not dead.config("pve3", "qemu/101").exists()


def test_a_container_moves(dead: Tree) -> None:
    dead.guest("pve3", "lxc/102", "rootfs: shared:102/x.raw\n")
    dead.ha("ct:102")
    assert reason(dead, CLAIM.replace("qemu/101", "lxc/102")) == (True, "Claimed")
    assert dead.config("pve1", "lxc/102").exists()


def test_a_guest_that_is_no_ha_resource_moves(dead: Tree) -> None:
    dead.path("/etc/pve/ha/resources.cfg").unlink()
    assert reason(dead) == (True, "Claimed")


def disowned_otherwise(state: str, comment: str) -> Callable[[Tree], object]:
    def change(tree: Tree) -> None:
        tree.path("/etc/pve/ha/resources.cfg").unlink()
        tree.ha("vm:101", state, comment)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda tree: tree.epochs(2), "StaleEpoch"),
        (lambda tree: tree.path("/etc/pve/priv/pveha/e1").rmdir(), "StaleEpoch"),
        (lambda tree: tree.members(quorate=0, pve1=1, pve2=1, pve3=0), "NotQuorate"),
        (lambda tree: tree.members(pve1=1, pve2=1, pve3=1), "NodeOnline"),
        (lambda tree: tree.members(pve1=1, pve2=1), "NodeUnknown"),
        (disowned_otherwise("started", "[pveha op=op1 epoch=1 was=started]"), "NotDisowned"),
        (disowned_otherwise("ignored", "db"), "NotDisowned"),
        (disowned_otherwise("ignored", "[pveha op=op2 epoch=1 was=started]"), "NotDisowned"),
        (disowned_otherwise("ignored", "[pveha op=op1 epoch=2 was=started]"), "NotDisowned"),
        (disowned_otherwise("ignored", "[pveha hold=pve3 was=started]"), "NotDisowned"),
        (lambda tree: tree.guest("pve1", "qemu/101", "other"), "TargetExists"),
        (lambda tree: tree.config("pve3", "qemu/101").unlink(), "SourceGone"),
    ],
)
def test_what_forbids_a_claim(dead: Tree, change: Callable[[Tree], object], expected: str) -> None:
    change(dead)
    before = {node: dead.config(node, "qemu/101").exists() for node in ("pve1", "pve3")}
    assert reason(dead) == (False, expected)
    assert {node: dead.config(node, "qemu/101").exists() for node in ("pve1", "pve3")} == before


@pytest.mark.parametrize("lock", sorted(pveha_node.CLEARED_LOCKS))
def test_locks_that_are_cleared(dead: Tree, lock: str) -> None:
    text = f"#lock: a note\r\nbad: \xff\nlock: {lock}\n{CONFIG}\n[snap]\nlock: backup\nmemory: 1\n".encode(
        "latin-1"
    )
    dead.config("pve3", "qemu/101").write_bytes(text)
    (result,) = dead.result(CLAIM)["results"]
    assert result == {"guest": "qemu/101", "claimed": True, "reason": "Claimed", "cleared_lock": lock}
    moved = dead.config("pve1", "qemu/101")
    assert moved.read_bytes() == text.replace(f"\nlock: {lock}\n".encode(), b"\n", 1)
    assert [each.name for each in moved.parent.iterdir()] == ["101.conf"]


@pytest.mark.parametrize("lock", ["rollback", "clone", "create", "something-new"])
def test_locks_that_stop_a_claim(dead: Tree, lock: str) -> None:
    dead.guest("pve3", "qemu/101", f"lock: {lock}\n{CONFIG}")
    assert reason(dead) == (False, "LockHeld")
    assert dead.config("pve3", "qemu/101").exists()


def test_a_lock_of_a_snapshot_section_is_no_lock(dead: Tree) -> None:
    dead.guest("pve3", "qemu/101", f"{CONFIG}\n[snap]\nlock: rollback\n")
    assert reason(dead) == (True, "Claimed")


def test_claiming_twice_says_that_it_is_here(dead: Tree) -> None:
    reason(dead)
    assert reason(dead) == (True, "AlreadyHere")


def test_a_second_claim_clears_the_lock_that_a_crash_left(dead: Tree) -> None:
    dead.config("pve3", "qemu/101").unlink()
    dead.guest("pve1", "qemu/101", f"lock: backup\n{CONFIG}")
    (result,) = dead.result(CLAIM)["results"]
    assert (result["reason"], result["cleared_lock"]) == ("AlreadyHere", "backup")
    assert dead.config("pve1", "qemu/101").read_text() == CONFIG


def test_a_second_claim_leaves_the_lock_of_a_guest_that_runs(dead: Tree) -> None:
    dead.config("pve3", "qemu/101").unlink()
    dead.guest("pve1", "qemu/101", f"lock: backup\n{CONFIG}")
    dead.process(700, "/usr/bin/kvm", "-id", "101")
    assert reason(dead) == (True, "AlreadyHere")
    assert dead.config("pve1", "qemu/101").read_text() == f"lock: backup\n{CONFIG}"


class Clock(pveha_node.System):
    """Every file read takes `seconds`."""

    def __init__(self, tree: Tree, seconds: float) -> None:
        super().__init__(str(tree.root))
        self._seconds = seconds
        self._now = 1000.0

    @override
    def monotonic(self) -> float:
        return self._now

    @override
    def read_text(self, path: str) -> str:
        self._now += self._seconds
        return super().read_text(path)


def test_a_stop_between_check_and_rename_aborts(dead: Tree) -> None:
    assert reason(dead, system=Clock(dead, 0.1)) == (False, "TooSlow")
    assert dead.config("pve3", "qemu/101").exists()


def test_a_claim_ends_after_three_seconds(dead: Tree) -> None:
    for vmid in range(102, 202):
        dead.guest("pve3", f"qemu/{vmid}")
    dead.path("/etc/pve/ha/resources.cfg").unlink()
    command = CLAIM + "".join(f" --guest qemu/{vmid}" for vmid in range(102, 202))
    clock = Clock(dead, 0.06)
    results = dead.result(command, clock)["results"]
    claimed = [each["claimed"] for each in results]
    assert claimed == sorted(claimed, reverse=True)
    assert any(claimed)
    assert {each["reason"] for each in results} == {"Claimed", "TooSlow"}
    assert sum(claimed) * 4 * 0.06 <= 3.2


def test_a_configuration_that_another_node_moved_first(dead: Tree) -> None:
    class Beaten(pveha_node.System):
        @override
        def rename(self, source: str, target: str) -> None:
            dead.config("pve3", "qemu/101").rename(dead.config("pve2", "qemu/101"))
            super().rename(source, target)

    assert reason(dead, system=Beaten(str(dead.root))) == (False, "SourceGone")


def test_quorum_lost_at_the_rename(dead: Tree) -> None:
    class ReadOnly(pveha_node.System):
        @override
        def rename(self, source: str, target: str) -> None:
            raise PermissionError(source)

    assert reason(dead, system=ReadOnly(str(dead.root))) == (False, "NotQuorate")


def test_quorum_lost_after_the_rename_leaves_the_lock_and_says_so(dead: Tree) -> None:
    class ReadOnly(pveha_node.System):
        @override
        def write_text(self, path: str, text: str) -> None:
            raise PermissionError(path)

    dead.guest("pve3", "qemu/101", f"lock: backup\n{CONFIG}")
    assert reason(dead, system=ReadOnly(str(dead.root))) == (True, "LockNotCleared")


def test_one_guest_that_cannot_be_claimed_does_not_hold_up_the_others(dead: Tree) -> None:
    dead.guest("pve3", "qemu/103")
    results = dead.result(f"{CLAIM} --guest qemu/102 --guest qemu/103")["results"]
    assert [each["reason"] for each in results] == ["Claimed", "SourceGone", "Claimed"]


@pytest.mark.parametrize("change", [("--to pve1", "--to pve2"), ("--from pve3", "--from pve1")])
def test_only_to_this_node_and_from_another(dead: Tree, change: tuple[str, str]) -> None:
    assert dead.error(CLAIM.replace(*change)) == "BadRequest"
    assert dead.config("pve3", "qemu/101").exists()
