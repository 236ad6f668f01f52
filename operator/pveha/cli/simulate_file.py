"""`pveha simulate FILE`: play one scenario, print its timeline and what came of it."""

import json
import pathlib

from pveha.sim import chaos, replay, scenario, scenario_run, simulation


def run(path: pathlib.Path, *, as_json: bool, write_log: bool) -> int:
    """Exit status 0 if all that the scenario expects came true, else 1. A random run that was kept is judged
    by the invariants."""
    plan = replay.load(path)
    if plan is not None:
        return _replay(plan, path, as_json=as_json, write_log=write_log)
    result = scenario_run.play(scenario.load(path))
    if write_log:
        _write(path, result.log)
    print(json.dumps(result.as_json()) if as_json else _text(result))
    return 1 if result.failures else 0


def _replay(plan: chaos.Plan, path: pathlib.Path, *, as_json: bool, write_log: bool) -> int:
    result = simulation.play(plan)
    if write_log:
        _write(path, result.log)
    rules = [str(violation) for violation in result.violations]
    if as_json:
        answer = {
            "seed": result.seed,
            "log": result.log,
            "guests": result.guests,
            "violations": rules,
            "passed": not rules,
        }
        print(json.dumps(answer))
    else:
        print("\n".join([*result.log, "", *(rules or ["no rule was violated"])]))
    return 1 if rules else 0


def _write(path: pathlib.Path, log: tuple[str, ...]) -> None:
    folder = path if path.is_dir() else path.parent
    (folder / scenario.LOG).write_text("\n".join(log) + "\n", encoding="utf-8")


def _text(result: scenario_run.Result) -> str:
    rows = [
        f"{vmid:>9}  {state['state']} on {state['node']}, down for {result.downtime[vmid]:.1f} s"
        for vmid, state in result.guests.items()
    ]
    verdict = [f"NOT AS EXPECTED: {each}" for each in result.failures] or ["as expected"]
    return "\n".join([result.about, "", *result.log, "", *rows, "", *verdict])
