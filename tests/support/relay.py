"""Workers of one pool that follow one another on a database of their own: for tests that kill, stop and replace them."""

from __future__ import annotations

import contextlib
import json
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis

from tests.support import gates
from tests.support.apps import pointed_at
from tests.support.key_leaks import assert_keys_expire
from tests.support.redis_fixtures import SHARED_DATABASES
from tests.support.reports import watch
from tests.support.waiting import wait_until
from tests.support.worker import ALL_POOLS, Worker, worker_env

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.redis_server import RedisServer

APP = "tests.support.fault_jobs:app"
PLAIN_APP = "tests.support.plain_jobs:app"
#: Seconds for which a message stays invisible in the relays that are swept.
VISIBILITY_TIMEOUT = 2.0
#: Seconds between two sweeps of kombu's.
SWEEP = 1.0
#: Seconds after which kombu gives up the mutex of a sweep whose worker was killed.
MUTEX_EXPIRE = 5
#: Jobs that a worker runs at once (but for a solo worker).
CONCURRENCY = 7
#: Messages that it holds besides: more than any test sends.
_PREFETCH = 20

#: What is not renewed is delivered again after two seconds, by kombu's own sweep in the pools where it works. A worker that is
#: killed within its sweep leaves the sweep's mutex behind, for five minutes unless kombu is told otherwise: a keeper of the
#: library passes over that after two seconds, but where only workers without the library are left, nobody sweeps.
SWEPT: dict[str, Any] = {
    "broker_transport_options": {
        "visibility_timeout": VISIBILITY_TIMEOUT,
        "unacked_restore_interval": SWEEP,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": MUTEX_EXPIRE,
    },
    "worker_prefetch_multiplier": _PREFETCH,
}
#: kombu's defaults, written down: nobody gets a lost message back within an hour, and nobody looks within 100 seconds.
UNSWEPT: dict[str, Any] = {
    "broker_transport_options": {"visibility_timeout": 3600},
    "worker_prefetch_multiplier": _PREFETCH,
}
#: What is not renewed is due after two seconds, and kombu does not look: whatever comes back was put back by a worker's keeper.
LEFT_TO_US: dict[str, Any] = {
    "broker_transport_options": {"visibility_timeout": VISIBILITY_TIMEOUT, "unacked_restore_interval": 3600},
    "worker_prefetch_multiplier": _PREFETCH,
}
#: The first of the databases for this: those before belong to other workers that are shared.
_FIRST = 20


class Relay:
    """The workers of one app, pool and configuration; whichever of them lives is used by the next test, too."""

    def __init__(self, pool: str, settings: dict[str, Any], redis_url: str, log_dir: Path, app: str) -> None:
        self.pool = pool
        self.settings = settings
        self.redis_url = redis_url
        #: How many jobs each worker runs at once.
        self.slots = 1 if pool == "solo" else CONCURRENCY
        self._app = app
        self._log_dir = log_dir
        self._workers: list[Worker] = []
        #: The test at hand, whose report shows the workers' logs.
        self.node: pytest.Item | None = None

    @property
    def living(self) -> list[Worker]:
        """The workers that run, oldest first."""
        return [worker for worker in self._workers if worker.running]

    def worker(self) -> Worker:
        """The worker that runs, or a new one."""
        return self.living[0] if self.living else self.another()

    def another(self, app: str | None = None) -> Worker:
        """Start one more worker (of another app, where one is given), and return it when it consumes."""
        environment = worker_env(self.redis_url, {"JOBS_CONF": json.dumps(self.settings), "GATE_URL": self.redis_url})
        name = f"{self._log_dir.name}-{len(self._workers)}@test"
        worker = Worker(app or self._app, self.pool, CONCURRENCY, log_dir=self._log_dir, env=environment, hostname=name)
        self._workers.append(worker)
        worker.start()
        worker.wait_ready()
        if self.node is not None:
            watch(self.node, worker)
        return worker

    def client(self) -> redis.Redis:
        """A new client of the database."""
        return redis.Redis.from_url(self.redis_url)

    @contextmanager
    def without_sweeps(self) -> Iterator[None]:
        """Hold the mutex of all who put messages back: keepers of the library wait for two seconds."""
        with self.client() as client, client.lock("unacked_mutex", timeout=600, sleep=0.01):
            yield

    def pause(self, worker: Worker) -> None:
        """Stop all processes of a worker where they are, as a machine does that swaps or is migrated.

        Returns when Redis has given up the worker's last read of its queue: until then it would hand messages to it that are
        neither queued nor unacknowledged, so that nobody gets them while the worker sleeps (put it into `without_sweeps`).
        """
        worker.signal_all(signal.SIGSTOP)
        ports = worker.ports()
        assert ports
        with self.client() as client:

            def reads() -> bool:
                blocked = [one for one in client.client_list() if "b" in one["flags"] and one["name"] != gates.CLIENT_NAME]
                return any(int(one["addr"].rpartition(":")[2]) in ports for one in blocked)

            wait_until(lambda: not reads(), f"the end of the last read of {worker.hostname}", timeout=20)

    def begin(self, node: pytest.Item) -> None:
        """Before a test: see to it that its report shows the log of the worker that lives."""
        self.node = node
        for worker in self.living:
            watch(node, worker)

    def end(self) -> None:
        """After a test: keep one worker, and look for what was left behind.

        :raises AssertionError: the broker still holds a message, or a key has no TTL (L3).
        """
        self.node = None
        with self.client() as client:
            try:
                self._settled(client)
            except AssertionError:
                self.abandon()  # whatever is wrong, the next test begins anew
                raise
        for worker in self.living[:-1]:
            worker.kill()

    def _settled(self, client: redis.Redis) -> None:
        wait_until(lambda: not held(client) and not queued(client), "the end of all messages", timeout=20)
        assert client.hlen("unacked") == 0, "a safety copy without a score"
        assert_keys_expire(client)

    def abandon(self) -> None:
        """End all workers, and forget what they held: for tests that leave something behind, on purpose."""
        self.close()
        with self.client() as client:
            client.flushdb()

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.close()


