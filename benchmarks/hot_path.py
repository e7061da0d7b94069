"""P1, P2, P3: what a call of ``ctx`` costs on the handler's thread, against an empty method call."""

from __future__ import annotations

import statistics
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.harness import Figure, interleaved, ratio
from taskora_celery.context import Context, JobInfo
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.reporter import Reporter
from taskora_celery.settings import Settings
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import Begin

__all__ = ["p1", "p2", "p3", "timed_call"]

#: Calls in one go: fewer than the log's buffer, so that no call pays for an overflow that a real handler does not meet.
CALLS = 5_000
#: Goes in one sample; between two of them the reporter empties the buffers.
GOES = 20
#: Samples of each; each pair is measured side by side.
SAMPLES = 15


class _Empty:
    """What every method call costs in Python."""

    __slots__ = ()

    def call(self) -> None:
        """Do nothing."""


def _context() -> tuple[Context, Reporter]:
    """Return a context whose reporter's thread runs, as in a worker, and writes to memory."""
    reporter = Reporter(MemoryStore(log_limit=1_000), Settings(), Redactor())
    ctx = Context("bench", "bench")
    ctx.inform(JobInfo(), 0)
    reporter.begin(ctx, Begin("bench", "bench", 1, "bench", 0, 0))
    return ctx, reporter


def _figure(row: str, what: str, statement: str, budget: str) -> Figure:
    """Time a statement by the CPU time of this thread: what the reporter's thread does meanwhile is P4's and P6's business."""
    ctx, reporter = _context()
    scope = {"ctx": ctx, "empty": _Empty(), "meta": {"source": "orders.csv", "line": 12}}
    ours = timeit.Timer(statement, globals=scope, timer=time.thread_time)
    base = timeit.Timer("empty.call()", globals=scope, timer=time.thread_time)

    def sample(timer: timeit.Timer) -> float:
        total = 0.0
        for _ in range(GOES):
            total += timer.timeit(CALLS)
            while ctx.logs:
                time.sleep(0.001)
        return total / GOES / CALLS * 1e9

    try:
        a, b = interleaved([lambda: sample(ours), lambda: sample(base)], SAMPLES)
    finally:
        reporter.close()
    return Figure(
        row, what, f"{statistics.median(a):.0f} ns", f"empty method call {statistics.median(b):.0f} ns", ratio(a, b), budget
    )


@contextmanager
def timed_call(statement: str) -> Iterator[Callable[[], float]]:
    """Yield what measures one call of a statement about ``ctx``, in seconds of this thread's CPU."""
    ctx, reporter = _context()
    timer = timeit.Timer(
        statement, globals={"ctx": ctx, "meta": {"source": "orders.csv", "line": 12}}, timer=time.thread_time
    )  # fmt: skip

    def measure() -> float:
        elapsed = timer.timeit(CALLS) / CALLS
        while ctx.logs:
            time.sleep(0.001)
        return elapsed

    try:
        yield measure
    finally:
        reporter.close()


def p1() -> list[Figure]:
    """``ctx.progress``."""
    return [
        _figure("P1", "`ctx.progress(v)`", "ctx.progress(5)", "<= 2"),
        _figure("P1", "`ctx.progress(n, total=…, message=…)`", "ctx.progress(5, total=10, message='x')", "<= 2.5"),
    ]


def p2() -> list[Figure]:
    """``ctx.heartbeat``."""
    return [_figure("P2", "`ctx.heartbeat()`", "ctx.heartbeat()", "<= 1.5")]


def p3() -> list[Figure]:
    """``ctx.log.info``."""
    return [
        _figure("P3", "`ctx.log.info(msg, meta)`", "ctx.log.info('row stored', meta)", "<= 9"),
        _figure("P3", "`ctx.log.info(msg)`", "ctx.log.info('row stored')", "<= 9"),
    ]
