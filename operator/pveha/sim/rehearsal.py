"""Plays the loss of nodes on a likeness of a cluster in virtual time, against the production operator."""

import asyncio
import dataclasses
from typing import Any

from pveha.model import snapshot, specs
from pveha.sim import clock, rebuilt, resource_log, rig, scenario_run

SETTLE_SECONDS = 60.0
"""Of the world's life before the nodes are lost; ..."""
SETTLE_LOST_SECONDS = 300.0
"""... so much where nodes are away already: their guests are recovered first."""
LEAST_SECONDS = 60.0
"""How long the loss is played, ..."""
MOST_SECONDS = 900.0
"""... and at most, if guests do not come back."""
LOOK_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What came of it. Times are in seconds since the loss."""

    lost: tuple[str, ...]
    log: tuple[str, ...]
    guests: dict[int, dict[str, str]]
    """By vmid: `node` and `state` at the end."""
    names: dict[int, str]
    """ProtectedVM, or name in Proxmox."""
    back: dict[int, float | None]
    """Of guests that ran on the lost nodes: when each ran again; None: it did not."""
    fenced: tuple[str, ...]
    double_runs: int
    problems: tuple[str, ...]
    """Operators that ended, exceptions that nobody expected: none, ever."""
    assumed: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For `json.dumps`."""
        plain = dataclasses.asdict(self)
        plain["back"] = {
            vmid: round(seconds, 1) if seconds is not None else None for vmid, seconds in self.back.items()
        }
        return plain


def play(seen: snapshot.Snapshot, wanted: specs.Specs, lost: tuple[str, ...]) -> Result:
    """Raises InvalidConfiguration for a snapshot that tells too little."""
    return clock.run(_Play(rebuilt.likeness(seen, wanted), wanted, lost).run())


class _Play:
    def __init__(self, of: rebuilt.Likeness, wanted: specs.Specs, lost: tuple[str, ...]) -> None:
        self._of, self._wanted, self._lost = of, wanted, lost
        self._rig = rig.Rig(of.about, dict(of.cluster))
        if of.bindings:
            bindings = {"bindings": list(of.bindings)}
            self._rig.kubernetes.write_status("HACluster", rig.NAMESPACE, rig.CLUSTER, bindings)
        for manifest in (*of.policies, *of.guests):
            self._rig.kubernetes.put(manifest)

    async def run(self) -> Result:
        world = self._rig.world
        world.start()
        resource_log.ResourceLog(world)
        with scenario_run.logged(world):
            for line in self._of.before:
                self._rig.apply(line)
            self._rig.start_operator()
            away = any(line.startswith("power off") for line in self._of.before)
            await asyncio.sleep(SETTLE_LOST_SECONDS if away else SETTLE_SECONDS)
            began, first = world.now(), len(world.log)
            ran = [vmid for vmid, each in world.state_of_guests().items() if self._is_hit(each)]
            for name in self._lost:
                self._rig.apply(f"power off {name}")
            await asyncio.sleep(LEAST_SECONDS)
            for _ in range(int((MOST_SECONDS - LEAST_SECONDS) / LOOK_SECONDS)):
                if self._is_over(ran, began):
                    break
                await asyncio.sleep(LOOK_SECONDS)
            result = self._result(began, first, ran)
            await self._rig.kill_operator()
        return result

    def _is_hit(self, guest: dict[str, str]) -> bool:
        return guest["node"] in self._lost and guest["state"] == "running"

    def _back(self, vmid: int, began: float) -> float | None:
        """Seconds since the loss when the guest was started that runs now."""
        last = max(self._rig.world.uptime(vmid), key=lambda each: each.start, default=None)
        return last.start - began if last is not None and last.end is None and last.start >= began else None

    def _is_over(self, ran: list[int], began: float) -> bool:
        return not self._rig.marks() and all(self._back(vmid, began) is not None for vmid in ran)

    def _result(self, began: float, first: int, ran: list[int]) -> Result:
        world = self._rig.world
        named = {pvm.spec.vmid: name for name, pvm in self._wanted.guests.items()}
        names = {guest.vmid: named.get(guest.vmid, guest.name) for guest in world.config.guests}
        events = [
            dataclasses.replace(
                each, subject=each.subject.replace(f"event {rig.CLUSTER}", f"event {self._name}")
            )
            for each in world.log[first:]
        ]
        return Result(
            self._lost,
            tuple(f"{each.at - began:9.2f}  {each.subject}: {each.text}" for each in events),
            world.state_of_guests(),
            names,
            {vmid: self._back(vmid, began) for vmid in ran},
            tuple(each.name for each in world.bmc_log if each.command == "off"),
            world.double_runs,
            (*self._rig.failures, *(e.text for e in world.log if e.subject == scenario_run.BUG)),
            self._of.assumed,
        )

    @property
    def _name(self) -> str:
        return self._wanted.cluster.metadata.name
