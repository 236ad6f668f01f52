"""Plays a random plan against the production operator in virtual time, with the invariants watching."""

import asyncio
import collections
import dataclasses
import re
from typing import Any

from pveha.model import cluster, mark
from pveha.sim import chaos, clock, copies, invariants, rig, wires

PATIENCE_SECONDS = 900.0
"""How long a mended world may take until everything is as it should be."""
LOOK_SECONDS = 20.0
SLOW_SECONDS = 930.0
"""What goes by the clock alone is over then: the storm cooldown (300 s), planned absences (600 s)."""
QUIET_SECONDS = 60.0
"""In a settled world nothing is written for so long, ..."""
QUIET_WINDOWS = 3
"""... at the latest the third time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What came of one run."""

    seed: int
    violations: tuple[invariants.Violation, ...]
    seconds: float
    """Simulated."""
    faults: dict[str, int]
    """Of each kind."""
    fencings: int
    recoveries: int
    handed_to_native: int
    """Guests of lost nodes that Proxmox's own HA recovered."""
    copies_of_others: dict[int, str]
    """Guests that came to have two writers by what a person or native HA did, and by whom: not pveha's."""
    effects: int
    """Side effects, Leases apart, between the first line of the timeline and the mending."""
    guests: dict[int, dict[str, str]]
    """Where each is at the end, and in which state."""
    log: tuple[str, ...]


def play(plan: chaos.Plan, skip_polls: bool = True) -> Result:
    """Run a plan to its end. The same plan gives the same result, byte for byte."""
    return clock.run(_Play(plan, skip_polls).run())


def _fencing(plan: chaos.Plan) -> dict[str, Any]:
    """spec.fencing."""
    methods = rig.devices(plan.about)
    if (seconds := plan.confirmed_seconds) is not None:
        methods.append({"name": "person", "level": 9, "manual": {"confirmedSeconds": seconds}})
    again = {"action": "PowerOn", "afterSeconds": plan.afterwards} if plan.afterwards is not None else {}
    return {"methods": methods, **({"afterwards": again} if again else {})}


