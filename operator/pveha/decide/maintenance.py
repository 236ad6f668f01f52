"""Empty the nodes whose availability is Drain: who is moved, where to, when, and who stays and why.

A migration is not dangerous (Proxmox keeps the guest running where it is until the target has taken over),
but it is in the way of everything else: so none is begun while a failure is handled. How far one is shows in
the world: the lock `migrate`, the CRM's record, where the configuration is. Only failures are remembered, for
the pause before the next try; a new leader begins without them.
"""

import dataclasses
import enum
from collections.abc import Collection, Mapping

from pveha.api import failoverpolicy, hacluster
from pveha.api.conditions import Acting, FailoverReady
from pveha.decide import (
    capacity,
    eligibility,
    evidence,
    failover,
    guards,
    ha_rules,
    hosts,
    memory,
    placement,
    protection,
    recall,
    situation,
)
from pveha.model import cluster, guests, mark, operations, snapshot

MIGRATE_PRIVILEGE = "VM.Migrate"
"""Proxmox demands it of who moves guests."""
TAKE_UP_SECONDS = 45.0
"""Within this time a migration that was asked for shows: the CRM makes a round every 10 s, and may have to
find a new master's feet first."""
RETRY_SECONDS = 30.0
"""Pause after the first failure; it doubles with each further one."""
LONGEST_RETRY_SECONDS = 600.0
ARRIVED_SECONDS = 20.0
"""For so long the memory of a guest that has arrived may be missing in what its new node reports (every
10 s)."""
MANAGER_SILENT_SECONDS = 30.0
"""A CRM flushes every 10 s: one that has been silent for longer takes up no command."""


class Standing(enum.Enum):
    """How a guest that is left on a node in Drain stands."""

    MOVING = "is being moved"
    TURN = "waits for its turn"
    WAITS = "waits"
    FAILED = "could not be moved"
    STAYS = "stays"


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """A guest that is left, with what it waits for or why it stays."""

    ref: guests.GuestRef
    standing: Standing
    why: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Drains:
    """What is left on each node in Drain, and why no guest is sent on its way now, if so."""

    left: Mapping[str, tuple[Left, ...]]
    hindered: str = ""
    lacking: bool = False
    """Whether that is a privilege the token lacks."""
    refused: str = ""
    """Which nodes spec.capacity does not let go, and why."""


def follow(
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    verdicts: Mapping[str, evidence.Verdict],
) -> memory.Memory:
    """The memory with what became of the migrations that were begun."""
    if not memo.moves or seen.inventory is None or seen.ha_status is None:
        return memo
    states = {
        state.operation.ref.vmid: state
        for state in seen.operations
        if isinstance(state.operation, operations.Migrate)
    }
    moves = {}
    for vmid, move in memo.moves.items():
        guest, source = seen.inventory.guests.get(vmid), verdicts.get(move.source)
        if guest is None or source is None or (source.lost and guest.node == move.source):
            continue
        state = states.get(vmid)
        if move.sent_at is not None:
            move = _followed(move, guest, state, seen)
        arrived = move.arrived_at is not None and seen.now - move.arrived_at < ARRIVED_SECONDS
        drained = spec.availability(guest.node) is hacluster.Availability.DRAIN
        tried_again = move.attempts and (drained or _is_preempted(guest, seen))
        if move.sent_at is not None or arrived or tried_again:
            moves[vmid] = move
    return memory.changed(memo, moves=moves)


def _is_preempted(guest: cluster.GuestResource, seen: snapshot.Snapshot) -> bool:
    """Whether it was stopped for another guest, and may be sent where there is room for it."""
    resource = seen.resource(guest.ref.sid)
    return resource is not None and bool(mark.parse(resource.comment).preempted)


