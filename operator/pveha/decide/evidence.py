"""What state each node is in, from membership, our own probe and the BMC (design §6, the table in
docs/safety.md)."""

import dataclasses
import enum
import itertools
from collections.abc import Mapping

from pveha.api import hacluster
from pveha.decide import levels as levels_
from pveha.decide import memory as memories
from pveha.model import cluster, operations, power, snapshot

DOWN_PATIENCE_SECONDS = 3.0
"""How long a node is Down with its BMC reading on before it is fenced (S5)."""
PATH_BROKEN_SECONDS = 30.0
"""A member that is powered on but silent towards us for this long has a broken path to us, nothing worse."""
ANNOUNCEMENT_SECONDS = 5.0
"""How long a node that has left is called Unconfirmed while the HA state is read once more (S4)."""
CEPH_SECONDS = 120.0
"""What was read of Ceph's monitors counts for so long."""
PLANNED_MODES = frozenset({"restart", "shutdown", "maintenance", "disarm"})
"""LRM modes that announce a node's absence (S4)."""


class State(enum.StrEnum):
    """State of a node, in the field's words (docs/concepts.md)."""

    ONLINE = "Online"
    SUSPECT = "Suspect"
    DOWN = "Down"
    ISOLATED = "Isolated"
    PLANNED_DOWN = "PlannedDown"
    UNPROVABLE = "Unprovable"
    UNCONFIRMED = "Unconfirmed"
    FENCING = "Fencing"
    FENCE_FAILED = "FenceFailed"
    FENCED = "Fenced"
    QUARANTINED = "Quarantined"
    """How an Online node is shown to users that takes no guests (`quarantine`); no verdict."""


PASSING = frozenset({State.SUSPECT, State.UNCONFIRMED, State.FENCING})
"""On the way to another state: status shows them, but they make no Event."""
LOST = frozenset(
    {State.DOWN, State.ISOLATED, State.UNPROVABLE, State.FENCING, State.FENCE_FAILED, State.FENCED}
)
"""The quorate majority says it is gone, for whatever reason other than a planned one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """State of one node with the sentence that explains it; `fence_at` is when patience ends (None: never
    fence)."""

    node: str
    state: State
    reason: str
    fence_at: float | None = None
    level: levels_.Level | None = None
    """The level of fencing methods that would be used."""
    contradiction: str = ""
    """Why the word of `contradicted` no longer counts."""
    contradicted: frozenset[str] = frozenset()
    """Methods that switch another machine."""
    path_broken: bool = False
    """A member with power whose API does not answer us: nothing is wrong but our path to it."""

    @property
    def lost(self) -> bool:
        """Whether it is in one of the states of `LOST`."""
        return self.state in LOST

    @property
    def reads_off(self) -> bool:
        """Whether a level of fencing methods shows it without power."""
        return self.level is not None and self.level.state is power.PowerState.OFF


@dataclasses.dataclass(frozen=True, slots=True)
class Membership:
    """The views of this moment put together. `split`: quorate witnesses exclude each other."""

    witnesses: tuple[cluster.MembershipView, ...]
    """Fresh quorate views."""
    nodes: frozenset[str]
    quorate: bool
    reachable: bool
    """Whether any node answered lately, quorate or not."""
    split: str
    apart: bool = False
    """Whether two of them exclude *each other*: `/etc/pve` may differ too, not only when each was asked."""


def membership(seen: snapshot.Snapshot, detection: hacluster.Detection) -> Membership:
    """Put the views together. A view counts while its witness answers and the view is fresh."""
    oldest = seen.now - (2 * detection.probe_period_seconds + 2.0)
    fresh = [
        view
        for name, view in sorted(seen.views.items())
        if view.answered_at >= oldest and (name not in seen.probes or seen.probes[name].failed_since is None)
    ]
    quorate = tuple(view for view in fresh if view.quorate)
    nodes = frozenset(name for view in (quorate or seen.views.values()) for name in view.online)
    split = ""
    for view in quorate:
        for other in quorate:
            if not view.online.get(other.witness, False):
                split = (
                    f"{view.witness} and {other.witness} are both quorate, but {view.witness} does not see "
                    f"{other.witness}"
                )
    apart = any(
        not one.online.get(other.witness, False) and not other.online.get(one.witness, False)
        for one, other in itertools.combinations(quorate, 2)
    )
    return Membership(quorate, nodes, bool(quorate), bool(fresh), split or _denied(quorate, fresh), apart)


def _denied(quorate: tuple[cluster.MembershipView, ...], fresh: list[cluster.MembershipView]) -> str:
    """How the only node that says it is quorate is contradicted by one that it counts as a member: it is
    frozen, and quorum is lost (S6). Empty if there is no such contradiction."""
    if len(quorate) != 1:
        return ""
    (alone,) = quorate
    for view in fresh:
        if not view.quorate and alone.online.get(view.witness, False):
            return f"{alone.witness} is quorate with {view.witness}, but {view.witness} has no quorum"
    return ""


def is_offline(name: str, members: Membership) -> bool | None:
    """Whether the majority says `name` is gone: True, False, or None where witnesses differ or are too few.

    Two witnesses are needed, or all survivors if only one is left (S6).
    """
    views = [view for view in members.witnesses if view.witness != name]
    if not views:
        return False if any(view.online.get(name) for view in members.witnesses) else None
    votes = {view.online.get(name, False) for view in views}
    if votes == {True}:
        return False
    if votes == {False}:
        survivors = {member for view in views for member in view.members}
        return True if len(views) >= min(2, len(survivors)) else None
    return None


def survivors(members: Membership) -> tuple[str, ...]:
    """Every node that a quorate witness sees as a member."""
    return tuple(sorted({member for view in members.witnesses for member in view.members}))


def planned(name: str, ha_status: cluster.HAStatus | None) -> str:
    """Why `name`'s absence was announced (S4), or an empty string."""
    if ha_status is None:
        return ""
    lrm = ha_status.lrms.get(name)
    if lrm and lrm.mode in PLANNED_MODES:
        return f"its LRM announced {lrm.mode}"
    if any(status.node == name and status.state == "freeze" for status in ha_status.services.values()):
        return "its services are frozen"
    return ""


