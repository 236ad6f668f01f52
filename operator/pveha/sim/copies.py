"""Whose doing it is that a guest has two writers: some copies a person makes, some native HA
(docs/safety.md, "What is not covered").

Exactly these are told apart, by how the configuration last came to where the second copy runs:

    a person   moved the file by hand; or native HA did, while or soon after some part of the cluster was
               quorate by nothing but votes that a person had lowered: its CRM fences the rest, and goes on
               with that when the parts join again; or native HA started it in a part that only such votes
               had made quorate, from an `/etc/pve` of before the guest was moved away, and pveha had touched
               nothing of the guest since; or confirmed that a node is off which is not, while neither it nor
               its BMC could be asked
    native HA  moved it from a node whose LRM was not active, which no watchdog resets
    a fork     took back where it was moved to: a node that was off meanwhile booted alone, quorate by a
               QDevice's vote, and went on from the `/etc/pve` of before. It starts what was on it then, and
               when the nodes join, one of them loses what it has written; so does native HA's recovery there

Where native HA recovers a guest, or a migration takes its file, beside copies of somebody, these stay his.
Whatever else pveha moved is pveha's, and so is what it moves while history is forked; so is what it gave to
native HA on a node whose LRM has not been active since (S11), and everything else.
"""

import dataclasses

from pveha.model import cluster, guests, mark
from pveha.sim import rig, wires, words

PERSON = "a person"
NATIVE = "native HA"
FORK = "a forked history"
LEFTOVERS = frozenset({"inmigrate", "paused", "postmigrate"})
"""States of the processes of a migration that did not come to its end."""
LOWERED_SECONDS = 240.0
"""How long after a node was last quorate by lowered votes native HA may still recover its guests: it waits
60 s, and then up to 120 s for the node's lock."""


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """A configuration that went from one node to another."""

    source: str
    target: str
    doer: str
    """Who makes the second copy if the guest still runs on `source`; empty: pveha."""
    at: float
    by: str
    """`crm`, `migration` (also of a stopped guest), `user`, or the command line of pveha-node."""


@dataclasses.dataclass(frozen=True, slots=True)
class Alone:
    """A node that is quorate by lowered votes alone."""

    since: float
    left_behind: frozenset[int]
    """Guests that were moved away from it, and that native HA starts on it all the same: its `/etc/pve` is of
    before, and has them there, `started`."""


