"""Every answer checked for its shape, and turned into the dataclasses of `model.cluster`.

Unknown fields are ignored; a required field that is missing or of another type is a `BadAnswer` that names
path and field. Proxmox VE writes numbers as strings in places and its booleans as 1, 0, "1", "" or not at
all: all are read.

An answer about a node that has been dead for 300 s lacks the names and sizes of its guests (name "" and
memory 0 here) and calls guests and storages `unknown`; before that their last `running` and `available` are
repeated, stale.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from pveha.model import cluster, errors, guests, node, replication

_T = TypeVar("_T")

Flag = Annotated[bool, pydantic.BeforeValidator(lambda value: False if value in ("", None) else value)]
"""A boolean of Perl: false is 0, "0", "" or undefined."""


class Shape(pydantic.BaseModel):
    """Base of all shapes: unknown fields are dropped, numbers and their strings are the same."""

    model_config = pydantic.ConfigDict(extra="ignore", coerce_numbers_to_str=True, frozen=True)


class ClusterEntry(Shape):
    """The cluster itself in `/cluster/status`."""

    type: Literal["cluster"]
    quorate: Flag


class MemberEntry(Shape):
    """A configured node in `/cluster/status`."""

    type: Literal["node"]
    name: str
    online: Flag
    local: Flag = False
    ip: str = ""


class NodeEntry(Shape):
    """A node in `/cluster/resources`; one that is not online hides its size."""

    type: Literal["node"]
    node: str
    status: str
    maxcpu: float | None = None
    maxmem: int | None = None
    mem: int | None = None
    uptime: float | None = None


class GuestEntry(Shape):
    """A guest in `/cluster/resources`."""

    type: Literal["qemu", "lxc"]
    vmid: int
    node: str
    status: str
    name: str = ""
    maxcpu: float = 0
    maxmem: int = 0
    template: Flag = False
    lock: str | None = None
    hastate: str | None = None
    tags: str = ""
    pool: str | None = None
    uptime: float = 0


class StorageEntry(Shape):
    """A storage on one node in `/cluster/resources`."""

    type: Literal["storage"]
    node: str
    storage: str
    status: str
    shared: Flag = False
    plugintype: str = ""


class OtherEntry(Shape):
    """Pools, networks, and what later versions add."""

    type: str


class HAResourceEntry(Shape):
    """An entry of `ha/resources.cfg`; what is not set has Proxmox's default."""

    sid: str
    state: Annotated[
        cluster.HAState,
        pydantic.BeforeValidator(lambda value: "started" if value == "enabled" else value),
    ] = cluster.HAState.STARTED
    """`enabled` is the old name of `started`."""
    comment: str = ""
    failback: Flag = True
    max_restart: int = 1
    max_relocate: int = 1
    digest: str


class HARuleEntry(Shape):
    """An HA rule; `affinity` is of resource affinity only."""

    rule: str
    type: str
    resources: str = ""
    nodes: str = ""
    strict: Flag = False
    affinity: str = "positive"
    comment: str = ""
    disable: Flag = False
    digest: str


class ServiceEntry(Shape):
    """What the CRM remembers of a service."""

    state: str
    node: str
    target: str | None = None
    uid: str = ""


class ManagerEntry(Shape):
    """Empty but for `node_status` before the first resource exists."""

    master_node: str | None = None
    timestamp: int = 0
    node_status: dict[str, str] = {}
    service_status: dict[str, ServiceEntry] = {}
    disarm: Any = None


class LRMEntry(Shape):
    """A node's LRM."""

    state: str
    mode: str
    timestamp: int


class HAStatusAnswer(Shape):
    """The CRM's status and each LRM's."""

    manager_status: ManagerEntry
    lrm_status: dict[str, LRMEntry | Annotated[dict[str, Any], pydantic.Field(max_length=0)]] = {}
    """A node whose LRM never reported has an empty entry."""


class ReplicationEntry(Shape):
    """A replication job; the digest of its file is told with a single one only."""

    id: str
    guest: int
    target: str
    source: str = ""
    disable: Flag = False
    comment: str = ""
    remove_job: str = ""
    digest: str = ""


class SyncEntry(Shape):
    """What a node tells of a job of one of its guests."""

    id: str
    target: str
    last_sync: float = 0
    fail_count: int = 0


class VersionAnswer(Shape):
    """The version of the node asked."""

    version: str


class CephMonmap(Shape):
    """How many monitors there are."""

    num_mons: int


class CephAnswer(Shape):
    """What Ceph tells of its monitors, of all that it tells of itself."""

    quorum_names: list[str]
    monmap: CephMonmap


