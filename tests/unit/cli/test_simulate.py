"""The command line of `pveha simulate`."""

import argparse
import json

import pytest

from pveha.cli import simulate


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    simulate.add_parser(parser.add_subparsers())
    return parser.parse_args(["simulate", *words])


def test_the_same_command_plays_the_same_runs(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for _ in range(2):
        assert simulate.run(parsed("--seeds", "1", "--json")) == 0
        out, err = capsys.readouterr()
        assert err.startswith("seeds 1 to 1\n")
        told.append(json.loads(out))
    assert told[0] == told[1]
    assert told[0]["seeds"] == 1
    assert told[0]["faults"] >= 10


def test_fresh_seeds_are_others_each_time() -> None:
    assert len({parsed("--seeds", "1", "--first-seed", "fresh").first_seed for _ in range(5)}) > 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--seeds", "0"], "--seeds wants at least 1"),
        (["--seeds", "3", "--first-seed", "soon"], "'soon' is neither a number nor 'fresh'"),
        ([], "name either FILE or --seeds N"),
    ],
)
def test_what_cannot_be_played_is_told(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        simulate.run(parsed(*words))
    assert problem in capsys.readouterr().err