def _followed(
    move: memory.Move,
    guest: cluster.GuestResource,
    state: operations.OperationState | None,
    seen: snapshot.Snapshot,
) -> memory.Move:
    if state is not None and state.outcome is None:
        return move
    if state is not None and state.outcome is not None and not state.outcome.error:
        return dataclasses.replace(move, sent_at=state.outcome.at, seen_moving=in_motion(guest, seen))
    if in_motion(guest, seen):
        return dataclasses.replace(move, seen_moving=True)
    if guest.node != move.source:
        return dataclasses.replace(move, sent_at=None, arrived_at=seen.now, attempts=0, problem="")
    if state is not None and state.outcome is not None:
        return _failed(move, state.outcome.error, seen)
    if move.seen_moving:
        return _failed(move, f"Proxmox HA could not move it: see the task log of {move.source}", seen)
    if move.sent_at is not None and seen.now - move.sent_at > TAKE_UP_SECONDS:
        return _failed(move, f"it was not taken up within {TAKE_UP_SECONDS:g} s", seen)
    return move


def _failed(move: memory.Move, problem: str, seen: snapshot.Snapshot) -> memory.Move:
    pause = min(RETRY_SECONDS * 2**move.attempts, LONGEST_RETRY_SECONDS)
    return dataclasses.replace(
        move,
        sent_at=None,
        seen_moving=False,
        attempts=move.attempts + 1,
        retry_at=seen.now + pause,
        problem=problem,
    )


def in_motion(guest: cluster.GuestResource, seen: snapshot.Snapshot) -> bool:
    """Whether the guest is being moved now, by whomever. Of one that the CRM knows its record tells, because
    the lock of a migration that broke off may stay; that record is up to 20 s late when it has arrived."""
    service = seen.service(guest.ref.sid)
    if service is None:
        return guest.lock == "migrate"
    arrived = guest.node == service.target and guest.lock is None and guest.status == "running"
    return service.state in situation.MOVING_STATES and not arrived


def _on_the_books(name: str, seen: snapshot.Snapshot) -> list[cluster.GuestResource]:
    """Guests that are away already but not for the CRM: if the node went now, HA of the whole cluster would
    stop (S9)."""
    assert seen.inventory is not None
    services = seen.ha_status.services if seen.ha_status is not None else {}
    return [
        guest
        for guest in seen.inventory.guests.values()
        if guest.node != name and (record := services.get(guest.ref.sid)) is not None and record.node == name
    ]


def drain(
    now: situation.Situation, allowed: guards.Permission, recoveries: Mapping[str, failover.Recovery]
) -> tuple[list[operations.Operation], memory.Memory, Drains]:
    """Migrations to start, the memory, and what is left on the nodes in Drain."""
    seen, spec, memo, verdicts = now.seen, now.spec, now.memo, now.verdicts
    names = [name for name in verdicts if spec.availability(name) is hacluster.Availability.DRAIN]
    if not names or seen.inventory is None:
        return [], memo, Drains(dict.fromkeys(names, ()), "guests cannot be read" if names else "")
    lacking = lacking_privilege(seen)
    hindered = lacking or _hindrance(now, allowed, recoveries)
    result: dict[str, tuple[Left, ...]] = {}
    sent: list[operations.Operation] = []
    refusals: list[str] = []
    for name in names:
        leaving = [
            guest
            for guest in seen.inventory.guests.values()
            if guest.node == name and _is_left(guest, verdicts[name], seen)
        ]
        room = spec.safety.max_concurrent_migrations - len(_under_way(seen, memo))
        at_node = _Node(name, dataclasses.replace(now, memo=memo, promised=_promised(now, memo)))
        start, left, refusal = at_node.look(leaving, 0 if hindered else room)
        if refusal:
            refusals.append(refusal)
        for operation in start:
            memo = sent_off(memo, operation, seen)
        sent.extend(start)
        away = [Left(guest.ref, Standing.MOVING) for guest in _on_the_books(name, seen)]
        result[name] = tuple(sorted((*left, *away), key=lambda each: each.ref.vmid))
    return sent, memo, Drains(result, hindered, bool(lacking), "; ".join(refusals))


def lacking_privilege(seen: snapshot.Snapshot) -> str:
    """What the token may not do that draining needs, with the remedy, or an empty string."""
    if seen.privileges is None or MIGRATE_PRIVILEGE in seen.privileges.vms:
        return ""
    return (
        f"the token lacks {MIGRATE_PRIVILEGE} on /vms (with propagation), without which pveha moves no "
        "guest: add it to the role of the token and of its user"
    )