class _Play:
    """One run."""

    def __init__(self, plan: chaos.Plan, skip_polls: bool) -> None:
        self._plan = plan
        recovery = {"engine": plan.engine, "nodeShell": {"credentialsSecretRef": {"name": "ssh"}}}
        self._rig = rig.Rig(
            plan.about,
            {"recovery": recovery, "autoProtect": chaos.AUTO_PROTECT, "fencing": _fencing(plan)},
            protect=plan.protect,
            operators=plan.operators,
            skip_polls=skip_polls,
            wishes=plan.wishes.guests,
        )
        if plan.wishes.zones:
            self._rig.edit("HACluster", rig.CLUSTER, self._zoned)
        self._invariants = invariants.Invariants(self._rig)
        limit = plan.lost_seconds
        data = (
            {"data": {"require": "SharedOrReplicated", "maxDataLossSeconds": limit}}
            if limit is not None
            else {}
        )
        groups = {"groups": list(plan.wishes.groups)}
        self._rig.kubernetes.put(rig.policy(chaos.POLICY, **chaos.ORDERED, placement=groups, **data))
        for vmid in sorted({vmid for pair in plan.depends for vmid in pair}):
            after = [{"name": f"vm{other}"} for one, other in plan.depends if one == vmid]
            spec = {"dependsOn": after} if after else {}
            wish = plan.wishes.guests.get(vmid, {})
            policy = {"policyRef": {"name": chaos.POLICY}}
            self._rig.kubernetes.put(rig.protected_vm(vmid, **{**wish, **spec, **policy}))
        self._wanted: dict[str, cluster.HAResource | None] = {}
        self._anyway: set[str] = set()
        self._effects = 0
        self._began = plan.timeline[0][0]
        self._rig.on_effect(self._count)
        self._rig.on_line(self._before)
        self._left: dict[int, set[str]] = {}
        """Nodes that guests have left since everything came right."""
        self._sent: set[int] = set()
        """Guests that operators have moved since then."""
        self._later: list[str] = []
        """What mends the world but has to wait for quorum."""

    def _zoned(self, manifest: dict[str, Any]) -> None:
        for node in manifest["spec"]["nodes"]:
            node["zone"] = self._plan.wishes.zones[node["name"]]

    async def run(self) -> Result:
        world = self._rig.world
        with self._rig.listen():
            world.start()
            self._rig.start_operator()
            for at, line in self._plan.timeline:
                await asyncio.sleep(max(0.0, at - world.now()))
                if at >= self._plan.calm_at:
                    self._rig.disarm()
                if not self._rig.apply(line) and at >= self._plan.calm_at:
                    self._later.append(line)
            await self._settle()
            await self._rig.kill_operator()
        return self._result()

    def _count(self, effect: wires.Effect) -> None:
        if effect.verb != "lease" and self._began <= self._rig.world.now() < self._plan.calm_at:
            self._effects += 1

    def _before(self, line: str) -> None:
        """What owners want of their HA resources begins as it was; what they change is in the cluster."""
        if not self._wanted:
            self._note_wanted()
        if line == "take lease":
            self._invariants.lease_taken_at = self._rig.world.now()
        if match := re.fullmatch(r"set (\S+) (\w+)", line):
            sid = match[1]
            self._invariants.set_by_user[sid] = self._rig.world.now()
            present = self._rig.world.newest.resources.get(sid)
            if present is not None and mark.parse(present.comment).preempted:
                self._anyway.add(sid)
        elif match := re.fullmatch(
            r"(?:(?:start|stop|migrate|unlock|lock|crash) guest|move config) (\d+).*", line
        ):
            by_hand = line.startswith(("start", "stop", "move"))
            blindly = line.startswith("unlock") and self._is_half_migrated(int(match[1]))
            if by_hand or blindly:
                known = self._wanted.keys() | self._rig.world.newest.resources.keys()
                self._anyway |= {f"vm:{match[1]}", f"ct:{match[1]}"} & known
        elif match := re.fullmatch(r"unprotect (\d+)", line):
            self._anyway |= {f"vm:{match[1]}", f"ct:{match[1]}"}

    def _is_half_migrated(self, vmid: int) -> bool:
        """Whether a guest's lock is all that tells a paused process of it for what its broken migration has
        left, from one that its owner has paused: pveha ends only the former (S17). Who takes the lock away
        without looking has the other left to decide about."""
        world = self._rig.world
        file = world.newest.guests.get(vmid)
        if file is None or file.lock != "migrate":
            return False
        processes = [on.processes[vmid] for on in world.machines.values() if vmid in on.processes]
        return any(process.state in copies.LEFTOVERS for process in processes)

    def _note_wanted(self) -> None:
        tree = self._rig.world.newest
        for file in tree.guests.values():
            resource = tree.resources.get(file.ref.sid)
            protected = file.ref.vmid in self._plan.protect
            enrolled = resource is not None and mark.parse(resource.comment).owner == rig.OWNER
            if protected or (resource is not None and not enrolled):
                self._wanted[file.ref.sid] = resource

    async def _settle(self) -> None:
        """A mended world comes right by itself, and then is quiet."""
        world = self._rig.world
        deadline = world.now() + PATIENCE_SECONDS
        problems = self._problems()
        while (problems or self._later) and world.now() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
            if self._invariants.majority():
                self._later = [line for line in self._later if not self._rig.apply(line)]
                if self._is_still_disarmed():
                    self._rig.apply("arm")
            problems = self._problems()
        for problem in problems:
            self._invariants.violated("comes right", problem)
        if problems:
            return
        world.on_move(self._moved)
        self._rig.on_effect(lambda effect: self._sent.update(effect.vmids))
        await asyncio.sleep(SLOW_SECONDS)
        # How old replicas are is told whenever one is synced.
        heard = {"lease", "status"} if self._plan.lost_seconds is not None else {"lease"}
        effects: list[str] = []
        self._rig.on_effect(
            lambda effect: (
                effects.append(f"{effect.operator}: {effect.verb} {effect.subject}")
                if effect.verb not in heard
                else None
            )
        )
        for _ in range(QUIET_WINDOWS):
            effects.clear()
            await asyncio.sleep(QUIET_SECONDS)
            if not effects:
                break
        for effect in effects:
            self._invariants.violated("quiet is quiet", effect)
        for problem in self._problems():
            self._invariants.violated("stays right", problem)

    def _moved(self, vmid: int, source: str, target: str, by: str) -> None:
        """In a world that has come right, pveha may find a better place for a guest, once."""
        left = self._left.setdefault(vmid, set())
        left.add(source)
        if target in left and vmid in self._sent:
            what = f"guest {vmid} is back on {target}, which it had left since all was mended, by {by}"
            self._invariants.violated("nothing bounces", what)

    def _is_still_disarmed(self) -> bool:
        """Whether the CRM has taken the command to arm HA and has not obeyed: a round that dies has lost the
        commands that it began with. Who has armed HA sees that, and arms it again."""
        tree = self._rig.world.newest
        return "arm" in self._plan.calm and bool(tree.manager.disarm_state) and not tree.commands

    def _problems(self) -> list[str]:
        gone = not any(replica.runs for replica in self._rig.operators.values())
        wishes = self._rig.world.newest.wishes
        wanted = {
            sid: dataclasses.replace(resource, state=wishes.get(sid, resource.state)) if resource else None
            for sid, resource in self._wanted.items()
        }
        return self._invariants.at_end(wanted, frozenset(self._anyway), gone=gone)

    def _result(self) -> Result:
        world = self._rig.world
        native = len([event for event in world.log if "recover from fenced node" in event.text])
        recovered = [each for each in self._rig.kubernetes.occurrences.values() if each.reason == "Recovered"]
        return Result(
            self._plan.seed,
            tuple(self._invariants.violations),
            world.now(),
            dict(collections.Counter(fault.kind for fault in self._plan.faults)),
            sum(command.command == "off" for command in world.bmc_log),
            sum(each.count for each in recovered),
            native,
            dict(self._invariants.copies_of_others),
            self._effects,
            world.state_of_guests(),
            tuple(map(str, world.log)),
        )
