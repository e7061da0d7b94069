"""A process in a group of its own, with its output in a file, that can be ended together with all it started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support import bound_exec
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from typing_extensions import Self

KILL_TIMEOUT = 10.0  # seconds: the kernel needs milliseconds, a loaded machine more


class _Stat(NamedTuple):
    pid: int
    state: str
    ppid: int
    pgrp: int


def _processes() -> Iterator[_Stat]:
    """All processes that `/proc` shows; those that end meanwhile are left out."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        # The command, in brackets, may itself hold brackets and blanks.
        state, ppid, pgrp = text[text.rindex(")") + 2 :].split()[:3]
        yield _Stat(int(path.parent.name), state, int(ppid), int(pgrp))


def group_members(pgrp: int) -> list[int]:
    """The ids of all live processes of a group; zombies are dead already."""
    return sorted(process.pid for process in _processes() if process.pgrp == pgrp and process.state not in "ZX")


class ManagedProcess:
    """One command, its log and its whole process group.

    Nothing survives `close`, whatever the command started (as long as it stayed in the group), and nothing survives
    the test run either (see `bound_exec`).
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_path: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log_path = log_path
        self.env = {**os.environ, **(env or {})}
        self.cwd = cwd
        self._popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "not started" if self._popen is None else f"pid {self.pid}, returncode {self.returncode}"
        return f"<{type(self).__name__} {self.name!r} {state}>"

    def start(self) -> None:
        """Start the command; after an earlier run its log is continued."""
        wrapper = [sys.executable, "-I", "-S", bound_exec.__file__, str(os.getpid())]
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                [*wrapper, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=self.cwd,
                start_new_session=True,
            )

    @property
    def started(self) -> bool:
        """Whether it was ever started."""
        return self._popen is not None

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None, f"{self.name} was not started"
        return self._popen

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; -N where signal N ended it."""
        return self._process.poll()

    @property
    def running(self) -> bool:
        """Whether the command itself (not only something that it left behind) is alive."""
        return self._popen is not None and self.returncode is None

    def children(self) -> list[int]:
        """The ids of the live direct children: a prefork worker's pool."""
        return sorted(p.pid for p in _processes() if p.ppid == self.pid and p.state not in "ZX")

    def members(self) -> list[int]:
        """The ids of all live processes of the group, the command's own included."""
        return group_members(self.pid)

    def ports(self) -> set[int]:
        """The local TCP ports (IPv4) of the command's own connections, without those of what it started."""
        sockets = set()
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                sockets.add(str(link.readlink()))
        rows = [line.split() for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]]
        return {int(row[1].rpartition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in sockets}

    def logs(self) -> str:
        """Everything that it wrote to stdout and stderr so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_size(self) -> int:
        """How many characters `logs` has now, to look later only at what came after."""
        return len(self.logs())

    def wait_for_log(self, pattern: str, timeout: float = 30.0, *, after: int = 0) -> re.Match[str]:
        """Wait until the log matches a regular expression (multi-line), searched from character `after` on.

        :raises AssertionError: when the time is over, or at once when the process ended without writing it.
        """
        expression = re.compile(pattern, re.MULTILINE)

        def found() -> re.Match[str] | None:
            over = not self.running  # asked before the log is read: the last lines count
            match = expression.search(self.logs(), after)
            if match is None and over:
                raise AssertionError(f"{self.name} ended ({self.returncode}) without {pattern!r} in its log:\n{self.tail()}")
            return match

        match = wait_until(found, f"{pattern!r} in the log of {self.name}", timeout)
        assert match is not None
        return match

    def tail(self, lines: int = 60) -> str:
        """The end of the log, for reports."""
        return "\n".join(self.logs().splitlines()[-lines:])

    def signal(self, signum: int) -> None:
        """Send a signal to the command alone, as `kill PID` would; one that has ended is left in peace."""
        if self.running:
            self._process.send_signal(signum)

    def signal_all(self, signum: int) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signum)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the end, and return the return code.

        :raises AssertionError: when it still runs after `timeout` seconds.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout:g} s:\n{self.tail()}") from None

    def stop(self, timeout: float = 30.0) -> int:
        """Ask it to end (SIGTERM), wait, and return the return code.

        :raises AssertionError: when it still runs after `timeout` seconds; it is left running.
        """
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """End the whole group by SIGKILL, as a crash of the machine would, and wait until nothing of it is left."""
        if not self.started:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(KILL_TIMEOUT)
        wait_until(lambda: not self.members(), f"the end of all processes of {self.name}", KILL_TIMEOUT)

    def close(self) -> None:
        """Make sure that nothing of it is left. May be called at any time, and more than once."""
        self.kill()
