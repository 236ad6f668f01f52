"""A simulated data centre in the likeness of a real one, from what pveha has seen of it.

What a snapshot does not tell is assumed, and each assumption is a sentence for the reader.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping

from pveha import api
from pveha.model import cluster, errors, guests, mark, node, power, snapshot, specs
from pveha.sim import config, equipment, rig

BOOT_SECONDS = 30.0
"""From a guest's start until its agent answers."""
LOCK_SECONDS = {"nfs": 90.0, "rbd": 30.0}
"""How long the lock of a dead client outlives it, by type of storage."""
_VERSION = "9.2"
"""Of Proxmox VE, where it was not told."""
_DRIVE_OR_DEVICE = {
    "hostpci": "0000:01:00.0",
    "usb": "host=1-1",
    "serial": "/dev/ttyS0",
    "parallel": "/dev/parport0",
    "dev": "/dev/kvm",
    "mp": "/srv/local,mp=/srv/local",
}
"""What binds a guest to its node, by kind of key; drives have a path."""


@dataclasses.dataclass(frozen=True, slots=True)
class Likeness:
    """What to simulate."""

    about: config.Config
    cluster: Mapping[str, object]
    """The HACluster's spec."""
    bindings: tuple[Mapping[str, object], ...]
    """What drills have left in its status."""
    policies: tuple[dict[str, object], ...]
    guests: tuple[dict[str, object], ...]
    """Manifests."""
    before: tuple[str, ...]
    """Lines of a timeline that bring the world to where the snapshot found it."""
    assumed: tuple[str, ...]


def likeness(seen: snapshot.Snapshot, wanted: specs.Specs) -> Likeness:
    """Raises InvalidConfiguration for a snapshot that tells too little."""
    if seen.inventory is None or seen.ha_config is None or seen.ha_status is None:
        raise errors.InvalidConfiguration(
            "the snapshot lacks the guests or their HA resources: save it anew while the Proxmox API answers"
        )
    return _Likeness(seen, wanted, seen.inventory, seen.ha_config, seen.ha_status).made()


