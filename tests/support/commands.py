"""``celery -A app jobs …`` as a user calls it: in a terminal, and piped."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.screen import Screen
from tests.support.waiting import wait_until
from tests.support.worker import REPO_ROOT, worker_env

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from typing_extensions import Self

TIMEOUT = 60.0  # seconds, for a command that ends by itself
_ENTRY_POINT = "[celery.commands]\njobs = taskora_celery.cli:jobs\n"


def _plugin_path(directory: Path) -> list[str]:
    """Where ``celery`` finds the plug-in; the installed metadata may be older than the package under test."""
    if entry_points(group="celery.commands", name="jobs"):
        return []
    info = directory / "taskora_celery_commands-0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: taskora-celery-commands\nVersion: 0\n")
    (info / "entry_points.txt").write_text(_ENTRY_POINT)
    return [str(directory)]


class Commands:
    """Runs commands of one app on one database."""

    def __init__(self, redis_url: str, directory: Path, app: str = "tests.support.jobs:app") -> None:
        self._app = app
        self.env = {**os.environ, **worker_env(redis_url), "TERM": "xterm", "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
        for name in ("NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES"):
            self.env.pop(name, None)
        self.env["PYTHONPATH"] = os.pathsep.join([*_plugin_path(directory), self.env["PYTHONPATH"]])
        self._started: list[Terminal | subprocess.Popen[str]] = []

    def command(self, *arguments: str, app: bool = True) -> list[str]:
        """The command's line, with or without its app."""
        return [sys.executable, "-m", "celery", *(["-A", self._app] if app else []), "jobs", *arguments]

    def run(
        self, *arguments: str, app: bool = True, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in pipes, to its end."""
        return subprocess.run(
            self.command(*arguments, app=app), cwd=REPO_ROOT, env={**self.env, **(env or {})}, input=stdin,
            capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip

    def pipe(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command whose output is read from pipes while it runs."""
        pipe: Any = subprocess.PIPE
        process = subprocess.Popen(
            self.command(*arguments), cwd=REPO_ROOT, env=self.env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )
        self._started.append(process)
        return process

    def terminal(self, *arguments: str, columns: int = 100, rows: int = 40, env: Mapping[str, str] | None = None) -> Terminal:
        """Start a command in a terminal of this size."""
        terminal = Terminal(self.command(*arguments), {**self.env, **(env or {})}, columns, rows)
        self._started.append(terminal)
        return terminal

    def close(self) -> None:
        """End what still runs."""
        for started in self._started:
            if started.poll() is None:
                started.kill()
            started.wait()
            if isinstance(started, Terminal):
                started.close()
            else:
                for stream in (started.stdout, started.stderr):
                    if stream is not None:
                        stream.close()


class Terminal:
    """A command whose three streams are one terminal, which controls it: Ctrl-C reaches it as from a keyboard."""

    def __init__(self, command: list[str], env: Mapping[str, str], columns: int, rows: int) -> None:
        self.screen = Screen(columns)
        self.written = ""
        self._lock = threading.Lock()
        self._own, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._process = subprocess.Popen(
            command, cwd=REPO_ROOT, env=dict(env), stdin=other, stdout=other, stderr=other, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one call, before anything else
        )  # fmt: skip
        os.close(other)
        self._thread = threading.Thread(target=self._read, name="terminal", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _read(self) -> None:
        waiting = b""
        while True:
            try:
                data = os.read(self._own, 65536)
            except OSError:  # the other side is closed
                return
            if not data:
                return
            waiting += data
            text = waiting.decode("utf-8", "ignore")
            waiting = waiting[len(text.encode()) :]
            with self._lock:
                self.written += text
                self.screen.write(text)

    @property
    def text(self) -> str:
        """What is to be seen."""
        with self._lock:
            return self.screen.text

    def wait_for(self, predicate: Callable[[str], bool], description: str, timeout: float = 30.0) -> str:
        """Wait until what is to be seen satisfies the predicate, and return it."""

        def seen() -> str:
            over, text = self._process.poll() is not None, self.text
            if predicate(text):
                return text
            assert not over or self._thread.is_alive(), f"it ended without {description}; it showed:\n{text}"
            return ""

        return wait_until(seen, f"{description}; it shows:\n{self.text}", timeout)

    def type(self, text: str) -> None:
        """Type on its keyboard."""
        os.write(self._own, text.encode())

    def end(self, timeout: float = TIMEOUT) -> tuple[int, str]:
        """Wait for the end; return the exit code and what is to be seen."""
        code = self._process.wait(timeout)
        self._thread.join(timeout)
        return code, self.text

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the end."""
        return self._process.wait(TIMEOUT)

    def close(self) -> None:
        """Give the terminal up."""
        self._thread.join(TIMEOUT)
        with contextlib.suppress(OSError):
            os.close(self._own)


@pytest.fixture
def jobs_command(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Commands]:
    """``celery -A tests.support.jobs:app jobs …`` on the database of the shared worker, where there is one, or of the test."""
    shared = "shared_worker" in request.fixturenames
    url = request.getfixturevalue("shared_worker").redis_url if shared else request.getfixturevalue("redis_url")
    commands = Commands(url, tmp_path)
    yield commands
    commands.close()
