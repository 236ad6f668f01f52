"""Which nodes take guests, and what they have for them."""

from collections.abc import Iterable, Mapping, Set

from pveha.api import hacluster
from pveha.api.conditions import FailoverReady
from pveha.decide import evidence, memory, protection, situation
from pveha.decide.placing import problem
from pveha.model import snapshot

SHOWN = 5
"""Nodes that one sentence names."""
LRM_FRESH_SECONDS = 40.0
"""An LRM reports every 5-10 s; the CRM calls it dead after 30 s without (native-ha facts). One round of ours
on top."""
NO_ZONE = "-"
"""The zone of nodes without one: together they count as one zone. No zone can be called so."""


def nodes(now: situation.Situation, leaving: Set[str]) -> tuple[problem.Node, ...]:
    """All nodes, of which none of `leaving` and none that is `excluded` takes guests."""
    cpus = _cpus_in_use(now)
    return tuple(
        _node(name, now, cpus.get(name, 0.0), accepts=name not in leaving and not excluded(name, now))
        for name in now.verdicts
    )


def _node(name: str, now: situation.Situation, used_cpu: float, *, accepts: bool) -> problem.Node:
    seen, spec = now.seen, now.spec
    resource = seen.inventory.nodes.get(name) if seen.inventory else None
    total, used = (resource.max_memory or 0, resource.used_memory or 0) if resource else (0, 0)
    reserve = spec.capacity.memory_reserve_mebibytes << 20
    cpus = (resource.max_cpu or 0.0) if resource else 0.0
    lrm = seen.ha_status.lrms.get(name) if seen.ha_status else None
    return problem.Node(
        name,
        max(0, total * (100 + spec.capacity.memory_overcommit_percent) // 100 - reserve),
        cpu=cpus * (spec.capacity.cpu_allocation_ratio or 0),
        used_memory=used + now.promised.get(name, 0),
        used_cpu=used_cpu,
        zone=spec.zone(name) or NO_ZONE,
        rank=0 if lrm is not None and lrm.state == "active" else 1,
        accepts=accepts,
    )


def cpus(now: situation.Situation, vmids: Iterable[int]) -> dict[int, float]:
    """vCPUs of guests; empty where CPUs are no limit."""
    if now.spec.capacity.cpu_allocation_ratio is None or now.seen.inventory is None:
        return {}
    found = now.seen.inventory.guests
    return {vmid: now.seen.cpus_of(found[vmid]) for vmid in vmids if vmid in found}


def _cpus_in_use(now: situation.Situation) -> Mapping[str, float]:
    """vCPUs per node of the guests that run there or are on their way there; empty where CPUs are no
    limit."""
    seen, total = now.seen, dict[str, float]()
    found = seen.inventory.guests if seen.inventory is not None else {}
    counted = cpus(now, found)
    taken = seen.takeovers() if counted else {}
    for vmid, each in counted.items():
        guest, protected = found[vmid], now.protected.guests.get(vmid)
        if vmid in taken:
            where = {taken[vmid].target}
        else:
            starting = protected is not None and protected.comment.mark is not None
            here = guest.node if guest.status != "stopped" or starting else ""
            where = {here, situation.heading(guest, seen, now.memo)} - {""}
        for name in where:
            total[name] = total.get(name, 0.0) + each
    return total


def excluded(name: str, now: situation.Situation) -> str:
    """Why no guest is started on `name`, or an empty string: it must be online long enough and answer us, its
    LRM be alive and in active mode (S11), and neither pveha nor its users keep it from taking guests."""
    seen, spec, verdict = now.seen, now.spec, now.verdicts[name]
    known, probe = now.memo.node(name), seen.probes.get(name)
    if verdict.state is not evidence.State.ONLINE:
        return f"it is {verdict.state}"
    if spec.availability(name) is not hacluster.Availability.ACTIVE:
        return f"its availability is {spec.availability(name)}"
    if known.quarantined_until is not None:
        return "it is in quarantine"
    patience = spec.detection.suspect_after_seconds
    if probe is None or (probe.failed_since is not None and seen.now - probe.failed_since >= patience):
        return "its API does not answer"
    least = spec.detection.recover_after_seconds
    if known.online_since is None or seen.now - known.online_since < least:
        return f"it has been online for less than {least} s"
    if seen.now < known.may_land_until:
        return "a command to switch it off may still be carried out"
    if not now.ha_unused and not lrm_alive(name, seen, now.memo):
        return "its LRM does not take services"
    if f"shell/{name}" in seen.problems:
        return "its node shell does not answer"
    return ""


def nobody(now: situation.Situation, leaving: Set[str]) -> protection.Refusal:
    """What is said where no node beside `leaving` takes guests."""
    why = {name: text for name in sorted(now.verdicts.keys() - leaving) if (text := excluded(name, now))}
    told = "; ".join(f"{name}: {text}" for name, text in list(why.items())[:SHOWN]) or "there is none"
    more = f"; and {len(why) - SHOWN} more" if len(why) > SHOWN else ""
    return protection.Refusal(FailoverReady.NO_TARGET, f"no other node takes guests now ({told}{more})")


def held_for_lost(now: situation.Situation) -> frozenset[str]:
    """Nodes that the CRM fences, or has begun to: it starts and stops nothing there, and moves nothing there,
    though they be back."""
    status = now.seen.ha_status.node_status if now.seen.ha_status is not None else {}
    return frozenset(name for name, state in status.items() if state == "fence")


def lrm_alive(name: str, seen: snapshot.Snapshot, memo: memory.Memory) -> bool:
    """Whether the LRM reports, and would take services (idle ones become active with the first)."""
    lrm = seen.ha_status.lrms.get(name) if seen.ha_status else None
    fresh = seen.now - memo.node(name).lrm_moved_at <= LRM_FRESH_SECONDS
    return lrm is not None and lrm.mode == "active" and fresh
