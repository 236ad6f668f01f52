"""What must hold whatever goes wrong, checked at every event of the world against the truth (docs/safety.md).

The operator's own idea of the world plays no part: power, processes, memberships, files are looked at
themselves.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from pveha.api import hacluster, protectedvm
from pveha.model import cluster, guests, kubernetes, mark
from pveha.sim import (
    copies,
    fenced,
    lost_data,
    machine,
    pmxcfs,
    promises,
    rig,
    succession,
    upgrades,
    wires,
    words,
)

LATE_SECONDS = 1.5
"""Truth younger than this cannot have been known when a side effect was sent (S5: re-read in the same
second)."""
STOLEN_SECONDS = 15.0
"""A Lease that is taken from its holder by hand is missed at the next renewal, and work in hand is ended."""
STEADY_SECONDS = 60.0
"""A migration that begins so long after the last line of the timeline is disturbed by nothing."""
MOVED_SECONDS = 90.0
"""A migration that was sent is over by then, the CRM's rounds included."""
MOST_DOWN_SECONDS = 5.0
"""Longer than the moment in which a VM that moves live runs on neither node."""
FORBIDDEN_SECONDS = 20.0
"""Operations begun before the user forbade new ones may still send effects for so long."""
UNDONE_SECONDS = 300.0
"""Every `ignored` of an operation is undone within this much time in which somebody could (S10)."""
IDENTITY_SECONDS = 10.0
"""A BMC that has switched another machine for longer must have been found out by what it says of itself."""
COOLDOWN_SECONDS = 300.0
"""safety.stormCooldownSeconds, as in the HACluster of every random run."""
STORM_SEEN_SECONDS = 10.0
"""A storm that lasts longer has been seen by who leads and looks."""
FLUSH_SECONDS = 15.0
"""A CRM master that works has flushed within this time."""
PLANNED_MODES = frozenset({"restart", "shutdown", "maintenance", "disarm"})
REGISTER = "priv/pveha/e"
OWNER_FILE = "priv/pveha/owner"


