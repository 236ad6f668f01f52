"""A cluster as decide sees it, round by round: change fields, call `step`, look at the decision."""

import dataclasses
from typing import Any

from pveha import api
from pveha.api import meta as api_meta
from pveha.decide import memory, recall, rounds
from pveha.model import cluster, guests, node, operations, power, replication, snapshot, specs

WALL = 1_795_000_000.0
OWNER = "uid/default/dc1"
GIB = 1 << 30
ON, OFF = power.PowerState.ON, power.PowerState.OFF
TIMER = node.Timer(True, 8.0)
THREE = ("pve1", "pve2", "pve3")


@dataclasses.dataclass(slots=True)
class Node:
    """One node. `online`: a member in the eyes of the others; `bmc` None: it does not answer."""

    name: str
    online: bool = True
    answers: bool = True
    silent_since: float | None = None
    bmc: power.PowerState | None = ON
    identity: str = ""
    lrm_state: str = "active"
    lrm_mode: str = "active"
    lrm_lives: bool = True
    shell: bool = True
    votes: node.Votes | None = None
    totem: node.Totem | None = None
    clock: float = 0.0
    """Seconds that it is ahead."""
    timer: node.Timer | None = TIMER
    booted_at: float = -5000.0
    used: int = 8 * GIB
    """Bytes of its 64 GiB."""
    cpus: float | None = 16


