"""The reporter with a real Redis: written, resumed and bounded, whatever Redis does."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from taskora_celery.context import Context
from taskora_celery.encoding import unpack
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.reading import logs_of, progress_of, status_of
from taskora_celery.records import Outcome
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.reporter import Reporter
from taskora_celery.runtime import Runtime
from taskora_celery.settings import Settings
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.protocol import Begin, Ended
from taskora_celery.store.redis import RedisStore
from tests.support.redis_server import RedisServer, free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

TIMEOUT = 0.3  # seconds; `taskora_final_flush_timeout` of these tests


class Rig:
    """A reporter and the store that it writes to."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.settings = Settings(**{"flush_interval": 0.01, "final_flush_timeout": TIMEOUT, **settings})
        self.store = RedisStore(Endpoint(url), ttl=600, timeout=TIMEOUT)
        self.reporter = Reporter(self.store, self.settings, Redactor())

    def begin(self, job_id: str = "job-1") -> Context:
        ctx = Context(job_id, "shop.work", buffer_limit=self.settings.buffer_limit)
        self.reporter.begin(ctx, Begin(job_id, "shop.work", 1, "w1@host", 1, int(time.time() * 1000)))
        return ctx

    def end(self, ctx: Context, state: str = Outcome.SUCCESS) -> None:
        self.reporter.flush(ctx, Ended(state, int(time.time() * 1000)))
        self.reporter.release(ctx)
        ctx.retire()

    def messages(self, job_id: str = "job-1") -> list[str]:
        entries = logs_of(self.store.read(job_id, 0), 100_000, level=None, attempt=None, after=None, limit=None)
        return [entry.message for entry in entries]

    def progress(self, job_id: str = "job-1") -> Any:
        return progress_of(self.store.read(job_id))[0]

    def state(self, job_id: str = "job-1") -> str | None:
        try:
            found = self.store.read(job_id)
        except StoreUnavailableError:
            return None
        return None if found is None else found.fields["s"]

    def close(self) -> None:
        self.reporter.close()
        self.store.close()


@pytest.fixture
def make_rig(redis_url: str) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(url: str = redis_url, **settings: Any) -> Rig:
        rigs.append(Rig(url, **settings))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of one's own, to be killed and paused."""
    with RedisServer() as server:
        yield server


