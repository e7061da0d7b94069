"""The test kit: what a job sends is recorded, and goes nowhere."""

from __future__ import annotations

import pytest
from celery import Celery

from taskora_celery import Context, ContextTask
from taskora_celery.testing import SentTask, run_job
from tests.support import kit_jobs as jobs

OTHER = "tests.support.kit_jobs.other"


def _brief(sent: SentTask) -> tuple[str, tuple[object, ...], float, str]:
    return sent.name, sent.args, sent.delay, sent.queue


def test_what_a_handler_sends_is_recorded() -> None:
    """O1, A2: by delay, options, signatures, group, chain, name and chord; each with its arguments, delay and queue."""
    run = run_job(jobs.calls_others)
    assert [_brief(sent) for sent in run.sent] == [
        (OTHER, (1,), 0.0, "celery"),
        (OTHER, (2,), 30.0, "slow"),
        (OTHER, (3,), 0.0, "celery"),
        (OTHER, (4,), 0.0, "celery"),
        (OTHER, (5,), 0.0, "celery"),
        (OTHER, (6,), 0.0, "celery"),
        ("elsewhere.work", (8,), 0.0, "celery"),
        (OTHER, (9,), 0.0, "celery"),
        (OTHER, (10,), 0.0, "celery"),
    ]
    first = run.sent[0]
    assert (first.kwargs, first.headers["parent_id"], first.headers["root_id"]) == ({"key": "value"}, run.id, run.id)
    assert run.result[:3] == [sent.id for sent in run.sent[:3]], "the handler has the ids that were sent"


@pytest.mark.parametrize(("task", "linked"), [(jobs.echo.s("x"), ("x",)), (jobs.ignoring.s(), (7,))])
def test_a_callback_is_sent_with_the_result(task: object, linked: tuple[object, ...]) -> None:
    """O1, I6: ``link`` behind a success, and the next of a chain; not ``link_error``."""
    run = run_job(task.set(link=jobs.other.s(), link_error=jobs.other.s("failed")))  # type: ignore[attr-defined]
    assert [(sent.name, sent.args) for sent in run.sent] == [(OTHER, linked)]


def test_an_errback_is_sent_with_the_id_or_called_in_place() -> None:
    """O1, I6, G6: ``link_error`` behind a failure, and behind a cancel; not ``link``."""
    for run in (
        run_job(jobs.fails.s().set(link=jobs.other.s(), link_error=jobs.on_error.s())),
        run_job(jobs.count.s(9).set(link=jobs.other.s(), link_error=jobs.on_error.s()), cancel_at=3),
    ):
        assert [(sent.name, sent.args) for sent in run.sent] == [(jobs.on_error.name, (run.id,))]
    jobs.errors.clear()
    assert run_job(jobs.fails.s().set(link_error=jobs.on_error_in_place.s())).sent == ()
    assert jobs.errors == ["no such row"]


def test_callbacks_survive_retries() -> None:
    """O1, I6: they are sent once, behind the last attempt."""
    run = run_job(jobs.retries.s(5).set(link=jobs.other.s()))
    assert [(sent.name, sent.args) for sent in run.sent] == [(OTHER, (3,))]


def test_a_job_that_is_replaced_goes_on_as_the_other_task() -> None:
    """O1, A4: under the same id, with the same log and progress."""
    run = run_job(jobs.replaced)
    assert (run.state, run.result, run.deliveries, run.progress) == ("SUCCESS", "by another", 2, ("handed over",))


def test_tasks_of_another_app_are_recorded_likewise() -> None:
    """O1: whatever app a task belongs to, nothing is sent."""

    @jobs.app.task(shared=False, name="kit.across")  # type: ignore[untyped-decorator]
    def across(ctx: Context) -> None:
        """Call a task of another app."""
        jobs.small_buffer.delay(3)

    run = run_job(across)
    assert [(sent.name, sent.args) for sent in run.sent] == [("tests.support.kit_jobs.small_buffer", (3,))]


def test_outside_a_run_tasks_are_sent_as_ever() -> None:
    """O1: what stands in for an app does so for its run alone."""
    app = Celery("elsewhere", broker="memory://", task_cls=ContextTask, set_as_current=False)
    app.conf.task_default_queue = "kit-outside"

    @app.task(shared=False)  # type: ignore[untyped-decorator]
    def work(ctx: Context) -> None:
        """Call itself."""
        work.delay()

    assert len(run_job(work).sent) == 1
    with app.connection_for_read() as connection:
        queue = app.amqp.queues["kit-outside"](connection)
        queue.declare()
        assert queue.get() is None
        work.delay()
        assert queue.get() is not None
