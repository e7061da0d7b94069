"""One delivery at a time, as Celery's tracer runs it: which one may run its job, and whose outcome counts."""

# mypy: allow-untyped-decorators, allow-subclassing-any

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import states
from celery.backends.cache import _DUMMY_CLIENT_CACHE
from celery.exceptions import Ignore, Reject

from taskora_celery import Context, ContextTask, JobStalledError
from taskora_celery.delivery import STAMP, Delivery
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.lease.protocol import Held
from taskora_celery.reading import history_of, status_of
from taskora_celery.records import JobStatus, Outcome
from taskora_celery.runtime import Runtime
from taskora_celery.store.protocol import Begin, Loss
from tests.support.executions import ScriptedExecution
from tests.support.scripted_lease import ScriptedLease
from tests.support.scripted_store import ScriptedStore
from tests.support.traced import traced, traced_app
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from taskora_celery.store.protocol import Snapshot

VISIBILITY = 60.0  # seconds


class Store(ScriptedStore):
    """The scripted store, of which reading alone may fail."""

    unreadable = False

    def read(self, job_id: str, skip: int | None = None, *, attempts: bool = False) -> Snapshot | None:
        """As the scripted store, unless the test says otherwise."""
        if self.unreadable:
            raise StoreUnavailableError("the script says so")
        return super().read(job_id, skip, attempts=attempts)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def lease() -> ScriptedLease:
    return ScriptedLease()


@pytest.fixture
def app(store: Store, lease: ScriptedLease) -> Iterator[Celery]:
    _DUMMY_CLIENT_CACHE.clear()  # one for all apps of the process, and the job is called the same in all tests
    with traced_app(store, task_acks_late=True) as app:
        Runtime.of(app).reporter.leases._open_lease = lambda: lease
        yield app


class Watched(ContextTask):
    """Remembers what Celery did with its jobs."""

    abstract = True
    retry_jitter = False
    default_retry_delay = 0

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.sent: list[Any] = []
        self.told: list[str] = []

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """Send nothing: the tasks here are called for their retries only."""
        self.sent.append(kwargs)

    def on_success(self, *args: Any, **kwargs: Any) -> None:
        self.told.append("success")

    def on_failure(self, *args: Any, **kwargs: Any) -> None:
        self.told.append("failure")

    def on_retry(self, *args: Any, **kwargs: Any) -> None:
        self.told.append("retry")


def microseconds(ago: float = 0.0) -> int:
    return int((time.time() - ago) * 1_000_000)


def deliver(
    task: Any, *args: Any, ago: float = 0.0, redelivered: bool = False, attempt: int = 1, **request: Any
) -> tuple[str, Any]:
    """Run one delivery of job-1, which its worker received some seconds ago."""
    delivery_info = {"routing_key": "celery", **({"redelivered": True} if redelivered else {})}
    stamp = {STAMP: Delivery.stamp(microseconds(ago), 0, VISIBILITY)}
    return traced(
        task, *args, task_id="job-1", retries=attempt - 1, delivery_info=delivery_info,
        properties={"delivery_tag": "tag-1"}, **stamp, **request,
    )  # fmt: skip


def elsewhere(store: Store, *, redelivered: bool = True, **fields: Any) -> ScriptedExecution:
    """The same message, delivered to another worker."""
    return ScriptedExecution(
        store.memory, worker="w2@host", tag="tag-1", token=microseconds(), redelivered=redelivered, **fields
    )  # fmt: skip


def before(store: Store, **fields: Any) -> ScriptedExecution:
    """The first delivery of the message, to a worker that has died since."""
    return elsewhere(store, redelivered=False, **fields)


def lost(store: Store, times: int = 1) -> None:
    """Let the job have been lost so often before."""
    for n in range(times):
        begin = Begin("job-1", "traced", 1, "w0@host", 1, 1, redelivered=n > 0, tag="tag-1", token=n + 1)
        store.memory.begin(begin)
        store.memory.lose(Loss("job-1", "traced", 1, "w0@host", "tag-1", n + 1, 2, "signal 9 (SIGKILL)"))


def status(store: Store) -> JobStatus:
    return status_of("job-1", store.memory.read("job-1"), 100)


