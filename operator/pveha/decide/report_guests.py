"""Conditions and statuses of ProtectedVMs and FailoverPolicies."""

from collections.abc import Collection, Mapping

from pveha.api import conditions, failoverpolicy, hacluster, protectedvm
from pveha.decide import (
    evidence,
    native,
    outcomes,
    placement,
    protection,
    readiness,
    replicas,
    report_placement,
    sequence,
)
from pveha.decide import told as told_
from pveha.model import node, snapshot


def policy_status(policy: failoverpolicy.FailoverPolicy) -> failoverpolicy.FailoverPolicyStatus:
    told: dict[conditions.PolicyCondition, told_.Told] = {
        conditions.PolicyCondition.READY: (True, conditions.PolicyReady.OK, "the policy can be used")
    }
    generation = policy.metadata.generation
    return failoverpolicy.FailoverPolicyStatus(
        observed_generation=generation, conditions=told_.conditions(told, generation, _created(policy))
    )


def _created(policy: failoverpolicy.FailoverPolicy) -> float:
    """A policy is ready from its creation: several clusters report the same, so no clock of theirs is
    used."""
    created = policy.metadata.creation_timestamp
    return created.timestamp() if created else 0.0


def refused(
    refusal: protection.Refusal, pvm: protectedvm.ProtectedVM | None, now: told_.Round
) -> protectedvm.ProtectedVMStatus:
    generation = pvm.metadata.generation if pvm else 0
    told: dict[conditions.GuestCondition, told_.Told] = {
        conditions.GuestCondition.READY: (False, refusal.reason, refusal.message),
        conditions.GuestCondition.FAILOVER_READY: (
            False,
            conditions.FailoverReady.NOT_READY,
            "see the condition Ready",
        ),
        conditions.GuestCondition.PLACEMENT_READY: report_placement.refused(pvm),
    }
    return protectedvm.ProtectedVMStatus(
        observed_generation=generation or None,
        guest=pvm.status.guest if pvm else None,
        last_failover=pvm.status.last_failover if pvm else None,
        conditions=told_.conditions(told, generation, now.seen.wall),
    )


def status_of(
    pvm: protectedvm.ProtectedVM,
    now: told_.Round,
    cluster: Mapping[conditions.ClusterCondition, told_.Told],
    plans: Mapping[str, placement.Plan],
    steps: Mapping[int, sequence.Step],
) -> protectedvm.ProtectedVMStatus:
    guest = now.protected.guests.get(pvm.spec.vmid)
    if guest is None or guest.pvm is not pvm:
        refusal = now.protected.refused.get(pvm.metadata.name)
        if refusal is None:
            refusal = protection.Refusal(
                conditions.GuestReady.CLUSTER_NOT_READY, "the cluster has not been read yet"
            )
            before = pvm.status.condition(conditions.GuestCondition.READY)
            if before is None or before.reason == conditions.GuestReady.CLUSTER_NOT_FOUND:
                return refused(refusal, pvm, now)
            return pvm.status
        return refused(refusal, pvm, now)
    ready = _guest_ready(guest, now)
    told: dict[conditions.GuestCondition, told_.Told] = {
        conditions.GuestCondition.READY: ready,
        conditions.GuestCondition.FAILOVER_READY: _failover_ready(guest, now, cluster, plans, steps),
        conditions.GuestCondition.PLACEMENT_READY: report_placement.told_of(guest, now),
    }
    generation = pvm.metadata.generation
    copies = _replicas(guest, now)
    kind: dict[str, str] = {"vm": "VM", "ct": "Container"}
    return protectedvm.ProtectedVMStatus(
        observed_generation=generation,
        conditions=told_.conditions(told, generation, now.seen.wall),
        node=guest.seen.node,
        guest=protectedvm.GuestStatus.model_validate(
            {
                "kind": kind[guest.ref.kind.ha_type],
                "name": guest.seen.name or (pvm.status.guest.name if pvm.status.guest else ""),
                "identity": now.protected.identities.get(guest.vmid, ""),
            }
        ),
        replicas=copies,
        failover_plan=_failover_plan(
            guest, now, told[conditions.GuestCondition.FAILOVER_READY][0], plans, steps, copies
        ),
        last_failover=last_failover(guest, now),
    )


def _replicas(guest: protection.Protected, now: told_.Round) -> tuple[protectedvm.ReplicaStatus, ...]:
    """Its replicas, if it may be started from one. What has been told stays until what is known is younger by
    enough: some jobs sync every minute."""
    if guest.vmid not in now.seen.replicas.jobs or not replicas.wanted(guest):
        return ()
    told = {each.node: each for each in guest.pvm.status.replicas}
    if guest.pvm.status.node != guest.seen.node:
        told = {}
    found = []
    for each in sorted(replicas.known(guest, now.seen), key=lambda each: each.node):
        before = told.get(each.node)
        newer = each.synced - before.last_sync_time.timestamp() if before is not None else 0.0
        if before is not None and newer < replicas.coarseness(guest):
            found.append(before)
        else:
            found.append(protectedvm.ReplicaStatus(node=each.node, last_sync_time=told_.time(each.synced)))
    return tuple(found)


