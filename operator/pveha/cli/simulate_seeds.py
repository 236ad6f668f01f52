"""`pveha simulate --seeds N`: random faults against the production operators, many seeds side by side."""

import argparse
import collections
import concurrent.futures
import dataclasses
import gc
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable

from pveha.model import errors
from pveha.sim import chaos, copies, invariants, mishaps, replay, shrink, simulation

CHUNK = 4
"""Seeds that a process plays between two reports."""


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """Some seeds for one process."""

    seeds: range
    kinds: tuple[str, ...]
    nodes: int | None
    guests: int | None


@dataclasses.dataclass(slots=True)
class Totals:
    """What came of all seeds so far."""

    seeds: int = 0
    seconds: float = 0.0
    kinds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    fencings: int = 0
    recoveries: int = 0
    handed_to_native: int = 0
    copies: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Second copies of a guest that were not pveha's doing, by whose they were."""
    broken: dict[int, tuple[invariants.Violation, ...]] = dataclasses.field(default_factory=dict)

    def add(self, results: Iterable[simulation.Result]) -> None:
        for result in results:
            self.seeds += 1
            self.seconds += result.seconds
            self.kinds.update(result.faults)
            self.fencings += result.fencings
            self.recoveries += result.recoveries
            self.handed_to_native += result.handed_to_native
            self.copies.update(result.copies_of_others.values())
            if result.violations:
                self.broken[result.seed] = result.violations

    def as_json(self) -> dict[str, object]:
        """For `json.dumps`; `violations` counts seeds with at least one."""
        return {
            "seeds": self.seeds,
            "violations": len(self.broken),
            "simulated_hours": round(self.seconds / 3600.0, 1),
            "faults": self.kinds.total(),
            "fencings": self.fencings,
            "recoveries": self.recoveries,
            "handed_to_native": self.handed_to_native,
            "copies_by_people": self.copies[copies.PERSON],
            "copies_by_native": self.copies[copies.NATIVE],
            "copies_by_forks": self.copies[copies.FORK],
            "kinds": dict(sorted(self.kinds.items())),
            "broken_seeds": sorted(self.broken),
        }


def run(args: argparse.Namespace) -> int:
    """Exit status 0 if no invariant was violated, else 1."""
    kinds = () if args.faults == "all" else tuple(args.faults.split(","))
    if unknown := sorted(set(kinds) - mishaps.KINDS.keys()):
        known = ", ".join(sorted(mishaps.KINDS))
        raise errors.InvalidConfiguration(f"--faults: no {', '.join(unknown)} among {known}")
    if mishaps.OF_QDEVICES & set(kinds) and args.nodes and args.nodes % 2:
        raise errors.InvalidConfiguration("--faults: only an even number of --nodes has a QDevice")
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    print(f"seeds {seeds[0]} to {seeds[-1]}", file=sys.stderr)
    totals = play(
        seeds,
        kinds,
        args.nodes,
        args.guests,
        args.processes or os.cpu_count() or 1,
    )
    for seed, violations in sorted(totals.broken.items()):
        print(f"seed {seed}:", file=sys.stderr)
        for violation in violations[:5]:
            print(f"  {violation}", file=sys.stderr)
    if args.keep is not None:
        for seed in sorted(totals.broken):
            short = shrink.shrink(chaos.plan(seed, kinds, args.nodes, args.guests))
            replay.write(short, args.keep / f"seed-{seed}")
    answer = totals.as_json()
    if args.json:
        print(json.dumps(answer))
    else:
        print("\n".join(f"{name:>18}  {value}" for name, value in answer.items() if name != "kinds"))
        print("\n".join(f"{count:>8}  {kind}" for kind, count in sorted(totals.kinds.items())))
    return 1 if totals.broken else 0


def play(
    seeds: range, kinds: tuple[str, ...], nodes: int | None, guests: int | None, processes: int
) -> Totals:
    """Play all seeds, side by side in `processes`."""
    tasks = [Task(seeds[at : at + CHUNK], kinds, nodes, guests) for at in range(0, len(seeds), CHUNK)]
    totals = Totals()
    if processes == 1 or len(tasks) == 1:
        for task in tasks:
            totals.add(_play(task))
        return totals
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        for number, results in enumerate(pool.map(_play, tasks), 1):
            totals.add(results)
            if sys.stderr.isatty():
                print(f"\r{min(number * CHUNK, len(seeds))} of {len(seeds)} seeds", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return totals


def _play(task: Task) -> list[simulation.Result]:
    """The results of some seeds, without their logs: `pveha simulate --seeds 1 --first-seed S --keep` tells
    those."""
    gc.disable()
    gc.collect()
    gc.freeze()
    try:
        return [_played(task, seed) for seed in task.seeds]
    finally:
        gc.unfreeze()
        gc.enable()


def _played(task: Task, seed: int) -> simulation.Result:
    """The garbage of a run is collected once, at its end, and what was there before the runs is not looked at
    for it: both together save a seventh of the time."""
    try:
        result = simulation.play(chaos.plan(seed, task.kinds, task.nodes, task.guests))
    except Exception as error:
        error.add_note(f"in the run of seed {seed}")
        raise
    gc.collect()
    return dataclasses.replace(result, log=())
