"""Logs of jobs in real workers: complete, in order, bounded, redacted, and on the console."""

from __future__ import annotations

import importlib.util
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery import JobHandle
from tests.support import gates, jobs, reporting_jobs
from tests.support.tuned_worker import LOG_LIMIT, TunedWorker
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker, StartWorker

HAS_STRUCTLOG = importlib.util.find_spec("structlog") is not None


class Following:
    """Consumes an iterator in a thread, so that a test can look at what has come so far."""

    def __init__(self, entries: Callable[[], Iterator[Any]]) -> None:
        self.seen: list[Any] = []
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(entries,), name="following", daemon=True)
        self._thread.start()

    def _run(self, entries: Callable[[], Iterator[Any]]) -> None:
        try:
            for entry in entries():
                self.seen.append(entry)
        except BaseException as exc:
            self.failure = exc

    def wait(self, predicate: Callable[[list[Any]], bool], description: str) -> None:
        """Wait until what has come satisfies the predicate."""
        wait_until(lambda: self.failure or predicate(self.seen), description, timeout=20)
        assert self.failure is None

    def end(self) -> list[Any]:
        """Wait for the end of the iterator, and return all of it."""
        self._thread.join(20)
        assert not self._thread.is_alive(), "it did not end with the job"
        assert self.failure is None
        return self.seen


