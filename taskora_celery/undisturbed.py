"""Our own lines at the beginning and the end of a job, without an exception from outside in the middle of them.

Celery's soft time limit in prefork is SIGUSR1, whose handler raises ``SoftTimeLimitExceeded`` wherever the main thread is:
between the acquisition of a lock and the ``try`` that would release it, or in a round trip. Held back, it arrives right behind.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["undisturbed"]

_SOFT_LIMIT = {signal.SIGUSR1} if hasattr(signal, "SIGUSR1") else set()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back the soft time limit's signal in this thread; both ends are a system call of less than a microsecond."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SOFT_LIMIT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
