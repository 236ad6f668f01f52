"""All devices of a cluster as one `PowerControl`."""

from collections.abc import Mapping
from typing import Protocol

from pveha.model import errors, power


class Device(Protocol):
    """Devices of one kind, by the text of their switch (`pve1/bmc`)."""

    async def read(self, name: str) -> power.PowerReading: ...

    async def force_off(self, name: str) -> bool: ...

    async def power_on(self, name: str) -> None: ...


class Switches:
    """Each switch with the devices it belongs to."""

    def __init__(self, devices: Mapping[power.Switch, Device]) -> None:
        self._devices = dict(devices)

    async def read(self, switch: power.Switch) -> power.PowerReading:
        return await self._device(switch).read(str(switch))

    async def force_off(self, switch: power.Switch) -> bool:
        return await self._device(switch).force_off(str(switch))

    async def power_on(self, switch: power.Switch) -> None:
        await self._device(switch).power_on(str(switch))

    def _device(self, switch: power.Switch) -> Device:
        if switch not in self._devices:
            message = f"{switch}: this fencing method cannot be used, see the condition FencingReady"
            raise errors.InvalidConfiguration(message)
        return self._devices[switch]
