"""Fence agents: what they are told, how they are ended, and what their answers prove."""

import asyncio
import os
import stat
import time
from pathlib import Path

import pytest

from pveha.bmc import agent
from pveha.model import errors, power

FAKE = """#!/bin/sh
cat > "$(dirname "$0")/told"
echo "$@" > "$(dirname "$0")/arguments"
env > "$(dirname "$0")/environment"
{body}
"""


def fake(folder: Path, body: str, **fields: object) -> agent.AgentPower:
    """An agent that does `body` in a shell once it has read its input."""
    file = folder / "fence_fake"
    file.write_text(FAKE.format(body=body))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    about = {"secrets": {"password": "s3cret"}, "timeout": 1.0, **fields}
    outlet = agent.Outlet("fence_fake", {"ip": "192.0.2.1", "plug": "3"}, folder=folder, **about)  # type: ignore[arg-type]
    return agent.AgentPower({"pve1/pdu": outlet})


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ("echo 'Status: ON'; exit 0", power.PowerState.ON),
        ("echo 'Status: OFF'; exit 2", power.PowerState.OFF),
    ],
)
async def test_status_is_read(tmp_path: Path, body: str, state: power.PowerState) -> None:
    reading = await fake(tmp_path, body).read("pve1/pdu")
    assert (reading.state, reading.identities) == (state, frozenset())


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("echo 'Failed: you have to enter plug number' >&2; exit 2", errors.BadAnswer),
        ("echo 'Status: OFF'; exit 0", errors.BadAnswer),
        ("echo 'Status: ON'; exit 2", errors.BadAnswer),
        ("exit 0", errors.BadAnswer),
        ("exit 1", errors.BadAnswer),
        ("exit 3", errors.Unauthorized),
        ("exit 4", errors.Unreachable),
        ("exit 5", errors.Unreachable),
        ("kill -9 $$", errors.BadAnswer),
    ],
)
async def test_any_other_answer_is_no_status(
    tmp_path: Path, body: str, error: type[errors.OutsideError]
) -> None:
    with pytest.raises(error, match="fence_fake for pve1/pdu, action status"):
        await fake(tmp_path, body).read("pve1/pdu")


async def test_parameters_and_secrets_are_on_standard_input_only(tmp_path: Path) -> None:
    await fake(tmp_path, "exit 0").force_off("pve1/pdu")
    told = (tmp_path / "told").read_text().splitlines()
    assert sorted(told) == ["action=off", "ip=192.0.2.1", "password=s3cret", "plug=3"]
    assert (tmp_path / "arguments").read_text() == "\n"
    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert names <= {"PATH", "LC_ALL", "PWD", "SHLVL", "_", "OLDPWD"}


async def test_keys_of_a_secret_that_are_no_secret_of_an_agent_stay_out(tmp_path: Path) -> None:
    given = {"password_script": "/bin/evil", "action": "on", "ssh_options": "-o x", "community": "c"}
    await fake(tmp_path, "exit 0", secrets=given).force_off("pve1/pdu")
    told = (tmp_path / "told").read_text()
    assert "community=c\n" in told
    assert not any(word in told for word in ("script", "ssh_options", "action=on"))


@pytest.mark.parametrize("value", ["a\nmissing_as_off=1", "a\rb", "a\x00b"])
def test_a_line_break_in_a_secret_is_refused(value: str) -> None:
    with pytest.raises(errors.InvalidConfiguration, match="line break"):
        agent.Outlet("fence_fake", {}, {"password": value})


@pytest.mark.parametrize("name", ["../bin/sh", "fence_x/../y", "sh", "fence_", "fence_A", "fence_x\n"])
def test_only_names_of_agents_are_taken(name: str) -> None:
    with pytest.raises(errors.InvalidConfiguration, match="not the name of a fence agent"):
        agent.Outlet(name, {})


async def test_an_outlet_that_was_off_already_was_sent_nothing(tmp_path: Path) -> None:
    assert await fake(tmp_path, "echo 'Success: Powered OFF'").force_off("pve1/pdu")
    assert not await fake(tmp_path, "echo 'Success: Already OFF'").force_off("pve1/pdu")


async def test_a_failed_off_may_have_landed(tmp_path: Path) -> None:
    with pytest.raises(errors.Unreachable, match="exit code 7"):
        await fake(tmp_path, "exit 7").force_off("pve1/pdu")


async def test_secrets_are_not_repeated_in_errors(tmp_path: Path) -> None:
    with pytest.raises(errors.OutsideError) as problem:
        await fake(tmp_path, "echo 'login s3cret failed' >&2; exit 1").read("pve1/pdu")
    assert "login *** failed" in str(problem.value)


def appears(file: Path) -> None:
    while not file.exists() or not file.read_text():
        time.sleep(0.01)


async def gone(pid: int) -> bool:
    """Whether a process has ended, or does within a second."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return True
        await asyncio.sleep(0.01)
    return False


async def test_at_its_deadline_the_agent_is_killed_with_its_children(tmp_path: Path) -> None:
    body = f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; wait"
    began = time.monotonic()
    with pytest.raises(errors.Unreachable, match="no answer within 1 s"):
        await fake(tmp_path, body).force_off("pve1/pdu")
    assert time.monotonic() - began < 5
    assert await gone(int((tmp_path / "child").read_text()))


async def test_nobody_waiting_any_more_it_is_killed_too(tmp_path: Path) -> None:
    power_control = fake(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; wait", timeout=60.0)
    task = asyncio.create_task(power_control.force_off("pve1/pdu"))
    await asyncio.wait_for(asyncio.to_thread(appears, tmp_path / "child"), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(int((tmp_path / "child").read_text()))


async def test_an_endless_tale_does_not_fill_the_memory(tmp_path: Path) -> None:
    with pytest.raises(errors.BadAnswer) as problem:
        await fake(tmp_path, "head -c 5000000 /dev/zero | tr '\\0' x; exit 0").read("pve1/pdu")
    assert len(str(problem.value)) < 1000


async def test_an_agent_that_is_missing_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    outlets = agent.AgentPower({"pve1/pdu": agent.Outlet("fence_absent", {}, folder=tmp_path)})
    with pytest.raises(errors.InvalidConfiguration, match="fence_absent cannot be run"):
        await outlets.read("pve1/pdu")
