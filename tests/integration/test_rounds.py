"""Going through workers and queues where nobody answers, or the broker is away: said, and not raised."""

from __future__ import annotations

import gc
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from taskora_celery import ContextTask
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.inspecting import Answer
from taskora_celery.lease.waiting import Waiting
from taskora_celery.rounds import NO_BROADCASTS, REMEMBERED_FOR, WORKERS_REMEMBERED, Inspector
from taskora_celery.runtime import Runtime
from taskora_celery.tally import Count, pack_count
from tests.support.eager_apps import tasks_of_their_own
from tests.support.executions import NOW_MS
from tests.support.manual_clock import ManualClock
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

#: Nobody listens there.
NOWHERE = "redis://:hunter2@localhost:1/0"


#: An inspector does not keep its app alive; something must.
_apps: list[Celery] = []


@pytest.fixture(autouse=True)
def _own_tasks() -> Iterator[None]:
    with tasks_of_their_own():
        yield
    for app in _apps:
        Runtime.forget(app)
    _apps.clear()


def app_on(url: str, **conf: Any) -> Celery:
    app = Celery("looked_at", broker=url, backend=url, task_cls=ContextTask, set_as_current=False)
    app.conf.update(conf)
    _apps.append(app)
    return app


def test_a_round_without_workers_says_that_nobody_is_there(redis_url: str) -> None:
    """K4: and what waits in the queues that the app names, or in which jobs have waited once."""
    app = app_on(redis_url, task_routes={"mail.*": "mail"})
    Runtime.of(app).readable().note([], [], NOW_MS, {pack_count(Count("queue_wait", ("sum",), ("reports",))): 1})
    app_on(redis_url).send_task("shop.work", queue="reports")
    found = Inspector(app, timeout=0.1).look()
    assert (found.present, found.answers, found.workers_error, found.queues_error, found.queues_left) == (
        frozenset(), {}, None, None, 0,
    )  # fmt: skip
    assert {name: waiting.depth for name, waiting in found.waiting.items()} == {"celery": 0, "mail": 0, "reports": 1}


def test_looking_leaves_nothing_behind(redis_url: str, redis_client: redis.Redis) -> None:
    """K4, L3: a page that is open for a week goes round a hundred thousand times."""
    app = app_on(redis_url)
    inspector = Inspector(app, timeout=0.05)
    for _ in range(3):
        inspector.look()
    assert app._pool is None, "the app's own connections wait for ever"
    members: Any = redis_client.smembers("_kombu.binding.reply.celery.pidbox")
    assert members == set()
    assert [key for key in redis_client.keys("*") if not key.startswith(b"_kombu.binding")] == []


def test_a_broker_that_is_away_is_said_to_be() -> None:
    """K4: at once, without its password, and without a word of workers or queues."""
    before = time.monotonic()
    found = Inspector(app_on(NOWHERE), timeout=0.1).look()
    assert time.monotonic() - before < 5
    assert found.workers_error is not None
    assert "localhost:1" in found.workers_error
    assert "hunter2" not in found.workers_error
    assert found.queues_error == found.workers_error
    assert (found.present, found.waiting) == (frozenset(), {})


def test_a_broker_that_hangs_holds_nobody_up_for_ever(redis_server: RedisServer) -> None:
    """K4: each of its answers is waited for for some seconds."""
    with RedisServer(binary=redis_server.binary) as server:
        server.pause()
        found = Inspector(app_on(server.url()), timeout=0.1).look()
        server.resume()
    assert found.workers_error is not None
    assert "Timeout" in found.workers_error


def test_a_store_that_is_away_hides_no_queue(redis_url: str) -> None:
    """K4: only those queues are not known that it alone names."""
    app = app_on(redis_url, taskora_redis_url=NOWHERE)
    with pytest.raises(StoreUnavailableError):
        Runtime.of(app).readable().counts()
    assert Inspector(app, timeout=0.05).look().waiting == {"celery": Waiting(0)}


def test_a_broker_in_memory_has_queues_and_no_workers(no_memory_queues: None) -> None:
    """K4: no worker of another process can be there."""
    found = Inspector(app_on("memory://rounds", result_backend="cache+memory://"), timeout=0.05).look()
    assert (found.workers_error, found.present, found.waiting) == (None, frozenset(), {"celery": Waiting(0)})


def test_a_broker_without_broadcasts_has_workers_that_cannot_be_asked(
    no_memory_queues: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K4, G9: SQS is one."""
    from kombu.transport.memory import Channel

    monkeypatch.setattr(Channel, "supports_fanout", False)
    found = Inspector(app_on("memory://silent", result_backend="cache+memory://"), timeout=0.05).look()
    assert (found.workers_error, found.waiting) == (NO_BROADCASTS, {"celery": Waiting(0)})


def test_tasks_that_cannot_be_imported_hide_no_queue(redis_url: str) -> None:
    """K4: the log says why what they define is not known."""
    app = app_on(redis_url, include=["no.such.module"])
    assert list(Inspector(app, timeout=0.05).look().waiting) == ["celery"]


def test_workers_are_remembered_for_a_while_and_not_without_end(redis_url: str) -> None:
    """K4: fleets name their workers by pods that never come back."""
    clock = ManualClock()
    inspector = Inspector(app_on(redis_url), timeout=0.05, clock=clock)
    now_ms = int(clock.time() * 1000)
    inspector._answers = {f"w{n}": Answer(f"w{n}", now_ms - n, queues=(f"q{n % 7}",)) for n in range(WORKERS_REMEMBERED + 5)}
    found = inspector.look()
    assert (len(found.answers), found.present, "w0" in found.answers) == (WORKERS_REMEMBERED, frozenset(), True)
    assert set(found.waiting) == {"celery", *(f"q{n}" for n in range(7))}
    clock.advance(REMEMBERED_FOR + 1)
    assert inspector.look().answers == {}
    assert set(inspector.look().waiting) == {"celery"}


def test_an_app_has_one_inspector_that_does_not_keep_it_alive(redis_url: str) -> None:
    """K4: all pages of a process share its rounds."""
    app = app_on(redis_url)
    inspector = Inspector.of(app)
    assert Inspector.of(app) is inspector
    assert Inspector.of(app_on(redis_url)) is not inspector
    gone = weakref.ref(app)
    _apps.clear()
    del app
    wait_until(lambda: gc.collect() and gone() is None, "the app's end")
    assert inspector.look().workers_error == "the app is gone"


def test_a_round_is_seen_when_it_is_over(redis_url: str) -> None:
    """K4: whoever asks first waits for it, no longer than he wants."""
    inspector = Inspector(app_on(redis_url), timeout=0.3)
    assert inspector.seen(0.0) is None
    found = inspector.seen(30.0)
    assert found is not None
    assert inspector.seen(30.0) is found
