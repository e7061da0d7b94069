"""Values that no store takes as they are: said everywhere, they harm no job, are marked and are bounded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from celery.result import AsyncResult

from taskora_celery import JobCancelledError
from taskora_celery.encoding import CUT
from taskora_celery.scheduling import REASON_CHARS
from tests.support import gates, jobs, odd_jobs
from tests.support.apps import pointed_at
from tests.support.commands import Commands
from tests.support.pools import pools
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.support.worker_fixtures import StartWorker

#: Bytes that one job's keys take at most, whatever it says: one progress value, three entries, a reason, and what Redis adds.
BOUND = 300_000
#: What stands, in an entry, for what is not there.
MARKS = {"opaque": "<Opaque>", "circular": "<circular>", "huge": CUT, "huge list": CUT, "huge bytes": CUT}


@pools("prefork")
def test_odd_values_harm_no_job_and_are_bounded(
    pool: str, start_worker: StartWorker, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """Fault 17, E2, F3: unserialisable, 100 MB, circular, NaN, non-UTF-8, in progress, message, meta, reason and exception."""
    worker = start_worker("tests.support.odd_jobs:app", pool=pool, concurrency=1)
    commands = Commands(redis_url, tmp_path)
    with pointed_at(jobs.app, redis_url):
        for kind in odd_jobs.VALUES:
            handle = odd_jobs.say.delay(kind)
            gates.wait_at(handle.id)
            wait_until(lambda: len(handle.get_logs()) == 2, f"the entries with {kind}", 10)  # noqa: B023
            _is_said(handle, kind)
            assert _size(redis_client, handle.id) < BOUND, kind
            gates.open_gate(handle.id)
            assert handle.get(timeout=30) == "unharmed", kind
            status = recorded(handle)
            assert (status.attempt, status.logs, status.dropped_logs) == (2, 2, 0), kind
            retry, success = handle.history()
            assert (retry.outcome, success.outcome) == ("RETRY", "SUCCESS")
            assert retry.reason, kind
            assert len(retry.reason) <= REASON_CHARS, kind
            assert _size(redis_client, handle.id) < BOUND, kind
        result = commands.run("show", handle.id)
        assert (result.returncode, result.stderr) == (0, "")
        assert worker.running
        assert "could not be written" not in worker.logs()
        assert "could not be read" not in worker.logs()


def _is_said(handle: Any, kind: str) -> None:
    """The value is there, as itself or as what stands for it, and marked where it is not itself."""
    status = handle.record()
    plain = {"nan", "infinite", "surrogate", "not utf-8"}
    assert (status.progress_mark is None) == (kind in plain), (kind, status.progress_mark)
    value = handle.get_progress()
    assert value is not None, kind
    assert len(repr(value)) < 100_000, kind
    said, meta = handle.get_logs()
    assert said.message, kind
    assert meta.meta is not None
    assert max(len(repr(entry)) for entry in (said, meta)) < 20_000, kind
    for text in (said.message, repr(meta.meta), repr(value)):
        assert MARKS.get(kind, "") in text, (kind, text[-200:])
    json.dumps([said.message, meta.meta, value]).encode("utf-8")


def _size(client: redis.Redis, job_id: str) -> int:
    """The bytes that the job's own keys take."""
    return sum(int(client.memory_usage(key, samples=0) or 0) for key in client.keys(f"taskora:*{job_id}*"))


@pools("prefork")
def test_results_and_errors_stay_celerys_and_their_records_are_bounded(
    pool: str, start_worker: StartWorker, redis_url: str, redis_client: redis.Redis
) -> None:
    """Fault 17, G6: what Celery cannot store fails as it does without this library; the record says so, in few bytes."""
    worker = start_worker("tests.support.odd_jobs:app", pool=pool, concurrency=1)
    with pointed_at(jobs.app, redis_url):
        for kind in ("nan", "huge", "surrogate"):
            handle = odd_jobs.result.delay(kind)
            got = AsyncResult(handle.id, app=jobs.app).get(timeout=60)
            assert repr(got)[:1000] == repr(odd_jobs.VALUES[kind]())[:1000]
            recorded(handle)
            assert _size(redis_client, handle.id) < BOUND
        for kind in ("opaque", "circular", "failing"):
            handle = odd_jobs.result.delay(kind)
            with pytest.raises(Exception, match=r"(?s).+"):
                handle.get(timeout=30)
            assert handle.state == "FAILURE"
            assert recorded(handle, "FAILURE").error == "EncodeError"
            assert _size(redis_client, handle.id) < BOUND
        handle = odd_jobs.result.apply_async(("nan",), link=odd_jobs.result.si("nan").set(serializer="a wrong one"))
        with pytest.raises(Exception, match="a wrong one"):
            handle.get(timeout=30)
        assert (handle.state, recorded(handle, "FAILURE").error) == ("FAILURE", "SerializerNotInstalled")
        for kind in ("surrogate", "circular", "failing", "not utf-8", "long"):
            handle = odd_jobs.fail.delay(kind)
            status = recorded(handle, "FAILURE", timeout=60)
            assert status.error == "ValueError"
            assert len(status.reason or "") <= REASON_CHARS
            assert _size(redis_client, handle.id) < BOUND
        assert worker.running


@pools("threads")
def test_the_reason_of_a_cancel_is_cut_and_is_text(
    pool: str, start_worker: StartWorker, redis_url: str, redis_client: redis.Redis
) -> None:
    """Fault 17, G1, F7: whoever cancels may give any text; the receipt and the record have what is left of it."""
    worker = start_worker("tests.support.odd_jobs:app", pool=pool, concurrency=1)
    with pointed_at(jobs.app, redis_url):
        for kind in ("huge", "surrogate"):
            handle = odd_jobs.say.delay("nan")
            gates.wait_at(handle.id)
            receipt = handle.cancel({"huge": "h" * odd_jobs.HUGE, "surrogate": "file-\udcff"}[kind])
            assert receipt.outcome == "requested"
            gates.open_gate(handle.id)
            reason = recorded(handle, "REVOKED").reason
            assert reason == receipt.reason
            assert reason == {"huge": "h" * REASON_CHARS, "surrogate": "file-\\udcff"}[kind]
            with pytest.raises(JobCancelledError) as caught:
                handle.get(timeout=20)
            assert caught.value.reason == reason
            assert _size(redis_client, handle.id) < BOUND
        assert worker.running
