"""Electors in processes of their own against a real API server: paused, killed, stopped, cut off."""

import dataclasses
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pveha.devkube import controlplane
from pveha.devkube.target import Target

LEASE_SECONDS = 5
TAKEOVER_SECONDS = LEASE_SECONDS + 5
PROGRAM = Path(__file__).with_name("elector_process.py")


@dataclasses.dataclass
class Replica:
    process: subprocess.Popen[str]
    output: Path

    def acted(self) -> list[float]:
        """Monotonic times at which the replica held leadership."""
        return [float(line) for line in self.output.read_text().split("\n")[:-1]]

    def acts_since(self, moment: float) -> bool:
        times = self.acted()
        return bool(times) and times[-1] >= moment


Start = Callable[[str], Replica]


@pytest.fixture
def start(kube: Target, namespace: str, tmp_path: Path) -> Iterator[Start]:
    started: list[Replica] = []

    def start_one(identity: str) -> Replica:
        output = tmp_path / identity
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, PROGRAM, kube.admin.kubeconfig, namespace, identity, str(LEASE_SECONDS)],
                stdout=file,
                text=True,
            )
        started.append(Replica(process, output))
        return started[-1]

    yield start_one
    for replica in started:
        replica.process.send_signal(signal.SIGCONT)
        replica.process.kill()
        replica.process.wait()


def wait_for(condition: Callable[[], bool], within: float) -> float:
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > within:
            pytest.fail(f"not within {within} s")
        time.sleep(0.05)
    return time.monotonic() - begin


def assert_no_overlap(first: Replica, second: Replica) -> None:
    """Each replica's times in the merged order: leadership passes over as a whole, once."""
    merged = sorted([(at, "first") for at in first.acted()] + [(at, "second") for at in second.acted()])
    changes = sum(1 for (_, a), (_, b) in itertools.pairwise(merged) if a != b)
    assert changes == 1
    assert merged[0][1] == "first"
    assert merged[-1][1] == "second"


def test_a_paused_leader_does_not_act_when_it_wakes_up(start: Start) -> None:
    first = start("first")
    wait_for(lambda: bool(first.acted()), 10)
    second = start("second")
    time.sleep(2 * LEASE_SECONDS)
    assert not second.acted()
    first.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: bool(second.acted()), TAKEOVER_SECONDS)
    first.process.send_signal(signal.SIGCONT)
    time.sleep(LEASE_SECONDS)
    assert second.acts_since(time.monotonic() - 1)
    assert_no_overlap(first, second)


def test_a_killed_leader_is_replaced_in_time_and_a_stopped_one_at_once(start: Start) -> None:
    first = start("first")
    wait_for(lambda: bool(first.acted()), 10)
    second = start("second")
    time.sleep(LEASE_SECONDS)
    first.process.kill()
    wait_for(lambda: bool(second.acted()), TAKEOVER_SECONDS)
    assert_no_overlap(first, second)
    third = start("third")
    time.sleep(LEASE_SECONDS)
    assert not third.acted()
    second.process.terminate()
    assert wait_for(lambda: bool(third.acted()), TAKEOVER_SECONDS) < 3
    assert_no_overlap(second, third)


def test_without_the_api_server_nobody_acts_and_afterwards_somebody_does(
    start: Start, control_plane: controlplane.ControlPlane
) -> None:
    only = start("only")
    wait_for(lambda: bool(only.acted()), 10)
    cut = time.monotonic()
    control_plane.kill_api_server()
    time.sleep(LEASE_SECONDS + 1)
    assert max(only.acted()) < cut + LEASE_SECONDS
    control_plane.start_api_server()
    back = time.monotonic()
    wait_for(lambda: only.acts_since(back), TAKEOVER_SECONDS)
