"""What pveha promises of single guests, held against the truth at every event.

*Reported is true*: when a ProtectedVM's status says that a failover is complete, a process able to write has
run at the node that it names. *In time*: a guest of a dead node that has capacity and proof runs again within
its bound.
"""

import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pveha.api import protectedvm
from pveha.model import cluster, guests, kubernetes, mark
from pveha.sim import machine, rig, wires

if TYPE_CHECKING:
    from pveha.sim import invariants

RUNS_AGAIN_SECONDS = 40.0
"""From the moment at which nothing stands in the way of a guest's recovery until it runs: some 10 s after a
power cut, 15 s more if its BMC has to be told twice. Native HA begins after 60 s."""
STEADY_SECONDS = 400.0
"""So long no other node was away: one that returns is a target only after 120 s, and after a storm pveha
rests for 300 s."""
LEADING_SECONDS = 30.0
"""A new leader opens an epoch, looks, and lets its predecessor's requests land."""
FLAPS_SECONDS = 3600.0
"""A node that was lost twice in this time may be quarantined."""
SEEN_SECONDS = 15.0
"""What a later leader finds running, and reports, may be so old."""
SKEW_SECONDS = 5.0
"""A clock that is wrong by more makes timestamps of HA useless for a while."""
FLUSHED_SECONDS = 40.0
"""Native HA was alive when the node was lost: only then its records can be trusted (S7)."""
NATIVE_AHEAD = frozenset({"fence", "recovery", "error", "freeze", "migrate", "relocate"})


