"""What pveha owes to nodes that it has switched off: guests are taken only from them, and they are switched
on again (`fencing.afterwards`) once nothing hangs on their being off.

    pveha sends a forced off, or a person's word counts (`words`)  ->  claims of the node's guests may be sent
    no HA resource carries a mark, native HA has none of its guests  ->  the node may be switched on; where
                                                                         nothing hinders that, it is
"""

from typing import TYPE_CHECKING

from pveha.api import fencing
from pveha.model import mark
from pveha.sim import rig, wires

if TYPE_CHECKING:
    from pveha.sim import invariants

BACK_SECONDS = 5.0
"""Who is a member for a shorter time may not have been seen to be one."""
AGAIN_SECONDS = 55.0
"""One who does not come back is told to again after 300 s, or 60 s after a device of his has not answered."""
SEEN_SECONDS = 15.0
"""What became of HA resources and of the CRM's records so recently need not be known."""
LATE_SECONDS = 90.0
"""From the moment at which nothing speaks against it any more."""
LANDS_SECONDS = 10.0
"""Who has power later than so long after a forced off was switched on again by somebody, or never off."""
BEGUN = frozenset({"fence", "recovery"})
"""States of services that native HA is recovering."""


class Fenced:
    """Watches a rig, and tells `Invariants` of what should not have been done."""

    def __init__(self, watched: rig.Rig, truth: "invariants.Invariants") -> None:
        self._rig = watched
        self._world = watched.world
        self._truth = truth
        self._off: dict[str, float] = {}
        """When pveha last told a device to switch each node off, while that is away."""
        self._dark: dict[str, float] = {}
        """When each of the nodes that are away first had no power."""
        self._back: dict[str, float] = {}
        """When each node last had power."""
        self._misled: dict[str, float] = {}
        """When the BMC of a node last told of another machine: it may have seemed to have power since."""
        self._on: dict[tuple[str, str], tuple[object, float]] = {}
        """When a node was last switched on by a method since it left, and by the leader of which term."""
        self._hanging: dict[str, float] = {}
        """HA resources with a mark, and services that native HA recovers, since when."""
        self._due: dict[str, float] = {}
        """Nodes that nothing keeps from being switched on, since when."""
        self._sender: dict[str, object] = {}
        """The term of the leader that has told a device to switch the node off."""
        self._asks_for_it = self._wanted().action is fencing.Afterwards.POWER_ON

    def _wanted(self) -> fencing.AfterFencing:
        return self._rig.cluster_status().spec.fencing.afterwards

    def left(self, name: str, member_since: float) -> None:
        """A node is no member any more: what was before it was one is over."""
        if self._world.now() - member_since <= BACK_SECONDS:
            return
        for times in (self._off, self._dark):
            if times.get(name, member_since) < member_since:
                del times[name]
        if name in self._back and not self._world.machines[name].powered:
            self._dark.setdefault(name, self._back[name])
        self._on = {key: told for key, told in self._on.items() if key[0] != name}

    def look(self) -> None:
        """Something happened."""
        if not self._asks_for_it:
            return
        world, now = self._world, self._world.now()
        for name, on in world.machines.items():
            bmc = world.bmcs.by_name.get(name)
            if bmc is not None and bmc.machine != name:
                self._misled[name] = now
            if on.powered:
                self._back[name] = now
            else:
                self._dark.setdefault(name, now)
        tree = world.newest
        hanging = {
            f"{sid} carries a mark"
            for sid, resource in tree.resources.items()
            if "[pveha " in resource.comment and mark.parse(resource.comment).mark is not None
        }
        hanging |= {
            f"native HA recovers {sid} from {service.node}"
            for sid, service in tree.manager.services.items()
            if service.state in BEGUN
        }
        self._hanging = {what: self._hanging.get(what, now) for what in hanging}
        due = {name for name in self._off if self._could_be_on(name, now)}
        for name in sorted(due - self._due.keys()):
            world.later(LATE_SECONDS, self._judge, name, now)
        self._due = {name: self._due.get(name, now) for name in sorted(due)}

    def disturbed(self) -> None:
        """A line of the timeline is done: its time begins anew for every node."""
        self._due.clear()

    def _judge(self, name: str, since: float) -> None:
        if self._due.get(name) == since and self._could_be_on(name, self._world.now()):
            text = f"{name} could have been switched on since {since:.1f} and is off"
            self._truth.violated("switched on in its time", text)

    def _could_be_on(self, name: str, now: float) -> bool:
        """Whether nothing keeps a node from being switched on by the leader that has fenced it."""
        world, leader = self._world, self._rig.leader()
        on, bmc = world.machines[name], world.bmcs.by_name.get(name)
        pause = self._wanted().after_seconds
        tree = world.newest
        return (
            leader is not None
            and self._sender.get(name) is leader.term
            and not on.powered
            and bmc is not None
            and bmc.alive
            and bmc.machine == name
            and self._obeyed(name)
            and max(self._back[name], self._misled.get(name, 0.0)) <= self._off[name] + LANDS_SECONDS
            and not (bmc.refuses or bmc.lies or bmc.delay or bmc.dies_with_node)
            and world.pdus.fed(name)
            and now - max(self._off[name], self._dark.get(name, now)) > pause
            and not any(key[0] == name for key in self._on)
            and not self._hanging
            and not self._truth.announced(name)
            and not any(file.node == name for file in tree.guests.values())
            and self._truth.may_begin(name, now)
        )

    def _obeyed(self, name: str) -> bool:
        """Whether its BMC has taken the command to switch a node off."""
        return any(
            each.name == name and each.command == "off" and each.outcome == "acknowledged"
            for each in self._world.bmc_log
            if each.at >= self._off[name]
        )

    def switched_off(self, name: str) -> None:
        """pveha sends a forced off."""
        leader = self._rig.leader()
        self._off[name] = self._world.now()
        self._sender[name] = leader.term if leader is not None else None

    def claiming(self, effect: wires.Effect) -> None:
        """pveha moves guests away from a node."""
        name = effect.subject
        if name not in self._off and not self._truth.words.count(name):
            what = f"{effect.vmids} are claimed from {name}, which nobody has switched off"
            self._truth.violated("only what is proven off is left", what)

    def switching_on(self, name: str, method: str) -> None:
        """pveha sends a power on."""
        for objection in self._objections(name, method):
            self._truth.violated("switched on in its time", f"{name} is switched on {objection}")
        leader = self._rig.leader()
        self._on[name, method] = (leader.term if leader else None, self._world.now())

    def _objections(self, name: str, method: str) -> list[str]:
        world, now, wanted = self._world, self._world.now(), self._wanted()
        found = [
            f"while {what}"
            for what, since in self._hanging.items()
            if now - since > SEEN_SECONDS and (what.endswith(("mark", f" {name}")))
        ]
        if wanted.action is not fencing.Afterwards.POWER_ON:
            found.append("although it is to stay off")
        if name not in self._off:
            found.append("although pveha has not switched it off")
        if self._truth.announced(name):
            found.append("although it went down as announced")
        machine = self._machine(name, method)
        if machine != name and not world.machines[machine].powered and self._truth.bmcs_are_found_out:
            found.append(f"by a device of {machine}, which is off")
        pause, dark = wanted.after_seconds, self._dark.get(name)
        if dark is not None and now - dark < pause:
            found.append(f"{now - dark:.1f} s after it went dark, not {pause}")
        term, last = self._on.get((name, method), (None, float("-inf")))
        leader = self._rig.leader()
        if leader is not None and term is leader.term and now - last < AGAIN_SECONDS:
            found.append(f"again after {now - last:.1f} s")
        return found

    def _machine(self, name: str, method: str) -> str:
        """Which machine a method of the node really switches."""
        world = self._world
        if (method, name) in world.pdus.outlets:
            return world.pdus.outlets[method, name].machine
        return world.bmcs.by_name[name].machine
