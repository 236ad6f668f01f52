"""Bring the memory up to date with a snapshot: what changed, and (`outcomes`) what became of operations that
ended."""

import dataclasses
from collections.abc import Mapping

from pveha.api import fencing, hacluster
from pveha.decide import drill, enrolment, evidence, levels, memory, outcomes, quarantine, storm
from pveha.model import cluster, guests, mark, operations, power, snapshot

CONTRADICTION_WINDOW_SECONDS = 30.0
"""A second node that drops this soon after our command may be the one that was really switched off (S1)."""
BOOT_SECONDS = 10.0
"""No machine answers this soon after it was off: one that does was not off (S1)."""
SET_BACK_SECONDS = 30.0
"""A flush that is so much older than one before is of a clock that was set back, or of another node's:
flushes are counted anew. No node that is believed lags so far behind."""
CATCH_UP_SECONDS = 1.0
"""After quorum has returned, until all that is read was asked for, and answered with what the newest of the
members knows."""


def first(status: hacluster.HAClusterStatus) -> memory.Memory:
    """The memory of an operator that has just started: only what survives in the status, the BMC bindings
    (S1), a storm, flaps, the newest epoch, and a confirmation that was taken."""
    loss = status.last_failure
    nodes = quarantine.remembered(status)
    for binding in status.bindings:
        nodes[binding.name] = dataclasses.replace(
            nodes.get(binding.name, memory.NodeMemory()),
            identities=frozenset(binding.identities),
            methods={
                method.name: memory.MethodMemory(
                    bound=True, drill=method.drill or "", voided=method.voided or ""
                )
                for method in binding.methods
            },
        )
    return memory.Memory(
        reported_loss=loss.node if loss is not None and loss.completion_time is not None else "",
        unended=loss if loss is not None and loss.completion_time is None else None,
        nodes=nodes,
        storm=storm.remembered(status),
        newest=status.epoch or 0,
        unprotect=enrolment.remembered(status),
    )


def recall(
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    members: evidence.Membership,
    memo: memory.Memory,
    rebind: frozenset[str],
    confirmed: frozenset[str] = frozenset(),
) -> memory.Memory:
    """The memory as of this snapshot; `rebind` names nodes whose voided bindings a person wants cleared,
    `confirmed` failures whose node a person says is off."""
    if members.quorate and (members.apart or memo.apart or memo.unquorate_since is not None):
        memo = memory.changed(memo, quorate_since=seen.now)
    memo = memory.changed(memo, apart=members.apart or (memo.apart and not members.quorate))
    rebound = rebind if memo.rebound is None else memo.rebound & rebind
    nodes = {
        name: _node(name, seen, spec, members, memo.node(name), name in rebind - rebound, confirmed)
        for name in members.nodes
    }
    nodes = {**memo.nodes, **nodes}
    rebound |= {name for name in rebind & members.nodes if not nodes[name].voided}
    memo = memory.changed(memo, nodes=nodes, rebound=rebound, guests=_guests(seen, memo))
    if seen.ha_status is not None and seen.ha_status.timestamp != memo.manager_timestamp:
        moved_at = _moved_at(seen, memo.manager_timestamp, seen.ha_status.timestamp)
        memo = memory.changed(memo, manager_timestamp=seen.ha_status.timestamp, manager_moved_at=moved_at)
    if seen.ha_config is not None:
        memo = _vanished(memo, seen.ha_config)
    for state in seen.operations:
        if state.outcome is not None:
            memo = outcomes.fold(memo, state.operation, state.outcome, seen)
            if isinstance(state.operation, operations.Takeover | operations.EditHA):
                memo = memory.changed(memo, acted_at=max(memo.acted_at, state.outcome.at))
    split_since = None if not members.split else memo.split_since or seen.now
    nodes = drill.bind(_void_by_others(memo.nodes, seen, spec), seen, spec)
    memo = memory.changed(memo, nodes=nodes, split_since=split_since)
    return _epoch(memo, seen)


def _vanished(memo: memory.Memory, config: cluster.HAConfig) -> memory.Memory:
    """Note which HA resources are gone that were there before, and since when."""
    present = frozenset(config.resources)
    gone = {**memo.vanished, **dict.fromkeys(memo.registered - present, config.answered_at)}
    return memory.changed(
        memo,
        registered=present,
        vanished={sid: since for sid, since in gone.items() if sid not in present},
    )


