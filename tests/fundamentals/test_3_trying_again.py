"""A handler that cannot go on says when to try again, and why; it goes on where it was."""

from __future__ import annotations

import pytest

from taskora_celery import JobAbortedError, RetryError, local_context
from tests.fundamentals import shop


def test_a_retry_has_a_delay_and_a_reason() -> None:
    """I1, I2, I4: ``raise ctx.retry(delay=…, reason=…)``; the history keeps both."""
    handle = shop.import_rows.delay({"source": "busy.csv"})
    assert handle.get(timeout=20) == 3
    first, second = handle.history()
    assert (first.outcome, first.reason, first.delay) == ("RETRY", "rate limited", 0.1)
    assert (second.number, second.outcome) == (2, "SUCCESS")


def test_the_next_attempt_goes_on_at_the_checkpoint() -> None:
    """E8, E4: the first row was stored by the first attempt, so the second begins at the second; progress does not jump back."""
    handle = shop.import_rows.delay({"source": "busy.csv"})
    seen = [event.data["current"] for event in handle.events() if event.kind == "progress"]
    assert seen == sorted(seen)
    assert seen[-1] == 3


def test_a_job_that_should_stop_is_told() -> None:
    """C1, C2: ``ctx.sleep`` ends early, by raising; listeners hear of it first."""
    handle = shop.wait_for_file.delay()
    with pytest.raises(JobAbortedError) as caught:
        handle.get(timeout=20)
    assert (caught.value.reason, caught.value.message) == ("superseded", "the file came by mail")
    assert [(entry.message, entry.meta) for entry in handle.get_logs()] == [("stopping", {"reason": "superseded"})]


def test_a_handler_can_be_called_without_a_worker() -> None:
    """A5: a direct call has a context in memory; one's own can be read afterwards."""
    assert shop.import_rows({"source": "orders.csv"}) == 3
    ctx = local_context()
    with pytest.raises(RetryError, match="rate limited"):
        shop.import_rows({"source": "busy.csv"}, ctx=ctx)
    assert ctx.get_progress() == {"current": 1, "total": 3, "percent": pytest.approx(33.33)}
    assert [entry.message for entry in ctx.get_logs()] == ["starting"]
