"""kube-apiserver, etcd and kubectl from the archive that kubernetes-sigs/controller-tools publishes."""

import contextlib
import dataclasses
import hashlib
import os
import queue
import shutil
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from pveha.devkube import cache, errors

VERSION = "1.36.2"
URL = (
    "https://github.com/kubernetes-sigs/controller-tools/releases/download/"
    f"envtest-v{VERSION}/envtest-v{VERSION}-{{platform}}.tar.gz"
)
# From envtest-releases.yaml in that repository, commit of 2026-07-20.
SHA512 = {
    "darwin-amd64": "b4fe9f973cd1992e3880f8b230ed32c0c243b83371591e3e3315f4404df2cdbe"
    "f8ee94eeb9bb245b7e5feb987d5c4a76c43e0877654ab73f00d7bbc2b9984514",
    "darwin-arm64": "9278f9e5af556b2f1f2d139769c1f0d717c7b4426917fdebdba898bcb725a916"
    "e4910d6160886194ff9be9589ea7c5c32c2b8ae0754703874b7c8ba8ddfc41ce",
    "linux-amd64": "ea743186c8a799f5cf8faf16969f86189d003cb7d130e0ac4b58789f1e5748dc"
    "f30ebe91c837a10d5ac415383da3e10b9e64d65785c938c23e739781cfb76f08",
    "linux-arm64": "2d72ee985a8e262a3c57dc9f7f0fd891f6a8c7bf7ebaa2db6dc6d8eac8ae2818"
    "1afe51c1f368b67756cdb40b10de9b205609e1726e5f27f7c6d824dd9c6649ac",
}
NAMES = ("kube-apiserver", "etcd", "kubectl")
ANSWER_SECONDS = 10.0
DOWNLOAD_SECONDS = 300.0


class Unavailable(errors.DevkubeError):
    """These programs cannot be used; the next source may be tried."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One archive and the SHA-512 (hex) it has to have. `is_explicit`: the user named it, so it must work."""

    url: str
    sha512: str
    is_explicit: bool


def source(platform: str, environ: Mapping[str, str] = os.environ) -> Source | None:
    """The archive for this platform: PVEHA_ENVTEST_ARCHIVE (a path or URL) before the published one.

    Whatever its origin, its checksum must be the published one, or PVEHA_ENVTEST_SHA512 if that is set.
    """
    wanted = environ.get("PVEHA_ENVTEST_ARCHIVE")
    sha512 = environ.get("PVEHA_ENVTEST_SHA512") or SHA512.get(platform)
    if wanted and not sha512:
        raise errors.DevkubeError(
            f"PVEHA_ENVTEST_ARCHIVE is set, but no archive is published for {platform}: "
            "set PVEHA_ENVTEST_SHA512 to the checksum of yours."
        )
    if not sha512:
        return None
    if not wanted:
        return Source(URL.format(platform=platform), sha512, is_explicit=False)
    url = wanted if "://" in wanted else Path(wanted).resolve().as_uri()
    return Source(url, sha512, is_explicit=True)


def unpack(source: Source, into: Path, say: cache.Say) -> None:
    """Downloads, checks and unpacks the three programs; raises Unavailable."""
    file = into / "archive.tar.gz"
    say(f"fetching {source.url}")
    download(source.url, file, say)
    found = hashlib.sha512(file.read_bytes()).hexdigest()
    if found != source.sha512:
        raise Unavailable(f"{source.url} has SHA-512 {found}, not {source.sha512}: not used")
    with tarfile.open(file) as archive:
        for member in archive:
            name = Path(member.name).name
            content = archive.extractfile(member) if name in NAMES and member.isfile() else None
            if content is not None:
                with (into / name).open("wb") as target:
                    shutil.copyfileobj(content, target)
                (into / name).chmod(0o755)
    file.unlink()
    missing = [name for name in NAMES if not (into / name).exists()]
    if missing:
        raise Unavailable(f"{source.url} does not contain {', '.join(missing)}")


def download(url: str, file: Path, say: cache.Say) -> None:
    """Fetches `url`: ANSWER_SECONDS, name resolution included, to begin; then DOWNLOAD_SECONDS to end."""
    outcome: queue.Queue[Exception | str] = queue.Queue()
    thread = threading.Thread(target=_transfer, args=(url, file, outcome), daemon=True)
    thread.start()
    for seconds in (ANSWER_SECONDS, DOWNLOAD_SECONDS):
        try:
            event = outcome.get(timeout=seconds)
        except queue.Empty:
            raise Unavailable(f"{url} took longer than {seconds:.0f} s") from None
        if isinstance(event, Exception):
            raise Unavailable(f"{url}: {event}") from event
        say(event)


def _transfer(url: str, file: Path, outcome: "queue.Queue[Exception | str]") -> None:
    started = time.monotonic()
    try:
        with contextlib.closing(urllib.request.urlopen(url, timeout=ANSWER_SECONDS)) as answer:
            outcome.put(f"  {int(answer.headers.get('Content-Length', 0)) / 1e6:.0f} MB")
            with file.open("wb") as target:
                shutil.copyfileobj(answer, target)
        outcome.put(f"  fetched in {time.monotonic() - started:.0f} s")
    except (OSError, ValueError, urllib.error.URLError) as problem:
        outcome.put(problem)
