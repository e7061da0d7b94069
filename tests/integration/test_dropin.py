"""Celery's own behaviour, once on Celery's base and once on ours: nothing that worked stops working (rule A6)."""

from __future__ import annotations

import gc
import json
import pickle
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis
from celery import chain, chord, group
from celery.exceptions import (
    ChordError,
    MaxRetriesExceededError,
    SoftTimeLimitExceeded,
    TaskRevokedError,
)
from celery.exceptions import (
    TimeoutError as CeleryTimeoutError,
)
from celery.result import AsyncResult, GroupResult, result_from_tuple

from taskora_celery import JobHandle
from tests.support import dropin_jobs
from tests.support.apps import pointed_at
from tests.support.dropin_jobs import BrokenError
from tests.support.module_worker import module_worker
from tests.support.reports import watch
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from tests.support.redis_server import RedisServer
    from tests.support.worker import Worker

TIMEOUT = 30.0  # seconds
BASES = ["plain", "ours"]


class Running:
    """A worker with one of the bases, and the test's copy of its app."""

    def __init__(self, base: str, worker: Worker, url: str) -> None:
        self.base = base
        self.worker = worker
        self.url = url
        self.app: Celery = getattr(dropin_jobs, base)

    def __getattr__(self, name: str) -> Any:
        return self.app.tasks[name]

    def taken(self, job_id: str, topic: str = "note") -> Any:
        """What the worker left for the test."""
        with redis.Redis.from_url(self.url) as client:
            found = cast("list[bytes] | None", client.blpop([f"{topic}:{job_id}"], timeout=TIMEOUT))
        assert found is not None, f"{topic}: nothing of job {job_id}"
        return json.loads(found[1])

    def signals(self, job_id: str, number: int) -> list[list[Any]]:
        """The signals that were sent in the worker for a job."""
        return [self.taken(job_id, "signal") for _ in range(number)]


