"""Decide is pure and total, and an operator that has forgotten everything is not bolder for it."""

import ast
import copy
import dataclasses
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import pveha.decide
from decide_scene import OFF, ON, Scene
from pveha.decide import memory, recall, rounds
from pveha.model import cluster, guests, operations, power, snapshot

NAMES = ("pve1", "pve2", "pve3")
MARK = "[pveha op=t1.0 epoch=1 was=started]"

node_changes = st.fixed_dictionaries(
    {},
    optional={
        "online": st.booleans(),
        "answers": st.booleans(),
        "bmc": st.sampled_from([ON, OFF, power.PowerState.CHANGING, None]),
        "lrm_state": st.sampled_from(["active", "wait_for_agent_lock"]),
        "lrm_mode": st.sampled_from(["active", "shutdown"]),
        "lrm_lives": st.booleans(),
        "identity": st.sampled_from(["", "another-machine"]),
    },
)
guest_changes = st.fixed_dictionaries(
    {},
    optional={
        "node": st.sampled_from([*NAMES, "gone"]),
        "status": st.sampled_from(["running", "stopped", "paused", "unknown"]),
        "lock": st.sampled_from([None, "backup", "migrate", "rollback"]),
    },
)
resource_changes = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(list(cluster.HAState)),
        "comment": st.sampled_from(["", "text", MARK, "[pveha hold=pve2 was=started]", "[pveha op= was=]"]),
    },
)
services = st.none() | st.builds(
    cluster.ServiceStatus,
    st.sampled_from(["started", "stopped", "fence", "recovery", "freeze", "migrate", "error"]),
    st.sampled_from([*NAMES, "gone"]),
    st.sampled_from([None, *NAMES]),
)
changes = st.tuples(
    st.dictionaries(st.sampled_from(NAMES), node_changes, max_size=2),
    st.dictionaries(st.sampled_from([101, 102, 103]), guest_changes, max_size=2),
    st.dictionaries(st.sampled_from(["vm:101", "vm:102", "vm:103"]), resource_changes, max_size=2),
    st.dictionaries(st.sampled_from(["vm:101", "vm:102", "vm:103"]), services, max_size=2),
    st.sampled_from([0.0, 0.3, 2.0, 12.0, 35.0]),
)


SETTLED = Scene().settle()


def settled() -> Scene:
    return copy.deepcopy(SETTLED)


def change(scene: Scene, what: Any) -> None:
    on_nodes, on_guests, on_resources, on_services, seconds = what
    for name, fields in on_nodes.items():
        for field, value in fields.items():
            if field == "answers":
                scene.set_answers(name, value)
            else:
                setattr(scene.nodes[name], field, value)
    for vmid, fields in on_guests.items():
        scene.set_guest(vmid, **fields)
    for sid, fields in on_resources.items():
        scene.set_resource(sid, **fields)
    for sid, service in on_services.items():
        if service is None:
            scene.services.pop(sid, None)
        else:
            scene.services[sid] = service
    scene.step(seconds)


def finish(scene: Scene, successful: bool) -> None:
    """What is in flight ends, one way or the other."""
    for state in [each for each in scene.operations if each.outcome is None]:
        match state.operation:
            case operations.Fence() as fence if successful:
                proof = operations.Proof(fence.node, scene.now - 4, scene.now)
                scene.end(operations.Fence, epoch=(scene.memory.epoch or 0) + 1, proof=proof)
            case operations.Takeover() as takeover if successful:
                done = tuple(operations.GuestResult(item.ref, "Running") for item in takeover.items)
                scene.end(operations.Takeover, guests=done)
            case operations.Begin() if successful:
                scene.end(operations.Begin, epoch=(scene.memory.epoch or 0) + 1)
            case operation:
                scene.end(type(operation), error="it failed")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(changes, st.booleans()), min_size=1, max_size=4))