class Scene:
    """Nodes in mode Enforce with guest 100 + n on the nth, all registered and protected."""

    def __init__(self, spec: dict[str, Any] | None = None, *, names: tuple[str, ...] = THREE) -> None:
        self.now = 1000.0
        self.nodes = {name: Node(name) for name in names}
        self.guests: dict[int, cluster.GuestResource] = {}
        self.resources: dict[str, cluster.HAResource] = {}
        self.services: dict[str, cluster.ServiceStatus] = {}
        self.configs: dict[int, node.GuestConfig] = {}
        self.equipment: dict[str, node.Equipment] = {}
        """What nodes have told that they have."""
        self.views: dict[str, dict[str, bool]] = {}
        """What a witness sees, where that is not what everybody sees."""
        self.register = 0
        """The newest epoch that was opened."""
        self.registers: dict[str, int] = {}
        """The same as nodes show it whose copy is older."""
        self.qdevice = 0
        """Its votes, which the members count."""
        self.quorate = True
        self.armed = True
        self.storages_offline: set[tuple[str, str]] = set()
        """(node, storage)"""
        self.local_storages: tuple[str, ...] = ()
        """Further ones."""
        self.statuses: dict[int, api.ProtectedVMStatus] = {}
        """Of ProtectedVMs, by vmid, as they were told."""
        self.guest_annotations: dict[int, dict[str, str]] = {}
        self.storage_types: dict[str, str] = {}
        self.crm_lives = True
        self.drop_at_flush: set[str] = set()
        """Services that the CRM forgets in its next round."""
        self.replication = replication.NOTHING
        self.rules: tuple[cluster.HARule, ...] = ()
        self.operations: list[operations.OperationState] = []
        self.problems: dict[str, snapshot.Problem] = {}
        self.ha_in_use = True
        self.ceph: cluster.CephMonitors | None = None
        self.certificates: dict[str, float] | None = dict.fromkeys(names, WALL + 700 * 86400)
        self.lease = 60.0
        self.node_status: dict[str, str] = {}
        self.started_at = self.now
        self.flushed = WALL + self.now
        self.reported = dict.fromkeys(names, WALL + self.now)
        self.ha_status_read: float | None = None
        self.annotations: dict[str, str] = {}
        self.policies: dict[str, dict[str, Any]] = {}
        self.protected: dict[int, dict[str, Any]] = {}
        self.uid = ""
        """Of the HACluster."""
        self.enrolled: dict[int, str] = {}
        """ProtectedVMs that pveha made, by vmid, with the entry that selects them."""
        self.strangers: dict[str, int] = {}
        """Further ProtectedVMs, by name."""
        self.spec = {**_spec(names), **(spec or {})}
        self.memory = memory.Memory()
        for number, name in enumerate(names, 1):
            self.add_guest(100 + number, name)

    # What there is

    def add_guest(self, vmid: int, on: str, state: str = "started", *, protect: bool = True) -> None:
        ref = guests.GuestRef(vmid, guests.GuestKind.VM)
        status = "running" if state == "started" else "stopped"
        self.guests[vmid] = cluster.GuestResource(ref, on, status, f"vm{vmid}", GIB, False, None, state)
        self.resources[ref.sid] = cluster.HAResource(ref.sid, cluster.HAState(state), failback=False)
        self.services[ref.sid] = cluster.ServiceStatus(state, on)
        self.configs[vmid] = node.GuestConfig(
            ref, on, f"vm{vmid}", f"id-{vmid}", GIB, frozenset({"shared"}), None, False, frozenset()
        )
        if protect:
            self.protected[vmid] = {}

    def move(self, vmid: int, to: str) -> None:
        """The guest's file is elsewhere now."""
        self.guests[vmid] = dataclasses.replace(self.guests[vmid], node=to)
        self.configs[vmid] = dataclasses.replace(self.configs[vmid], node=to)

    def set_guest(self, vmid: int, **fields: Any) -> None:
        self.guests[vmid] = dataclasses.replace(self.guests[vmid], **fields)

    def set_config(self, vmid: int, **fields: Any) -> None:
        self.configs[vmid] = dataclasses.replace(self.configs[vmid], **fields)

    def set_resource(self, sid: str, **fields: Any) -> None:
        self.resources[sid] = dataclasses.replace(self.resources[sid], **fields)

    def lose(self, name: str, *, answers: bool = False, bmc: power.PowerState | None = OFF) -> None:
        """The node leaves the membership."""
        self.nodes[name].online = False
        self.set_answers(name, answers)
        self.nodes[name].bmc = bmc
        self.nodes[name].lrm_lives = False

    def set_answers(self, name: str, answers: bool) -> None:
        self.nodes[name].answers = answers
        self.nodes[name].silent_since = None if answers else self.now

    # What is seen of it

    def snapshot(self) -> snapshot.Snapshot:
        online = {name: each.online for name, each in self.nodes.items()}
        views, probes, readings, shells = {}, {}, {}, {}
        for name, each in self.nodes.items():
            if each.answers:
                alone = {other: other == name for other in online}
                own = self.views.get(name, online if each.online else alone)
                given = self.qdevice if each.online else 0
                quorate = self.quorate and (sum(own.values()) + given) * 2 > len(own) + self.qdevice
                views[name] = cluster.MembershipView(name, quorate, own, {}, self.now)
                probes[name] = snapshot.Probe(self.now, self.now, None)
            else:
                probes[name] = snapshot.Probe(self.now, -1.0, each.silent_since, "no answer")
            if each.bmc is not None:
                identity = frozenset({each.identity or f"uuid-{name}"})
                readings[power.Switch(name, "bmc")] = power.PowerReading(
                    each.bmc, identity, self.now - 0.2, self.now - 0.1
                )
            if each.shell:
                total = len(online) + self.qdevice
                configured = dict.fromkeys(online, 1)
                votes = each.votes or node.Votes(configured, self.qdevice, total, total, frozenset())
                identity = frozenset({f"uuid-{name}"})
                epoch = self.registers.get(name, self.register)
                shells[name] = node.NodeStatus(
                    name,
                    "1",
                    True,
                    online,
                    votes,
                    identity,
                    epoch,
                    OWNER,
                    self.now,
                    WALL + self.now + each.clock,
                    each.totem,
                    each.timer,
                )
        return snapshot.Snapshot(
            now=self.now,
            wall=WALL + self.now,
            started_at=self.started_at,
            lease_remaining=self.lease,
            owner=OWNER,
            views=views,
            probes=probes,
            inventory=self._inventory(),
            ha_config=cluster.HAConfig(dict(self.resources), "digest", self.now),
            ha_status=self._ha_status(),
            rule_config=cluster.HARuleConfig({rule.name: rule for rule in self.rules}, "digest", self.now),
            version="9.2.0",
            power=readings,
            shells=shells,
            configs=node.GuestConfigs(
                {vmid: dataclasses.replace(each, read_at=self.now) for vmid, each in self.configs.items()},
                self.now,
            ),
            equipment=dict(self.equipment),
            replicas=self.replication,
            problems=dict(self.problems),
            operations=tuple(self.operations),
            certificates=self.certificates,
            ceph=self.ceph,
        )

    def _inventory(self) -> cluster.Inventory:
        nodes = {
            name: cluster.NodeResource(
                name,
                each.online,
                64 * GIB,
                each.used,
                self.now - each.booted_at if each.online else None,
                each.cpus,
            )
            for name, each in self.nodes.items()
        }
        storages = tuple(
            cluster.StorageResource(
                name,
                store,
                store == "shared",
                each.online and (name, store) not in self.storages_offline,
                self.storage_types.get(store, ""),
            )
            for name, each in self.nodes.items()
            for store in ("shared", "local", *self.local_storages)
        )
        return cluster.Inventory(nodes, dict(self.guests), storages, self.now)

    def _ha_status(self) -> cluster.HAStatus:
        if not self.ha_in_use:
            return cluster.HAStatus(None, 0, {}, {}, {}, True, self.now)
        lrms = {
            name: cluster.LRMStatus(each.lrm_state, each.lrm_mode, int(self.reported[name]))
            for name, each in self.nodes.items()
        }
        read_at = self.now + 0.001 if self.ha_status_read is None else self.ha_status_read
        master = next(iter(self.nodes))
        flushed = int(self.flushed)
        return cluster.HAStatus(
            master, flushed, dict(self.node_status), dict(self.services), lrms, self.armed, read_at
        )

    def specs(self) -> specs.Specs:
        metadata = {
            "name": "dc1", "namespace": "default", "annotations": self.annotations, "uid": self.uid
        }  # fmt: skip
        kind: dict[str, Any] = {"apiVersion": api.API_VERSION, "kind": "HACluster"}
        return specs.Specs(
            api.HACluster.model_validate({**kind, "metadata": metadata, "spec": self.spec}),
            {name: _object(api.FailoverPolicy, name, spec) for name, spec in self.policies.items()},
            {f"vm{vmid}": self._written(vmid, spec) for vmid, spec in self.protected.items()}
            | {f"dc1-{vmid}": self._enrolled(vmid, entry) for vmid, entry in self.enrolled.items()}
            | {
                name: _object(api.ProtectedVM, name, {"clusterRef": {"name": "dc1"}, "vmid": vmid})
                for name, vmid in self.strangers.items()
            },
        )

    def _written(self, vmid: int, spec: dict[str, Any]) -> api.ProtectedVM:
        """A ProtectedVM that a user has written."""
        whole = {"clusterRef": {"name": "dc1"}, "vmid": vmid, **spec}
        made: api.ProtectedVM = _object(api.ProtectedVM, f"vm{vmid}", whole)
        if vmid in self.statuses:
            made = made.model_copy(update={"status": self.statuses[vmid]})
        if vmid in self.guest_annotations:
            told = {"annotations": self.guest_annotations[vmid]}
            made = made.model_copy(update={"metadata": made.metadata.model_copy(update=told)})
        return made

    def _enrolled(self, vmid: int, entry: str) -> api.ProtectedVM:
        spec = {"clusterRef": {"name": "dc1"}, "vmid": vmid, "policyRef": {"name": "gold"}}
        made: api.ProtectedVM = _object(api.ProtectedVM, f"dc1-{vmid}", spec)
        owner = api_meta.OwnerReference(kind="HACluster", name="dc1", uid=self.uid)
        fields = {
            "labels": {api_meta.AUTO_PROTECT_LABEL: entry},
            "owner_references": (owner,),
            "uid": f"u{vmid}",
        }
        return made.model_copy(update={"metadata": made.metadata.model_copy(update=fields)})

    # Rounds

    def step(self, seconds: float = 0.0) -> rounds.Decision:
        """Let `seconds` pass, in rounds of half a second at most, and return the last round's decision."""
        left = seconds
        while left > 0.5:
            self._tick(0.5)
            left -= 0.5
            self.decide()
        self._tick(left)
        return self.decide()

    def _tick(self, seconds: float) -> None:
        self.now += seconds
        if self.crm_lives and WALL + self.now - self.flushed >= 10:
            self.flushed = WALL + self.now
            for sid in self.drop_at_flush:
                self.services.pop(sid, None)
        for name, each in self.nodes.items():
            if each.lrm_lives and WALL + self.now - self.reported[name] >= 5:
                self.reported[name] = WALL + self.now

    def decide(self) -> rounds.Decision:
        """One round: operations that ended are shown to it once, what it starts is in flight from then."""
        decision = rounds.decide(self.snapshot(), self.specs(), self.memory)
        self.memory = decision.memory
        self.operations = [state for state in self.operations if state.outcome is None]
        for operation in decision.start:
            state = operations.OperationState(operation, self.now, WALL + self.now, "Starting")
            self.operations.append(state)
        return decision

    def end(self, kind: type[Any], **outcome: Any) -> Any:
        """The operation of `kind` in flight ends; the next round sees its outcome."""
        for number, state in enumerate(self.operations):
            if isinstance(state.operation, kind) and state.outcome is None:
                ended = operations.Outcome(self.now, **outcome)
                self.register = max(self.register, ended.epoch or 0)
                self.operations[number] = dataclasses.replace(state, outcome=ended)
                return state.operation
        raise AssertionError(f"no {kind.__name__} in flight: {self.operations}")

    def prove(self, name: str) -> None:
        """The fence in flight ends with a proof."""
        methods = self._fence().methods
        proof = operations.Proof(name, self.now - 3.2, self.now, methods)
        commanded = {each.switch.method: self.now - 3.5 for each in methods if not each.manual}
        epoch = (self.memory.epoch or 0) + 1
        self.end(operations.Fence, epoch=epoch, commanded=commanded, proof=proof)

    def _fence(self) -> operations.Fence:
        return next(
            each.operation for each in self.operations if isinstance(each.operation, operations.Fence)
        )

    def settle(self) -> "Scene":
        """Until pveha acts: an epoch is open and everything is bound."""
        self.step(6)
        self.end(operations.Begin, epoch=1)
        self.step(7)
        return self

    def restart(self) -> None:
        """Another replica takes over: only the status is left."""
        status = rounds.decide(self.snapshot(), self.specs(), self.memory).report.cluster
        self.memory = recall.first(status)
        self.operations = []
        self.started_at = self.now