def held(client: redis.Redis) -> int:
    """How many messages workers have and have not acknowledged."""
    return cast("int", client.zcard("unacked_index"))


def queued(client: redis.Redis) -> int:
    """How many messages wait in the queue."""
    return cast("int", client.llen("celery"))


def resume(worker: Worker) -> None:
    """Let all processes of a worker that was paused go on."""
    worker.signal_all(signal.SIGCONT)


@contextmanager
def relay(
    server: RedisServer, tmp_path_factory: pytest.TempPathFactory, number: int, name: str, **options: Any
) -> Iterator[Relay]:
    """A relay on the `number`th of the databases for this; no worker is started yet."""
    database = SHARED_DATABASES[_FIRST + number]
    with server.client(database) as client:
        client.flushdb()
    made = Relay(redis_url=server.url(database), log_dir=tmp_path_factory.mktemp(name), **options)
    with contextlib.closing(made):
        yield made


def _session_relay(pool: str, server: RedisServer, factory: pytest.TempPathFactory, kind: str, number: int) -> Any:
    settings, app = {
        "swept": (SWEPT, APP),
        "unswept": (UNSWEPT, APP),
        "plain-swept": (SWEPT, PLAIN_APP),
        "plain-unswept": (UNSWEPT, PLAIN_APP),
        "left-to-us": (LEFT_TO_US, APP),
    }[kind]
    index = number * len(ALL_POOLS) + ALL_POOLS.index(pool)
    return relay(server, factory, index, f"{kind}-{pool}", pool=pool, settings=settings, app=app)


@pytest.fixture(scope="session")
def _swept(pool: str, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with _session_relay(pool, redis_server, tmp_path_factory, "swept", 0) as made:
        yield made


@pytest.fixture(scope="session")
def _unswept(pool: str, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with _session_relay(pool, redis_server, tmp_path_factory, "unswept", 1) as made:
        yield made


@pytest.fixture(scope="session")
def _plain_swept(pool: str, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with _session_relay(pool, redis_server, tmp_path_factory, "plain-swept", 2) as made:
        yield made


@pytest.fixture(scope="session")
def _plain_unswept(pool: str, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with _session_relay(pool, redis_server, tmp_path_factory, "plain-unswept", 3) as made:
        yield made


@pytest.fixture(scope="session")
def _left_to_us(pool: str, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with _session_relay(pool, redis_server, tmp_path_factory, "left-to-us", 4) as made:
        yield made


@contextmanager
def _used(request: pytest.FixtureRequest, made: Relay) -> Iterator[Relay]:
    from tests.support import fault_jobs

    made.begin(request.node)
    with pointed_at(fault_jobs.app, made.redis_url, **made.settings):
        yield made
    made.end()


@pytest.fixture
def swept(request: pytest.FixtureRequest, _swept: Relay) -> Iterator[Relay]:
    """Workers with a visibility timeout of two seconds, swept every second; the test's own app talks to their Redis."""
    with _used(request, _swept) as made:
        yield made


@pytest.fixture
def unswept(request: pytest.FixtureRequest, _unswept: Relay) -> Iterator[Relay]:
    """Workers with kombu's defaults: a visibility timeout of an hour, looked at every 100 seconds."""
    with _used(request, _unswept) as made:
        yield made


@pytest.fixture
def left_to_us(request: pytest.FixtureRequest, _left_to_us: Relay) -> Iterator[Relay]:
    """Workers with a visibility timeout of two seconds that kombu does not sweep: only their keepers put anything back."""
    with _used(request, _left_to_us) as made:
        yield made


@pytest.fixture
def plain_swept(request: pytest.FixtureRequest, _plain_swept: Relay) -> Iterator[Relay]:
    """For controls: workers of an app without the library, otherwise those of `swept`."""
    with _used(request, _plain_swept) as made:
        yield made


@pytest.fixture
def plain_unswept(request: pytest.FixtureRequest, _plain_unswept: Relay) -> Iterator[Relay]:
    """For controls: workers of an app without the library, otherwise those of `unswept`."""
    with _used(request, _plain_unswept) as made:
        yield made
