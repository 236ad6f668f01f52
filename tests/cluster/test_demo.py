"""The scenarios of `pveha demo`, as `python3 bootstrap.py demo --json` plays them. A quarter of an hour."""

import json
import os
import subprocess
import sys

import pytest

from pveha.cli.demo import scenarios

BUGGY = "canary"
"""Plays an operator that is broken on purpose: that it runs guests twice is what it has to show."""


@pytest.mark.long
@pytest.mark.parametrize("name", scenarios.ALL)
def test_scenario(name: str) -> None:
    command = [sys.executable, "-m", "pveha.cli", "demo", "--scenario", name, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ, check=False)
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["scenario"], told["ok"], done.returncode) == (name, True, 0), done.stderr
    assert (told["double_runs"] > 0) is (name == BUGGY)
