"""Every way to call a task, and what its job knows of itself, with a real prefork worker."""

from __future__ import annotations

import pickle
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, chain, chord, group
from celery.beat import ScheduleEntry, Scheduler

from taskora_celery import JobHandle, JobStatus, MaxRetriesExceededError
from tests.support import calling_jobs as jobs
from tests.support.apps import pointed_at
from tests.support.key_leaks import assert_keys_expire
from tests.support.module_worker import module_worker
from tests.support.reports import watch
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.redis_server import RedisServer
    from tests.support.worker import Worker

TIMEOUT = 30.0  # seconds


@pytest.fixture(scope="module")
def _running(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, str]]:
    with module_worker(
        redis_server, tmp_path_factory, 0, "tests.support.calling_jobs:app", queues=["celery", "other"]
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def app(request: pytest.FixtureRequest, _running: tuple[Worker, str]) -> Iterator[Celery]:
    """The test's copy of the worker's app."""
    worker, url = _running
    watch(request.node, worker)
    with pointed_at(jobs.app, url) as app:
        yield app
        with app.connection_for_write() as connection:
            assert_keys_expire(connection.default_channel.client)


def got(handle: Any) -> Any:
    """The result of a job."""
    return handle.get(timeout=TIMEOUT)


def ended(handle: Any) -> list[str | None]:
    """How the attempts of a job ended; the record of a job that reported nothing comes a moment after its result."""
    return [record.outcome for record in handle.history()]


# --- A2: callers -----------------------------------------------------------------------------------------------------------


def test_plain_calls(app: Celery) -> None:
    """A2: by each method that sends a task, and by its name alone."""
    sent = [
        jobs.work.delay("data"),
        jobs.work.delay(data="data"),
        jobs.work.apply_async(("data",), countdown=0.01),
        jobs.work.apply_async(kwargs={"data": "data"}),
        jobs.work.s("data").delay(),
        jobs.work.s().delay("data"),
        jobs.work.si(data="data").apply_async(),
        app.signature("tests.support.calling_jobs.work", args=("data",)).delay(),
        app.send_task("tests.support.calling_jobs.work", ("data",)),
    ]
    for handle in sent:
        assert got(handle) == ["data", handle.id]
    assert got(jobs.unaware.delay(1))[0] == 1
    # By the app's registry: a shared task belongs to each app of the process, and other tests have apps of their own.
    assert got(app.tasks["tests.support.calling_jobs.shared"].delay(1)) == [1, "tests.support.calling_jobs.shared"]


def test_canvas() -> None:
    """A2: results are passed on to the places around the context."""
    assert got(chain(jobs.add.s(1, 2), jobs.add.s(10), jobs.add.s(y=5)).delay()) == 18
    assert got((jobs.add.si(1) | jobs.add.si(2, 3)).delay()) == 5
    assert got(group(jobs.add.s(n) for n in range(4)).delay()) == [0, 1, 2, 3]
    assert got(chord((jobs.add.s(n, 1) for n in range(3)), jobs.total.s()).delay()) == 6
    assert got(chord([jobs.add.s(1)], chain(jobs.total.s(), jobs.add.s(4))).delay()) == 5
    assert got((group(jobs.add.s(1), jobs.add.s(2)) | jobs.total.s() | jobs.add.s(7)).delay()) == 10


def test_maps_share_one_job() -> None:
    """A2, A5: map, starmap and chunks call the task directly inside a job of Celery's own, whose context it gets."""
    assert got(jobs.add.map([1, 2, 3]).delay()) == [1, 2, 3]
    handle = jobs.add.starmap([(1, 1), (2, 2)]).delay()
    assert got(handle) == [2, 4]
    assert [entry.meta for entry in JobHandle(handle.id, app=jobs.app).get_logs()] == [{"x": 1, "y": 1}, {"x": 2, "y": 2}]
    assert got(jobs.add.chunks([(n, n) for n in range(4)], 2).group().delay()) == [[0, 2], [4, 6]]


def test_links() -> None:
    """A2: a callback gets the result, and an errback what Celery gives it by the number of its arguments, ours not counted."""
    handle = jobs.add.apply_async((1, 2), link=[jobs.add.s(10), jobs.retry_once.s()])
    assert got(handle) == 3
    (children,) = wait_until(lambda: handle.children, "the callbacks")
    assert sorted(got(children)) == [3, 13]
    failed = jobs.fail.apply_async(link_error=[jobs.on_error_by_id.s(), jobs.on_error_in_place.s()])
    with pytest.raises(ValueError, match=f"failed in {failed.id}"):
        got(failed)
    assert sorted([jobs.noted(failed.id), jobs.noted(failed.id)]) == [
        ["by id", "tests.support.calling_jobs.on_error_by_id"],
        ["in place", f"failed in {failed.id}", "tests.support.calling_jobs.on_error_in_place"],
    ]


def test_beat(app: Celery) -> None:
    """A2: an entry of the schedule names the task and its arguments; beat may know the task or not."""
    entry = ScheduleEntry(name="e", task=jobs.work.name, schedule=timedelta(1), args=("tick",), app=app)
    assert got(Scheduler(app, lazy=True).apply_async(entry, advance=False))[0] == "tick"
    outsider = Celery("outsider", broker=app.conf.broker_url, backend=app.conf.result_backend, set_as_current=False)
    del outsider.tasks[jobs.work.name]  # Celery shares it with all apps of this process
    assert got(Scheduler(outsider, lazy=True).apply_async(entry, advance=False))[0] == "tick"


def test_a_call_that_cannot_be_right_sends_nothing(app: Celery) -> None:
    """A2: the caller is told; a message that is there all the same fails in the worker, and harms nobody."""
    for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"ctx": 2})):
        with pytest.raises(TypeError, match=r"work\(\)"):
            jobs.work.delay(*args, **kwargs)
    handle = app.send_task(jobs.work.name, (1, 2))
    with pytest.raises(TypeError, match=r"work\(\) takes 2 positional arguments but 3 were given"):
        got(handle)


