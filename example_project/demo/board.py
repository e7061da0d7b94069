"""The board of ``--board``: the stock ``jobs board`` command, as a process of its own."""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from example_project.demo.stop import DemoError
from example_project.demo.worker import environment

if TYPE_CHECKING:
    from example_project.demo.processes import Processes
    from example_project.demo.stop import Stop

__all__ = ["Board", "require_board"]

#: Seconds that the board has to listen, and to end its streams when it is stopped.
START_TIMEOUT = 30.0
GRACE = 3.0

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("starlette", "uvicorn", "jinja2")
_ADDRESS = re.compile(r"^board: (http://\S+)$", re.MULTILINE)


def require_board() -> None:
    """Check that what the board needs is installed.

    :raises DemoError: it is not.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(
            f'The board needs packages of its own: pip install "taskora-celery[board]" ({", ".join(missing)} not installed)\n'
            "With tox: tox run -e demo -- --board",
            2,
        )


class Board:
    """A board of the example's jobs, in the Redis at ``url``, on a free port of loopback."""

    def __init__(self, processes: Processes, url: str) -> None:
        self._arguments = ["-A", "example_project", "jobs", "board", "--port", "0"]
        self._log = processes.directory / "board.log"
        env = environment(url, processes.directory)
        env.pop("TASKORA_BOARD_AUTH", None)  # a secret of the user's would not be in the address
        command = [sys.executable, "-m", "celery", *self._arguments]
        self._process = processes.start(command, self._log, GRACE, env=env, cwd=_ROOT)

    @property
    def command(self) -> str:
        """The command as one would type it."""
        return " ".join(["celery", *self._arguments])

    def wait_ready(self, stop: Stop) -> str:
        """Wait until the board listens; return its address, which lets in who opens it.

        :raises DemoError: it ended, or took too long.
        :raises Interrupted: a signal came meanwhile.
        """
        end = time.monotonic() + START_TIMEOUT
        while (found := _ADDRESS.search(self._said())) is None:
            self.check()
            if time.monotonic() > end:
                raise DemoError(f"The board did not listen after {START_TIMEOUT:g} s. It said:\n{self._said()}")
            stop.sleep(0.05)
        return found[1]

    def check(self) -> None:
        """Check that the board runs.

        :raises DemoError: it has ended.
        """
        if self._process.poll() is not None:
            said = _ADDRESS.sub("", self._said()).strip()
            raise DemoError(f"The board ended with code {self._process.returncode}. It said:\n{said}")

    def _said(self) -> str:
        return self._log.read_text(errors="replace")
