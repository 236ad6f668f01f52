"""What every operation is given."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pveha.act import turns
from pveha.model import errors, ports

T = TypeVar("T")

RENEWAL_SECONDS = 5.0
"""How long a side effect waits until the lease is renewed; a renewal is due every two."""
LOOK_SECONDS = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """The ports an operation may use, the right to use them, and a way to say how far it is."""

    hypervisor: ports.Hypervisor
    optional_shell: ports.NodeShell | None
    optional_power: ports.PowerControl | None
    leadership: ports.Leadership
    disowning: turns.Turns
    """Held while an HA resource is set to ignored, by all takeovers of the cluster together."""
    step: Callable[[str], None]

    @property
    def shell(self) -> ports.NodeShell:
        if self.optional_shell is None:
            raise errors.InvalidConfiguration("there is no node shell: set spec.recovery.nodeShell")
        return self.optional_shell

    @property
    def power(self) -> ports.PowerControl:
        if self.optional_power is None:
            raise errors.InvalidConfiguration("there are no BMCs: set spec.fencing and spec.nodes")
        return self.optional_power

    def require(self, seconds: float) -> None:
        """Raise NotLeader unless the lease outlives a side effect that takes up to `seconds`."""
        remaining = self.leadership.remaining()
        if remaining < seconds:
            raise errors.NotLeader(
                f"{max(remaining, 0.0):.1f} s of the lease are left, {seconds:g} s are needed: "
                "nothing was sent"
            )

    async def ready(self, seconds: float) -> None:
        """Like `require`, but a renewal that is late is waited for first."""
        for _ in range(int(RENEWAL_SECONDS / LOOK_SECONDS)):
            if not 0 < self.leadership.remaining() < seconds:
                break
            await asyncio.sleep(LOOK_SECONDS)
        self.require(seconds)

    async def while_leading(self, seconds: float, call: Awaitable[T]) -> T:
        """The result of `call`, which is cancelled (and NotLeader raised) when less than `seconds` of the
        lease are left: what takes long is not waited for by a leader that may be overtaken."""
        task = asyncio.ensure_future(call)
        try:
            while not task.done():
                if self.leadership.remaining() < seconds:
                    raise errors.NotLeader("the lease was not renewed while a device was being switched")
                await asyncio.wait({task}, timeout=LOOK_SECONDS)
            return task.result()
        finally:
            task.cancel()


async def within(seconds: float, call: Callable[[], Awaitable[T]]) -> T:
    """The result of `call`, which is not even begun if this is cancelled before; raises Unreachable after
    `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            return await call()
    except TimeoutError:
        raise errors.Unreachable(f"no answer in {seconds:g} s") from None
