"""Which guest each ProtectedVM stands for, and what keeps it from being protected or recovered."""

import dataclasses
from collections.abc import Iterable, Mapping

from pveha.api import failoverpolicy, hacluster, protectedvm
from pveha.api.conditions import FailoverReady, GuestReady
from pveha.api.meta import AUTO_PROTECT_LABEL, REBIND_ANNOTATION
from pveha.decide import levels, memory, wishes
from pveha.model import cluster, guests, mark, node, snapshot, specs

CLEARABLE_LOCKS = frozenset(
    {"backup", "mounted", "migrate", "snapshot", "snapshot-delete", "suspending", "suspended"}
)
"""Locks that a claim clears (S18): those native recovery clears, minus rollback and clone."""


MARK_ROOM = 256
"""Characters kept free for our marks in the comment of an HA resource."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Why something is not done: a reason of a condition and the sentence for it."""

    reason: GuestReady | FailoverReady
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Protected:
    """A guest with its ProtectedVM, and all that is known of it."""

    pvm: protectedvm.ProtectedVM
    policy: failoverpolicy.FailoverPolicySpec
    seen: cluster.GuestResource
    config: node.GuestConfig | None
    registered: cluster.HAResource | None
    comment: mark.Comment
    service: cluster.ServiceStatus | None

    @property
    def ref(self) -> guests.GuestRef:
        return self.seen.ref

    @property
    def sid(self) -> str:
        return self.seen.ref.sid

    @property
    def vmid(self) -> int:
        return self.seen.ref.vmid

    @property
    def name(self) -> str:
        return self.pvm.metadata.name

    @property
    def memory(self) -> int:
        """Bytes, as configured."""
        return self.config.memory_bytes if self.config else self.seen.max_memory

    @property
    def lock(self) -> str | None:
        """The guest's lock, by whichever of two sources names one."""
        return self.seen.lock or (self.config.lock if self.config else None)

    @property
    def locks(self) -> frozenset[str]:
        """Every lock that a source names."""
        named = (self.seen.lock, self.config.lock if self.config else None)
        return frozenset(lock for lock in named if lock)

    @property
    def order(self) -> tuple[int, int, int]:
        """Sort key of recovery: higher priority first, then the larger guest, then the lower vmid."""
        return (-self.pvm.spec.priority, -self.memory, self.vmid)


@dataclasses.dataclass(frozen=True, slots=True)
class Protection:
    """All ProtectedVMs resolved: by vmid those that stand for a guest, by object name those that do not."""

    guests: Mapping[int, Protected]
    refused: Mapping[str, Refusal]
    identities: Mapping[int, str]
    wished: wishes.Wishes = wishes.NOTHING
    """Of all `guests`, for their placement."""


def protect(seen: snapshot.Snapshot, wanted: specs.Specs, memo: memory.Memory) -> Protection:
    """Resolve every ProtectedVM. Of two for one guest the older wins, one that a person wrote
    over one of ours."""
    found: dict[int, Protected] = {}
    refused = {
        name: Refusal(GuestReady.INVALID, f"{text}; correct the ProtectedVM")
        for name, text in wanted.unreadable.items()
    }
    identities: dict[int, str] = {}
    if seen.inventory is None or seen.ha_config is None or seen.ha_status is None:
        return Protection(found, refused, identities)
    for pvm in sorted(wanted.guests.values(), key=lambda each: _precedence(each, wanted)):
        vmid = pvm.spec.vmid
        resolved = _resolve(pvm, seen, wanted)
        if vmid in found:
            resolved = Refusal(
                GuestReady.DUPLICATE_CLAIM,
                f"guest {vmid} is already protected by ProtectedVM {found[vmid].name}; delete one of the two",
            )
        if isinstance(resolved, Protected):
            known = memo.identities.get(key(pvm)) or (pvm.status.guest.identity if pvm.status.guest else "")
            current = resolved.config.identity if resolved.config else ""
            if known and current and known != current:
                resolved = Refusal(
                    GuestReady.GUEST_REPLACED,
                    f"vmid {vmid} now belongs to another guest (identity {current}, was {known}): "
                    "nothing is done to it; delete this ProtectedVM and create it anew to protect the new "
                    "guest",
                )
            elif known or current:
                identities[vmid] = known or current
        if isinstance(resolved, Refusal):
            refused[pvm.metadata.name] = resolved
        else:
            found[vmid] = resolved
    wished = wishes.resolve(found.values(), wanted.cluster.spec, seen.inventory.nodes)
    return Protection(found, refused, identities, wished)


