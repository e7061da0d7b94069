"""The thread that works in the background, and forks of its process."""

from __future__ import annotations

import os
import threading

from taskora_celery.background import Background


def test_no_process_is_forked_in_the_middle_of_a_turn() -> None:
    """Fault 4: a pool's child that was forked while the keeper held a driver's lock would hang for ever."""
    lock, begun = threading.Lock(), threading.Event()

    def turn() -> None:
        with lock:
            begun.set()
            threading.Event().wait(0.2)  # what an answer of the broker takes

    background = Background("a-thread", turn)
    background.start()
    assert begun.wait(10)
    pid = os.fork()
    if not pid:
        os._exit(0 if lock.acquire(blocking=False) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    background.stop()