def _moved_at(seen: snapshot.Snapshot, old: int, new: int) -> float:
    """When a timestamp last moved: now, but on first sight what its own clock says, as it may stand still."""
    return seen.now if old else seen.now - max(0.0, seen.wall - new)


def _node(
    name: str,
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    members: evidence.Membership,
    old: memory.NodeMemory,
    rebind: bool,
    confirmed: frozenset[str],
) -> memory.NodeMemory:
    new = old
    offline = evidence.is_offline(name, members)
    probe = seen.probes.get(name)
    if offline is False:
        if old.online_since is None and old.offline_since is not None:
            new = memory.changed(new, online_since=seen.now)
        elif old.online_since is None:
            resource = seen.inventory.nodes.get(name) if seen.inventory else None
            if resource is not None and resource.uptime is not None:
                new = memory.changed(new, online_since=seen.now - resource.uptime)
        new = memory.changed(
            new,
            offline_since=None,
            failure="",
            proof=None,
            returned_at=None,
            fence_error="",
            fence_attempts=0,
            tried=frozenset(),
            confirmed_at=None,
            refuted="",
            power_on_again_at=float("-inf"),
        )
    elif offline is True and old.offline_since is None:
        new = memory.changed(
            new,
            offline_since=seen.now,
            offline_timestamp=seen.wall,
            online_since=None,
            failure=f"{name}-{int(seen.wall)}",
        )
    silent = probe.failed_since if probe else None
    if silent is None:
        new = memory.changed(new, silent_since=None)
    elif old.silent_since is None:
        new = memory.changed(new, silent_since=silent, silent_timestamp=seen.wall - (seen.now - silent))

    shell = seen.shells.get(name)
    if offline is False and shell is not None and (rebind or not old.voided):
        new = memory.changed(new, identities=shell.identities)
    methods = [pair for _, level in spec.levels(name) for pair in level]
    followed = {
        method.name: _method(
            new.method(method.name),
            method,
            entry,
            name,
            seen,
            new,
            offline is False,
            rebind and offline is False and shell is not None,
        )
        for method, entry in methods
    }
    new = _confirmed(memory.changed(new, methods=followed), confirmed, name, seen, methods)
    if new.proof is not None and (life := _shows_life(new.proof, name, seen, new)):
        answered = probe is not None and probe.failed_since is None
        soon = answered and seen.now - new.proof.last_off_at < BOOT_SECONDS
        devices = [each.switch.method for each in new.proof.methods if not each.manual]
        if len(devices) < len(new.proof.methods):
            new = memory.changed(new, refuted=life)
        if soon:
            new = new.void(f"{name} answers although its BMC had just proven it off", devices)
        new = memory.changed(new, proof=None, returned_at=seen.now)

    lrm = seen.ha_status.lrms.get(name) if seen.ha_status else None
    if lrm is not None and lrm.timestamp != old.lrm_timestamp:
        moved_at = _moved_at(seen, old.lrm_timestamp, lrm.timestamp)
        new = memory.changed(new, lrm_timestamp=lrm.timestamp, lrm_moved_at=moved_at)
    return new


def _method(
    old: memory.MethodMemory,
    method: fencing.FencingMethod,
    entry: fencing.NodeFencing,
    name: str,
    seen: snapshot.Snapshot,
    node: memory.NodeMemory,
    member: bool,
    rebind: bool,
) -> memory.MethodMemory:
    """Follow one method: bind it while its node is online (S1), and note since when it reads off."""
    reading = seen.power.get(power.Switch(name, method.name))
    new = memory.changed(old, voided="") if rebind else old
    if member:
        new = memory.changed(new, commanded_at=None)
    if not method.tells_who:
        drilled = new.drill != "" and new.drill == fencing.device(method, entry)
        return _off_since(memory.changed(new, bound=drilled), reading)
    probe, shell = seen.probes.get(name), seen.shells.get(name)
    online = member and probe is not None and probe.failed_since is None
    if online and shell is not None and reading is not None and not new.voided:
        own = shell.identities - _shared(name, seen)
        new = memory.changed(new, bound=power.same_machine(reading.identities, own))
    if reading is not None and not power.same_machine(reading.identities, node.identities):
        reading = None
    return _off_since(new, reading)


