"""Every folder beside this file is a scenario: a world, a timeline of faults, what must hold, and the log.

`pytest tests/scenarios --update-logs` writes the logs anew; read the difference before you commit it.
"""

from pathlib import Path

import pytest

from pveha.sim import scenario, scenario_run

HERE = Path(__file__).parent
FOLDERS = sorted(file.parent for file in HERE.glob(f"*/{scenario.FILE}"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_scenario(folder: Path, request: pytest.FixtureRequest) -> None:
    result = scenario_run.play(scenario.load(folder))
    assert not result.failures, "\n".join([result.about, *result.log, *result.failures])
    expected = folder / scenario.LOG
    if request.config.getoption("--update-logs"):
        expected.write_text("\n".join(result.log) + "\n", encoding="utf-8")
    assert list(result.log) == expected.read_text(encoding="utf-8").splitlines()


def test_there_are_scenarios() -> None:
    assert len(FOLDERS) >= 60
