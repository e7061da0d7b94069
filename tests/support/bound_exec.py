"""Run a command that cannot outlive the test run: ``python bound_exec.py PARENT_PID COMMAND ARGS…``.

A test run that is killed, or that ends in `os._exit` as on a pytest-timeout, tears nothing down. Linux then ends a
process that asked for it with ``PR_SET_PDEATHSIG``. The wish survives the `exec`, so the process id is the command's
own. It is bound to the *thread* that started it: do not start a worker from a thread that ends before the test.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(parent_pid: int, command: list[str]) -> None:
    """Become `command`, tied to the life of the thread that started it (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # the parent died before the wish was made
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