@dataclasses.dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold."""

    at: float
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:10.3f}  {self.rule}: {self.text}"


class Invariants:
    """Watches a rig; `violations` is what it found."""

    def __init__(self, watched: rig.Rig) -> None:
        self._rig = watched
        self._world = watched.world
        self.violations: list[Violation] = []
        self.set_by_user: dict[str, float] = {}
        """When a person last set the state of an HA resource, by service id."""
        self.lease_taken_at = float("-inf")
        """When a person last gave the Lease to somebody else."""
        self._doubles = 0
        self._majority: frozenset[str] = frozenset()
        self._majority_since = 0.0
        self._member_since: dict[str, float] = {}
        self._absent_since: dict[str, float] = {}
        self._left_at: dict[str, float] = {}
        """When the majority last lost each node, which may be back."""
        self._movers: dict[int, str] = {}
        """Who last moved each guest's configuration."""
        self._open: dict[tuple[str, str], float] = {}
        """Marks of operations, by service and operation: how long each could have been undone. That of a
        guest that waits for another is set anew from time to time."""
        self._disowned: frozenset[str] = frozenset()
        """HA resources that are ignored with a mark of ours."""
        self._history: pmxcfs.Tree | None = None
        """What was looked at last. What a forked history takes back nobody gives back."""
        self._looked = 0.0
        self._could_undo: frozenset[str] = frozenset()
        self._lines = 0
        self._forbidden: dict[str, float] = {}
        self._naming: dict[int, set[str]] = {}
        """By vmid: names of ProtectedVMs that a watch has told of."""
        self._named_since: dict[int, float] = {}
        self.kept_away: dict[str, float] = {}
        """Nodes that users have paused or drain, since when."""
        self._draining: dict[str, float] = {}
        """Those that they drain."""
        self._activated: dict[str, float] = {}
        """When users last ended the drain of a node."""
        self._line_at = 0.0
        self._swapped_at = float("-inf")
        self._migrated: dict[int, float] = {}
        """VMs of drained nodes that were sent on their way in an undisturbed world, when."""
        self._storm_since: float | None = None
        self._calm_since = float("-inf")
        """When a storm that lasted ended."""
        self._stormed: object = None
        """The term of the leader that has seen the last storm."""
        self._told: set[str] = set()
        self.copies_of_others: dict[int, str] = {}
        """Guests that came to have two writers, and who but pveha made the second."""
        self._suspected: set[str] = set()
        """HA resources of guests held because a process of theirs, which pveha does not know, is there."""
        self.upgrades = upgrades.Upgrades(watched)
        self.words = words.Words(watched, self)
        self._fenced = fenced.Fenced(watched, self)
        self._copies = copies.Copies(watched, self.words)
        self.succession = succession.Succession(watched.world, self.absent_since, self.left_at)
        self._promises = promises.Promises(watched, self)
        self._lost_data = lost_data.LostData(watched, self)
        watched.world.on_change(self._changed)
        watched.world.on_move(self._moved)
        watched.on_effect(self._effect)
        watched.on_line(self._disturbed)
        watched.kubernetes.watchers.append(self._spec_changed)

    def violated(self, rule: str, text: str) -> None:
        """Note a violation, each text once."""
        if text in self._told:
            return
        self._told.add(text)
        self.violations.append(Violation(self._world.now(), rule, text))
        self._world.say("VIOLATION", f"{rule}: {text}")

    # Truth

    def majority(self) -> frozenset[str]:
        """Members of the quorate membership that is alive, the largest if votes make several; empty
        without one."""
        members = self._world.membership

        def last(name: str) -> tuple[bool, int]:
            return members.is_forming(name), -len(members.rings.get(name, ()))

        for name in sorted(self._world.machines, key=last):
            on = self._world.machines[name]
            alive = on.corosync_talks and on.runs("pmxcfs") and not members.left_behind(name)
            if alive and members.quorate(name):
                return frozenset(each for each in members.rings[name] if members.sees(name, each))
        return frozenset()

    def may_begin(self, name: str, now: float) -> bool:
        """Whether somebody leads who may begin something about a node that is away, and sees all that he
        needs for it; no other node has been away for long."""
        return self._promises.operable(now) and self._promises.whole_but(name, now) and bool(self._majority)

    @property
    def forbidden(self) -> bool:
        """Whether its users have paused pveha, or let it only look."""
        return bool(self._forbidden)

    @property
    def owned(self) -> bool:
        """Whether the register on the Proxmox cluster names our HACluster, or nobody."""
        return self._world.newest.files.get(OWNER_FILE, rig.OWNER).strip() == rig.OWNER

    def absent_since(self, name: str) -> float | None:
        """Since when the quorate majority has been without a node, if it is."""
        return self._absent_since.get(name)

    def left_at(self, name: str, at: float) -> float:
        """When the quorate majority had lost a node that was away at the time `at`; else that time."""
        left = self._left_at.get(name, math.inf)
        return left if left <= at <= self._member_since.get(name, math.inf) else at

    @property
    def _present(self) -> pmxcfs.Tree:
        """What a side effect meets: what the quorate nodes have, which is an old state where a person has let
        them go on without those that know more by lowering the votes (seed 80001419)."""
        return self._world.fs.trees[min(self._majority)] if self._majority else self._world.newest

    @property
    def bmcs_are_found_out(self) -> bool:
        """Whether BMCs that have changed places have been for so long that what they say has told it."""
        return self._world.now() - self._swapped_at > IDENTITY_SECONDS

    def announced(self, name: str) -> bool:
        """Whether a node's absence was announced to the others: what it could not write any more, nobody can
        know."""
        lrm = self._world.newest.lrms.get(name)
        return lrm is not None and lrm.mode in PLANNED_MODES

    def planned(self, name: str) -> bool:
        """Whether a node goes, or went, as somebody wanted."""
        lrm = self._world.newest.lrms.get(name)
        return bool(self._world.machines[name].planned) or (lrm is not None and lrm.mode in PLANNED_MODES)

    # Events

    def _changed(self) -> None:
        world, now = self._world, self._world.now()
        if world.double_runs != self._doubles:
            self._doubles = world.double_runs
            last = world.storage.double_run_log[-1]
            if doer := self._copies.doer(last.vmid, last.nodes):
                self.copies_of_others[last.vmid] = doer
                world.say("COPY", f"guest {last.vmid}: by {doer}")
            else:
                self.violated("one writer", f"guest {last.vmid} writes from {' and '.join(last.nodes)}")
        majority = self.majority()
        if majority != self._majority:
            for name in world.machines:
                if name in majority:
                    self._member_since.setdefault(name, now)
                    self._absent_since.pop(name, None)
                else:
                    if (since := self._member_since.pop(name, None)) is not None:
                        self._fenced.left(name, since)
                    self._left_at[name] = self._absent_since.setdefault(name, now)
            if not majority or not self._majority:
                self._majority_since = now
            self._majority = majority
        self._weather(now)
        self._marks(now)
        self._watch_migrations(now)
        self.succession.look()
        self.words.look()
        self._fenced.look()
        self._promises.look()
        self._read_log()

    def _lost(self, seconds: float) -> list[str]:
        """Nodes that have been away for so long, other than as announced."""
        now = self._world.now()
        return [n for n, gone in self._absent_since.items() if now - gone > seconds and not self.planned(n)]

    def _weather(self, now: float) -> None:
        allowed = max(1, len(self._world.machines) * 34 // 100)
        if self._majority and len(self._lost(0.0)) > allowed:
            self._storm_since = now if self._storm_since is None else self._storm_since
        elif self._majority and self._storm_since is not None:
            if now - self._storm_since > FORBIDDEN_SECONDS:
                self._calm_since = now
            self._storm_since = None

    def _look_at_storm(self) -> None:
        """A leader renews its Lease: note that it sees the storm, if it can."""
        now, world = self._world.now(), self._world
        leader = self._rig.leader()
        self._weather(now)
        if (
            self._storm_since is not None
            and self._majority
            and now - self._storm_since > STORM_SEEN_SECONDS
            and leader is not None
            and not world.operator_cut
            and not world.deaf
            and all(world.machines[n].runs(service) for n in self._majority for service in machine.SERVICES)
        ):
            self._stormed = leader.term

    def _in_storm(self) -> str:
        """Why the leader should begin nothing: it has seen a storm, or an earlier leader has told of it."""
        now, leader = self._world.now(), self._rig.leader()
        told = self._rig.cluster_status().status.storm is not None
        if leader is None or not (told or leader.term is self._stormed):
            return ""
        if self._storm_since is not None and now - self._storm_since > FORBIDDEN_SECONDS:
            return "in a storm"
        return "soon after a storm" if now - self._calm_since < COOLDOWN_SECONDS else ""

    def _marks(self, now: float) -> None:
        tree = self._world.newest
        marked = {
            sid: found.op
            for sid, resource in tree.resources.items()
            if "[pveha op=" in resource.comment and (found := mark.parse(resource.comment).mark) and found.op
        }
        disowned = frozenset(
            sid
            for sid, resource in tree.resources.items()
            if resource.state is cluster.HAState.IGNORED
            and re.search(r"\[pveha (op|hold)=", resource.comment)
        )
        if tree is self._history or not self._world.fs.forked:
            for sid in sorted(self._disowned - disowned):
                self._given_back(sid, tree)
        self._disowned, self._history = disowned, tree
        passed, self._looked = now - self._looked, now
        self._open = {
            (sid, op): self._open.get((sid, op), -passed if sid in self._could_undo else 0.0)
            + (passed if sid in self._could_undo else 0.0)
            for sid, op in marked.items()
        }
        for (sid, _), seconds in self._open.items():
            if seconds > UNDONE_SECONDS:
                self.violated(
                    "undone", f"{sid} carries an operation's mark for more than {UNDONE_SECONDS:g} s"
                )
        self._could_undo = frozenset(self._undoable(list(marked), now)) if marked else frozenset()

    def _given_back(self, sid: str, tree: pmxcfs.Tree) -> None:
        """Native HA gets a guest back only when the CRM has dropped its record of where it was (S8)."""
        resource, ref = tree.resources.get(sid), guests.parse_sid(sid)
        service, file = tree.manager.services.get(sid), tree.guests.get(ref.vmid) if ref else None
        by_user = self.set_by_user.get(sid) == self._world.now()
        if resource is None or service is None or file is None or by_user:
            return
        if resource.state is not cluster.HAState.IGNORED and service.node != file.node:
            what = (
                f"{sid} is {resource.state} again, its file on {file.node}, the CRM has it on {service.node}"
            )
            self.violated("dropped before given back", what)

    def _undoable(self, marked: list[str], now: float) -> Iterator[str]:
        """Marks that somebody could undo now: a CRM flushes, and an operator acts, or the timer on the nodes
        does (S10), which needs the guest's node and has counted for as long as the CRM master's node is
        up."""
        world = self._world
        tree = world.newest
        leader = self._rig.leader()
        if (
            not self._majority
            or tree.manager.disarm_state
            or world.wall_now(tree.manager.master) - tree.manager.timestamp >= FLUSH_SECONDS
            or tree.manager.master not in self._majority
            or self._majority != frozenset(n for n, on in world.machines.items() if on.up)
            or not all(
                world.machines[name].runs(service) for name in self._majority for service in machine.SERVICES
            )
        ):
            return
        if (
            leader is not None
            and not leader.wire.kubernetes_down
            and not self._forbidden
            and self.owned
            and not world.operator_cut
            and not world.deaf
        ):
            yield from marked
            return
        if world.config.repair_timer and now - world.machines[tree.manager.master].up_since > UNDONE_SECONDS:
            for sid in marked:
                ref = guests.parse_sid(sid)
                file = tree.guests.get(ref.vmid) if ref else None
                if file is not None and file.node in self._majority:
                    yield sid

    def _read_log(self) -> None:
        log = self._world.log
        while self._lines < len(log):
            event = log[self._lines]
            self._lines += 1
            if event.subject.startswith("crm") and "got unexpected error" in event.text:
                self._round_died(event.text)
            elif event.subject.startswith("operator") and event.text.startswith("BUG"):
                self.violated("no bugs", event.text)

    def _round_died(self, text: str) -> None:
        """A round of the CRM has died. One may, that began before pveha disowned and moved the guest."""
        found = re.search(r"((?:vm|ct):(\d+))", text)
        mover = self._movers.get(int(found[2]), "") if found else ""
        entry = self._present.resources.get(found[1]) if found else None
        began_before = entry is not None and entry.state is cluster.HAState.IGNORED
        if (not mover or mover.startswith("pveha-node")) and not (began_before and "once more" not in text):
            self.violated("the CRM lives", text)

    # Side effects

    def _effect(self, effect: wires.Effect) -> None:
        if effect.verb not in ("lease", "status"):
            self._led(effect)
            self._on_the_newest_branch(effect)
        elif effect.verb == "lease":
            self._look_at_storm()
            self.upgrades.look()
        match effect.verb:
            case "force_off":
                self._fencing(effect.subject, effect.method)
            case "create_ha" | "update_ha" if effect.resource is not None:
                self._writing(effect.resource)
            case "delete_ha":
                self._unregistering(effect.subject)
            case "create_rule" | "update_rule" | "delete_rule":
                self._ruling(effect.subject)
            case "claim" if self.native:
                self.violated("native is left alone", f"{effect.vmids} are claimed from {effect.subject}")
            case "claim":
                self._fenced.claiming(effect)
                self._new_operation(f"claim of {effect.vmids} from {effect.subject}")
                self._going_to(effect.on, "claim", effect.vmids)
            case "migrate":
                self._new_operation(f"migration of {effect.vmids} to {effect.subject}")
                self._going_to(effect.subject, "migration", effect.vmids)
                self._migrating(effect.vmids[0])
            case "start":
                self._starting(effect.vmids[0], effect.subject)
            case "power_on":
                self._new_operation(f"power on of {effect.subject}")
                self._fenced.switching_on(effect.subject, effect.method)

    def _on_the_newest_branch(self, effect: wires.Effect) -> None:
        """Nothing is done where history was forked and an epoch that is known is not there."""
        known, files = self._rig.cluster_status().status.epoch or 0, self._world.fs
        if not files.diverging or self._world.now() - files.forked_at <= LATE_SECONDS or not self._majority:
            return
        if (here := self._newest_epoch(files.trees[min(self._majority)])) < known:
            what = f"{effect.verb} {effect.subject} where epoch {here} is the newest, {known} being known"
            self.violated("no old branch", what)

    @staticmethod
    def _newest_epoch(tree: pmxcfs.Tree) -> int:
        found = (int(path[len(REGISTER) :]) for path in tree.folders if path.startswith(REGISTER))
        return max(found, default=0)

    def _led(self, effect: wires.Effect) -> None:
        """Nobody acts while the Lease is another's, unless a person has just given it away."""
        holder = self._rig.kubernetes.lease_holder(rig.NAMESPACE, rig.LEASE)
        known = self._world.now() - self.lease_taken_at > STOLEN_SECONDS
        if holder and known and holder.partition("-")[0] != effect.operator:
            what = f"{effect.operator} sends {effect.verb} {effect.subject}, the Lease is {holder}'s"
            self.violated("nothing without the Lease", what)

    @property
    def native(self) -> bool:
        """Whether Proxmox's own HA alone recovers guests: nothing is fenced, disowned or claimed then."""
        return self._rig.cluster_status().spec.recovery.engine is hacluster.Engine.NATIVE

    def _fencing(self, name: str, method: str) -> None:
        if self.native:
            self.violated("native is left alone", f"{name} is switched off")
        now = self._world.now()
        self._fenced.switched_off(name)
        self._new_operation(f"forced off of {name}")
        since = self._member_since.get(name)
        if since is not None and now - since > LATE_SECONDS:
            self.violated("no live node is fenced", f"{name} is switched off, a member since {since:.1f}")
        bmc = self._world.bmcs.by_name.get(name) if method == "bmc" else None
        other = bmc.machine if bmc is not None and now - self._swapped_at > IDENTITY_SECONDS else name
        if other != name and other in self._member_since:
            self.violated("no live node is fenced", f"instead of {name} a member, {other}, is switched off")
        for twin in self._world.bmcs.together(name) if bmc is not None else ():
            since = self._member_since.get(twin)
            if twin != name and since is not None and now - since > LATE_SECONDS:
                self.violated("no live node is fenced", f"with {name} a member, {twin}, is switched off")
        if self.announced(name):
            self.violated("planned is not dead", f"{name} is switched off, which went down as announced")
        lost = self._lost(FORBIDDEN_SECONDS)
        allowed = max(1, len(self._world.machines) * 34 // 100)
        if self._majority and len(lost) > allowed:
            self.violated("blast radius", f"{name} is switched off while {', '.join(sorted(lost))} are lost")

    def _writing(self, resource: cluster.HAResource) -> None:
        found = mark.parse(resource.comment).mark
        present = self._present.resources.get(resource.sid)
        before = mark.parse(present.comment).mark if present else None
        if found is not None and found.op not in ("", "repair") and self.native:
            self.violated("native is left alone", f"{resource.sid} is disowned: {found}")
        if resource.state is cluster.HAState.IGNORED and found is not None and before is None:
            self._new_operation(f"disowning of {resource.sid}")
        if found is not None and found.hold == "duplicate-suspected" and self._lives(resource.sid):
            self._suspected.add(resource.sid)
        stopped = resource.state is cluster.HAState.STOPPED
        if present is not None and present.state is cluster.HAState.STARTED and stopped:
            self._stopping(resource, present)

    def _lives(self, sid: str) -> bool:
        ref = guests.parse_sid(sid)
        return ref is not None and any(ref.vmid in on.processes for on in self._world.machines.values())

    def _stopping(self, resource: cluster.HAResource, present: cluster.HAResource) -> None:
        """Only who is to be stopped, or may be for another guest: with a mark that says so, in an entry of
        ours."""
        ref = guests.parse_sid(resource.sid)
        spec = self._rig.guest_status(ref.vmid).spec if ref is not None and self._is_named(ref.vmid) else None
        if self.deaf() or (spec is not None and spec.run_strategy is protectedvm.RunStrategy.HALTED):
            return
        about = mark.parse(resource.comment)
        allowed = spec is not None and spec.preemption is protectedvm.Preemption.ALLOWED
        if not (allowed and about.preempted and about.owner == rig.OWNER):
            self.violated("nobody is stopped against his will", f"{_shown(present)} is stopped")
        self._new_operation(f"stopping of {resource.sid}")

    def _unregistering(self, sid: str) -> None:
        """Only what pveha registered, and what no ProtectedVM has named for a while."""
        ref = guests.parse_sid(sid)
        present = self._present.resources.get(sid)
        if present is not None and mark.parse(present.comment).owner != rig.OWNER:
            self.violated("what is not ours stays", f"{sid} is removed, which pveha has not made")
        since = self._named_since.get(ref.vmid) if ref is not None else None
        if since is not None and self._world.now() - since > FORBIDDEN_SECONDS and not self.deaf():
            self.violated("protected stays registered", f"{sid} is removed, protected since {since:.1f}")

    def _ruling(self, name: str) -> None:
        """HA rules of others are never changed, and ours not while pveha is to do nothing."""
        self._new_operation(f"change of HA rule {name}")
        present = self._present.rules.get(name)
        if present is not None and mark.parse(present.comment).owner != rig.OWNER:
            self.violated("foreign rules are never changed", f"HA rule {name}, which pveha has not made")

    def _starting(self, vmid: int, on: str) -> None:
        file = self._present.guests.get(vmid)
        resource = self._present.resources.get(file.ref.sid) if file else None
        found = mark.parse(resource.comment).mark if resource else None
        ignored = resource is not None and resource.state is cluster.HAState.IGNORED
        if ignored and found is not None and found.was is not cluster.HAState.STARTED:
            self.violated("what was stopped stays stopped", f"guest {vmid} is started on {on}")
        ordered = ignored and not self.native and not self.deaf()
        if ordered and (missing := self.succession.missing(vmid)):
            self.violated("restart order", f"guest {vmid} is started on {on} before {missing}")

    def _going_to(self, target: str, what: str, vmids: tuple[int, ...]) -> None:
        """What others have moved there is started there."""
        if self.upgrades.takes_no_guests(target):
            self.violated("kept away", f"{what} of {vmids} to {target}, whose pveha-node is another")
        since, files = self.kept_away.get(target), self._present.guests
        sent = tuple(vmid for vmid in vmids if vmid not in files or files[vmid].node != target)
        if since is None or self._world.now() - since <= FORBIDDEN_SECONDS or self.deaf():
            return
        if sent:
            self.violated(
                "kept away", f"{what} of {sent} to {target}, which takes no guests since {since:.1f}"
            )

    def _migrating(self, vmid: int) -> None:
        """A guest of a drained node is moved: a container only as its policy lets it, and none of a node that
        is not drained, but one that was stopped for another and does not run."""
        file, now = self._present.guests.get(vmid), self._world.now()
        if file is None:
            return
        resource = self._present.resources.get(file.ref.sid)
        runs = any(vmid in on.processes for on in self._world.machines.values())
        if resource is not None and mark.parse(resource.comment).preempted and not runs:
            return
        if file.node not in self._draining and now - self._activated.get(file.node, -1e9) > FORBIDDEN_SECONDS:
            if not self.deaf():
                self.violated("only what is drained moves", f"guest {vmid} is moved from {file.node}")
        elif file.ref.kind is guests.GuestKind.VM and now - self._line_at > STEADY_SECONDS:
            self._migrated[vmid] = now

    def _watch_migrations(self, now: float) -> None:
        for vmid, sent in list(self._migrated.items()):
            if now - sent > MOVED_SECONDS:
                del self._migrated[vmid]
            elif not self._runs(vmid):
                self._world.later(MOST_DOWN_SECONDS, self._judge_migration, vmid, sent)

    def _judge_migration(self, vmid: int, sent: float) -> None:
        if self._migrated.get(vmid) == sent and not self._runs(vmid):
            ended = max((each.end or 0.0 for each in self._world.uptime(vmid)), default=0.0)
            if self._world.now() - ended >= MOST_DOWN_SECONDS:
                self.violated("no guest is down for a drain", f"guest {vmid}, sent on its way at {sent:.1f}")

    def _runs(self, vmid: int) -> bool:
        return any(each.end is None for each in self._world.uptime(vmid))

    def _disturbed(self, line: str) -> None:
        self._line_at = self._world.now()
        self.succession.disturbed(line)
        self.upgrades.disturbed(line)
        self._fenced.disturbed()
        if line.startswith(("swap bmcs", "straighten bmcs")):
            self._swapped_at = self._world.now()
        self._migrated.clear()

    def _new_operation(self, what: str) -> None:
        now = self._world.now()
        for reason, since in self._forbidden.items():
            if now - since > FORBIDDEN_SECONDS and not self.deaf():
                self.violated("no new operation", f"{what} while {reason}")
        if old := self.upgrades.why_nothing():
            self.violated("no new operation", f"{what} {old}")
        if storm := self._in_storm():
            self.violated("no new operation", f"{what} {storm}")
        if not self._majority and now - self._majority_since > LATE_SECONDS:
            self.violated("nothing without quorum", what)

    def deaf(self) -> bool:
        """Whether an operator may not hear what users write."""
        return any(replica.deaf or replica.wire.kubernetes_down for replica in self._rig.operators.values())

    def _spec_changed(self, event: str, obj: kubernetes.Manifest) -> None:
        now = self._world.now()
        self.succession.told(event, obj)
        if obj["kind"] == "ProtectedVM":
            self._names(obj, now, event == "DELETED")
        if obj["kind"] != "HACluster":
            return
        spec = obj["spec"]
        words = {each["name"]: each.get("availability", "Active") for each in spec.get("nodes", ())}
        closed = {name: self.kept_away.get(name, now) for name, word in words.items() if word != "Active"}
        draining = {name: self._draining.get(name, now) for name, word in words.items() if word == "Drain"}
        self._activated |= {name: now for name in self._draining if name not in draining}
        self.kept_away, self._draining = closed, draining
        reasons = {"paused": bool(spec.get("pauseRequests")), "observing": spec.get("mode") != "Enforce"}
        self._forbidden = {
            reason: self._forbidden.get(reason, now) for reason, holds in reasons.items() if holds
        }

    def _names(self, pvm: kubernetes.Manifest, now: float, gone: bool) -> None:
        vmid, name = int(pvm["spec"]["vmid"]), str(pvm["metadata"]["name"])
        names = self._naming.setdefault(vmid, set())
        (names.discard if gone else names.add)(name)
        if names:
            self._named_since.setdefault(vmid, now)
        else:
            self._named_since.pop(vmid, None)

    # Configurations that move

    def _moved(self, vmid: int, source: str, target: str, by: str) -> None:
        self._movers[vmid] = by
        if not by.startswith("pveha-node"):
            return
        world = self._world
        on = world.machines[source]
        confirmed = self.words.count(source)
        if self.words.count(source):
            return
        if on.powered and vmid in on.processes:
            self.violated("rename only while off", f"guest {vmid} is moved from {source}, where it runs")
        elif confirmed:
            pass
        elif on.powered and on.booted_at < self._absent_since.get(source, world.now()):
            self.violated("rename only while off", f"guest {vmid} is moved from {source}, which is on")
        match = re.search(r"--epoch (\d+)", by)
        tree = world.fs.trees[target]
        newest = self._newest_epoch(tree)
        if match is None or int(match[1]) != newest:
            self.violated("epoch at effect", f"guest {vmid} is moved by {by}, newest epoch {newest}")
        file = tree.guests.get(vmid)
        resource = tree.resources.get(file.ref.sid) if file else None
        if resource is not None and resource.state is not cluster.HAState.IGNORED:
            self.violated(
                "disowned before moved", f"guest {vmid} is moved from {source} while {resource.state}"
            )

    # The end

    def at_end(
        self, wanted: dict[str, cluster.HAResource | None], anyway: frozenset[str], *, gone: bool
    ) -> list[str]:
        """What is not yet as it should be in a world that is mended. `wanted`: HA resources as their owners
        want them, None for those that pveha makes; `anyway`: those about which a person has to decide (so he
        has about those held for a node that stays off and whose BMC is not believed any more, or that is
        not fenced, because it went as announced (S4) or no other may take them);
        `gone`: no operator is left, so that what Kubernetes shows is old."""
        world, problems = self._world, list(self._rig.failures)
        tree = world.newest
        anyway |= frozenset(wanted) if world.fs.forked else frozenset()
        copied = {guests.GuestRef(v, kind).sid for v in self.copies_of_others for kind in guests.GuestKind}
        anyway |= copied | self._suspected
        shown = self._rig.cluster_status().status
        off = {name for name, on in world.machines.items() if not on.powered}
        doubted = off & {node.name for node in shown.not_online if node.state == "Unprovable"}
        doubted |= {name for name in off if self.planned(name)}
        anyway |= {
            sid
            for sid, found in self._rig.marks().items()
            if found.hold in doubted
            or ((ref := guests.parse_sid(sid)) and found.hold in off and self._has_no_place(ref.vmid))
        }
        anyway |= self._lost_data.held_for_good()
        for sid, found in self._rig.marks().items():
            if not (found.hold and sid in anyway):
                problems.append(f"{sid} still carries {found}")
        for sid, owner in wanted.items():
            present = tree.resources.get(sid)
            if owner is not None and present is not None and sid not in anyway:
                plain = str(dataclasses.replace(mark.parse(present.comment), mark=None))
                changed = dataclasses.replace(present, comment=plain) != owner
                if changed and not self._waits_for_a_stuck_node(present):
                    problems.append(f"{sid} is {_shown(present)}, was {_shown(owner)}")
            elif owner is not None and present is None and sid not in anyway:
                problems.append(f"{sid} is gone, was {_shown(owner)}")
            if sid not in anyway:
                problems.extend(self._guest_problems(sid, present))
        if gone:
            return problems
        problems.extend(self._lost_data.left_disabled())
        if not world.fs.diverging:
            problems.extend(self._rule_problems())
        up = [name for name, on in world.machines.items() if on.up]
        held = sum(node.state == "Quarantined" for node in shown.not_online)
        if shown.nodes is None or shown.nodes.online + held != len(up):
            problems.append(f"{len(up)} nodes are up, status shows {shown.nodes} and {shown.not_online}")
        if shown.operations:
            problems.append(f"status shows open operations: {shown.operations}")
        if self._rig.leader() is None:
            problems.append("nobody leads")
        return problems

    def _rule_problems(self) -> Iterator[str]:
        """HA rules that do not say what is wished: each group is a pair here, and each guest has one wish."""
        tree = self._world.newest
        wishing = {
            tree.guests[vmid].ref.sid: spec["placement"]
            for vmid, spec in self._rig.wishes.items()
            if "placement" in spec
            and vmid in tree.guests
            and tree.guests[vmid].ref.sid in tree.resources
            and self._is_named(vmid)
        }
        wished: set[tuple[bool, frozenset[str]]] = set()
        for group in self._groups():
            together = group["rule"] == "Together"
            sids = frozenset(sid for sid, each in wishing.items() if group["name"] in each.get("groups", ()))
            sayable = group["enforcement"] == "Required" and not (together and group.get("topologyKey"))
            if sayable and len(sids) > 1:
                wished.add((together, sids))
        rules = [rule for rule in tree.rules.values() if not rule.disabled]
        said = {(rule.positive, rule.sids) for rule in rules if rule.type == cluster.RESOURCE_AFFINITY}
        if said != wished:
            yield f"HA rules keep {_pairs(said)}, wished is {_pairs(wished)}"
        bound = {sid for rule in rules if rule.type == cluster.NODE_AFFINITY for sid in rule.sids}
        binding = {sid for sid, each in wishing.items() if "nodeAffinity" in each}
        if bound != binding:
            yield f"HA rules bind {sorted(bound)} to nodes, wished is {sorted(binding)}"

    def _groups(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        for name in {spec["policyRef"]["name"] for spec in self._rig.wishes.values() if "policyRef" in spec}:
            policy = self._rig.kubernetes.get("FailoverPolicy", rig.NAMESPACE, name)
            found += policy["spec"]["placement"]["groups"]
        return found

    def _is_named(self, vmid: int) -> bool:
        try:
            self._rig.guest_status(vmid)
        except KeyError:
            return False
        return True

    def _guest_problems(self, sid: str, resource: cluster.HAResource | None) -> list[str]:
        world = self._world
        ref = guests.parse_sid(sid)
        file = world.newest.guests.get(ref.vmid) if ref else None
        if ref is None or file is None or resource is None:
            return []
        service = world.newest.manager.services.get(sid)
        if service is not None and service.state == "error":
            return []
        if not world.machines[file.node].up and self.planned(file.node):
            return []
        if self._stuck_in_fence(file.node) or self._has_no_place(ref.vmid):
            return []
        running = [
            name
            for name, on in world.machines.items()
            if ref.vmid in on.processes and not self._copies.left_alone(ref.vmid, name)
        ]
        if resource.state is cluster.HAState.STARTED and running != [file.node]:
            return [f"{sid} runs on {running}, its file is on {file.node}, the CRM has {service}"]
        running = [name for name in running if not self._copies.left_running(ref.vmid, name)]
        if resource.state in (cluster.HAState.STOPPED, cluster.HAState.DISABLED) and running:
            return [f"{sid} runs on {running}, but is to be {resource.state}"]
        return []

    def _has_no_place(self, vmid: int) -> bool:
        """Whether a guest's wishes can keep it from all nodes that are up: they can be met by any two, but a
        group by zone only if these are in different zones (seed 95000570)."""
        wish = self._rig.wishes.get(vmid)
        up = [name for name, on in self._world.machines.items() if on.up]
        if wish is None or len(up) < 2:
            return wish is not None
        named = wish.get("placement", {}).get("groups", ())
        by_zone = any(group["name"] in named and group.get("topologyKey") for group in self._groups())
        spec = self._rig.kubernetes.get("HACluster", rig.NAMESPACE, rig.CLUSTER)["spec"]
        zones = {node.get("zone") for node in spec["nodes"] if node["name"] in up}
        return by_zone and len(zones) < 2

    def _waits_for_a_stuck_node(self, resource: cluster.HAResource) -> bool:
        """Whether a guest was stopped for another, and what room there is may be on a node where the CRM does
        nothing until a person ends that: it moves nobody there."""
        preempted = mark.parse(resource.comment).preempted and resource.state is cluster.HAState.STOPPED
        return bool(preempted) and any(self._stuck_in_fence(name) for name in self._world.machines)

    def _stuck_in_fence(self, name: str) -> bool:
        """Whether the CRM does nothing on a node for ever, which only a person ends, and pveha says so."""
        manager = self._world.newest.manager
        told = self._rig.cluster_status().status.condition("HAHealthy")
        return (
            manager.node_status.get(name) == "fence"
            and not any(
                s.node == name and s.state in ("fence", "recovery") for s in manager.services.values()
            )
            and told is not None
            and told.reason == "NodeStuckInFence"
        )


def _shown(resource: cluster.HAResource) -> str:
    return f"{resource.state} failback={int(resource.failback)} {resource.comment!r}"


def _pairs(rules: set[tuple[bool, frozenset[str]]]) -> str:
    words = sorted(
        f"{' '.join(sorted(sids))} {'together' if positive else 'apart'}" for positive, sids in rules
    )
    return ", ".join(words) or "nothing"
