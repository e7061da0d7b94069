"""PROGRESS and outcomes on result backends other than Redis, and the record in the broker's Redis all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.result import AsyncResult

from taskora_celery import MaxRetriesExceededError
from tests.support import gates, jobs, reporting_jobs
from tests.support.apps import pointed_at
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.support.worker_fixtures import StartWorker

SHOWN = {"progress": 33, "current": 33, "total": 100, "percent": 33.0}


@pytest.fixture(params=["rpc", "db", "file"])
def backend(request: pytest.FixtureRequest, pool: str, tmp_path: Path) -> str:
    """The URL of a result backend."""
    if pool not in {"prefork", "threads"}:
        pytest.skip("the backend is used in the same way in all pools; these two differ most")
    if request.param == "db":
        pytest.importorskip("sqlalchemy")
        return f"db+sqlite:///{tmp_path / 'results.sqlite'}"
    if request.param == "file":
        (tmp_path / "results").mkdir()
        return f"file://{tmp_path / 'results'}"
    return "rpc://"


def test_progress_and_outcomes_are_right_on_every_backend(
    pool: str, start_worker: StartWorker, redis_url: str, redis_client: redis.Redis, backend: str
) -> None:
    """E4, E5, I4: PROGRESS while the job runs, then the outcome; the RETRY in between carries the reason."""
    replies = Replies(redis_client) if backend == "rpc://" else None
    start_worker(pool=pool, concurrency=1, env={"RESULT_BACKEND": backend})
    with pointed_at(jobs.app, redis_url, backend):
        handle = reporting_jobs.report_at_gates.delay([33, {"stage": "b"}])
        gates.wait_at(handle.id)
        _shows(handle, SHOWN, replies)
        gates.open_gate(handle.id)
        gates.wait_at(handle.id)
        _shows(handle, {"stage": "b"}, replies)
        gates.open_gate(handle.id)
        assert handle.get(timeout=20) == "done"
        assert (handle.state, handle.get_progress()) == ("SUCCESS", 100)

        failed = reporting_jobs.report_and_fail.delay(3)
        with pytest.raises(ValueError, match="no 3"):
            failed.get(timeout=20)
        assert (failed.state, failed.get_progress()) == ("FAILURE", 3)

        retried = reporting_jobs.keep_over_retry.delay()
        gates.wait_at(retried.id)
        gates.open_gate(retried.id)
        assert retried.get(timeout=20) == [40, "rows"]
        used_up = jobs.retry_for_ever.delay()
        with pytest.raises(MaxRetriesExceededError, match="no room"):
            used_up.get(timeout=20)
        assert [record.reason for record in used_up.history()][:2] == ["no room", "no room"]


class Replies:
    """The queue of replies of Celery's ``rpc`` backend.

    A poll takes all that is there, and puts the newest back: after whatever has come in between. So a poll in the moment in which
    a state is written shows the older one for ever, with :meth:`~celery.app.task.Task.update_state` as well.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._expected = 0

    def wait(self) -> None:
        """Wait until one more has come; to be called before each poll for a new state."""
        self._expected += 1
        wait_until(lambda: int(self._client.llen(jobs.app.backend.oid)) == self._expected, "a state in the queue of replies")


def _shows(handle: Any, expected: Any, replies: Replies | None) -> None:
    result = AsyncResult(handle.id, app=jobs.app)
    if replies is not None:
        replies.wait()

    def seen() -> bool:
        meta = result._get_task_meta()
        return (meta["status"], meta["result"]) == ("PROGRESS", expected)

    wait_until(seen, f"PROGRESS with {expected}", timeout=10)
