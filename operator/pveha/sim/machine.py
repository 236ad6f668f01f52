"""A node as a machine: power, boot, services, watchdog, and the guest processes that live on it."""

import asyncio
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pveha.model import guests
from pveha.sim import config

if TYPE_CHECKING:
    from pveha.sim import world as worlds

SERVICES = ("corosync", "pmxcfs", "pveproxy", "pvedaemon", "pvestatd", "pve-ha-crm", "pve-ha-lrm", "sshd")


@dataclasses.dataclass(slots=True)
class Process:
    """A live QEMU or container process. It exists whether or not its configuration is on this node."""

    ref: guests.GuestRef
    node: str
    pid: int
    start_time: int
    """Clock ticks (100 a second) since the machine's boot, as field 22 of /proc/PID/stat."""
    started_at: float
    state: str = "running"
    """QMP run state: prelaunch, inmigrate, running, paused, postmigrate."""
    ready_at: float = 0.0
    """When its agent, or its services, answer."""
    storages: tuple[str, ...] = ()


class Machine:
    """One node. `up`: powered and booted far enough that its services run."""

    def __init__(self, world: "worlds.World", about: config.Node) -> None:
        self._world = world
        self.about = about
        self.name = about.name
        self.nodeid = about.nodeid
        self.powered = False
        self.up = False
        self.hung = False
        """The kernel hangs: nothing on it answers, nothing runs on; its guests are taken to be able to
        write."""
        self.was_on = False
        """Powered when the mains were lost."""
        self.boot_id = 0
        """Counts power-ons; timers of an earlier life do nothing."""
        self.booted_at = 0.0
        self.up_since = -math.inf
        self.dark_since = -math.inf
        """When it last went dark (power, hang)."""
        self.went_attached = True
        """Whether pmxcfs ran when it last went dark: until the others' token is lost they show what was."""
        self.service_since: dict[str, float] = {}
        """When a service last came to its state."""
        self.planned = ""
        """`reboot` or `shutdown` while an orderly one is under way."""
        self.services: dict[str, str] = dict.fromkeys(SERVICES, "stopped")
        """running, stopped or hung."""
        self.processes: dict[int, Process] = {}
        self.starting: set[int] = set()
        self.run_files: dict[str, str] = {}
        """Files below /run, by path: gone with the power."""
        self.version = about.version or world.config.version
        """Of Proxmox VE."""
        self.timer = world.config.repair_timer
        """Whether the timer of `pveha-node repair` is installed."""
        self.node_shell = "installed"
        """installed, older (another version of the same protocol), newer (one of another protocol), halting
        (within its claims); absent, or open: its key is bound to no command. Only the SSH face tells the last
        two apart."""
        self.clock_skew = about.clock_skew
        self.power_restore = about.power_restore
        self._next_pid = 1000
        self._watchdog: asyncio.TimerHandle | None = None

    @property
    def corosync_runs(self) -> bool:
        return self.up and self.services["corosync"] in ("running", "hung")

    @property
    def corosync_frozen(self) -> bool:
        return self.up and (self.hung or self.services["corosync"] == "hung")

    @property
    def corosync_talks(self) -> bool:
        return self.up and not self.hung and self.services["corosync"] == "running"

    def runs(self, service: str) -> bool:
        """Whether a service does its work."""
        return self.up and not self.hung and self.services[service] == "running"

    def later(self, delay: float, action: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call `action` after `delay`, unless the machine has gone down (or been started anew) by then."""
        return self._world.later(delay, self._if_same_life, self.boot_id, action, args)

    def bound(self, action: Callable[..., object], *args: Any) -> Callable[[], object]:
        """`action` with its arguments, as something that does nothing in another life of the machine."""
        return functools.partial(self._if_same_life, self.boot_id, action, args)

    def _if_same_life(self, boot_id: int, action: Callable[..., object], args: tuple[Any, ...]) -> None:
        if self.boot_id == boot_id and self.powered:
            action(*args)

    @property
    def timer_looked_ago(self) -> float:
        """Seconds since the timer last fired, as every 10 s."""
        return (self._world.now() - self.up_since) % 10.0 if self.up_since > -math.inf else 5.0

    def next_pid(self) -> int:
        self._next_pid += 1
        return self._next_pid

    @property
    def ticks(self) -> int:
        return round((self._world.now() - self.booted_at) * 100)

    # Power

    def power_on(self) -> None:
        """Power up and boot."""
        if self.powered or not self._world.pdus.fed(self.name):
            return
        self.powered = True
        self.boot_id += 1
        self.booted_at = self._world.now()
        self._world.say(self.name, "power on")
        self.later(self.about.boot_seconds, self.booted)
        self._world.changed()

    def booted(self) -> None:
        """Services start; the beginning of a world calls this directly."""
        self.up, self.hung, self.planned = True, False, ""
        self.up_since = self._world.now()
        self.services = dict.fromkeys(SERVICES, "running")
        self._world.say(self.name, "booted")
        self._world.node_up(self)
        self._world.changed()

    def power_off(self, why: str = "power off") -> None:
        """Everything on it ends at once."""
        if not self.powered:
            return
        self.powered = self.up = self.hung = False
        self.planned = ""
        self.dark_since = self._world.now()
        self.went_attached = self.services["pmxcfs"] == "running"
        self.services = dict.fromkeys(SERVICES, "stopped")
        self.feed_watchdog(None)
        self.starting.clear()
        self.run_files.clear()
        self._world.say(self.name, why)
        for process in list(self.processes.values()):
            self._world.guests.end(process, "lost its machine", quiet=True)
        self._world.node_down(self)
        self._world.changed()

    def reset(self, why: str) -> None:
        """Power cycle from within: off and on again at once."""
        self.power_off(why)
        self.power_on()

    def feed_watchdog(self, seconds: float | None) -> None:
        """Reset the machine in `seconds` unless fed again; None: close the watchdog."""
        if self._watchdog:
            self._watchdog.cancel()
        self._watchdog = None if seconds is None else self.later(seconds, self.reset, "reset by its watchdog")

    @property
    def watchdog_armed(self) -> bool:
        return self._watchdog is not None

    @property
    def uptime(self) -> float:
        return self._world.now() - self.booted_at if self.up else 0.0
