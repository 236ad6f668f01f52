"""pmxcfs: the replicated `/etc/pve`.

Nodes of one membership share one `Tree`; whoever leaves keeps a copy as of that moment and may only read it.
Writes happen in one order, need quorum, and wait while membership is changing (`blocked`). Paths are relative
to `/etc/pve`.

Errors are the OSErrors that programs on a node see: EACCES without quorum, ENOENT for a missing source,
EEXIST for a second configuration of one vmid, ENOTCONN when pmxcfs itself is down.
"""

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pveha.model import cluster, replication
from pveha.sim import guestfile, replicas

if TYPE_CHECKING:
    from pveha.sim import world as worlds


@dataclasses.dataclass(slots=True)
class Service:
    """The CRM's record of one HA service (`manager_status.service_status`)."""

    state: str
    node: str
    uid: str
    target: str = ""
    running: bool = False
    maintenance_node: str = ""
    """Node the service left because of maintenance, where it returns to."""
    failed_nodes: tuple[str, ...] = ()
    stop_first: bool = False
    """A user asked for a stop (`crm-command stop`) while the requested state stays `started`."""


@dataclasses.dataclass(slots=True)
class Manager:
    """`ha/manager_status`: what the CRM master last wrote."""

    master: str = ""
    timestamp: int = 0
    node_status: dict[str, str] = dataclasses.field(default_factory=dict)
    services: dict[str, Service] = dataclasses.field(default_factory=dict)
    node_request: dict[str, str] = dataclasses.field(default_factory=dict)
    """`maintenance` for nodes that were asked to go into it."""
    disarm_mode: str = ""
    """How HA is to be disarmed: `freeze` or `ignore`."""
    disarm_state: str = ""
    """"", `disarming` or `disarmed`."""

    def copy(self) -> "Manager":
        services = {sid: dataclasses.replace(service) for sid, service in self.services.items()}
        return dataclasses.replace(
            self, node_status=dict(self.node_status), node_request=dict(self.node_request), services=services
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What an LRM reports of one command, matched by the service's uid."""

    sid: str
    state: str
    exit_code: int


@dataclasses.dataclass(slots=True)
class Lrm:
    """`nodes/NODE/lrm_status`. `state`: wait_for_agent_lock, active, lost_agent_lock; `mode`: active,
    restart, ..."""

    state: str = "wait_for_agent_lock"
    mode: str = "active"
    timestamp: int = 0
    results: dict[str, Result] = dataclasses.field(default_factory=dict)

    def copy(self) -> "Lrm":
        return dataclasses.replace(self, results=dict(self.results))


@dataclasses.dataclass(frozen=True, slots=True)
class Lock:
    """`priv/lock/NAME`: who holds it, and a stamp that every renewal changes."""

    owner: str
    stamp: int


@dataclasses.dataclass(slots=True)
class Tree:
    """One replicated state."""

    guests: dict[int, guestfile.GuestFile] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    folders: set[str] = dataclasses.field(default_factory=lambda: {"priv", "ha", "nodes", "priv/lock"})
    resources: dict[str, cluster.HAResource] = dataclasses.field(default_factory=dict)
    rules: dict[str, cluster.HARule] = dataclasses.field(default_factory=dict)
    jobs: dict[str, replication.Job] = dataclasses.field(default_factory=dict)
    """`replication.cfg`."""
    commands: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    """`ha/crm_commands`, waiting for the master's next round."""
    manager: Manager = dataclasses.field(default_factory=Manager)
    lrms: dict[str, Lrm] = dataclasses.field(default_factory=dict)
    locks: dict[str, "Lock"] = dataclasses.field(default_factory=dict)
    noticed: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
    """When a lock's present stamp was first looked at: its lifetime counts from there, not from the
    renewal."""
    wishes: dict[str, cluster.HAState] = dataclasses.field(default_factory=dict)
    """States that people have set HA resources to, by service id. No file: what an owner wants goes, like all
    that is written, when it was written where the cluster does not go on from."""
    stamp: int = 0
    version: int = 0
    """Counts writes that mean something (lock renewals and timestamps do not): "has anything changed?"."""

    def copy(self) -> "Tree":
        return dataclasses.replace(
            self,
            guests=dict(self.guests),
            files=dict(self.files),
            folders=set(self.folders),
            resources=dict(self.resources),
            rules=dict(self.rules),
            jobs=dict(self.jobs),
            commands=list(self.commands),
            manager=self.manager.copy(),
            lrms={name: lrm.copy() for name, lrm in self.lrms.items()},
            locks=dict(self.locks),
            wishes=dict(self.wishes),
            noticed={},
        )

    @property
    def digest(self) -> str:
        """Digest of `ha/resources.cfg`: its compare-and-swap."""
        return hashlib.sha1(render_resources(self.resources).encode(), usedforsecurity=False).hexdigest()


class Pmxcfs:
    """The `/etc/pve` of every node of a world."""

    def __init__(self, world: "worlds.World") -> None:
        self._world = world
        self.trees: dict[str, Tree] = {}
        self.forked = False
        """Whether a quorate membership has ever gone on from a state that others had left behind: a node that
        was off meanwhile and booted alone, with a QDevice's vote. What either side writes may be lost."""
        self.forked_at = float("-inf")
        """When that happened last."""
        self.diverging = False
        """Whether it has, and not all nodes have been together since."""

    def tree(self, node: str) -> Tree:
        """What `node` reads: current in a quorate membership, old elsewhere. ENOTCONN when its pmxcfs is
        down."""
        machine = self._world.machines[node]
        if not machine.up or machine.services["pmxcfs"] != "running":
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), node)
        return self.trees[node]

    def writable(self, node: str) -> Tree:
        """The tree to write to from `node`, at once; EACCES without quorum."""
        tree = self.tree(node)
        if not self._world.membership.quorate(node):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), node)
        return tree

    def blocked(self, node: str) -> bool:
        """Whether a write from `node` would wait: its membership is changing, or its corosync is frozen."""
        return not self._world.membership.settled(node)

    async def settle(self, node: str) -> None:
        """Wait until writes from `node` no longer wait. Ends only with a membership, so give it a
        deadline."""
        while self.blocked(node):
            await self._world.membership.changed()

    # Files

    def read(self, node: str, path: str) -> str:
        """A file's content; generated files (.members, .vmlist, ha/...) included."""
        tree = self.tree(node)
        if found := guestfile.parse_path(path):
            ref, folder = found
            file = tree.guests.get(ref.vmid)
            if file and (file.ref, file.ref.kind, file.node) == (ref, ref.kind, folder):
                return file.text
            raise _missing(path)
        generated = _GENERATED.get(path)
        if generated:
            return generated(self._world, node, tree)
        if path.endswith("/lrm_status") and path.split("/")[1] in tree.lrms:
            return json.dumps(lrm_json(tree.lrms[path.split("/")[1]]))
        if path in tree.files:
            return tree.files[path]
        if self._is_folder(tree, path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise _missing(path)

    def exists(self, node: str, path: str) -> bool:
        try:
            self.read(node, path)
        except FileNotFoundError:
            return False
        except IsADirectoryError:
            return True
        return True

    def listdir(self, node: str, path: str) -> list[str]:
        """Names in a folder, sorted; ENOENT for a folder that does not exist."""
        tree = self.tree(node)
        parts = path.strip("/").split("/")
        if parts == ["nodes"]:
            return sorted(self._world.machines)
        if len(parts) == 3 and parts[0] == "nodes" and parts[2] in ("qemu-server", "lxc"):
            if parts[1] not in self._world.machines:
                raise _missing(path)
            return sorted(
                f"{vmid}.conf"
                for vmid, file in tree.guests.items()
                if file.node == parts[1] and file.ref.kind.config_folder == parts[2]
            )
        if path not in tree.folders:
            raise _missing(path)
        inside = f"{path}/"
        names = {p[len(inside) :].split("/")[0] for p in (*tree.files, *tree.folders) if p.startswith(inside)}
        return sorted(names)

    def write(self, node: str, path: str, text: str) -> None:
        """Create or replace a file. EEXIST for a second configuration of a vmid that exists elsewhere."""
        tree = self.writable(node)
        if found := guestfile.parse_path(path):
            ref, folder = found
            old = tree.guests.get(ref.vmid)
            if old and (old.node, old.ref.kind) != (folder, ref.kind):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            since = old.since if old else self._world.now()
            tree.guests[ref.vmid] = guestfile.GuestFile(
                ref, folder, text, since, old.came_from if old else None
            )
        elif path == "ha/resources.cfg":
            tree.resources = parse_resources(text)
        else:
            if not self._is_folder(tree, path.rpartition("/")[0]):
                raise _missing(path)
            tree.files[path] = text
        self._wrote(tree)

    def _is_folder(self, tree: Tree, path: str) -> bool:
        parts = path.split("/")
        if parts[0] == "nodes" and len(parts) in (2, 3):
            return parts[1] in self._world.machines and parts[2:] in ([], ["qemu-server"], ["lxc"], ["priv"])
        return path in tree.folders

    def mkdir(self, node: str, path: str) -> None:
        tree = self.writable(node)
        if path in tree.folders or path in tree.files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if "/" in path and path.rpartition("/")[0] not in tree.folders:
            raise _missing(path)
        tree.folders.add(path)
        self._wrote(tree)

    def rmdir(self, node: str, path: str) -> None:
        tree = self.writable(node)
        if path not in tree.folders:
            raise _missing(path)
        if any(p.startswith(f"{path}/") for p in (*tree.files, *tree.folders)):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        tree.folders.discard(path)
        self._wrote(tree)

    def unlink(self, node: str, path: str) -> None:
        tree = self.writable(node)
        if (
            (found := guestfile.parse_path(path))
            and (file := tree.guests.get(found[0].vmid))
            and file.path == path
        ):
            del tree.guests[found[0].vmid]
        elif path in tree.files:
            del tree.files[path]
        else:
            raise _missing(path)
        self._wrote(tree)

    def rename(self, node: str, source: str, target: str, by: str = "") -> None:
        """Move a file. ENOENT when the source is gone; **an existing target is silently replaced**, as really
        is. `by` says for `World.moved` who does it."""
        tree = self.writable(node)
        here, there = guestfile.parse_path(source), guestfile.parse_path(target)
        if not (here and there):
            if source not in tree.files:
                raise _missing(source)
            self.write(node, target, tree.files[source])
            del tree.files[source]
            return
        file = tree.guests.get(here[0].vmid)
        if file is None or file.path != source:
            raise _missing(source)
        new, folder = there
        if new.vmid != file.ref.vmid and new.vmid in tree.guests and tree.guests[new.vmid].path != target:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        del tree.guests[file.ref.vmid]
        before = (file.node, file.since)
        tree.guests[new.vmid] = guestfile.GuestFile(new, folder, file.text, self._world.now(), before)
        self._world.say(f"{new}", f"configuration moved from {file.node} to {folder} by {node}")
        self._world.config_moved(new.vmid, file.node, folder, by)
        self._wrote(tree)

    def set_guest(self, node: str, file: guestfile.GuestFile) -> None:
        """Write a guest's configuration as one of Proxmox's own programs on `node` does."""
        self.write(node, file.path, file.text)

    def _wrote(self, tree: Tree) -> None:
        tree.version += 1
        self._world.changed()

    # Locks

    def lock(self, node: str, name: str, owner: str) -> bool:
        """Take or renew the cluster-wide lock `name`. `owner` names one life of one daemon.

        A lock of somebody else is taken over 120 s after its present stamp was first noticed by anyone.
        """
        tree = self.writable(node)
        present = tree.locks.get(name)
        if present is not None and present.owner != owner:
            stamp, noticed_at = tree.noticed.get(name, (-1, 0.0))
            if stamp != present.stamp:
                tree.noticed[name] = (present.stamp, self._world.now())
                return False
            if self._world.now() - noticed_at < self._world.timings.lock_lifetime:
                return False
        tree.stamp += 1
        tree.locks[name] = Lock(owner, tree.stamp)
        return True

    def unlock(self, node: str, name: str, owner: str) -> None:
        """Give a lock back, if it still is the owner's."""
        locks = self.writable(node).locks
        if name in locks and locks[name].owner == owner:
            del locks[name]

    # Membership

    def restarted(self, node: str) -> None:
        """pmxcfs starts with what its disk holds; what its memory held (when locks were noticed) is gone."""
        self.trees[node] = self.trees[node].copy()

    def note_fork(self, ring: Iterable[str]) -> None:
        """A membership is quorate: see whether others had gone further than its nodes know."""
        known = max(self.trees[name].version for name in ring)
        if any(tree.version > known for tree in self.trees.values()):
            self.forked = self.diverging = True
            self.forked_at = self._world.now()
        elif len(set(ring)) == len(self.trees):
            self.diverging = False

    def split(self, ring: Iterable[str]) -> None:
        """Give the nodes of a new membership one tree: the newest of theirs; others keep copies of what they
        had."""
        ring = set(ring)
        newest = max((self.trees[name] for name in sorted(ring)), key=lambda tree: (tree.version, tree.stamp))
        for name, tree in self.trees.items():
            if name not in ring and tree is newest:
                self.trees[name] = tree.copy()
        for name in ring:
            self.trees[name] = newest
        for name, lock in newest.locks.items():
            if newest.noticed.get(name, (-1, 0.0))[0] != lock.stamp:
                newest.noticed[name] = (lock.stamp, self._world.now())


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def render_resources(resources: Mapping[str, cluster.HAResource]) -> str:
    """`ha/resources.cfg`; "" without resources."""
    blocks = []
    for resource in resources.values():
        kind, _, number = resource.sid.partition(":")
        lines = [f"{kind}: {number}"]
        if resource.comment:
            lines.append(f"\tcomment {resource.comment}")
        if not resource.failback:
            lines.append("\tfailback 0")
        if resource.max_relocate != 1:
            lines.append(f"\tmax_relocate {resource.max_relocate}")
        if resource.max_restart != 1:
            lines.append(f"\tmax_restart {resource.max_restart}")
        lines.append(f"\tstate {resource.state}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def parse_resources(text: str) -> dict[str, cluster.HAResource]:
    """The inverse of `render_resources`, for programs on a node that write the file."""
    resources: dict[str, cluster.HAResource] = {}
    for block in text.split("\n\n"):
        head, *lines = [line for line in block.splitlines() if line.strip()] or [""]
        kind, _, number = head.partition(":")
        if not number.strip():
            continue
        fields = dict(line.strip().partition(" ")[::2] for line in lines)
        sid = f"{kind}:{number.strip()}"
        resources[sid] = cluster.HAResource(
            sid,
            cluster.HAState(fields.get("state", "started")),
            fields.get("comment", ""),
            fields.get("failback", "1") != "0",
            int(fields.get("max_restart", "1")),
            int(fields.get("max_relocate", "1")),
        )
    return resources


def render_rules(rules: Mapping[str, cluster.HARule]) -> str:
    """`ha/rules.cfg`."""
    blocks = []
    for rule in rules.values():
        lines = [f"{rule.type}: {rule.name}", f"\tresources {','.join(sorted(rule.sids))}"]
        if rule.type == "node-affinity":
            lines.append("\tnodes " + ",".join(f"{n}:{p}" if p else n for n, p in sorted(rule.nodes.items())))
            lines.append(f"\tstrict {int(rule.strict)}")
        else:
            lines.append(f"\taffinity {'positive' if rule.positive else 'negative'}")
        if rule.comment:
            lines.append(f"\tcomment {rule.comment}")
        if rule.disabled:
            lines.append("\tdisable")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def manager_json(manager: Manager) -> dict[str, Any]:
    """`manager_status` as it is stored and as the API returns it."""
    if not manager.timestamp and not manager.master:
        return {}
    services = {}
    for sid, service in manager.services.items():
        services[sid] = {"state": service.state, "node": service.node, "uid": service.uid}
        if service.target:
            services[sid]["target"] = service.target
        if service.running:
            services[sid]["running"] = 1  # type: ignore[assignment]
    answer: dict[str, Any] = {
        "master_node": manager.master,
        "timestamp": manager.timestamp,
        "node_status": dict(manager.node_status),
        "service_status": services,
    }
    if manager.node_request:
        answer["node_request"] = {name: {request: 1} for name, request in manager.node_request.items()}
    if manager.disarm_state:
        answer["disarm"] = {"mode": manager.disarm_mode, "state": manager.disarm_state}
    return answer


def lrm_json(lrm: Lrm) -> dict[str, Any]:
    """`lrm_status` as it is stored and as the API returns it."""
    results = {uid: dataclasses.asdict(result) for uid, result in lrm.results.items()}
    return {"state": lrm.state, "mode": lrm.mode, "timestamp": lrm.timestamp, "results": results}


def _members(world: "worlds.World", node: str, tree: Tree) -> str:
    return json.dumps(world.membership.members_file(node))


def _corosync_conf(world: "worlds.World", node: str, tree: Tree) -> str:
    return world.membership.corosync_conf()


def _vmlist(world: "worlds.World", node: str, tree: Tree) -> str:
    ids = {
        str(vmid): {"node": file.node, "type": file.ref.kind.value, "version": vmid}
        for vmid, file in tree.guests.items()
    }
    return json.dumps({"version": tree.version, "ids": ids})


_GENERATED: dict[str, Callable[["worlds.World", str, Tree], str]] = {
    ".members": _members,
    ".vmlist": _vmlist,
    "ha/resources.cfg": lambda world, node, tree: render_resources(tree.resources),
    "ha/rules.cfg": lambda world, node, tree: render_rules(tree.rules),
    "replication.cfg": lambda world, node, tree: replicas.render(tree.jobs),
    "ha/manager_status": lambda world, node, tree: json.dumps(manager_json(tree.manager)),
    "corosync.conf": _corosync_conf,
    "storage.cfg": lambda world, node, tree: world.equipment.storage_cfg(),
    "mapping/pci.cfg": lambda world, node, tree: world.equipment.mapping_cfg("pci"),
    "mapping/usb.cfg": lambda world, node, tree: world.equipment.mapping_cfg("usb"),
    "mapping/directory.cfg": lambda world, node, tree: world.equipment.mapping_cfg("dir"),
}