class Promises:
    """Watches a rig, and tells `Invariants` of what was not kept."""

    def __init__(self, watched: rig.Rig, truth: "invariants.Invariants") -> None:
        self._rig = watched
        self._world = watched.world
        self._truth = truth
        self._due: dict[int, float] = {}
        """Guests that nothing keeps from running, since when."""
        self._told: set[tuple[str, str]] = set()
        self._was: dict[int, cluster.HAState] = {}
        """What each guest was to be again when it was last disowned: one that was stopped stays so."""
        self._away: dict[str, float] = {}
        """When a node was last away."""
        self._losses: dict[str, list[float]] = {}
        self._absent: set[str] = set()
        self._leader: object = None
        self._leads_since = 0.0
        watched.kubernetes.watchers.append(self._reported)
        watched.on_line(self._disturbed)
        watched.on_effect(self._sent)

    # Reported is true

    def _sent(self, effect: wires.Effect) -> None:
        found = mark.parse(effect.resource.comment).mark if effect.resource is not None else None
        ref = guests.parse_sid(effect.subject) if found is not None else None
        if found is not None and ref is not None:
            self._was[ref.vmid] = found.was

    def _reported(self, event: str, obj: kubernetes.Manifest) -> None:
        if obj["kind"] != "ProtectedVM" or event == "DELETED":
            return
        last = obj.get("status", {}).get("lastFailover")
        if not last or not last.get("completionTime"):
            return
        done = protectedvm.LastFailover.model_validate(last)
        key = (str(obj["metadata"]["name"]), f"{done.id} {done.to} {done.completion_time}")
        if key in self._told or done.completion_time is None:
            return
        self._told.add(key)
        vmid = int(obj["spec"]["vmid"])
        stays_stopped = self._was.get(vmid, cluster.HAState.STARTED) is not cluster.HAState.STARTED
        if not stays_stopped and not self._ran(vmid, done.to, done.completion_time):
            text = f"guest {vmid} is reported recovered on {done.to}, where it has not run"
            self._truth.violated("reported is true", text)

    def _ran(self, vmid: int, on: str, completed: datetime.datetime) -> bool:
        """Whether a process of the guest could write on a node at, or just before, a time."""
        at = completed.timestamp() - self._world.config.start_timestamp - SEEN_SECONDS
        return any(
            interval.node == on and (interval.end is None or interval.end >= at)
            for interval in self._world.uptime(vmid)
        )

    # In time

    def look(self) -> None:
        """Something happened: see who could be recovered from now on, and who could be before."""
        now = self._world.now()
        found = self._could_be_recovered(now)
        for vmid in found - self._due.keys():
            self._world.at(now + RUNS_AGAIN_SECONDS, self._judge, vmid, now)
        self._due = {vmid: self._due.get(vmid, now) for vmid in sorted(found)}

    def _judge(self, vmid: int, since: float) -> None:
        still = self._could_be_recovered(self._world.now())
        if self._due.get(vmid) == since and vmid in still:
            text = f"guest {vmid} could have been recovered since {since:.1f} and does not run"
            self._truth.violated("runs again in time", text)

    def _disturbed(self, line: str) -> None:
        """A line of the timeline: its bound begins anew for every guest."""
        self._due.clear()

    def _could_be_recovered(self, now: float) -> set[int]:
        self._follow(now)
        lost = "" if self._cramped() else self._lost(now)
        return set(self._recoverable(lost)) if lost else set()

    def _cramped(self) -> bool:
        """Whether a guest may not find room, so that nobody is promised to run again."""
        about = self._world.config
        return min(node.memory for node in about.nodes) < sum(guest.memory for guest in about.guests)

    def _follow(self, now: float) -> None:
        leader = self._rig.leader()
        who = leader.term if leader is not None else None
        if who is not self._leader:
            self._leader, self._leads_since = who, now
            self._due.clear()
        present = self._truth.majority()
        for name in self._world.machines:
            if name in present:
                self._absent.discard(name)
                continue
            self._away[name] = now
            if name not in self._absent:
                self._absent.add(name)
                self._losses.setdefault(name, []).append(now)

    def _lost(self, now: float) -> str:
        """The only node that is away, dead and provable, in a data centre that is otherwise whole, or an
        empty string."""
        world, away = self._world, sorted(self._absent)
        if len(away) != 1 or not self.operable(now):
            return ""
        name, on = away[0], world.machines[away[0]]
        recent = [at for at in self._losses[name] if now - at < FLAPS_SECONDS]
        dead = not on.powered or on.hung
        if not dead or self._truth.planned(name) or len(recent) > 1 or not self._provable(name, now):
            return ""
        if not self.whole_but(name, now):
            return ""
        manager = world.newest.manager
        flushed = manager.timestamp - world.config.start_timestamp >= recent[-1] - FLUSHED_SECONDS
        return name if flushed and not manager.disarm_state else ""

    def whole_but(self, name: str, now: float) -> bool:
        """Whether all other nodes are there with all their services, and have been for long."""
        for other, there in self._world.machines.items():
            quiet = now - self._away.get(other, float("-inf")) > STEADY_SECONDS
            served = all(map(there.runs, machine.SERVICES)) and there.node_shell == "installed"
            if other != name and not (quiet and served and not self._truth.planned(other)):
                return False
        return True

    def _provable(self, name: str, now: float) -> bool:
        """Whether its BMC can prove a node off, or a person's word does because every device is silent."""
        world = self._world
        bmc = world.bmcs.by_name.get(name)
        if world.machines[name].about.chassis:
            return False
        silent = (bmc is None or not bmc.alive) and world.pdus.names <= world.pdus.dead
        if silent:
            return not world.machines[name].powered and self._truth.words.count(name)
        sound = (
            bmc is not None
            and bmc.alive
            and not (
                bmc.refuses
                or bmc.lies
                or bmc.reads_off
                or bmc.dies_with_node
                or bmc.delay
                or bmc.busy_until > now
            )
        )
        right = bmc is not None and bmc.machine == name and world.pdus.fed(name)
        return sound and right and self._bound(name)

    def operable(self, now: float) -> bool:
        """Whether somebody leads, may act and reaches everything, and no part of the network is cut."""
        world, leader = self._world, self._rig.leader()
        return (
            leader is not None
            and now - self._leads_since > LEADING_SECONDS
            and not self._truth.forbidden
            and not self._truth.native
            and self._truth.owned
            and not (leader.wire.kubernetes_down or leader.wire.kubernetes_loses_answers or leader.deaf)
            and leader.wire.stands_still_until < now
            and not (world.operator_cut or world.deaf or world.isolated or world.links_down)
            and not (world.storage.cut or world.lagging or world.guests.failing)
            and not (world.membership.expected_override or world.membership.unsafe_options)
            and not any(abs(node.clock_skew) > SKEW_SECONDS for node in world.machines.values())
            and not self._truth.kept_away
            and not self._truth.upgrades.under_way
            and world.membership.qdevice.is_sound
        )

    def _bound(self, name: str) -> bool:
        bindings = self._rig.cluster_status().status.bindings
        return any(
            each.name == name and each.identities and method.name == "bmc" and not method.voided
            for each in bindings
            for method in each.methods
        )

    def _recoverable(self, lost: str) -> Iterator[int]:
        tree = self._world.newest
        for vmid, file in tree.guests.items():
            resource, service = tree.resources.get(file.ref.sid), tree.manager.services.get(file.ref.sid)
            if (
                file.lock
                or resource is None
                or self._world.storage.is_locked(file)
                or not self._protected(file.ref)
                or self._is_started_later(file.ref, lost)
                or self._bound_by_wish(file.ref)
            ):
                continue
            found = mark.parse(resource.comment).mark
            ignored = resource.state is cluster.HAState.IGNORED
            claimed = found is not None and ignored and not self._has_run(vmid, file.node, lost)
            if (found is not None and found.hold) or not (file.node == lost or claimed):
                continue
            if any(self._runs(vmid, name) for name in self._world.machines if name != lost):
                continue
            ahead = service is not None and service.state in NATIVE_AHEAD
            if self._truth.succession.may_wait(vmid):
                continue
            if _wanted(resource) is cluster.HAState.STARTED and not ahead:
                yield vmid

    def _has_run(self, vmid: int, on: str, lost: str) -> bool:
        """Whether it has run there since the loss: if it does not any more, nobody has promised to start it
        before native HA has it again."""
        since = self._losses[lost][-1]
        return any(run.node == on and run.start >= since for run in self._world.uptime(vmid))

    def _is_started_later(self, ref: guests.GuestRef, lost: str) -> bool:
        """Whether it did not run when its node was lost, and its owner has told native HA to start it since:
        that is no recovery, and native HA does so in its own time."""
        since = self._losses[lost][-1] - SEEN_SECONDS
        ran = any(run.end is None or run.end >= since for run in self._world.uptime(ref.vmid))
        return not ran and self._truth.set_by_user.get(ref.sid, 0.0) >= since

    def _bound_by_wish(self, ref: guests.GuestRef) -> bool:
        """Whether there may be no node for it, because of what is wished, of an HA rule, or of where its
        replicas are and how old."""
        rules = self._world.newest.rules.values()
        bound = ref.vmid in self._rig.wishes or ref.vmid in self._world.replicas.points
        return bound or any(ref.sid in rule.sids for rule in rules)

    def _runs(self, vmid: int, on: str) -> bool:
        process = self._world.machines[on].processes.get(vmid)
        return process is not None and process.state == "running"

    def _protected(self, ref: guests.GuestRef) -> bool:
        try:
            self._rig.guest_status(ref.vmid)
        except KeyError:
            return False
        return True


def _wanted(resource: cluster.HAResource) -> cluster.HAState:
    """The state that the resource's owner wants, whatever pveha's mark makes of it meanwhile."""
    found = mark.parse(resource.comment).mark
    ignored = resource.state is cluster.HAState.IGNORED
    return found.was if found is not None and ignored else resource.state
