"""``python -m example_project.demo``, as somebody runs it who looks at this library for the first time; its output is a file."""

from __future__ import annotations

import re
import signal
import sys
from typing import TYPE_CHECKING, Protocol, cast

import pytest

from tests.support.processes import ManagedProcess
from tests.support.worker import REPO_ROOT, worker_env

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

KILLED = r"KILL   (w[12]@demo), which runs it, is killed .* at (\d+\.\d) % .* last checkpoint (\d+\.\d) % .*, (\S+\.py)$"
GOES_ON = (
    r"AGAIN  (\d+\.\d) s after the kill (w[12]@demo) has it \(delivery 2\) and goes on from the checkpoint: (\d+\.\d) % .*, "
    r"behind (\S+\.py)$"
)


class StartDemo(Protocol):
    """What the `start_demo` fixture is."""

    def __call__(self, *arguments: str) -> ManagedProcess:
        """Start the demo on the test's database."""


@pytest.fixture
def start_demo(redis_url: str, redis_client: redis.Redis, tmp_path: Path) -> Iterator[StartDemo]:
    """A factory of demos; after the test none of them has left a process that talks to Redis, or a temporary directory."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    before, started = _clients(redis_client), list[ManagedProcess]()

    def start(*arguments: str) -> ManagedProcess:
        command = [sys.executable, "-m", "example_project.demo", *arguments]
        env = {**worker_env(redis_url), "REDIS_URL": redis_url, "TMPDIR": str(temporary)}
        demo = ManagedProcess("demo", command, tmp_path / "demo.log", env=env, cwd=REPO_ROOT)
        started.append(demo)
        demo.start()
        return demo

    yield start
    for demo in started:
        demo.close()
    assert list(temporary.iterdir()) == []
    assert _clients(redis_client) == before


def _clients(client: redis.Redis) -> set[str]:
    """The connections to the client's database."""
    mine = str(client.connection_pool.connection_kwargs["db"])
    return {entry["id"] for entry in cast("list[dict[str, str]]", client.client_list()) if entry["db"] == mine}


def test_the_demo_runs_four_jobs_and_tells_of_them(start_demo: StartDemo) -> None:
    """E1, F5, I1, M1: progress, logs and retries of a real worker, a coroutine among its jobs, and how to look further."""
    demo = start_demo("--root", str(REPO_ROOT / "example_project"))
    assert demo.wait(60) == 0, demo.tail()
    output = demo.logs()
    for text in (
        "RETRY  429 Too Many Requests: attempt 2 in 2.0 s",
        "RETRY  503 Service Unavailable: attempt 3 in",
        "INFO   asking again",
        "INFO   fetched  pages=12  of=12  requests=16",
        "INFO   indexed",
        "  attempt 3         SUCCESS",
        "  requests          16; 10 pages came at the first",
        "  longest function  ",
        "Look further",
    ):
        assert text in output, output
    assert "KILL" not in output
    assert "Traceback" not in output


def test_the_job_of_a_killed_worker_goes_on_elsewhere_from_its_checkpoint(start_demo: StartDemo) -> None:
    """D5, E8, B6: seconds later, not after the visibility timeout; the history has both deliveries, and the outcome is whole."""
    demo = start_demo("--kill")
    assert demo.wait(90) == 0, demo.tail()
    output = demo.logs()
    killed, again = (re.search(pattern, output, re.MULTILINE) for pattern in (KILLED, GOES_ON))
    assert killed, output
    assert again, output
    first, second = killed[1], again[2]
    assert first != second
    assert float(killed[2]) >= 40
    assert 0 < float(again[1]) < 10
    # The line of the kill was written from what had been heard by then: the checkpoint may be a later one.
    assert float(killed[3]) <= float(again[3]) <= float(killed[2]) + 5
    assert killed[4] <= again[4]
    assert f"{first}: killed" in output
    assert re.search(rf"^  1 +{first} +LOST +\d+\.\d s +\S", output, re.MULTILINE), output
    assert re.search(rf"^  2 +{second} +SUCCESS +\d+\.\d s$", output, re.MULTILINE), output
    assert "Traceback" not in output


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_job_that_is_cancelled_leaves_nothing_of_what_it_did(start_demo: StartDemo, pool: str) -> None:
    """G1, G3, G5: the request with its reason, the phases, the process that ends, the file that ``on_cancel`` removes."""
    demo = start_demo("--cancel", "--pool", pool)
    assert demo.wait(60) == 0, demo.tail()
    output = demo.logs()
    assert re.search(r'CANCEL handle\.cancel\("not needed any more"\) -> "requested"; sources\.tar\.xz\.part has \d', output), (
        output
    )
    for text in (
        "requested, after",
        "INFO   removing  file=sources.tar.xz.part",
        "  state             REVOKED",
        "raises JobCancelledError, reason 'not needed any more'",
        "  on disk           no sources.tar.xz.part; it had",
    ):
        assert text in output, output
    assert "interrupted" not in output
    assert "Traceback" not in output


def test_a_demo_that_is_interrupted_behind_the_kill_leaves_nothing_running(start_demo: StartDemo) -> None:
    """One worker is dead, the job is nobody's, and Ctrl-C ends the rest."""
    demo = start_demo("--kill", "--pool", "threads")
    demo.wait_for_log(r"KILL   ", 60)
    demo.signal(signal.SIGINT)
    assert demo.wait(30) == 128 + signal.SIGINT
    assert "SIGINT: stopping" in demo.logs()