@pytest.fixture(scope="module", params=BASES)
def _worker(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    base = request.param
    number = 1 + BASES.index(base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DROPIN_SIGNALS", "1")
        with module_worker(redis_server, tmp_path_factory, number, f"tests.support.dropin_jobs:{base}", concurrency=1) as (
            worker,
            url,
        ):
            yield Running(base, worker, url)


@pytest.fixture
def celery(request: pytest.FixtureRequest, _worker: Running) -> Iterator[Running]:
    """The tasks of the base at hand."""
    watch(request.node, _worker.worker)
    with pointed_at(_worker.app, _worker.url):
        yield _worker
        gc.collect()  # results that nobody waited for unsubscribe, while there is a connection


def got(handle: Any) -> Any:
    """The result of a job."""
    return handle.get(timeout=TIMEOUT)


def raised(handle: Any, kind: type[BaseException]) -> BaseException:
    """The exception that a job failed with."""
    with pytest.raises(kind) as caught:
        got(handle)
    return caught.value


# --- results and states --------------------------------------------------------------------------------------------------


def test_a_result_and_all_that_belongs_to_it(celery: Running) -> None:
    """A6: value, state and the extended record."""
    handle = celery.add.apply_async((2,), {"y": 3}, shadow="sum")
    assert got(handle) == 5
    assert (handle.state, handle.status, handle.result, handle.info, handle.traceback) == ("SUCCESS", "SUCCESS", 5, 5, None)
    assert (handle.ready(), handle.successful(), handle.failed()) == (True, True, False)
    assert (handle.name, handle.args, handle.kwargs, handle.retries, handle.queue) == ("add", [2], {"y": 3}, 0, "celery")
    assert handle.worker == celery.worker.hostname
    assert abs(datetime.now(timezone.utc) - handle.date_done) < timedelta(minutes=1)
    assert (handle.children, handle.parent) == ([], None)


def test_a_failure_and_its_traceback(celery: Running) -> None:
    """A6: the same exception with its arguments; the traceback ends in the user's code, and shows the context."""
    handle = celery.fail_deep.delay()
    error = raised(handle, BrokenError)
    assert error.args == (7, "deep")
    assert (handle.state, handle.failed(), type(handle.result)) == ("FAILURE", True, BrokenError)
    lines = handle.traceback.strip().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "tests.support.dropin_jobs.BrokenError: (7, 'deep')"
    assert lines[-3].endswith("in deeper")
    assert "OSError: the cause" in lines
    assert handle.get(propagate=False, timeout=TIMEOUT).args == (7, "deep")
    assert handle.maybe_throw(propagate=False).args == (7, "deep")


def test_a_job_that_is_ignored_or_rejected_has_no_result(celery: Running) -> None:
    """A6: Ignore and Reject end it as they do."""
    ignored, rejected = celery.leave.delay("ignore"), celery.leave.delay("reject")
    assert [signal[0] for signal in celery.signals(ignored.id, 2)] == ["task_prerun", "task_postrun"]
    assert [signal[2] for signal in celery.signals(rejected.id, 2)] == [None, "REJECTED"]
    # Since Celery 5.7 the worker's parent stores a failure for what is rejected for good, a moment behind the signal.
    assert (ignored.state, rejected.state in {"PENDING", "FAILURE"}) == ("PENDING", True)


def test_a_job_that_is_rejected_may_come_back(celery: Running) -> None:
    """A6: with ``requeue=True`` the broker delivers it again."""
    assert got(celery.reject_once.delay()) is True


def test_a_result_may_be_ignored(celery: Running) -> None:
    """A6: by the task or by the call."""
    by_task, by_call = celery.ignored.delay(), celery.add.apply_async((1,), ignore_result=True)
    assert celery.taken(by_task.id) == "ran"
    celery.signals(by_call.id, 3)
    assert (by_task.get(timeout=1), by_task.state, by_call.state) == (None, "PENDING", "PENDING")


def test_a_state_of_the_users_own(celery: Running) -> None:
    """A6: ``update_state`` shows it while the job runs."""
    handle = celery.custom_state.delay()
    celery.taken(handle.id)
    assert (handle.state, handle.info) == ("COUNTING", {"n": 3})
    with redis.Redis.from_url(celery.url) as client:
        client.rpush(f"go:{handle.id}", 1)
        client.expire(f"go:{handle.id}", 60)
    assert (got(handle), handle.state) == ("done", "SUCCESS")


def test_the_soft_time_limit(celery: Running) -> None:
    """A6: it fails the job with Celery's exception."""
    handle = celery.overrun.delay()
    raised(handle, SoftTimeLimitExceeded)
    assert handle.state == "FAILURE"


def test_a_job_that_comes_too_late_is_revoked(celery: Running) -> None:
    """A6: expired is revoked."""
    handle = celery.add.apply_async((1,), expires=datetime.now(timezone.utc) - timedelta(seconds=5))
    raised(handle, TaskRevokedError)
    assert handle.state == "REVOKED"


# --- retries -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "expected"), [("no", ["no", 0]), ("twice", ["twice", 2]), ("more", ["more", 4]), ("arguments", ["changed", 1])]
)
def test_retries(celery: Running, how: str, expected: Any) -> None:
    """A6: with other limits and other arguments, too."""
    assert got(celery.retry.delay(how)) == expected


def test_a_retry_that_is_not_thrown(celery: Running) -> None:
    """A6: the attempt goes on, and the next comes all the same."""
    handle = celery.retry.delay("unthrown")
    assert celery.taken(handle.id) == "went on"
    found = [signal[3] for signal in celery.signals(handle.id, 6) if signal[0] == "task_success"]
    assert sorted(found) == [["unthrown", 0], ["unthrown", 1]]


def test_retries_that_are_used_up(celery: Running) -> None:
    """A6: the exception that was given, or Celery's own."""
    assert raised(celery.retry.delay("exhaust with"), BrokenError).args == (3, "last")
    error = raised(celery.retry.delay("exhaust"), MaxRetriesExceededError)
    assert str(error).startswith("Can't retry retry[")


def test_autoretry(celery: Running) -> None:
    """A6: by class of exception, and not for the excluded; at the end the exception itself."""
    assert got(celery.autoretry.delay("twice")) == 2
    raised(celery.autoretry.delay("refused"), FileNotFoundError)
    handle = celery.autoretry.delay("always")
    assert str(raised(handle, OSError)) == "no answer"
    assert handle.retries == 3


@pytest.mark.parametrize(("how", "expected"), [("task", 3), ("chain", 6), ("group", [0, 1, 2])])
def test_a_task_that_replaces_itself(celery: Running, how: str, expected: Any) -> None:
    """A6: the result is that of what took its place, also in a chain."""
    assert got(celery.replace.delay(how)) == expected
    if how != "group":
        assert got(chain(celery.replace.s(how), celery.add.s(10)).delay()) == expected + 10


# --- signals and hooks ---------------------------------------------------------------------------------------------------


def test_signals(celery: Running) -> None:
    """A6: the same ones in the same order with the same arguments."""
    common = ["args", "kwargs", "task", "task_id"]
    handle = celery.add.delay(1, 2)
    assert celery.signals(handle.id, 3) == [
        ["task_prerun", "add", None, None, common, [1, 2]],
        ["task_success", "add", None, 3, ["result"], []],
        ["task_postrun", "add", "SUCCESS", 3, ["args", "kwargs", "retval", "state", "task", "task_id"], [1, 2]],
    ]
    handle = celery.fail.delay("no")
    assert celery.signals(handle.id, 3) == [
        ["task_prerun", "fail", None, None, common, ["no"]],
        [
            "task_failure",
            "fail",
            None,
            "ValueError('no')",
            ["args", "einfo", "exception", "kwargs", "task_id", "traceback"],
            ["no"],
        ],
        ["task_postrun", "fail", "FAILURE", "ValueError('no')", ["args", "kwargs", "retval", "state", "task", "task_id"], ["no"]],
    ]
    handle = celery.retry.delay("twice")
    found = celery.signals(handle.id, 9)
    assert [signal[0] for signal in found] == [
        *["task_prerun", "task_retry", "task_postrun"] * 2,
        *["task_prerun", "task_success", "task_postrun"],
    ]
    assert [signal[2] for signal in found] == [None, None, "RETRY", None, None, "RETRY", None, None, "SUCCESS"]
    assert found[1][3:] == ["Retry(Retry(...), None, 0)", ["einfo", "reason", "request"], []]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (
            "succeed",
            [
                ["before_start", ["succeed"], {"size": 2}],
                "__call__",
                ["on_success", "succeedsucceed", ["succeed"], {"size": 2}],
                ["after_return", "SUCCESS", "'succeedsucceed'", ["succeed"], {"size": 2}, "NoneType"],
            ],
        ),
        (
            "fail",
            [
                ["before_start", ["fail"], {"size": 2}],
                "__call__",
                ["on_failure", "ValueError('fail')", ["fail"], {"size": 2}, "ExceptionInfo"],
                ["after_return", "FAILURE", "ValueError('fail')", ["fail"], {"size": 2}, "NoneType"],
            ],
        ),
        (
            "retry",
            [
                ["before_start", ["retry"], {"size": 2}],
                "__call__",
                ["on_retry", "None", ["retry"], {"size": 2}, "ExceptionInfo"],
                ["before_start", ["retry"], {"size": 2}],
                "__call__",
                ["on_success", "retryretry", ["retry"], {"size": 2}],
            ],
        ),
    ],
)
def test_hooks_of_a_class(celery: Running, how: str, expected: list[Any]) -> None:
    """A4, A6: around a ``__call__`` of its own that calls ``super()``."""
    handle = celery.hooked.delay(how, size=2)
    assert [celery.taken(handle.id) for _ in expected] == expected