def key(pvm: protectedvm.ProtectedVM) -> str:
    """What tells a ProtectedVM from one of the same name that was deleted before it (files know no uid)."""
    return pvm.metadata.uid or pvm.metadata.name


def confirmed(guest: Protected, seen: snapshot.Snapshot, memo: memory.Memory) -> bool:
    """Whether the guest was seen to be the one that was meant since its HA resource vanished, if it has: who
    destroys a guest removes that too, and the number is free for another."""
    if not memo.identities.get(key(guest.pvm)):
        return True
    vanished = memo.vanished.get(guest.sid, float("-inf"))
    return guest.config is not None and guest.config.read_at > vanished


def is_enrolled(pvm: protectedvm.ProtectedVM, wanted: specs.Specs) -> bool:
    """Whether pveha made this ProtectedVM for the cluster (spec.autoProtect) and nobody has adopted it by
    taking its label off."""
    return AUTO_PROTECT_LABEL in pvm.metadata.labels and any(
        owner.kind == wanted.cluster.kind_name and owner.uid == wanted.cluster.metadata.uid
        for owner in pvm.metadata.owner_references
    )


def _precedence(pvm: protectedvm.ProtectedVM, wanted: specs.Specs) -> tuple[bool, float, str]:
    """What people wrote comes first, then what is older."""
    created = pvm.metadata.creation_timestamp
    return (is_enrolled(pvm, wanted), created.timestamp() if created else 0.0, pvm.metadata.name)


_DEFAULTS = failoverpolicy.FailoverPolicySpec()


def _resolve(
    pvm: protectedvm.ProtectedVM, seen: snapshot.Snapshot, wanted: specs.Specs
) -> Protected | Refusal:
    assert seen.inventory is not None
    assert seen.ha_config is not None
    assert seen.ha_status is not None
    policy = _DEFAULTS
    if pvm.spec.policy_ref is not None:
        named = wanted.policies.get(pvm.spec.policy_ref.name)
        if named is None:
            return Refusal(
                GuestReady.POLICY_NOT_FOUND,
                f"there is no FailoverPolicy {pvm.spec.policy_ref.name} in namespace "
                f"{pvm.metadata.namespace}: create it, or leave policyRef out for the defaults",
            )
        policy = named.spec
    guest = seen.inventory.guests.get(pvm.spec.vmid)
    if guest is None:
        return Refusal(
            GuestReady.GUEST_NOT_FOUND,
            f"Proxmox cluster {wanted.cluster.metadata.name} has no guest {pvm.spec.vmid}, or the "
            "token may not see it",
        )
    if guest.template:
        return Refusal(GuestReady.IS_TEMPLATE, f"guest {guest.ref} is a template, which never runs")
    registered = seen.ha_config.resources.get(guest.ref.sid)
    return Protected(
        pvm,
        policy,
        guest,
        seen.configs.guests.get(guest.ref.vmid) if seen.configs else None,
        registered,
        mark.parse(registered.comment if registered else ""),
        seen.ha_status.services.get(guest.ref.sid),
    )


def wanted_state(guest: Protected) -> cluster.HAState:
    """HA state to restore: what its owner last wanted. For a guest not registered yet, whether it ran."""
    if guest.registered is not None:
        ignored = guest.registered.state is cluster.HAState.IGNORED
        marked = guest.comment.mark
        return marked.was if marked is not None and ignored else guest.registered.state
    return cluster.HAState.STARTED if guest.seen.status == "running" else cluster.HAState.STOPPED