def _shared(name: str, seen: snapshot.Snapshot) -> frozenset[str]:
    """Identities that other nodes tell as well: some boards come with a UUID that all of their kind have."""
    return frozenset(
        identity for other, shell in seen.shells.items() if other != name for identity in shell.identities
    )


def _off_since(method: memory.MethodMemory, reading: power.PowerReading | None) -> memory.MethodMemory:
    """Follow what reads Off: another reading, another machine, or a gap between reads begins anew."""
    if reading is None or reading.state is not power.PowerState.OFF:
        on_read_at = reading.answered_at if reading is not None else method.on_read_at
        return memory.changed(method, off_since=None, off_read_at=float("-inf"), on_read_at=on_read_at)
    gap = reading.asked_at - method.off_read_at > levels.POWER_FRESH_SECONDS
    since = reading.answered_at if gap or method.off_since is None else method.off_since
    return memory.changed(method, off_since=since, off_read_at=reading.answered_at)


def _confirmed(
    node: memory.NodeMemory,
    confirmed: frozenset[str],
    name: str,
    seen: snapshot.Snapshot,
    methods: levels.Methods,
) -> memory.NodeMemory:
    """Follow a person's word: withdrawn, or refuted by a sign of life, it ends, and with it a proof made of
    it."""
    if node.failure == "" or node.failure not in confirmed:
        node = memory.changed(node, confirmed_at=None, refuted="")
    elif node.confirmed_at is None:
        node = memory.changed(node, confirmed_at=seen.now)
    elif not node.refuted:
        node = memory.changed(node, refuted=levels.signs_of_life(seen, name, node, node.confirmed_at))
    proof = node.proof
    if proof is None or not any(method.manual for method in proof.methods):
        return node
    limits = [m.manual.effective_confirmed_seconds for m, _ in methods if m.manual is not None]
    since = node.confirmed_at
    if node.refuted or since is None or seen.now - since > min(limits, default=0):
        return memory.changed(node, proof=None)
    return node


def _shows_life(proof: operations.Proof, name: str, seen: snapshot.Snapshot, node: memory.NodeMemory) -> str:
    """What shows that the node had power, or answered, when asked after it had been proven off."""
    for method in proof.methods:
        reading = seen.power.get(method.switch)
        if (
            reading is not None
            and reading.state is not power.PowerState.OFF
            and reading.asked_at > proof.last_off_at
        ):
            return f"{method.switch} reads {reading.state.value}"
    return levels.signs_of_life(seen, name, node, proof.last_off_at)


def _void_by_others(
    nodes: Mapping[str, memory.NodeMemory], seen: snapshot.Snapshot, spec: hacluster.HAClusterSpec
) -> dict[str, memory.NodeMemory]:
    """Void every method by which we commanded a node off if another one dropped right after, unannounced
    (S1)."""
    dropped = [
        (name, node.offline_since)
        for name, node in nodes.items()
        if node.offline_since is not None
        and evidence.announcements_read(seen, node.offline_since)
        and not evidence.planned(name, seen.ha_status)
    ]
    result = dict(nodes)
    for name, node in nodes.items():
        configured = spec.node(name)
        also = configured.also_cuts_off if configured is not None else ()
        for method, known in node.methods.items():
            told_at = known.commanded_at
            if told_at is None or known.voided:
                continue
            for other, at in dropped:
                after = at - told_at
                if other not in (name, *also) and 0 <= after <= CONTRADICTION_WINDOW_SECONDS:
                    why = f"{other} dropped out {after:.0f} s after {name} was switched off"
                    result[name] = result[name].void(why, [method])
    return result


def is_current(seen: snapshot.Snapshot, memo: memory.Memory) -> bool:
    """Whether guests and HA resources were read after our last change of them, and since the cluster has
    quorum, and only one: a node that has just booted shows, until it has joined, what was true when it went,
    quorate or not."""
    if seen.inventory is None or seen.ha_config is None:
        return False
    since = max(memo.acted_at, memo.quorate_since + CATCH_UP_SECONDS)
    return min(seen.inventory.answered_at, seen.ha_config.answered_at) > since