class Copies:
    """Watches a world's configurations, votes and watchdogs."""

    def __init__(self, watched: rig.Rig, said: words.Words) -> None:
        self._words = said
        self._world = about = watched.world
        self._last: dict[int, Move] = {}
        self._arrived: dict[tuple[int, str], Move] = {}
        """How a guest last came to a node: parts that lowered votes have made quorate each recover it."""
        self._left: dict[tuple[int, str], Move] = {}
        """How it last left one."""
        self._taken_over: dict[int, float] = {}
        """When pveha last moved a guest."""
        self._lowered = float("-inf")
        """When a node was last quorate by lowered votes alone."""
        self._alone: dict[str, Alone] = {}
        self._from_before: dict[tuple[int, str], tuple[float, float]] = {}
        """Processes of guests that were left behind, by vmid and node: when each was started, and when its
        node came to be quorate by lowered votes alone."""
        self._touched: dict[int, float] = {}
        """When pveha last sent something about a guest."""
        self._unguarded: dict[int, str] = {}
        """Guests that pveha has put, or given back to native HA, on a node whose watchdog has not been armed
        since."""
        about.on_move(self._moved)
        about.on_change(self._look)
        watched.on_effect(self._sent)

    def doer(self, vmid: int, nodes: tuple[str, ...]) -> str:
        """Who but pveha made the guest write from `nodes`, or an empty string."""
        last = self._last.get(vmid)
        if last is not None and last.at < self._world.fs.forked_at:
            return FORK
        if last is None or last.target not in nodes:
            return ""
        if any(self._is_from_before(vmid, name, last) for name in nodes):
            return PERSON
        others = [name for name in nodes if name not in (last.source, last.target)]
        doers = [self._maker(vmid, name) for name in others]
        innocent = last.by in ("crm", "migration") and last.source not in nodes
        return "" if not all(doers) else doers[0] if innocent else last.doer

    def _maker(self, vmid: int, node: str) -> str:
        """Who but pveha brought a guest to a node, or else moved its file away from there while it ran."""
        came, left = self._arrived.get((vmid, node)), self._left.get((vmid, node))
        if came is not None and came.doer:
            return came.doer
        return left.doer if left is not None and (came is None or came.at < left.at) else ""

    def left_alone(self, vmid: int, node: str) -> bool:
        """Whether what a broken migration has left on a node, unable to write, stays there: native HA and
        people end nothing elsewhere, and pveha only what it finds when it moves the guest (S17)."""
        file, process = self._world.newest.guests.get(vmid), self._world.machines[node].processes.get(vmid)
        if file is None or process is None or node == file.node or process.state not in LEFTOVERS:
            return False
        return process.started_at > self._taken_over.get(vmid, float("-inf"))

    def left_running(self, vmid: int, node: str) -> bool:
        """Whether a person or native HA has moved a guest's file away from a node on which it ran, and runs:
        had it been started elsewhere there would be a copy that is theirs, and one that is to be stopped is
        held to be so. Nobody looks for what runs where no file is."""
        file, process = self._world.newest.guests.get(vmid), self._world.machines[node].processes.get(vmid)
        left = self._left.get((vmid, node))
        if file is None or process is None or left is None or node == file.node:
            return False
        return bool(left.doer) and process.started_at <= left.at

    def _is_from_before(self, vmid: int, node: str, last: Move) -> bool:
        """Whether native HA alone has started what runs there, on a state that lowered votes made quorate."""
        process = self._world.machines[node].processes.get(vmid)
        found = self._from_before.get((vmid, node))
        if process is None or found is None or found[0] != process.started_at:
            return False
        return max(last.at, self._touched.get(vmid, last.at)) < found[1]

    def _sent(self, effect: wires.Effect) -> None:
        resource = effect.resource
        about = guests.parse_sid(effect.subject)
        for vmid in (*effect.vmids, *([about.vmid] if about is not None else [])):
            self._touched[vmid] = self._world.now()
        if resource is None or resource.state is not cluster.HAState.STARTED:
            return
        ref = guests.parse_sid(resource.sid)
        file = self._world.newest.guests.get(ref.vmid) if ref is not None else None
        if file is not None and mark.parse(resource.comment).mark is not None:
            self._unguarded[file.ref.vmid] = file.node

    def _look(self) -> None:
        machines = self._world.machines
        for vmid in [vmid for vmid, name in self._unguarded.items() if machines[name].watchdog_armed]:
            del self._unguarded[vmid]
        members = self._world.membership
        if not members.is_lowered:
            self._alone.clear()
            return
        needed = members.configured // 2 + 1
        for name in members.rings:
            if not members.quorate(name) or members.total(name) >= needed:
                self._alone.pop(name, None)
                continue
            self._lowered = self._world.now()
            if name not in self._alone:
                self._alone[name] = Alone(self._lowered, self._left_behind(name))
            alone = self._alone[name]
            for vmid in alone.left_behind & machines[name].processes.keys():
                started_at = machines[name].processes[vmid].started_at
                if started_at >= alone.since:
                    self._from_before[vmid, name] = (started_at, alone.since)

    def _left_behind(self, node: str) -> frozenset[int]:
        tree = self._world.fs.trees[node]
        return frozenset(
            vmid
            for vmid, last in self._last.items()
            if last.target != node
            and (file := tree.guests.get(vmid)) is not None
            and file.node == node
            and (resource := tree.resources.get(file.ref.sid)) is not None
            and resource.state is cluster.HAState.STARTED
            and mark.parse(resource.comment).mark is None
        )

    def _moved(self, vmid: int, source: str, target: str, by: str) -> None:
        move = Move(source, target, self._doer(vmid, source, by), self._world.now(), by)
        self._last[vmid] = self._arrived[vmid, target] = self._left[vmid, source] = move
        if by.startswith("pveha-node"):
            self._unguarded[vmid] = target
            self._taken_over[vmid] = self._world.now()

    def _doer(self, vmid: int, source: str, by: str) -> str:
        on = self._world.machines[source]
        if by == "user" or (by.startswith("pveha-node") and self._words.count(source)):
            return PERSON
        if by != "crm":
            return ""
        if self._world.fs.diverging:
            return FORK
        self._look()
        if self._world.now() - self._lowered <= LOWERED_SECONDS:
            return PERSON
        ours = vmid not in on.processes or on.watchdog_armed or self._unguarded.get(vmid) == source
        return "" if ours else NATIVE