def took(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def test_a_jobs_whole_record_is_there_when_its_end_was_flushed(make_rig: Callable[..., Rig]) -> None:
    """E3, F4: progress, every entry, the checkpoint and the outcome."""
    rig = make_rig()
    ctx = rig.begin()
    for n in range(1_000):
        ctx.log.info(f"{n}", n=n)
        ctx.progress(n)
    ctx.checkpoint({"row": 999})
    rig.end(ctx, Outcome.FAILURE)
    found = rig.store.read("job-1")
    assert found is not None
    assert (rig.messages(), rig.progress(), found.fields["s"]) == ([f"{n}" for n in range(1_000)], 999, Outcome.FAILURE)
    assert unpack(found.fields["k"]) == {"row": 999}


def test_fifty_jobs_cost_one_pipeline_a_flush(make_rig: Callable[..., Rig], redis_client: redis.Redis) -> None:
    """E3, P15: one connection writes for all jobs of the process."""
    rig = make_rig(flush_interval=0.2)
    jobs = [rig.begin(f"job-{n}") for n in range(50)]
    for n in range(20):
        for ctx in jobs:
            ctx.progress(n)
    wait_until(lambda: all(rig.progress(ctx.id) == 19 for ctx in jobs), "the last value of all jobs")
    commands = [client["cmd"] for client in redis_client.client_list() if client["db"] == _db(redis_client)]
    assert commands.count("evalsha") == 2  # the writer, and the reader of this test


def _db(client: redis.Redis) -> str:
    return str(client.connection_pool.connection_kwargs["db"])


def test_an_idle_process_sends_nothing(make_rig: Callable[..., Rig]) -> None:
    """P11: with a job that has nothing to say, Redis hears nothing."""
    with RedisServer() as server:  # of its own: workers of other tests talk to the shared one
        rig = make_rig(server.url())
        ctx = rig.begin()
        ctx.progress(1)
        wait_until(lambda: rig.progress() == 1, "the progress")
        wait_until(lambda: not rig.reporter._wake.is_set() and not rig.reporter._lock.locked(), "the reporter to sleep")
        with server.client() as client:
            before = int(client.info("stats")["total_commands_processed"])
            rig.reporter._stop.wait(0.3)
            assert int(client.info("stats")["total_commands_processed"]) - before <= 1
        rig.end(ctx)


def test_a_dead_redis_costs_a_job_no_time(make_rig: Callable[..., Rig]) -> None:
    """L1: nothing is raised, and no call waits longer than it may."""
    rig = make_rig(f"redis://127.0.0.1:{free_port()}/0")
    ctx = rig.begin()

    def work() -> None:
        for n in range(1_000):
            ctx.progress(n)
            ctx.log.info("m")
            ctx.heartbeat()
        ctx.checkpoint(1)

    assert took(work) < 0.5
    assert took(lambda: rig.end(ctx)) < 3 * TIMEOUT


def test_a_hanging_redis_holds_up_begin_and_end_only_so_long(make_rig: Callable[..., Rig], server: RedisServer) -> None:
    """L1: `taskora_final_flush_timeout` bounds each wait; what was said is written when Redis goes on."""
    rig = make_rig(server.url())
    first = rig.begin("job-1")
    server.pause()
    first.log.info("during")
    assert took(lambda: rig.end(first)) < 4 * TIMEOUT
    second: list[Context] = []
    assert took(lambda: second.append(rig.begin("job-2"))) < 3 * TIMEOUT
    second[0].log.info("b")
    assert took(lambda: rig.end(second[0])) < 4 * TIMEOUT
    server.resume()
    wait_until(lambda: rig.state("job-1") == Outcome.SUCCESS and rig.state("job-2") == Outcome.SUCCESS, "both ends")
    assert (rig.messages("job-1"), rig.messages("job-2")) == (["during"], ["b"])


def test_threads_do_not_wait_for_a_hanging_redis_one_after_the_other(make_rig: Callable[..., Rig], server: RedisServer) -> None:
    """L1: in a threads pool many jobs begin at once, and each waits for no more than its own time."""
    rig = make_rig(server.url())
    rig.begin("warm")
    server.pause()
    waits: list[float] = []
    threads = [threading.Thread(target=lambda n=n: waits.append(took(lambda: rig.begin(f"job-{n}")))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    server.resume()
    assert len(waits) == 20
    assert max(waits) < 4 * TIMEOUT


def test_a_restart_of_redis_loses_nothing_that_was_not_written(make_rig: Callable[..., Rig], server: RedisServer) -> None:
    """L1: also where Redis comes back empty: the job is registered anew, and what it lost is counted."""
    rig = make_rig(server.url())
    ctx = rig.begin()
    ctx.log.info("lost with the server")
    ctx.progress(10)
    wait_until(lambda: rig.progress() == 10 and rig.messages(), "the first reports")
    server.kill()
    ctx.log.info("while it is away")
    ctx.progress(20)
    server.start()
    wait_until(lambda: rig.state() == "STARTED" and rig.messages() == ["while it is away"], "the registration")
    rig.end(ctx)
    wait_until(lambda: rig.state() == Outcome.SUCCESS, "the end")
    status = status_of("job-1", rig.store.read("job-1"), 100_000)
    assert (status.progress, status.logs, status.dropped_logs) == (20, 2, 1)


def test_flushall_in_the_middle_of_a_job_is_survived(make_rig: Callable[..., Rig], redis_client: redis.Redis) -> None:
    """L1: the record is made anew, with the checkpoint and the progress of before."""
    rig = make_rig()
    ctx = rig.begin()
    ctx.progress(50)
    ctx.checkpoint([3])
    wait_until(lambda: rig.progress() == 50, "the progress")
    redis_client.flushdb()
    ctx.log.info("after")
    wait_until(lambda: rig.messages() == ["after"], "the entry after the loss")
    found = rig.store.read("job-1")
    assert found is not None
    assert (progress_of(found)[0], unpack(found.fields["k"])) == (50, [3])


def test_a_connection_that_is_killed_costs_no_report(make_rig: Callable[..., Rig], redis_client: redis.Redis) -> None:
    """L1: in the middle of a flush or between two."""
    rig = make_rig()
    ctx = rig.begin()
    for n in range(50):
        ctx.log.info(f"{n}")
        if n % 10 == 0:
            redis_client.client_kill_filter(_type="normal", skipme=True)
    rig.end(ctx)
    wait_until(lambda: rig.state() == Outcome.SUCCESS, "the end")
    assert rig.messages() == [f"{n}" for n in range(50)]


@pytest.mark.parametrize("config", ["maxmemory 1", "replicaof 127.0.0.1 1"], ids=["full", "read-only"])
def test_a_redis_that_refuses_writes_is_an_outage_like_any_other(make_rig: Callable[..., Rig], config: str, caplog: Any) -> None:
    """L1: out of memory, or a replica after a failover: no job fails, and the log says why."""
    with RedisServer(config) as server:
        rig = make_rig(server.url())
        ctx = rig.begin()
        ctx.log.info("a")
        rig.end(ctx)
        rig.close()
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1


@pytest.mark.parametrize(
    "url",
    ["redis://127.0.0.1:{port}/9999", "redis+cluster://127.0.0.1:{port}", "redis://127.0.0.1:{port}/0?socket_timeout=soon",
     "sentinel://127.0.0.1:{port}/0", "unix:///no/such/socket"],
)  # fmt: skip
def test_a_redis_that_cannot_be_used_fails_no_job(make_rig: Callable[..., Rig], server: RedisServer, url: str) -> None:
    """L1: a wrong database, kind of server or option."""
    rig = make_rig(url.format(port=server.port))
    ctx = rig.begin()
    ctx.progress(1)
    rig.end(ctx)
    with pytest.raises(StoreUnavailableError):
        rig.store.read("job-1")


def test_a_wrong_password_fails_no_job_and_is_not_shown(make_rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture) -> None:
    """L1, F7: the log says that Redis refused, without the secret."""
    with RedisServer(password="right") as server:
        rig = make_rig(f"redis://:hunter2@127.0.0.1:{server.port}/0")
        ctx = rig.begin()
        ctx.progress(1)
        rig.end(ctx)
        with pytest.raises(StoreUnavailableError) as caught:
            rig.store.read("job-1")
        rig.close()
    assert "cannot be written" in caplog.text
    assert "hunter2" not in caplog.text + str(caught.value)


def test_the_buffer_is_bounded_while_redis_is_away(make_rig: Callable[..., Rig], server: RedisServer) -> None:
    """L1: the oldest entries go first, and the record says how many."""
    rig = make_rig(server.url(), buffer_limit=100)
    ctx = rig.begin()
    server.kill()
    for n in range(5_000):
        ctx.log.info(f"{n}")
    ctx.progress(5)
    server.start()
    wait_until(lambda: rig.state() == "STARTED" and rig.messages()[-1:] == ["4999"], "the newest entries")
    status = status_of("job-1", rig.store.read("job-1"), 100_000)
    assert len(rig.messages()) + status.dropped_logs == status.logs == 5_000
    assert len(rig.messages()) <= 200


# --- fork ----------------------------------------------------------------------------------------------------------------


def run_in_child(work: Callable[[], None]) -> int:
    """Run it in a forked child, and return the child's exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)

    def gone() -> int | None:
        done, status = os.waitpid(pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) + 1_000 if done else None

    try:
        return int(wait_until(gone, "the child to end", timeout=20) or 0) - 1_000
    except AssertionError:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        raise


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("shop", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.taskora_flush_interval = 0.01
    yield app
    Runtime.forget(app)


def report_one(runtime: Runtime, job_id: str) -> Context:
    ctx = Context(job_id, "shop.work")
    begun = runtime.reporter.begin(ctx, Begin(job_id, "shop.work", 1, "w", 1, int(time.time() * 1000)))
    assert begun is not None
    ctx.log.info(f"of {job_id}")
    runtime.reporter.flush(ctx, Ended(Outcome.SUCCESS, 1))
    runtime.reporter.release(ctx)
    return ctx


def test_a_child_makes_its_own_reporter(app: Celery) -> None:
    """Fork: the parent's thread and connections stay the parent's, and nothing is written twice."""
    parent = Runtime.of(app)
    report_one(parent, "before")
    waiting = Context("parents", "shop.work")
    parent.reporter.begin(waiting, Begin("parents", "shop.work", 1, "w", 1, 1))

    def child() -> None:
        own = Runtime.of(app)
        assert own is not parent
        assert own.reporter._live == {}
        report_one(own, "child")
        own.close()

    assert run_in_child(child) == 0
    report_one(parent, "after")
    waiting.log.info("still the parent's")
    parent.reporter.flush(waiting, Ended(Outcome.SUCCESS, 1))
    store = parent.readable()
    for job_id in ("before", "child", "after", "parents"):
        assert status_of(job_id, store.read(job_id), 10).logs == 1


def test_a_fork_while_every_lock_is_held_does_not_deadlock_the_child(app: Celery) -> None:
    """Fork: another thread may be in the middle of anything."""
    parent = Runtime.of(app)
    report_one(parent, "before")
    with Runtime._lock, parent.reporter._lock, parent.reporter._start_lock:
        assert run_in_child(lambda: Runtime.of(app).close() if report_one(Runtime.of(app), "child") else None) == 0
    report_one(parent, "after")


def test_a_child_of_a_child_works_too(app: Celery) -> None:
    """Fork: a handler may fork by itself."""
    report_one(Runtime.of(app), "before")

    def child() -> None:
        report_one(Runtime.of(app), "child")
        assert run_in_child(lambda: Runtime.of(app).close() if report_one(Runtime.of(app), "grandchild") else None) == 0
        Runtime.of(app).close()

    assert run_in_child(child) == 0
    assert Runtime.of(app).readable().read("grandchild") is not None
