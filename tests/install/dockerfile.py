"""Carries out a Dockerfile on folders, as root, without a container engine.

Every stage begins with a copy of the base or of another stage; RUN is a shell in a chroot with a mount
namespace of its own. Only what our Dockerfile uses is understood. Name resolution, certificates and pip's
settings are those of this machine.
"""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
"""Of this machine, put into a root while something runs in it."""
ENTER = """
set -e
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
shift
exec "$@"
"""
SEALED = """
set -e
root=$1; secrets=$2; shift 2
mount --bind "$root" "$root"
mkdir -p "$root/run/secrets/kubernetes.io/serviceaccount"
mount -t tmpfs tmpfs "$root/run/secrets/kubernetes.io/serviceaccount"
cp "$secrets"/* "$root/run/secrets/kubernetes.io/serviceaccount/"
chmod 444 "$root/run/secrets/kubernetes.io/serviceaccount"/*
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$root/tmp"
mount -o remount,bind,ro "$root"
exec "$@"
"""
"""As the chart's pod has it: a read-only root, a /tmp in memory, the account's token.

/var/run is a link to /run, which would lead out of the root here.
"""


class DockerfileError(Exception):
    """An instruction that cannot be carried out."""


@dataclasses.dataclass(slots=True)
class Stage:
    """What an image is: a root and how programs are started in it."""

    root: Path
    environ: dict[str, str] = dataclasses.field(default_factory=dict)
    user: str = "0:0"
    entrypoint: list[str] = dataclasses.field(default_factory=list)


def instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and line[0] != "#"]
    return [(word, rest.strip()) for line in lines for word, _, rest in [line.partition(" ")]]


def build(context: Path, base: Path, folder: Path, say: Callable[[str], None]) -> dict[str, Stage]:
    """Carries out `context`/Dockerfile on copies of the root `base`, below `folder`; its stages by name.

    A last stage without a name is called "".
    """
    allowed = {
        line[1:].strip() for line in (context / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for word, rest in instructions((context / "Dockerfile").read_text()):
        say(f"{word} {rest}")
        if word == "ARG":
            continue
        if word == "FROM":
            origin, _, name = rest.partition(" AS ")
            stage = stages[name] = _begin(origin, base, stages, folder / (name or "final"))
            continue
        if stage is None:
            raise DockerfileError(f"{word} before FROM")
        match word:
            case "COPY":
                _copy(rest, context, allowed, stages, stage)
            case "RUN":
                run(stage, ["/bin/sh", "-c", rest])
            case "ENV":
                stage.environ |= dict(each.split("=", 1) for each in shlex.split(rest))
            case "USER":
                stage.user = rest
            case "ENTRYPOINT":
                stage.entrypoint = re.findall(r'"([^"]*)"', rest)
            case "EXPOSE" | "CMD":
                pass
            case _:
                raise DockerfileError(f"{word} is not understood")
    return stages


def _begin(origin: str, base: Path, stages: dict[str, Stage], root: Path) -> Stage:
    known = stages.get(origin)
    subprocess.run(["cp", "--archive", str(known.root if known else base), str(root)], check=True)
    if known is None:
        return Stage(root, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
    return Stage(root, dict(known.environ), known.user, list(known.entrypoint))


def _copy(rest: str, context: Path, allowed: set[str], stages: dict[str, Stage], stage: Stage) -> None:
    *words, to = rest.split()
    origin = context
    if words[0].startswith("--from="):
        origin = stages[words.pop(0).removeprefix("--from=")].root
    target = stage.root / to.lstrip("/")
    for each in words:
        source = origin / each.lstrip("/")
        if origin == context and each not in allowed:
            raise DockerfileError(f"COPY {each}: .dockerignore keeps it out of the context")
        if source.is_dir():
            shutil.copytree(
                source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def run(stage: Stage, command: Sequence[str]) -> None:
    """One RUN."""
    lent = {Path(path): stage.root / path[1:] for path in HERE if Path(path).exists()}
    kept = {to: to.read_bytes() for to in lent.values() if to.exists()}
    for origin, to in lent.items():
        to.parent.mkdir(parents=True, exist_ok=True)
        to.unlink(missing_ok=True)
        to.write_bytes(origin.read_bytes())
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    try:
        answer = subprocess.run(
            [*enter(ENTER, stage.root), *chroot(stage), *command],
            env={**stage.environ, **pip, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
        )
    finally:
        for to in lent.values():
            to.unlink(missing_ok=True)
        for to, content in kept.items():
            to.write_bytes(content)
    if answer.returncode:
        raise DockerfileError(f"{command[-1]}: {answer.stdout[-2000:]}{answer.stderr[-2000:]}")


def enter(script: str, *arguments: Path) -> list[str]:
    """A mount namespace in which `script` is run; it is to end with exec of what follows."""
    return [
        "unshare",
        "--mount",
        "--fork",
        "--kill-child",
        "/bin/sh",
        "-c",
        script,
        "enter",
        *map(str, arguments),
    ]


def powerless(stage: Stage) -> list[str]:
    """As the stage's user, without capabilities and ways to get some."""
    user, _, group = stage.user.partition(":")
    limits = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    return ["/usr/sbin/chroot", str(stage.root), "setpriv", f"--reuid={user}", f"--regid={group}", *limits]


def chroot(stage: Stage) -> list[str]:
    return ["/usr/sbin/chroot", f"--userspec={stage.user}", "--groups=", str(stage.root)]
