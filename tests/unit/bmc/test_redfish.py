"""RedfishPower and what BMCs answer: one path through the protocol, and every way off it."""

import asyncio
import base64
import dataclasses
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from pveha.bmc import redfish
from pveha.model import errors, power
from pveha.sim import certificates

SYSTEMS = "/redfish/v1/Systems"
SYSTEM = f"{SYSTEMS}/1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"
UUID = "4C4C4544-0042-3510-8051-B7C04F4D3232"
PASSWORD = "s3cret-p\u00e4ss"


def system(state: object = "On", **changes: object) -> dict[str, Any]:
    allowed = {"target": RESET, "ResetType@Redfish.AllowableValues": ["On", "ForceOff"]}
    return {
        "PowerState": state,
        "UUID": UUID,
        "SerialNumber": " 7B5QM22 ",
        "Actions": {"#ComputerSystem.Reset": allowed},
        **changes,
    }


def complaint(message_id: str, key: str = "MessageId") -> dict[str, Any]:
    info = {key: message_id, "Message": "cannot do that now", "MessageArgs": ["Power is off"]}
    return {"error": {"code": "Base.1.0.GeneralError", "message": "see", "@Message.ExtendedInfo": [info]}}


@dataclasses.dataclass
class Bmc:
    """A BMC that gives prepared answers; `answers` maps (method, path) to (status, body)."""

    address: redfish.BmcAddress
    ca: str
    answers: dict[tuple[str, str], tuple[int, Any]]
    delay: float = 0.0
    asked: list[tuple[str, str, Any]] = dataclasses.field(default_factory=list)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.asked.append((request.method, request.rel_url.raw_path, json.loads(body) if body else None))
        await asyncio.sleep(self.delay)
        login = base64.b64encode(f"pveha:{PASSWORD}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {login}":
            return web.Response(status=401)
        status, answer = self.answers.get((request.method, request.path), (404, None))
        if isinstance(answer, bytes):
            return web.Response(
                status=status, body=answer, headers={"Location": "https://elsewhere.invalid/"}
            )
        return web.Response(status=status, text="" if answer is None else json.dumps(answer))

    def power(self, **changes: Any) -> redfish.RedfishPower:
        """The client, with changes of how it reaches this BMC."""
        return redfish.RedfishPower({"pve1": dataclasses.replace(self.address, **changes)}, timeout=1.0)


@pytest.fixture
async def bmc() -> AsyncIterator[Bmc]:
    authority = certificates.Authority("BMC CA")
    identity = authority.issue("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = redfish.BmcAddress(
            "127.0.0.1",
            "pveha",
            PASSWORD,
            listener.getsockname()[1],
            "1",
            fingerprint=identity.fingerprint,
        )
        bmc = Bmc(address, authority.pem, {("GET", SYSTEM): (200, system()), ("POST", RESET): (204, None)})
        server = web.Server(bmc.handle)
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(server, sock=listener, ssl=identity.server_context())
        yield bmc
        listening.close()
        await server.shutdown(timeout=0.1)


@pytest.fixture
async def client(bmc: Bmc) -> AsyncIterator[redfish.RedfishPower]:
    client = bmc.power()
    yield client
    await client.close()


async def test_reading(bmc: Bmc, client: redfish.RedfishPower) -> None:
    reading = await client.read("pve1")
    assert reading.state is power.PowerState.ON
    assert reading.identities == {UUID.lower(), "7b5qm22"}
    assert reading.asked_at < reading.answered_at
    assert bmc.asked == [("GET", SYSTEM, None)]


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("Off", power.PowerState.OFF),
        ("PoweringOn", power.PowerState.CHANGING),
        ("PoweringOff", power.PowerState.CHANGING),
        ("Paused", power.PowerState.CHANGING),
    ],
)
async def test_power_states(
    bmc: Bmc, client: redfish.RedfishPower, said: str, state: power.PowerState
) -> None:
    bmc.answers["GET", SYSTEM] = (200, system(said))
    assert (await client.read("pve1")).state is state


@pytest.mark.parametrize(
    "answer", [system(None), system("Sleeping"), {"UUID": UUID}, [system()], None, b"<html>", b"\xff\xfe{"]
)
async def test_a_power_state_that_cannot_be_read_is_none(
    bmc: Bmc, client: redfish.RedfishPower, answer: Any
) -> None:
    bmc.answers["GET", SYSTEM] = (200, answer)
    with pytest.raises(errors.BadAnswer):
        await client.read("pve1")