def _failover_plan(
    guest: protection.Protected,
    now: told_.Round,
    ready: bool | None,
    plans: Mapping[str, placement.Plan],
    steps: Mapping[int, sequence.Step],
    copies: Collection[protectedvm.ReplicaStatus],
) -> protectedvm.FailoverPlan | None:
    """Where it would go. While its node is away, the plan from before: that is what is carried out."""
    away = [name for name, verdict in now.verdicts.items() if verdict.state is not evidence.State.ONLINE]
    before = guest.pvm.status.failover_plan
    if before is not None and guest.seen.node in away and before.target_node not in away:
        return before
    target = plans[guest.seen.node].targets.get(guest.vmid) if ready and guest.seen.node in plans else None
    if target is None:
        return None
    step = steps.get(guest.vmid)
    point = next((each.last_sync_time for each in copies if each.node == target), None)
    return protectedvm.FailoverPlan(
        target_node=target,
        expected_downtime_seconds=step.seconds if step is not None else None,
        recovery_point_time=point,
    )


def last_failover(guest: protection.Protected, now: told_.Round) -> protectedvm.LastFailover | None:
    done = now.memo.failovers.get(guest.vmid)
    if done is None:
        return guest.pvm.status.last_failover
    return protectedvm.LastFailover.model_validate(
        {
            "id": done.failure,
            "from": done.dead,
            "to": done.target,
            "cause": done.cause,
            "startTime": told_.time(done.start),
            "completionTime": told_.time(done.completion) if done.completion is not None else None,
            "downtimeSeconds": max(0, round(done.completion - done.start))
            if done.completion is not None
            else None,
            "engine": (hacluster.Engine.NATIVE if done.native else hacluster.Engine.FAST)
            if done.completion is not None
            else None,
            "recoveryPointTime": told_.time(done.replica.recovery_point) if done.replica else None,
            "dataLossSeconds": round(done.replica.lost_seconds) if done.replica else None,
        }
    )


def _guest_ready(guest: protection.Protected, now: told_.Round) -> told_.Told:
    remembered = now.memo.guest(guest.sid)
    if remembered.held_since is not None and remembered.attempts < outcomes.MAX_ATTEMPTS:
        text = (
            "its storage may still hold the lock of the lost node: its start is tried again for two minutes"
        )
        return True, conditions.GuestReady.TAKING_OVER, text
    if guest.vmid in now.seen.takeovers():
        return True, conditions.GuestReady.TAKING_OVER, "it is being started on another node"
    if (wait := now.startup.waits.get(guest.vmid)) is not None:
        if wait.stopped:
            return False, conditions.GuestReady.DEPENDENCY_NOT_READY, f"it {wait.sentence}"
        return True, conditions.GuestReady.WAITING, f"it {wait.sentence}"
    if guest.comment.preempted:
        text = f"it was stopped to make room for {guest.comment.preempted}: started again once there is room"
        return False, conditions.GuestReady.PREEMPTED, text
    if guest.service is not None and guest.service.state == "error":
        return False, conditions.GuestReady.HA_STATE_ERROR, f"Proxmox HA has {guest.sid} in state error"
    if (wrong := _wrong_dependencies(guest, now)) is not None:
        return wrong
    if guest.registered is None:
        if problem := now.memo.edit_problems.get(guest.sid):
            return (
                False,
                conditions.GuestReady.UNREGISTERED,
                f"it could not be registered in Proxmox HA: {problem}",
            )
        if now.spec.mode is hacluster.Mode.OBSERVE:
            return (
                False,
                conditions.GuestReady.OBSERVED,
                "it would be registered in Proxmox HA if mode were Enforce",
            )
        return False, conditions.GuestReady.PENDING, "it is about to be registered in Proxmox HA"
    wants_no_failback = guest.policy.failback.mode is failoverpolicy.FailbackMode.NEVER
    if guest.comment.owner != now.seen.owner and guest.registered.failback and wants_no_failback:
        text = (
            "its HA entry was made by somebody else and has failback on, which moves it back after a failure "
            f"in spite of its policy: 'ha-manager set {guest.sid} --failback 0'"
        )
        return True, conditions.GuestReady.FOREIGN_ENTRY, text
    if who := _without_order(guest, now):
        names = ", ".join(readiness.names_of(guest))
        text = (
            f"{who}, and Proxmox's own HA, which starts this guest, knows no order: spec.dependsOn ({names}) "
            "has no effect"
        )
        return True, conditions.GuestReady.DEPENDENCY_IGNORED, text
    return True, conditions.GuestReady.PROTECTED, "registered in Proxmox HA and watched"


def _without_order(guest: protection.Protected, now: told_.Round) -> str:
    """Who has said that the guest is not started in the order that it asks for, or an empty string."""
    if not guest.pvm.spec.depends_on:
        return ""
    if now.native:
        return f"the engine of HACluster {now.wanted.cluster.metadata.name} is Native"
    if guest.policy.node_failure.action is failoverpolicy.NodeFailureAction.NATIVE:
        return "nodeFailure.action of its policy is Native"
    return ""