def at_rest(app: Celery) -> bool:
    """Whether nothing of any job is left behind."""
    reporter = Runtime.of(app).reporter
    return not reporter._live and not reporter._lock.locked()


# --- D7: an execution that was superseded --------------------------------------------------------------------------------


def returns(self: Any, ctx: Context) -> str:
    return "done"


def raises(self: Any, ctx: Context) -> None:
    raise ValueError("no such row")


def retries(self: Any, ctx: Context) -> None:
    raise ctx.retry(delay=0, reason="once more")


def retries_as_celery_does(self: Any, ctx: Context) -> None:
    raise self.retry(countdown=0)


def retries_for_an_error(self: Any, ctx: Context) -> None:
    try:
        raises(self, ctx)
    except ValueError as exc:
        raise self.retry(exc=exc) from exc


def fails_to_connect(self: Any, ctx: Context) -> None:
    raise OSError("no answer")


def rejects(self: Any, ctx: Context) -> None:
    raise Reject("not mine", requeue=True)


def ignores(self: Any, ctx: Context) -> None:
    raise Ignore


ENDS = [returns, raises, retries, retries_as_celery_does, retries_for_an_error, fails_to_connect, rejects, ignores]


@pytest.mark.parametrize("max_retries", [3, 0])
@pytest.mark.parametrize("end", ENDS)
def test_the_outcome_of_a_superseded_execution_is_refused(
    app: Celery, store: Store, end: Callable[[Any, Context], Any], max_retries: int, caplog: pytest.LogCaptureFixture
) -> None:
    """D7: however it ends, Celery stores nothing, sends nothing and calls nothing; its acknowledgement is fenced."""

    @app.task(base=Watched, bind=True, autoretry_for=(OSError,), max_retries=max_retries)
    def work(self: Any, ctx: Context) -> Any:
        ctx.log.info("of the zombie")
        elsewhere(store)
        return end(self, ctx)

    assert deliver(work)[0] == "REJECTED"
    assert (work.sent, work.told, app.backend.get_state("job-1")) == ([], [], states.PENDING)
    found = status(store)
    assert (found.state, found.worker, found.logs, found.refused > 0) == ("STARTED", "w2@host", 0, True)
    told = [record.getMessage() for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]
    refused = "it was delivered again; what this execution still reports, and its outcome, are refused"
    assert told == [f"job job-1 ({work.name}): {refused}"]
    assert at_rest(app)


@pytest.mark.parametrize("end", ENDS)
def test_the_outcome_of_the_execution_that_counts_is_celerys(
    app: Celery, store: Store, end: Callable[[Any, Context], Any]
) -> None:
    """A6, D7: the counterpart, without which the test above would prove nothing."""

    @app.task(base=Watched, bind=True, autoretry_for=(OSError,), max_retries=3)
    def work(self: Any, ctx: Context) -> Any:
        ctx.log.info("entry")
        return end(self, ctx)

    known: dict[Callable[..., Any], str] = {returns: "SUCCESS", raises: "FAILURE", rejects: "REJECTED", ignores: "IGNORED"}
    expected = known.get(end, "RETRY")
    assert deliver(work)[0] == expected
    assert (status(store).state, status(store).refused, len(work.sent)) == (expected, 0, int(expected == "RETRY"))
    assert at_rest(app)


def test_an_execution_that_was_superseded_can_retry_as_often_as_it_likes(app: Celery, store: Store) -> None:
    """D7: a handler that retries whatever its lines raise has taken the refusal for an error of theirs."""

    @app.task(base=Watched, bind=True, max_retries=3)
    def work(self: Any, ctx: Context) -> None:
        elsewhere(store)
        try:
            self.retry(countdown=0)
        except Exception:
            self.retry(countdown=60)

    assert deliver(work)[0] == "REJECTED"
    assert (work.sent, work.told, status(store).worker) == ([], [], "w2@host")


@pytest.mark.parametrize("end", [retries, retries_as_celery_does], ids=lambda end: end.__name__)
def test_the_stamp_of_a_delivery_ends_with_it(app: Celery, end: Callable[[Any, Context], Any]) -> None:
    """D7, I6: the message of the next attempt carries what its publisher gave it, and nothing of this worker's."""

    @app.task(base=Watched, bind=True, max_retries=3)
    def work(self: Any, ctx: Context) -> Any:
        return end(self, ctx)

    assert deliver(work, tenant="a")[0] == "RETRY"
    ((sent),) = work.sent
    assert sent["headers"] == {"tenant": "a"}