# --- requests ------------------------------------------------------------------------------------------------------------


def test_the_request(celery: Running) -> None:
    """A6: what a handler reads of its message; the header that we add is one among the user's."""
    handle = celery.request.apply_async(
        task_id=f"request-{celery.base}", headers={"trace": "t1"}, priority=4, time_limit=50, soft_time_limit=40, shadow="other"
    )
    assert got(handle) == {
        "id": handle.id, "task": "request", "args": [], "kwargs": {}, "retries": 0, "root_id": handle.id, "parent_id": None,
        "group": None, "group_index": None, "chain": None, "chord": None, "correlation_id": handle.id, "called_directly": False,
        "is_eager": False, "expires": None, "timelimit": [50, 40], "utc": None, "callbacks": None, "errbacks": None,
        "shadow": "other", "ignore_result": False, "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
        "priority": 4, "queue": "celery", "headers": {"trace": "t1"},
    }  # fmt: skip


def test_a_job_that_calls_others(celery: Running) -> None:
    """A6: it becomes their parent; direct and eager calls run inside it."""
    handle = celery.call_others.delay()
    assert got(handle) == [4, False, 6, "str"]
    (child,) = handle.children
    assert got(child) == 2


def test_a_countdown(celery: Running) -> None:
    """A6: it waits, and runs."""
    handle = celery.add.apply_async((1, 1), countdown=0.3)
    assert got(handle) == 2
    with pytest.raises(CeleryTimeoutError):
        celery.add.apply_async((1,), countdown=60).get(timeout=0.05)