async def test_a_machine_without_identity_has_none(bmc: Bmc, client: redfish.RedfishPower) -> None:
    bmc.answers["GET", SYSTEM] = (200, system(UUID=None, SerialNumber=" "))
    assert (await client.read("pve1")).identities == frozenset()


async def test_forcing_off(bmc: Bmc, client: redfish.RedfishPower) -> None:
    await client.force_off("pve1")
    assert bmc.asked == [("GET", SYSTEM, None), ("POST", RESET, {"ResetType": "ForceOff"})]


async def test_forcing_off_sends_the_command_even_when_it_reads_off(
    bmc: Bmc, client: redfish.RedfishPower
) -> None:
    bmc.answers["GET", SYSTEM] = (200, system("Off"))
    await client.force_off("pve1")
    assert ("POST", RESET, {"ResetType": "ForceOff"}) in bmc.asked


async def test_the_only_system_is_found(bmc: Bmc) -> None:
    bmc.answers["GET", SYSTEMS] = (200, {"Members": [{"@odata.id": SYSTEM}]})
    client = bmc.power(system_id=None)
    await client.read("pve1")
    await client.read("pve1")
    assert [path for _, path, _ in bmc.asked] == [SYSTEMS, SYSTEM, SYSTEM]
    await client.close()


@pytest.mark.parametrize("members", [[], [{"@odata.id": SYSTEM}, {"@odata.id": f"{SYSTEMS}/2"}]])
async def test_of_several_systems_none_is_guessed(bmc: Bmc, members: list[dict[str, str]]) -> None:
    bmc.answers["GET", SYSTEMS] = (200, {"Members": members})
    client = bmc.power(system_id=None)
    with pytest.raises(errors.InvalidConfiguration, match="systemID"):
        await client.read("pve1")
    await client.close()


@pytest.mark.parametrize(
    "link", ["https://elsewhere.invalid/redfish/v1/Systems/1", "//elsewhere.invalid/", "@x/"]
)
async def test_credentials_follow_no_link_to_another_place(bmc: Bmc, link: str) -> None:
    bmc.answers["GET", SYSTEMS] = (200, {"Members": [{"@odata.id": link}]})
    client = bmc.power(system_id=None)
    with pytest.raises(errors.BadAnswer, match="no path of its own"):
        await client.read("pve1")
    await client.close()


async def test_a_system_id_is_one_part_of_the_path(bmc: Bmc) -> None:
    client = bmc.power(system_id="../../x?y")
    with pytest.raises(errors.NotFound):
        await client.read("pve1")
    assert bmc.asked == [("GET", f"{SYSTEMS}/..%2F..%2Fx%3Fy", None)]
    await client.close()


async def test_allowed_reset_types_behind_action_info(bmc: Bmc, client: redfish.RedfishPower) -> None:
    info = f"{SYSTEM}/ResetActionInfo"
    action = {"#ComputerSystem.Reset": {"target": RESET, "@Redfish.ActionInfo": info}}
    bmc.answers["GET", SYSTEM] = (200, system(Actions=action))
    bmc.answers["GET", info] = (200, {"Parameters": [{"Name": "ResetType", "AllowableValues": ["On"]}]})
    with pytest.raises(errors.Refused, match="offers no ForceOff, only: On"):
        await client.force_off("pve1")
    bmc.answers["GET", info] = (200, {"Parameters": [{"Name": "ResetType", "AllowableValues": ["ForceOff"]}]})
    await client.force_off("pve1")


async def test_a_user_who_may_not_switch_power_is_not_offered_the_action(
    bmc: Bmc, client: redfish.RedfishPower
) -> None:
    bmc.answers["GET", SYSTEM] = (200, system(Actions={}))
    with pytest.raises(errors.Forbidden):
        await client.force_off("pve1")


DECLINED = [
    (400, complaint("iLO.2.14.InvalidOperationForSystemState")),
    (400, complaint("iLO.0.10.InvalidOperationForSystemState", "MessageID")),
    (409, complaint("IDRAC.2.8.PSU501")),
    (400, complaint("Base.1.8.NoOperation")),
]


@pytest.mark.parametrize("declined", DECLINED)
async def test_declined_because_it_is_off_is_acknowledged(
    bmc: Bmc, client: redfish.RedfishPower, declined: tuple[int, Any]
) -> None:
    bmc.answers["GET", SYSTEM] = (200, system("Off"))
    bmc.answers["POST", RESET] = declined
    await client.force_off("pve1")
    assert [method for method, _, _ in bmc.asked] == ["GET", "POST", "GET"]


