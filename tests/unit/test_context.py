"""What a handler may ask of its context, and what it may say."""

from __future__ import annotations

import asyncio
import pickle
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.context import Context, JobInfo, activate, current_context, deactivate
from taskora_celery.encoding import CUT, unpack
from taskora_celery.errors import NoActiveJobError, RetryError
from taskora_celery.local import LocalContext, local_context
from taskora_celery.records import AttemptRecord
from taskora_celery.reporter.report import UNSET
from taskora_celery.retry import delay_until
from taskora_celery.testing import fake_context
from tests.support.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

ETA = datetime(2030, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def ctx() -> Context:
    return Context("job-1", "shop.work")


# --- B: identity ---------------------------------------------------------------------------------------------------------


def test_the_context_knows_its_job() -> None:
    """B1-B4, B6: id, name, attempt, delivery, creation, history."""
    record = AttemptRecord(1, 1, "w", 5, "RETRY")
    info = JobInfo(max_attempts=4, delivery=3, timestamp=1_790_000_000_123, history=(record,))
    ctx = Context("job-1", "shop.work", 2, info=info)
    assert (ctx.id, ctx.name, ctx.attempt, ctx.max_attempts, ctx.delivery, ctx.history) == (
        "job-1",
        "shop.work",
        2,
        4,
        3,
        (record,),
    )
    assert ctx.created_at == datetime(2026, 9, 21, 14, 13, 20, 123_000, timezone.utc)


def test_without_a_time_limit_there_is_no_deadline(ctx: Context) -> None:
    """B5: None, and not a far future."""
    assert (ctx.deadline, ctx.remaining()) == (None, None)


def test_the_remaining_time_runs_down_and_below_zero() -> None:
    """B5: in seconds."""
    clock = ManualClock()
    ctx = Context("job-1", "work", info=JobInfo(deadline=clock.time() + 10), time=clock.time)
    clock.advance(4)
    assert ctx.remaining() == pytest.approx(6)
    clock.advance(10)
    assert ctx.remaining() == pytest.approx(-4)
    assert ctx.deadline is not None
    assert ctx.deadline.tzinfo is timezone.utc


def test_a_context_cannot_be_sent_elsewhere(ctx: Context) -> None:
    """B7: as an argument of another task it would be a dead copy; the message says what to pass."""
    with pytest.raises(TypeError, match=r"pass ctx\.id"):
        pickle.dumps(ctx)


def test_outside_a_job_there_is_no_context() -> None:
    """A3: an error, or the default that was given."""
    assert current_context(None) is None
    assert current_context("x") == "x"
    with pytest.raises(NoActiveJobError):
        current_context()


def test_the_current_context_is_that_of_the_thread_and_of_the_coroutine(ctx: Context) -> None:
    """A3, B7: another thread has none, a coroutine inherits it."""
    token = activate(ctx)
    try:
        assert current_context() is ctx
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(current_context(None)))
        thread.start()
        thread.join(10)
        assert seen == [None]

        async def inner() -> Context:
            return current_context()

        assert asyncio.run(inner()) is ctx
    finally:
        deactivate(token)
    assert current_context(None) is None


# --- D: heartbeat --------------------------------------------------------------------------------------------------------


def test_a_heartbeat_wakes_the_reporter_once(ctx: Context) -> None:
    """D1: until it has been taken, further calls cost nothing."""
    woken: list[int] = []
    ctx.on_touch = lambda: woken.append(1)
    for _ in range(1_000):
        ctx.heartbeat()
    assert (ctx.beating, len(woken)) == (True, 1)
    ctx.beating = False
    ctx.heartbeat()
    assert len(woken) == 2


def test_a_heartbeat_without_a_reporter_does_nothing(ctx: Context) -> None:
    """D1: in a direct call there is nothing to extend."""
    ctx.heartbeat()


# --- E: progress and checkpoint ------------------------------------------------------------------------------------------


def test_progress_wakes_the_reporter_once_and_keeps_the_latest(ctx: Context) -> None:
    """E1, E3: a store and a look at a flag."""
    woken: list[int] = []
    ctx.on_touch = lambda: woken.append(1)
    for n in range(1_000):
        ctx.progress(n)
    assert (ctx.latest(), len(woken)) == ((999, None, None), 1)


def test_before_the_first_report_there_is_nothing(ctx: Context) -> None:
    """E6: None is a value like any other, so nothing is something else."""
    assert ctx.latest()[0] is UNSET
    ctx.progress(None)
    assert ctx.latest() == (None, None, None)


def test_a_total_belongs_to_its_own_report() -> None:
    """E1: the next one without a total has none."""
    ctx = local_context()
    ctx.progress(1, total=4, message="rows")
    ctx.progress(2)
    assert list(ctx.values) == [{"current": 1, "total": 4, "percent": 25.0, "message": "rows"}, 2]


