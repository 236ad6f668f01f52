"""`pveha-node kill`: only what a migration left behind (S17), on a real process."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from unit.nodeshell.tree import Tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc here")


@pytest.fixture
def vm(tree: Tree) -> Iterator[subprocess.Popen[bytes]]:
    """A real process that looks like guest 101's QEMU, seen through the real /proc."""
    tree.epochs(1)
    tree.path("/proc").rmdir()
    tree.path("/proc").symlink_to("/proc")
    sleep = "import time; time.sleep(60)"
    process = subprocess.Popen(["kvm", "-c", sleep, "-id", "101"], executable=sys.executable)
    yield process
    process.kill()
    process.wait()


def start_time(tree: Tree, pid: int) -> int:
    (start,) = [each["start_time"] for each in tree.result("processes")["processes"] if each["pid"] == pid]
    assert isinstance(start, int)
    return start


@pytest.mark.parametrize("state", ["inmigrate", "postmigrate", "paused", "prelaunch"])
def test_a_leftover_is_ended(tree: Tree, vm: subprocess.Popen[bytes], state: str) -> None:
    start = start_time(tree, vm.pid)
    with tree.qmp(101, state):
        assert tree.result(f"kill --epoch 1 --vmid 101 --pid {vm.pid} --start-time {start}") == {
            "killed": True
        }
    assert vm.wait() == -9
    assert tree.result(f"kill --epoch 1 --vmid 101 --pid {vm.pid} --start-time {start}") == {"killed": False}


@pytest.mark.parametrize("state", ["running", "io-error", "save-vm", "finish-migrate"])
def test_a_guest_that_may_be_alive_is_not(tree: Tree, vm: subprocess.Popen[bytes], state: str) -> None:
    start = start_time(tree, vm.pid)
    with tree.qmp(101, state):
        assert tree.error(f"kill --epoch 1 --vmid 101 --pid {vm.pid} --start-time {start}") == "Refused"
    assert vm.poll() is None


def test_a_guest_whose_state_is_unknown_is_not(tree: Tree, vm: subprocess.Popen[bytes]) -> None:
    start = start_time(tree, vm.pid)
    assert tree.error(f"kill --epoch 1 --vmid 101 --pid {vm.pid} --start-time {start}") == "Refused"
    assert vm.poll() is None


def test_a_process_of_another_guest_is_not(tree: Tree, vm: subprocess.Popen[bytes]) -> None:
    start = start_time(tree, vm.pid)
    with tree.qmp(101, "paused"), tree.qmp(102, "paused"):
        assert tree.error(f"kill --epoch 1 --vmid 102 --pid {vm.pid} --start-time {start}") == "Refused"
    assert vm.poll() is None


def test_a_later_process_with_the_same_pid_is_not(tree: Tree, vm: subprocess.Popen[bytes]) -> None:
    start = start_time(tree, vm.pid)
    with tree.qmp(101, "paused"):
        result = tree.result(f"kill --epoch 1 --vmid 101 --pid {vm.pid} --start-time {start - 1}")
    assert result == {"killed": False}
    assert vm.poll() is None


def test_a_stale_epoch_ends_nothing(tree: Tree, vm: subprocess.Popen[bytes]) -> None:
    start = start_time(tree, vm.pid)
    tree.epochs(2)
    with tree.qmp(101, "paused"):
        assert tree.error(f"kill --epoch 1 --vmid 101 --pid {vm.pid} --start-time {start}") == "StaleEpoch"
    assert vm.poll() is None


def test_a_node_without_quorum_ends_nothing(tree: Tree, vm: subprocess.Popen[bytes]) -> None:
    start = start_time(tree, vm.pid)
    tree.members(quorate=0, pve1=1, pve2=0, pve3=0)
    with tree.qmp(101, "paused"):
        assert tree.error(f"kill --epoch 1 --vmid 101 --pid {vm.pid} --start-time {start}") == "NotQuorate"
    assert vm.poll() is None