@pytest.mark.parametrize("state", ["On", "PoweringOff", "PoweringOn"])
@pytest.mark.parametrize("declined", DECLINED[:1])
async def test_declined_while_it_is_not_off_is_refused(
    bmc: Bmc, client: redfish.RedfishPower, declined: tuple[int, Any], state: str
) -> None:
    bmc.answers["GET", SYSTEM] = (200, system(state))
    bmc.answers["POST", RESET] = declined
    with pytest.raises(errors.Refused, match="InvalidOperationForSystemState"):
        await client.force_off("pve1")


@pytest.mark.parametrize("declined", [(503, None), (409, complaint("Base.1.8.ResourceInUse"))])
async def test_a_bmc_without_time_is_busy(
    bmc: Bmc, client: redfish.RedfishPower, declined: tuple[int, Any]
) -> None:
    bmc.answers["POST", RESET] = declined
    with pytest.raises(errors.Busy):
        await client.force_off("pve1")


async def test_power_on_is_sent(bmc: Bmc, client: redfish.RedfishPower) -> None:
    bmc.answers["POST", RESET] = (204, None)
    await client.power_on("pve1")
    assert bmc.asked[-1] == ("POST", RESET, {"ResetType": "On"})


@pytest.mark.parametrize(
    "declined", [(400, None), (409, complaint("Base.1.8.PropertyValueConflict")), (400, b"no"), (412, None)]
)
async def test_declined_for_another_reason_is_refused_though_it_reads_off(
    bmc: Bmc, client: redfish.RedfishPower, declined: tuple[int, Any]
) -> None:
    bmc.answers["GET", SYSTEM] = (200, system("Off"))
    bmc.answers["POST", RESET] = declined
    with pytest.raises(errors.Refused):
        await client.force_off("pve1")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (202, None),
        (200, None),
        (302, errors.BadAnswer),
        (401, errors.Unauthorized),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (500, errors.Unreachable),
        (503, errors.Busy),
    ],
)
async def test_statuses(
    bmc: Bmc, client: redfish.RedfishPower, status: int, expected: type[Exception] | None
) -> None:
    bmc.answers["POST", RESET] = (status, b"" if status >= 300 else {"TaskState": "New"})
    if expected is None:
        await client.force_off("pve1")
    else:
        with pytest.raises(expected) as raised:
            await client.force_off("pve1")
        assert type(raised.value) is expected
    assert len(bmc.asked) == 2


async def test_a_wrong_password_is_not_in_the_error(bmc: Bmc) -> None:
    client = bmc.power(password="other-secret")
    with pytest.raises(errors.Unauthorized) as raised:
        await client.read("pve1")
    assert "other-secret" not in str(raised.value)
    assert PASSWORD not in repr(bmc.address)
    await client.close()


async def test_a_hang_is_cut_by_the_deadline(bmc: Bmc, client: redfish.RedfishPower) -> None:
    bmc.delay = 30.0
    loop = asyncio.get_running_loop()
    before = loop.time()
    with pytest.raises(errors.Unreachable, match="no answer within 1 s"):
        await client.force_off("pve1")
    assert 1.0 <= loop.time() - before < 1.5


async def test_many_slow_steps_share_one_deadline(bmc: Bmc, client: redfish.RedfishPower) -> None:
    bmc.delay = 0.7
    with pytest.raises(errors.Unreachable):
        await client.force_off("pve1")


async def test_nobody_listens(bmc: Bmc) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = bmc.power(port=port)
    with pytest.raises(errors.Unreachable):
        await client.read("pve1")
    await client.close()


async def test_another_certificate_is_not_trusted_and_hears_no_password(bmc: Bmc) -> None:
    client = bmc.power(fingerprint=":".join(["AB"] * 32))
    with pytest.raises(errors.Untrusted):
        await client.read("pve1")
    assert bmc.asked == []
    await client.close()


async def test_a_ca_is_enough_and_the_systems_cas_are_not(bmc: Bmc) -> None:
    by_ca, by_system = bmc.power(fingerprint=None, ca=bmc.ca), bmc.power(fingerprint=None)
    assert (await by_ca.read("pve1")).state is power.PowerState.ON
    with pytest.raises(errors.Untrusted):
        await by_system.read("pve1")
    await by_ca.close()
    await by_system.close()


@pytest.mark.parametrize("wrong", [{"fingerprint": "AB:CD"}, {"fingerprint": None, "ca": "no PEM"}])
async def test_a_pin_that_cannot_be_read(bmc: Bmc, wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidConfiguration):
        bmc.power(**wrong)


async def test_a_node_without_bmc(client: redfish.RedfishPower) -> None:
    with pytest.raises(errors.InvalidConfiguration, match="pve9"):
        await client.read("pve9")