# --- B: identity -----------------------------------------------------------------------------------------------------------


def test_a_job_knows_its_id_and_its_name(app: Celery) -> None:
    """B1: those of the task, whatever id the caller chose."""
    handle = jobs.identify.apply_async(task_id="order-77")
    assert [got(handle)[key] for key in ("id", "name")] == ["order-77", jobs.identify.name]


@pytest.mark.parametrize("road", ["retry_once", "retry_by_self", "retry_by_exception"])
@pytest.mark.parametrize("publisher", ["ours", "outsider"])
def test_an_attempt_more_by_every_road(app: Celery, road: str, publisher: str) -> None:
    """B2, B4: one more per retry, with the creation time of the first, which is that of the publisher or the first receipt."""
    task = getattr(jobs, road)
    before = int(time.time() * 1000)
    if publisher == "ours":
        handle = task.delay(5)
    else:
        outsider = Celery("outsider", broker=app.conf.broker_url, backend=app.conf.result_backend, set_as_current=False)
        handle = outsider.send_task(task.name, (5,))
    assert got(handle) == 5
    first, second = jobs.noted(handle.id), jobs.noted(handle.id)
    assert [(seen["attempt"], seen["max_attempts"], seen["history"]) for seen in (first, second)] == [(1, 4, []), (2, 4, [1])]
    assert first["timestamp"] == second["timestamp"]
    assert before <= first["timestamp"] <= int(time.time() * 1000)
    (record, _) = JobHandle(handle.id, app=app).history()
    assert (record.outcome, record.reason) == (
        "RETRY",
        {"retry_once": "once more", "retry_by_self": None, "retry_by_exception": "no answer"}[road],
    )


def test_each_job_of_a_chain_has_its_own_creation_time() -> None:
    """B4: it is created when it is sent, by the job before."""
    handle = chain(jobs.identify.si(), jobs.retry_once.si(1), jobs.identify.si()).delay()
    last = got(handle)
    middle = handle.parent
    first = middle.parent.get(timeout=TIMEOUT)
    assert first["timestamp"] < jobs.noted(middle.id)["timestamp"] < last["timestamp"]


