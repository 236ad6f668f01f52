"""The simulated data centre through its sockets, with clients that are not ours: aiohttp, asyncssh, sushy."""

import asyncio
import base64
import contextlib
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import asyncssh
import pytest
import sushy
from sushy import auth as sushy_auth

from pveha import api
from pveha.model import cluster
from pveha.sim import config, datacenter, faults

WORLD = config.Config(
    tuple(config.Node(f"pve{number}", boot_seconds=0.3) for number in (1, 2, 3)),
    guests=(
        config.Guest(100, "pve1", ha=cluster.HAResource("vm:100")),
        config.Guest(101, "pve2", name="template", template=True, running=False),
    ),
    timings=config.Timings(bmc_call=(0.0, 0.0), bmc_off=(0.0, 0.0), bmc_on=0.0),
)
SILENCE_SECONDS = 0.4


@pytest.fixture
async def center() -> AsyncIterator[datacenter.DataCenter]:
    async with datacenter.DataCenter(WORLD) as running:
        yield running


@pytest.fixture
async def session(center: datacenter.DataCenter) -> AsyncIterator[aiohttp.ClientSession]:
    trust = ssl.create_default_context(cadata=center.connection.ca)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as opened:
        yield opened


async def get(
    center: datacenter.DataCenter,
    session: aiohttp.ClientSession,
    node: str = "pve1",
    path: str = "/version",
    token: datacenter.Token | None = None,
    seconds: float = 5.0,
) -> tuple[int, Any]:
    """Status and data (None without a body)."""
    token = token or center.connection.token
    url = f"https://{center.connection.node(node).address}:{center.connection.api_port}/api2/json{path}"
    headers = {"Authorization": f"PVEAPIToken={token.id}={token.secret}"}
    async with session.get(url, headers=headers, timeout=aiohttp.ClientTimeout(total=seconds)) as answer:
        body = await answer.read()
        return answer.status, json.loads(body)["data"] if body else None


# HTTPS


async def test_every_node_answers_at_its_own_address_under_one_authority(
    center: datacenter.DataCenter, session: aiohttp.ClientSession
) -> None:
    for name in ("pve1", "pve2", "pve3"):
        status, data = await get(center, session, name, "/cluster/status")
        assert status == 200
        assert [node["name"] for node in data if node.get("local")] == [name]
        assert {node["ip"] for node in data if node["type"] == "node"} == {
            each.address for each in center.connection.nodes
        }
    assert center.api.calls["GET /cluster/status"] == 3


async def test_a_token_without_privileges_sees_empty_lists_and_a_wrong_one_waits(
    center: datacenter.DataCenter, session: aiohttp.ClientSession
) -> None:
    stranger, wrong = center.connection.stranger, datacenter.Token(center.connection.token.id, "0")
    assert await get(center, session, path="/nodes/pve1/qemu", token=stranger) == (200, [])
    assert (await get(center, session, path="/cluster/status", token=stranger))[0] == 403
    before = time.monotonic()
    assert await get(center, session, token=wrong) == (401, None)
    assert 2.9 < time.monotonic() - before < 4.0


async def test_a_node_without_power_is_silent_and_resets_old_connections_once_it_is_back(
    center: datacenter.DataCenter, session: aiohttp.ClientSession
) -> None:
    assert (await get(center, session))[0] == 200
    node = center.connection.node("pve1")
    reader, writer = await asyncio.open_connection(node.address, center.connection.api_port)
    faults.apply(center.world, "power off pve1")
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await get(center, session, seconds=SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), SILENCE_SECONDS)
    faults.apply(center.world, "power on pve1")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 2.0)
    writer.close()
    await asyncio.sleep(0.1)
    assert (await get(center, session))[0] == 200


async def test_a_cut_path_holds_what_was_sent_until_it_is_mended(
    center: datacenter.DataCenter, session: aiohttp.ClientSession
) -> None:
    assert (await get(center, session))[0] == 200
    faults.apply(center.world, "cut operator pve1 api")
    await asyncio.sleep(0.1)
    call = asyncio.create_task(get(center, session))
    done, _ = await asyncio.wait({call}, timeout=SILENCE_SECONDS)
    assert not done
    assert (await get(center, session, "pve2"))[0] == 200
    faults.apply(center.world, "heal operator pve1 api")
    assert (await asyncio.wait_for(call, 2.0))[0] == 200