def test_an_execution_that_is_given_up_can_schedule_nothing(app: Celery, store: Store) -> None:
    """D4, D7: the worker's parent took it for dead; its message is on its way to another worker."""

    @app.task(base=Watched, max_retries=3)
    def work(ctx: Context) -> None:
        ctx.log.info("before")
        wait_until(lambda: store.memory.read("job-1"), "the registration")
        token = store.memory.read("job-1").fields["o"]  # type: ignore[union-attr]
        store.memory.lose(Loss("job-1", "traced", 1, "w1@host", "tag-1", token, 2, "no sign of life"))
        raise ctx.retry(delay=0)

    assert deliver(work)[0] == "REJECTED"
    assert (work.sent, status(store).state, status(store).stalls) == ([], Outcome.LOST, 1)


def test_a_message_whose_id_another_message_has_is_acknowledged(app: Celery, store: Store) -> None:
    """D7: the same id was sent twice; given back, the two would push each other out for ever."""

    @app.task(base=Watched)
    def work(ctx: Context) -> str:
        ScriptedExecution(store.memory, worker="w2@host", tag="tag-2", token=microseconds())
        return "done"

    assert deliver(work)[0] == "IGNORED"
    assert (work.told, status(store).worker, status(store).state) == ([], "w2@host", "STARTED")


def test_a_silent_job_that_took_long_asks_whether_it_counts(app: Celery, store: Store) -> None:
    """D7: its message may have been put back meanwhile, whatever has become of those who should have renewed it."""

    @app.task(base=Watched)
    def work(ctx: Context) -> str:
        elsewhere(store)
        return "done"

    assert deliver(work, ago=VISIBILITY / 2 + 1)[0] == "REJECTED"
    assert (work.told, status(store).state) == ([], "STARTED")


def test_in_an_outage_the_outcome_stands(app: Celery, store: Store) -> None:
    """L1: whoever may not ask does not wait, and does not throw a result away."""

    @app.task(base=Watched)
    def work(ctx: Context) -> str:
        store.away = True
        return "done"

    assert deliver(work, ago=VISIBILITY / 2 + 1) == ("SUCCESS", "done")


# --- D7: a delivery whose message may be another's ---------------------------------------------------------------------------


@pytest.fixture
def work(app: Celery) -> Any:
    @app.task(base=Watched, bind=True, max_stalls=1)
    def work(self: Any, ctx: Context) -> str:
        self.runs.append(ctx.delivery)
        return "done"

    return work


@pytest.mark.parametrize("stands", [Held.GONE, Held.TAKEN])
def test_a_doubtful_delivery_whose_message_is_not_its_own_does_not_run(
    work: Any, store: Store, lease: ScriptedLease, app: Celery, stands: Held
) -> None:
    """D7: it has waited long in its worker, was put back meanwhile, and somebody else runs it, or will."""
    lease.stands["tag-1"] = stands
    assert deliver(work, ago=VISIBILITY / 2 + 1)[0] == "REJECTED"
    assert (work.runs, store.begins, store.flushes) == ([], [], []), "and nothing of it is written"
    assert [hold.watched for hold in lease.holds] == [True], "nor renewed"
    assert at_rest(app)


@pytest.mark.parametrize("stands", [Held.HELD, Held.DUE])
def test_a_doubtful_delivery_whose_message_is_still_there_runs(work: Any, lease: ScriptedLease, stands: Held) -> None:
    """D7: nobody has put it back yet, and its renewal begins with the job."""
    lease.stands["tag-1"] = stands
    assert deliver(work, ago=VISIBILITY / 2 + 1) == ("SUCCESS", "done")
    assert lease.renewed == [["tag-1"]]


def test_a_fresh_delivery_is_not_asked_for(work: Any, lease: ScriptedLease) -> None:
    """P15: no round trip to the broker before the handler."""
    lease.stands["tag-1"] = Held.GONE
    assert deliver(work) == ("SUCCESS", "done")
    assert lease.renewed == []


