"""The condition Sound: what works today and would hurt in the next failure, or break by itself soon.

`pveha doctor` says the same in more detail, and more. Messages name no ages, so that nothing is written while
nothing changes.
"""

from collections.abc import Iterator

from pveha.api import conditions
from pveha.decide import evidence, readiness, told
from pveha.model import guests

TIMER_LATE_SECONDS = 180.0
"""The timer's service may take 120 s, and begins again 10 s later."""
SKEW_SECONDS = 5.0
"""More than a node that keeps its time is ever off, and than an answer takes to reach us (2 s at most)."""
HARMFUL_SKEW_SECONDS = 30.0
"""From about 40 s on, a node behind looks for a moment like one whose LRM is dead."""
STALE_RECORD_SECONDS = 60.0
"""The CRM looks every 10 s; what it has moved itself agrees again within two rounds."""
RENEWAL_SECONDS = 14 * 86400.0
"""Proxmox VE renews its own certificates when less is left of them."""
SHOWN = 5
"""Guests that one message names."""
MOVING = frozenset({"migrate", "relocate"})
"""States of a service whose configuration may be ahead of the CRM's record."""

Finding = tuple[conditions.Sound, str]


def sound(now: told.Round) -> told.Told:
    """All findings in one message, with the reason of the first, which is the gravest."""
    if not now.members.quorate or now.seen.inventory is None or now.seen.certificates is None:
        return None, conditions.Sound.UNKNOWN, "the cluster has not been seen whole yet"
    parts = (_votes, _timers, _clocks, _records, _storages, _certificates, _agents)
    found = [each for part in parts for each in part(now)]
    if found:
        return False, found[0][0], "; ".join(text for _, text in found)[:4000]
    if now.spec.recovery.node_shell is None:
        text = "nothing is found; without node shell nobody looks at votes, timers, clocks and storages"
        return True, conditions.Sound.OK, text
    if not now.seen.shells or now.seen.configs is None:
        return None, conditions.Sound.UNKNOWN, "the node shells have not answered yet"
    return True, conditions.Sound.OK, "nothing is found in votes, timers, clocks, storages and certificates"


def _settled(now: told.Round) -> list[str]:
    """Nodes that are Online, and have been for long enough to have told and begun everything."""
    wait = now.spec.detection.recover_after_seconds
    found = []
    for name, verdict in sorted(now.verdicts.items()):
        since = now.memo.node(name).online_since
        if verdict.state is evidence.State.ONLINE and since is not None and now.seen.now - since >= wait:
            found.append(name)
    return found


def _votes(now: told.Round) -> Iterator[Finding]:
    for name in _settled(now):
        if (shell := now.seen.shells.get(name)) and shell.votes.indispensable:
            lost = " or ".join(shell.votes.indispensable)
            text = f"without {lost} the rest has no quorum: add a node or a QDevice ('pvecm qdevice setup')"
            yield conditions.Sound.QUORUM_FRAGILE, text
            return


def _timers(now: told.Round) -> Iterator[Finding]:
    in_use = bool(now.seen.ha_config and now.seen.ha_config.resources)
    reason = conditions.Sound.TIMER_SILENT
    for name in _settled(now):
        if (shell := now.seen.shells.get(name)) is None:
            continue
        timer = shell.timer
        if timer is None:
            yield reason, f"pveha-node on {name} does not tell of its timer: 'pveha node install'"
        elif not timer.enabled:
            yield reason, f"{name} has no timer of pveha-node: 'pveha node install'"
        elif in_use and (timer.looked_seconds_ago is None or timer.looked_seconds_ago > TIMER_LATE_SECONDS):
            yield reason, f"the timer of {name} does not look: 'journalctl -u pveha-repair' there tells why"


def _clocks(now: told.Round) -> Iterator[Finding]:
    """Nodes are compared with their median from three on, with our own clock below that."""
    skews = {}
    for name in _settled(now):
        if (shell := now.seen.shells.get(name)) is not None and shell.time is not None:
            skews[name] = shell.time - (now.seen.wall - (now.seen.now - shell.answered_at))
    middle = sorted(skews.values())[len(skews) // 2] if len(skews) >= 3 else 0.0
    for name, skew in skews.items():
        off = abs(skew - middle)
        if off > SKEW_SECONDS:
            limit = HARMFUL_SKEW_SECONDS if off > HARMFUL_SKEW_SECONDS else SKEW_SECONDS
            way = "behind" if skew < middle else "ahead"
            yield conditions.Sound.CLOCK_SKEWED, f"the clock of {name} is more than {limit:g} s {way}"
    if abs(middle) > SKEW_SECONDS:
        text = f"the nodes' clocks are more than {SKEW_SECONDS:g} s off from that of pveha"
        yield conditions.Sound.CLOCK_SKEWED, text


def _records(now: told.Round) -> Iterator[Finding]:
    assert now.seen.inventory is not None
    services = now.seen.ha_status.services if now.seen.ha_status else {}
    for sid, service in sorted(services.items()):
        ref, since = guests.parse_sid(sid), now.memo.guest(sid).stale_since
        guest = now.seen.inventory.guests.get(ref.vmid) if ref else None
        if since is None or guest is None or now.seen.now - since < STALE_RECORD_SECONDS:
            continue
        if service.node != guest.node and service.state not in MOVING:
            text = f"the CRM has {sid} on {service.node}, its configuration is on {guest.node}"
            yield conditions.Sound.RECORD_STALE, text


def _storages(now: told.Round) -> Iterator[Finding]:
    """Only where the storage is configured: a node that is not to have it is no fault."""
    assert now.seen.inventory is not None
    configs = now.seen.configs.guests if now.seen.configs else {}
    used = {storage for vmid in now.protected.guests if vmid in configs for storage in configs[vmid].storages}
    settled = set(_settled(now))
    away: dict[str, list[str]] = {}
    for each in now.seen.inventory.storages:
        if each.storage in used and each.shared and not each.available and each.node in settled:
            away.setdefault(each.storage, []).append(each.node)
    for storage, names in sorted(away.items()):
        where = ", ".join(sorted(names))
        text = f"storage {storage} is offline on {where}: no protected guest of it can go there"
        yield conditions.Sound.STORAGE_OFFLINE, text


def _certificates(now: told.Round) -> Iterator[Finding]:
    pinned = bool(now.spec.tls.fingerprints)
    remedy = (
        "the node renews it: add the new fingerprint to spec.tls.fingerprints"
        if pinned
        else "'pvecm updatecerts --force' there renews it"
    )
    for address, expires in sorted((now.seen.certificates or {}).items()):
        if expires - now.seen.wall < RENEWAL_SECONDS:
            date = told.time(expires).date().isoformat()
            text = f"the certificate at {address} expires on {date}: {remedy}"
            yield conditions.Sound.CERTIFICATE_EXPIRING, text


def _agents(now: told.Round) -> Iterator[Finding]:
    held = now.seen.privileges
    if now.native or held is None or readiness.AGENT_PRIVILEGE in held.vms:
        return
    if waiting := readiness.behind_agents(now.protected):
        names = ", ".join(waiting[:SHOWN]) + (f" and {len(waiting) - SHOWN} more" if waiting[SHOWN:] else "")
        text = (
            f"the token lacks {readiness.AGENT_PRIVILEGE} on /vms: in a failure {names} would wait in vain "
            "for what they depend on"
        )
        yield conditions.Sound.AGENT_FORBIDDEN, text