@pytest.mark.parametrize("total", [None, 3])
def test_track_yields_the_items_and_reports_after_each(total: int | None) -> None:
    """E7: the total is that of `len()` where it is not given."""
    ctx = local_context()
    assert list(ctx.track(["a", "b", "c"], total)) == ["a", "b", "c"]
    assert [(value["current"], value["total"]) for value in ctx.values] == [(1, 3), (2, 3), (3, 3)]


def test_track_reports_an_item_when_it_is_done_and_not_before() -> None:
    """E7: the work on an item happens after it was yielded."""
    ctx = local_context()
    items = ctx.track([10, 20])
    next(items)
    assert ctx.get_progress() is None
    next(items)
    assert ctx.get_progress() == {"current": 1, "total": 2, "percent": 50.0}


def test_track_takes_what_has_no_length() -> None:
    """E7: generators too; without a total there is no percentage."""
    ctx = local_context()
    assert list(ctx.track(n for n in range(2))) == [0, 1]
    assert ctx.get_progress() == {"current": 2, "total": None, "percent": None}


def test_track_of_nothing_reports_that_nothing_is_to_do() -> None:
    """E7: an empty file is done and not pending."""
    ctx = local_context()
    assert list(ctx.track([], message="rows")) == []
    assert ctx.get_progress() == {"current": 0, "total": 0, "percent": None, "message": "rows"}


@pytest.mark.parametrize("context", [local_context, fake_context], ids=["local", "test kit"])
def test_track_goes_on_where_an_earlier_attempt_stopped(context: Callable[[], Any]) -> None:
    """E7, E8: progress does not jump back when a job goes on from its checkpoint; all that is to do counts."""
    ctx = context()
    for _ in ctx.track(["d", "e"], initial=3):
        pass
    assert ctx.get_progress() == {"current": 5, "total": 5, "percent": 100.0}
    assert list(ctx.track(["d"], 9, initial=3)) == ["d"]
    assert ctx.get_progress() == {"current": 4, "total": 9, "percent": 44.44}
    assert list(ctx.track((n for n in range(2)), initial=3)) == [0, 1]
    assert ctx.get_progress() == {"current": 5, "total": None, "percent": None}
    assert list(ctx.track([], initial=3)) == []
    assert ctx.get_progress() == {"current": 3, "total": 3, "percent": 100.0}


def test_track_passes_on_the_errors_of_the_iterable() -> None:
    """E7: it is a loop like any other."""

    def broken() -> Any:
        yield 1
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        list(local_context().track(broken()))


@pytest.mark.parametrize("value", [0, None, "x", [1, {"a": 2}], {"row": 41}, 1.5])
def test_a_checkpoint_is_kept_as_it_was_when_it_was_given(ctx: Context, value: Any) -> None:
    """E8: packed at once, so later changes do not reach it."""
    ctx.checkpoint(value)
    assert ctx.said_checkpoint is not None
    assert unpack(ctx.said_checkpoint) == value


def test_a_checkpoint_is_copied_at_the_call(ctx: Context) -> None:
    """E8: a handler goes on changing its list."""
    rows = [1]
    ctx.checkpoint(rows)
    rows.append(2)
    assert ctx.said_checkpoint is not None
    assert unpack(ctx.said_checkpoint) == [1]


def test_the_last_checkpoint_is_that_of_an_earlier_delivery() -> None:
    """E8: None at first."""
    ctx = Context("job-1", "work")
    ctx.checkpoint(5)
    assert ctx.last_checkpoint is None
    assert Context("job-1", "work", info=JobInfo(checkpoint=ctx.said_checkpoint)).last_checkpoint == 5


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (object(), TypeError, "keep ids and positions"),
        ({"a": object()}, TypeError, "JSON types"),
        (circle(), ValueError, "plain value"),
        (2**70, ValueError, "plain value"),
        ("x" * 2_000, ValueError, "taskora_checkpoint_bytes=1000"),
    ],
    ids=["object", "nested object", "circle", "giant", "huge"],
)
def test_what_cannot_be_a_checkpoint_is_refused_at_the_call(value: Any, error: type[Exception], words: str) -> None:
    """E8: what was kept before stays."""
    ctx = Context("job-1", "work", checkpoint_limit=1_000)
    ctx.checkpoint(1)
    with pytest.raises(error, match=words):
        ctx.checkpoint(value)
    assert ctx.said_checkpoint is not None
    assert unpack(ctx.said_checkpoint) == 1


# --- I: retry ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delay", "expected"), [(None, None), (0, 0.0), (30, 30.0), (0.5, 0.5), (timedelta(minutes=1), 60.0)])
def test_a_retry_is_built_and_nothing_happens_yet(ctx: Context, delay: Any, expected: float | None) -> None:
    """I1: it is scheduled when it leaves the handler."""
    error = ctx.retry(delay=delay, reason="rate limited")
    assert isinstance(error, RetryError)
    assert (error.delay, error.reason, error.eta, error.exc, error.attempt) == (expected, "rate limited", None, None, None)


@pytest.mark.parametrize("delay", [-1, -0.001, float("nan"), float("inf"), timedelta(seconds=-5), 10**400])
def test_a_delay_that_is_none_is_refused_at_the_call(ctx: Context, delay: Any) -> None:
    """I2: negative is a ValueError, with the value in it."""
    with pytest.raises(ValueError, match="delay="):
        ctx.retry(delay=delay)


