"""Every exception of the library comes back from a result backend as it went in."""

from __future__ import annotations

import json
import pickle
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import MaxRetriesExceededError as CeleryMaxRetriesExceededError

from taskora_celery import errors
from taskora_celery.errors import (
    HandlerCancelledError,
    JobAbortedError,
    JobCancelledError,
    JobNotFoundError,
    JobStalledError,
    MaxRetriesExceededError,
    NoActiveJobError,
    NotSupportedError,
    RequeueError,
    RetryError,
    SettingsError,
    StoreNotConfiguredError,
    StoreUnavailableError,
    TaskoraError,
)

EXAMPLES: list[TaskoraError] = [
    TaskoraError("text"),
    NoActiveJobError("no job"),
    JobNotFoundError("job-1"),
    JobCancelledError(),
    JobCancelledError("job-1", "wrong file"),
    NotSupportedError("not here"),
    RequeueError(),
    RequeueError("later"),
    JobStalledError("job-1", 1),
    JobStalledError("job-1", 2, 1, "w1@host", "signal 9 (SIGKILL)", {"percent": 48.0}, ("info: started", "warn: slow")),
    StoreNotConfiguredError(),
    StoreNotConfiguredError("other words"),
    StoreUnavailableError("redis://h: refused"),
    SettingsError("setting x is wrong"),
    HandlerCancelledError("job-1"),
    JobAbortedError("cancelled"),
    JobAbortedError("timeout", "too slow"),
    RetryError(),
    RetryError("rate limited", 30.0, "HTTPError: 429", 2, 1_790_000_000_000),
    MaxRetriesExceededError("shop.work[1] failed", "rate limited"),
    MaxRetriesExceededError("shop.work[1] failed"),
]


@pytest.fixture(scope="module")
def backend() -> Any:
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.result_serializer = "json"
    return app.backend


def through_json(backend: Any, error: BaseException) -> Any:
    prepared = backend.prepare_exception(error, "json")
    return backend.exception_to_python(json.loads(json.dumps(prepared)))


def test_every_class_has_an_example_here() -> None:
    """Habit 12: a class that is added later is tested, too."""
    assert {type(error).__name__ for error in EXAMPLES} == set(errors.__all__)


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
def test_an_error_survives_the_result_backend(backend: Any, error: TaskoraError) -> None:
    """G6, I2: Celery rebuilds `cls(*args)`; type, text and fields are those that the worker raised."""
    back = through_json(backend, error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert {**vars(back), "eta": None, "exc": None} == {**vars(error), "eta": None, "exc": None}


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
def test_an_error_survives_pickle(error: TaskoraError) -> None:
    """A prefork child hands its exceptions to the parent in this way."""
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.args) == (type(error), str(error), error.args)


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
def test_all_errors_have_one_root(error: TaskoraError) -> None:
    """Habit 12: `except TaskoraError` catches what this library raises."""
    assert isinstance(error, TaskoraError)


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (JobNotFoundError("1"), LookupError),
        (StoreUnavailableError("x"), ConnectionError),
        (SettingsError("x"), ValueError),
        (NoActiveJobError("x"), RuntimeError),
        (StoreNotConfiguredError(), RuntimeError),
        (MaxRetriesExceededError("x"), CeleryMaxRetriesExceededError),
    ],
    ids=repr,
)
def test_an_error_is_also_the_built_in_that_people_expect(error: TaskoraError, base: type[BaseException]) -> None:
    """Habit 12: code that knows nothing of this library handles it."""
    assert isinstance(error, base)


def test_what_stays_in_the_process_is_no_argument_of_a_retry() -> None:
    """I1: an instant and an exception have no JSON form; they would break the RETRY state's metadata."""
    error = RetryError("later", eta=datetime.now(timezone.utc), exc=OSError("x"))
    assert error.args == ("later", None, None, None, None)


def test_the_text_of_a_retry_says_when(backend: Any) -> None:
    """I4: where it is printed, and where Celery's log line and event of a retry put it behind the delay."""
    assert repr(RetryError("rate limited", 30.0, "HTTPError: 429", 2, 1_790_000_000_000)) == "RetryError('rate limited')"
    assert (repr(RetryError(cause="HTTPError: 503")), repr(RetryError())) == ("RetryError('HTTPError: 503')", "RetryError('')")
    assert str(RetryError("rate limited", 30.0)) == "rate limited (retry in 30 s)"
    assert str(RetryError(cause="HTTPError: 503")) == "HTTPError: 503"
    assert str(RetryError()) == "retry"


def test_the_default_text_names_the_way_out() -> None:
    """L2: the setting is in the message."""
    assert "taskora_redis_url" in str(StoreNotConfiguredError())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (JobStalledError("job-1", 1), "job job-1 was lost or stalled once (max_stalls=None)"),
        (
            JobStalledError("job-1", 2, 1, "w1@host", "signal 9 (SIGKILL)", {"percent": 48.0}, ("info: started", "warn: slow")),
            (
                "job job-1 was lost or stalled 2 times (max_stalls=1), last on w1@host: signal 9 (SIGKILL); "
                "last progress: {'percent': 48.0}; last log entries: info: started | warn: slow"
            ),
        ),
        (JobStalledError("job-1", 1, 0, progress=0), "job job-1 was lost or stalled once (max_stalls=0); last progress: 0"),
        (JobStalledError("job-1", 1, 0, "w1@host"), "job job-1 was lost or stalled once (max_stalls=0), last on w1@host"),
    ],
)
def test_the_text_of_a_stalled_job_says_how_often_where_and_how_far(error: JobStalledError, text: str) -> None:
    """D6: the count, the last worker and what became of it there, the last progress and the last words."""
    assert str(error) == text
