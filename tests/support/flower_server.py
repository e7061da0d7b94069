"""A real Flower beside the workers of an app, and a real browser to look at it."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.chromium import NO_BROWSER, chromium
from tests.support.processes import ManagedProcess
from tests.support.redis_server import HOST, free_port
from tests.support.waiting import wait_until
from tests.support.worker import worker_env

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

START_TIMEOUT = 60.0  # seconds: 2-3 s alone
#: The one line of K2.
CONFIG = "from taskora_celery.flower import format_task, tasks_columns\n"


class Flower(ManagedProcess):
    """``celery -A app flower``, in a directory of its own, which holds nothing but its configuration, if any."""

    def __init__(self, redis_url: str, directory: Path, config: str | None = None, env: Mapping[str, str] | None = None) -> None:
        directory.mkdir()
        self.port = free_port()
        if config is not None:
            (directory / "flowerconfig.py").write_text(config)
        command = [sys.executable, "-m", "celery", "-A", "tests.support.jobs:app", "flower"]
        command += [f"--port={self.port}", f"--address={HOST}"]
        environment = {**worker_env(redis_url, env), "FLOWER_UNAUTHENTICATED_API": "true"}
        super().__init__("flower", command, directory / "flower.log", env=environment, cwd=directory)

    def url(self, path: str = "/") -> str:
        """The address of a page."""
        return f"http://{HOST}:{self.port}{path}"

    def wait_ready(self) -> None:
        """Wait until it answers."""
        self.wait_for_log("Visit me at", START_TIMEOUT)
        wait_until(self._answers, "an answer of Flower", START_TIMEOUT)

    def _answers(self) -> bool:
        try:
            self.api("/api/task/types")
        except OSError:
            return False
        return True

    def api(self, path: str, data: dict[str, Any] | None = None) -> Any:
        """What its API answers; with ``data`` to a POST."""
        body = None if data is None else json.dumps(data).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url(path), body), timeout=20) as answer:
            return json.load(answer)

    def task(self, job_id: str) -> dict[str, Any]:
        """What its API knows of a job; empty where it knows nothing."""
        try:
            found: dict[str, Any] = self.api(f"/api/task/info/{job_id}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return {}
        return found

    def wait_for(self, job_id: str, state: str, result: str | None = None) -> dict[str, Any]:
        """Wait until its API shows a job in a state, with a result, and return what it shows."""

        def shown() -> dict[str, Any] | None:
            task = self.task(job_id)
            return task if task.get("state") == state and result in {None, task["result"]} else None

        task = wait_until(shown, f"{state} {result or ''} of job {job_id} in Flower", 20)
        assert task is not None
        return task


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by Selenium."""
    pytest.importorskip("selenium.webdriver")
    if shutil.which("chromedriver") is None:
        pytest.skip(NO_BROWSER)
    with chromium() as opened:
        yield opened
