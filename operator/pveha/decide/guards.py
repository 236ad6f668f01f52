"""Whether pveha may act at all (design §6): new operations, and the finishing of what was begun."""

import dataclasses
import datetime
from collections.abc import Mapping

from pveha.api import hacluster
from pveha.api.conditions import Acting
from pveha.decide import evidence, history, memory
from pveha.model import snapshot

SETTLE_SECONDS = 5.0
"""No action on a first view after our own start. An epoch is opened meanwhile, so that this wait and that of
S15 run side by side."""
INHERITED_WAIT_SECONDS = 5.0
"""How long a new leader with open operations lets the old one's requests land after `begin` (S15)."""
HA_PRIVILEGE = "Sys.Console"
"""Proxmox demands it of who changes HA resources."""
START_PRIVILEGE = "VM.PowerMgmt"
"""Proxmox demands it of who starts guests."""
OLDEST_VERSION = 9
"""Of Proxmox VE: 8 has HA groups in place of rules, and `nofailback` on them in place of `failback`."""
STOPPING = frozenset({Acting.NOT_LEADER, Acting.NOT_OWNED, Acting.NOT_QUORATE, Acting.HISTORY_FORKED})
SPLIT_SECONDS = 3.0
"""Views read one after the other contradict each other for a moment whenever a node leaves or joins: nothing
new is begun then, but only a contradiction that lasts ends what is in flight."""
DATA_FRESH_SECONDS = 30.0
"""Guests, HA configuration and HA state older than this are no ground to act on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Permission:
    """`begin`: may start what was not begun. `finish`: may finish or undo what was. `reason` of condition
    Acting."""

    begin: bool
    finish: bool
    reason: Acting
    message: str
    stop: bool = False
    """Whether operations in flight are cancelled rather than carried to their end."""


def permission(
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    members: evidence.Membership,
    verdicts: Mapping[str, evidence.Verdict],
) -> Permission:
    """The first reason not to act, or permission to do so."""
    stop = _stop(seen, spec, memo, members)
    if stop:
        split = stop[0] is Acting.NOT_QUORATE and members.quorate
        passing = split and seen.now - (memo.split_since or seen.now) < SPLIT_SECONDS
        return Permission(False, False, *stop, stop=stop[0] in STOPPING and not passing)
    if spec.mode is hacluster.Mode.OBSERVE:
        return Permission(
            False, memo.epoch is not None, Acting.OBSERVE, "mode is Observe: pveha only says what it would do"
        )
    if seen.ha_status is not None and not seen.ha_status.armed:
        return Permission(
            False,
            False,
            Acting.DISARMED,
            "Proxmox HA is disarmed: 'ha-manager crm-command arm-ha' arms it",
        )
    if lacking := lacking_privileges(seen):
        return Permission(False, True, Acting.NOT_CONNECTED, lacking)
    if memo.epoch is None and not spec.recovery.registers_alone:
        return Permission(
            True, False, Acting.STARTING, "opening an epoch on the Proxmox cluster before the first operation"
        )
    if seen.now - seen.started_at < SETTLE_SECONDS:
        return Permission(False, False, Acting.STARTING, "pveha has just started and looks first")
    if memo.inherited and _oldest(seen) < memo.epoch_at + INHERITED_WAIT_SECONDS:
        return Permission(
            False, False, Acting.STARTING, "waiting for what an earlier leader may still have sent to land"
        )
    if pause := paused(spec):
        return Permission(False, True, Acting.PAUSED, pause)
    if wide := blast_radius(spec, verdicts):
        return Permission(False, True, Acting.BLAST_RADIUS, wide)
    if waiting := cooldown(seen, spec, memo):
        return Permission(False, True, Acting.STORM_COOLDOWN, waiting)
    return Permission(True, True, Acting.OK, "pveha acts when a node dies")


def _stop(
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    members: evidence.Membership,
) -> tuple[Acting, str] | None:
    if seen.lease_remaining <= 0:
        return Acting.NOT_LEADER, "another replica of pveha holds the Lease of this cluster"
    if not members.reachable:
        return (
            Acting.NOT_CONNECTED,
            "no node of the cluster answers pveha: nothing is done, Proxmox's own HA goes on",
        )
    if not members.quorate:
        return (
            Acting.NOT_QUORATE,
            "no node that answers is quorate: nothing is done until the cluster has quorum again",
        )
    if members.split:
        return Acting.NOT_QUORATE, f"{members.split}: nothing is done until this is resolved"
    if behind := old_history(seen, spec, memo, members):
        return behind
    parts = {"guests": seen.inventory, "HA configuration": seen.ha_config, "HA state": seen.ha_status}
    stale = [
        name
        for name, part in parts.items()
        if part is None or part.answered_at < seen.now - DATA_FRESH_SECONDS
    ]
    if stale:
        return Acting.NOT_CONNECTED, f"{' and '.join(stale)} of the cluster cannot be read"
    if memo.superseded:
        return Acting.NOT_OWNED, f"the Proxmox cluster is owned by {memo.superseded}"
    if old := unsupported(seen):
        return Acting.NOT_CONNECTED, old
    return None


def paused(spec: hacluster.HAClusterSpec) -> str:
    """Who wants nothing to be begun, or an empty string."""
    return f"paused by {', '.join(spec.pause_requests)} (spec.pauseRequests)" if spec.pause_requests else ""


def old_history(
    seen: snapshot.Snapshot,
    spec: hacluster.HAClusterSpec,
    memo: memory.Memory,
    members: evidence.Membership,
) -> tuple[Acting, str] | None:
    """Why what the quorate nodes show may be what was true once, or None."""
    where = history.place(memo, members)
    if where is history.Place.NEWEST or spec.recovery.registers_alone:
        return None
    present = evidence.survivors(members)
    if where is history.Place.UNKNOWN:
        text = f"waiting for {', '.join(present)} to tell that the cluster's newest epoch is known there"
        return Acting.STARTING, text
    here, absent = ", ".join(present), ", ".join(sorted(members.nodes - set(present))) or "no other node"
    return Acting.HISTORY_FORKED, (
        f"{here} went on without {absent} from an old state of the cluster: epoch {memo.newest} is not known "
        "there. When all are together again, one side loses what it has written, and guests may run twice: "
        f"switch {here} off, then switch all nodes on together. A node that never returns is removed with "
        "'pvecm delnode' once it is sure to be off"
    )


def unsupported(seen: snapshot.Snapshot) -> str:
    """Why pveha does nothing on these versions of Proxmox VE, or an empty string."""
    versions = seen.privileges.versions if seen.privileges is not None else {"": seen.version}
    old = {name: version for name, version in versions.items() if _is_old(version)}
    if not old:
        return ""
    if len(old) < len(versions):
        told = ", ".join(f"{name} runs {version}" for name, version in sorted(old.items()))
        return (
            f"the cluster is being upgraded to Proxmox VE {OLDEST_VERSION} ({told}): as long as one node is "
            "older, HA goes by groups, which pveha does not know: nothing is done; upgrade these nodes too"
        )
    return (
        f"Proxmox VE {seen.version} has HA groups, whose failback and affinities pveha does not know: "
        f"nothing is done; upgrade the nodes to Proxmox VE {OLDEST_VERSION}, which turns groups into rules"
    )


def _is_old(version: str) -> bool:
    major = version.partition(".")[0]
    return major.isdecimal() and int(major) < OLDEST_VERSION


def lacking_privileges(seen: snapshot.Snapshot) -> str:
    """What the token may not do that acting needs, with the remedy, or an empty string. What looking needs is
    demanded with each answer."""
    if seen.privileges is None:
        return ""
    lacking = []
    if HA_PRIVILEGE not in seen.privileges.root:
        lacking.append(f"{HA_PRIVILEGE} on /")
    if START_PRIVILEGE not in seen.privileges.vms:
        lacking.append(f"{START_PRIVILEGE} on /vms")
    if not lacking:
        return ""
    return (
        f"the token lacks {' and '.join(lacking)} (with propagation), without which pveha can look but not "
        "act: add it to the role of the token and of its user"
    )


def _oldest(seen: snapshot.Snapshot) -> float:
    """When the oldest of the parts that are acted on was read."""
    parts = (seen.inventory, seen.ha_config, seen.ha_status)
    return min(part.answered_at if part is not None else float("-inf") for part in parts)


def lost(verdicts: Mapping[str, evidence.Verdict]) -> tuple[str, ...]:
    """The nodes that count towards the blast radius.

    Nodes of which witnesses differ count: right after quorum returns, one view may tell of a loss that the
    next confirms.
    """
    return tuple(
        name
        for name, verdict in sorted(verdicts.items())
        if verdict.lost or verdict.state is evidence.State.UNCONFIRMED
    )


def allowed_losses(spec: hacluster.HAClusterSpec, nodes: int) -> int:
    """How many of so many nodes may be lost at once."""
    return max(1, nodes * spec.safety.max_failed_nodes_percent // 100)


def blast_radius(spec: hacluster.HAClusterSpec, verdicts: Mapping[str, evidence.Verdict]) -> str:
    """Why too many nodes are lost at once for pveha to believe it, or an empty string.

    Nodes that would lose their power with a lost one count as well (S3), unless they are members: then that
    one is not fenced at all.
    """
    gone = set(lost(verdicts))
    cut = {other for node in spec.nodes if node.name in gone for other in node.also_cuts_off}
    alive = (evidence.State.ONLINE, evidence.State.SUSPECT)
    gone |= {name for name in cut & verdicts.keys() if verdicts[name].state not in alive}
    allowed = allowed_losses(spec, len(verdicts))
    if len(gone) <= allowed:
        return ""
    return (
        f"{len(gone)} of {len(verdicts)} nodes are lost ({', '.join(sorted(gone))}), but "
        f"safety.maxFailedNodesPercent allows {allowed}: pveha leaves them to Proxmox's own HA"
    )


def cooled_down(storm: memory.Storm, now: float, seconds: float) -> bool:
    """Whether a storm has been over for so long."""
    return storm.ended_at is not None and now - storm.ended_at >= seconds


def cooldown(seen: snapshot.Snapshot, spec: hacluster.HAClusterSpec, memo: memory.Memory) -> str:
    """Why nothing is begun after a storm, or an empty string."""
    storm, seconds = memo.storm, spec.safety.storm_cooldown_seconds
    if storm is None or cooled_down(storm, seen.now, seconds):
        return ""
    ended = storm.ended if storm.ended is not None else seen.wall
    return (
        f"after a storm ({storm.cause}; over since {_moment(ended)}) nothing new is begun for {seconds} s "
        f"(safety.stormCooldownSeconds), until {_moment(ended + seconds)}: what was begun is finished, and "
        "Proxmox's own HA goes on"
    )


def _moment(timestamp: float) -> str:
    return f"{datetime.datetime.fromtimestamp(timestamp, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
