"""The code on docs/coroutines.md, in real workers."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskora_celery import JobCancelledError, JobHandle
from tests.support.apps import pointed_at
from tests.support.redis_fixtures import SHARED_DATABASES
from tests.support.slow_pages import SENT, SlowPages
from tests.support.waiting import wait_until
from tests.support.worker import ALL_POOLS, Worker, worker_env

if TYPE_CHECKING:
    from tests.support.redis_server import RedisServer

for needed in ("httpx", "pydantic"):
    pytest.importorskip(needed)

from tests.support import coroutines_page as page  # noqa: E402 - its code imports what was asked for

#: Another file's worker uses it, too, and has ended.
_DATABASE = 15
#: Where there is a place for a job besides the one that waits for it.
POOLS_WITH_PLACES = ["prefork", "threads", "gevent", "eventlet"]


@pytest.fixture(scope="module", params=ALL_POOLS)
def worker(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """A worker of the page's app, for each pool; the page's app here is pointed at its database."""
    pool = str(request.param)
    number = SHARED_DATABASES[_DATABASE]
    with redis_server.client(number) as client:
        client.flushdb()
    url = redis_server.url(number)
    directory = tmp_path_factory.mktemp(f"coroutines-{pool}")
    with Worker("tests.support.coroutines_page:app", pool, log_dir=directory, env=worker_env(url)) as started:
        started.wait_ready()
        with pointed_at(page.app, url):
            yield started


def test_each_way_to_write_one(worker: Worker) -> None:
    """M1, A4: a function, bound, a class, pydantic, in every pool."""
    shipped = page.ship.delay({"order": 7})
    assert page.greet.delay({"name": "you", "times": 2, "pause": 0}).get(timeout=20) == "hello you"
    assert shipped.get(timeout=20) == shipped.id
    assert page.audit.delay({"pause": 0}).get(timeout=20) == 1
    assert page.double.delay({"amount": 3}).get(timeout=20) == {"amount": 6}


def test_what_is_shared_and_kept(worker: Worker) -> None:
    """M1: a background task of the process outlives the job that happened to start it, and nothing is told of it."""
    assert [page.convert.delay({"amount": n}).get(timeout=20) for n in range(4)] == [0.0, 1.0, 2.0, 3.0]
    assert "that it had started" not in worker.logs()


def test_a_client_serves_job_after_job(worker: Worker) -> None:
    """M1: its connections belong to the loop, which stays; also behind a job that was cancelled in the middle of a request."""
    if worker.pool == "eventlet" and find_spec("trio") is not None:
        pytest.skip("trio, which httpx looks for, cannot be imported under eventlet")
    with SlowPages() as pages:
        assert page.fetch.delay({"url": f"{pages.url}/whole"}).get(timeout=20) == SENT
        pages.asked.clear()
        slow = page.fetch.delay({"url": f"{pages.url}/body"})
        wait_until(pages.asked.is_set, "the request")
        wait_until(lambda: _recorded(slow), "the record")
        assert slow.cancel(wait=30).outcome == "cancelled"
        assert [page.fetch.delay({"url": f"{pages.url}/whole"}).get(timeout=20) for _ in range(4)] == [SENT] * 4


def _recorded(handle: JobHandle) -> bool:
    try:
        return handle.record().state == "STARTED"
    except LookupError:
        return False


def test_what_is_awaited_ends_with_the_job(worker: Worker) -> None:
    """M2, G5: and the handler, and `on_cancel`, may await while they clean up."""
    for task, data, at_work, said in (
        # It has a record before its first step, and could be cancelled there: its cleaning up begins with what it logs.
        (page.book, {"seat": 1, "pause": 600}, JobHandle.get_logs, ["reserved", "giving the seat back"]),
        (page.audit, {"pause": 600}, _recorded, ["cleaned up"]),
    ):
        handle = task.delay(data)
        wait_until(lambda handle=handle, at_work=at_work: at_work(handle), "the handler at work")  # type: ignore[misc]
        assert handle.cancel("not needed any more", wait=30).outcome == "cancelled"
        with pytest.raises(JobCancelledError, match="not needed any more"):
            handle.get(timeout=10)
        assert [entry.message for entry in handle.get_logs()] == said
    assert page.book.delay({"seat": 1, "pause": 0}).get(timeout=20) == "booked"


def test_threads_and_processes(worker: Worker, tmp_path: Path) -> None:
    """M3: what would block the loop, also where that is in no main thread, or a greenlet."""
    path = tmp_path / "lines"
    path.write_text("a\nb\n")
    assert page.count_lines.delay({"path": str(path)}).get(timeout=20) == 2
    assert len(page.checksum.delay({"path": str(path)}).get(timeout=20)) == 64


@pytest.mark.parametrize("worker", POOLS_WITH_PLACES, indirect=True)
def test_a_job_that_sends_another_and_follows_it(worker: Worker) -> None:
    """M1, J2: without blocking the loop; it is its child."""
    handle = page.report.delay({"name": "you"})
    child = page.greet.AsyncResult(handle.get(timeout=30))
    assert child.get(timeout=10) == "hello you"
    wait_until(lambda: [found.id for found in handle.children or []] == [child.id], "the parent's children")
    assert "state" in {entry.meta["kind"] for entry in handle.get_logs()}
    assert "that it had started" not in worker.logs(), "the connections by which it follows are the loop's"
