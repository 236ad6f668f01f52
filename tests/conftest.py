"""Options of every test run, and what tests may need from outside the repository.

PVEHA_REQUIRE (names separated by commas, for instance `sshd`) turns "skipped, because NAME is not here" into
a failure: for machines that are supposed to have it.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pveha.devkube import binaries, cache, tools

ROOT = Path(__file__).resolve().parent.parent
TOLD = pytest.StashKey[list[str]]()
Tell = Callable[[str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kube",
        default="local",
        metavar="local|kind|context:NAME",
        help="API server of the cluster tests: our own (default), the user's kind, or a kubeconfig context",
    )
    parser.addoption(
        "--update-logs",
        action="store_true",
        help="write the logs that scenarios expect anew, for review with git diff, instead of comparing them",
    )
    parser.addoption(
        "--update-manifests",
        action="store_true",
        help="write manifests/base anew from what the chart renders, for review with git diff",
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run in which nothing passed or failed, because all was skipped, has tested nothing: exit code 5."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    collect_only = session.config.option.collectonly
    if (
        reporter
        and not collect_only
        and session.exitstatus == pytest.ExitCode.OK
        and not reporter.stats.get("passed")
    ):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What tests want to be read of runs that passed, too: seeds, and how much was played."""
    if told := config.stash.get(TOLD, []):
        terminalreporter.section("played by dice")
        terminalreporter.write("".join(f"{line}\n" for line in told))


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Says a line at the end of the run."""
    return request.config.stash.setdefault(TOLD, []).append


def need(name: str, found: Path | None, remedy: str) -> Path:
    """What was looked for; without it the test is skipped, or fails where PVEHA_REQUIRE names it."""
    if found is not None:
        return found
    if name in os.environ.get("PVEHA_REQUIRE", "").split(","):
        pytest.fail(f"{name} is required here (PVEHA_REQUIRE): {remedy}", pytrace=False)
    pytest.skip(f"{name} is not here: {remedy}")


@pytest.fixture(scope="session")
def facts() -> Path:
    """The folder of facts recorded on a real cluster: PVEHA_FACTS, or shared/facts beside the checkout."""
    folder = Path(os.environ.get("PVEHA_FACTS") or ROOT.parent / "shared" / "facts")
    return need(
        "facts", folder if folder.is_dir() else None, "set PVEHA_FACTS to the folder of recorded facts"
    )


@pytest.fixture(scope="session")
def sshd() -> Path:
    """OpenSSH's server."""
    found = shutil.which(
        "sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    )
    return need("sshd", Path(found) if found else None, "install OpenSSH's server")


@pytest.fixture(scope="session")
def show_progress(request: pytest.FixtureRequest) -> cache.Say:
    """Prints a line to the terminal at once, for steps that take minutes."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")

    def say(line: str) -> None:
        if capture is None:
            cache.say_on_stderr(line)
            return
        with capture.global_and_fixture_disabled():
            cache.say_on_stderr(line)

    return say


@pytest.fixture(scope="session")
def kube_binaries(show_progress: cache.Say) -> binaries.Binaries:
    """kube-apiserver, etcd and kubectl; the first time on a machine this downloads or compiles them."""
    return binaries.ensure(show_progress)


@pytest.fixture(scope="session")
def tools_here(show_progress: cache.Say) -> tools.Tools:
    """helm and kubeconform; the first time on a machine this compiles them."""
    return tools.ensure(show_progress)