class CpuInfo(Shape):
    """The CPUs in `/nodes/NODE/status`; `flags` as in /proc/cpuinfo."""

    cpus: int
    flags: str


class NodeStatusAnswer(Shape):
    """`/nodes/NODE/status`."""

    cpuinfo: CpuInfo


class RuntimeAnswer(Shape):
    """The live state of a guest; `qmpstatus` is of virtual machines only."""

    status: str
    qmpstatus: str | None = None
    uptime: float = 0
    lock: str | None = None


class BlockingEntry(Shape):
    """A service that an HA rule keeps apart from the one to be moved."""

    sid: str


class QueuedAnswer(Shape):
    """What is said of a command to the CRM."""

    blocking: tuple[BlockingEntry, ...] = pydantic.Field((), alias="blocking-resources")


class TaskAnswer(Shape):
    """The state of a task."""

    upid: str
    status: Literal["running", "stopped"]
    exitstatus: str | None = None


def _by_type(*known: str) -> pydantic.Discriminator:
    def tag(value: Any) -> str | None:
        if not isinstance(value, dict) or "type" not in value:
            return None
        return value["type"] if value["type"] in known else "other"

    return pydantic.Discriminator(
        tag, custom_error_type="type_missing", custom_error_message="entry without `type`"
    )


_STATUS = pydantic.TypeAdapter(
    list[
        Annotated[
            Annotated[ClusterEntry, pydantic.Tag("cluster")]
            | Annotated[MemberEntry, pydantic.Tag("node")]
            | Annotated[OtherEntry, pydantic.Tag("other")],
            _by_type("cluster", "node"),
        ]
    ]
)
_RESOURCES = pydantic.TypeAdapter(
    list[
        Annotated[
            Annotated[NodeEntry, pydantic.Tag("node")]
            | Annotated[GuestEntry, pydantic.Tag("qemu")]
            | Annotated[GuestEntry, pydantic.Tag("lxc")]
            | Annotated[StorageEntry, pydantic.Tag("storage")]
            | Annotated[OtherEntry, pydantic.Tag("other")],
            _by_type("node", "qemu", "lxc", "storage"),
        ]
    ]
)
_HA_RESOURCES = pydantic.TypeAdapter(list[HAResourceEntry])
_HA_RULES = pydantic.TypeAdapter(list[HARuleEntry])
_HA_STATUS = pydantic.TypeAdapter(HAStatusAnswer)
_REPLICATION = pydantic.TypeAdapter(list[ReplicationEntry])
_REPLICATION_JOB = pydantic.TypeAdapter(ReplicationEntry)
_SYNCS = pydantic.TypeAdapter(list[SyncEntry])
_PERMISSIONS = pydantic.TypeAdapter(dict[str, dict[str, Flag]])
_VERSION = pydantic.TypeAdapter(VersionAnswer)
_CEPH = pydantic.TypeAdapter(CephAnswer)
_RUNTIME = pydantic.TypeAdapter(RuntimeAnswer)
_CONFIG = pydantic.TypeAdapter(dict[str, str | int | float | list[tuple[str, str]]])
_NODE_STATUS = pydantic.TypeAdapter(NodeStatusAnswer)
_TASK = pydantic.TypeAdapter(TaskAnswer)
_UPID = pydantic.TypeAdapter(Annotated[str, pydantic.Strict()])
_QUEUED = pydantic.TypeAdapter(QueuedAnswer | None)


def _read(shape: "pydantic.TypeAdapter[_T]", data: Any, path: str) -> _T:
    try:
        return shape.validate_python(data)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the answer"
        message = f"{path}: {field}: {first['msg']} (of {error.error_count()} fields of another shape)"
        raise errors.BadAnswer(message) from None


def membership(data: Any, answered_at: float) -> cluster.MembershipView:
    """`GET /cluster/status`; the witness is the node that says of itself that it is local.

    A node that is in no cluster has no `cluster` entry: it is its own only member, and quorate.
    """
    path = "/cluster/status"
    entries = _read(_STATUS, data, path)
    members = [each for each in entries if isinstance(each, MemberEntry)]
    local = [each.name for each in members if each.local]
    if len(local) != 1:
        message = f"{path}: {len(local)} nodes say they are local, one was expected"
        raise errors.BadAnswer(message)
    quorum = [each.quorate for each in entries if isinstance(each, ClusterEntry)]
    if not quorum and len(members) > 1:
        message = f"{path}: several nodes but no `cluster` entry"
        raise errors.BadAnswer(message)
    return cluster.MembershipView(
        witness=local[0],
        quorate=all(quorum),
        online={each.name: each.online for each in members},
        addresses={each.name: each.ip for each in members if each.ip},
        answered_at=answered_at,
    )


