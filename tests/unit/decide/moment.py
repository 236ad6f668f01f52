"""One moment of a simulated cluster as the operator saw it, to be changed and decided on."""

import asyncio
import dataclasses
from unittest import mock

from pveha.decide import memory, rounds
from pveha.model import snapshot, specs
from pveha.sim import clock, config, rig


@dataclasses.dataclass(frozen=True)
class Moment:
    """What a round was given."""

    seen: snapshot.Snapshot
    wanted: specs.Specs
    memo: memory.Memory

    def decide(self) -> rounds.Decision:
        return rounds.decide(self.seen, self.wanted, self.memo)


def moment(*timeline: tuple[float, str], until: float = 60.0) -> Moment:
    """The last round at `until` seconds in a world of three nodes with six guests, with faults at their
    times."""
    found: list[Moment] = []
    real = rounds.decide

    def decide(seen: snapshot.Snapshot, wanted: specs.Specs, memo: memory.Memory) -> rounds.Decision:
        found.append(Moment(seen, wanted, memo))
        return real(seen, wanted, memo)

    async def main() -> None:
        guests = [config.managed(101 + number, f"pve{1 + number % 3}") for number in range(6)]
        about = rig.Rig(config.three_nodes(guests), protect=[guest.vmid for guest in guests])
        about.world.start()
        about.start_operator()
        for at, line in timeline:
            await asyncio.sleep(at - about.world.now())
            about.apply(line)
        await asyncio.sleep(until - about.world.now())
        await about.kill_operator()

    with mock.patch.object(rounds, "decide", decide):
        clock.run(main())
    return found[-1]