def _object(model: Any, name: str, spec: dict[str, Any]) -> Any:
    metadata = {"name": name, "namespace": "default"}
    kind = {"apiVersion": api.API_VERSION, "kind": model.kind_name}
    return model.model_validate({**kind, "metadata": metadata, "spec": spec})


def _spec(names: tuple[str, ...]) -> dict[str, Any]:
    def fencing(name: str) -> dict[str, Any]:
        refs = {"credentialsSecretRef": {"name": "bmc"}, "caSecretRef": {"name": "ca"}}
        return {"method": "bmc", "address": f"https://bmc-{name}", **refs}

    return {
        "mode": "Enforce",
        "endpoints": [{"host": name} for name in names],
        "credentialsSecretRef": {"name": "token"},
        "tls": {"caSecretRef": {"name": "ca"}},
        "recovery": {"nodeShell": {"credentialsSecretRef": {"name": "ssh"}}},
        "fencing": {"methods": [{"name": "bmc", "redfish": {}}]},
        "nodes": [{"name": name, "fencing": [fencing(name)]} for name in names],
    }


def condition(status: Any, type_: str) -> tuple[str, str]:
    """Status and reason of a condition."""
    found = next(each for each in status.conditions if each.type == type_)
    return found.status, found.reason


def kinds(decision: rounds.Decision) -> list[str]:
    """Names of the kinds of operations it starts."""
    return [type(operation).__name__ for operation in decision.start]


def edits(decision: rounds.Decision) -> dict[str, operations.Edit]:
    """The changes of HA resources it starts, by service id."""
    return {
        edit.sid: edit
        for operation in decision.start
        if isinstance(operation, operations.EditHA)
        for edit in operation.edits
    }
