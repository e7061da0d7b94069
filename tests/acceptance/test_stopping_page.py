"""The code on docs/stopping.md, in real workers: against real processes, a real web server, a real PostgreSQL."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery import JobCancelledError, JobHandle
from tests.support.apps import pointed_at
from tests.support.postgres_server import PostgresNotFoundError, PostgresServer
from tests.support.processes import group_members
from tests.support.redis_fixtures import SHARED_DATABASES
from tests.support.slow_pages import SENT, SlowPages
from tests.support.waiting import wait_until
from tests.support.worker import ALL_POOLS, Worker, worker_env

if TYPE_CHECKING:
    from tests.support.redis_server import RedisServer

for needed in ("requests", "httpx", "psycopg"):
    pytest.importorskip(needed)

from tests.support import stopping_page as page  # noqa: E402 - its code imports what was asked for

#: The first of the databases that are no other worker's.
_DATABASE = 15
#: Seconds within which a recipe has ended its job: much less than the shortest grace on the page, at which it is interrupted.
PROMPTLY = 3.0
#: Only one greenlet of a thread can be in `asyncio.run`; psycopg knows gevent, but not eventlet.
FOR_ASYNCIO = ["prefork", "threads", "solo"]
FOR_PSYCOPG = [*FOR_ASYNCIO, "gevent"]


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
    directory = tmp_path_factory.mktemp(f"page-{pool}")
    with Worker("tests.support.stopping_page:app", pool, log_dir=directory, env=worker_env(url)) as started:
        started.wait_ready()
        with pointed_at(page.app, url):
            yield started


@pytest.fixture
def pages() -> Iterator[SlowPages]:
    """A web server that takes its time."""
    with SlowPages() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL; skips where there is none."""
    try:
        server = PostgresServer()
    except PostgresNotFoundError as error:
        pytest.skip(str(error))
    with server:
        yield server


def _cancelled(handle: JobHandle, once: Callable[[], Any]) -> float:
    """Cancel a job as soon as it is where it should be; return the seconds that its end took."""
    wait_until(once, f"the point at which {handle.id} is cancelled")
    # One that has no record yet has not begun, as far as anybody knows, and is cancelled without a word from it.
    wait_until(lambda: _runs(handle), f"the record of {handle.id}")
    asked = time.monotonic()
    assert handle.cancel("not needed any more", wait=30).outcome == "cancelled"
    took = time.monotonic() - asked
    with pytest.raises(JobCancelledError, match="not needed any more"):
        handle.get(timeout=10)
    phases = [event.data["phase"] for event in handle.events(timeout=5) if event.kind == "cancel"]
    assert not {"interrupted", "killed"} & set(phases), "the recipe was to end it, in time"
    return took


def _runs(handle: JobHandle) -> bool:
    try:
        return handle.record().state == "STARTED"
    except LookupError:
        return False


def _processes(*command: str) -> list[int]:
    """The ids of the processes that were started with exactly this command."""
    wanted = "\0".join(command).encode() + b"\0"
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == wanted:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_the_beginning(worker: Worker, tmp_path: Path) -> None:
    """G1, G3, G5: a handler that sleeps and looks ends at once, and ``on_cancel`` removes what it wrote."""
    target = tmp_path / "export"
    handle = page.export.delay({"target": str(target), "rows": 600})
    wait_until(lambda: target.exists() and target.read_text(), "the first row")
    wait_until(lambda: _runs(handle), "the record")
    asked = time.monotonic()
    assert page.stop(handle) == "cancelled"
    assert time.monotonic() - asked < PROMPTLY
    assert not target.exists()
    assert page.stop_by_id(handle.id) == "cancelled"


def test_a_shielded_block_is_whole(worker: Worker) -> None:
    """G4: what is cancelled is cancelled between two rows."""
    assert page.transfer.delay({"rows": ["a", "b"]}).get(timeout=20) == 2


def test_more_time(worker: Worker) -> None:
    """H3: within the hard limit there is more; beyond it, where the pool keeps one, the page's handler goes on without."""
    more, much = page.bill.delay({"more": 30}), page.bill.delay({"more": 3000})
    assert 80 < more.get(timeout=20) < 91
    kept = worker.pool in {"prefork", "gevent"}
    low, high = (50, 61) if kept else (3050, 3061)
    assert low < much.get(timeout=20) < high
    assert [entry.message for entry in much.get_logs()] == (["no more time"] if kept else [])


def test_a_process_ends_with_its_job(worker: Worker, tmp_path: Path) -> None:
    """It waits for a pipe that nobody writes to, and is gone."""
    source, target = tmp_path / "source", tmp_path / "target"
    os.mkfifo(source)
    handle = page.sort_file.delay({"source": str(source), "target": str(target)})
    command = ("sort", "-o", str(target), str(source))
    assert _cancelled(handle, lambda: _processes(*command)) < PROMPTLY
    assert _processes(*command) == []