def test_a_doubtful_delivery_runs_where_the_broker_does_not_answer(work: Any, lease: ScriptedLease) -> None:
    """D1, D7: no job fails because a broker is away."""
    lease.fails = True
    for attempt in (1, 2):
        deliver(work, ago=VISIBILITY / 2 + 1, attempt=attempt)
    assert (len(work.runs), len(lease.renewed)) == (2, 1), "and in an outage it is not asked again"


def test_what_was_acknowledged_early_is_not_asked_for(work: Any, lease: ScriptedLease) -> None:
    """D8: its message is gone because it was acknowledged, and nobody else will run it."""
    work.acks_late = False
    lease.stands["tag-1"] = Held.GONE
    assert deliver(work, ago=VISIBILITY / 2 + 1) == ("SUCCESS", "done")


# --- D7: a message that comes once more ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [states.SUCCESS, states.FAILURE, states.REVOKED])
def test_a_message_whose_outcome_is_stored_does_not_run_again(work: Any, app: Celery, store: Store, state: str) -> None:
    """D7: its worker died between the outcome and the acknowledgement; the record and the backend agree."""
    before(store).end(state)
    app.backend.store_result("job-1", "theirs" if state == states.SUCCESS else ValueError("theirs"), state)
    record = store.memory.read("job-1")
    assert deliver(work, redelivered=True)[0] == "IGNORED"
    assert (work.runs, store.memory.read("job-1"), app.backend.get_state("job-1")) == ([], record, state)
    assert at_rest(app)


@pytest.mark.parametrize("stored", [None, states.STARTED, states.RETRY, "PROGRESS"])
def test_a_message_whose_outcome_only_the_record_has_runs_again(work: Any, app: Celery, store: Store, stored: str | None) -> None:
    """D7: its worker died between the record and the result backend; else the caller would wait for ever."""
    before(store).end()
    if stored is not None:
        app.backend.store_result("job-1", None, stored)
    assert deliver(work, redelivered=True) == ("SUCCESS", "done")
    assert (work.runs, status(store).state) == ([2], Outcome.SUCCESS)