def inventory(data: Any, answered_at: float) -> cluster.Inventory:
    """`GET /cluster/resources`."""
    entries = _read(_RESOURCES, data, "/cluster/resources")
    return cluster.Inventory(
        nodes={
            each.node: cluster.NodeResource(
                each.node, each.status == "online", each.maxmem, each.mem, each.uptime, each.maxcpu
            )
            for each in entries
            if isinstance(each, NodeEntry)
        },
        guests={
            each.vmid: cluster.GuestResource(
                ref=guests.GuestRef(each.vmid, guests.GuestKind(each.type)),
                node=each.node,
                status=each.status,
                name=each.name,
                max_memory=each.maxmem,
                template=each.template,
                lock=each.lock or None,
                ha_state=each.hastate or None,
                tags=frozenset(_listed(each.tags)),
                pool=each.pool or None,
                uptime=each.uptime,
                max_cpu=each.maxcpu,
            )
            for each in entries
            if isinstance(each, GuestEntry)
        },
        storages=tuple(
            cluster.StorageResource(
                each.node, each.storage, each.shared, each.status == "available", each.plugintype
            )
            for each in entries
            if isinstance(each, StorageEntry)
        ),
        answered_at=answered_at,
    )


def _digest(path: str, digests: set[str]) -> str:
    """The digest of the file that entries come from; empty without entries."""
    if len(digests) > 1:
        message = f"{path}: entries with different digests in one answer"
        raise errors.BadAnswer(message)
    return digests.pop() if digests else ""


def ha_config(data: Any, answered_at: float) -> cluster.HAConfig:
    """`GET /cluster/ha/resources`; every entry repeats the digest of the whole file."""
    entries = _read(_HA_RESOURCES, data, "/cluster/ha/resources")
    return cluster.HAConfig(
        resources={
            each.sid: cluster.HAResource(
                each.sid, each.state, each.comment, each.failback, each.max_restart, each.max_relocate
            )
            for each in entries
            if guests.parse_sid(each.sid)
        },
        digest=_digest("/cluster/ha/resources", {each.digest for each in entries}),
        answered_at=answered_at,
    )


def ha_rules(data: Any, answered_at: float) -> cluster.HARuleConfig:
    """`GET /cluster/ha/rules`, with those that are disabled."""
    entries = _read(_HA_RULES, data, "/cluster/ha/rules")
    return cluster.HARuleConfig(
        rules={
            each.rule: cluster.HARule(
                name=each.rule,
                type=each.type,
                sids=frozenset(_listed(each.resources)),
                nodes={node: _priority(each.rule, text) for node, text in _pairs(each.nodes)},
                strict=each.strict,
                positive=each.affinity == "positive",
                comment=each.comment,
                disabled=each.disable,
            )
            for each in entries
        },
        digest=_digest("/cluster/ha/rules", {each.digest for each in entries}),
        answered_at=answered_at,
    )


def ha_status(data: Any, answered_at: float) -> cluster.HAStatus:
    """`GET /cluster/ha/status/manager_status`."""
    answer = _read(_HA_STATUS, data, "/cluster/ha/status/manager_status")
    manager = answer.manager_status
    return cluster.HAStatus(
        master=manager.master_node or None,
        timestamp=manager.timestamp,
        node_status=manager.node_status,
        services={
            sid: cluster.ServiceStatus(each.state, each.node, each.target or None, each.uid)
            for sid, each in manager.service_status.items()
            if guests.parse_sid(sid)
        },
        lrms={
            node: cluster.LRMStatus(each.state, each.mode, each.timestamp)
            for node, each in answer.lrm_status.items()
            if isinstance(each, LRMEntry)
        },
        armed=manager.disarm is None,
        answered_at=answered_at,
    )


def replication_jobs(data: Any) -> tuple[replication.Job, ...]:
    """`GET /cluster/replication`; a job that is disabled has replicas all the same."""
    found = _read(_REPLICATION, data, "/cluster/replication")
    return tuple(_job(each) for each in found)


def replication_job(data: Any, id_: str) -> tuple[replication.Job, str]:
    """`GET /cluster/replication/ID`: the job, and the digest of the file of all jobs."""
    path = f"/cluster/replication/{id_}"
    entry = _read(_REPLICATION_JOB, data, path)
    if not entry.digest:
        message = f"{path}: digest: Field required"
        raise errors.BadAnswer(message)
    return _job(entry), entry.digest


