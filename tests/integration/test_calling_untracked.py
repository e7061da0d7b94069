"""What a task costs that is not tracked: nothing. The records' Redis is a server of its own here, so that it can be asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import calling_jobs as jobs
from tests.support.apps import pointed_at
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.worker_fixtures import StartWorker

TIMEOUT = 30.0  # seconds


@pytest.fixture
def records() -> Iterator[RedisServer]:
    """A Redis that nobody uses but for job records."""
    with RedisServer() as server:
        yield server


def commands(server: RedisServer) -> set[str]:
    """The commands that the server was sent since it started, less those of tests."""
    with server.client() as client:
        stats: dict[str, Any] = client.info("commandstats")
    return {name.removeprefix("cmdstat_") for name in stats} - {"info", "ping", "client|setinfo", "client", "hello"}


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_an_untracked_task_is_left_wholly_alone(
    start_worker: StartWorker, redis_url: str, records: RedisServer, pool: str
) -> None:
    """A7: no command to Redis and no thread, by ``tracked=False`` or by ``taskora_track``; a tracked one shows the difference.

    What the worker itself has, whatever it runs, is there before: it keeps what it holds. A pool's parent listens for cancels;
    where there is no such process, the jobs do, from the first one that is tracked.
    """
    settings = {"taskora_redis_url": records.url(), "taskora_track": "context"}
    start_worker("tests.support.calling_jobs:app", pool, 1, env={"CALLING_CONF": json.dumps(settings)})
    if pool == "prefork":
        wait_until(lambda: "subscribe" in commands(records), "the worker to listen")
    before = commands(records)
    with pointed_at(jobs.app, redis_url, **settings):
        for task in [jobs.untracked, jobs.without_parameter] * 3:
            data, no_context, threads = task.delay("data").get(timeout=TIMEOUT)
            assert (data, no_context) == ("data", True)
            own = set() if pool == "prefork" else {"taskora-keeper"}
            assert {name for name in threads if "taskora" in name.lower()} <= own
        assert commands(records) == before
        jobs.add.delay(1).get(timeout=TIMEOUT)
        wait_until(lambda: commands(records) > before, "the record of a tracked job")


def test_an_untracked_task_carries_no_stamp() -> None:
    """A7: its message is the one that plain Celery sends."""
    sent: list[Any] = []
    with pointed_at(jobs.app, "memory://", "cache+memory://"), jobs.app.connection_for_write() as connection:
        with jobs.app.amqp.Producer(connection) as producer:
            for task in (jobs.untracked, jobs.work):
                task.apply_async((1,), producer=producer)
        with connection.SimpleQueue("celery") as queue:
            sent = [queue.get(timeout=TIMEOUT).headers for _ in range(2)]
    assert ["taskora_created" in headers for headers in sent] == [False, True]
    assert set(sent[1]) - set(sent[0]) == {"taskora_created"}
