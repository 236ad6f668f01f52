"""A child process that never outlives us."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

STOP_SECONDS = 10.0
# Waits for the end of its input, which comes when we die in whatever way, then kills the process given.
LEASH = 'cat >/dev/null; kill -9 "$1"; rm -rf "$2"'


class Process:
    """A running program; its output goes to the file `log`.

    It has a session of its own, so that an interrupt typed at the terminal reaches only us, and a leash: a
    shell that kills it when we are gone, and then removes the folder `leftover`. (Linux could do this with
    PR_SET_PDEATHSIG, but that follows the starting thread.)
    """

    def __init__(
        self, command: Sequence[str | os.PathLike[str]], log: Path, leftover: Path | None = None
    ) -> None:
        self.name = Path(command[0]).name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._leash = subprocess.Popen(
            ["/bin/sh", "-c", LEASH, "leash", str(self._process.pid), str(leftover or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def tail(self, lines: int = 10) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after STOP_SECONDS."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, first: signal.Signals) -> None:
        self._process.send_signal(first)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._leash.kill()
        self._leash.communicate()
