"""Corosync: who sees whom, after which timeouts, and who has quorum.

A membership ("ring") is a set of nodes that all reach each other. A lost member shows after token loss and
consensus; until then its ring is unsettled and pmxcfs writes wait. A member that comes back shows `rejoin`
seconds later. With a QDevice (`qdevice`) a new membership also waits for its word.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pveha.sim import config, qdevice

if TYPE_CHECKING:
    from pveha.sim import world as worlds

UNSAFE_OPTIONS = ("two_node", "last_man_standing", "auto_tie_breaker", "allow_downscale")
SETTINGS = (*UNSAFE_OPTIONS, "expected_votes", "token", "token_coefficient")
"""Fields of `config.Corosync` that can change while the cluster runs."""


class Membership:
    """The corosync of every node of a world."""

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        self._options = world.config.corosync
        self.rings: dict[str, frozenset[str]] = {name: frozenset() for name in world.machines}
        """The membership each node believes in; empty while its corosync does not run."""
        self.votes = {node.name: node.votes for node in world.config.nodes}
        self.qdevice = qdevice.Qdevice(world, world.config.qdevice)
        self.expected_override = 0
        """What somebody typed after `pvecm expected`; 0 for nothing."""
        self.separated_at: dict[tuple[str, str], float] = {}
        """(witness, node): when the node left the witness's membership."""
        self.joined_at: dict[str, float] = {}
        self._broken_since: dict[str, float] = {}
        self._joinable_since: dict[str, float] = {}
        self._waiters: list[Callable[[], object]] = []

    # What a node believes

    def sees(self, witness: str, node: str) -> bool:
        """Whether `witness` shows `node` as online (its corosync in the ring, its pmxcfs attached)."""
        machine = self._world.machines[node]
        if node == witness:
            return bool(self.rings[witness])
        attached = machine.services["pmxcfs"] == "running" if machine.up else machine.went_attached
        return node in self.rings[witness] and attached

    def quorate(self, node: str) -> bool:
        return bool(self.rings[node]) and self.total(node) >= self.quorum

    def total(self, node: str) -> int:
        """The votes that a node counts."""
        given = self.qdevice.votes if node in self.qdevice.counted else 0
        return sum(self.votes[name] for name in self.rings[node]) + given

    @property
    def configured(self) -> int:
        """The votes of all nodes and the QDevice."""
        return sum(self.votes.values()) + self.qdevice.votes

    @property
    def expected(self) -> int:
        """Live expected votes."""
        return self.expected_override or self._options.expected_votes or self.configured

    @property
    def quorum(self) -> int:
        return 1 if self._options.two_node else self.expected // 2 + 1

    @property
    def is_lowered(self) -> bool:
        """Whether fewer votes make a quorum than exclude a second one."""
        return self.quorum < self.configured // 2 + 1

    def settled(self, node: str) -> bool:
        """Whether the node's ring is intact, so that pmxcfs writes from it do not wait.

        One that its members have left for another (the node stood still meanwhile) never is again.
        """
        machine, ring = self._world.machines[node], self.rings[node]
        return not machine.corosync_frozen and not any(
            peer in self._broken_since or self.rings[peer] != ring for peer in ring
        )

    def left_behind(self, node: str) -> bool:
        """Whether members of the node's ring have another one by now: it stood still meanwhile, and nobody
        takes its writes."""
        ring = self.rings[node]
        return any(self.rings[peer] and self.rings[peer] != ring for peer in ring)

    def stays_quorate(self, node: str) -> bool:
        """Whether those that are left of the node's ring make a quorum without who has died or left since:
        what is written there, and waits, is done when they have agreed on their next one."""
        ring = self.rings[node]
        gone = sum(self.votes[peer] for peer in ring if self.rings[peer] != ring)
        return bool(ring) and self.total(node) - gone >= self.quorum

    @property
    def unsafe_options(self) -> frozenset[str]:
        """Options with which quorum does not exclude a second quorate membership."""
        options = {name for name in UNSAFE_OPTIONS if getattr(self._options, name)}
        if self._options.expected_votes:
            options.add("expected_votes")
        return frozenset(options)

    async def changed(self) -> None:
        """Wait for the next change of any membership or of its being settled."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_next_change(lambda: None if waiter.done() else waiter.set_result(None))
        await waiter

    def on_next_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, at the next change of any membership or of its being settled."""
        self._waiters.append(callback)

    # What happens

    def touch(self) -> None:
        """Something about links, power or corosync changed: start or stop the timers that follow from it."""
        now = self._world.now()
        self.qdevice.follow()
        for clique in self._cliques():
            for name in clique:
                ring = self.rings[name] = self.rings[name] or frozenset({name})
                if ring - clique:
                    self._broken_since.setdefault(name, now)
                else:
                    self._broken_since.pop(name, None)
                if clique - ring:
                    self._joinable_since.setdefault(name, now)
                else:
                    self._joinable_since.pop(name, None)
            self._plan(clique, now)
        for name, machine in self._world.machines.items():
            if not machine.corosync_talks:
                self._joinable_since.pop(name, None)
                self._broken_since.pop(name, None)
                if not machine.corosync_runs:
                    self.rings[name] = frozenset()
        self._wake()

    def configure(self, option: str, value: int) -> None:
        """Somebody edits corosync.conf, and corosync takes it over."""
        old = getattr(self._options, option)
        self._options = dataclasses.replace(self._options, **{option: type(old)(value)})
        self._world.say("corosync", f"{option}: {value}")
        self.touch()

    def leave(self, name: str) -> None:
        """An orderly stop of corosync: the others know at once."""
        self.qdevice.follow()
        for other in sorted(self.rings[name] - {name}):
            if name in self.rings[other] and self._world.machines[other].corosync_talks:
                self._apply(frozenset(self.rings[other] - {name}))
        self.rings[name] = frozenset()
        self.touch()

    def _plan(self, clique: frozenset[str], now: float) -> None:
        """Set a timer for the moment at which `clique` becomes the membership of its nodes, if it is not
        already."""
        due = self._due_at(clique)
        if due is not None:
            self._world.at(due, self._due, clique)

    def _due(self, clique: frozenset[str]) -> None:
        if clique not in self._cliques() or all(self.rings[name] == clique for name in clique):
            return
        due = self._due_at(clique) or 0.0
        if due <= self._world.now() + 1e-6:
            self._apply(clique)
            self.touch()
        elif self.qdevice.votes:
            self._world.at(due, self._due, clique)

    def _due_at(self, clique: frozenset[str]) -> float | None:
        """When `clique` becomes the membership of its nodes; None if nothing of theirs changes."""
        broken = [self._broken_since[name] for name in clique if name in self._broken_since]
        joinable = [self._joinable_since[name] for name in clique if name in self._joinable_since]
        if broken:
            formed_at = max(broken) + self._options.loss_seconds(len(clique))
            return self.qdevice.answers_at(clique, formed_at)
        return max(joinable) + self._world.timings.rejoin if joinable else None

    def is_forming(self, name: str) -> bool:
        """Whether a node has lost members and has no membership without them yet."""
        return name in self._broken_since

    def votes_changed(self) -> None:
        """The QDevice has heard from, or lost, a node."""
        before = {name: self.quorate(name) for name in self.rings}
        talking = [name for name, machine in self._world.machines.items() if machine.corosync_talks]
        parts = {self.rings[name] for name in talking}
        if all(
            self.rings[peer] == self.rings[name] for name in talking for peer in self.rings[name] & {*talking}
        ):
            self.qdevice.decide(sorted(parts, key=sorted))
        for ring in sorted(parts, key=sorted):
            if ring and self.quorate(min(ring)) != before[min(ring)]:
                self._look_for_fork(ring)
                self._tell(ring)
        self._wake()
        self._world.changed()

    def _look_for_fork(self, ring: frozenset[str]) -> None:
        if self.qdevice.votes and any(map(self.quorate, ring)):
            self._world.fs.note_fork(ring)

    def _tell(self, ring: frozenset[str]) -> None:
        word = "quorate" if any(map(self.quorate, ring)) else "not quorate"
        self._world.say("corosync", f"membership {' '.join(sorted(ring))} ({word})")

    def _parts(self, formed: frozenset[str]) -> list[frozenset[str]]:
        """Memberships, and for nodes that `formed` has just left behind what they are about to become."""
        left = {name: clique for clique in self._cliques() for name in clique}
        parts = {
            left[name] if self.rings[name] & formed and name not in formed else self.rings[name]
            for name in left
        }
        return sorted(parts, key=sorted)

    def _apply(self, ring: frozenset[str]) -> None:
        now = self._world.now()
        present = max((self.rings[name] & ring for name in sorted(ring)), key=len)
        for name in sorted(ring):
            old, self.rings[name] = self.rings[name], ring
            for lost in old - ring:
                self.separated_at[name, lost] = now
            for new in ring - old:
                self.separated_at.pop((name, new), None)
            if name not in present:
                self.joined_at[name] = now
            self._broken_since.pop(name, None)
            self._joinable_since.pop(name, None)
        self.qdevice.decide(self._parts(ring), ring)
        self._world.fs.split(ring)
        self._look_for_fork(ring)
        self._tell(ring)
        self._wake()
        self._world.changed()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            self._world.later(0.0, waiter)

    def _cliques(self) -> list[frozenset[str]]:
        """Nodes that talk, in groups that all reach each other. A node keeps to those it already is together
        with."""
        left = [name for name, machine in self._world.machines.items() if machine.corosync_talks]
        cliques = []
        while left:
            best: frozenset[str] = frozenset()
            for first in left:
                ring = self.rings[first]
                group = [first]
                for other in sorted(
                    left, key=lambda name: (name not in ring, self._world.machines[name].nodeid)
                ):
                    if other != first and all(self._world.linked(other, member) for member in group):
                        group.append(other)
                if len(group) > len(best):
                    best = frozenset(group)
            cliques.append(best)
            left = [name for name in left if name not in best]
        return cliques

    # Files made of it

    def members_file(self, node: str) -> dict[str, Any]:
        """`.members` as `node` reads it."""
        nodes = self._world.config.nodes
        listed = {
            n.name: {"id": n.nodeid, "online": int(self.sees(node, n.name)), "ip": n.address} for n in nodes
        }
        about = {"name": self._world.config.cluster_name, "version": len(nodes), "nodes": len(nodes)}
        about["quorate"] = int(self.quorate(node))
        return {"nodename": node, "version": len(self.separated_at) + 1, "cluster": about, "nodelist": listed}

    def corosync_conf(self) -> str:
        """`corosync.conf`."""
        entries = "".join(
            f"  node {{\n    name: {n.name}\n    nodeid: {n.nodeid}\n"
            f"    quorum_votes: {n.votes}\n    ring0_addr: {n.address}\n  }}\n"
            for n in self._world.config.nodes
        )
        token = f"  token: {self._options.token}\n" if self._options.token != config.Corosync().token else ""
        flags = "".join(f"  {name}: 1\n" for name in UNSAFE_OPTIONS if getattr(self._options, name))
        if self._options.expected_votes:
            flags += f"  expected_votes: {self._options.expected_votes}\n"
        return (
            f"logging {{\n  debug: off\n  to_syslog: yes\n}}\n\nnodelist {{\n{entries}}}\n\n"
            f"quorum {{\n{self._device_section()}  provider: corosync_votequorum\n{flags}}}\n\n"
            f"totem {{\n  cluster_name: {self._world.config.cluster_name}\n"
            f"  config_version: {len(self.votes)}\n  interface {{\n    linknumber: 0\n  }}\n"
            "  ip_version: ipv4-6\n  link_mode: passive\n  secauth: on\n"
            f"{token}  token_coefficient: {self._options.token_coefficient}\n  version: 2\n}}\n"
        )

    def _device_section(self) -> str:
        """What `pvecm qdevice setup` adds for an even number of nodes (its source; not recorded)."""
        if not self.qdevice.votes:
            return ""
        return (
            "  device {\n    model: net\n    net {\n      algorithm: ffsplit\n"
            f"      host: {self.qdevice.host}\n      tls: on\n    }}\n    votes: {self.qdevice.votes}\n  }}\n"
        )

    def quorumtool(self, node: str) -> str:
        """Output of `corosync-quorumtool -s` on `node`.

        With a QDevice as in Proxmox's documentation of `pvecm status` and in the tool's source, not recorded:
        a column with each node's flags (alive, votes, no master wins) and a line of the QDevice itself.
        """
        ring = self.rings[node]
        quorate = self.quorate(node)
        flags = " ".join(
            ["Quorate"] * quorate + [{"two_node": "2Node"}.get(f, f) for f in sorted(self.unsafe_options)]
        )
        if self.qdevice.votes:
            flags = f"{flags} Qdevice".strip()
        rows = "".join(
            f"{n.nodeid:>10}{n.votes:>11} {self._device_flags(n.name)}{n.name}"
            f"{' (local)' if n.name == node else ''}\n"
            for n in self._world.config.nodes
            if n.name in ring
        )
        if self.qdevice.votes:
            given = self.qdevice.votes if node in self.qdevice.counted else 0
            told = "" if given else f" (votes {self.qdevice.votes})"
            rows += f"{0:>10}{given:>11} {'':10} Qdevice{told}\n"
        column = f"{'Qdevice':>10} " if self.qdevice.votes else ""
        activity = "" if quorate else " Activity blocked"
        return (
            "Quorum information\n------------------\n"
            f"Quorum provider:  corosync_votequorum\nNodes:            {len(ring)}\n"
            f"Node ID:          0x{self._world.machines[node].nodeid:08x}\n"
            f"Ring ID:          1.{len(self.separated_at) + 1:x}\n"
            f"Quorate:          {'Yes' if quorate else 'No'}\n\n"
            "Votequorum information\n----------------------\n"
            f"Expected votes:   {self.expected}\nHighest expected: {self.expected}\n"
            f"Total votes:      {self.total(node)}\n"
            f"Quorum:           {self.quorum}{activity}\n"
            f"Flags:            {flags}\n\nMembership information\n----------------------\n"
            f"    Nodeid      Votes {column}Name\n{rows}"
        )

    def _device_flags(self, node: str) -> str:
        if not self.qdevice.votes:
            return ""
        alive = "A" if self.qdevice.connected(node) else "NA"
        voting = "V" if node in self.qdevice.counted else "NV"
        return f"{f'{alive},{voting},NMW':>10} "
