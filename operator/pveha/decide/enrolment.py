"""Which guests spec.autoProtect protects, and the hold that keeps many guests from losing protection at once.

A ProtectedVM of ours is called `CLUSTER-VMID`. It is written when an entry selects the guest and nobody else
has written one for it, and deleted when that ends. Guests about to lose their protection are counted from the
world: entries of ours in Proxmox HA that no ProtectedVM names, and ProtectedVMs of ours that nothing selects
any more (docs/decisions/0017).
"""

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping

from pveha.api import conditions, hacluster, meta, protectedvm
from pveha.decide import guards, memory, protection
from pveha.model import cluster, decision, guests, kubernetes, mark, snapshot, specs

FEW = 5
"""So many guests may always lose their protection at once, ..."""
PERCENT = 20
"""... and this part of all that have it; more need a confirmation."""
SETTLED_SECONDS = 15.0
"""So long nobody joins or leaves those that are to lose it before the first does: deleting many takes time,
and so does bringing them back. Guests and HA resources are read one after the other, too."""
LOOK_SECONDS = 0.5
"""Between two looks at whether that time has passed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Enrolment:
    """What is to be done to ProtectedVMs, and which guests lose their protection."""

    changes: Mapping[str, decision.Enrol | decision.Dismiss] = dataclasses.field(default_factory=dict)
    """By name of the ProtectedVM."""
    released: frozenset[int] = frozenset()
    """Guests whose entry in Proxmox HA may be removed, and whose ProtectedVM of ours may be deleted."""
    held: int | None = 0
    """How many guests are held; None: not known."""
    total: int = 0
    """How many guests have protection, those that are to lose it included."""
    due_in: float = float("inf")
    """Seconds until guests may be released."""


def enrol(
    seen: snapshot.Snapshot, wanted: specs.Specs, memo: memory.Memory, allowed: guards.Permission
) -> tuple[Enrolment, memory.Memory]:
    """This round's enrolment. Nothing is begun or counted on without a whole and fresh view."""
    if seen.inventory is None or seen.ha_config is None or not _fresh(seen.inventory, seen.ha_config, seen):
        return Enrolment(held=None), memo
    owned = {p.spec.vmid: p for p in wanted.guests.values() if protection.is_enrolled(p, wanted)}
    named = {pvm.spec.vmid for pvm in wanted.guests.values()}
    written = {p.spec.vmid for p in wanted.guests.values() if not protection.is_enrolled(p, wanted)}
    selected = {
        vmid: entry
        for vmid, entry in select(wanted.cluster.spec.auto_protect, seen.inventory).items()
        if vmid not in written
    }
    hidden = {vmid for vmid in owned if _hidden(seen.inventory.guests.get(vmid))}
    entries = _entries_of_ours(seen.ha_config, seen.owner)
    leaving = set(owned) - set(selected) - hidden
    ended = {vmid for vmid in leaving if vmid in written or _gone(vmid, seen.inventory, seen.ha_config)}
    unprotected = frozenset((entries - named - set(selected)) | (leaving - ended))
    total = len(entries | named | unprotected)

    memo = memory.changed(memo, unprotect=_follow(seen, wanted, memo.unprotect, unprotected, named))
    held = len(unprotected) > max(FEW, total * PERCENT // 100)
    confirmed = len(unprotected) <= memo.unprotect.left
    if held and not confirmed:
        memo = memory.changed(memo, unprotect=_confirmed(wanted, memo.unprotect, len(unprotected)))
        confirmed = len(unprotected) <= memo.unprotect.left
    held = held and not confirmed
    settled = confirmed or seen.now - memo.unprotect.changed_at >= SETTLED_SECONDS
    ready = may_write(seen, allowed)
    released = unprotected if ready and settled and not held and not wanted.unreadable else frozenset()
    changes = _changes(wanted, selected, owned, ended | (released & owned.keys())) if ready else {}
    due_in = float("inf")
    if ready and unprotected and not settled:
        due_in = max(LOOK_SECONDS, memo.unprotect.changed_at + SETTLED_SECONDS - seen.now)
    return Enrolment(changes, released, len(unprotected) if held and settled else 0, total, due_in), memo


def told(enrolled: Enrolment) -> list[str]:
    """What the log says of it."""
    made = [name for name, change in enrolled.changes.items() if isinstance(change, decision.Enrol)]
    gone = [name for name, change in enrolled.changes.items() if isinstance(change, decision.Dismiss)]
    result = [f"write ProtectedVM {', '.join(made)}"] if made else []
    result += [f"delete ProtectedVM {', '.join(gone)}"] if gone else []
    if enrolled.held:
        result.append(
            f"{enrolled.held} of {enrolled.total} guests stay protected until their loss is confirmed"
        )
    return result


def select(
    entries: Iterable[hacluster.AutoProtect], inventory: cluster.Inventory
) -> dict[int, hacluster.AutoProtect]:
    """The first entry that selects each guest. Templates are never selected, nor is what cannot be seen."""
    entries = tuple(entries)
    found = {}
    for vmid, guest in inventory.guests.items() if entries else ():
        if guest.template or _hidden(guest):
            continue
        entry = next((entry for entry in entries if _matches(entry, guest)), None)
        if entry is not None:
            found[vmid] = entry
    return found


def _matches(entry: hacluster.AutoProtect, guest: cluster.GuestResource) -> bool:
    """All criteria that the entry gives hold."""
    return (
        (not entry.tags or not guest.tags.isdisjoint(entry.tags))
        and (not entry.pools or guest.pool in entry.pools)
        and (entry.name_pattern is None or fnmatch.fnmatchcase(guest.name, entry.name_pattern))
    )


def _hidden(guest: cluster.GuestResource | None) -> bool:
    """Proxmox shows a guest whose node has not reported for a while without its name and tags."""
    return guest is not None and guest.status == "unknown"


def _gone(vmid: int, inventory: cluster.Inventory, config: cluster.HAConfig) -> bool:
    """Whether there is no such guest any more to protect. Who destroys a guest has to remove its entry in
    Proxmox HA too; one that has an entry and is not shown is out of sight."""
    guest = inventory.guests.get(vmid)
    if guest is not None:
        return guest.template
    return not any(guests.GuestRef(vmid, kind).sid in config.resources for kind in guests.GuestKind)


def _entries_of_ours(config: cluster.HAConfig, owner: str) -> set[int]:
    """The guests whose HA resource we made."""
    found = set()
    for sid, resource in config.resources.items():
        ref = guests.parse_sid(sid)
        if ref is not None and mark.parse(resource.comment).owner == owner:
            found.add(ref.vmid)
    return found


def _fresh(inventory: cluster.Inventory, config: cluster.HAConfig, seen: snapshot.Snapshot) -> bool:
    return seen.now - min(inventory.answered_at, config.answered_at) <= guards.DATA_FRESH_SECONDS


def may_write(seen: snapshot.Snapshot, allowed: guards.Permission) -> bool:
    """Whether ProtectedVMs may be made and deleted: whenever pveha may begin something, and in Observe, as
    that writes nothing to Proxmox."""
    if seen.now - seen.started_at < guards.SETTLE_SECONDS or guards.lacking_privileges(seen):
        return False
    return allowed.begin or allowed.reason is conditions.Acting.OBSERVE


def remembered(status: hacluster.HAClusterStatus) -> memory.Unprotect:
    """What a new leader knows of confirmations."""
    taken = status.unprotect_confirmed
    if taken is None:
        return memory.Unprotect()
    return memory.Unprotect(annotation=taken.annotation, left=taken.left)


def _follow(
    seen: snapshot.Snapshot,
    wanted: specs.Specs,
    old: memory.Unprotect,
    unprotected: frozenset[int],
    named: set[int],
) -> memory.Unprotect:
    """Who is to lose protection now, and what is left of a confirmation."""
    done = old.vmids - unprotected
    changed = bool(unprotected - old.vmids) or bool(done & named)
    stands = _annotation(wanted) == old.annotation
    left = max(0, old.left - len(done)) if stands and (unprotected or not old.vmids) else 0
    return memory.Unprotect(
        unprotected,
        seen.now if changed else old.changed_at,
        old.annotation if stands else "",
        left,
    )


def _confirmed(wanted: specs.Specs, old: memory.Unprotect, count: int) -> memory.Unprotect:
    """A confirmation counts for at most the number it names, and once."""
    text = _annotation(wanted)
    if text and text != old.annotation and text.isdecimal() and count <= int(text):
        return dataclasses.replace(old, annotation=text, left=int(text))
    return old


def _annotation(wanted: specs.Specs) -> str:
    return wanted.cluster.metadata.annotations.get(meta.CONFIRM_UNPROTECT_ANNOTATION, "").strip()[:64]


def _changes(
    wanted: specs.Specs,
    selected: Mapping[int, hacluster.AutoProtect],
    owned: Mapping[int, protectedvm.ProtectedVM],
    dismissed: Iterable[int],
) -> dict[str, decision.Enrol | decision.Dismiss]:
    result: dict[str, decision.Enrol | decision.Dismiss] = {}
    if wanted.cluster.metadata.uid:
        for vmid, entry in selected.items():
            name = f"{wanted.cluster.name}-{vmid}"
            present = owned.get(vmid)
            taken = name in wanted.unreadable or (present is None and name in wanted.guests)
            if not taken and not (present is not None and _is_as_wanted(present, entry)):
                uid = present.metadata.uid if present is not None else ""
                result[name] = decision.Enrol(_manifest(name, vmid, entry, wanted.cluster), uid)
    for vmid in dismissed:
        meta_ = owned[vmid].metadata
        ref = kubernetes.ObjectRef(protectedvm.ProtectedVM.kind_name, meta_.namespace, meta_.name, meta_.uid)
        result[meta_.name] = decision.Dismiss(ref, meta_.resource_version)
    return result


def _is_as_wanted(pvm: protectedvm.ProtectedVM, entry: hacluster.AutoProtect) -> bool:
    return (
        pvm.spec.policy_ref == entry.policy_ref
        and pvm.metadata.labels.get(meta.AUTO_PROTECT_LABEL) == entry.name
    )


def _manifest(
    name: str, vmid: int, entry: hacluster.AutoProtect, owner: hacluster.HACluster
) -> kubernetes.Manifest:
    policy = {"policyRef": {"name": entry.policy_ref.name}} if entry.policy_ref is not None else {}
    return {
        "apiVersion": meta.API_VERSION,
        "kind": protectedvm.ProtectedVM.kind_name,
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {meta.AUTO_PROTECT_LABEL: entry.name},
            "ownerReferences": [
                {
                    "apiVersion": meta.API_VERSION,
                    "kind": owner.kind_name,
                    "name": owner.name,
                    "uid": owner.metadata.uid,
                    "controller": True,
                }
            ],
        },
        "spec": {"clusterRef": {"name": owner.name}, "vmid": vmid, **policy},
    }
