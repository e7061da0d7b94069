"""Progress and logs can be read while the job runs, and afterwards."""

from __future__ import annotations

import asyncio

import pytest

from tests.fundamentals import shop
from tests.support.worker import Worker


def test_progress_is_whatever_the_handler_says_last() -> None:
    """E1, E3: of two hundred reports a reader sees some, and the last for certain."""
    handle = shop.import_rows.delay({"source": "large.csv"})
    seen = [event.data for event in handle.events() if event.kind == "progress"]
    assert seen[-1] == handle.get_progress() == {"current": 200, "total": 200, "percent": 100.0}
    assert [value["current"] for value in seen] == sorted(value["current"] for value in seen)


def test_logs_carry_structure() -> None:
    """F1, F2: a level, a message, and meta."""
    handle = shop.import_rows.delay({"source": "orders.csv"})
    handle.get(timeout=20)
    (entry,) = handle.get_logs()
    assert (entry.level, entry.message, entry.meta, entry.attempt) == ("info", "starting", {"source": "orders.csv"}, 1)


def test_logs_can_be_followed_until_the_job_ends() -> None:
    """F5: over a retry, with no end but that of the job."""
    handle = shop.import_rows.delay({"source": "busy.csv"})
    assert [(entry.message, entry.attempt) for entry in handle.follow_logs()] == [("starting", 1), ("starting", 2)]


def test_the_console_of_the_worker_shows_them_too(worker: Worker) -> None:
    """F6: with the task's name and id, as everything else there."""
    handle = shop.import_rows.delay({"source": "orders.csv"})
    handle.get(timeout=20)
    worker.wait_for_log(rf"import_rows\[{handle.id}\]: starting source='orders\.csv'", timeout=5)


def test_an_event_loop_can_watch() -> None:
    """J2: every reader has an async twin."""

    async def watch() -> list[str]:
        handle = shop.import_rows.delay({"source": "busy.csv"})
        messages = [entry.message async for entry in handle.afollow_logs()]
        assert await handle.aget(timeout=20) == 3
        assert (await handle.aget_progress())["percent"] == 100.0
        return messages

    assert asyncio.run(watch()) == ["starting", "starting"]


def test_a_failure_is_told_where_one_looks() -> None:
    """J2: the exception comes to whoever waits, its class and text stand in the record."""
    handle = shop.import_rows.delay({"source": "broken.csv"})
    with pytest.raises(ValueError, match="nobody wants that"):
        handle.get(timeout=20)
    status = handle.status()
    assert (status.state, status.error, status.reason) == ("FAILURE", "ValueError", "nobody wants that")
    assert status.progress == {"current": 1, "total": 2, "percent": 50.0}
