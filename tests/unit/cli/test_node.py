"""What `pveha node` prints."""

import io
import json

import pytest

from pveha.cli import __main__ as command_line
from pveha.cli import node_report
from pveha.nodeshell import installation, rollout

GOOD = installation.Finding("clock", True, "right")
BAD = installation.Finding("clock", False, "at least 9.0 s behind this machine's")
FINE = rollout.Report("pve1", "pve1", ["pve1", "pve2"], "ssh-ed25519 AAAA", ["timer enabled"], [GOOD])
LATE = rollout.Report("pve2", "pve2", ["pve1", "pve2"], "ssh-ed25519 BBBB", [], [BAD], ["a note"])
GONE = rollout.Report("pve3", did=["timer enabled"], error="no answer within 15 s")


def shown(*reports: rollout.Report, as_json: bool = False) -> tuple[int, str]:
    output = io.StringIO()
    return node_report.show(reports, as_json=as_json, to=output), output.getvalue()


def test_a_table_and_below_it_what_is_wrong() -> None:
    status, text = shown(FINE, LATE, GONE)
    assert status == 1
    assert text.splitlines() == [
        "HOST  NODE  CLOCK   RESULT",
        "pve1  pve1  ok      timer enabled",
        "pve2  pve2  FAILED  see below",
        "pve3  -     -       FAILED (done: timer enabled)",
        "",
        "pve2: clock: at least 9.0 s behind this machine's",
        "pve2: a note",
        "pve3: no answer within 15 s",
    ]
    assert shown(FINE)[0] == 0


def test_json() -> None:
    status, text = shown(FINE, GONE, as_json=True)
    content = json.loads(text)
    assert (status, content["ok"]) == (1, False)
    assert content["hosts"][0] == {
        "host": "pve1",
        "node": "pve1",
        "ok": True,
        "changed": ["timer enabled"],
        "findings": [{"check": "clock", "ok": True, "message": "right"}],
        "notes": [],
        "error": None,
    }
    assert (content["hosts"][1]["node"], content["hosts"][1]["error"]) == (None, "no answer within 15 s")


def test_the_secret_lacks_who_was_not_reached() -> None:
    assert node_report.lacking([FINE, GONE]) == ["pve2"]
    assert node_report.host_keys([FINE, LATE, GONE]) == {
        "pve1": "ssh-ed25519 AAAA",
        "pve2": "ssh-ed25519 BBBB",
    }


@pytest.mark.parametrize("verb", ["install", "check"])
def test_the_operators_key_is_demanded(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command_line.main(["node", verb, "pve1"])
    assert raised.value.code == 2
    assert "--key" in capsys.readouterr().err
