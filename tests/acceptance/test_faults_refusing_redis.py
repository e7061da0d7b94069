"""A Redis for job records that is there and refuses: full, a replica, closed to this user, or with another password."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from taskora_celery import StoreUnavailableError
from taskora_celery.doctor.checks import ACL_COMMANDS
from tests.support import gates, jobs, outage_jobs
from tests.support.apps import pointed_at
from tests.support.commands import Commands
from tests.support.pools import pools
from tests.support.recorded import recorded
from tests.support.redis_server import HOST, RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.worker import Worker
    from tests.support.worker_fixtures import StartWorker

APP = "tests.support.outage_jobs:app"
PASSWORD = "s3cret-of-the-store"


class Refusing(NamedTuple):
    """A store, the server whose words are meant, and what is said of it."""

    url: str
    server: RedisServer
    #: A part of the one line in the worker's log, and of the doctor's finding.
    why: str
    #: The doctor's check and a part of its advice.
    check: str
    advice: str


def _full(stack: ExitStack, binary: str) -> Refusing:
    server = stack.enter_context(RedisServer("maxmemory 1", "maxmemory-policy noeviction", binary=binary))
    return Refusing(server.url(), server, "maxmemory", "records", "raise its maxmemory")


def _replica(stack: ExitStack, binary: str) -> Refusing:
    primary = stack.enter_context(RedisServer(binary=binary))
    server = stack.enter_context(RedisServer(f"replicaof {HOST} {primary.port}", binary=binary))
    return Refusing(server.url(), server, "read only replica", "records", "it is a replica")


def _closed_keys(stack: ExitStack, binary: str) -> Refusing:
    server = stack.enter_context(RedisServer(f"user app on >{PASSWORD} ~shop:* &* +@all", binary=binary))
    url = server.url().replace("redis://", f"redis://app:{PASSWORD}@")
    return Refusing(url, server, "permission", "records", f"~taskora:* &taskora:* {ACL_COMMANDS}")


def _wrong_password(stack: ExitStack, binary: str) -> Refusing:
    server = stack.enter_context(RedisServer(password="another", binary=binary))
    url = f"redis://:{PASSWORD}@{HOST}:{server.port}/0"
    return Refusing(url, server, "password", "store", "user, password and TLS options are right")


FAULTS = {"full": _full, "replica": _replica, "closed keys": _closed_keys, "wrong password": _wrong_password}


@pytest.fixture(params=list(FAULTS))
def refusing(request: pytest.FixtureRequest, _redis_binary: str) -> Iterator[Refusing]:
    """A store that refuses, in each of four ways."""
    with ExitStack() as stack:
        yield FAULTS[request.param](stack, _redis_binary)


@pools("threads")
def test_a_store_that_refuses_stops_no_worker_and_is_explained(
    pool: str, start_worker: StartWorker, redis_url: str, refusing: Refusing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 15, L1, K7: the worker starts and works, one line in its log says why, and the doctor what to do; no password."""
    monkeypatch.setenv("GATE_URL", redis_url)
    settings: dict[str, Any] = {"taskora_redis_url": refusing.url}
    worker = start_worker(APP, pool=pool, concurrency=1, env={"GATE_URL": redis_url, **jobs.configured(**settings)})
    with pointed_at(jobs.app, redis_url, **settings):
        talking = outage_jobs.talk.delay(100, 0.01)
        gates.wait_at(talking.id)
        gates.open_gate(talking.id, "burst")
        gates.open_gate(talking.id)
        assert talking.get(timeout=20)["count"] >= 1
        assert [outage_jobs.count.delay().get(timeout=20) for _ in range(3)] == [1, 1, 1]
        _told_once(worker, refusing)
        _explained(redis_url, refusing, tmp_path)


def _told_once(worker: Worker, refusing: Refusing) -> None:
    lines = worker.logs().splitlines()
    told = [line for line in lines if "ERROR" in line or "CRITICAL" in line]
    assert len(told) == 1, told
    assert "job records cannot be written" in told[0]
    assert refusing.why in told[0]
    assert not [line for line in lines if "is given up" in line], "the buffer keeps what was said"
    assert PASSWORD not in worker.logs()
    assert "Traceback" not in worker.logs()


def _explained(redis_url: str, refusing: Refusing, tmp_path: Path) -> None:
    commands = Commands(redis_url, tmp_path)
    result = commands.run("doctor", "-j", env=jobs.configured(taskora_redis_url=refusing.url))
    found = [json.loads(line) for line in result.stdout.splitlines()]
    (wrong,) = [finding for finding in found if finding["level"] == "wrong"]
    assert (wrong["check"], refusing.why in wrong["message"], refusing.advice in wrong["advice"]) == (refusing.check, True, True)
    assert result.returncode in {1, 69}
    assert PASSWORD not in result.stdout + result.stderr


def test_what_waited_is_written_when_redis_has_room_again(
    start_worker: StartWorker, redis_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 15, L1: full while jobs run and end; nothing that found room in memory is lost, and nothing is half written."""
    monkeypatch.setenv("GATE_URL", redis_url)
    with RedisServer("maxmemory-policy noeviction", binary=redis_server.binary) as store, store.client() as admin:
        settings: dict[str, Any] = {"taskora_redis_url": store.url()}
        start_worker(APP, pool="threads", concurrency=1, env={"GATE_URL": redis_url, **jobs.configured(**settings)})
        with pointed_at(jobs.app, redis_url, **settings):
            running = outage_jobs.talk.delay(100, 0.01)
            gates.wait_at(running.id)
            admin.config_set("maxmemory", 1)
            gates.open_gate(running.id, "burst")
            gates.open_gate(running.id)
            said = running.get(timeout=20)["count"]
            short = outage_jobs.count.delay()
            assert short.get(timeout=20) == 1
            with pytest.raises(StoreUnavailableError):
                running.cancel()
            admin.config_set("maxmemory", 0)
            for handle, count in ((running, said), (short, 1)):
                status = recorded(handle, timeout=30)
                assert (status.logs, status.dropped_logs, status.delivery) == (count, 0, 1)
                assert [entry.meta["n"] for entry in handle.get_logs()] == list(range(count))


def test_the_rights_that_the_doctor_advises_are_enough(
    start_worker: StartWorker, redis_url: str, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 15, K7: with them, and no more, records are written, read, listed and announced."""
    monkeypatch.setenv("GATE_URL", redis_url)
    acl = f"user app on >{PASSWORD} ~taskora:* resetchannels &taskora:* {ACL_COMMANDS}"
    with RedisServer(acl, binary=redis_server.binary) as store:
        settings = {"taskora_redis_url": store.url().replace("redis://", f"redis://app:{PASSWORD}@")}
        worker = start_worker(APP, pool="threads", env={"GATE_URL": redis_url, **jobs.configured(**settings)})
        with pointed_at(jobs.app, redis_url, **settings):
            running = outage_jobs.talk.delay(0, 0.01)
            gates.wait_at(running.id)
            assert running.cancel("enough").outcome == "requested"
            gates.open_gate(running.id)
            assert recorded(running, "REVOKED").reason == "enough"
            commands = Commands(redis_url, tmp_path)
            environment = jobs.configured(**settings)
            assert running.id[:8] in commands.run("list", env=environment).stdout
            doctor = commands.run("doctor", "-j", env=environment)
            assert "records" not in {json.loads(line)["check"] for line in doctor.stdout.splitlines()}, doctor.stdout
        assert "cannot be" not in worker.logs()
