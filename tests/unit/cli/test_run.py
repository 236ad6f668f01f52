"""The command line of `pveha run`."""

import argparse

import pytest

from pveha.act import fence, registration, takeover
from pveha.cli import run
from pveha.control import elector


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser()
    run.add_parser(found.add_subparsers())
    return found


def test_a_lease_in_which_a_leader_could_not_act_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["run", "--all-namespaces", "--lease-seconds", "14"])
    assert "14 is less than 15, with which a leader could hardly ever act" in capsys.readouterr().err
    assert parser().parse_args(["run", "--all-namespaces"]).lease_seconds == elector.DURATION_SECONDS


def test_the_least_lease_leaves_time_for_every_side_effect_even_just_before_it_is_renewed() -> None:
    left = run.LEAST_LEASE_SECONDS * (1 - elector.MARGIN - elector.RENEW)
    assert left >= max(
        registration.WRITE_SECONDS, takeover.DISOWN_SECONDS, takeover.CLAIM_SECONDS, 2 * fence.OFF_SECONDS
    )
