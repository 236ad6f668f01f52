"""What the log shows, and what it never shows."""

import json
import logging
from collections.abc import Iterator

import pytest

from pveha.cli import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_libraries_that_log_secrets_are_silent_even_when_debugging(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("text", "debug")
    logging.getLogger("proxmoxer.core").info("password=hunter2")
    logging.getLogger("kubernetes.client.rest").debug("response body: hunter2")
    logging.getLogger("pveha.control").debug("seen")
    shown = capsys.readouterr().err
    assert "hunter2" not in shown
    assert shown.endswith("DEBUG   pveha.control: seen\n")


def test_json_is_one_object_a_line_whatever_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("pveha").exception("it failed: %s", "ä\nö")
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "pveha", "it failed: ä\nö")
    assert "ValueError: two\nlines" in entry["exception"]