# --- canvas --------------------------------------------------------------------------------------------------------------


def test_canvas(celery: Running) -> None:
    """A6: chains, groups, chords and maps, one in another."""
    add, total = celery.add, celery.total
    assert got(chain(add.s(1, 1), add.s(2), add.si(5, 5)).delay()) == 10
    assert got(group(add.s(n, n) for n in range(3)).delay()) == [0, 2, 4]
    assert got(chord(add.s(n) for n in range(4))(total.s())) == 6
    assert got((group(add.s(1), chain(add.s(1), add.s(1))) | total.s() | add.s(1)).delay()) == 4
    assert got(group(chain(add.s(n), add.s(1)) for n in range(2)).delay()) == [1, 2]
    assert got(add.starmap([(1, 2), (3, 4)]).delay()) == [3, 7]
    assert got(add.map([1, 2]).delay()) == [1, 2]
    assert got(add.chunks([(1, 2), (3, 4), (5, 6)], 2).delay()) == [[3, 7], [11]]
    assert got(chain(add.s(1), group(add.s(1), add.s(2))).delay()) == [2, 3]


def test_the_parts_of_a_chain(celery: Running) -> None:
    """A6: each result knows the one before, and their ids tell where they came from."""
    handle = chain(celery.add.s(1), celery.add.s(2), celery.request.si()).delay()
    request = got(handle)
    assert handle.parent.parent.parent is None
    assert [part.get(timeout=TIMEOUT) for part in (handle.parent, handle.parent.parent)] == [3, 1]
    assert (request["root_id"], request["parent_id"]) == (handle.parent.parent.id, handle.parent.id)
    assert next(iter(handle.parent.collect()))[1] == 3


def test_a_failure_in_a_canvas(celery: Running) -> None:
    """A6: the rest of a chain does not run, and a chord fails."""
    handle = chain(celery.add.s(1), celery.fail.si("in a chain"), celery.add.si(1)).delay()
    assert str(raised(handle.parent, ValueError)) == "in a chain"
    wait_until(lambda: handle.state == "FAILURE", "the failure of the rest")
    assert isinstance(handle.result, ValueError)
    chorded = chord([celery.fail.si("in a chord"), celery.add.s(1)])(celery.total.s())
    with pytest.raises((ChordError, ValueError), match="in a chord"):
        got(chorded)
    wait_until(lambda: chorded.state == "FAILURE", "the failure of the body")
    results = group(celery.add.s(1), celery.fail.si("in a group")).delay()
    raised(results, ValueError)
    assert wait_until(results.ready, "the end of the group")
    assert (results.failed(), results.successful(), results.completed_count()) == (True, False, 1)


