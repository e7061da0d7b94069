"""Seeing that a process of the pool has ended: by the kernel's word, in the worker's event loop."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.worker.exits import ExitWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux has them")


class Hub:
    """An event loop whose turns the test takes."""

    def __init__(self) -> None:
        self.readers: dict[int, tuple[Callable[[int], None], int]] = {}

    def add_reader(self, fd: int, callback: Callable[[int], None], pid: int) -> None:
        self.readers[fd] = (callback, pid)

    def remove(self, fd: int) -> None:
        del self.readers[fd]

    def turn(self, timeout: float) -> None:
        """Call back for all that is ready."""
        ready, _, _ = select.select(list(self.readers), [], [], timeout)
        for fd in ready:
            callback, pid = self.readers[fd]
            callback(pid)


class Watching:
    """A worker with an event loop, and how often its pool has looked after its processes."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.looks = 0
        worker: Any = SimpleNamespace(hub=self.hub, pool=SimpleNamespace(maintain_pool=self._look))
        self.exits = ExitWatch(worker)

    def _look(self) -> None:
        self.looks += 1


@pytest.fixture
def watching() -> Watching:
    return Watching()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_the_pool_looks_at_once_when_a_process_has_ended(watching: Watching, process: subprocess.Popen[bytes]) -> None:
    """D5, G4: not when its pipe is closed, or five seconds later; and nothing of it stays in the event loop."""
    watching.exits.watch(process.pid)
    watching.hub.turn(0)
    assert watching.looks == 0
    (fd,) = watching.hub.readers
    process.kill()
    watching.hub.turn(10)
    assert (watching.looks, watching.hub.readers) == (1, {})
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_process_is_watched_once_however_many_jobs_it_runs(watching: Watching, process: subprocess.Popen[bytes]) -> None:
    """Runtime: one descriptor for each process."""
    for _ in range(3):
        watching.exits.watch(process.pid)
    assert len(watching.hub.readers) == 1


def test_it_is_watched_again_where_the_event_loop_was_emptied(watching: Watching, process: subprocess.Popen[bytes]) -> None:
    """D5: as Celery does after a lost connection."""
    watching.exits.watch(process.pid)
    watching.hub.readers.clear()
    watching.exits.watch(process.pid)
    process.kill()
    watching.hub.turn(10)
    assert watching.looks == 1


def test_what_cannot_be_watched_is_left_alone(watching: Watching, process: subprocess.Popen[bytes]) -> None:
    """D5: the worker itself, where jobs run in its threads; a process that is gone; a worker without an event loop."""
    watching.exits.watch(os.getpid())
    process.kill()
    process.wait(10)
    watching.exits.watch(process.pid)
    assert watching.hub.readers == {}
    ExitWatch(SimpleNamespace(hub=None)).watch(1)
