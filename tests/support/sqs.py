"""An SQS for the tests: moto's, in a process of its own on a free port, spoken to over HTTP like the real one.

Nothing here imports boto3 or moto before a test asks for it; without them the tests skip and say what is missing.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import ManagedProcess
from tests.support.reports import watch

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
REGION = "us-east-1"
KEYS = ("AKIATEST", "secret")  # any will do
NEEDED = ("boto3", "moto", "flask", "flask_cors")
START_TIMEOUT = 60.0  # seconds: importing moto takes one alone
_SERVER = Path(__file__).with_name("sqs_server.py")


def transport_options(**options: Any) -> dict[str, Any]:
    """The ``broker_transport_options`` with which kombu reaches the server, polls it without long waits, and what is added."""
    return {"is_secure": False, "region": REGION, "wait_time_seconds": 1, "polling_interval": 0.1, **options}


class SqsServer(ManagedProcess):
    """One server process. It keeps its queues in memory: they are gone with it, and after `reset`."""

    port: int

    def __init__(self, log_dir: Path) -> None:
        super().__init__("the SQS server", [sys.executable, str(_SERVER)], log_dir / "sqs.log")

    def start(self) -> None:
        """Start it, on another port each time, and wait until it listens."""
        written = self.log_size()
        super().start()
        self.port = int(self.wait_for_log(r"^SQS listens on port (\d+)$", START_TIMEOUT, after=written)[1])

    @property
    def endpoint(self) -> str:
        """The address of its API."""
        return f"http://{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The ``broker_url``."""
        return "sqs://{}:{}@{}:{}//".format(*KEYS, HOST, self.port)

    def client(self) -> Any:
        """A new boto3 client; the caller closes it."""
        import boto3

        names = ("aws_access_key_id", "aws_secret_access_key")
        return boto3.client("sqs", endpoint_url=self.endpoint, region_name=REGION, **dict(zip(names, KEYS, strict=True)))

    def reset(self) -> None:
        """Forget all queues."""
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")
        urllib.request.urlopen(request, timeout=10).close()

    def worker_env(self, redis_url: str, **options: Any) -> dict[str, str]:
        """The environment for `start_worker`: an app of the tests on this broker, with results, records and gates in Redis.

        `options` are transport options. Point the test's own app at it by ``pointed_at(jobs.app, **server.settings(…))``.
        """
        if _found("kombu.asynchronous.http.curl") and not _found("pycurl"):  # kombu 5.5 does without
            pytest.skip("a worker on SQS needs pycurl: install the extra `test`")
        settings = self.settings(redis_url, **options)
        conf = json.dumps({key: settings[key] for key in ("broker_transport_options", "taskora_redis_url")})
        return {"BROKER_URL": self.url, "RESULT_BACKEND": redis_url, "GATE_URL": redis_url, "JOBS_CONF": conf}

    def settings(self, redis_url: str, **options: Any) -> dict[str, Any]:
        """The settings of an app on this broker, with results and records in Redis."""
        return {
            "broker_url": self.url,
            "result_backend": redis_url,
            "broker_transport_options": transport_options(**options),
            "taskora_redis_url": redis_url,
        }


def _found(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _forget_queues() -> None:
    """Drop what kombu before 5.7 keeps of queues for the whole process."""
    from kombu.transport import SQS

    for name in ("_queue_cache", "_predefined_queue_clients"):
        if isinstance(kept := getattr(SQS.Channel, name, None), dict):
            kept.clear()


@pytest.fixture(scope="session")
def _sqs_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqsServer]:
    missing = [name for name in NEEDED if not _found(name)]
    if missing:
        pytest.skip(f"the tests on SQS need {', '.join(missing)}: install the extra `test`")
    with SqsServer(tmp_path_factory.mktemp("sqs")) as server:
        yield server


@pytest.fixture
def sqs_server(request: pytest.FixtureRequest, _sqs_process: SqsServer) -> SqsServer:
    """The SQS of this test run, without queues."""
    watch(request.node, _sqs_process)
    _sqs_process.reset()
    _forget_queues()
    return _sqs_process


@pytest.fixture
def sqs_client(sqs_server: SqsServer) -> Iterator[Any]:
    """A boto3 client of it."""
    client = sqs_server.client()
    yield client
    client.close()
