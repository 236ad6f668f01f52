"""The forecast of a restart order is what the rounds would do one after the other."""

import itertools
import math
from typing import Any

import hypothesis
from hypothesis import strategies as some

from decide_scene import Scene
from pveha.decide import estimate, explain, order, rounds, sequence

NAMES = tuple(f"vm{vmid}" for vmid in range(111, 118))
MOMENT = 1e-6
"""So that a time that is over is over."""
MOMENTS = 1e-4
Story = list[tuple[list[str], dict[str, Any], bool, bool]]
"""Of each guest: what it depends on, its policy's startup with `delay` of the failover, whether it has an
agent, and whether it stays down."""

A_GUEST = some.tuples(
    some.lists(some.sampled_from(NAMES), max_size=3, unique=True),
    some.fixed_dictionaries(
        {
            "delaySeconds": some.sampled_from([0, 45, 200]),
            "readyTimeoutSeconds": some.sampled_from([10, 60, 150]),
            "onTimeout": some.sampled_from(["Continue", "Stop"]),
            "delay": some.sampled_from([0, 90]),
        }
    ),
    some.booleans(),
    some.sampled_from([False, False, False, True]),
)


def told(story: Story) -> dict[str, explain.Row]:
    """What `explain` says of pve1, where the guests of the story are."""
    scene = Scene()
    for name, (after, startup, agent, down) in zip(NAMES, story, strict=True):
        vmid = int(name[2:])
        scene.add_guest(vmid, "pve1")
        startup = dict(startup)
        scene.policies[name] = {"nodeFailure": {"delaySeconds": startup.pop("delay")}, "startup": startup}
        depends = [{"name": each} for each in after if each != name]
        scene.protected[vmid] = {"policyRef": {"name": name}, "dependsOn": depends}
        scene.set_config(vmid, agent=agent, **({"local_devices": frozenset({"hostpci0"})} if down else {}))
    scene.settle()
    scene.step(1)
    now = rounds.understand(scene.snapshot(), scene.specs(), scene.memory)
    rows = explain.explain(now, frozenset({"pve1"})).rows
    return {row.name: row for row in rows if row.name in NAMES}


def played(story: Story) -> dict[str, float]:
    """When each is started, if one asks `order` again and again; infinite: never."""
    after = {name: [each for each in one[0] if each != name] for name, one in zip(NAMES, story, strict=True)}
    about = dict(zip(NAMES, story, strict=True))
    going = [name for name in NAMES if not about[name][3]]
    proof = 6.6 + estimate.PROOF_SECONDS
    # vm101 is on pve1 too, of the same size, and comes first.
    earliest = {
        name: proof + about[name][1]["delay"] + (place + 1) * sequence.TURN_SECONDS
        for place, name in enumerate(going)
    }
    circles = order.in_circles(after)
    start: dict[str, float] = {}
    ready: dict[str, float] = {}
    since: dict[str, float] = {}
    now = proof
    while True:
        graph = {
            name: order.Guest(
                name,
                (0, 0, NAMES.index(name)),
                frozenset(after[name]),
                name in going and name not in start,
                ready.get(name, math.inf) <= now + MOMENT,
                "it is not",
                since.get(name),
                about[name][1]["readyTimeoutSeconds"],
                about[name][1]["onTimeout"] == "Stop",
            )
            for name in NAMES
        }
        planned = order.plan(graph, circles, now)
        for name in planned.awaited:
            since.setdefault(name, now)
        for name in planned.start:
            start[name] = max(now, earliest[name])
            lasts = sequence.READY_SECONDS if about[name][2] else about[name][1]["delaySeconds"]
            ready[name] = start[name] + estimate.START_SECONDS + lasts
        due = [*ready.values(), *(since[name] + about[name][1]["readyTimeoutSeconds"] for name in since)]
        later = [each for each in due if each > now + MOMENT]
        if planned.start:
            continue
        if not later:
            return {name: start.get(name, math.inf) for name in going}
        now = min(later) + MOMENT


@hypothesis.given(some.lists(A_GUEST, min_size=len(NAMES), max_size=len(NAMES)))
@hypothesis.settings(max_examples=40, deadline=None, phases=(hypothesis.Phase.generate,))
def test_it_is_what_asking_again_and_again_comes_to(story: Story) -> None:
    rows = told(story)
    starts = played(story)
    for name, start in starts.items():
        step, seconds = rows[name].step, rows[name].downtime_seconds
        if math.isinf(start):
            assert rows[name].reason == "DependencyNotReady", name
        else:
            assert step is not None, (name, rows[name])
            assert seconds in {
                estimate.rounded(start + estimate.START_SECONDS + each) for each in (-MOMENTS, MOMENTS)
            }, name
    ranked = [name for _, name in sorted((row.step.number, name) for name, row in rows.items() if row.step)]
    for one, next_ in itertools.pairwise(ranked):
        assert starts[one] <= starts[next_] + MOMENTS
