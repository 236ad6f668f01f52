"""Where kube-apiserver, etcd and kubectl come from; the first that has them wins.

1. KUBEBUILDER_ASSETS, the folder that Kubernetes operators' test suites share.
2. Our cache.
3. The published archive (`archive`).
4. A build from source (`build`).
"""

import dataclasses
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pveha.devkube import archive, build, cache, errors


@dataclasses.dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with the three programs."""

    folder: Path

    @property
    def kube_apiserver(self) -> Path:
        return self.folder / "kube-apiserver"

    @property
    def etcd(self) -> Path:
        return self.folder / "etcd"

    @property
    def kubectl(self) -> Path:
        return self.folder / "kubectl"


def ensure(say: cache.Say = cache.say_on_stderr, environ: Mapping[str, str] = os.environ) -> Binaries:
    """Finds or makes the three programs; safe to call from several processes at once."""
    if environ.get("KUBEBUILDER_ASSETS"):
        return _assets(Path(environ["KUBEBUILDER_ASSETS"]))
    here = platform_name()
    published = archive.source(here, environ)
    shelf = cache.folder(environ) / "devkube"
    unpacked = shelf / f"envtest-{published.sha512[:16] if published else 'none'}-{here}"
    built = shelf / f"build-{build.VERSION}-{here}"
    candidates = [unpacked] if published and published.is_explicit else [unpacked, built]
    if found := _first(candidates):
        return Binaries(found)
    with cache.exclusive(shelf / ".lock", say):
        if found := _first(candidates):
            return Binaries(found)
        if published:
            try:
                with cache.new_entry(unpacked) as draft:
                    archive.unpack(published, draft, say)
                    _try(draft)
                return Binaries(unpacked)
            except archive.Unavailable as problem:
                if published.is_explicit:
                    raise errors.DevkubeError(f"PVEHA_ENVTEST_ARCHIVE cannot be used: {problem}") from problem
                say(f"  {problem}")
        with cache.new_entry(built) as draft:
            build.build(draft, say)
            _try(draft)
        return Binaries(built)


def platform_name() -> str:
    """Operating system and processor in Go's words: linux-amd64, darwin-arm64."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(machine, machine) }"


def _assets(folder: Path) -> Binaries:
    missing = [name for name in archive.NAMES if not os.access(folder / name, os.X_OK)]
    if missing:
        raise errors.DevkubeError(
            f"KUBEBUILDER_ASSETS is {folder}, but {', '.join(missing)} cannot be run there: mend or unset it."
        )
    return Binaries(folder)


def _first(folders: list[Path]) -> Path | None:
    return next((folder for folder in folders if folder.is_dir()), None)


def _try(folder: Path) -> None:
    """Runs each program once, so that only what works here enters the cache."""
    for command in (
        ["kube-apiserver", "--version"],
        ["etcd", "--version"],
        ["kubectl", "version", "--client"],
    ):
        program = folder / command[0]
        try:
            subprocess.run([program, *command[1:]], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as problem:
            raise archive.Unavailable(f"{command[0]} does not run here: {problem}") from problem
