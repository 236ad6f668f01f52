"""Operators that are broken on purpose, for the demo.

`python -m pveha.sim.sabotage KIND KUBECONFIG NAMESPACE`, where KIND is

    canary             believes a BMC that acknowledges the forced off, and does not read it back (against S2)
    crash-after-claim  ends by SIGKILL as soon as guests have been claimed, before any is started

They replace one class of the real operator from outside: production code has no switch for this.
"""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from pveha.bmc import redfish
from pveha.control import loop, operator
from pveha.kube import config
from pveha.model import guests, node, power
from pveha.nodeshell import ssh


class TrustingPower(redfish.RedfishPower):
    """Reads Off from any machine it has once told to be off."""

    def __init__(self, *args: object, **keywords: object) -> None:
        super().__init__(*args, **keywords)  # type: ignore[arg-type]
        self._told: set[str] = set()

    async def force_off(self, name: str) -> bool:
        sent = await super().force_off(name)
        self._told.add(name)
        return sent

    async def read(self, name: str) -> power.PowerReading:
        reading = await super().read(name)
        if name not in self._told:
            return reading
        return power.PowerReading(
            power.PowerState.OFF, reading.identities, reading.asked_at, reading.answered_at
        )


class LastClaim(ssh.SshNodeShell):
    """Ends the process once a claim has been answered."""

    async def claim(
        self, on: str, epoch: int, op: str, dead: str, refs: tuple[guests.GuestRef, ...]
    ) -> tuple[node.ClaimResult, ...]:
        await super().claim(on, epoch, op, dead, refs)
        os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit


def main() -> int:
    """Run a broken operator."""
    kind, kubeconfig, namespace = sys.argv[1:]
    if kind == "canary":
        redfish.RedfishPower = TrustingPower  # type: ignore[misc]
    elif kind == "crash-after-claim":
        ssh.SshNodeShell = LastClaim  # type: ignore[misc]
    else:
        sys.exit(f"pveha.sim.sabotage: no kind {kind}: canary or crash-after-claim")
    logging.basicConfig(level=logging.INFO)
    options = operator.Options(
        config.Access(Path(kubeconfig), None), (namespace,), health_host="127.0.0.1", health_port=0
    )
    return asyncio.run(operator.run(options, loop.run_cluster))


if __name__ == "__main__":
    sys.exit(main())
