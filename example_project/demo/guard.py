"""Stops what the demo has started, whatever ended the demo: its last line, Ctrl-C, or a SIGKILL.

A process of its own: ``python guard.py DIRECTORY``. The demo writes a line ``PID GRACE`` for each process that it starts
(each leads a process group), and keeps the pipe open. When that ends, the processes are stopped, the last one first:
SIGTERM, and SIGKILL to the whole group once GRACE seconds have passed. Then DIRECTORY is removed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress

#: Seconds to wait for the end of a group that was killed.
KILLED = 2.0
TICK = 0.05


def stop(pid: int, grace: float) -> None:
    """End a process and its group."""
    with suppress(OSError):
        os.kill(pid, signal.SIGTERM)
    if not gone(pid, grace):
        with suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        gone(pid, KILLED)


def gone(pid: int, seconds: float) -> bool:
    """Wait until nobody is left in a process group; say whether that came to pass."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(pid, 0)
        except OSError:
            return True
        time.sleep(TICK)
    return False


def main(directory: str) -> None:
    """Wait for the end of the input, then stop everything that it named."""
    started = [line.split() for line in sys.stdin]
    for pid, grace in reversed(started):
        stop(int(pid), float(grace))
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