@pytest.mark.parametrize("why", ["chord", "ignore_result", "backend"])
def test_a_message_of_which_the_result_backend_cannot_tell_runs_again(
    app: Celery, store: Store, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """D7: a chord counts its members behind the result; results may be ignored; and a backend may be away."""
    before(store).end()
    app.backend.store_result("job-1", "theirs", states.SUCCESS)
    runs: list[int] = []

    @app.task(base=Watched, ignore_result=why == "ignore_result")
    def work(ctx: Context) -> None:
        runs.append(ctx.delivery)
        raise Ignore  # the chord itself is no part of this

    if why == "backend":
        monkeypatch.setattr(app.backend, "get_state", lambda *_: 1 / 0)
    deliver(work, redelivered=True, chord={"task": "x"} if why == "chord" else None)
    assert runs == [2]


@pytest.mark.parametrize("ended", [False, True])
def test_a_message_whose_retry_has_begun_does_not_run_again(work: Any, store: Store, ended: bool) -> None:
    """I4: its worker died between the retry and the acknowledgement; the next attempt runs, or has ended."""
    before(store).end_in_retry()
    second = ScriptedExecution(store.memory, tag="tag-2", attempt=2)
    if ended:
        second.end()
    record = store.memory.read("job-1")
    assert deliver(work, redelivered=True)[0] == "IGNORED"
    assert (work.runs, store.memory.read("job-1")) == ([], record)


def test_a_later_attempt_that_has_ended_elsewhere_does_not_run(work: Any, store: Store) -> None:
    """D7: its worker slept while the message was delivered again and the job ended."""
    before(store).end_in_retry()
    elsewhere(store, attempt=2).end()
    assert deliver(work, attempt=2)[0] == "REJECTED"
    assert (work.runs, status(store).worker) == ([], "w2@host")


def test_a_job_that_is_sent_anew_under_its_id_runs(work: Any, app: Celery, store: Store) -> None:
    """B3: it has another tag, and the outcome that is stored is not its own."""
    ScriptedExecution(store.memory, tag="tag-0").end()
    app.backend.store_result("job-1", "theirs", states.SUCCESS)
    assert deliver(work, redelivered=True) == ("SUCCESS", "done")
    assert (len(work.runs), status(store).worker) == (1, "w1@host")


# --- D6: a job that was lost too often -----------------------------------------------------------------------------------


@pytest.mark.parametrize("autoretry_for", [(), (Exception,), (JobStalledError,)])
@pytest.mark.parametrize("limit", [0, 1, 3])
def test_one_loss_too_many_fails_the_job_before_its_handler(
    app: Celery, store: Store, limit: int, autoretry_for: tuple[type[Exception], ...]
) -> None:
    """D6: however many retries it has left: what kills its worker each time is not tried again."""

    @app.task(base=Watched, bind=True, max_stalls=limit, autoretry_for=autoretry_for, max_retries=5)
    def work(self: Any, ctx: Context) -> None:
        self.runs.append(ctx.delivery)

    lost(store, limit + 1)
    state, error = deliver(work, redelivered=True)
    assert (state, type(error), error.count, error.limit) == ("FAILURE", JobStalledError, limit + 1, limit)
    assert (work.runs, work.sent, work.told) == ([], [], ["failure"])
    found = status(store)
    assert (found.state, found.error, found.stalls) == (Outcome.FAILURE, "JobStalledError", limit + 1)
    assert "lost or stalled" in str(found.reason)
    assert app.backend.get_state("job-1") == states.FAILURE
    assert at_rest(app)


@pytest.mark.parametrize(("limit", "times"), [(1, 1), (3, 3), (None, 50)])
def test_so_many_losses_as_are_allowed_do_not_fail_the_job(work: Any, store: Store, limit: int | None, times: int) -> None:
    """D6: and with None any number of them."""
    work.max_stalls = limit
    lost(store, times)
    assert deliver(work, redelivered=True) == ("SUCCESS", "done")
    assert (work.runs, status(store).stalls) == ([times + 1], times)


def test_the_error_tells_the_last_that_is_known_of_the_job(work: Any, store: Store) -> None:
    """D6: where it was last, what became of it, how far it was and what it said: enough to look for the cause."""
    execution = ScriptedExecution(store.memory, worker="w0@host", tag="tag-1", token=7)
    execution.progress({"row": 48})
    execution.logs("reading", "parsing")
    store.memory.lose(Loss("job-1", "traced", 1, "w0@host", "tag-1", 7, 2, "signal 9 (SIGKILL)"))
    work.max_stalls = 0
    _, error = deliver(work, redelivered=True)
    assert (error.job_id, error.worker, error.reason) == ("job-1", "w0@host", "signal 9 (SIGKILL)")
    assert (error.progress, error.logs) == ({"row": 48}, ["info: reading", "info: parsing"])


def test_the_job_fails_also_where_its_last_words_cannot_be_read(work: Any, store: Store) -> None:
    """L1, D6: the count came with the begin; the rest is for people."""
    lost(store, 2)
    store.unreadable = True
    state, error = deliver(work, redelivered=True)
    assert (state, error.count, error.progress, error.logs) == ("FAILURE", 2, None, [])


def test_losses_count_over_retries(work: Any, store: Store) -> None:
    """D6: a fresh message, which nobody has lost, of a job that was lost twice."""
    lost(store, 2)
    ScriptedExecution(store.memory, redelivered=True, tag="tag-1", token=9).end_in_retry()
    state, error = deliver(work, attempt=2)
    assert (state, error.count) == ("FAILURE", 2)


def test_a_retry_that_a_handler_asks_for_because_of_a_lost_job_is_refused(app: Celery) -> None:
    """D6: the road by which autoretry would come."""

    @app.task(base=Watched, bind=True, max_retries=5)
    def work(self: Any, ctx: Context) -> None:
        raise self.retry(exc=JobStalledError(ctx.id, 2, 1))

    state, error = deliver(work)
    assert (state, type(error), work.sent) == ("FAILURE", JobStalledError, [])


def test_the_history_of_a_job_that_was_lost_too_often_is_whole(work: Any, store: Store) -> None:
    """B6: each loss, and the failure."""
    lost(store, 2)
    deliver(work, redelivered=True)
    history = history_of(store.memory.read("job-1", attempts=True))
    assert [(record.delivery, record.outcome) for record in history] == [
        (1, Outcome.LOST), (2, Outcome.LOST), (3, Outcome.FAILURE),
    ]  # fmt: skip
