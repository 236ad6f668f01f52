"""Where kube-apiserver, etcd and kubectl come from, told with programs of two lines."""

import hashlib
import io
import socket
import tarfile
import threading
from pathlib import Path

import pytest

from pveha.devkube import archive, binaries, build, cache, errors

PROGRAM = b"#!/bin/sh\nexit 0\n"
BROKEN = b"#!/bin/sh\nexit 1\n"


def pack(file: Path, names: tuple[str, ...] = archive.NAMES, content: bytes = PROGRAM) -> str:
    """Writes an archive laid out like the published one; its SHA-512."""
    with tarfile.open(file, "w:gz") as target:
        for name in names:
            member = tarfile.TarInfo(f"controller-tools/envtest/{name}")
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    return hashlib.sha512(file.read_bytes()).hexdigest()


def programs(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in archive.NAMES:
        (folder / name).write_bytes(PROGRAM)
        (folder / name).chmod(0o755)
    return folder


class Builds:
    """Stands for the compiler: counts, and makes the programs at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(build, "build", self)

    def __call__(self, into: Path, say: cache.Say) -> None:
        self.count += 1
        programs(into)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Builds:
    return Builds(monkeypatch)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An empty cache, and an archive named by the user: its file is still to be written."""
    return {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PVEHA_ENVTEST_ARCHIVE": str(tmp_path / "envtest.tar.gz"),
    }


def publish(monkeypatch: pytest.MonkeyPatch, file: Path, sha512: str) -> None:
    """Makes `file` the published archive of every platform."""
    monkeypatch.setattr(archive, "URL", file.as_uri())
    monkeypatch.setattr(archive, "SHA512", {binaries.platform_name(): sha512})


def test_kubebuilder_assets_come_first(tmp_path: Path, builds: Builds) -> None:
    folder = programs(tmp_path / "assets")
    assert binaries.ensure(print, {"KUBEBUILDER_ASSETS": str(folder)}).folder == folder
    assert builds.count == 0


def test_incomplete_kubebuilder_assets_are_named(tmp_path: Path) -> None:
    (programs(tmp_path) / "etcd").unlink()
    with pytest.raises(errors.DevkubeError, match="etcd cannot be run there"):
        binaries.ensure(print, {"KUBEBUILDER_ASSETS": str(tmp_path)})


def test_archive_is_fetched_once(
    tmp_path: Path, environ: dict[str, str], builds: Builds, said: list[str]
) -> None:
    environ["PVEHA_ENVTEST_SHA512"] = pack(tmp_path / "envtest.tar.gz")
    first = binaries.ensure(said.append, environ)
    assert first.kube_apiserver.read_bytes() == PROGRAM
    (tmp_path / "envtest.tar.gz").unlink()
    assert binaries.ensure(said.append, environ) == first
    assert builds.count == 0
    assert len([line for line in said if line.startswith("fetching")]) == 1


def test_archive_with_another_checksum_is_not_unpacked(
    tmp_path: Path, environ: dict[str, str], builds: Builds
) -> None:
    pack(tmp_path / "envtest.tar.gz")
    environ["PVEHA_ENVTEST_SHA512"] = "0" * 128
    with pytest.raises(errors.DevkubeError, match="not 0000"):
        binaries.ensure(print, environ)
    assert builds.count == 0
    assert [entry.name for entry in (tmp_path / "cache/pveha/devkube").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("names", "content", "said"),
    [
        (("etcd", "kubectl"), PROGRAM, "does not contain kube-apiserver"),
        (archive.NAMES, BROKEN, "does not run here"),
    ],
)
def test_useless_archive_is_refused(
    tmp_path: Path, environ: dict[str, str], names: tuple[str, ...], content: bytes, said: str
) -> None:
    environ["PVEHA_ENVTEST_SHA512"] = pack(tmp_path / "envtest.tar.gz", names, content)
    with pytest.raises(errors.DevkubeError, match=said):
        binaries.ensure(print, environ)


def test_published_archive_comes_before_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: Builds
) -> None:
    file = tmp_path / "published.tar.gz"
    publish(monkeypatch, file, pack(file))
    binaries.ensure(print, {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert builds.count == 0


@pytest.mark.parametrize("flaw", ["missing", "other content"])
def test_build_follows_an_archive_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: Builds, said: list[str], flaw: str
) -> None:
    file = tmp_path / "published.tar.gz"
    publish(monkeypatch, file, "0" * 128)
    if flaw == "other content":
        pack(file)
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    found = binaries.ensure(said.append, environ)
    assert found.folder.name.startswith("build-")
    assert binaries.ensure(said.append, environ) == found
    assert builds.count == 1


def test_silent_server_costs_seconds_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: Builds, said: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(archive, "URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        monkeypatch.setattr(archive, "ANSWER_SECONDS", 0.2)
        binaries.ensure(said.append, {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert builds.count == 1


def test_two_at_once_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: Builds) -> None:
    publish(monkeypatch, tmp_path / "missing.tar.gz", "0" * 128)
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    threads = [threading.Thread(target=binaries.ensure, args=(print, environ)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds.count == 1


def test_failed_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(into: Path, say: cache.Say) -> None:
        (into / "etcd").write_bytes(PROGRAM)
        raise errors.DevkubeError("the compiler said no")

    monkeypatch.setattr(build, "build", fail)
    publish(monkeypatch, tmp_path / "missing.tar.gz", "0" * 128)
    with pytest.raises(errors.DevkubeError, match="compiler said no"):
        binaries.ensure(print, {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert [entry.name for entry in (tmp_path / "cache/pveha/devkube").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("environ", "platform", "ends"),
    [
        ({"XDG_CACHE_HOME": "/c"}, "linux", "/c/pveha"),
        ({}, "linux", "/.cache/pveha"),
        ({}, "darwin", "/Library/Caches/pveha"),
    ],
)
def test_cache_folder(environ: dict[str, str], platform: str, ends: str) -> None:
    assert str(cache.folder(environ, platform)).endswith(ends)


def test_go_that_is_too_old_is_not_used(tmp_path: Path) -> None:
    answers = {"go1.20.3": False, "go1.26.0": True, "go1.30.1": True, "nonsense": False}
    for version, is_usable in answers.items():
        go = tmp_path / version
        go.write_text(f"#!/bin/sh\necho {version}\n")
        go.chmod(0o755)
        assert build.is_new_enough(str(go), {}) is is_usable