def verdicts(
    seen: snapshot.Snapshot, spec: hacluster.HAClusterSpec, memory: memories.Memory, members: Membership
) -> Mapping[str, Verdict]:
    """A verdict for every node of the cluster."""
    return {name: _verdict(name, seen, spec, memory, members) for name in sorted(members.nodes)}


def _verdict(
    name: str,
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memory: memories.Memory,
    members: Membership,
) -> Verdict:
    remembered = memory.node(name)
    probe = seen.probes.get(name)
    silent_since = probe.failed_since if probe else None
    answers = probe is not None and silent_since is None
    wrong = levels_.contradicted(seen, spec, name, remembered)
    contradiction = f"the BMC of {name} reads off while {name} answers" if wrong else ""
    offline = is_offline(name, members)
    fencing = _being_fenced(name, seen)
    if answers and members.quorate and offline is False and not fencing:
        return Verdict(name, State.ONLINE, "", contradiction=contradiction, contradicted=wrong)
    found = levels_.levels(seen, spec, name, remembered, wrong)
    level, awaited = levels_.choose(found, remembered.tried)

    def verdict(
        state: State, reason: str, fence_at: float | None = None, *, path_broken: bool = False
    ) -> Verdict:
        return Verdict(name, state, reason, fence_at, level, contradiction, wrong, path_broken)

    if fencing:
        return verdict(State.FENCING, "its power is being switched off")
    if not members.quorate:
        return verdict(State.UNCONFIRMED, "no quorate node tells whether it is a member")
    if offline is None:
        return verdict(State.UNCONFIRMED, "the other nodes do not agree that it is gone")
    if not offline:
        if silent_since is None or seen.now - silent_since < spec.detection.suspect_after_seconds:
            return verdict(State.ONLINE, "")
        powered = any(each.state is power.PowerState.ON for each in found)
        if powered and seen.now - silent_since > PATH_BROKEN_SECONDS:
            text = "a member and powered on, but its API does not answer us"
            return verdict(State.ONLINE, text, path_broken=True)
        return verdict(State.SUSPECT, "its API does not answer; it is still a member")

    if remembered.proof is not None and not contradiction:
        return verdict(State.FENCED, "proven off")
    if why := planned(name, seen.ha_status):
        return verdict(State.PLANNED_DOWN, f"down as announced: {why}")
    since = remembered.offline_since if remembered.offline_since is not None else seen.now
    if not announcements_read(seen, since) and seen.now - since < ANNOUNCEMENT_SECONDS:
        return verdict(State.UNCONFIRMED, "gone; whether that was announced is being read")
    native = spec.recovery.engine is hacluster.Engine.NATIVE
    if native and level is None:
        if answers:
            return verdict(State.ISOLATED, "out of the cluster, still answering; left to Proxmox's own HA")
        return verdict(State.DOWN, "out of the cluster and silent; left to Proxmox's own HA")
    if awaited and seen.now - since < levels_.READING_SECONDS:
        return verdict(State.UNCONFIRMED, "gone; its BMC is being read")
    if level is None:
        return verdict(
            State.UNPROVABLE, f"gone, but its death cannot be proven: {_why_unproven(found, contradiction)}"
        )
    if also := _also_alive(name, spec, seen, memory, members):
        return verdict(State.UNPROVABLE, f"gone, but switching it off would also cut off {also}")
    if answers and (ceph := _stops_ceph(name, seen)):
        return verdict(State.UNPROVABLE, f"out of the cluster, but still answering, and {ceph}")
    if answers:
        state, reason = State.ISOLATED, "out of the cluster, but still answering"
        fence_at = since + spec.safety.isolated_grace_seconds
    elif level.state is power.PowerState.OFF:
        state, reason, fence_at = State.DOWN, f"out of the cluster, silent, {level.sign}", since
    else:
        state, reason = State.DOWN, f"out of the cluster and silent, {level.sign}"
        fence_at = max(since, silent_since or since) + DOWN_PATIENCE_SECONDS
    if remembered.returned_at is not None and level.state is not power.PowerState.OFF:
        reason = f"{reason}; it had been off and has time to come back"
        fence_at = max(fence_at, remembered.returned_at + spec.safety.planned_down_seconds)
    if remembered.fence_error:
        state, reason = State.FENCE_FAILED, f"could not be fenced: {remembered.fence_error}"
        if level.number in remembered.tried:
            fence_at = max(fence_at, remembered.fence_retry_at)
    return verdict(state, reason, fence_at)


