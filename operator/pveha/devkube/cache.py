"""The user's cache folder; its entries come into being whole or not at all, made by one process at a time."""

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

Say = Callable[[str], None]
"""Takes one line of progress."""


def say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where pveha caches: under XDG_CACHE_HOME if set, else the platform's custom."""
    if environ.get("XDG_CACHE_HOME"):
        return Path(environ["XDG_CACHE_HOME"]) / "pveha"
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pveha"
    return Path.home() / ".cache" / "pveha"


@contextlib.contextmanager
def exclusive(path: Path, say: Say) -> Iterator[None]:
    """Holds the lock file `path`; the lock ends with this process, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is filling {path.parent}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def new_entry(entry: Path) -> Iterator[Path]:
    """An empty folder to fill that becomes `entry` if the block succeeds, and vanishes if it does not."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    try:
        yield draft
        draft.rename(entry)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
