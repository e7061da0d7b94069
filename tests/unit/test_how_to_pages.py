"""The examples of README.md and of the how-to pages run: retrying.md, logging.md, brokers.md, migrating.md, faq.md."""

from __future__ import annotations

from email.utils import formatdate
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import requests
from celery import Task
from celery.contrib.abortable import AbortableAsyncResult
from celery.exceptions import MaxRetriesExceededError as CeleryMaxRetriesExceededError

from taskora_celery import Context, ContextTask, MaxRetriesExceededError, RetryError
from taskora_celery.about import checked_settings
from taskora_celery.lease.rabbitmq import unrenewable_warning
from taskora_celery.runtime import Runtime
from taskora_celery.testing import run_job
from tests.support.eager_apps import eager_app, tasks_of_their_own
from tests.support.pages import DOCS, blocks_of, code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Page = dict[str, Any]


@pytest.fixture
def page() -> Iterator[Callable[[str], Page]]:
    """A function that runs the Python blocks of a page one after the other, and returns what they defined."""
    made: list[Page] = []

    def run(name: str) -> Page:
        namespace: Page = {"__name__": name.removesuffix(".md")}
        exec(compile(code_of(name), name, "exec", dont_inherit=True), namespace)
        made.append(namespace)
        return namespace

    with tasks_of_their_own():
        yield run
        for namespace in made:
            Runtime.forget(namespace["app"])


def answer(status: int, reason: str = "", **headers: str) -> requests.Response:
    """What a server answers."""
    response = requests.Response()
    response.status_code, response.reason, response._content = status, reason, b"whole"
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


def scripted(monkeypatch: pytest.MonkeyPatch, method: str, *answers: requests.Response | Exception) -> None:
    """Let `requests` give these answers, one after the other."""
    left = iter(answers)

    def give(*_: Any, **__: Any) -> requests.Response:
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(requests, method, give)


def test_it_waits_as_long_as_the_server_asks_for(page: Callable[[str], Page], monkeypatch: pytest.MonkeyPatch) -> None:
    """I1, I2: seconds exactly, else its own backoff; the reason is in the history."""
    retrying = page("retrying.md")
    scripted(
        monkeypatch, "get", answer(429, "Too Many Requests", Retry_After="7"), answer(503, "Service Unavailable"), answer(200)
    )
    run = run_job(retrying["fetch"], {"url": "http://shop.example"})
    assert (run.state, run.result, run.delays) == ("SUCCESS", 5, (7.0, 4.0))
    assert [record.reason for record in run.history] == ["429 Too Many Requests", "503 Service Unavailable", None]


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("120", 120, 120),
        ("86400", 3600, 3600),
        (formatdate(0, usegmt=True), 0, 0),
        (formatdate(32503680000, usegmt=True), 3600, 3600),
    ],
    ids=["seconds", "a day", "a date that has passed", "a date to come"],
)
def test_retry_after_is_seconds_or_a_date(page: Callable[[str], Page], header: str, low: float, high: float) -> None:
    """I2: within bounds."""
    assert low <= page("retrying.md")["retry_after"](answer(429, Retry_After=header)) <= high


def test_no_retry_after_is_the_tasks_own_backoff(page: Callable[[str], Page]) -> None:
    """I2: the same where nobody can read it."""
    retry_after = page("retrying.md")["retry_after"]
    assert (retry_after(answer(503)), retry_after(answer(503, Retry_After="soon"))) == (None, None)


