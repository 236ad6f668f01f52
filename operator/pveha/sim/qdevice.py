"""The QDevice: a host outside the cluster that gives its vote to one part of it (corosync-qnetd), and the
daemon on each node that asks it (corosync-qdevice).

Nothing of this was recorded. It follows corosync-qdevice(8) and the sources of corosync 3.1 and
corosync-qdevice 3.0, for the algorithm that `pvecm qdevice setup` chooses with an even number of nodes,
*ffsplit*:

- The vote goes to the largest part with at least half of the nodes; of equal ones to that of which more nodes
  talk to the host, then to that with the lowest node id. A node counts it only while it talks to the host.
- A new membership whose nodes counted the vote waits for the host's word, `SYNC_SECONDS` at most, and is not
  settled until then. The host speaks when every node that it still hears tells of its new membership: at once
  if both halves live, `DROPPED_SECONDS` after its last sign if the other half is dead.
- A node that has lost the host counts the vote for `TIMEOUT_SECONDS` more: less than the host waits before it
  gives it to others.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pveha.sim import config

if TYPE_CHECKING:
    from pveha.sim import world as worlds

TIMEOUT_SECONDS = 10.0
"""quorum.device.timeout: without news from its daemon, a node no longer counts the vote."""
SYNC_SECONDS = 30.0
"""quorum.device.sync_timeout: how long a new membership waits for the vote."""
DROPPED_SECONDS = 12.0
"""After so long without a heartbeat the host takes a node for gone: 1.5 of their interval of 8 s."""
ANSWER_SECONDS = 0.1
CONNECT_SECONDS = 8.0
"""How long it may take until a node has found the host again: 0.8 of the timeout."""


class Qdevice:
    """The host, and what each node knows of it. In a world without one it has no votes and does nothing."""

    def __init__(self, world: "worlds.World", about: config.Qdevice | None) -> None:
        self._world = world
        self.votes = about.votes if about else 0
        self.host = about.host if about else ""
        self.up = about is not None
        self.cut: set[str] = set()
        """Nodes that do not reach the host, whatever else they reach."""
        self.counted: set[str] = set()
        """Nodes that count the vote."""
        self._heard: dict[str, int] = {}
        """Nodes that the host takes for connected, and in which of its lives each connected."""
        self._silent_since: dict[str, float] = {}
        self._connecting: dict[str, int] = {}
        self._chosen: frozenset[str] = frozenset()

    def begin_steady(self) -> None:
        """Every node counts the vote."""
        if self.votes:
            self._heard = {name: node.boot_id for name, node in self._world.machines.items()}
            self.counted = set(self._heard)
            self._chosen = frozenset(self._heard)

    def reached_by(self, name: str) -> bool:
        """Whether a node's packets reach the host. A node without cluster network reaches nothing."""
        world = self._world
        talks = world.machines[name].corosync_talks
        return self.up and talks and name not in self.cut and name not in world.isolated

    def connected(self, name: str) -> bool:
        """Whether a node talks to the host."""
        return self.reached_by(name) and self._heard.get(name) == self._world.machines[name].boot_id

    @property
    def is_sound(self) -> bool:
        """Whether every node could reach it; true without one."""
        return not self.votes or (self.up and not self.cut)

    # What happens

    def follow(self) -> None:
        """Something about power, links, corosync or the host has changed."""
        if not self.votes:
            return
        now = self._world.now()
        for name, machine in self._world.machines.items():
            if self.reached_by(name):
                self._silent_since.pop(name, None)
                if not self.connected(name) and self._connecting.get(name) != machine.boot_id:
                    self._connecting[name] = machine.boot_id
                    self._world.later(CONNECT_SECONDS, self._connect, name, machine.boot_id)
                continue
            self._connecting.pop(name, None)
            if not machine.corosync_runs:
                self.counted.discard(name)
            if machine.up and not machine.corosync_runs:
                self._heard.pop(name, None)
            if name in self._heard and name not in self._silent_since:
                self._silent_since[name] = now
                self._world.later(TIMEOUT_SECONDS, self._timeout, name, now)
                self._world.later(DROPPED_SECONDS, self._drop, name, now)

    def answers_at(self, part: frozenset[str], formed_at: float) -> float:
        """When a membership that was formed at a time knows whether it has the vote."""
        waiting = part & self.counted
        if not waiting:
            return formed_at
        if not any(map(self.connected, waiting)):
            return formed_at + SYNC_SECONDS
        silent = [
            self._silent_since[name] for name in self._heard.keys() - part if name in self._silent_since
        ]
        known = max([formed_at, *(since + DROPPED_SECONDS for since in silent)])
        return min(known, formed_at + SYNC_SECONDS) + ANSWER_SECONDS

    def decide(self, parts: Iterable[frozenset[str]], formed: frozenset[str] = frozenset()) -> None:
        """Give the vote to one of the parts into which the nodes that talk have fallen, or to none.

        `formed` has just become a membership: its nodes count what they are told now and nothing older.
        """
        if not self.votes:
            return
        machines = self._world.machines
        connected = set(filter(self.connected, machines))
        unclear = self._heard.keys() - connected

        def rank(part: frozenset[str]) -> tuple[int, int, int]:
            return len(part), len(part & connected), -min(machines[name].nodeid for name in part)

        candidates = [
            part
            for part in parts
            if 2 * len(part) >= len(machines) and part & connected and not unclear - part
        ]
        chosen = max(candidates, key=rank, default=frozenset[str]())
        if chosen != self._chosen:
            self._chosen = chosen
            self._world.say("qdevice", f"votes for {' '.join(sorted(chosen)) or 'nobody'}")
        self.counted = {
            name
            for name in machines
            if (name in chosen & connected) or (name in self.counted and name not in connected | formed)
        }

    def set_reach(self, name: str, *, up: bool) -> None:
        """A node (`all`: the host itself) loses, or gets back, the way to the host; KeyError without one."""
        if not self.votes:
            raise KeyError("qdevice")
        if name == "all":
            self.up, self.cut = up, set() if up else self.cut
        else:
            known = self._world.machines[name].name
            self.cut = self.cut - {known} if up else self.cut | {known}

    def heal(self, name: str = "") -> None:
        """Mend the way of a node, or of all, and the host itself."""
        if self.votes:
            self.up = self.up or not name
            self.cut = self.cut - {name} if name else set()

    def _connect(self, name: str, life: int) -> None:
        if self._connecting.get(name) == life and self.reached_by(name):
            del self._connecting[name]
            self._heard[name] = life
            self._world.membership.votes_changed()

    def _timeout(self, name: str, since: float) -> None:
        if self._silent_since.get(name) == since and not self._world.membership.is_forming(name):
            self.counted.discard(name)
            self._world.membership.votes_changed()

    def _drop(self, name: str, since: float) -> None:
        if self._silent_since.get(name) == since:
            self._heard.pop(name, None)
            self._world.membership.votes_changed()
