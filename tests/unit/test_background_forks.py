"""The thread that works in the background, and forks of its process."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from taskora_celery import background as background_module
from taskora_celery.background import Background, in_background

if TYPE_CHECKING:
    import pytest


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


def test_a_turn_that_only_waits_holds_up_no_fork() -> None:
    """Fault 4: the listener waits for days for something to hear; the pool's children are replaced meanwhile."""
    waits, over = threading.Event(), threading.Event()

    def turn() -> None:
        with background.waiting():
            waits.set()
            over.wait(10)

    background = Background("a-thread", turn)
    background.start()
    assert waits.wait(10)
    before = time.monotonic()
    pid = os.fork()
    if not pid:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert time.monotonic() - before < 5
    over.set()
    background.stop()


def test_what_is_called_once_in_the_background_holds_up_no_fork() -> None:
    """Fault 4: the end of a process that a handler has started takes as long as that process's grace."""
    begun, over = threading.Event(), threading.Event()

    def action() -> None:
        begun.set()
        over.wait(10)

    in_background("a-thread", action)
    assert begun.wait(10)
    before = time.monotonic()
    pid = os.fork()
    if not pid:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert time.monotonic() - before < 5
    over.set()


def test_of_two_threads_that_fork_at_once_each_lets_go_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 4: jobs in a pool of threads may both start processes; a thread of ours that nobody lets go of rests for ever."""
    monkeypatch.setattr(background_module, "_all", WeakValueDictionary())
    background = Background("a-thread", lambda: None)
    go_on, rests, forked = background.go_on, threading.Event(), threading.Event()

    def second_fork() -> None:
        background_module._before_fork()
        rests.set()
        forked.wait(10)
        background_module._after_fork()

    second = threading.Thread(target=second_fork)
    background_module._before_fork()
    second.start()

    def lets_the_second_begin() -> None:
        monkeypatch.setattr(background, "go_on", go_on)
        go_on()
        rests.wait(10)

    monkeypatch.setattr(background, "go_on", lets_the_second_begin)
    background_module._after_fork()
    forked.set()
    second.join(10)
    assert background._turning.acquire(timeout=1), "nobody has let go of it"