async def test_pveproxy_stopped_refuses_and_hung_is_silent(
    center: datacenter.DataCenter, session: aiohttp.ClientSession
) -> None:
    faults.apply(center.world, "stop pveproxy pve2")
    faults.apply(center.world, "hang api pve3")
    await asyncio.sleep(0.1)
    with pytest.raises(aiohttp.ClientConnectorError) as refused:
        await get(center, session, "pve2")
    assert isinstance(refused.value.os_error, ConnectionRefusedError)
    with pytest.raises(TimeoutError):
        await get(center, session, "pve3", seconds=SILENCE_SECONDS)
    faults.apply(center.world, "start pveproxy pve2")
    faults.apply(center.world, "start pveproxy pve3")
    await asyncio.sleep(0.1)
    assert (await get(center, session, "pve2"))[0] == 200
    assert (await get(center, session, "pve3"))[0] == 200


async def test_a_write_has_its_effect_although_its_answer_is_lost(
    center: datacenter.DataCenter, session: aiohttp.ClientSession
) -> None:
    about = center.connection
    faults.apply(center.world, "lose answers pve1")
    with pytest.raises(TimeoutError):
        await session.put(
            f"https://{about.node('pve1').address}:{about.api_port}/api2/json/cluster/ha/resources/vm:100",
            data={"state": "ignored", "comment": "owner text [pveha op=1 epoch=1 was=started]"},
            headers={"Authorization": f"PVEAPIToken={about.token.id}={about.token.secret}"},
            timeout=aiohttp.ClientTimeout(total=2.0),
        )
    resource = center.world.fs.tree("pve2").resources["vm:100"]
    assert resource.state is cluster.HAState.IGNORED
    assert resource.comment == "owner text [pveha op=1 epoch=1 was=started]"


# SSH


@contextlib.asynccontextmanager
async def login(center: datacenter.DataCenter, **changes: Any) -> AsyncIterator[asyncssh.SSHClientConnection]:
    about = center.connection
    options: dict[str, Any] = {
        "username": about.ssh_user,
        "client_keys": [asyncssh.import_private_key(about.ssh_private_key)],
        "known_hosts": asyncssh.import_known_hosts(about.known_hosts),
        "config": None,
        "agent_path": None,
        **changes,
    }
    async with asyncssh.connect(about.node("pve1").address, about.ssh_port, **options) as connection:
        yield connection


async def test_the_key_is_bound_to_pveha_node(center: datacenter.DataCenter) -> None:
    async with login(center) as connection:
        answer = json.loads((await connection.run("pveha-node/1 status")).stdout or "")
        assert answer["ok"]
        assert answer["result"]["node"] == "pve1"
        other = json.loads((await connection.run("cat /etc/shadow")).stdout or "")
        assert not other["ok"]
        assert other["error"]["kind"] == "BadRequest"
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", 22)


@pytest.mark.parametrize(
    "changes",
    [{"username": "admin"}, {"client_keys": [asyncssh.generate_private_key("ssh-ed25519")]}],
    ids=["another user", "another key"],
)
async def test_nobody_else_logs_in(center: datacenter.DataCenter, changes: dict[str, Any]) -> None:
    with pytest.raises(asyncssh.PermissionDenied):
        async with login(center, **changes):
            pass


async def test_a_register_without_quorum_is_read_only(center: datacenter.DataCenter) -> None:
    for name in ("pve2", "pve3"):
        center.world.membership.rings[name] = frozenset({"pve2", "pve3"})
    center.world.membership.rings["pve1"] = frozenset({"pve1"})
    async with login(center) as connection:
        answer = json.loads((await connection.run("pveha-node/1 begin --owner a.b.c")).stdout or "")
    assert not answer["ok"]
    assert answer["error"]["kind"] == "NotQuorate"


# Redfish


def power_through_sushy(
    bmc: datacenter.Bmc, password: str, command: sushy.ResetType | None = None
) -> tuple[str, str]:
    """Power state and UUID, after an optional reset. Sushy cannot pin fingerprints; our own client does."""
    root = sushy.Sushy(bmc.url, verify=False, auth=sushy_auth.BasicAuth(bmc.username, password))
    system = root.get_system(f"/redfish/v1/Systems/{bmc.system_id}")
    if command:
        system.reset_system(command)
        time.sleep(0.2)
        system.refresh(force=True)
    return system.power_state.value, system.uuid


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
async def test_an_independent_client_switches_a_node_off(center: datacenter.DataCenter) -> None:
    bmc = center.connection.node("pve2").bmc
    assert bmc is not None
    uuid = center.world.machines["pve2"].about.uuid
    assert await asyncio.to_thread(power_through_sushy, bmc, bmc.password) == ("On", uuid)
    assert await asyncio.to_thread(power_through_sushy, bmc, bmc.password, sushy.ResetType.FORCE_OFF) == (
        "Off",
        uuid,
    )
    assert not center.world.machines["pve2"].powered
    assert center.world.machines["pve1"].powered
    with pytest.raises(sushy.exceptions.AccessError):
        await asyncio.to_thread(power_through_sushy, bmc, "wrong")


