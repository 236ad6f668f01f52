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
    return found[::40]


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


def test_other_files_are_refused_by_name(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "other.json"
    for text in ("{}", "[]", "no json", '{"format": "pveha.dev/snapshot/v1"}'):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(errors.InvalidConfiguration, match=r"other\.json"):
            saved.read(file)
