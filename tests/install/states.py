"""Objects as pveha wrote their status, one for each state that scenarios bring about.

python3 bootstrap.py run -- python tests/install/states.py      plays all scenarios, writes states.json
"""

import contextlib
import copy
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))

from install import argocd  # noqa: E402  after the path
from pveha.sim import rig, scenario, scenario_run  # noqa: E402

FILE = Path(__file__).with_name("states.json")
SCENARIOS = ROOT / "tests" / "scenarios"

Object = dict[str, Any]


FIRST = ("Ready", "Acting", "Degraded", "FailoverReady")
"""Conditions that are part of every state."""
OF_READY = ("Connected", "Quorate", "Owned", "FastReady", "FencingReady", "HAHealthy")
"""What Ready speaks for, unless it is True all the same (engine Native)."""
AT_REST = {
    "UnprotectHeld": "False",
    "Drained": "Unknown",
    "Sound": "True",
    "CapacityAssured": "True",
    "PlacementReady": "True",
}


def state(obj: Object) -> str:
    """Kind and what its health depends on, in a line: conditions that say nothing new are left out."""
    conditions = obj.get("status", {}).get("conditions", ())
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def matters(type_: str, status: str) -> bool:
        if type_ in OF_READY:
            return ready and status == "False"
        return type_ in FIRST or status != AT_REST[type_]

    told = [
        f"{each['type']}={each['status']}/{each['reason']}"
        for each in conditions
        if matters(each["type"], each["status"])
    ]
    late = "" if seen_last_change(obj) else "(before its last change) "
    return f"{obj['kind']} {late}{' '.join(sorted(told))}".strip()


def seen_last_change(obj: Object) -> bool:
    observed = obj.get("status", {}).get("observedGeneration")
    return bool(observed is None or observed == obj["metadata"]["generation"])


def play(names: Sequence[str]) -> dict[str, Object]:
    """State → the first object that was in it, over all writes in these scenarios."""
    found: dict[str, Object] = {}

    def see(event: str, obj: Any) -> None:
        if event != "DELETED":
            found.setdefault(state(obj), copy.deepcopy(dict(obj)))

    with watched(see):
        for name in names:
            scenario_run.play(scenario.load(SCENARIOS / name))
    return found


@contextlib.contextmanager
def watched(see: Any) -> Iterator[None]:
    """Every simulated API server tells `see` of every write."""
    original = rig.Rig.__init__

    def init(self: rig.Rig, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        self.kubernetes.watchers.append(see)

    with mock.patch.object(rig.Rig, "__init__", init):
        yield


def recorded() -> list[Object]:
    """[{state, health, object}, ...]"""
    records: list[Object] = json.loads(FILE.read_text(encoding="utf-8"))
    return records


def shortened(obj: Object) -> Object:
    """Without what no health check can look at; all conditions are kept."""
    looked_at = ("observedGeneration", "conditions")
    status = {key: value for key, value in obj.get("status", {}).items() if key in looked_at}
    metadata = {key: obj["metadata"][key] for key in ("name", "namespace", "generation")}
    result = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata, "status": status}
    plain: Object = json.loads(json.dumps(result))
    return plain


if __name__ == "__main__":
    everything = play(sorted(file.parent.name for file in SCENARIOS.glob(f"*/{scenario.FILE}")))
    records = []
    for name, each in sorted(everything.items()):
        short = shortened(each)
        records.append({"state": name, "health": ": ".join(argocd.health(short)), "object": short})
    lines = ",\n".join(json.dumps(each) for each in records)
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(records)} states in {FILE}")
