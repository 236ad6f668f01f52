"""`pveha simulate FILE`: play one scenario, print its timeline and what came of it."""

import json
import pathlib

from pveha.sim import scenario, scenario_run


def run(path: pathlib.Path, *, as_json: bool, write_log: bool) -> int:
    """Exit status 0 if all that the scenario expects came true, else 1."""
    result = scenario_run.play(scenario.load(path))
    if write_log:
        folder = path if path.is_dir() else path.parent
        (folder / scenario.LOG).write_text("\n".join(result.log) + "\n", encoding="utf-8")
    print(json.dumps(result.as_json()) if as_json else _text(result))
    return 1 if result.failures else 0


def _text(result: scenario_run.Result) -> str:
    rows = [
        f"{vmid:>9}  {state['state']} on {state['node']}, down for {result.downtime[vmid]:.1f} s"
        for vmid, state in result.guests.items()
    ]
    verdict = [f"NOT AS EXPECTED: {each}" for each in result.failures] or ["as expected"]
    return "\n".join([result.about, "", *result.log, "", *rows, "", *verdict])