def test_autoretry_and_ctx_retry_mix(page: Callable[[str], Page], monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: each is an attempt."""
    scripted(monkeypatch, "post", requests.ConnectionError("refused"), answer(409), answer(201))
    run = run_job(page("retrying.md")["push"], {"url": "http://shop.example", "order": {}})
    assert (run.state, run.result, run.attempts, run.delays[1]) == ("SUCCESS", 201, 3, 1.0)


def test_the_next_attempt_knows_why_and_goes_on(page: Callable[[str], Page]) -> None:
    """B2, B6, E8."""
    run = run_job(page("retrying.md")["load"], {"rows": 4, "fails_at": 2})
    assert (run.result, run.delays, list(run.checkpoints)) == ({"attempts": 2}, (10.0,), [1, 2, 3, 4])
    assert run.logs[0].meta == {"reason": "row 2 is locked", "tried": 1, "of": 4}


def test_giving_up_has_the_reason(page: Callable[[str], Page], monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: as Celery's class, too."""
    retrying = page("retrying.md")
    scripted(monkeypatch, "get", *[answer(503, "Service Unavailable", Retry_After="1")] * 6)
    run = run_job(retrying["fetch"], {"url": "http://shop.example"})
    assert (run.state, run.attempts) == ("FAILURE", 6)
    assert isinstance(run.exception, CeleryMaxRetriesExceededError)

    class Handle:
        def get(self, timeout: float) -> None:
            run.get()

    assert retrying["outcome"](Handle()) == "given up: 503 Service Unavailable"


def test_what_is_logged_belongs_to_the_job(
    page: Callable[[str], Page], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """F1, F2, F6, F7: entries of every kind, without secrets; and the readers of the page."""
    logging = page("logging.md")
    checked_settings(logging["app"])
    caplog.set_level("INFO", "celery.task")  # as `celery worker -l INFO` does
    data = {"source": "orders.csv", "api_token": "s3cret", "rows": ["a", ""]}
    run = run_job(logging["import_rows"], data)
    assert [(entry.level, entry.message) for entry in run.logs] == [
        ("info", "starting"), ("debug", "stored"), ("error", "cannot be stored"), ("info", "read 2 rows"),
    ]  # fmt: skip
    assert run.logs[0].meta == {"source": "orders.csv", "api_token": "[redacted]"}
    assert "ValueError: empty" in (run.logs[2].meta or {})["traceback"]
    assert [entry.logger for entry in run.logs] == [None, None, None, "logging"]
    assert logging["tail"](run.handle) == run.logs[-1].seq
    assert logging["tail"](run.handle, run.logs[-1].seq) == run.logs[-1].seq
    logging["tell"](run.handle)
    assert "cannot be stored" in capsys.readouterr().out.splitlines()[-1]


def test_the_rule_of_the_page_hides_customers(page: Callable[[str], Page]) -> None:
    """F7: by the setting."""
    logging = page("logging.md")

    @logging["app"].task  # type: ignore[untyped-decorator]
    def tell(ctx: Any) -> None:
        ctx.progress({"customer": "ann", "iban": "DE02", "row": 1})

    assert list(run_job(tell).progress) == [{"customer": "[a customer]", "iban": "[redacted]", "row": 1}]


def test_the_apps_of_the_brokers_page_can_start_and_keep_records(page: Callable[[str], Page]) -> None:
    """L2, D10, L4: the records' Redis is the one that is named, else the result backend's; nothing is connected."""
    brokers = page("brokers.md")
    settings, endpoint = checked_settings(brokers["app"])
    assert settings.redis_url is not None
    assert endpoint is not None
    assert endpoint.url == settings.redis_url == "redis://records.internal:6379/0"
    settings, endpoint = checked_settings(brokers["queue"])
    assert endpoint is not None
    assert (settings.redis_url, endpoint.url) == (None, "redis://results.internal/1")
    assert brokers["queue"].connection_for_read().transport_options["visibility_timeout"] == 300
    assert unrenewable_warning(brokers["app"].connection_for_read())
    run = run_job(brokers["render"], {"pages": 3})
    assert (run.result, run.elapsed) == (3, 3.0)


def test_before_and_after_come_to_the_same(page: Callable[[str], Page]) -> None:
    """E4, A6: with update_state, for celery-progress, and where nobody cancels."""
    migrating = page("migrating.md")
    for name in ("import_before", "import_after"):
        assert run_job(migrating[name], 3).result == 3
    assert run_job(migrating["import_after"], 3).progress[-1] == {"current": 3, "total": 3, "percent": 100.0}
    described = run_job(migrating["export"], 2).progress[-1]
    assert described == {"current": 2, "total": 2, "percent": 100.0, "description": "row 2", "pending": False}
    assert migrating["pack_before"].apply((2,)).get() == run_job(migrating["pack_after"], 2).result == "packed"


def test_an_aborted_task_succeeds_and_a_cancelled_job_is_revoked(page: Callable[[str], Page]) -> None:
    """G6: as the page says."""
    migrating = page("migrating.md")
    AbortableAsyncResult("a", app=migrating["before"]).abort()
    aborted = migrating["pack_before"].apply((2,), task_id="a")
    assert (aborted.state, aborted.get()) == ("SUCCESS", "aborted")
    cancelled = run_job(migrating["pack_after"], 2, cancel_at=0, cancel_reason="wrong files")
    assert (cancelled.state, cancelled.reason) == ("REVOKED", "wrong files")


@pytest.mark.parametrize("name", ["send_before", "send_after"])
def test_both_ways_to_retry_are_recorded(page: Callable[[str], Page], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """I4: with the class, and with the reason where there is one; past the limit each has its own error."""
    migrating = page("migrating.md")

    def refuse(order: int) -> int:
        raise ConnectionError("refused")

    monkeypatch.setitem(migrating, "deliver", refuse)
    run = run_job(migrating[name], 7)
    assert (run.state, run.attempts, run.delays) == ("FAILURE", 4, (30.0, 30.0, 30.0))
    reason = {"send_before": "refused", "send_after": "the carrier does not answer"}[name]
    assert (run.history[0].reason, run.history[0].error) == (reason, "ConnectionError")
    assert type(run.exception) is {"send_before": ConnectionError, "send_after": MaxRetriesExceededError}[name]
    with pytest.raises(ConnectionError if name == "send_before" else RetryError):
        migrating[name](7)


@pytest.mark.parametrize(
    ("task_cls", "annotation", "options"),
    [(Task, Context, {}), (ContextTask, Context, {"base": Task}), (ContextTask, "Contxt", {})],
    ids=["another app", "another base", "a slip"],
)
def test_a_task_that_is_given_no_context_says_so_as_the_page_has_it(
    task_cls: type[Any], annotation: Any, options: dict[str, Any]
) -> None:
    """A1: the words are Celery's; faq.md says what they mean."""

    def work(data: dict[str, Any], ctx: Any) -> None:
        """Do nothing."""

    work.__annotations__["ctx"] = annotation
    error = "missing 1 required positional argument: 'ctx'"
    assert f"### `TypeError: … {error}`" in (DOCS / "faq.md").read_text("utf-8")
    with tasks_of_their_own(), pytest.raises(TypeError, match=error):
        eager_app(task_cls).task(work, **options).delay({})


def test_the_front_page_of_the_documentation(page: Callable[[str], Page]) -> None:
    """A1, E7, F1."""
    run = run_job(page("README.md")["import_rows"], {"rows": 2})
    assert (run.result, len(run.logs), run.progress[-1]["percent"]) == (2, 2, 100.0)


def test_the_code_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """A1, E7, E8, F5, I1, O1: the task, the handle and the test, with something to read and to store."""
    task, observer, test = blocks_of("../README.md")
    waits = iter([None, 7, None, None])
    names: Page = {"__name__": "shop", "read": lambda _: ["a", "b", "c"], "store": lambda _: next(waits)}
    with tasks_of_their_own():
        exec(task, names)
        run = run_job(names["import_rows"], {"source": "orders.csv"})
        assert (run.state, run.result, run.attempts, run.delays) == ("SUCCESS", 3, 2, (7.0,))
        assert run.history[0].reason == "rate limited"
        assert [value["percent"] for value in run.progress] == [33.33, 66.67, 100.0], "it goes on where it was"

        exec(observer, {"import_rows": SimpleNamespace(delay=lambda _: run.handle)})
        assert capsys.readouterr().out == "info starting {'source': 'orders.csv'}\n" * 2

        names["store"] = lambda _: None
        exec(test, names)
        Runtime.forget(names["app"])
