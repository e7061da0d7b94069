"""The examples in the documentation run."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery import LocalContext, local_context
from taskora_celery.runtime import Runtime
from tests.support.eager_apps import tasks_of_their_own
from tests.support.pages import code_of
from tests.support.slow_pages import SENT, SlowPages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _run_examples(page: str) -> dict[str, Any]:
    """Run the Python blocks of a page one after the other, and return what they defined."""
    namespace: dict[str, Any] = {"__name__": page}
    exec(compile(code_of(page), page, "exec", dont_inherit=True), namespace)
    return namespace


def test_the_examples_of_long_jobs_run() -> None:
    """E8, D7: the job goes through all rows, the guard refuses an earlier delivery, and the history can be printed."""
    examples = _run_examples("long-jobs.md")
    handle = examples["export"].apply(({"rows": 3},))
    assert (handle.get(), handle.get_progress()["percent"]) == (3, 100.0)
    assert examples["export"].acks_late, "as the page says"
    assert examples["export"].reject_on_worker_lost
    examples["tell"](handle)
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE invoices (id, paid, fence)")
        database.execute("INSERT INTO invoices VALUES (1, 0, 0)")
        assert examples["mark_paid"](database, 1, fence=2)
        assert examples["mark_paid"](database, 1, fence=2), "the same delivery may write again"
        assert not examples["mark_paid"](database, 1, fence=1)


@pytest.fixture
def coroutines() -> Iterator[dict[str, Any]]:
    """What docs/coroutines.md defines."""
    with tasks_of_their_own():
        examples = _run_examples("coroutines.md")
        yield examples
        Runtime.forget(examples["app"])


def test_the_ways_to_write_a_coroutine(coroutines: dict[str, Any]) -> None:
    """M1, A4: a function, bound, a class, pydantic; and called directly."""
    greeted = coroutines["greet"].apply(({"name": "you", "times": 3, "pause": 0},))
    assert (greeted.get(), greeted.get_progress()["percent"]) == ("hello you", 100.0)
    shipped = coroutines["ship"].apply(({"order": 7},))
    assert shipped.get() == shipped.id
    assert coroutines["audit"].apply(({"pause": 0},)).get() == 1
    assert coroutines["double"].apply(({"amount": 3},)).get() == {"amount": 6}
    assert asyncio.run(coroutines["greet"]({"name": "you", "times": 1, "pause": 0})) == "hello you"


def test_the_client_of_coroutines_is_made_once(coroutines: dict[str, Any]) -> None:
    """M1: one loop, one client; another loop has another."""
    with SlowPages() as pages:
        for _ in range(2):
            assert coroutines["fetch"].apply(({"url": f"{pages.url}/whole"},)).get() == SENT
        assert coroutines["client_of"].cache_info().misses == 1
        assert asyncio.run(coroutines["fetch"]({"url": f"{pages.url}/whole"})) == SENT
        assert coroutines["client_of"].cache_info().misses == 2


def test_a_coroutine_that_is_stopped_gives_the_seat_back(coroutines: dict[str, Any]) -> None:
    """M2: with the reason; and books where nobody stops it."""
    book = coroutines["book"]
    assert book.apply(({"seat": 1, "pause": 0},)).get() == "booked"

    async def stopped(ctx: LocalContext) -> None:
        booking = asyncio.ensure_future(book({"seat": 1, "pause": 60}, ctx=ctx))
        await asyncio.sleep(0)
        ctx.signal.abort("shutdown")
        booking.cancel()
        await booking

    ctx = local_context()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stopped(ctx))
    assert [(entry.message, entry.meta) for entry in ctx.get_logs()][1:] == [("giving the seat back", {"reason": "shutdown"})]


def test_a_task_that_is_kept_on_purpose_serves_the_next_job(coroutines: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """M1: it is no job's."""
    for _ in range(2):
        assert coroutines["convert"].apply(({"amount": 3},)).get() == 3.0
    (task,) = coroutines["kept"]
    assert not task.done()
    assert "that it had started" not in caplog.text


def test_what_blocks_goes_into_threads_and_processes(coroutines: dict[str, Any], tmp_path: Path) -> None:
    """M3: a file, a digest, a program."""
    path = tmp_path / "lines"
    path.write_text("a\nb\n")
    assert coroutines["checksum"].apply(({"path": str(path)},)).get() == hashlib.sha256(b"a\nb\n").hexdigest()
    assert coroutines["count_lines"].apply(({"path": str(path)},)).get() == 2


def test_the_examples_of_typing_run() -> None:
    """N1: at run time, typed tasks are tasks as ever; type checkers read the page in ``test_typing.py``."""
    examples = _run_examples("typing.md")
    assert examples["import_rows"].apply(({"source": "orders.csv"},), {"batch": 5}).get() == 5
    assert examples["index"].apply(("abc",)).get() == 3
    assert examples["index"] is examples["app"].tasks["shop.index"]


def test_the_examples_of_tests_pass(monkeypatch: pytest.MonkeyPatch, job_runner: Any, job_context: Any) -> None:
    """O1, O2: every test on the page, with its fixtures."""
    examples = _run_examples("testing.md")
    fixtures = {"monkeypatch": monkeypatch, "job_runner": job_runner, "job_context": job_context}
    tests = {name: value for name, value in examples.items() if name.startswith("test_")}
    assert len(tests) >= 10
    for test in tests.values():
        test(**{name: fixtures[name] for name in inspect.signature(test).parameters})
        monkeypatch.undo()
