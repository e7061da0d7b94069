"""The exporter: its server, its command, and that what it shows outlives it."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from taskora_celery import ContextTask
from taskora_celery.cli.exporter import command
from taskora_celery.metrics.access import Access
from taskora_celery.metrics.collect import Collector
from taskora_celery.metrics.server import MetricsServer
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.redis import RedisStore
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.scripted_store import ScriptedStore
from tests.support.waiting import wait_until
from tests.support.worker import REPO_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from taskora_celery.store.protocol import JobStore


@contextmanager
def serving(store: JobStore, access: Access | None = None, host: str = "127.0.0.1") -> Iterator[MetricsServer]:
    server = MetricsServer((host, 0), Collector(store), access or Access(None))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def ask(url: str, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def read(text: str) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for metric in parse_prometheus(text) for sample in metric.samples
    }  # fmt: skip


@pytest.fixture
def store_away() -> Iterator[RedisStore]:
    """A store whose Redis is away."""
    store = RedisStore(Endpoint("redis://127.0.0.1:1/0"), timeout=0.2)
    yield store
    store.close()


@pytest.fixture
def busy_store(store: JobStore) -> JobStore:
    """With a running job, and something counted."""
    ScriptedExecution(store, tag="t1", token=1)
    store.note(["job-1"], [], NOW_MS, {"store_errors": 2})
    return store


def test_every_store_can_be_looked_at(busy_store: JobStore) -> None:
    """K5: in the format that Prometheus has read for ever, with the headers that keep it where it belongs."""
    with serving(busy_store) as server:
        status, headers, text = ask(server.url)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    found = read(text)
    assert (found["taskora_up[]"], found["taskora_jobs['running']"], found["taskora_store_errors_total[]"]) == (1, 1, 2)


def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    """K5: by ``Accept``."""
    with serving(ScriptedStore()) as server:
        _, headers, text = ask(server.url, Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    assert list(parse_openmetrics(text))  # type: ignore[no-untyped-call]


def test_health_says_that_the_exporter_lives_whatever_the_store_does(store_away: RedisStore) -> None:
    """K5: a restart of the exporter mends no Redis."""
    with serving(store_away, Access("hunter2")) as server:
        assert ask(server.url, "/-/healthy")[::2] == (200, "ok\n")


def test_a_store_that_is_away_is_a_sample_and_no_failed_scrape(store_away: RedisStore) -> None:
    """K5: an alert tells the two apart: ``up == 0`` is the exporter, ``taskora_up == 0`` the store."""
    with serving(store_away) as server:
        status, _, text = ask(server.url)
    assert (status, read(text)) == (200, {"taskora_up[]": 0})


def test_nothing_is_shown_to_who_may_not_see_it() -> None:
    """K4: no secret, a wrong name, another method, another path."""
    with serving(ScriptedStore(), Access("hunter2")) as server:
        status, headers, text = ask(server.url)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "taskora_jobs" not in text
        assert ask(server.url, Authorization="Bearer hunter3")[0] == 401
        assert ask(server.url, Authorization="Bearer hunter2")[0] == 200
    with serving(ScriptedStore()) as server:
        status, _, text = ask(server.url, Host="evil.example")
        assert (status, "taskora_jobs" in text) == (421, False)
        assert ask(server.url, "/metrics?name=x")[0] == 200
        assert ask(server.url, "/")[0] == 404
        assert ask(server.url, method="POST")[0] == 501
        status, headers, text = ask(server.url, method="HEAD")
        assert (status, text) == (200, "")
        assert int(headers["Content-Length"]) > 100


def test_ipv6_is_listened_on() -> None:
    """K5: where the machine has it."""
    try:
        with serving(ScriptedStore(), host="::1") as server:
            assert server.url.startswith("http://[::1]:")
            assert ask(server.url)[0] == 200
    except OSError as exc:
        pytest.skip(f"no IPv6 here: {exc}")


# --- the command -------------------------------------------------------------------------------------------------------


def test_what_fails_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """K5: the scraper hears that it failed, and the log says why; a connection that is cut without a word says neither."""

    def fail(_: Collector) -> None:
        raise RuntimeError("no such metric")

    monkeypatch.setattr(Collector, "samples", fail)
    with serving(ScriptedStore()) as server:
        status, _, text = ask(server.url)
    assert (status, text) == (500, "the exporter's own log says what went wrong\n")
    assert "no such metric" in caplog.text


def run(*arguments: str, broker: str = "redis://127.0.0.1:1/0", **conf: Any) -> Result:
    app = Celery("exported", broker=broker, task_cls=ContextTask, set_as_current=False)
    app.conf.update(conf)
    return CliRunner().invoke(command, list(arguments), obj=CLIContext(app=app, no_color=True, workdir=None))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "metrics.shop"])
def test_an_address_that_others_reach_needs_a_secret(host: str) -> None:
    """K4: metrics name tasks, queues and exceptions."""
    result = run("--host", host)
    assert (result.exit_code, "--auth" in result.output) == (2, True)
    assert run("--host", host, "--auth", " ").exit_code == 2


def test_wrong_usage_says_what_is_wrong() -> None:
    """K3: exit code 2; a port that is taken is a failure, 1."""
    result = run(broker="memory://")
    assert (result.exit_code, "taskora_redis_url" in result.output) == (2, True)
    result = run(taskora_flush_intervall=1)
    assert (result.exit_code, "taskora_flush_interval" in result.output) == (2, True)
    with serving(ScriptedStore()) as server:
        result = run("--port", str(server.server_port))
    assert (result.exit_code, "cannot listen" in result.output) == (1, True)
    assert CliRunner().invoke(command, []).exit_code == 2


@pytest.mark.parametrize(
    "flags",
    [
        ["--port", "65536"],
        ["--port", "-1"],
        ["--auth", "user:\udcff"],
        ["--auth", "user:"],
        ["--allow-host", "http://metrics.shop"],
    ],
)
def test_what_no_client_can_ask_for_is_wrong_usage(flags: list[str]) -> None:
    """K3: exit code 2 and a line, no traceback."""
    result = run(*flags)
    assert (result.exit_code, flags[0] in result.output) == (2, True)


@contextmanager
def exporter(redis_url: str, log: Path, **env: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The command in a process of its own, and the URL that it prints."""
    code = (
        "import click; from celery.bin.base import CLIContext; from tests.support.jobs import app;"
        "from taskora_celery.cli.exporter import command;"
        "command(['--port', '0'], obj=CLIContext(app=app, no_color=True, workdir=None))"
    )
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", code], cwd=REPO_ROOT, stdout=out, stderr=out,
            env={**os.environ, "BROKER_URL": redis_url, "RESULT_BACKEND": redis_url, **env},
        )  # fmt: skip
    try:
        wait_until(lambda: "metrics: " in log.read_text() or process.poll() is not None, "the exporter listens")
        yield log.read_text().partition("metrics: ")[2].split()[0], process
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_ends_when_it_is_told_to(redis_url: str, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """K3, K5: SIGTERM is how a service ends."""
    with exporter(redis_url, tmp_path / "log", TASKORA_EXPORTER_AUTH="hunter2") as (url, process):
        assert ask(url)[0] == 401
        assert ask(url, Authorization="Bearer hunter2")[0] == 200
        process.send_signal(number)
        assert process.wait(10) == code
        assert "Traceback" not in (tmp_path / "log").read_text()


def test_counters_go_on_where_they_were_when_the_exporter_starts_again(redis_url: str, tmp_path: Path) -> None:
    """K5: they are in the store; nobody has counted in the exporter."""
    store = RedisStore(Endpoint(redis_url))
    for turn in (1, 2):
        store.note([], [], NOW_MS, {"store_errors": 3})
        with exporter(redis_url, tmp_path / f"log-{turn}") as (url, _):
            assert read(ask(url)[2])["taskora_store_errors_total[]"] == 3 * turn
    store.close()