class _Likeness:
    def __init__(
        self,
        seen: snapshot.Snapshot,
        wanted: specs.Specs,
        inventory: cluster.Inventory,
        ha: cluster.HAConfig,
        status: cluster.HAStatus,
    ) -> None:
        self._seen, self._wanted = seen, wanted
        self._inventory, self._ha, self._status = inventory, ha, status
        self._shell = next((shell for _, shell in sorted(seen.shells.items())), None)
        self._before: list[str] = []
        self._assumed: list[str] = []
        self._obedient: list[str] = []
        """Nodes whose BMC was read."""

    def made(self) -> Likeness:
        self._assume(
            f"guests answer {BOOT_SECONDS:g} s after their start; other times are as measured on a cluster "
            "of three nodes"
        )
        self._assume("what pveha remembers of earlier failures (quarantines, storms) is not taken along")
        about = config.Config(
            nodes=tuple(map(self._node, sorted(self._inventory.nodes))),
            storages=tuple(self._storages()),
            guests=tuple(map(self._guest, sorted(self._inventory.guests.values(), key=lambda g: g.ref))),
            rules=tuple(self._rules()),
            mappings=tuple(self._mappings()),
            corosync=self._corosync(),
            master=self._status.master or "",
            drilled=False,
            version=self._seen.version or _VERSION,
            repair_timer=any(shell.timer and shell.timer.enabled for shell in self._seen.shells.values()),
            start_timestamp=self._seen.wall,
        )
        about = self._with_qdevice(about)
        if self._obedient:
            names = ", ".join(self._obedient)
            self._assume(f"BMCs that were read ({names}) do what they are told within two seconds")
        if not self._status.armed:
            self._before.append("disarm ignore")
        return Likeness(
            about,
            self._wanted.cluster.manifest()["spec"],
            tuple(self._bindings()),
            tuple(map(_moved, self._wanted.policies.values())),
            tuple(map(_moved, self._wanted.guests.values())),
            tuple(self._before),
            tuple(self._assumed),
        )

    def _assume(self, sentence: str) -> None:
        self._assumed.append(sentence)

    # Nodes

    def _node(self, name: str) -> config.Node:
        told, default = self._inventory.nodes[name], config.Node(name)
        has = self._seen.equipment.get(name)
        if has is None or has.bridges is None or has.cpu_flags is None:
            self._assume(f"{name} has the bridges, devices and CPU that the guests ask for: it has not told")
        if not told.online or told.max_memory is None:
            self._assume(f"{name} is offline: it is switched off from the beginning")
            self._before.append(f"power off {name}")
        votes = self._shell.votes.configured.get(name, 1) if self._shell is not None else 1
        level, (has_bmc, stranger, pdus) = _level(has), self._power(name)
        flags = (has.cpu_flags or frozenset()) if has is not None else frozenset()
        return dataclasses.replace(
            default,
            memory=told.max_memory or default.memory,
            cpus=int(told.max_cpu or 0) or (has.cpus if has is not None else None) or 256,
            votes=votes,
            has_bmc=has_bmc,
            bmc_uuid=config.stable_uuid(f"stranger to {name}") if stranger else None,
            pdus=pdus,
            bridges=self._bridges(has),
            cpu=level,
            cpu_flags=tuple(sorted(flags)),
            qemu=".".join(map(str, has.qemu)) if has is not None and has.qemu is not None else "99.0",
            isos=tuple(self._isos(has)),
        )

    def _power(self, name: str) -> tuple[bool, bool, tuple[str, ...]]:
        """Whether a node has a BMC, whether that shows another machine, and the units that feed it."""
        spec = self._wanted.cluster.spec
        methods = [method for _, level in spec.levels(name) for method, _ in level if method.manual is None]
        bmcs = [each.name for each in methods if each.agent is None]
        readings = {each: self._seen.power.get(power.Switch(name, each)) for each in bmcs}
        told = self._seen.shells.get(name)
        if silent := [each for each, reading in readings.items() if reading is None]:
            self._assume(f"the BMC of {name} is dead: {', '.join(silent)} was not read")
            self._before.append(f"kill bmc {name}")
        elif bmcs:
            self._obedient.append(name)
        stranger = any(
            reading is not None
            and told is not None
            and not power.same_machine(reading.identities, told.identities)
            for reading in readings.values()
        )
        pdus = tuple(each.name for each in methods if each.agent is not None)
        if pdus:
            self._assume(f"{', '.join(pdus)} switches {name} and nothing else")
        return bool(bmcs), stranger, pdus

    def _bindings(self) -> Iterable[dict[str, object]]:
        for each in self._wanted.cluster.status.bindings:
            methods = [
                {"name": method.name, "drill": method.drill} for method in each.methods if method.drill
            ]
            if methods:
                yield {"name": each.name, "methods": methods}

    def _bridges(self, has: node.Equipment | None) -> tuple[config.Bridge, ...]:
        if has is None or has.bridges is None:
            asked = {network.bridge for each in self._configs.values() for network in each.needs.networks}
            return tuple(config.Bridge(name) for name in sorted(asked))
        return tuple(
            config.Bridge(
                each.name,
                each.vlan_aware,
                " ".join(str(low) if low == high else f"{low}-{high}" for low, high in each.vlans),
                each.uplink,
            )
            for _, each in sorted(has.bridges.items())
        )

    def _isos(self, has: node.Equipment | None) -> Iterable[str]:
        media = has.media if has is not None and has.media is not None else None
        if media is None:
            media = frozenset().union(*(each.needs.media for each in self._configs.values()))
        return (each.partition(":iso/")[2] for each in sorted(media) if each.startswith("local:iso/"))

    # Storages, rules, votes

    def _storages(self) -> Iterable[config.Storage]:
        found: dict[str, list[cluster.StorageResource]] = {}
        for each in self._inventory.storages:
            found.setdefault(each.storage, []).append(each)
        for name, entries in sorted(found.items()):
            nodes = tuple(sorted(each.node for each in entries))
            type_ = entries[0].type or "lvm"
            yield config.Storage(
                name,
                any(each.shared for each in entries),
                type_,
                () if set(nodes) == set(self._inventory.nodes) else nodes,
                LOCK_SECONDS.get(type_, 0.0),
            )
            for each in entries:
                if not each.available and self._inventory.nodes[each.node].online:
                    self._before.append(f"cut storage {each.node} {name}")
        locked = sorted({one.type for one in self._inventory.storages} & LOCK_SECONDS.keys())
        if locked:
            told = ", ".join(f"{each} {LOCK_SECONDS[each]:g} s" for each in locked)
            self._assume(f"locks of a dead client live on for: {told}")

    def _rules(self) -> Iterable[cluster.HARule]:
        if self._seen.rule_config is not None:
            for rule in self._seen.rule_config.rules.values():
                yield dataclasses.replace(rule, comment=self._comment(rule.comment))

    def _mappings(self) -> Iterable[config.Mapping]:
        asked = {name for each in self._configs.values() for name in each.needs.mappings}
        for name in sorted(asked):
            told = {each.node: each.mappings for each in self._seen.equipment.values()}
            nodes = [each for each in sorted(self._inventory.nodes) if name in (told.get(each) or ())]
            unknown = [each for each in sorted(self._inventory.nodes) if told.get(each) is None]
            yield config.Mapping(name, tuple(sorted({*nodes, *unknown})))

    def _corosync(self) -> config.Corosync:
        if self._shell is None:
            self._assume("corosync has its defaults and each node one vote: no node shell told")
            return config.Corosync()
        totem, options = self._shell.totem, self._shell.votes.unsafe_options
        times = (
            {"token": totem.token, "token_coefficient": totem.token_coefficient} if totem is not None else {}
        )
        known = {"two_node", "last_man_standing", "auto_tie_breaker", "allow_downscale"} & options
        return config.Corosync(**times, **dict.fromkeys(known, True))  # type: ignore[arg-type]

    def _with_qdevice(self, about: config.Config) -> config.Config:
        votes = self._shell.votes.qdevice if self._shell is not None else 0
        if not votes:
            return about
        if len(about.nodes) % 2 or any(each.votes != 1 for each in about.nodes):
            self._assume("there is no QDevice: one beside an odd number of nodes cannot be simulated")
            return about
        return dataclasses.replace(about, qdevice=config.Qdevice(votes))

    # Guests

    @property
    def _configs(self) -> Mapping[int, node.GuestConfig]:
        return self._seen.configs.guests if self._seen.configs is not None else {}

    def _guest(self, told: cluster.GuestResource) -> config.Guest:
        about = self._configs.get(told.ref.vmid)
        if about is None:
            self._assume(f"guest {told.ref} asks for memory and CPUs only: its configuration was not read")
        vm = told.ref.kind is guests.GuestKind.VM
        resource = self._ha.resources.get(told.ref.sid)
        return config.Guest(
            told.ref.vmid,
            told.node,
            told.ref.kind,
            told.name,
            about.memory_bytes if about is not None else told.max_memory,
            about.cores if about is not None else math.ceil(told.max_cpu),
            tuple(sorted(about.storages)) if about is not None else (),
            running=told.status == "running",
            ha=self._resource(resource) if resource is not None else None,
            boot_seconds=BOOT_SECONDS,
            tags=tuple(sorted(told.tags)),
            pool=told.pool or "",
            template=told.template,
            uuid=about.identity if about is not None and vm else "",
            lock=(about.lock if about is not None else told.lock) or "",
            onboot=about is not None and about.onboot,
            agent=about is not None and about.agent,
            extra=tuple(_lines(told.ref, about)) if about is not None else (),
            replicas=tuple(self._replicas(told.ref.vmid)),
            bridge="",
        )

    def _replicas(self, vmid: int) -> Iterable[config.Replica]:
        for job in self._seen.replicas.jobs.get(vmid, ()):
            sync = self._seen.replicas.syncs.get(job.id)
            if job.disabled:
                self._assume(f"replication job {job.id}, which is disabled, runs every 15 minutes")
            if sync is not None and sync.last:
                yield config.Replica(job.target, synced_ago=max(0.0, self._seen.wall - sync.last))
            else:
                self._assume(f"replication job {job.id} has never synced: its replica does not exist")

    def _resource(self, resource: cluster.HAResource) -> cluster.HAResource:
        """As it is when nothing is under way."""
        marked = mark.parse(resource.comment).mark
        if marked is None:
            return dataclasses.replace(resource, comment=self._comment(resource.comment))
        self._assume(f"the takeover of {resource.sid} that was under way had not begun")
        return dataclasses.replace(resource, state=marked.was, comment=self._comment(resource.comment))

    def _comment(self, comment: str) -> str:
        """Without marks, and with the simulation's HACluster as owner of what this one owns."""
        parsed = mark.parse(comment).with_mark(None)
        return str(
            dataclasses.replace(parsed, owner=rig.OWNER) if parsed.owner == self._seen.owner else parsed
        )


