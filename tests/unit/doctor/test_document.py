"""docs/doctor.md lists every check, and the JSON as it is."""

import json
import re
from pathlib import Path

from pveha.doctor import examination, finding, report
from pveha.model.kubernetes import ClusterKey

TEXT = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text(encoding="utf-8")


def test_every_check_is_listed_in_order() -> None:
    table = TEXT.partition("## The checks")[2].partition("###")[0]
    named = re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)
    assert named == [examination.CONFIGURATION, *examination.CHECKS]


def test_the_json_is_as_printed() -> None:
    example = json.loads(re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)[0])
    (told,) = example["clusters"][0]["findings"]
    found = finding.failure(told["message"], told["remedy"], told["subject"])
    result = finding.Result(told["check"], (found,))
    reports = [examination.Report(ClusterKey("dc1", "dc1"), (result,))]
    assert json.loads(json.dumps(report.as_json(reports))) == example
    assert report.exit_status(reports) == 2


def test_the_table_has_each_remedy_below_its_finding() -> None:
    results = (
        finding.Result("votes", (finding.ok("fine"),)),
        finding.Result("timer", (finding.warning("late", "see the journal", "pve1"),)),
    )
    assert report.as_text([examination.Report(ClusterKey("ns", "dc1"), results)]) == (
        "HACluster ns/dc1: Warning\n"
        "\n"
        "OK       votes  fine\n"
        "Warning  timer  pve1: late\n"
        "                > see the journal"
    )