def announcements_read(seen: snapshot.Snapshot, offline_since: float) -> bool:
    """Whether the HA state was read after the node had left: what it announced before is in it (S4)."""
    return seen.ha_status is not None and seen.ha_status.answered_at > offline_since


def _why_unproven(found: tuple[levels_.Level, ...], contradiction: str) -> str:
    if contradiction:
        return contradiction
    if not found:
        return "no BMC was bound to it while it was online"
    return "; ".join(dict.fromkeys(level.why for level in found))


def _also_alive(
    name: str,
    spec: hacluster.HAClusterSpec,
    seen: snapshot.Snapshot,
    memory: memories.Memory,
    members: Membership,
) -> str:
    """A node that loses its power together with `name` and is not lost (S3), or an empty string.

    One that still answers is given its own patience (S5): its guests run.
    """
    node = spec.node(name)
    for other in node.also_cuts_off if node is not None else ():
        if other not in members.nodes:
            continue
        if is_offline(other, members) is not True or planned(other, seen.ha_status):
            return f"{other}, which is not lost"
        probe, since = seen.probes.get(other), memory.node(other).offline_since
        answers = probe is not None and probe.failed_since is None
        if answers and (since is None or seen.now - since < spec.safety.isolated_grace_seconds):
            return f"{other}, which still answers"
    return ""


def _stops_ceph(name: str, seen: snapshot.Snapshot) -> str:
    """Why switching a node off that lives would stop Ceph, and with it the guests of all nodes (S20); or an
    empty string."""
    ceph = seen.ceph
    if ceph is None or seen.now - ceph.answered_at > CEPH_SECONDS or not ceph.last_without(name):
        return ""
    return (
        f"without its monitor Ceph would lose its quorum ({len(ceph.quorum)} of {ceph.count} monitors are in "
        "it): repair Ceph's other monitors, or the node's cluster network"
    )


def _being_fenced(name: str, seen: snapshot.Snapshot) -> bool:
    return any(
        isinstance(state.operation, operations.Fence)
        and state.operation.node == name
        and state.outcome is None
        for state in seen.operations
    )