def _wrong_dependencies(guest: protection.Protected, now: told_.Round) -> told_.Told | None:
    """What is wrong with what the guest depends on, by what its owner has written, or None."""
    names = readiness.names_of(guest)
    if not names:
        return None
    if (circle := now.startup.circles.get(guest.name)) is not None:
        text = (
            f"it depends on itself: {' -> '.join(circle)}; none of them waits for another, they start by "
            "priority: take one of the names out of a spec.dependsOn"
        )
        return False, conditions.GuestReady.DEPENDENCY_CYCLE, text
    missing = [name for name in names if not _stands_for_a_guest(name, now)]
    if not missing:
        return None
    refused = [
        f"{name}: {now.protected.refused[name].reason}" for name in missing if name in now.protected.refused
    ]
    why = f" ({', '.join(refused)})" if refused else ""
    text = (
        f"spec.dependsOn names {', '.join(missing)}, of no guest of HACluster "
        f"{now.wanted.cluster.metadata.name} in this namespace{why}: it is not waited for"
    )
    return False, conditions.GuestReady.DEPENDENCY_NOT_FOUND, text


def _stands_for_a_guest(name: str, now: told_.Round) -> bool:
    pvm = now.wanted.guests.get(name)
    guest = now.protected.guests.get(pvm.spec.vmid) if pvm is not None else None
    return guest is not None and guest.name == name


def _failover_ready(
    guest: protection.Protected,
    now: told_.Round,
    cluster: Mapping[conditions.ClusterCondition, told_.Told],
    plans: Mapping[str, placement.Plan],
    steps: Mapping[int, sequence.Step],
) -> told_.Told:
    if now.native:
        return _native_ready(guest, now, cluster)
    connected = cluster[conditions.ClusterCondition.CONNECTED]
    if connected[1] is conditions.Connected.PRIVILEGES_MISSING:
        return False, conditions.FailoverReady.FAST_NOT_READY, connected[2]
    for told, reason in (
        (cluster[conditions.ClusterCondition.FAST_READY], conditions.FailoverReady.FAST_NOT_READY),
        (cluster[conditions.ClusterCondition.HA_HEALTHY], conditions.FailoverReady.HA_NOT_HEALTHY),
    ):
        if told[0] is False:
            return False, reason, told[2]
    if (wait := now.startup.waits.get(guest.vmid)) is not None:
        return False, conditions.FailoverReady.WAITING, f"it {wait.sentence}"
    refusal = protection.unrecoverable(guest, now.seen, now.memo) or protection.provable(
        guest.seen.node, now.spec, now.memo
    )
    if refusal is None and guest.seen.node in plans:
        refusal = plans[guest.seen.node].refusals.get(guest.vmid)
    if refusal is not None:
        return False, refusal.reason, refusal.message
    if (step := steps.get(guest.vmid)) is not None and step.held:
        return False, conditions.FailoverReady.DEPENDENCY_NOT_READY, step.held
    return True, conditions.FailoverReady.OK, "it would be started on another node if its node died"


def _native_ready(
    guest: protection.Protected,
    now: told_.Round,
    cluster: Mapping[conditions.ClusterCondition, told_.Told],
) -> told_.Told:
    """Whether Proxmox's own HA would recover the guest, which alone does with engine Native."""
    for type_ in (conditions.ClusterCondition.QUORATE, conditions.ClusterCondition.HA_HEALTHY):
        status, reason, message = cluster[type_]
        if status is False and reason is not conditions.HAHealthy.LRM_NOT_ALIVE:
            return False, conditions.FailoverReady.HA_NOT_HEALTHY, message
    where = now.verdicts.get(guest.seen.node)
    if where is not None and where.lost:
        text = f"its node {where.node} is lost: Proxmox's own HA recovers it, which takes minutes"
        return False, conditions.FailoverReady.NATIVE_AHEAD, text
    if refusal := native.unrecoverable(guest, now.seen, now.memo, now.verdicts, now.judge):
        return False, refusal.reason, refusal.message
    if guest.config is None:
        text = "its configuration has not been read yet, and with it whether other nodes could run it"
        return None, conditions.FailoverReady.DISKS_UNKNOWN, text
    seconds = native.downtime_seconds(guest.seen.node, now.seen)
    text = f"Proxmox's own HA would start it on another node, about {seconds} s after its node's death"
    return True, conditions.FailoverReady.NATIVE, text + _age(guest.config, now.seen)


AGES_MINUTES = (1, 5, 15, 60, 240, 1440)
"""How old what is known of a guest's configuration may be said to be: steps, so that the status stays."""


def _age(config: node.GuestConfig, seen: snapshot.Snapshot) -> str:
    """How old the configuration may be that this is said of, where that is more than a minute."""
    cycle = seen.configs.cycle_seconds if seen.configs is not None else 0.0
    age = max(seen.now - config.read_at, cycle) / 60 if cycle else 0.0
    minutes = next((each for each in AGES_MINUTES if age <= each), AGES_MINUTES[-1])
    if minutes <= AGES_MINUTES[0]:
        return ""
    more = "more than " if age > minutes else "up to "
    return f"; its configuration was read through the API {more}{minutes} min ago"