def test_a_job_that_is_handed_on_keeps_its_creation_time() -> None:
    """B4, I6: ``self.replace`` sends another task under the same id."""
    handle = jobs.replaced.delay()
    found = got(handle)
    assert (found["id"], found["name"]) == (handle.id, jobs.identify.name)
    assert found["timestamp"] == jobs.noted(handle.id)
    wait_until(lambda: ended(handle) == ["SUCCESS"], "the record of the end")


@pytest.mark.parametrize(
    ("task", "options", "limit"),
    [
        (jobs.identify, {}, None),
        (jobs.identify, {"soft_time_limit": 100, "time_limit": 150}, 100),
        (jobs.identify, {"time_limit": 150}, 150),
        (jobs.identify_limited, {}, 200),
        (jobs.identify_limited, {"soft_time_limit": 250}, 250),
        (jobs.identify_limited, {"time_limit": 250}, 200),
    ],
)
def test_the_deadline_is_that_of_the_soft_limit_or_else_the_hard_one(
    task: Any, options: dict[str, Any], limit: float | None
) -> None:
    """B5: the call's limits go before the task's."""
    remaining = got(task.apply_async(**options))["remaining"]
    if limit is None:
        assert remaining is None
    else:
        assert limit - 5 < remaining <= limit


def test_a_context_serves_threads_and_coroutines() -> None:
    """B7: from all of them, nothing is lost; a coroutine of the handler finds it by itself."""
    handle = jobs.report_everywhere.delay()
    assert got(handle) == [[True] * 4, True]
    messages = [entry.message for entry in handle.get_logs()]
    assert sorted(messages) == sorted(
        [f"thread {n}" for n in range(4)] + [f"coroutine {n}" for n in range(4)] + ["loop in a thread"]
    )
    assert handle.get_progress() == "all"


def test_nothing_of_a_job_stays_behind() -> None:
    """A4, I6: whatever road it left by, a process holds one execution at most, that of the job at hand."""
    sent = [task.delay(1) for task in (jobs.retry_once, jobs.retry_by_self, jobs.retry_by_exception) for _ in range(6)]
    sent += [task.delay() for task in (jobs.fail, jobs.retry_in_vain, jobs.replaced) for _ in range(4)]
    for handle in sent:
        handle.get(timeout=TIMEOUT, propagate=False)
    for _ in range(4):
        threads, executions = got(jobs.threads_and_executions.delay())
        assert executions <= 1
        ours = sorted(name for name in threads if "taskora" in name)
        assert ours == sorted(set(ours))
        assert set(ours) <= {"taskora-listener", "taskora-reporter", "taskora-stopper"}


# --- I: retries ------------------------------------------------------------------------------------------------------------


def test_a_retry_that_is_not_raised_is_none() -> None:
    """I1: the call builds an exception and schedules nothing."""
    handle = jobs.retry_unsent.delay()
    assert got(handle) == "went on"
    jobs.noted(handle.id)
    wait_until(lambda: ended(handle) == ["SUCCESS"], "the record of the end")


def test_a_retry_that_was_asked_for_always_happens() -> None:
    """I2: whatever ``autoretry_for`` and ``dont_autoretry_for`` say."""
    assert got(jobs.retry_though_forbidden.delay()) == 2


def test_the_last_retry_fails_with_its_reason_and_its_cause() -> None:
    """I2: the exception comes back as what it is; the traceback names the cause."""
    handle = jobs.retry_in_vain.delay()
    with pytest.raises(MaxRetriesExceededError, match="failed in attempt 2 of 2: the server is away") as caught:
        got(handle)
    assert caught.value.reason == "the server is away"
    assert handle.state == "FAILURE"
    assert "OSError: no answer" in handle.traceback
    assert "direct cause" in handle.traceback
    wait_until(lambda: ended(handle) == ["RETRY", "FAILURE"], "the record of the end")
    assert handle.history()[-1].error == "MaxRetriesExceededError"