async def test_a_dead_bmc_is_silent_and_swapped_ones_answer_for_each_other(
    center: datacenter.DataCenter,
) -> None:
    one, two = (center.connection.node(name).bmc for name in ("pve1", "pve2"))
    assert one is not None
    assert two is not None

    async def systems(bmc: datacenter.Bmc) -> list[str]:
        fingerprint = aiohttp.Fingerprint(bytes.fromhex(bmc.fingerprint.replace(":", "")))
        credentials = base64.b64encode(f"{bmc.username}:{bmc.password}".encode()).decode()
        limit = aiohttp.ClientTimeout(total=1.0)
        async with (
            aiohttp.ClientSession(
                headers={"Authorization": f"Basic {credentials}"}, timeout=limit
            ) as session,
            session.get(f"{bmc.url}/redfish/v1/Systems", ssl=fingerprint) as answer,
        ):
            members = (await answer.json())["Members"]
            return [member["@odata.id"].rpartition("/")[2] for member in members]

    assert await systems(one) == [one.system_id]
    center.world.swap_bmcs("pve1", "pve2")
    assert await systems(one) == [two.system_id]
    center.world.kill_bmc("pve1")
    with pytest.raises(TimeoutError):
        await systems(one)
    assert await systems(two) == [one.system_id]


# The whole


async def test_manifests_are_what_the_resources_accept(center: datacenter.DataCenter) -> None:
    manifests = center.manifests("tests", "dc1")
    secrets = {each["metadata"]["name"] for each in manifests if each["kind"] == "Secret"}
    assert secrets == {"dc1-token", "dc1-ca", "dc1-ssh", *(f"dc1-bmc-pve{n}" for n in (1, 2, 3))}
    parsed = [api.parse(each) for each in manifests if each["kind"] != "Secret"]
    assert [each.kind_name for each in parsed] == ["HACluster", "FailoverPolicy", "ProtectedVM"]
    assert {each.namespace for each in parsed} == {"tests"}


async def test_two_data_centres_do_not_collide(center: datacenter.DataCenter) -> None:
    async with datacenter.DataCenter(WORLD) as other:
        places = [
            {(node.address, dc.connection.api_port) for node in dc.connection.nodes} for dc in (center, other)
        ]
        assert not places[0] & places[1]


async def test_missing_loopback_addresses_are_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datacenter, "_can_bind", lambda address: address == "127.0.0.1")
    with pytest.raises(datacenter.NoLoopbackError, match=r"sudo ifconfig lo0 alias 127\.77\.0\.11"):
        await datacenter.DataCenter(WORLD).start()


async def test_as_a_process_of_its_own_it_answers_a_line_with_a_line() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "pveha.sim", "--guests", "3", "--managed"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stdin
    assert process.stdout
    connection = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
    assert [node["name"] for node in connection["nodes"]] == ["pve1", "pve2", "pve3"]
    assert connection["manifests"][0]["kind"] == "Secret"

    async def ask(line: str) -> dict[str, Any]:
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{line}\n".encode())
        return dict(json.loads(await asyncio.wait_for(process.stdout.readline(), 5)))

    assert (await ask("state"))["result"]["guests"]["101"] == {"node": "pve2", "state": "running"}
    off_at = (await ask("power off pve2"))["result"]
    state = (await ask("state"))["result"]
    assert state["master"] == "pve1"
    assert not state["nodes"]["pve2"]["powered"]
    assert state["ha"]["vm:101"]["state"] == "started"
    assert any("power lost" in line for line in (await ask(f"log {off_at - 1}"))["result"])
    await asyncio.sleep(0.1)
    downtimes = (await ask(f"downtimes {off_at}"))["result"]
    assert downtimes["101"] > 0.1
    assert downtimes["100"] == 0
    assert await ask("double_runs") == {"ok": True, "result": 0}
    assert await ask("bmc_log") == {"ok": True, "result": []}
    assert await ask("calls") == {"ok": True, "result": {}}
    assert not (await ask("power off nosuch"))["ok"]
    assert not (await ask("downtimes"))["ok"]
    process.stdin.write(b"quit\n")
    assert await asyncio.wait_for(process.wait(), 10) == 0
