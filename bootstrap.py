"""Makes the environment of this checkout and runs what was asked for in it. Standard library only.

    python3 bootstrap.py demo [arguments]        pveha demo
    python3 bootstrap.py test [pytest arguments] ruff, mypy, import-linter, pytest; every one has to pass
    python3 bootstrap.py env                     only make the environment, in .venv
    python3 bootstrap.py run -- command ...      any command inside the environment

Packages come from requirements.lock, hashes checked, through the package index that pip or uv is set up
for on this machine; their proxy and CA settings hold. The environment is made anew when the lock, the
project's own metadata or the Python changed, or when an earlier run was cut short. All messages go to
stderr: stdout belongs to the command.

Python 3.6 must still be able to parse this file, so that an old Python gets a sentence and not a SyntaxError.
"""

import collections
import concurrent.futures
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OLDEST = (3, 11)


def too_old(major: int, minor: int) -> str:
    """The sentence for a Python that is too old; empty for any other."""
    if (major, minor) >= OLDEST:
        return ""
    return (
        f"pveha needs Python {OLDEST[0]}.{OLDEST[1]} or newer; {sys.executable} is Python {major}.{minor}. "
        "Install a newer one (for instance `apt install python3.11`, `brew install python` or "
        "`uv python install 3.13`) and start this line with it: python3.11 bootstrap.py ..."
    )


if too_old(*sys.version_info[:2]):
    sys.exit(too_old(*sys.version_info[:2]))

import tomllib  # noqa: E402  exists since Python 3.11, so only after the check above

ROOT = Path(__file__).resolve().parent
LOCK = ROOT / "requirements.lock"
LINTERS = {"ruff": ["ruff", "check", "."], "mypy": ["mypy"], "import-linter": ["lint-imports"]}
CLUSTER_TESTS, SCENARIOS = "tests/cluster", "tests/scenarios"
TAIL_LINES = 60  # of a check that failed, told again at the end: logs are read from there


class Failed(Exception):
    """Something the user has to know, with the remedy where there is one."""


def say(text: str) -> None:
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


def fingerprint(root: Path) -> str:
    """What the environment depends on: locked packages, the project's metadata, and this very Python."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    parts = {
        "lock": hashlib.sha256((root / "requirements.lock").read_bytes()).hexdigest(),
        "project": [project["project"], project["build-system"], project["tool"]["setuptools"]],
        "python": [sys.version, sys.base_prefix],
        "root": str(root),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Environment:
    """The virtual environment at `root`/.venv; whole exactly when its stamp says what `fingerprint` says."""

    def __init__(self, root: Path):
        self.root = root
        self.path = root / ".venv"
        self.stamp = self.path / "pveha-stamp"
        self.python = self.path / "bin" / "python"

    def is_current(self) -> bool:
        return (
            self.python.exists()
            and self.stamp.exists()
            and self.stamp.read_text(encoding="utf-8") == fingerprint(self.root)
        )

    def ensure(self) -> None:
        """Makes the environment unless it is current; one process at a time."""
        if self.is_current():
            return
        with exclusive(self.root / ".venv.lock"):
            if self.is_current():
                return
            started = time.monotonic()
            say(
                f"making {self.path} with Python {sys.version.split()[0]}; the first time this takes a minute"
            )
            self.stamp.unlink(missing_ok=True)
            create(self.path)
            install(self.python, self.root)
            self.stamp.write_text(fingerprint(self.root), encoding="utf-8")
            say(f"environment ready after {time.monotonic() - started:.0f} s")

    def variables(self) -> "dict[str, str]":
        return {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")},
            "VIRTUAL_ENV": str(self.path),
            "PATH": os.pathsep.join([str(self.path / "bin"), os.environ.get("PATH", os.defpath)]),
        }


@contextlib.contextmanager
def exclusive(path: Path) -> "Iterator[None]":
    """Holds a lock that ends with this process, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is making the environment: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def create(path: Path) -> None:
    """An empty environment with pip in it: by venv, else (Debian without python3-venv) by uv, virtualenv."""
    if importlib.util.find_spec("ensurepip"):
        command = [sys.executable, "-m", "venv", "--clear", str(path)]
    elif shutil.which("uv"):
        command = ["uv", "venv", "--quiet", "--clear", "--seed", "--python", sys.executable, str(path)]
    elif importlib.util.find_spec("virtualenv"):
        command = [sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(path)]
    else:
        raise Failed(
            f"{sys.executable} cannot make virtual environments (its ensurepip is missing). "
            "On Debian and Ubuntu: `apt install python3-venv`; anywhere: install uv. Then try again."
        )
    if run(command):
        raise Failed(f"making {path} failed, see above: {shlex.join(command)}")