def _guests(seen: snapshot.Snapshot, memo: memory.Memory) -> dict[str, memory.GuestMemory]:
    """Follow what the CRM does with resources; forget those without mark or trouble."""
    if seen.ha_config is None or seen.ha_status is None or not is_current(seen, memo):
        return dict(memo.guests)
    result = {}
    for sid, resource in seen.ha_config.resources.items():
        old = memo.guest(sid)
        found = mark.parse(resource.comment).mark
        if found is None:
            stale_since = (old.stale_since or seen.now) if _is_stale(sid, seen) else None
            tried = old.attempts > 0 and _is_lost(sid, seen, memo)
            if tried or old.retry_at > seen.now or stale_since is not None:
                result[sid] = memory.GuestMemory(
                    stale_since=stale_since,
                    attempts=old.attempts,
                    retry_at=old.retry_at,
                    problem=old.problem,
                    problem_message=old.problem_message,
                )
            continue
        listed = sid in seen.ha_status.services
        new = dataclasses.replace(old, stale_since=None)
        if found.op != old.marked_by:
            ours = old.marked_by != "" or found.epoch == memo.epoch
            new = dataclasses.replace(new, marked_by=found.op, marked_at=seen.now if ours else None)
        if found.hold and resource.state is not cluster.HAState.IGNORED:
            # A person has decided: what kept it from being started is looked at anew.
            new = dataclasses.replace(new, problem="", problem_message="", attempts=0, retry_at=0.0)
        if resource.state is not cluster.HAState.IGNORED and _is_stale(sid, seen):
            new = dataclasses.replace(new, stale_since=old.stale_since or seen.now)
        if resource.state is cluster.HAState.IGNORED:
            new = dataclasses.replace(new, listed_since=None)
            read_back = new.ignored_seen
            if new.ignored_at is None:
                new = dataclasses.replace(new, ignored_at=seen.ha_config.answered_at)
            elif read_back is None and seen.ha_status.answered_at > new.ignored_at:
                new = dataclasses.replace(
                    new, ignored_seen=seen.ha_status.timestamp, dropped_flushes=frozenset()
                )
            elif read_back is None:
                pass
            elif seen.ha_status.timestamp < read_back - SET_BACK_SECONDS:
                new = dataclasses.replace(
                    new, ignored_at=seen.ha_status.answered_at, ignored_seen=None, dropped_flushes=frozenset()
                )
            elif listed:
                new = dataclasses.replace(new, dropped_flushes=frozenset())
            elif seen.ha_status.timestamp > read_back:
                new = dataclasses.replace(
                    new, dropped_flushes=new.dropped_flushes | {seen.ha_status.timestamp}
                )
        else:
            new = dataclasses.replace(new, ignored_at=None, ignored_seen=None, dropped_flushes=frozenset())
            if not listed:
                new = dataclasses.replace(new, listed_since=None)
            elif new.listed_since is None:
                new = dataclasses.replace(new, listed_since=seen.now)
        result[sid] = new
    return result


def _is_lost(sid: str, seen: snapshot.Snapshot, memo: memory.Memory) -> bool:
    """Whether the guest is still on a node that is gone: what was tried in vain for it is not forgotten."""
    ref = guests.parse_sid(sid)
    guest = seen.inventory.guests.get(ref.vmid) if seen.inventory is not None and ref is not None else None
    return guest is not None and memo.node(guest.node).offline_since is not None


def _is_stale(sid: str, seen: snapshot.Snapshot) -> bool:
    """Whether the CRM's record of a service names another node than the one that holds its file."""
    ref = guests.parse_sid(sid)
    guest = seen.inventory.guests.get(ref.vmid) if seen.inventory is not None and ref is not None else None
    record = seen.service(sid)
    return guest is not None and record is not None and record.node != guest.node


def _epoch(memo: memory.Memory, seen: snapshot.Snapshot) -> memory.Memory:
    """Forget our epoch if a newer one exists that we did not begin, or if leadership was lost."""
    if memo.epoch is None:
        return memo
    beginning = any(isinstance(s.operation, operations.Begin | operations.Fence) for s in seen.operations)
    newest = max((shell.newest_epoch for shell in seen.shells.values()), default=0)
    if seen.lease_remaining <= 0 or (newest > memo.epoch and not beginning):
        return memory.changed(memo, epoch=None)
    return memo
