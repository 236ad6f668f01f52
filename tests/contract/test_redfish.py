"""RedfishPower against sushy-tools' emulator, an independent server, beside sushy, an independent client."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sushy

from pveha.bmc import redfish
from pveha.model import power
from pveha.sim import config, datacenter

NODES = ("pve1", "pve2")


@pytest.fixture
async def dc() -> AsyncIterator[datacenter.DataCenter]:
    async with datacenter.DataCenter(config.Config(nodes=tuple(config.Node(name) for name in NODES))) as dc:
        yield dc


@pytest.fixture
async def bmcs(dc: datacenter.DataCenter) -> AsyncIterator[redfish.RedfishPower]:
    """pve1's system is named, pve2's is discovered."""
    addresses = {}
    for name in NODES:
        bmc = access(dc, name)
        system_id = bmc.system_id if name == "pve1" else None
        addresses[name] = redfish.BmcAddress(
            bmc.host, bmc.username, bmc.password, bmc.port, system_id, fingerprint=bmc.fingerprint
        )
    bmcs = redfish.RedfishPower(addresses, timeout=5.0)
    yield bmcs
    await bmcs.close()


def access(dc: datacenter.DataCenter, name: str) -> datacenter.Bmc:
    bmc = dc.connection.node(name).bmc
    assert bmc is not None
    return bmc


async def read_by_sushy(dc: datacenter.DataCenter, name: str, folder: Path) -> tuple[str, str]:
    """Power state and UUID as OpenStack's client reads them, its certificate pinned by a file."""
    bmc = access(dc, name)

    def read() -> tuple[str, str]:
        certificate = folder / f"{name}.pem"
        certificate.write_text(ssl.get_server_certificate((bmc.host, bmc.port)))
        root = sushy.Sushy(
            f"https://{bmc.host}:{bmc.port}/redfish/v1", bmc.username, bmc.password, verify=str(certificate)
        )
        (system,) = root.get_system_collection().get_members()
        return system.power_state.value, system.uuid.lower()

    return await asyncio.to_thread(read)


@pytest.mark.parametrize("name", NODES)
async def test_both_clients_read_the_same(
    dc: datacenter.DataCenter, bmcs: redfish.RedfishPower, tmp_path: Path, name: str
) -> None:
    reading = await bmcs.read(name)
    state, uuid = await read_by_sushy(dc, name, tmp_path)
    assert (reading.state, state) == (power.PowerState.ON, "On")
    assert uuid in reading.identities
    assert power.same_machine(reading.identities, frozenset({dc.world.machines[name].about.uuid}))


async def test_forced_off_is_off_for_both_clients_and_the_machine(
    dc: datacenter.DataCenter, bmcs: redfish.RedfishPower, tmp_path: Path
) -> None:
    await bmcs.force_off("pve2")
    states = [(await bmcs.read("pve2")).state]
    while states[-1] is not power.PowerState.OFF and len(states) < 300:
        await asyncio.sleep(0.1)
        states.append((await bmcs.read("pve2")).state)
    assert states[-1] is power.PowerState.OFF
    assert not dc.world.machines["pve2"].powered
    assert (await read_by_sushy(dc, "pve2", tmp_path))[0] == "Off"
    assert (await bmcs.read("pve1")).state is power.PowerState.ON
    await bmcs.force_off("pve2")
