"""A replica that does nothing but lead: prints when it may act, for the test of paused and killed leaders.

Usage: elector_process.py KUBECONFIG NAMESPACE IDENTITY LEASE_SECONDS. Each line is a monotonic time (the same
clock in all processes of a machine) at which `remaining()` was above zero.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path

from pveha.control import elector
from pveha.kube import client, config
from pveha.model import ports


async def main(kubeconfig: str, namespace: str, identity: str, lease_seconds: str) -> None:
    async def work(leadership: ports.Leadership) -> None:
        while True:
            if leadership.remaining() > 0:
                print(time.monotonic(), flush=True)
            await asyncio.sleep(0.02)

    async with client.ApiServer(config.Access(Path(kubeconfig))) as kubernetes:
        candidate = elector.Elector(
            kubernetes, namespace, "pveha-dc1", identity, work, time.time, int(lease_seconds)
        )
        task = asyncio.create_task(candidate.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await asyncio.gather(task, return_exceptions=True)


asyncio.run(main(*sys.argv[1:]))