def _hindrance(
    now: situation.Situation, allowed: guards.Permission, recoveries: Mapping[str, failover.Recovery]
) -> str:
    """Why no migration is begun, or an empty string. A dead node at rest, whose guests run elsewhere, is in
    nobody's way; nor is one that went down as announced, or empty."""
    owned = now.memo.epoch is not None or now.spec.recovery.registers_alone
    if not allowed.begin or allowed.reason is not Acting.OK or not owned:
        return allowed.message
    for name, verdict in now.verdicts.items():
        if verdict.state in (evidence.State.ONLINE, evidence.State.PLANNED_DOWN):
            continue
        recovery = recoveries.get(name)
        at_rest = recovery is not None and not recovery.pending
        emptied = now.spec.availability(name) is hacluster.Availability.DRAIN
        if at_rest and (verdict.state is evidence.State.FENCED or emptied):
            continue
        return f"{name} is {verdict.state} ({verdict.reason})"
    if now.seen.takeovers():
        return "guests of a lost node are being started"
    return ""


def _under_way(seen: snapshot.Snapshot, memo: memory.Memory) -> frozenset[int]:
    """Guests of the whole cluster that are being moved, or were just sent on their way."""
    found = seen.inventory.guests.values() if seen.inventory is not None else ()
    sent = {vmid for vmid, move in memo.moves.items() if move.sent_at is not None}
    return frozenset({guest.ref.vmid for guest in found if in_motion(guest, seen)} | sent)


def _promised(now: situation.Situation, memo: memory.Memory) -> dict[str, int]:
    """Bytes of memory per node that guests on their way there will use, those that are moved included."""
    total = dict(now.promised)
    assert now.seen.inventory is not None
    for guest in now.seen.inventory.guests.values():
        if target := situation.heading(guest, now.seen, memo):
            total[target] = total.get(target, 0) + now.seen.memory_of(guest)
    return total


def sent_off(memo: memory.Memory, operation: operations.Migrate, seen: snapshot.Snapshot) -> memory.Memory:
    """The memory of a migration that is begun."""
    old = memo.moves.get(operation.ref.vmid, memory.Move(operation.source))
    move = dataclasses.replace(
        old, source=operation.source, target=operation.target, sent_at=seen.now, seen_moving=False
    )
    return memory.changed(memo, moves={**memo.moves, operation.ref.vmid: move})


def _is_left(guest: cluster.GuestResource, where: evidence.Verdict, seen: snapshot.Snapshot) -> bool:
    """Whether the guest runs there, as far as anybody knows, or is about to: HA starts it. Nothing is known
    any more of the guests of a node that has been away for 300 s: then those are left that HA is to keep
    running."""
    online = where.state is evidence.State.ONLINE
    if guest.template or (guest.status == "stopped" and not (online and _is_starting(guest, seen))):
        return False
    if guest.status != "unknown" or online:
        return True
    resource = seen.resource(guest.ref.sid)
    if resource is None:
        return False
    found = mark.parse(resource.comment).mark
    return (found.was if found is not None else resource.state) is cluster.HAState.STARTED


def _is_starting(guest: cluster.GuestResource, seen: snapshot.Snapshot) -> bool:
    """Whether native HA is to start a guest that is stopped."""
    resource = seen.resource(guest.ref.sid)
    service = seen.service(guest.ref.sid)
    wanted = resource is not None and resource.state is cluster.HAState.STARTED
    return wanted and service is not None and service.state in ("started", "request_start")