def _level(has: node.Equipment | None) -> str:
    """The best CPU type that the node's flags allow; of an unknown node the best of all."""
    best, needed = "qemu64", set[str]()
    if has is None or has.cpu_flags is None:
        return list(equipment.LEVELS)[-1]
    for level, flags in equipment.LEVELS.items():
        needed |= set(flags.split())
        if needed <= has.cpu_flags:
            best = level
    return best


def _lines(ref: guests.GuestRef, about: node.GuestConfig) -> Iterable[tuple[str, str]]:
    """Of the configuration file: what the guest asks of a node."""
    vm = ref.kind is guests.GuestKind.VM
    for number, network in enumerate(sorted(about.needs.networks, key=lambda n: (n.bridge, n.tag, n.trunks))):
        device = f"{'virtio' if vm else f'name=eth{number}'},bridge={network.bridge}"
        device += f",tag={network.tag}" if network.tag else ""
        yield f"net{number}", device + (",trunks=2-4094" if network.trunks else "")
    for key in sorted(about.local_devices):
        kind = key.rstrip("0123456789")
        yield key, _DRIVE_OR_DEVICE.get(kind, "/dev/disk/by-id/local")
    if not vm:
        return
    free = {
        f"{kind}{number}" for kind in ("hostpci", "usb", "virtiofs", "ide", "sata") for number in range(16)
    }
    free -= about.local_devices

    def next_(*kinds: str) -> str:
        key = min((each for each in free if each.rstrip("0123456789") in kinds), key=lambda k: (len(k), k))
        free.discard(key)
        return key

    for mapping in sorted(about.needs.mappings):
        kind, _, name = mapping.partition("/")
        key, word = {"pci": ("hostpci", "mapping"), "usb": ("usb", "mapping"), "dir": ("virtiofs", "dirid")}[
            kind
        ]
        yield next_(key), f"{word}={name}"
    for volume in sorted(about.needs.media):
        yield next_("ide", "sata"), f"{volume},media=cdrom"
    for storage in sorted(about.needs.cloudinit):
        yield next_("ide", "sata"), f"{storage}:vm-{ref.vmid}-cloudinit,media=cdrom"
    if about.needs.cpu:
        flags = ";".join(f"+{each}" for each in sorted(about.needs.cpu_flags))
        yield "cpu", about.needs.cpu + (f",flags={flags}" if flags else "")
    else:
        yield "kvm", "0"
    if about.needs.machine:
        yield "machine", about.needs.machine


def _moved(resource: api.FailoverPolicy | api.ProtectedVM) -> dict[str, object]:
    """The manifest, in the simulation's namespace and of its HACluster, without its status."""
    whole = resource.manifest()
    spec = whole.get("spec", {})
    if isinstance(resource, api.ProtectedVM):
        spec = {**spec, "clusterRef": {"name": rig.CLUSTER}}
    created = whole["metadata"].get("creationTimestamp", "2026-11-01T00:00:00Z")
    metadata = {"name": resource.metadata.name, "namespace": rig.NAMESPACE, "creationTimestamp": created}
    return {"apiVersion": api.API_VERSION, "kind": resource.kind_name, "metadata": metadata, "spec": spec}
