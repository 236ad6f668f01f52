"""The production operator on a simulated data centre in one process: for scenario tests and simulations.

Replicas are what `control` runs: supervisor, elector, store, loop. Their ports are wired (`wires`), so that
each side effect is counted and a replica can be killed at any of them. Everything runs on the clock of the
running event loop, so with `clock.run` a minute takes milliseconds.
"""

import asyncio
import contextvars
import json
import logging
import re
import shlex
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from typing_extensions import override

from pveha import api
from pveha.api import fencing, meta
from pveha.control import health, loop, store, supervisor
from pveha.decide import recall
from pveha.model import errors, mark, ports, power, specs
from pveha.model.kubernetes import ClusterKey, Manifest
from pveha.nodeshell import answers, pveha_node
from pveha.observe import watcher
from pveha.report import metrics, status
from pveha.sim import config, faults, kubernetes, lulls, node_system, wires, world
from pveha.sim import ports as sim_ports

NAMESPACE = "default"
CLUSTER = "dc1"
KEY = ClusterKey(NAMESPACE, CLUSTER)
LEASE = f"pveha-{CLUSTER}"
OWNER = f"{kubernetes.IDENTITY}/{NAMESPACE}/{CLUSTER}"
"""How the HACluster names itself as owner of the Proxmox cluster (S14)."""
ANOTHER = f"{uuid.UUID(int=9)}/{NAMESPACE}/{CLUSTER}"
"""How the HACluster of another Kubernetes cluster does."""
POWER_SECONDS = 30.0
"""Between two reads of a healthy node's power."""
LIST_EVERY_SECONDS = 60.0
"""Between two listings of a replica, which correct what its watch has missed."""

_speaker: contextvars.ContextVar[str] = contextvars.ContextVar("speaker", default="operator")


