"""P8, P9: from a report to a reader that waits, and reading the log of a long job."""

from __future__ import annotations

import gc
import json
import statistics
import threading
import time
from typing import Any

import redis
from celery import Celery

from benchmarks.harness import Figure, interleaved, ratio
from benchmarks.servers import redis_server, worker
from taskora_celery import JobHandle
from taskora_celery.settings import Settings
from taskora_celery.store.keys import JobKeys

__all__ = ["p8", "p9"]

ENTRIES = 10_000
#: Reports of each job, and the seconds between two of them.
SPARSE, DENSE = (60, 0.25), (1_500, 0.001)
_WARM = 5


def p8() -> list[Figure]:
    """Listen to a job that says in each entry when it said it, and to the same told over raw pub/sub by the same process."""
    with redis_server() as url, worker(url, "prefork", 2) as _:
        app = Celery("publisher", broker=url, backend=url)
        sparse, raw = _heard(app, url, *SPARSE)
        dense, _ = _heard(app, url, *DENSE)
    interval = Settings().flush_interval * 1e3
    return [
        _figure("sparse", sparse, raw, "<= 2"),
        _figure(f"dense (a flush each {interval:g} ms)", dense, raw, f"<= {interval:g}"),
    ]


def _figure(what: str, ours: list[float], raw: list[float], budget: str) -> Figure:
    return Figure("P8", f"a report to a waiting reader, {what}", _shown(ours), f"pub/sub {_shown(raw)}", ours, budget, unit="ms")


def _shown(found: list[float]) -> str:
    return f"{statistics.median(found):.2f} ms p50, {sorted(found)[int(len(found) * 0.99)]:.1f} ms p99"


def _heard(app: Any, url: str, count: int, pause: float) -> tuple[list[float], list[float]]:
    """Return the delays of the entries of a job, and those of the raw messages in between, in ms."""
    raw: list[float] = []
    with redis.Redis.from_url(url).pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("raw")
        echo = threading.Thread(target=_listen, args=(pubsub, count, raw), daemon=True)
        echo.start()
        handle = JobHandle(app.send_task("speaks", (count, pause)).id, app=app)
        ours = [(time.perf_counter() - (entry.meta or {})["at"]) * 1e3 for entry in handle.follow_logs(timeout=60)]
        echo.join(10)
    return ours[_WARM:], raw[_WARM:]


def _listen(pubsub: Any, count: int, found: list[float]) -> None:
    while len(found) < count:
        message = pubsub.get_message(timeout=30)
        if message is not None:
            found.append((time.perf_counter() - float(message["data"])) * 1e3)


def p9() -> list[Figure]:
    """Read 10 000 entries: ours, the same as bytes that nobody looks at, and the same from a stream with JSON."""
    with redis_server() as url:
        with worker(url, "prefork", 1) as _:
            app = Celery("publisher", broker=url, backend=url)
            handle = JobHandle(app.send_task("fills", (ENTRIES,)).id, app=app)
            handle.get(timeout=120)
        client = redis.Redis.from_url(url)
        journal = JobKeys(Settings().key_prefix).of(handle.id)[1]
        entries = handle.get_logs()
        if len(entries) != ENTRIES:
            raise SystemExit(f"{len(entries)} of {ENTRIES} entries are in the record")
        with client.pipeline(transaction=False) as pipe:
            for entry in entries:
                pipe.xadd("stream", {"l": entry.level, "m": entry.message, "t": entry.timestamp, "x": json.dumps(entry.meta)})
            pipe.execute()
        del entries
        gc.collect()
        gc.freeze()  # what this program holds is not what a reader's process holds
        ours, streamed, raw = interleaved(
            [
                lambda: _seconds(handle.get_logs),
                lambda: _seconds(lambda: [(i, {**f, b"x": json.loads(f[b"x"])}) for i, f in _all(client)]),
                lambda: _seconds(lambda: client.lrange(journal, 0, -1)),
            ]
        )  # fmt: skip
    shown = f"{statistics.median(ours) * 1e3:.1f} ms"
    return [
        Figure("P9", f"`get_logs()` of {ENTRIES} entries, `xrange()` and json", shown,
               f"{statistics.median(streamed) * 1e3:.1f} ms", ratio(ours, streamed), "<= 0.35"),
        Figure("P9", f"`get_logs()` of {ENTRIES} entries, raw bytes", shown, f"{statistics.median(raw) * 1e3:.1f} ms",
               ratio(ours, raw), ""),
    ]  # fmt: skip


def _all(client: Any) -> Any:
    return client.xrange("stream")


def _seconds(read: Any) -> float:
    begun = time.perf_counter()
    read()
    return time.perf_counter() - begun
