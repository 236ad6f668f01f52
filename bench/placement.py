"""How fast and how good the placing engine is: `python -m bench.placement --json`.

Prints one line of JSON: each figure, and its bound beside it as `NAME_bound`. Exit code 1: a bound is missed;
2: quality could not be measured because OR-tools is not installed (`pip install -r requirements.bench.lock`);
its figure is null then.

Speed, in seconds of the wall clock: a cluster of 32 nodes and 5,000 guests, 80 % full (`clusters.large`);
every time begins with the plain problem. A change is one guest with more memory, which every plan depends on.
`all_plans_after_one_change_cpu_ms` is the same in CPU time, for machines with other work to do.
`all_plans_98_percent_full_s` has no bound: nothing fits then, every plan searches as long as it may.

Quality: 50 tight instances (`clusters.tight`) against what CP-SAT proves (`exact`).
`left_down_vs_bound_percent` counts the guests left down beyond the bound, priority by priority, as percent of
those to be placed; where CP-SAT's time is up before it reaches its own bound, the gap counts against the
engine. `left_down_vs_found_percent` counts against the plans that CP-SAT did find.
"""

import argparse
import dataclasses
import importlib.util
import json
import statistics
import sys
import time
from collections import Counter

from bench import clusters
from pveha.decide.placing import admission, plan, singles

BOUNDS = {
    "plan_one_node_ms_median": 50.0,
    "all_plans_cold_s": 1.5,
    "all_plans_after_one_change_ms": 100.0,
    "admission_k2_s": 10.0,
    "left_down_vs_bound_percent": 0.5,
}
Figures = dict[str, float | int | bool | None]


def speed() -> Figures:
    asked = clusters.large()
    one = []
    for node in asked.nodes:
        began = time.perf_counter()
        plan.plan(asked, frozenset((node.name,)))
        one.append(time.perf_counter() - began)
    cold = []
    known: singles.Singles | None = None
    for _ in range(3):
        began = time.perf_counter()
        known = singles.plan_each(asked)
        cold.append(time.perf_counter() - began)
    changed = []
    computing = time.process_time()
    for number in range(0, len(asked.guests), len(asked.guests) // 20):
        guests = list(asked.guests)
        guests[number] = dataclasses.replace(guests[number], memory=guests[number].memory + clusters.GIB)
        after = dataclasses.replace(asked, guests=tuple(guests))
        began = time.perf_counter()
        singles.plan_each(after, known)
        changed.append(time.perf_counter() - began)
    computing = (time.process_time() - computing) / len(changed)
    began = time.perf_counter()
    answer = admission.admit(asked, 2, admission.each_node(asked))
    admitted = time.perf_counter() - began
    full = clusters.large(fill=0.98)
    began = time.perf_counter()
    singles.plan_each(full)
    searched = time.perf_counter() - began
    return {
        "plan_one_node_ms_median": round(1000 * statistics.median(one), 1),
        "all_plans_cold_s": round(statistics.median(cold), 3),
        "all_plans_after_one_change_ms": round(1000 * statistics.median(changed), 1),
        "all_plans_after_one_change_cpu_ms": round(1000 * computing, 1),
        "admission_k2_s": round(admitted, 2),
        "all_plans_98_percent_full_s": round(searched, 2),
        "admission_k2_combinations": answer.combinations,
        "admission_k2_exact": answer.exact,
    }


def quality(instances: int, seconds: float) -> Figures:
    """`seconds` is CP-SAT's limit for each priority of each instance."""
    from bench import exact  # the only use of OR-tools, which need not be installed

    to_place = missed = missed_found = left = proven = 0
    slowest = 0.0
    for seed in range(instances):
        instance = clusters.tight(seed)
        began = time.perf_counter()
        made = plan.plan(instance.asked, instance.down)
        slowest = max(slowest, time.perf_counter() - began)
        best = exact.bound(instance, seconds)
        placed = Counter(guest.priority for guest in instance.to_place if guest.vmid in made.targets)
        short = {priority: max(0, count - placed[priority]) for priority, count in best.running.items()}
        to_place += len(instance.to_place)
        left += len(made.left)
        missed += sum(short.values())
        missed_found += sum(max(0, count - placed[priority]) for priority, count in best.found.items())
        proven += best.proven
        print(
            f"instance {seed}: {len(instance.asked.nodes)} nodes, {instance.fill:.0%} full, "
            f"{len(instance.to_place)} of {len(instance.asked.guests)} guests to place, {len(made.left)} "
            f"left down, {sum(short.values())} of them against the bound"
            f"{'' if best.proven else ', which CP-SAT does not reach either'}",
            file=sys.stderr,
            flush=True,
        )
    return {
        "left_down_vs_bound_percent": round(100 * missed / to_place, 3),
        "left_down_vs_found_percent": round(100 * missed_found / to_place, 3),
        "quality_instances": instances,
        "quality_instances_proven": proven,
        "quality_guests_to_place": to_place,
        "quality_guests_left_down": left,
        "quality_guests_left_down_vs_bound": missed,
        "quality_plan_ms_max": round(1000 * slowest, 1),
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.placement", description="Measures the placing engine."
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--instances", type=int, default=50, help="tight instances (50)")
    parser.add_argument("--seconds", type=float, default=20.0, help="CP-SAT's limit for each priority (20)")
    chosen = parser.parse_args(arguments)
    figures = speed()
    measurable = importlib.util.find_spec("ortools") is not None
    if measurable:
        figures |= quality(chosen.instances, chosen.seconds)
    else:
        figures["left_down_vs_bound_percent"] = None
        print(
            "quality not measured: OR-tools is not installed (pip install -r requirements.bench.lock)",
            file=sys.stderr,
        )
    figures |= {f"{name}_bound": value for name, value in BOUNDS.items()}
    if chosen.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:40} {value}")
    if any((figures[name] or 0) > bound for name, bound in BOUNDS.items()):
        return 1
    return 0 if measurable else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
