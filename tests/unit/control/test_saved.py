"""A saved snapshot says the same as the one that was seen."""

import dataclasses
import pathlib

import pytest

from pveha.control import saved
from pveha.decide import recall, rounds
from pveha.model import errors, snapshot, specs
from pveha.sim import chaos, simulation


def moments(monkeypatch: pytest.MonkeyPatch) -> list[tuple[snapshot.Snapshot, specs.Specs]]:
    """What the operators of one random run saw, every now and then."""
    found: list[tuple[snapshot.Snapshot, specs.Specs]] = []
    decide = rounds.decide

    def note(*args: object) -> rounds.Decision:
        found.append((args[0], args[1]))  # type: ignore[arg-type]
        return decide(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(rounds, "decide", note)
    simulation.play(chaos.plan(11, (), None, None))
    monkeypatch.undo()
    return found[::20]


def test_what_is_read_back_leads_to_the_same_report(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = moments(monkeypatch)
    assert len(found) > 5
    for seen, wanted in found:
        saved.write(tmp_path / "saved.json", seen, wanted)
        again, wants = saved.read(tmp_path / "saved.json")
        assert again == dataclasses.replace(seen, operations=())
        memo = recall.first(wanted.cluster.status)
        assert rounds.decide(again, wants, memo).report == rounds.decide(again, wanted, memo).report


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no json", "is no file of"),
        ("[]", "names no format"),
        ("{}", "names no format"),
        ('{"format": "pveha.dev/snapshot/v0"}', "its format is pveha.dev/snapshot/v0"),
        ('{"format": "pveha.dev/snapshot/v1"}', "by another version of pveha, or is damaged \\(cluster: "),
    ],
)
def test_other_files_are_refused_by_name_with_what_to_do(
    text: str, told: str, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "other.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(errors.InvalidConfiguration, match=rf"other\.json.*{told}") as refused:
        saved.read(file)
    if text != "no json":
        assert "save it anew" in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.InvalidConfiguration, match=r"nowhere\.json cannot be read: No such file"):
        saved.read(tmp_path / "nowhere.json")


def test_a_manifest_with_unknown_words_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, wanted = moments(monkeypatch)[1]
    file = tmp_path / "saved.json"
    saved.write(file, seen, wanted)
    file.write_text(file.read_text(encoding="utf-8").replace('"Enforce"', '"Later"'), encoding="utf-8")
    with pytest.raises(errors.InvalidConfiguration, match=r"saved\.json has a manifest .*save it anew"):
        saved.read(file)