class Replica:
    """One operator process, or the place where one may run: `start` and `crash` as often as you like."""

    def __init__(self, rig: "Rig", name: str) -> None:
        self._rig = rig
        self.name = name
        self.wire = wires.Wire(name, rig.sending, rig.sent)
        self.leadership: ports.Leadership | None = None
        """Of its elector, while its loop runs."""
        self.term: object = None
        """Another one each time its loop begins, with an empty memory: also of a process that leads again."""
        self.store = store.Store()
        self.deaf = False
        """Its watch is broken without noticing: no event arrives until it lists anew."""
        self.trip = 0
        """Side effects until it is killed; 0: it is not to be."""
        self.restart_after: float | None = None
        """Seconds after such a death at which it is started again; None: never."""
        self._life = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def runs(self) -> bool:
        return self._task is not None

    @property
    def leads(self) -> bool:
        return self.runs and self.leadership is not None and self.leadership.remaining() > 0

    def start(self) -> None:
        """Begin a new process, with empty memory."""
        if self._task is not None:
            return
        self._life += 1
        self.deaf = False
        old, self.wire = self.wire, wires.Wire(self.name, self._rig.sending, self._rig.sent)
        self.wire.lull = self._rig.lull
        self.wire.kubernetes_down = old.kubernetes_down
        self.wire.kubernetes_loses_answers = old.kubernetes_loses_answers
        self.store = store.Store()
        context = contextvars.copy_context()
        context.run(_speaker.set, f"operator {self.name}")
        self._rig.world.say(f"operator {self.name}", "started")
        self._task = asyncio.get_running_loop().create_task(self._run(self.wire), context=context)
        self._task.add_done_callback(self._ended)

    def crash(self) -> None:
        """The process is gone at once; what it had sent goes on."""
        if self._task is None:
            return
        self._rig.world.say(f"operator {self.name}", "killed")
        self.wire.cut_off = True
        self.trip = 0
        self.leadership = None
        self._task.cancel()
        self._rig.dying.add(self._task)
        self._task = None

    async def stop(self) -> None:
        """End the process in order, as at SIGTERM."""
        task = self._task
        if task is not None:
            self._rig.world.say(f"operator {self.name}", "stopped")
            self._task, self.leadership = None, None
            task.cancel()
            await asyncio.wait({task})

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._rig.dying.discard(task)
        if not task.cancelled() and (problem := task.exception()):
            self._rig.failures.append(f"operator {self.name} ended with {problem!r}")

    def heard(self, event: str, obj: Manifest) -> None:
        """The watch tells of a change."""
        if self.runs and not self.deaf and not self.wire.kubernetes_down:
            self.store.event(str(obj["kind"]), event, obj)

    async def _run(self, wire: wires.Wire) -> None:
        kube = wires.WiredKubernetes(wire, self._rig.kubernetes)
        identity = f"{self.name}-{self._life}"
        listing = asyncio.create_task(self._list(kube, self.store))
        try:
            await supervisor.Supervisor(
                kube,
                self.store,
                health.Health(self._rig.metrics),
                identity,
                self._loop,
                wall_now=self._rig.world.wall_now,
            ).run()
        finally:
            listing.cancel()
            await asyncio.wait({listing})

    async def _list(self, kube: ports.Kubernetes, into: store.Store) -> None:
        while True:
            try:
                for kind in store.KINDS:
                    into.listed(kind, None, await kube.list_objects(kind, None))
                pause = LIST_EVERY_SECONDS
            except errors.OutsideError:
                pause = 1.0
            await asyncio.sleep(pause)

    async def _loop(
        self,
        key: ClusterKey,
        wanted: Callable[[], specs.Specs | None],
        kubernetes: ports.Kubernetes,
        leadership: ports.Leadership,
        reporter: status.StatusWriter,
        health: health.Health,
    ) -> None:
        now = wanted()
        if now is None:
            return
        self.leadership, self.term = leadership, object()
        identity = await kubernetes.identity()
        memo = recall.first(now.cluster.status)
        while (now := wanted()) is not None:
            shell = now.cluster.spec.recovery.node_shell is not None

            async def changed(then: specs.Specs, shell: bool = shell) -> bool:
                return (then.cluster.spec.recovery.node_shell is not None) is not shell

            memo = await loop.run_linked(
                key,
                wanted,
                self._rig.outside(self.wire, shell=shell),
                self._rig.lull.make_up if self._rig.lull else lambda seen: None,
                changed,
                leadership,
                reporter,
                health,
                f"{identity}/{key.namespace}/{key.name}",
                memo,
                self._rig.world.wall_now,
            )


def _period(source: str) -> float:
    """Seconds between two polls of a slow source of the watcher."""
    return watcher.EQUIPMENT_SECONDS if source == "equipment/" else watcher.SLOW_SECONDS


