"""The processes that the demo starts, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from example_project.demo.stop import Stop

__all__ = ["Processes"]

_GUARD = Path(__file__).with_name("guard.py")
TICK = 0.05


class Processes:
    """Starts processes, each in a session of its own, with a temporary directory for what they write.

    A Ctrl-C in the terminal therefore reaches the demo alone. ``guard.py`` ends them all, last started first: in :meth:`close`,
    and as well when this process is killed.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="taskora-demo-"))
        self._started: list[subprocess.Popen[bytes]] = []
        self._guard = subprocess.Popen(
            [sys.executable, str(_GUARD), str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def start(
        self,
        command: Sequence[str],
        log: Path,
        grace: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process that writes to the file ``log``; at the end it has ``grace`` seconds after SIGTERM.

        :raises OSError: it cannot be executed.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        self._started.append(process)
        _pipe(self._guard).write(f"{process.pid} {grace}\n".encode())
        _pipe(self._guard).flush()
        return process

    def close(self, stop: Stop) -> None:
        """End all processes and remove the directory; at once where the user insists."""
        _pipe(self._guard).close()
        while self._guard.poll() is None:
            for process in self._started:
                process.poll()  # an ended child stays in its group until its parent has looked
                if stop.insisted and process.returncode is None:
                    with suppress(OSError):
                        os.killpg(process.pid, signal.SIGKILL)
            time.sleep(TICK)


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin
