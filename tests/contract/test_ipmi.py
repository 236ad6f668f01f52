"""IpmiPower against pyghmi's BMC server over loopback: the same protocol, another end of it."""

import select
import socket
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pveha.bmc import ipmi
from pveha.model import errors, power

GUID = uuid.UUID("4c4c4544-0042-3510-8051-b7c04f4d3232")
SERVER = textwrap.dedent(
    """
    import json, sys, uuid
    from pyghmi.ipmi import bmc
    from pyghmi.ipmi.private import serversession

    accept = serversession.ServerSession.create_open_session_response

    def open_session(self, request):
        # It knows SHA-1 only, but takes any proposal: a real BMC declines (0x11) what it does not know.
        request = bytearray(request)
        if request[12] != 1:
            return bytearray([request[0], 0x11, 0, 0]) + request[4:8]
        return accept(self, request)

    serversession.ServerSession.create_open_session_response = open_session

    class Machine(bmc.Bmc):
        power, busy = "on", False

        def get_system_guid(self):
            return uuid.UUID(sys.argv[2])

        def get_power_state(self):
            return self.power

        def power_off(self):
            if self.busy:
                return 0xC0
            self.power = "off"
            self.told("off")

        def power_on(self):
            self.power = "on"
            self.told("on")

        def told(self, what):
            print(what, flush=True)

    machine = Machine({"pveha": "s3cret"}, port=int(sys.argv[1]), address="::ffff:127.0.0.1")
    machine.busy = "busy" in sys.argv
    print("ready", flush=True)
    machine.listen(timeout=1)
    """
)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Bmc:
    """The server as a process."""

    def __init__(self, folder: Path, *flags: str) -> None:
        script = folder / "bmc.py"
        script.write_text(SERVER)
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(self.port), str(GUID), *flags],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.said() == "ready"

    def said(self, seconds: float = 20.0) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline().strip() if ready else ""

    def power(self, password: str = "s3cret", seconds: float = 20.0) -> ipmi.IpmiPower:
        address = ipmi.BmcAddress("127.0.0.1", "pveha", password, self.port)
        return ipmi.IpmiPower({"pve1/lan": address}, seconds)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def bmc(tmp_path: Path) -> Iterator[Bmc]:
    running = Bmc(tmp_path)
    yield running
    running.stop()


async def test_power_and_identity_are_read_and_switched(bmc: Bmc) -> None:
    client = bmc.power()
    reading = await client.read("pve1/lan")
    assert reading.state is power.PowerState.ON
    assert power.same_machine(reading.identities, frozenset({str(GUID)}))
    assert not power.same_machine(reading.identities, frozenset({str(uuid.uuid4())}))
    assert await client.force_off("pve1/lan")
    assert bmc.said() == "off"
    assert (await client.read("pve1/lan")).state is power.PowerState.OFF
    assert await client.force_off("pve1/lan")
    assert bmc.said() == "off", "a forced off is sent even if it is off already (S2)"
    await client.power_on("pve1/lan")
    assert (await client.read("pve1/lan")).state is power.PowerState.ON


async def test_a_busy_bmc_says_so(tmp_path: Path) -> None:
    busy = Bmc(tmp_path, "busy")
    try:
        with pytest.raises(errors.Busy):
            await busy.power().force_off("pve1/lan")
    finally:
        busy.stop()


async def test_a_wrong_password_is_told_as_such(bmc: Bmc) -> None:
    with pytest.raises(errors.Unauthorized) as problem:
        await bmc.power("wrong").read("pve1/lan")
    assert "wrong" not in str(problem.value).replace("wrong password", "")


async def test_silence_ends_at_the_deadline() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = ipmi.BmcAddress("127.0.0.1", "pveha", "s3cret", silent.getsockname()[1])
        with pytest.raises(errors.Unreachable, match="no answer within 2 s"):
            await ipmi.IpmiPower({"pve1/lan": address}, 2.0).read("pve1/lan")


@pytest.mark.parametrize("told", [b"", b"\0" * 16, b"\xff" * 16, b"\0" * 15])
def test_a_blank_guid_names_nobody(told: bytes) -> None:
    assert ipmi.guids(told) == frozenset()


@pytest.mark.parametrize("told", [GUID.bytes, GUID.bytes_le, GUID.bytes[::-1]])
def test_a_guid_is_recognised_however_a_vendor_orders_its_bytes(told: bytes) -> None:
    assert power.same_machine(ipmi.guids(told), frozenset({str(GUID)}))