def test_the_same_input_gives_the_same_decision_and_is_left_as_it_was(story: list[tuple[Any, bool]]) -> None:
    scene = settled()
    for what, successful in story:
        change(scene, what)
        finish(scene, successful)
        seen, wanted, memo = scene.snapshot(), scene.specs(), scene.memory
        before = copy.deepcopy((seen, wanted, memo))
        one, two = rounds.decide(seen, wanted, memo), rounds.decide(*copy.deepcopy((seen, wanted, memo)))
        assert one == two
        assert one.report == two.report
        assert (seen, wanted, memo) == before
        scene.decide()


PARTS: dict[str, Any] = {
    "views": {},
    "probes": {},
    "inventory": None,
    "ha_config": None,
    "ha_status": None,
    "power": {},
    "shells": {},
    "configs": None,
    "version": "",
}


@settings(max_examples=30, deadline=None)
@given(st.lists(changes, min_size=1, max_size=2), st.sets(st.sampled_from(sorted(PARTS))), st.booleans())
def test_whatever_is_missing_a_decision_is_made(story: list[Any], missing: set[str], forgotten: bool) -> None:
    scene = settled()
    for what in story:
        change(scene, what)
    gaps = {name: PARTS[name] for name in missing}
    for name in NAMES:
        scene.problems[f"shell/{name}"] = snapshot.Problem("Unreachable", "no answer", scene.now)
    seen = dataclasses.replace(scene.snapshot(), **gaps)
    decision = rounds.decide(seen, scene.specs(), memory.Memory() if forgotten else scene.memory)
    if missing & {"views", "inventory", "ha_config", "ha_status"}:
        assert decision.start == ()
    assert set(decision.report.guests) == set(scene.specs().guests)


def bold(decision: rounds.Decision) -> set[str]:
    """What a decision begins anew: guests that a takeover only looks after again are not meant, nor is taking
    our mark from a resource that has its state back."""
    found = set()
    for operation in decision.start:
        match operation:
            case operations.Fence():
                found.add(f"fence {operation.node}")
            case operations.Takeover():
                found |= {f"take over {item.ref}" for item in operation.items if not item.claimed}
            case operations.EditHA():
                found |= {
                    f"{edit.sid}: {edit.why}"
                    for edit in operation.edits
                    if not (edit.expected and edit.desired and edit.expected.state is edit.desired.state)
                }
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(changes, min_size=1, max_size=4))
def test_an_empty_memory_begins_nothing_that_a_full_one_would_not(story: list[Any]) -> None:
    """Waits before something that failed is tried again are not meant: they guard nothing. Nor is it bold to
    switch off once more what was proven off already."""
    scene = settled()
    for what in story:
        change(scene, what)
        finish(scene, successful=True)
        scene.step(0.1)
    scene.operations = []
    scene.now += 1.0
    seen, wanted = scene.snapshot(), scene.specs()
    full = rounds.decide(seen, wanted, scene.memory)
    empty = recall.first(full.report.cluster)
    empty = dataclasses.replace(empty, epoch=scene.memory.epoch, epoch_at=scene.memory.epoch_at)
    proven = {f"fence {name}" for name, node in full.memory.nodes.items() if node.proof is not None}
    assert bold(rounds.decide(seen, wanted, empty)) <= bold(full) | proven


def test_decide_does_no_io() -> None:
    pure = {"collections", "dataclasses", "datetime", "enum", "fnmatch", "functools", "re", "typing", "types"}
    pure |= {"graphlib", "hashlib", "itertools", "math", "pveha"}
    for file in Path(pveha.decide.__path__[0]).rglob("*.py"):
        for found in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [each.name for each in found.names] if isinstance(found, ast.Import) else []
            names += [found.module or ""] if isinstance(found, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= pure, file


def test_guests_of_an_unknown_node_are_left_alone() -> None:
    scene = Scene().settle()
    scene.set_guest(102, node="gone")
    scene.add_guest(555, "gone")
    scene.set_resource("vm:555", comment=MARK, state=cluster.HAState.IGNORED)
    assert guests.parse_sid("vm:555") is not None
    assert [scene.step(0.5).start for _ in range(60)] == [()] * 60
