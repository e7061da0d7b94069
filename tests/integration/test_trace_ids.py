"""The trace's id in the record: in every store, and not in older ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskora_celery.reading import status_of
from taskora_celery.records import Outcome
from tests.support.cancels import loss
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.store_fixtures import snapshot

if TYPE_CHECKING:
    from taskora_celery.store.protocol import JobStore

FIRST, SECOND = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"


def trace_of(store: JobStore) -> str | None:
    return status_of("job-1", store.read("job-1"), 10).trace_id


def test_a_job_s_trace_is_kept(store: JobStore) -> None:
    """K6: that of the last delivery that had one."""
    first = ScriptedExecution(store, tag="t1", token=1, trace=FIRST)
    assert trace_of(store) == FIRST
    first.end_in_retry()
    second = ScriptedExecution(store, attempt=2, tag="t2", token=2)
    assert trace_of(store) == FIRST
    second.end_in_retry()
    ScriptedExecution(store, attempt=3, tag="t3", token=3, trace=SECOND)
    store.lose(loss(tag="t3", token=3, attempt=3))
    assert trace_of(store) == SECOND


def test_a_record_without_a_trace_has_none(store: JobStore) -> None:
    """K6: of a job without a span, or of an older version."""
    ScriptedExecution(store, tag="t1", token=1)
    assert trace_of(store) is None
    assert "T" not in snapshot(store).fields


def test_a_job_that_is_sent_anew_under_its_id_has_its_own_trace(store: JobStore) -> None:
    """K6, B2: the job before has ended, and so has its trace."""
    ScriptedExecution(store, tag="t1", token=1, trace=FIRST).end(Outcome.SUCCESS)
    ScriptedExecution(store, tag="t2", token=2, created_ms=NOW_MS + 60_000, now_ms=NOW_MS + 61_000)
    assert trace_of(store) is None