def _job(entry: ReplicationEntry) -> replication.Job:
    return replication.Job(
        entry.id,
        entry.guest,
        entry.target,
        entry.source,
        entry.disable,
        entry.comment,
        bool(entry.remove_job),
    )


def replication_syncs(data: Any, on: str) -> tuple[replication.Sync, ...]:
    """`GET /nodes/NODE/replication`."""
    return tuple(
        replication.Sync(each.id, on, each.target, each.last_sync, each.fail_count)
        for each in _read(_SYNCS, data, f"/nodes/{on}/replication")
    )


def permissions(data: Any) -> Mapping[str, Mapping[str, bool]]:
    """`GET /access/permissions`: by path, the privileges held there, and whether they hold below it too."""
    return _read(_PERMISSIONS, data, "/access/permissions")


def version(data: Any) -> str:
    """`GET /version`."""
    return _read(_VERSION, data, "/version").version


def ceph_monitors(data: Any, answered_at: float) -> cluster.CephMonitors:
    """`GET /cluster/ceph/status`."""
    answer = _read(_CEPH, data, "/cluster/ceph/status")
    return cluster.CephMonitors(frozenset(answer.quorum_names), answer.monmap.num_mons, answered_at)


def guest_runtime(data: Any, ref: guests.GuestRef) -> cluster.GuestRuntime:
    """`GET /nodes/NODE/KIND/VMID/status/current`; a virtual machine must have its QMP state."""
    path = f"/nodes/NODE/{ref.path}/status/current"
    answer = _read(_RUNTIME, data, path)
    if ref.kind is guests.GuestKind.VM and answer.qmpstatus is None:
        message = f"{path}: qmpstatus: Field required"
        raise errors.BadAnswer(message)
    qmp = answer.qmpstatus if ref.kind is guests.GuestKind.VM else None
    return cluster.GuestRuntime(answer.status, qmp, answer.uptime, answer.lock or None)


def guest_config(data: Any, ref: guests.GuestRef) -> dict[str, str]:
    """`GET /nodes/NODE/KIND/VMID/config`, as in its file: a container's raw lines come in pairs."""
    told = _read(_CONFIG, data, f"/nodes/NODE/{ref.path}/config")
    found: dict[str, str] = {}
    for key, value in told.items():
        if isinstance(value, list):
            found.update(value)
        else:
            found[key] = str(value)
    return found


def equipment(data: Any, on: str, answered_at: float) -> node.Equipment:
    """What `GET /nodes/NODE/status` tells of the node's CPUs."""
    cpu = _read(_NODE_STATUS, data, f"/nodes/{on}/status").cpuinfo
    return node.Equipment(on, answered_at, cpus=cpu.cpus, cpu_flags=frozenset(cpu.flags.split()))


def task(data: Any, upid: str) -> cluster.TaskStatus:
    """`GET /nodes/NODE/tasks/UPID/status`; a task that ended says how."""
    path = "/nodes/NODE/tasks/UPID/status"
    answer = _read(_TASK, data, path)
    if answer.upid != upid:
        message = f"{path}: upid: asked for {upid}, told of {answer.upid}"
        raise errors.BadAnswer(message)
    running = answer.status == "running"
    if not running and answer.exitstatus is None:
        # pvedaemon died before it could write how the task ended.
        return cluster.TaskStatus(upid, running, "unknown")
    return cluster.TaskStatus(upid, running, None if running else answer.exitstatus)


def upid(data: Any, path: str) -> str:
    """The answer of a call that starts a worker."""
    return _read(_UPID, data, path)


def blocking(data: Any, path: str) -> tuple[str, ...]:
    """The answer of a command to the CRM (none before 9.0): services on the target that exclude it."""
    answer = _read(_QUEUED, data, path)
    return tuple(each.sid for each in answer.blocking) if answer is not None else ()


def _listed(text: str) -> Iterable[str]:
    """Items of one of Proxmox's lists, which are parted by commas, semicolons or blanks."""
    return [item for item in re.split(r"[,;\s]+", text) if item]


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    """`pve1:2,pve2` as (pve1, 2), (pve2, "")."""
    for item in _listed(text):
        name, _, value = item.partition(":")
        yield name, value


def _priority(rule: str, text: str) -> int:
    if not text:
        return 0
    if not text.isdigit():
        message = f"/cluster/ha/rules: {rule}: nodes: priority {text!r} is not a number"
        raise errors.BadAnswer(message)
    return int(text)
