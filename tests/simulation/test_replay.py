"""A broken random run is shortened and kept as a scenario, and that violates the same rule again."""

import json
import pathlib

import pytest

from pveha.cli import simulate_file
from pveha.sim import chaos, replay, scenario, shrink, simulation
from simulation import mutations

KINDS = ("power-loss", "guest-crash", "user-migrates")


def rules(plan: chaos.Plan) -> set[str]:
    return {violation.rule for violation in simulation.play(plan).violations}


def test_a_broken_run_is_shortened_kept_and_broken_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mutations.never_take_over(monkeypatch)
    plan = next(plan for plan in (chaos.plan(seed, KINDS) for seed in range(20)) if rules(plan))
    short = shrink.shrink(plan, tries=12)
    assert len(short.faults) < len(plan.faults)
    replay.write(short, tmp_path / "broken")
    assert simulate_file.run(tmp_path / "broken", as_json=True, write_log=False) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["violations"] == list(map(str, simulation.play(short).violations))
    assert "\n".join(answer["log"]) + "\n" == (tmp_path / "broken" / scenario.LOG).read_text()
    monkeypatch.undo()
    assert simulate_file.run(tmp_path / "broken", as_json=False, write_log=False) == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_kept_run_is_the_same_run(seed: int, tmp_path: pathlib.Path) -> None:
    plan = chaos.plan(seed)
    text = scenario.dump(replay.document(plan, ()))
    (tmp_path / scenario.FILE).write_text(text)
    kept = replay.load(tmp_path)
    assert kept is not None
    assert (kept.about, kept.operators, kept.protect) == (plan.about, plan.operators, plan.protect)
    assert (kept.timeline, kept.calm_at, kept.calm) == (plan.timeline, plan.calm_at, plan.calm)
    assert (kept.engine, kept.depends) == (plan.engine, plan.depends)
    assert (kept.afterwards, kept.confirmed_seconds) == (plan.afterwards, plan.confirmed_seconds)


def test_an_ordinary_scenario_is_none(tmp_path: pathlib.Path) -> None:
    (tmp_path / scenario.FILE).write_text("about: nothing of that kind\nend: 1\n")
    assert replay.load(tmp_path) is None


def test_a_kept_run_that_cannot_be_read_says_where(tmp_path: pathlib.Path) -> None:
    (tmp_path / scenario.FILE).write_text("calm_at: soon\n")
    with pytest.raises(scenario.ScenarioError, match="calm_at"):
        replay.load(tmp_path)
