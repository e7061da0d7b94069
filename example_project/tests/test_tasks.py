"""What the example's jobs do, by the test kit of ``taskora_celery``: ``pytest example_project``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from example_project import tasks
from example_project.flaky_server import RETRY_AFTER, FlakyServer
from taskora_celery.testing import run_job

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[FlakyServer]:
    """A web server that is busy, then down, then well."""
    with FlakyServer() as found:
        yield found


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A tree of thirty files, one of which is no Python."""
    for n in range(30):
        (tmp_path / f"m{n:02}.py").write_text("import os\n\n\ndef f():\n    return os\n")
    (tmp_path / "m07.py").write_text("def f(:\n")
    return tmp_path


def test_every_file_is_counted_and_reported(sources: Path) -> None:
    """The last progress is the whole, and the file that cannot be parsed is in the log."""
    run = run_job(tasks.index_sources, {"root": str(sources)})
    assert run.state == "SUCCESS"
    assert (run.result["files"], run.result["unparsable"], run.result["functions"]) == (30, 1, 29)
    assert run.progress[-1] == {"current": 30, "total": 30, "percent": 100.0, "message": "m29.py"}
    assert [entry.meta and entry.meta["path"] for entry in run.logs if entry.level == "warn"] == ["m07.py"]


def test_another_worker_goes_on_from_the_checkpoint(sources: Path) -> None:
    """The first delivery is lost, as with its worker: no file is counted twice."""
    run = run_job(tasks.index_sources, {"root": str(sources)}, lease_lost_at=37)
    assert (run.state, run.deliveries, run.result["files"]) == ("SUCCESS", 2, 30)
    assert "going on from the checkpoint" in [entry.message for entry in run.logs]


def test_a_cancelled_packing_leaves_no_file_behind(sources: Path, tmp_path: Path) -> None:
    """``on_cancel`` removes the part that was written."""
    target = tmp_path / "packed.tar.xz"
    run = run_job(tasks.pack_sources, {"root": str(sources), "target": str(target)}, cancel_at=2)
    assert run.state == "REVOKED"
    assert not target.exists()
    assert not tasks.partial_of({"target": str(target)}).exists()


def test_a_busy_server_is_waited_for_as_long_as_it_asks(server: FlakyServer) -> None:
    """429 with Retry-After, then 503 with the task's own backoff; the delays pass on a virtual clock."""
    run = run_job(tasks.fetch_page, {"url": f"{server.url}/orders"})
    assert (run.state, run.result["attempts"], run.delays[0]) == ("SUCCESS", 3, RETRY_AFTER)
    assert [record.reason for record in run.history[:2]] == ["429 Too Many Requests", "503 Service Unavailable"]


def test_pages_are_fetched_side_by_side(server: FlakyServer) -> None:
    """The coroutine, with a real client; every page was asked for once."""
    run = run_job(tasks.fetch_pages, {"urls": [f"{server.url}/steady/{n}" for n in range(5)]})
    assert run.state == "SUCCESS"
    assert [page["requests"] for page in run.result["pages"]] == [1] * 5
    assert run.progress[-1]["percent"] == 100.0


def test_a_cancel_ends_the_fetching_at_once(server: FlakyServer) -> None:
    """While it waits for a busy server."""
    run = run_job(tasks.fetch_pages, {"urls": [f"{server.url}/orders"]}, cancel_at=2)
    assert run.state == "REVOKED"


def test_a_task_from_before_is_tested_alike() -> None:
    """It takes no context."""
    assert run_job(tasks.word_count, "a rose is a rose").result["most_common"][0] == ["a", 2]
