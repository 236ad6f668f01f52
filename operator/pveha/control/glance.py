"""One look at a cluster, as the operator's observers have it, by somebody who does nothing."""

import asyncio
import time
from collections.abc import Collection, Mapping

from pveha.control import links, store
from pveha.model import errors, ports, snapshot, specs
from pveha.model.kubernetes import ClusterKey
from pveha.observe import watcher

PATIENCE_SECONDS = 30.0
"""For everything to be read once; what has not come then is missing."""
LOOK_SECONDS = 0.2


async def wanted(kubernetes: ports.Kubernetes, namespace: str, name: str) -> specs.Specs:
    """The manifests of one HACluster. Raises NotFound, InvalidConfiguration, and what Kubernetes raises."""
    known = store.Store()
    for kind in store.KINDS:
        known.listed(kind, namespace, await kubernetes.list_objects(kind, namespace))
    key = ClusterKey(namespace, name)
    found = known.specs(key)
    if found is None:
        reasons = [reason for ref, reason in known.refused().items() if ref.name == name]
        if reasons:
            raise errors.InvalidConfiguration(f"HACluster {key}: {reasons[0]}")
        there = ", ".join(sorted(str(each) for each in known.clusters())) or "none"
        raise errors.NotFound(f"no HACluster {name} in namespace {namespace} (there are: {there})")
    return found


async def look(kubernetes: ports.Kubernetes, about: specs.Specs) -> snapshot.Snapshot:
    """Read everything once. Raises what makes it impossible to read the cluster at all."""
    namespace, name = about.cluster.metadata.namespace, about.cluster.metadata.name

    async def read(secret: str) -> Mapping[str, bytes]:
        return await kubernetes.secret(namespace, secret)

    identity = await kubernetes.identity()
    spec = about.cluster.spec
    made = await links.connect(spec, namespace, read)
    loop = asyncio.get_running_loop()
    try:
        async with watcher.Watcher(
            made.outside,
            [node.name for node in spec.nodes],
            f"{identity}/{namespace}/{name}",
            float(spec.detection.probe_period_seconds),
            time.time,
        ) as observer:
            until = loop.time() + PATIENCE_SECONDS
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                seen = observer.snapshot((), 0.0)
                made.learn(seen)
                if _complete(seen, made.outside) or loop.time() > until:
                    break
    finally:
        await made.close()
    if seen.inventory is None:
        problem = seen.problems.get("inventory")
        raise errors.Unreachable(problem.message if problem else "the Proxmox API told nothing in time")
    return seen


def _knows_replicas(seen: snapshot.Snapshot, heard: Collection[str]) -> bool:
    """Whether each replication job has been told of by the node of its guest, if that answers."""
    guests = seen.inventory.guests if seen.inventory is not None else {}
    here = (
        job.id
        for vmid, jobs in seen.replicas.jobs.items()
        for job in jobs
        if vmid in guests and guests[vmid].node in heard
    )
    return seen.replicas.answered_at > float("-inf") and all(id_ in seen.replicas.syncs for id_ in here)


def _complete(seen: snapshot.Snapshot, outside: watcher.Outside) -> bool:
    """Whether nothing is outstanding: all has been read, or was tried again in vain."""
    nodes = seen.inventory.nodes if seen.inventory is not None else {}
    outstanding = {
        "inventory": seen.inventory is None,
        "ha_config": seen.ha_config is None,
        "ha_status": seen.ha_status is None,
        "privileges": seen.privileges is None,
        **{f"power/{each}": each not in seen.power for each in outside.switches if each.node in nodes},
    }
    if outside.shell is not None:
        outstanding["configs"] = seen.configs is None
        outstanding |= {f"shell/{name}": name not in seen.shells for name in nodes}
    heard = [name for name in nodes if name in seen.probes and seen.probes[name].failed_since is None]
    outstanding |= {f"equipment/{name}": name not in seen.equipment for name in heard}
    outstanding["replication"] = not _knows_replicas(seen, heard)
    failed = {
        source
        for source, each in seen.problems.items()
        if seen.now - each.since > watcher.RETRY_SECONDS + 1.0
    }
    return all(name in seen.probes for name in nodes) and not any(
        lacks and source not in failed for source, lacks in outstanding.items()
    )
