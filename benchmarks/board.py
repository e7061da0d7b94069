"""K4: from a report that is written to the line or row that a viewer is told, through the board's real HTTP server.

Twenty viewers look, half of them at the list and half at one job's page, while a writer reports progress 200 times and logs 50
lines a second. What a worker's flush interval adds is not in it: the writer stands where the reporter does.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Figure
from benchmarks.servers import redis_server
from taskora_celery.encoding import pack
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.journal import encode
from taskora_celery.store.protocol import Begin, Report
from taskora_celery.store.redis import RedisStore

__all__ = ["k4"]

VIEWERS, JOBS = 20, 20
PROGRESS_A_SECOND, LOGS_A_SECOND = 200, 50
#: Measured for so many seconds, behind a warm-up of so many.
SECONDS, WARM_UP = 10.0, 2.0
SECRET = "benchmark"
_STAMP = re.compile(rb"at=(\d+\.\d+)")
_INFO = 2
#: ``celery -A benchmarks.tasks jobs board --port 0``, also where the package is not installed.
_COMMAND = """
from celery.bin.base import CLIContext
from benchmarks.tasks import app
from taskora_celery.cli import jobs
jobs(["board", "--port", "0"], obj=CLIContext(app, no_color=True, workdir=None))
"""


def k4() -> list[Figure]:
    """Measure what the viewers wait for, and what the board's process costs."""
    with redis_server() as url, _board(url) as (port, pid):
        writer = subprocess.Popen([sys.executable, "-c", f"from benchmarks.board import write; write({url!r})"])
        try:
            before = _cpu(pid)
            rows, lines = asyncio.run(_watch(port))
            cpu = (_cpu(pid) - before) / (SECONDS + WARM_UP)
        finally:
            writer.terminate()
            writer.wait(10)
    notes = f"{len(rows)} rows and {len(lines)} lines were told to {VIEWERS} viewers; the board used {cpu:.0%} of a core"
    return [
        Figure(
            "K4", f"report to {what} in the browser", _shown(found), "-",
            [value * 1e3 for value in _medians(found)], "<= 150", notes, "ms",
        )
        for what, found in (("row", rows), ("line", lines))
    ]  # fmt: skip


def _shown(found: list[float]) -> str:
    ordered = sorted(found)
    return f"{statistics.median(found) * 1e3:.0f} ms p50, {ordered[int(len(ordered) * 0.95)] * 1e3:.0f} ms p95"


def _medians(found: list[float], parts: int = 7) -> list[float]:
    size = max(len(found) // parts, 1)
    return [statistics.median(found[at : at + size]) for at in range(0, size * parts, size) if found[at : at + size]]


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _board(url: str) -> Iterator[tuple[int, int]]:
    """Run ``jobs board`` for the benchmark app; yield its port and its pid."""
    env = {**os.environ, "TASKORA_BENCH_REDIS": url, "TASKORA_BOARD_AUTH": SECRET}
    process = subprocess.Popen([sys.executable, "-c", _COMMAND], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r":(\d+)/", process.stdout.readline())
        if found is None:
            raise SystemExit("the board did not start")
        yield int(found[1]), process.pid
    finally:
        process.terminate()
        process.wait(10)


def write(url: str) -> None:
    """Report for ever: each job's progress in turn, and lines of the first."""
    store = RedisStore(Endpoint(url))
    now_ms = int(time.time() * 1000)
    ids = [f"job-{number}" for number in range(JOBS)]
    fences = [store.begin(Begin(job_id, "bench.work", 1, "w1@bench", now_ms, now_ms)).fence for job_id in ids]
    store.note(ids, [], now_ms)
    began, number, logged = time.monotonic(), 0, 0
    while True:
        at, job = time.time(), number % JOBS
        at_ms = int(at * 1000)
        progress = pack(({"current": number, "message": f"at={at:.4f}"}, at_ms, None))
        reports = [Report(ids[job], fences[job], at_ms, progress=progress)]
        if number % (PROGRESS_A_SECOND // LOGS_A_SECOND) == 0:
            batches = encode(1, [(_INFO, at_ms, f"line at={at:.4f}", None, None)], 10_000)
            reports.append(Report(ids[0], fences[0], at_ms, first=logged, batches=batches))
            logged += 1
        store.report(reports)
        number += 1
        time.sleep(max(began + number / PROGRESS_A_SECOND - time.monotonic(), 0.0))


async def _watch(port: int) -> tuple[list[float], list[float]]:
    """Look for a while; return how old what is told is, of rows and of lines, in seconds."""
    rows, lines = list[float](), list[float]()
    paths = ["/events", "/job/events?id=job-0"] * (VIEWERS // 2)
    viewers = [asyncio.create_task(_viewer(port, path, rows, lines)) for path in paths]
    await asyncio.sleep(WARM_UP)
    rows.clear()
    lines.clear()
    await asyncio.sleep(SECONDS)
    for viewer in viewers:
        viewer.cancel()
    await asyncio.gather(*viewers, return_exceptions=True)
    return rows, lines


async def _viewer(port: int, path: str, rows: list[float], lines: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\n\r\n".encode())
    kind = b""
    try:
        while data := await reader.readline():
            if data.startswith(b"event: "):
                kind = data[7:].strip()
            found = _STAMP.search(data) if kind in {b"row", b"line"} else None
            if found is not None:
                (rows if kind == b"row" else lines).append(time.time() - float(found[1]))
    finally:
        writer.close()
