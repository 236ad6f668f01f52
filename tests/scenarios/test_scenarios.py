"""Every folder beside this file is a scenario: a world, a timeline of faults, what must hold, and the log.

`pytest tests/scenarios --update-logs` writes the logs anew; read the difference before you commit it.
"""

import dataclasses
import json
from pathlib import Path

import pytest

from pveha.cli import __main__ as cli
from pveha.sim import config, faults, mishaps, rig, scenario, scenario_run, scenario_steps

DOCS = Path(__file__).parents[2] / "docs" / "simulation.md"
HERE = Path(__file__).parent
FOLDERS = sorted(file.parent for file in HERE.glob(f"*/{scenario.FILE}"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_scenario(folder: Path, request: pytest.FixtureRequest) -> None:
    about = scenario.load(folder)
    if about.bug:
        request.applymarker(pytest.mark.xfail(reason=about.bug, strict=True))
    result = scenario_run.play(about)
    assert not result.failures, "\n".join([result.about, *result.log, *result.failures])
    expected = folder / scenario.LOG
    if request.config.getoption("--update-logs"):
        expected.write_text("\n".join(result.log) + "\n", encoding="utf-8")
    assert list(result.log) == expected.read_text(encoding="utf-8").splitlines()


def test_there_are_scenarios() -> None:
    assert len(FOLDERS) >= 60


def test_every_line_and_field_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8").replace("\\|", "|")
    usages = [fault.usage for fault in faults.FAULTS if fault.usage]
    usages += [usage for table in (rig.OPERATOR_LINES, scenario_steps.LINES) for _, usage, _ in table]
    fields = [
        *mishaps.KINDS,
        *scenario.Scenario.model_fields,
        *scenario.Step.model_fields,
        *scenario.Expect.model_fields,
    ]
    kinds = (config.Config, config.Node, config.Storage, config.Guest, config.Corosync)
    fields += [field.name for kind in kinds for field in dataclasses.fields(kind)]
    synonyms = {"bmc COMMAND NODE": "bmc off|on|cycle|shutdown NODE"}
    missing = [usage for usage in usages if synonyms.get(usage, usage) not in text]
    assert (
        missing + [field for field in fields if f"`{field}`" not in text and f".{field}`" not in text] == []
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"world": {"nodes": 3, "gests": []}}, "there is no field gests"),
        ({"world": {"nodes": 3, "guests": [{"vmid": "x", "node": "pve1"}]}}, "neither a vmid nor a range"),
        ({"timeline": [{"do": "power off pve2"}]}, "either `at` or `when`"),
        ({"timeline": [{"at": 0, "do": "explode pve2"}]}, "'explode pve2' is none of: power off NODE"),
        ({"timeline": [{"at": 0, "do": "power off pve9"}]}, "there is no 'pve9'"),
        ({"timeline": [{"when": "never said", "within": 5, "do": []}]}, "was not logged in 5 s"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
    ],
)
def test_mistakes_in_a_file_are_told(change: dict[str, object], told: str) -> None:
    document = {"about": "nothing happens", "world": {"nodes": 3}, "end": 1, "expect": {"guests": {}}}
    with pytest.raises(scenario.ScenarioError, match=told):
        scenario_run.play(scenario.parse({**document, **change}))


def test_what_does_not_come_is_told() -> None:
    about = scenario.parse(
        {
            "about": "A node dies, and nothing of what is expected comes",
            "world": {"nodes": 3, "guests": [{"vmid": 101, "node": "pve2"}]},
            "timeline": [{"at": 0, "do": "power off pve2"}],
            "end": 12,
            "expect": {
                "guests": {101: "stopped on pve2"},
                "downtime": {"all": 1},
                "double_runs": 1,
                "conditions": {"cluster": {"Degraded": "None"}},
                "log": ["pigs fly"],
                "never": ["power lost"],
            },
        }
    )
    told = "\n".join(scenario_run.play(about).failures)
    for part in (
        "guest 101: running on pve",
        "nodes fenced: ('pve2',), expected ()",
        "guests taken over: (101,)",
        "double runs: 0, expected 1",
        "mark of vm:101: op=",
        "guest 101 was down for",
        "HA resource vm:101: ignored, expected started",
        "condition Degraded of cluster: NodeDown, expected None",
        "the log lacks 'pigs fly'",
        "the log contains 'power lost'",
    ):
        assert part in told


def test_a_world_survives_being_written() -> None:
    about = scenario.load(HERE / "affinity-strict").world
    assert scenario.read_world(scenario.write_world(about))[0] == about


FLAP = HERE / "flap-5s"


def test_the_command_line_prints_timeline_and_final_state(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", str(FLAP)]) == 0
    told = capsys.readouterr().out
    assert "timeline: partition pve1 pve3 | pve2" in told
    assert "102  running on pve2, down for 0.0 s" in told
    assert told.endswith("as expected\n")


def test_the_command_line_prints_json_and_fails_when_the_scenario_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / scenario.FILE
    file.write_text(
        (FLAP / scenario.FILE).read_text(encoding="utf-8").replace("102: running", "102: stopped")
    )
    assert cli.main(["simulate", str(file), "--json", "--log"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["guests"]["102"] == {"node": "pve2", "state": "running"}
    assert (told["passed"], told["double_runs"]) == (False, 0)
    assert told["failures"] == ["guest 102: running on pve2, expected stopped on pve2"]
    assert (tmp_path / scenario.LOG).read_text(encoding="utf-8").splitlines() == told["log"]


def test_a_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml: No such file" in capsys.readouterr().err
