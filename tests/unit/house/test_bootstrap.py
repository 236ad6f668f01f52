"""The bootstrap file: what it says to an old Python, and when it makes the environment anew."""

import ast
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import bootstrap
import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands for creating and installing: notes each, and leaves a python behind as the real ones do."""
    notes: list[str] = []

    def create(path: Path) -> None:
        notes.append("create")
        shutil.rmtree(path, ignore_errors=True)
        (path / "bin").mkdir(parents=True)
        (path / "bin" / "python").touch()

    monkeypatch.setattr(bootstrap, "create", create)
    monkeypatch.setattr(bootstrap, "install", lambda python, root: notes.append("install"))
    return notes


@pytest.fixture
def environment(tmp_path: Path) -> bootstrap.Environment:
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    return bootstrap.Environment(tmp_path)


def test_old_python_is_told_what_to_do() -> None:
    assert bootstrap.too_old(3, 11) == ""
    assert bootstrap.too_old(4, 0) == ""
    assert "needs Python 3.11 or newer" in bootstrap.too_old(3, 10)


def test_python_3_6_can_parse_it() -> None:
    ast.parse((ROOT / "bootstrap.py").read_text(), feature_version=(3, 6))


def test_old_python_says_it_itself() -> None:
    olds = [found for minor in range(6, 11) if (found := shutil.which(f"python3.{minor}"))]
    ran = 0
    for old in olds:
        probe = subprocess.run(
            [old, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True
        )
        if probe.returncode == 0 and "(3, 11)" not in probe.stdout:
            answer = subprocess.run([old, str(ROOT / "bootstrap.py"), "env"], capture_output=True, text=True)
            assert answer.returncode == 1
            assert answer.stderr.startswith("pveha needs Python 3.11 or newer")
            assert "Traceback" not in answer.stderr
            ran += 1
    if not ran:
        pytest.skip("no Python 3.6 to 3.10 on this machine")


def test_second_run_does_nothing(environment: bootstrap.Environment, made: list[str]) -> None:
    environment.ensure()
    environment.ensure()
    assert made == ["create", "install"]


@pytest.mark.parametrize("changed", ["lock", "metadata", "python"])
def test_change_makes_it_anew(
    environment: bootstrap.Environment, made: list[str], monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    environment.ensure()
    made.clear()
    if changed == "lock":
        (environment.root / "requirements.lock").write_text("kopf==1.45.2\n")
    elif changed == "metadata":
        file = environment.root / "pyproject.toml"
        file.write_text(file.read_text().replace('version = "', 'version = "9'))
    else:
        monkeypatch.setattr(sys, "version", "3.99.0")
    environment.ensure()
    assert made == ["create", "install"]


def test_change_of_a_tool_setting_does_not(environment: bootstrap.Environment, made: list[str]) -> None:
    environment.ensure()
    made.clear()
    file = environment.root / "pyproject.toml"
    file.write_text(file.read_text().replace("line-length = 110", "line-length = 111"))
    environment.ensure()
    assert made == []


def test_interrupted_install_is_repaired(
    environment: bootstrap.Environment, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "install", lambda python, root: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            environment.ensure()
    assert not environment.is_current()
    environment.ensure()
    assert environment.is_current()
    assert made == ["create", "create", "install"]


def test_debian_without_venv_gets_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        bootstrap, "importlib", types.SimpleNamespace(util=types.SimpleNamespace(find_spec=lambda _: None))
    )
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(bootstrap.Failed, match="apt install python3-venv"):
        bootstrap.create(tmp_path / "venv")


def test_one_failing_check_fails_the_run(
    environment: bootstrap.Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bootstrap.check(environment, [{"first": ["false"], "second": ["true"]}]) == 1
    told = capsys.readouterr().err
    assert re.search(r"first +FAILED \(exit code 1\)", told)
    assert re.search(r"second +passed", told)
    assert bootstrap.check(environment, [{"second": ["true"]}, {"third": ["true"]}]) == 0


def test_lanes_hold_every_test_and_every_linter() -> None:
    linters = list(bootstrap.LINTERS.values())
    whole = [command for lane in bootstrap.lanes([]) for command in lane.values()]
    apart = ["tests/cluster", "tests/scenarios"]
    others = ["nice", "pytest", "tests", *(f"--ignore={each}" for each in apart)]
    assert sorted(whole) == sorted([others, *(["pytest", each] for each in apart), *linters])
    some = [command for lane in bootstrap.lanes(["-k", "elector"]) for command in lane.values()]
    assert sorted(some) == sorted([*linters, ["pytest", "-k", "elector"]])


def test_output_carries_the_name_of_its_check(
    environment: bootstrap.Environment, capfd: pytest.CaptureFixture[str]
) -> None:
    bootstrap.check(environment, [{"tests": ["echo", "== 3 passed in 1s =="]}])
    told = capfd.readouterr().out.splitlines()
    assert "[tests] == 3 passed in 1s ==" in told
    assert told[-1] == "== 3 passed in 1s =="


def test_why_a_check_failed_is_said_after_all_others_have_run(
    environment: bootstrap.Environment, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = ["sh", "-c", "echo FAILED tests/test_it.py; exit 1"]
    bootstrap.check(environment, [{"first": failing, "tests": ["echo", "1 passed"]}])
    assert capfd.readouterr().out.splitlines()[-2:] == ["FAILED tests/test_it.py", "1 passed"]


def test_run_in_which_everything_is_skipped_fails(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_skipped.py").write_text("import pytest\n@pytest.mark.skip\ndef test_it(): pass\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        f"--rootdir={tmp_path}",
        str(tmp_path),
    ]
    assert subprocess.run(command, capture_output=True).returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_lock_names_no_index_and_hashes_everything() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "index-url" not in lock
    entries = re.split(r"\n(?=\S)", lock.strip())
    assert len(entries) > 40
    assert [entry for entry in entries if "--hash=sha256:" not in entry and not entry.startswith("#")] == []


def test_ci_runs_the_test_line_of_the_readme() -> None:
    block = re.search(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    last = block.group(1).splitlines()[-1]
    assert last == "python3 bootstrap.py test"
    assert last in (ROOT / ".ci" / "run").read_text().splitlines()
