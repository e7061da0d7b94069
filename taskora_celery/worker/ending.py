"""Ending the process of a pool in which a job hangs, and of no other job."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskora_celery.worker.request import JobRequest

__all__ = ["end_process"]

#: So long, in seconds, has the worker's main thread to take in a result that is there already.
SETTLING = 0.3


def end_process(request: JobRequest) -> bool:
    """End the process that runs a job; say whether it was ended. Called by a thread of the worker's parent; takes ``SETTLING``.

    The job may be ending just now, and its process be given another one. So the process is stopped first, and ended only if
    the job has not ended by the time that the main thread has taken in what was there.
    """
    pid = request.worker_pid
    if pid is None or pid == os.getpid():
        return False
    try:
        os.kill(pid, signal.SIGSTOP)
        until = time.monotonic() + SETTLING
        while request.has_process and time.monotonic() < until:
            time.sleep(SETTLING / 10)
        if request.has_process:
            os.kill(pid, signal.SIGKILL)
            return True
    except ProcessLookupError:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    return False