def test_a_thousand_entries_are_there_when_the_result_is(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """F2, F4: complete and in call order, the last included, the moment that get() returns."""
    handle = reporting_jobs.log_many.delay(1000)
    assert handle.get(timeout=20) == 1000
    entries = handle.get_logs()
    assert [entry.meta for entry in entries] == [{"n": n} for n in range(1000)]
    assert [entry.seq for entry in entries] == list(range(1000))
    assert {(entry.level, entry.message, entry.attempt) for entry in entries} == {("info", "entry", 1)}
    assert [entry.timestamp for entry in entries] == sorted(entry.timestamp for entry in entries)
    status = handle.record()
    assert (status.logs, status.dropped_logs) == (1000, 0)


def test_levels_meta_and_filters(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """F1, F2: each call's level, meta and fields merged, the traceback of an exception; and the readers' filters."""
    handle = reporting_jobs.log_levels.delay()
    handle.get(timeout=20)
    entries = handle.get_logs()
    assert [(entry.level, entry.message) for entry in entries] == [
        ("debug", "a debug entry"), ("info", "an info entry"), ("warn", "a warn entry"), ("warn", "a warning entry"),
        ("error", "an error entry"), ("error", "an exception entry"),
    ]  # fmt: skip
    assert entries[0].meta is None
    assert entries[1].meta == {"row": 1, "column": "b"}
    assert "KeyError: 'missing'" in (entries[5].meta or {})["traceback"]
    assert handle.get_logs(level="warn") == entries[2:]
    assert handle.get_logs(after=entries[3].seq) == entries[4:]
    assert handle.get_logs(limit=2) == entries[-2:]
    assert handle.get_logs(attempt=2) == []


def test_a_follower_gets_each_entry_as_it_comes_over_a_retry(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """F5, F2: past entries, then new ones while the job runs, in both attempts; and it ends with the job."""
    handle = reporting_jobs.log_over_retry.delay()
    early = Following(handle.follow_logs)
    gates.wait_at(handle.id)
    early.wait(lambda seen: len(seen) == 1, "the first entry while the job runs")
    gates.open_gate(handle.id)
    gates.wait_at(handle.id)
    early.wait(lambda seen: len(seen) == 3, "the entries of the second attempt")
    late = Following(JobHandle(handle.id, app=jobs_app).follow_logs)
    late.wait(lambda seen: len(seen) == 3, "the past entries")
    gates.open_gate(handle.id)
    assert handle.get(timeout=20) == "done"
    expected = [("begin", 1), ("end", 1), ("begin", 2), ("end", 2)]
    for entries in (early.end(), late.end(), handle.get_logs()):
        assert [(entry.message, entry.attempt) for entry in entries] == expected
        assert [entry.seq for entry in entries] == sorted({entry.seq for entry in entries}), "no gap is a repeat"


def test_entries_appear_on_the_workers_console(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """F6: under the task's logger, with the task's name and id, in Celery's own format."""
    handle = reporting_jobs.log_levels.delay()
    handle.get(timeout=20)
    prefix = rf"tests\.support\.reporting_jobs\.log_levels\[{handle.id}\]: "
    shared_worker.wait_for_log(rf"INFO/.*{prefix}an info entry row=1 column='b'$", timeout=5)
    shared_worker.wait_for_log(rf"WARNING/.*{prefix}a warn entry$", timeout=5)
    shared_worker.wait_for_log(rf"ERROR/.*{prefix}an error entry$", timeout=5)
    assert not re.search(prefix + "a debug entry", shared_worker.logs()), "below the worker's level"


def test_the_task_loggers_records_become_entries(shared_worker: SharedWorker, jobs_app: Celery) -> None:
    """F6: by default those of get_task_logger, with the logger's name, and structlog's when it goes through it."""
    handle = reporting_jobs.log_by_logging.delay(HAS_STRUCTLOG)
    handle.get(timeout=20)
    entries = [(entry.logger, entry.level, entry.message, entry.meta) for entry in handle.get_logs()]
    expected: list[Any] = [
        ("tests.support.reporting_jobs", "info", "from the task logger", {"order": 7}),
        (None, "info", "from ctx.log", None),
    ]
    if HAS_STRUCTLOG:
        expected.append(("tests.support.reporting_jobs", "warn", "from structlog", {"shelf": "b4"}))
    assert entries == expected


def test_in_root_mode_every_loggers_records_become_entries(tuned_worker: TunedWorker) -> None:
    """F6: ``taskora_capture_logging="root"`` takes those of all loggers, and ctx.log's own only once."""
    handle = reporting_jobs.log_by_logging.delay(False)
    handle.get(timeout=20)
    entries = [(entry.logger, entry.level, entry.message) for entry in handle.get_logs()]
    assert entries == [
        ("tests.support.reporting_jobs", "info", "from the task logger"),
        ("shop.warehouse", "warn", "from another logger"),
        (None, "info", "from ctx.log"),
    ]


def test_capture_can_be_switched_off(pool: str, start_worker: StartWorker, jobs_app: Celery) -> None:
    """F6: with False only ctx.log writes entries."""
    if pool not in {"prefork", "threads"}:
        pytest.skip("the switch is not the pool's business; two workers are enough")
    start_worker(pool=pool, concurrency=1, env=jobs.configured(taskora_capture_logging=False))
    handle = reporting_jobs.log_by_logging.delay(False)
    handle.get(timeout=20)
    assert [entry.message for entry in handle.get_logs()] == ["from ctx.log"]


def test_secrets_are_hidden_everywhere(tuned_worker: TunedWorker) -> None:
    """F7: in meta, progress, reasons, the result backend and on the console; by key at any depth, and by the user's rule."""
    written = tuned_worker.log_size()
    handle = reporting_jobs.tell_secrets.delay()
    with pytest.raises(ValueError, match="token=t-5678"):  # Celery's own result is the user's own exception
        handle.get(timeout=20)
    meta = handle.get_logs()[0].meta
    assert meta == {
        "user": "ann", "password": "[redacted]", "deep": {"list": [{"api_key": "[redacted]"}]}, "iban": "[no iban]",
    }  # fmt: skip
    assert handle.get_progress() == {
        "user": "ann", "token": "[redacted]", "deep": {"Authorization": "[redacted]"}, "iban": "[no iban]",
    }  # fmt: skip
    record = handle.record()
    assert record.reason == "token=[redacted]"
    assert [r.reason for r in handle.history()] == ["login failed: password=[redacted]", "token=[redacted]"]
    tuned_worker.wait_for_log(rf"tell_secrets\[{handle.id}\]: login user='ann' password='\[redacted\]'", timeout=5)
    own = [line for line in tuned_worker.logs()[written:].splitlines() if "login user=" in line]
    assert own
    assert not [line for line in own if "hunter2" in line or "k-1234" in line or "DE02" in line]
    with gates.gate_client() as client:
        stored = b"".join(_everything(client, handle.id))
    assert b"ann" in stored
    assert not [secret for secret in (b"hunter2", b"k-1234", b"t-5678", b"abcdefgh", b"DE02") if secret in stored]


def _everything(client: Any, job_id: str) -> list[bytes]:
    base = f"taskora:{{{job_id}}}:"
    return [
        *client.hvals(base + "job"),
        *client.lrange(base + "journal", 0, -1),
        *client.lrange(base + "attempts", 0, -1),
    ]


def test_the_newest_entries_are_kept_and_the_rest_counted(tuned_worker: TunedWorker) -> None:
    """F3: ``taskora_log_limit`` bounds what one job keeps; what was dropped shows as a number and as a gap."""
    handle = reporting_jobs.log_many.delay(3 * LOG_LIMIT + 7)
    handle.get(timeout=20)
    entries = handle.get_logs()
    assert [entry.meta for entry in entries] == [{"n": n} for n in range(2 * LOG_LIMIT + 7, 3 * LOG_LIMIT + 7)]
    status = handle.record()
    assert (status.logs, status.dropped_logs) == (3 * LOG_LIMIT + 7, 2 * LOG_LIMIT + 7)
    assert "gap" in {event.kind for event in handle.events(after=0)}
