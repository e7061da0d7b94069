"""A job is sent as ever. What comes back is Celery's result, and more."""

from __future__ import annotations

import pytest
from celery.result import AsyncResult

from taskora_celery import JobHandle, JobNotFoundError
from tests.fundamentals import shop


def test_callers_do_not_know_of_the_context() -> None:
    """A1, A2: the handler has two parameters, its callers give one."""
    handle = shop.import_rows.delay({"source": "orders.csv"})
    assert handle.get(timeout=20) == 3


def test_a_handle_is_a_result_with_more_to_tell() -> None:
    """J1, J2: all of AsyncResult, and progress, logs, record and history."""
    handle = shop.import_rows.delay({"source": "orders.csv"})
    assert isinstance(handle, AsyncResult)
    assert handle.get(timeout=20) == 3
    assert handle.get_progress() == {"current": 3, "total": 3, "percent": 100.0}
    assert [entry.message for entry in handle.get_logs()] == ["starting"]
    status = handle.status()
    assert (status.state, status.attempt, status.progress["percent"]) == ("SUCCESS", 1, 100.0)
    assert [record.outcome for record in handle.history()] == ["SUCCESS"]


def test_any_process_can_attach_by_the_id() -> None:
    """J1: ``JobHandle(id, app=app)`` is as good as the handle of the one who sent the job."""
    sent = shop.import_rows.delay({"source": "orders.csv"})
    sent.get(timeout=20)
    handle = JobHandle(sent.id, app=shop.app)
    assert handle.get_progress() == sent.get_progress()
    assert handle.get_logs() == sent.get_logs()


def test_an_unknown_id_is_no_riddle() -> None:
    """J4: what cannot be known is None, an empty list, or an error that says so; nothing waits for it."""
    handle = JobHandle("lost-and-found", app=shop.app)
    assert handle.get_progress() is None
    assert handle.get_logs() == []
    with pytest.raises(JobNotFoundError):
        handle.status()


def test_a_handler_without_a_context_stays_as_it_is() -> None:
    """A3, F6: code below it finds the context, and what it logs becomes the job's log."""
    handle = shop.count_rows.delay("orders.csv")
    assert handle.get(timeout=20) == 3
    assert handle.get_progress() == {"rows": 3}
    assert [(entry.logger, entry.message) for entry in handle.get_logs()] == [("tests.fundamentals.shop", "counted 3 rows")]
