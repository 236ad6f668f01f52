"""On a nearly full cluster plans are searched for, a few in each round; all of them are told soon."""

import asyncio
import collections

from pveha.sim import clock, config, rig

NODES, PER_NODE = 8, 20
VMIDS = range(100, 100 + NODES * PER_NODE)
MIB = (62 << 10) // (PER_NODE + 3)
"""Of each guest: a node of 64 GiB, 2 GiB of which are its own, has room for three more."""
LEFT = PER_NODE - 3 * (NODES - 2)
TOLD_SECONDS = 15.0


def refused(on: rig.Rig) -> dict[str, int]:
    """How many guests are not ready for failover, by reason and node."""
    found: collections.Counter[str] = collections.Counter()
    for vmid in VMIDS:
        status = on.guest_status(vmid).status
        ready = status.condition("FailoverReady")
        if ready is None or ready.status != "True":
            found[f"{ready.reason if ready else 'nothing'} on {status.node}"] += 1
    return dict(found)


def test_who_has_no_room_any_more_is_told_soon_whichever_his_node() -> None:
    async def run() -> None:
        guests = [config.managed(vmid, f"pve{1 + vmid % NODES}", memory=MIB << 20, cores=1) for vmid in VMIDS]
        nodes = tuple(config.Node(f"pve{number}") for number in range(1, NODES + 1))
        on = rig.Rig(config.Config(nodes, guests=tuple(guests), master="pve1"), protect=VMIDS)
        on.world.start()
        on.start_operator()
        await asyncio.sleep(120)
        assert refused(on) == {}
        for vmid in range(900, 905):
            on.apply(f"create guest {vmid} pve{NODES}")
        await asyncio.sleep(TOLD_SECONDS)
        assert LEFT > 0
        assert refused(on) == {f"NoCapacity on pve{number}": LEFT for number in range(1, NODES)}
        for vmid in range(900, 905):
            on.apply(f"destroy guest {vmid}")
        await asyncio.sleep(TOLD_SECONDS)
        assert refused(on) == {}
        assert not on.failures
        await on.kill_operator()

    clock.run(run())