def test_autoretry_does_not_go_on_where_the_retries_end() -> None:
    """I2, A4: it has a limit of its own, which is that of the job, and catches everything; the job still ends once."""
    handle = jobs.retry_to_the_common_end.delay()
    with pytest.raises(MaxRetriesExceededError, match="attempt 3 of 3"):
        got(handle)
    assert [jobs.noted(handle.id) for _ in range(3)] == [1, 2, 3]
    wait_until(lambda: ended(handle) == ["RETRY", "RETRY", "FAILURE"], "the record of the end")


@pytest.mark.parametrize(("delay", "expected"), [(None, 0.25), (0, 0)])
def test_the_task_says_how_long_to_wait_where_the_handler_does_not(delay: float | None, expected: float) -> None:
    """I2: ``retry_backoff`` goes before ``default_retry_delay``, and an explicit 0 before both."""
    assert got(jobs.retry_with_backoff.delay(delay)) == [expected]


def test_options_survive_a_retry() -> None:
    """I6: queue, priority, headers, limits and links are those of the first attempt."""
    handle = jobs.retry_once.apply_async(
        (5,), queue="other", priority=3, headers={"trace": "t-1"}, time_limit=100, soft_time_limit=90, link=jobs.add.s(1)
    )
    assert got(handle) == 5
    first, second = jobs.noted(handle.id), jobs.noted(handle.id)
    for seen in (first, second):
        assert (seen["queue"], seen["priority"], seen["headers"]["trace"]) == ("other", 3, "t-1")
        assert 80 < seen["remaining"] <= 90
    assert [got(child) for child in wait_until(lambda: handle.children, "the callback")] == [6]


def test_an_expiry_survives_a_retry() -> None:
    """I6: a job that must not start late must not start late again."""
    handle = jobs.retry_with_backoff.apply_async((2.0,), expires=datetime.now(timezone.utc) + timedelta(seconds=1.5))
    wait_until(lambda: handle.state == "REVOKED", "the end of a retry that came too late")


def test_an_errback_hears_of_the_last_attempt_only() -> None:
    """I6: a retry is no failure."""
    handle = jobs.retry_then_fail.apply_async(link_error=jobs.on_error_in_place.s())
    with pytest.raises(ValueError, match="failed after a retry"):
        got(handle)
    assert jobs.noted(handle.id)[:2] == ["in place", "failed after a retry"]


def test_a_retry_keeps_its_place_in_a_canvas() -> None:
    """I6: the rest of the chain and the body of the chord wait for the last attempt."""
    assert got(chain(jobs.retry_once.s(1), jobs.add.s(2), jobs.retry_once.s(), jobs.add.s(3)).delay()) == 6
    assert got(chord([jobs.retry_once.s(1), jobs.retry_by_self.s(2), jobs.add.s(3)], jobs.total.s()).delay()) == 6
    assert got(group(jobs.retry_once.s(1), jobs.retry_by_exception.s(2)).delay()) == [1, 2]


def test_a_job_that_is_given_back_at_once_is_the_next_deliverys() -> None:
    """I6, B3: the delivery that rejected it, in silence, must not register after the one that runs it."""
    handles = [jobs.reject_once.delay() for _ in range(10)]
    assert [got(handle) for handle in handles] == [2] * 10
    for handle in handles:
        assert handle.get_progress() == 50
        record = handle.history()[-1]
        assert (record.number, record.delivery, record.outcome) == (1, 2, "SUCCESS")


# --- J: the handle -----------------------------------------------------------------------------------------------------------


def test_status_is_a_text_that_can_be_called() -> None:
    """J2, A6: Celery has a property of that name, which still compares, prints, hashes and pickles as the text that it was."""
    handle = jobs.add.delay(1)
    assert got(handle) == 1
    assert handle.status == handle.state == "SUCCESS"
    assert f"{handle.status}" == "SUCCESS"
    assert handle.status in {"SUCCESS", "FAILURE"}
    assert type(pickle.loads(pickle.dumps(handle.status))) is str
    record = wait_until(lambda: ended(handle) == ["SUCCESS"] and handle.status(), "the record of the end")
    assert isinstance(record, JobStatus)
    assert (record.id, record.state, record.attempt) == (handle.id, "SUCCESS", 1)