def test_links(celery: Running) -> None:
    """A6: callbacks and both kinds of errbacks."""
    handle = celery.add.apply_async((1,), link=celery.add.s(5))
    assert got(handle) == 1
    assert [got(child) for child in wait_until(lambda: handle.children, "the callback")] == [6]
    handle = celery.fail.apply_async(("broken",), link_error=[celery.on_error.s(), celery.on_error_by_id.s()])
    raised(handle, ValueError)
    assert sorted([celery.taken(handle.id), celery.taken(handle.id)]) == ["ValueError('broken')", "by id"]


def test_results_of_a_group(celery: Running) -> None:
    """A6: they can be saved, restored, serialised and joined."""
    results = group(celery.add.s(n) for n in range(3)).delay()
    assert isinstance(results, GroupResult)
    assert results.join(timeout=TIMEOUT) == [0, 1, 2]
    results.save()
    restored = GroupResult.restore(results.id, app=celery.app)
    assert restored == results
    assert restored.get(timeout=TIMEOUT) == [0, 1, 2]
    assert result_from_tuple(results.as_tuple(), app=celery.app).get(timeout=TIMEOUT) == [0, 1, 2]
    assert pickle.loads(pickle.dumps(results)).id == results.id
    assert {job_id for job_id, _ in results.iter_native(timeout=TIMEOUT)} == {handle.id for handle in results}
    results.delete()


# --- handles -------------------------------------------------------------------------------------------------------------


def test_a_result_is_a_value(celery: Running) -> None:
    """A6: it compares, hashes, copies, pickles and goes through tuples by its id."""
    handle = celery.add.delay(1, 2)
    assert isinstance(handle, AsyncResult)
    assert got(handle) == 3
    again = result_from_tuple(handle.as_tuple(), app=celery.app)
    restored = pickle.loads(pickle.dumps(handle))
    assert handle == again == restored == AsyncResult(handle.id, app=celery.app)
    assert handle == handle.id
    assert len({handle, again, restored}) == 1
    assert str(handle) == handle.id
    assert again.get(timeout=TIMEOUT) == 3
    assert celery.add.AsyncResult(handle.id).get(timeout=TIMEOUT) == 3
    assert celery.app.AsyncResult(handle.id).state == "SUCCESS"
    assert json.dumps({"state": handle.status, "id": handle.id}) == json.dumps({"state": "SUCCESS", "id": handle.id})


def test_a_result_calls_back(celery: Running) -> None:
    """A6: ``then`` is called with it, while somebody waits for it."""
    called: list[Any] = []
    handle = celery.add.delay(1, 2)
    handle.then(called.append)
    assert got(handle) == 3
    wait_until(lambda: called == [handle], "the callback")


def test_a_result_can_be_forgotten(celery: Running) -> None:
    """A6: afterwards nobody has heard of it."""
    handle = celery.add.delay(1, 2)
    assert got(handle) == 3
    handle.forget()
    assert celery.app.AsyncResult(handle.id).state == "PENDING"


def test_a_handle_is_a_result_and_more() -> None:
    """A6, J1: on our base the results are handles, wherever Celery makes them; ``status`` is a text that can be called."""
    app = dropin_jobs.ours
    task = app.tasks["add"]
    handles = [
        task.AsyncResult("x"),
        task.s(1).freeze(),
        chain(task.s(1), task.s(2)).freeze(),
        group(task.s(1)).freeze().results[0],
    ]
    assert [type(handle) for handle in handles] == [JobHandle] * 4
    assert [type(handle) for handle in (handles[2].parent, pickle.loads(pickle.dumps(handles[0])))] == [JobHandle] * 2