def install(python: Path, root: Path) -> None:
    """The locked packages, then this project (editable, built by the locked setuptools), by uv or pip."""
    if shutil.which("uv"):
        uv = ["uv", "pip", "install", "--python", str(python)]
        if not install_by(uv, root):
            return
        say("uv could not install (its index settings are not pip's): trying pip")
    if install_by([str(python), "-m", "pip", "install"], root):
        raise Failed(
            "installing requirements.lock failed, see above. Packages come through your pip settings "
            "(`pip config list`; PIP_INDEX_URL, HTTPS_PROXY and PIP_CERT are respected)."
        )


def install_by(installer: "list[str]", root: Path) -> int:
    return run([*installer, "--require-hashes", "-r", str(root / "requirements.lock")]) or run(
        [*installer, "--no-build-isolation", "--no-deps", "-e", str(root)]
    )


def run(command: "list[str]") -> int:
    """Runs an installer, its output on our stderr; pip must not hear of a configured `user = true`."""
    say(shlex.join(command))
    return subprocess.run(command, stdout=sys.stderr, env={**os.environ, "PIP_USER": "0"}).returncode


def lanes(pytest_arguments: "list[str]") -> "list[dict[str, list[str]]]":
    """Checks that run one after the other, in lanes that run side by side.

    Without arguments of their own the tests run in two processes: those with an API server mostly wait, and
    are done first; the others compute, and give way to them.
    """
    if pytest_arguments:
        return [{**LINTERS, "tests": ["pytest", *pytest_arguments]}]
    return [
        {"cluster-tests": ["pytest", CLUSTER_TESTS], **LINTERS, "scenarios": ["pytest", SCENARIOS]},
        {"tests": ["nice", "pytest", "tests", f"--ignore={CLUSTER_TESTS}", f"--ignore={SCENARIOS}"]},
    ]


def check(environment: Environment, wanted: "list[dict[str, list[str]]]") -> int:
    """Runs every check even when another failed; says at the end which ones did, and the last they said."""
    with concurrent.futures.ThreadPoolExecutor(len(wanted)) as pool:
        ends = [end for lane in pool.map(lambda lane: walk(lane, environment), wanted) for end in lane]
    say("summary")
    for end in ends:
        verdict = "passed" if end.code == 0 else f"FAILED (exit code {end.code})"
        say(f"  {end.name:14} {verdict} in {end.seconds:.0f} s")
    for end in ends:
        if end.code or end.name not in LINTERS:
            print(*end.tail[-1 if end.code == 0 else -TAIL_LINES :], sep="\n", flush=True)
    return int(any(end.code for end in ends))


class End(NamedTuple):
    """How a check ended."""

    name: str
    code: int
    seconds: float
    tail: "list[str]"


def walk(lane: "dict[str, list[str]]", environment: Environment) -> "list[End]":
    """Runs checks one after the other; each line of their output carries the name of its check."""
    ends = []
    for name, command in lane.items():
        started = time.monotonic()
        print(f"[{name}] $ {shlex.join(command)}", flush=True)
        with subprocess.Popen(
            command,
            cwd=environment.root,
            env={**environment.variables(), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        ) as child:
            tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
            for line in child.stdout or ():
                print(f"[{name}] {line}", end="", flush=True)
                tail.append(line.rstrip())
        ends.append(End(name, child.returncode, time.monotonic() - started, list(tail)))
    return ends


def main(arguments: "list[str]") -> int:
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if verb not in ("demo", "test", "env", "run"):
        print(__doc__, file=sys.stderr)
        return 0 if verb in ("help", "-h", "--help") else 2
    environment = Environment(ROOT)
    environment.ensure()
    if verb == "test":
        return check(environment, lanes(rest))
    if verb == "env":
        return 0
    command = ["pveha", "demo", *rest] if verb == "demo" else rest[rest[:1] == ["--"] :]
    if not command:
        raise Failed("nothing to run: python3 bootstrap.py run -- command ...")
    try:
        os.execvpe(command[0], command, environment.variables())
    except OSError as problem:
        raise Failed(f"{command[0]} cannot be run: {problem.strerror}") from problem


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as problem:
        sys.exit(f"bootstrap: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
