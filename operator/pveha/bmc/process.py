"""One call as a process: killed with all its children when its time is over, or when nobody waits any
more."""

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections.abc import Mapping, Sequence

from pveha.model import errors

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LARGEST_OUTPUT = 64 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Exit:
    """How it ended, and what it said (bytes that are no text replaced)."""

    code: int
    output: str
    complaint: str


async def run(
    command: Sequence[str], text: str, seconds: float, what: str, env: Mapping[str, str] | None = None
) -> Exit:
    """Run `command` with `text` on its standard input and nothing of our environment.

    Errors: `Unreachable` after `seconds` (it is dead then), `InvalidConfiguration` if it cannot be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": PATH, "LC_ALL": "C", **(env or {})},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        message = f"{what}: {command[0]} cannot be run: {error.strerror}"
        raise errors.InvalidConfiguration(message) from error
    try:
        async with asyncio.timeout(seconds):
            output, complaint = await _talk(process, text.encode())
            code = await process.wait()
    except TimeoutError:
        message = f"{what}: no answer within {seconds:g} s"
        raise errors.Unreachable(message) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return Exit(code, output.decode(errors="replace"), complaint.decode(errors="replace"))


async def _talk(process: asyncio.subprocess.Process, text: bytes) -> tuple[bytes, bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(text)
        await process.stdin.drain()
    process.stdin.close()
    output, complaint = await asyncio.gather(_limited(process.stdout), _limited(process.stderr))
    return output, complaint


async def _limited(stream: asyncio.StreamReader) -> bytes:
    """All it says; the rest of an endless tale is read and dropped."""
    told = b""
    while chunk := await stream.read(LARGEST_OUTPUT):
        told = (told + chunk)[:LARGEST_OUTPUT]
    return told