def test_a_process_does_its_work(worker: Worker, tmp_path: Path) -> None:
    """Where nobody cancels."""
    (tmp_path / "source").write_text("b\na\n")
    handle = page.sort_file.delay({"source": str(tmp_path / "source"), "target": str(tmp_path / "target")})
    assert handle.get(timeout=20) == 4
    assert (tmp_path / "target").read_text() == "a\nb\n"


def test_what_a_process_says_is_read_until_the_job_is_to_stop(worker: Worker, tmp_path: Path) -> None:
    """The read ends with the process."""
    source = tmp_path / "source"
    source.write_text("one\ntwo\n")
    handle = page.follow_file.delay({"source": str(source)})
    assert _cancelled(handle, lambda: handle.get_progress() == {"lines": 2, "last": "two"}) < PROMPTLY
    assert _processes("tail", "-n", "+1", "-f", str(source)) == []


def test_a_download_by_requests_ends_with_its_job(worker: Worker, pages: SlowPages) -> None:
    """In the middle of a body that does not come."""
    assert page.download.delay({"url": f"{pages.url}/whole"}).get(timeout=20) == SENT
    pages.asked.clear()
    handle = page.download.delay({"url": f"{pages.url}/body"})
    assert _cancelled(handle, pages.asked.is_set) < PROMPTLY


@pytest.mark.parametrize("where", ["body", "headers"])
def test_a_download_by_httpx_ends_with_its_job(worker: Worker, pages: SlowPages, where: str) -> None:
    """In the middle of a body, and before anything was answered."""
    if worker.pool == "eventlet" and find_spec("trio"):
        pytest.skip("httpx imports trio where it is installed, and that fails under eventlet, whose sockets have no sendmsg")
    assert page.download_by_httpx.delay({"url": f"{pages.url}/whole"}).get(timeout=20) == SENT
    pages.asked.clear()
    handle = page.download_by_httpx.delay({"url": f"{pages.url}/{where}"})
    assert _cancelled(handle, pages.asked.is_set) < PROMPTLY


@pytest.mark.parametrize("worker", FOR_PSYCOPG, indirect=True)
def test_a_query_ends_with_its_job(worker: Worker, postgres: PostgresServer) -> None:
    """The server does not go on with it, either."""
    import psycopg

    dsn = postgres.dsn
    assert page.count_rows.delay({"dsn": dsn, "query": "SELECT 42"}).get(timeout=20) == 42
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT 1 FROM pg_sleep%' AND state = 'active'"
    with psycopg.connect(dsn, autocommit=True) as connection:

        def queries() -> int:
            row = connection.execute(running).fetchone()
            return 0 if row is None else int(row[0])

        handle = page.count_rows.delay({"dsn": dsn, "query": "SELECT 1 FROM pg_sleep(600)"})
        assert _cancelled(handle, lambda: queries() == 1) < PROMPTLY
        wait_until(lambda: queries() == 0, "the end of the query", 5)


def test_a_coroutine_ends_with_its_job(worker: Worker) -> None:
    """M2: a handler that is one, in every pool."""
    assert page.wait_for_all.delay({"pauses": [0, 0.01]}).get(timeout=20) == 2
    handle = page.wait_for_all.delay({"pauses": [600, 600]})
    assert _cancelled(handle, lambda: True) < PROMPTLY


@pytest.mark.parametrize("worker", FOR_ASYNCIO, indirect=True)
def test_a_loop_of_a_handlers_own_ends_with_its_job(worker: Worker) -> None:
    """``asyncio.run`` inside a plain handler."""
    assert page.wait_in_own_loop.delay({"pauses": [0, 0.01]}).get(timeout=20) == 2
    handle = page.wait_in_own_loop.delay({"pauses": [600, 600]})
    assert _cancelled(handle, lambda: True) < PROMPTLY


@pytest.mark.parametrize("worker", ["prefork", "threads"], indirect=True)
def test_a_shutdown_puts_a_process_and_its_job_back(worker: Worker, tmp_path: Path) -> None:
    """I3: what waits for a process does not keep a worker from going; the next one has the job."""
    source = tmp_path / "source"
    os.mkfifo(source)
    command = ("sort", "-o", str(tmp_path / "target"), str(source))
    process = page.sort_file.delay({"source": str(source), "target": command[2]})
    rows = page.reindex.delay({"documents": 40, "pause": 0.25})
    wait_until(lambda: _processes(*command), "the process")
    wait_until(lambda: _runs(rows), "the other job")
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert _processes(*command) == []
    assert group_members(worker.pid) == []
    worker.restart()
    wait_until(lambda: _processes(*command), "the process, again")
    assert process.cancel(wait=30).outcome == "cancelled"
    assert rows.get(timeout=30) == 40
    assert rows.record().attempt == 1