def unrecoverable(guest: Protected, seen: snapshot.Snapshot, memo: memory.Memory) -> Refusal | None:
    """Why pveha would not take this guest over wherever it might go, or None."""
    if guest.policy.node_failure.action is failoverpolicy.NodeFailureAction.NATIVE:
        return Refusal(FailoverReady.NATIVE_ONLY, "its policy leaves it to Proxmox's own HA")
    if refusal := unmanaged(guest):
        return refusal
    shared = guest.policy.data.require is failoverpolicy.DataRequirement.SHARED
    if shared and guest.vmid in seen.replicas.jobs:
        return Refusal(
            FailoverReady.HAS_REPLICATION,
            "it has a replication job, and its policy does not let it be started from a replica: set "
            "data.require of its FailoverPolicy to SharedOrReplicated; Proxmox's own HA recovers it",
        )
    if held := sorted(lock for lock in guest.locks if lock not in CLEARABLE_LOCKS):
        return Refusal(
            FailoverReady.LOCK_NOT_CLEARABLE,
            f"it is locked ({', '.join(held)}): 'qm unlock {guest.vmid}' once you know why",
        )
    if len(str(guest.comment)) + MARK_ROOM > mark.COMMENT_LIMIT:
        return Refusal(
            FailoverReady.COMMENT_TOO_LONG,
            f"the comment of {guest.sid} leaves no room for pveha's mark: shorten it to "
            f"{mark.COMMENT_LIMIT - MARK_ROOM} characters",
        )
    if guest.config is None:
        return Refusal(
            FailoverReady.NODE_SHELL_UNREACHABLE,
            "its configuration has not been read yet through the node shell",
        )
    problem = memo.guest(guest.sid)
    if problem.problem == FailoverReady.DUPLICATE_SUSPECTED:
        return Refusal(FailoverReady.DUPLICATE_SUSPECTED, problem.problem_message)
    return None


def recoverable(guests: Iterable[Protected], seen: snapshot.Snapshot, memo: memory.Memory) -> list[Protected]:
    """Those that pveha would take over if there is a place for them."""
    return [guest for guest in guests if unrecoverable(guest, seen, memo) is None]


def unmanaged(guest: Protected) -> Refusal | None:
    """Why Proxmox HA leaves the guest alone by what somebody set, or by its own judgement, or None."""
    if guest.registered is not None:
        if guest.registered.state is cluster.HAState.IGNORED and guest.comment.mark is None:
            return Refusal(
                FailoverReady.USER_IGNORED,
                f"somebody set its HA state to ignored: 'ha-manager set {guest.sid} --state "
                "started' undoes it",
            )
        if guest.registered.state is cluster.HAState.DISABLED:
            return Refusal(
                FailoverReady.DISABLED,
                f"its HA state is disabled: 'ha-manager set {guest.sid} --state started' undoes it",
            )
    if guest.service is not None and guest.service.state == "error":
        return Refusal(
            FailoverReady.HA_STATE_ERROR,
            f"Proxmox HA has it in state error: look into why, then set {guest.sid} to disabled "
            "and to started again",
        )
    return None


def provable(name: str, spec: hacluster.HAClusterSpec, memo: memory.Memory) -> Refusal | None:
    """Why the death of node `name` could not be proven within seconds if it died now, or None (S1)."""
    found = spec.levels(name)
    remembered = memo.node(name)
    if not found:
        return Refusal(
            FailoverReady.FENCING_UNVERIFIED,
            f"node {name} has no BMC in spec.nodes of the HACluster: its death could not be proven",
        )
    usable = [level for _, level in found if levels.provable(level, remembered)]
    if any(not levels.by_a_person(level) for level in usable):
        return None
    if remembered.voided:
        return Refusal(
            FailoverReady.FENCING_UNVERIFIED,
            f"{remembered.voided}; check which machine this BMC belongs to, then annotate the HACluster with "
            f"{REBIND_ANNOTATION}={name}",
        )
    if usable:
        return Refusal(FailoverReady.FENCING_MANUAL, f"only a person can confirm that node {name} is off")
    undrilled = sorted(
        method.name
        for _, level in found
        for method, _ in level
        if method.agent is not None and not remembered.method(method.name).bound
    )
    if undrilled and all(method.agent is not None for _, level in found for method, _ in level):
        return Refusal(
            FailoverReady.FENCING_UNVERIFIED,
            f"no drill has shown that {', '.join(undrilled)} switches node {name}: docs/fencing.md tells how",
        )
    return Refusal(
        FailoverReady.FENCING_UNVERIFIED,
        f"the BMC of node {name} has not yet shown the identity that the node itself tells "
        "(UUID or serial number)",
    )
