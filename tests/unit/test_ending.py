"""Ending a process of a pool: the one in which a job hangs, and no other job's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskora_celery.worker.ending import end_process
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


class Request:
    """A job that a process runs: for so many looks, or for ever. It notes how the process stands at each look."""

    def __init__(self, pid: int | None, looks: int | None = None) -> None:
        self.worker_pid = pid
        self.seen: list[str] = []
        self._looks = looks

    @property
    def has_process(self) -> bool:
        self.seen.append(_standing(self.worker_pid or 0))
        return self._looks is None or len(self.seen) <= self._looks


def _standing(pid: int) -> str:
    """`T` of a process that is stopped."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    if not Path("/proc/self/stat").exists():
        pytest.skip("how a process stands is read as Linux shows it")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_a_process_whose_job_hangs_is_stopped_and_killed(process: subprocess.Popen[bytes]) -> None:
    """D4, G4: stopped, it can begin with nothing else while its job's end may be on its way."""
    request = Request(process.pid)
    assert end_process(request) is True  # type: ignore[arg-type]
    assert process.wait(10) == -signal.SIGKILL
    assert request.seen[-1] == "T"


@pytest.mark.parametrize("looks", [0, 1, 3])
def test_a_process_whose_job_has_ended_goes_on(process: subprocess.Popen[bytes], looks: int) -> None:
    """D4, G4: its result was there already, and it may have another job by now."""
    assert end_process(Request(process.pid, looks)) is False  # type: ignore[arg-type]
    wait_until(lambda: _standing(process.pid) != "T", "the process to go on")
    assert process.poll() is None


def test_nobody_ends_itself() -> None:
    """D4: in pools without processes the job runs in the worker; one that has not begun has no process."""
    assert end_process(Request(os.getpid())) is False  # type: ignore[arg-type]
    assert end_process(Request(None)) is False  # type: ignore[arg-type]


def test_a_process_that_is_gone_is_nobodys(process: subprocess.Popen[bytes]) -> None:
    """D4: somebody was faster."""
    process.kill()
    process.wait(10)
    assert end_process(Request(process.pid)) is False  # type: ignore[arg-type]