@pytest.mark.parametrize("delay", ["30", [], True])
def test_a_delay_of_the_wrong_type_is_refused_at_the_call(ctx: Context, delay: Any) -> None:
    """I1: a Retry-After header is text."""
    with pytest.raises(TypeError, match="delay="):
        ctx.retry(delay=delay)


def test_a_delay_and_an_instant_exclude_each_other(ctx: Context) -> None:
    """I1: one of them would be ignored."""
    with pytest.raises(ValueError, match="exclude each other"):
        ctx.retry(delay=0, eta=ETA)


def test_an_instant_needs_a_time_zone(ctx: Context) -> None:
    """I1: a naive one means something else on each machine, and seconds or a text would be noticed only when it is sent."""
    for eta in (30, "2030-01-01", timedelta(seconds=30)):
        with pytest.raises(TypeError, match=r"eta=.* is no datetime: give an aware one, or the seconds from now as delay"):
            ctx.retry(eta=eta)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no time zone"):
        ctx.retry(eta=datetime(2030, 1, 1))  # noqa: DTZ001


def test_an_aware_instant_is_taken(ctx: Context) -> None:
    """I1: in any zone."""
    assert ctx.retry(eta=ETA).eta == ETA


def test_a_cause_is_an_exception(ctx: Context) -> None:
    """I1: a text would end the handler by an error that names neither the argument nor the way out."""
    with pytest.raises(TypeError, match="exc='busy' is not an exception: give its text as reason"):
        ctx.retry(exc="busy")  # type: ignore[arg-type]


def test_a_long_reason_is_cut(ctx: Context) -> None:
    """Fault 17, I4: Celery stores it, sends it and logs it, so it is bounded where it is made; an exception's text likewise."""
    error = ctx.retry(reason="h" * 100_000, exc=ValueError("v" * 100_000))
    assert error.reason == "h" * 8_192 + CUT
    assert error.cause is not None
    assert error.cause.startswith("ValueError: vvv")
    assert len(error.cause) == 8_192 + len(CUT)


def test_a_reason_is_a_text(ctx: Context) -> None:
    """I1: an exception belongs into `exc`."""
    with pytest.raises(TypeError, match="reason="):
        ctx.retry(reason=ValueError("x"))  # type: ignore[arg-type]


def test_the_exception_that_is_being_handled_is_the_cause(ctx: Context) -> None:
    """I1: `raise ctx.retry()` in an except block says why."""
    handled = OSError("refused")
    try:
        raise handled
    except OSError:
        error = ctx.retry()
    assert (error.exc, error.__cause__, error.cause) == (handled, handled, "OSError: refused")


def test_a_given_cause_goes_before_the_handled_one(ctx: Context) -> None:
    """I1: `exc=`."""
    given = LookupError("given")
    try:
        raise OSError("refused")
    except OSError:
        error = ctx.retry(exc=given)
    assert (error.exc, error.cause) == (given, "LookupError: given")


def test_a_cause_whose_text_raises_does_not_hide_the_retry(ctx: Context) -> None:
    """I1: a user's exception class may be broken; the retry is what counts."""

    class Broken(Exception):  # noqa: N818 - the name does not matter
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert "Broken" in (ctx.retry(exc=Broken()).cause or "")


def test_the_delay_until_an_instant_that_has_passed_is_nothing() -> None:
    """I2: it means now."""
    assert delay_until(ETA, ETA.timestamp() - 5) == 5.0
    assert delay_until(ETA, ETA.timestamp() + 5) == 0.0


# --- A5: without a broker ------------------------------------------------------------------------------------------------


def test_a_local_context_keeps_what_is_reported() -> None:
    """A5: progress and logs are read from it under the handle's names."""
    ctx = local_context("work", "job-9", attempt=2, max_attempts=3)
    assert isinstance(ctx, LocalContext)
    ctx.progress(1)
    ctx.progress({"a": 1})
    ctx.log.info("hello", password="x")
    assert (ctx.id, ctx.attempt, ctx.max_attempts) == ("job-9", 2, 3)
    assert (list(ctx.values), ctx.get_progress()) == ([1, {"a": 1}], {"a": 1})
    assert [(entry.message, entry.meta, entry.attempt) for entry in ctx.get_logs()] == [("hello", {"password": "[redacted]"}, 2)]


def test_a_report_that_is_torn_is_read_again() -> None:
    """E1: a value, its total and its message belong together, though three slots hold them."""
    ctx = Context("job-1", "work")
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            ctx.progress(n, n + 1, f"{n + 2}")

    ctx.progress(1, 2, "3")
    writing = threading.Thread(target=write)
    writing.start()
    torn = 0
    for _ in range(5_000):
        value, total, message = ctx.latest()
        torn += not (total == value + 1 and message == f"{value + 2}")
    stop.set()
    writing.join(10)
    assert torn < 250