@dataclasses.dataclass(frozen=True, slots=True)
class _Node:
    """One node in Drain, in one round."""

    name: str
    now: situation.Situation

    def look(
        self, leaving: Collection[cluster.GuestResource], room: int
    ) -> tuple[list[operations.Migrate], tuple[Left, ...], str]:
        """At most `room` guests to send on their way, how all that are left stand, and why capacity lets none
        of them go, if so.

        The smallest go first, so that most are away soon.
        """
        left: dict[int, Left] = {}
        ready = []
        for guest in leaving:
            found = self._standing(guest)
            if found is None:
                ready.append(guest)
            else:
                left[guest.ref.vmid] = found
        targets, refused = self._targets(ready)
        left |= refused
        refusal = self._too_tight(targets)
        if refusal is not None:
            room = 0
        start: list[operations.Migrate] = []
        current = recall.is_current(self.now.seen, self.now.memo)
        online = self.now.verdicts[self.name].state is evidence.State.ONLINE
        for guest in sorted(ready, key=lambda each: (self.now.seen.memory_of(each), each.ref.vmid)):
            vmid = guest.ref.vmid
            if vmid not in targets:
                continue
            if len(start) < room and current and online:
                id_ = f"migrate.{self.now.memo.epoch or 0}.{vmid}.{int(self.now.seen.wall)}"
                managed = self._managed(guest) is not None
                start.append(operations.Migrate(id_, guest.ref, self.name, targets[vmid], managed))
                left[vmid] = Left(guest.ref, Standing.MOVING)
            else:
                left[vmid] = Left(guest.ref, Standing.TURN)
        return start, tuple(left[vmid] for vmid in sorted(left)), refusal or ""

    def _too_tight(self, targets: Mapping[int, str]) -> str | None:
        """Why spec.capacity does not let the node be emptied; empty: that is being worked out; None: it
        does."""
        spec, seen, protected = self.now.spec, self.now.seen, self.now.protected
        asked = spec.capacity.tolerate_node_failures and spec.recovery.engine is hacluster.Engine.FAST
        enforced = spec.capacity.enforcement is hacluster.CapacityEnforcement.ENFORCE
        if not (asked and enforced and targets) or seen.inventory is None:
            return None
        able = protection.recoverable(protected.guests.values(), seen, self.now.memo)
        each = placement.ask_each(self.now, able)
        sizes = {vmid: self.now.seen.memory_of(seen.inventory.guests[vmid]) for vmid in targets}
        emptied = capacity.after(each.question.asked, targets, sizes, hosts.cpus(self.now, targets))
        about = f"drain/{self.name}"
        found = capacity.assess(about, emptied, spec, self.now.memo, self.now.verdicts, protected.guests)
        if not found.too_few and found.answer is None:
            return ""
        harm = capacity.harm(found, protected.guests)
        if not harm and not found.too_few:
            return None
        return (
            f"without {self.name} the others could not lose {found.losses} any more, which spec.capacity "
            f"wants: {harm or 'there are too few'}; add a node or memory, stop guests, ask for less, or set "
            "spec.capacity.enforcement to Warn"
        )

    def _standing(self, guest: cluster.GuestResource) -> Left | None:
        """Why the guest is not to be sent on its way, wherever to, or None."""
        move = self.now.memo.moves.get(guest.ref.vmid)
        if in_motion(guest, self.now.seen) or (move is not None and move.sent_at is not None):
            return Left(guest.ref, Standing.MOVING)
        if guest.status == "stopped":
            return Left(guest.ref, Standing.WAITS, "Proxmox HA is to start it")
        if why := self._why_it_stays(guest):
            return Left(guest.ref, Standing.STAYS, why)
        if why := self._why_it_waits(guest):
            return Left(guest.ref, Standing.WAITS, why)
        if move is not None and move.retry_at > self.now.seen.now:
            return Left(guest.ref, Standing.FAILED, f"{move.problem}; it runs on and is tried again")
        return None

    def _why_it_stays(self, guest: cluster.GuestResource) -> str:
        protected = self.now.protected.guests.get(guest.ref.vmid)
        if guest.ref.kind is guests.GuestKind.CONTAINER:
            if protected is None:
                return "a container cannot be moved while it runs, and no ProtectedVM lets pveha restart it"
            if protected.policy.maintenance.containers is failoverpolicy.MaintenanceOfContainers.STAY:
                return "its policy has containers stay (maintenance.containers)"
        service = self.now.seen.service(guest.ref.sid)
        if service is not None and service.state == "error":
            return "Proxmox HA has it in state error"
        if guest.status not in ("running", "unknown"):
            return f"it is {guest.status}, and only what runs is moved"
        config = self.now.seen.config(guest.ref.vmid)
        if config is None:
            return ""
        bound = eligibility.bound_while_running(config, self.now.judge.shared)
        if bound and guest.ref.vmid in self.now.seen.replicas.jobs:
            return (
                "its disks are on local storage, from where pveha does not move it: "
                f"'qm migrate {guest.ref.vmid} NODE --online --with-local-disks' does"
            )
        return bound

    def _why_it_waits(self, guest: cluster.GuestResource) -> str:
        config = self.now.seen.config(guest.ref.vmid)
        if lock := guest.lock or (config.lock if config is not None else None):
            return f"it is locked ({lock})"
        if guest.status == "unknown":
            return "its node does not tell whether it runs"
        if config is None and self.now.spec.recovery.node_shell is not None:
            return "its configuration has not been read yet through the node shell"
        protected = self.now.protected.guests.get(guest.ref.vmid)
        if protected is not None and protected.registered is None:
            return "it is not yet registered in Proxmox HA"
        resource = self.now.seen.resource(guest.ref.sid)
        if resource is not None and mark.parse(resource.comment).mark is not None:
            return "a takeover of it is not yet finished"
        if self._managed(guest) is None:
            return ""
        service = self.now.seen.service(guest.ref.sid)
        if service is None or service.state != "started" or service.node != self.name:
            state = service.state if service is not None else "not listed"
            return f"Proxmox HA is working on it ({state})"
        if self.now.seen.now - self.now.memo.manager_moved_at > MANAGER_SILENT_SECONDS:
            return "the CRM does not make its rounds"
        return ""

    def _targets(self, ready: Collection[cluster.GuestResource]) -> tuple[dict[int, str], dict[int, Left]]:
        seen, memo = self.now.seen, self.now.memo
        assert seen.inventory is not None
        leaving = {self.name}
        locations = placement.locations_beside(self.now, leaving)
        locations |= {
            seen.inventory.guests[vmid].ref.sid: move.target
            for vmid, move in memo.moves.items()
            if move.sent_at is not None and move.target and vmid in seen.inventory.guests
        }
        nodes = hosts.nodes(self.now, leaving)
        taking = frozenset(each.name for each in nodes if each.accepts)
        refused: dict[int, Left] = {}
        demands = []
        for guest in ready:
            demand = self._demand(guest, taking, locations)
            if isinstance(demand, protection.Refusal):
                refused[guest.ref.vmid] = Left(guest.ref, Standing.STAYS, demand.message)
            else:
                demands.append(demand)
        question = placement.ask(self.now, demands, nodes, locations)
        plan = placement.answer(question, memo.plans.plan(question.asked), leaving)
        for guest in ready:
            if refusal := plan.refusals.get(guest.ref.vmid):
                refused[guest.ref.vmid] = Left(guest.ref, Standing.STAYS, refusal.message)
        return dict(plan.targets), refused

    def _demand(
        self, guest: cluster.GuestResource, taking: frozenset[str], locations: Mapping[str, str]
    ) -> placement.Demand | protection.Refusal:
        """What the guest needs. The node to which it could not be moved last time is its last resort."""
        resource, sid, kept = self._managed(guest), guest.ref.sid, None
        if resource is not None and resource.failback:
            online = frozenset(n for n, v in self.now.verdicts.items() if v.state is evidence.State.ONLINE)
            kept = ha_rules.allowed_nodes(sid, online, self.now.seen.ha_rules, locations)
            if taking and not kept & taking:
                return protection.Refusal(
                    FailoverReady.NATIVE_RULE_FORBIDS,
                    "the HA rules of Proxmox would move it back at once, because its failback is on: "
                    f"'ha-manager set {sid} --failback 0', or change the rule",
                )
        move = self.now.memo.moves.get(guest.ref.vmid)
        return placement.Demand(
            guest.ref.vmid,
            sid,
            self.now.seen.memory_of(guest),
            self.now.seen.config(guest.ref.vmid),
            shunned=move.target if move is not None and move.attempts else "",
            by_rules=resource is not None,
            kept=kept,
        )

    def _managed(self, guest: cluster.GuestResource) -> cluster.HAResource | None:
        """Its HA resource, if native HA looks after it."""
        resource = self.now.seen.resource(guest.ref.sid)
        ignored = resource is not None and resource.state is cluster.HAState.IGNORED
        return None if ignored else resource