class Rig:
    """A world, an API server's twin with manifests for it, and operators to start, stop and kill."""

    def __init__(
        self,
        about: config.Config,
        spec: dict[str, Any] | None = None,
        protect: Iterable[int] = (),
        operators: Iterable[str] = ("a",),
        skip_polls: bool = False,
        wishes: Mapping[int, dict[str, Any]] | None = None,
    ) -> None:
        """`spec` is merged over a complete HACluster in Enforce; `protect` names the guests with a
        ProtectedVM; `wishes` are further fields of the spec of some of these.

        `skip_polls`: observers wait for something to happen, up to the age at which what they know counts as
        stale.
        """
        self.world = world.World(about)
        self.kubernetes = kubernetes.SimulatedKubernetes()
        self.metrics = metrics.Metrics()
        self.failures: list[str] = []
        """Operators that ended by themselves, which none ever should."""
        self.dying: set[asyncio.Task[None]] = set()
        self.effects = 0
        """Side effects sent so far."""
        self.operators = {name: Replica(self, name) for name in operators}
        self.lull = lulls.Lull(self.world, _period) if skip_polls else None
        self.triggers: list[tuple[int, float, str]] = []
        """Lines to be done after so many more side effects, Leases and statuses apart, and so many
        seconds."""
        self.standstills: list[tuple[str, float]] = []
        """Verbs, and for how many seconds their sender stands still before its next one goes out."""
        self.moves: list[tuple[int, float, str]] = []
        """Lines to be done when a guest's configuration next moves, and so many seconds after it."""
        self._watching: list[Callable[[wires.Effect], object]] = []
        self._hearing: list[Callable[[str], object]] = []
        self.world.on_move(self._moved)
        self.kubernetes.watchers.append(self._tell)
        self.kubernetes.put(hacluster(about, spec or {}))
        self._cluster: api.HACluster | None = None
        """As last parsed."""
        if about.drilled and (bound := _bindings(about, self.cluster_status().spec)):
            self.kubernetes.write_status("HACluster", NAMESPACE, CLUSTER, {"bindings": bound})
        self.wishes = wishes or {}
        for vmid in protect:
            self.protect(vmid)

    # Operators

    def start_operator(self, name: str = "") -> None:
        """Start one replica, or all."""
        for replica in self._named(name):
            replica.start()

    async def kill_operator(self, name: str = "") -> None:
        """End one replica at once, or all; what they had sent goes on."""
        for replica in self._named(name):
            replica.crash()
        while self.dying:
            await asyncio.wait(self.dying)
            await asyncio.sleep(0)

    async def stop_operator(self, name: str = "") -> None:
        """End one replica in order, or all."""
        for replica in self._named(name):
            await replica.stop()

    def leader(self) -> Replica | None:
        """The replica whose loop runs with the Lease."""
        return next((replica for replica in self.operators.values() if replica.leads), None)

    def _named(self, name: str) -> list[Replica]:
        return [self.operators[name]] if name else list(self.operators.values())

    def on_effect(self, callback: Callable[[wires.Effect], object]) -> None:
        """Call `callback` with each side effect before it is sent."""
        self._watching.append(callback)

    def on_line(self, callback: Callable[[str], object]) -> None:
        """Call `callback` with each line of a timeline before it is done."""
        self._hearing.append(callback)

    def disarm(self) -> None:
        """Nothing that waits for a side effect happens any more."""
        self.triggers.clear()
        self.standstills.clear()
        self.moves.clear()
        for replica in self.operators.values():
            replica.trip = 0

    def sending(self, effect: wires.Effect) -> None:
        self.effects += 1
        for callback in self._watching:
            callback(effect)
        due = next((each for each in self.standstills if each[0] == effect.verb), None)
        if due is not None and self.operators[effect.operator].leads:
            self.standstills.remove(due)
            what = f"stands still before {effect.verb} {effect.subject}"
            self.world.say(f"operator {effect.operator}", what)
            _freeze(self, effect.operator, str(due[1]))

    def _moved(self, vmid: int, source: str, target: str, by: str) -> None:
        for each in [each for each in self.moves if each[0] == vmid]:
            self.moves.remove(each)
            self.world.later(each[1], self.apply, each[2])

    def sent(self, effect: wires.Effect) -> None:
        """Do what is due after so many effects, and kill the sender if this was its last."""
        if effect.verb not in ("lease", "status") and self.triggers:
            for left, delay, line in self.triggers:
                if left == 1:
                    self.world.later(delay, self.apply, line)
            self.triggers = [(left - 1, delay, line) for left, delay, line in self.triggers if left > 1]
        if effect.verb not in ("lease", "status") and self.lull:
            self.lull.stir()
        replica = self.operators[effect.operator]
        if not replica.trip or effect.verb == "lease":
            return
        replica.trip -= 1
        if not replica.trip:
            self.world.say(f"operator {replica.name}", f"dies after {effect.verb} {effect.subject}")
            again = replica.restart_after
            replica.crash()
            if again is not None:
                self.world.later(again, replica.start)

    def outside(self, wire: wires.Wire, *, shell: bool) -> watcher.Outside:
        """The ports of one process; `shell`: the HACluster names a node shell."""
        return watcher.Outside(
            wires.WiredHypervisor(wire, sim_ports.SimHypervisor(self.world)),
            wires.WiredNodeShell(wire, sim_ports.SimNodeShell(self.world)) if shell else None,
            wires.WiredPower(wire, sim_ports.SimPower(self.world)),
            dict.fromkeys(self._switches(), POWER_SECONDS),
            describe=answers.described,
        )

    def _switches(self) -> Iterable[power.Switch]:
        spec = self.cluster_status().spec
        for node in spec.nodes:
            for _, level in spec.levels(node.name):
                yield from (
                    power.Switch(node.name, method.name) for method, _ in level if method.manual is None
                )

    def _tell(self, event: str, obj: Manifest) -> None:
        for replica in self.operators.values():
            replica.heard(event, obj)

    # What users do

    def protect(self, vmid: int, **spec: Any) -> None:
        """A user writes the ProtectedVM of a guest."""
        self.kubernetes.put(protected_vm(vmid, **self.wishes.get(vmid, {}), **spec))

    def edit(self, kind: str, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """A user changes an object."""
        manifest = dict(self.kubernetes.get(kind, NAMESPACE, name))
        change(manifest)
        self.kubernetes.put(manifest)

    def apply(self, line: str) -> bool:
        """Do what a line of a timeline says: of `faults`, or about operators and Kubernetes
        (`OPERATOR_LINES`).

        Raises `faults.UnknownFaultError` for anything else. What cannot be done at the moment (a person's
        write without quorum) is told and left: then the answer is False.
        """
        words = " ".join(line.split())
        for callback in self._hearing:
            callback(words)
        for pattern, act in _FORMS:
            if match := pattern.fullmatch(words):
                self.world.say("timeline", words)
                act(self, *match.groups())
                return True
        self.world.say("timeline", words)
        try:
            faults.apply(self.world, words)
        except (errors.OutsideError, OSError) as problem:
            self.world.say("timeline", f"{words}: not now ({problem})")
            return False
        except faults.UnknownFaultError as problem:
            if not isinstance(problem.__cause__, KeyError):
                raise
            self.world.say("timeline", f"{words}: not now ({problem})")
        return True

    # Looking

    async def settle(self, seconds: float = 60.0) -> None:
        """Let everything come to rest before a test begins."""
        await asyncio.sleep(seconds)

    async def until(self, reached: Callable[[], bool], seconds: float, what: str) -> float:
        """Wait for something; returns the world's time when it was reached, fails after `seconds`."""
        deadline = self.world.now() + seconds
        while not reached():
            if self.world.now() >= deadline:
                told = "\n".join(str(event) for event in self.world.log[-40:])
                raise AssertionError(f"{what}: not within {seconds:g} s\n{told}")
            await asyncio.sleep(0.1)
        return self.world.now()

    def cluster_status(self) -> api.HACluster:
        version = self.kubernetes.resource_version("HACluster", NAMESPACE, CLUSTER)
        if self._cluster is None or self._cluster.metadata.resource_version != version:
            parsed = api.parse(self.kubernetes.get("HACluster", NAMESPACE, CLUSTER))
            assert isinstance(parsed, api.HACluster)
            self._cluster = parsed
        return self._cluster

    def guest_status(self, vmid: int) -> api.ProtectedVM:
        """Of the ProtectedVM that a person wrote, or else the one of pveha."""
        try:
            found = self.kubernetes.get("ProtectedVM", NAMESPACE, f"vm{vmid}")
        except KeyError:
            found = self.kubernetes.get("ProtectedVM", NAMESPACE, f"{CLUSTER}-{vmid}")
        parsed = api.parse(found)
        assert isinstance(parsed, api.ProtectedVM)
        return parsed

    def marks(self) -> dict[str, mark.Mark]:
        """Every mark left in the HA resources of the newest tree."""
        found = {sid: mark.parse(each.comment).mark for sid, each in self.world.newest.resources.items()}
        return {sid: each for sid, each in found.items() if each is not None}

    def listen(self) -> "Sentences":
        """A context in which what operators log stands in the world's log."""
        return Sentences(self.world)


class Sentences(logging.Handler):
    """Writes what operators log into the world's log."""

    def __init__(self, about: world.World) -> None:
        super().__init__(logging.INFO)
        self._world = about
        self._log = logging.getLogger("pveha")

    def __enter__(self) -> None:
        self._before = (self._log.level, self._log.propagate)
        self._log.setLevel(logging.INFO)
        self._log.propagate = False
        self._log.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self._log.removeHandler(self)
        self._log.setLevel(self._before[0])
        self._log.propagate = self._before[1]

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self._world.say(_speaker.get(), record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            self._world.say(_speaker.get(), f"BUG {record.exc_info[1]!r}")


# Lines of a timeline about operators and Kubernetes


def _wire(name: str, value: object) -> Callable[[Rig, str], object]:
    def act(rig: Rig, operator: str) -> None:
        replicas = rig.operators.values() if operator == "all" else [rig.operators[operator]]
        for replica in replicas:
            setattr(replica.wire, name, value)

    return act


def _trip(rig: Rig, operator: str, effects: str, seconds: str | None) -> None:
    replica = rig.operators[operator]
    replica.trip = int(effects)
    replica.restart_after = None if seconds is None else float(seconds)


def _trigger(rig: Rig, effects: str, seconds: str | None, line: str) -> None:
    rig.triggers.append((int(effects), float(seconds or 0.0), line))


def _freeze(rig: Rig, operator: str, seconds: str) -> None:
    rig.operators[operator].wire.stands_still_until = asyncio.get_running_loop().time() + float(seconds)


def _freeze_leader(rig: Rig, seconds: str) -> None:
    leader = rig.leader()
    if leader is not None:
        _freeze(rig, leader.name, seconds)


def _freeze_sending(rig: Rig, seconds: str, verb: str) -> None:
    rig.standstills.append((verb, float(seconds)))


def _when_moved(rig: Rig, vmid: str, seconds: str | None, line: str) -> None:
    rig.moves.append((int(vmid), float(seconds or 0.0), line))


def _set_spec(**fields: object) -> Callable[[Rig], object]:
    def act(rig: Rig) -> None:
        rig.edit("HACluster", CLUSTER, lambda manifest: manifest["spec"].update(fields))

    return act


def _deafen(rig: Rig, operator: str) -> None:
    rig.operators[operator].deaf = True


def _take_lease(rig: Rig) -> None:
    rig.kubernetes.hold_lease(NAMESPACE, LEASE, "somebody else")


def _delete_lease(rig: Rig) -> None:
    try:
        rig.kubernetes.delete_lease(NAMESPACE, LEASE)
    except KeyError:
        rig.world.say("timeline", "there was no Lease")


def _protect(rig: Rig, vmid: str) -> None:
    rig.protect(int(vmid))


def _unprotect(rig: Rig, first: str, last: str | None) -> None:
    for vmid in range(int(first), int(last or first) + 1):
        try:
            rig.kubernetes.delete("ProtectedVM", NAMESPACE, f"vm{vmid}")
        except KeyError:
            rig.world.say("timeline", f"there was no ProtectedVM vm{vmid}")


def _availability(rig: Rig, node: str, word: str) -> None:
    """A user pauses, drains or activates a node."""

    def change(manifest: dict[str, Any]) -> None:
        nodes = [each for each in manifest["spec"].get("nodes", []) if each["name"] != node]
        old = [each for each in manifest["spec"].get("nodes", []) if each["name"] == node] or [{"name": node}]
        manifest["spec"]["nodes"] = sorted(
            [*nodes, {**old[0], "availability": word}], key=lambda each: str(each["name"])
        )

    rig.edit("HACluster", CLUSTER, change)


def _recreate(rig: Rig) -> None:
    """Somebody deletes the HACluster and applies its manifest again: another uid, and no status."""
    manifest = dict(rig.kubernetes.get("HACluster", NAMESPACE, CLUSTER))
    metadata = {key: manifest["metadata"][key] for key in ("name", "namespace", "creationTimestamp")}
    rig.kubernetes.delete("HACluster", NAMESPACE, CLUSTER)
    rig.kubernetes.put({**manifest, "metadata": metadata})


def _delete(rig: Rig) -> None:
    """Somebody deletes the HACluster, and Kubernetes the ProtectedVMs that it owns."""
    owner = rig.kubernetes.get("HACluster", NAMESPACE, CLUSTER)["metadata"]["uid"]
    for name in rig.kubernetes.owned_by(owner):
        rig.kubernetes.delete("ProtectedVM", NAMESPACE, name)
    rig.kubernetes.delete("HACluster", NAMESPACE, CLUSTER)


def _another_begins(rig: Rig) -> None:
    """The pveha of another Kubernetes cluster, told by its people to take the Proxmox cluster over, opens an
    epoch on the first node that lets it."""
    words = ["begin", "--owner", ANOTHER, "--take-over", OWNER]
    command = shlex.join([f"pveha-node/{pveha_node.PROTOCOL}", *words])
    for name, on in rig.world.machines.items():
        if on.runs("sshd") and on.runs("pmxcfs") and not rig.world.fs.blocked(name):
            system = node_system.NodeSystem(rig.world, name, command)
            answer = pveha_node.main(["serve"], system, command)
            rig.world.say("another owner", f"begins on {name}: {json.dumps(answer)}")
            if answer["ok"]:
                return


def _take_over(rig: Rig, owner: str) -> None:
    _annotate(meta.TAKE_OVER_ANNOTATION)(rig, ANOTHER if owner == "another" else owner)


def _lose_status(rig: Rig) -> None:
    """An etcd restored from a backup knows specs but not what happened since."""
    rig.kubernetes.forget_status("HACluster", NAMESPACE, CLUSTER)


def _annotate(annotation: str) -> Callable[[Rig, str], None]:
    def act(rig: Rig, nodes: str) -> None:
        def change(manifest: dict[str, Any]) -> None:
            annotations = manifest["metadata"].setdefault("annotations", {})
            if nodes == "none":
                annotations.pop(annotation, None)
            else:
                annotations[annotation] = nodes

        rig.edit("HACluster", CLUSTER, change)

    return act


def _confirm(rig: Rig, node: str) -> None:
    """A person says that a node is off, and copies the id of its failure from where the status tells it."""
    for each in rig.cluster_status().status.not_online:
        found = re.search(rf"{meta.CONFIRM_OFF_ANNOTATION}=(\S+)", each.reason)
        if each.name == node and found:
            _annotate(meta.CONFIRM_OFF_ANNOTATION)(rig, found.group(1))
            return
    rig.world.say("timeline", f"nobody asks whether {node} is off")


def _accept(rig: Rig, vmid: str) -> None:
    """A person gives up what the lost node holds newer, and copies the id of the failover from the status."""
    try:
        found = rig.guest_status(int(vmid))
    except KeyError:
        rig.world.say("timeline", f"there was no ProtectedVM of guest {vmid}")
        return
    if found.status.last_failover is None:
        rig.world.say("timeline", f"guest {vmid} has had no failover")
    last = found.status.last_failover
    annotations = {meta.ACCEPT_DATA_LOSS_ANNOTATION: last.id if last is not None else "none-0"}
    rig.edit(
        "ProtectedVM",
        found.metadata.name,
        lambda manifest: manifest["metadata"].setdefault("annotations", {}).update(annotations),
    )


_OPERATOR = r"([a-z]+)"
OPERATOR_LINES: tuple[tuple[str, str, Callable[..., object]], ...] = (
    (rf"start operator {_OPERATOR}", "start operator NAME", lambda rig, name: rig.operators[name].start()),
    (rf"kill operator {_OPERATOR}", "kill operator NAME", lambda rig, name: rig.operators[name].crash()),
    (
        rf"kill operator {_OPERATOR} after (\d+) effects(?: restart after (\d+))?",
        "kill operator NAME after N effects [restart after SECONDS]",
        _trip,
    ),
    (r"after ([1-9]\d*) effects(?: and ([\d.]+) s)? (.+)", "after N effects [and SECONDS s] LINE", _trigger),
    (rf"freeze operator {_OPERATOR} ([\d.]+)", "freeze operator NAME SECONDS", _freeze),
    (r"freeze leader ([\d.]+)", "freeze leader SECONDS", _freeze_leader),
    (
        r"freeze leader ([\d.]+) at (begin|claim|start|kill|(?:create|update|delete)_(?:ha|rule))",
        "freeze leader SECONDS at VERB",
        _freeze_sending,
    ),
    (
        r"when guest (\d+) moves(?: and ([\d.]+) s)? (.+)",
        "when guest VMID moves [and SECONDS s] LINE",
        _when_moved,
    ),
    (rf"cut kubernetes {_OPERATOR}", "cut kubernetes NAME|all", _wire("kubernetes_down", value=True)),
    (rf"heal kubernetes {_OPERATOR}", "heal kubernetes NAME|all", _wire("kubernetes_down", value=False)),
    (
        rf"lose kubernetes answers {_OPERATOR}",
        "lose kubernetes answers NAME|all",
        _wire("kubernetes_loses_answers", value=True),
    ),
    (
        rf"deliver kubernetes answers {_OPERATOR}",
        "deliver kubernetes answers NAME|all",
        _wire("kubernetes_loses_answers", value=False),
    ),
    (rf"deafen watch {_OPERATOR}", "deafen watch NAME", _deafen),
    ("take lease", "take lease", _take_lease),
    ("delete lease", "delete lease", _delete_lease),
    ("lose status", "lose status", _lose_status),
    ("delete cluster", "delete cluster", _delete),
    ("recreate cluster", "recreate cluster", _recreate),
    (
        r"auto protect (\S+)",
        "auto protect TAG,...|none",
        lambda rig, tags: _set_spec(
            autoProtect=[] if tags == "none" else [{"name": "auto", "tags": tags.split(",")}]
        )(rig),
    ),
    (
        r"confirm unprotect (\S+)",
        "confirm unprotect COUNT|none",
        _annotate(meta.CONFIRM_UNPROTECT_ANNOTATION),
    ),
    ("pause", "pause", _set_spec(pauseRequests=["timeline"])),
    ("unpause", "unpause", _set_spec(pauseRequests=[])),
    (r"availability (\S+) (Active|Pause|Drain)", "availability NODE Active|Pause|Drain", _availability),
    ("mode (Observe|Enforce)", "mode Observe|Enforce", lambda rig, mode: _set_spec(mode=mode)(rig)),
    (r"protect (\d+)", "protect VMID", _protect),
    (r"unprotect (\d+)(?:-(\d+))?", "unprotect VMID[-VMID]", _unprotect),
    ("another owner begins", "another owner begins", _another_begins),
    (
        r"take over (\S+)",
        "take over OWNER|another|none",
        _take_over,
    ),
    (r"rebind (\S+)", "rebind NODE,...|none", _annotate(meta.REBIND_ANNOTATION)),
    (r"drill (\S+)", "drill NODE,...|none", _annotate(meta.DRILL_ANNOTATION)),
    (r"confirm off (\S+)", "confirm off NODE", _confirm),
    (
        r"confirm failure (\S+)",
        "confirm failure ID,...|none",
        _annotate(meta.CONFIRM_OFF_ANNOTATION),
    ),
    (r"accept data loss (\d+)", "accept data loss VMID", _accept),
    (r"end quarantine (\S+)", "end quarantine NODE,...|none", _annotate(meta.END_QUARANTINE_ANNOTATION)),
)
"""Pattern, usage and act of each line."""
_FORMS = tuple((re.compile(pattern), act) for pattern, _, act in OPERATOR_LINES)


def devices(about: config.Config) -> list[dict[str, Any]]:
    """Fencing methods: every BMC and, behind them, every outlet."""
    pdus = sorted({pdu for node in about.nodes for pdu in node.pdus})
    bmcs = any(node.has_bmc for node in about.nodes)
    methods: list[dict[str, Any]] = [{"name": "bmc", "redfish": {}}] if bmcs or not pdus else []
    behind = {"level": 2} if bmcs else {}
    return methods + [{"name": pdu, **behind, "agent": {"name": "fence_sim"}} for pdu in pdus]


def hacluster(about: config.Config, spec: dict[str, Any]) -> dict[str, Any]:
    """An HACluster for the data centre `about`, in Enforce, with all `devices` of it."""
    methods = devices(about)
    whole: dict[str, Any] = {
        "mode": "Enforce",
        "endpoints": [{"host": node.name} for node in about.nodes],
        "credentialsSecretRef": {"name": "token"},
        "tls": {"caSecretRef": {"name": "ca"}},
        "recovery": {"nodeShell": {"credentialsSecretRef": {"name": "ssh"}}},
        "fencing": {"methods": methods},
        **spec,
        "capacity": {"memoryReserveMebibytes": 0, **spec.get("capacity", {})},
    }
    methods = whole["fencing"].get("methods", methods)
    whole.setdefault("nodes", [_node(node, methods, about) for node in about.nodes])
    return _object("HACluster", CLUSTER, whole)


def _bindings(about: config.Config, spec: api.HAClusterSpec) -> list[dict[str, Any]]:
    """What drills have left in the status, for every node with outlets."""
    return [
        {
            "name": node.name,
            "methods": [
                {"name": method.name, "drill": fencing.device(method, entry)}
                for _, level in spec.levels(node.name)
                for method, entry in level
                if method.agent is not None
            ],
        }
        for node in about.nodes
        if node.pdus
    ]


def _node(node: config.Node, methods: list[dict[str, Any]], about: config.Config) -> dict[str, Any]:
    """A node's entry, with what each of the methods needs to know of it."""
    entries: list[dict[str, Any]] = []
    secret = {"credentialsSecretRef": {"name": "bmc"}}
    for method in methods:
        entry: dict[str, Any] = {"method": method["name"]}
        if "redfish" in method and node.has_bmc:
            address = {"address": f"https://bmc-{node.name}", "caSecretRef": {"name": "ca"}}
            entries.append({**entry, **address, **secret})
        elif "ipmi" in method and node.has_bmc:
            entries.append({**entry, "host": f"bmc-{node.name}", **secret})
        elif "agent" in method and method["name"] in node.pdus:
            entries.append({**entry, "parameters": [{"name": "plug", "value": node.name}]})
        elif "manual" in method:
            entries.append(entry)
    twins = [
        each.name
        for each in about.nodes
        if node.chassis and each.chassis == node.chassis and each.name != node.name
    ]
    also = {"alsoCutsOff": twins} if twins else {}
    return {"name": node.name, "fencing": entries, **also}


def protected_vm(vmid: int, **spec: Any) -> dict[str, Any]:
    """A ProtectedVM called `vm<vmid>`."""
    return _object("ProtectedVM", f"vm{vmid}", {"clusterRef": {"name": CLUSTER}, "vmid": vmid, **spec})


def policy(name: str, **spec: Any) -> dict[str, Any]:
    """A FailoverPolicy."""
    return _object("FailoverPolicy", name, spec)


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, "creationTimestamp": "2026-11-01T00:00:00Z"}
    return {"apiVersion": api.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
