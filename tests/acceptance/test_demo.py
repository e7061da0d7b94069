"""``python -m example_project.demo``, as somebody runs it who looks at this library for the first time."""

from __future__ import annotations

import io
import re
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol, cast

import httpx
import pytest

from example_project.demo.redis_server import RedisServer
from example_project.demo.show import ENOUGH, FEW, PACE, due
from example_project.demo.summary import further
from example_project.demo.terminal import Screen
from tests.support.commands import Commands, Terminal
from tests.support.processes import ManagedProcess
from tests.support.waiting import wait_until
from tests.support.worker import REPO_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from example_project.demo.jobs import JobView

KILLED = r"KILL   (w[12]@demo), which runs it, is killed .* at (\d+\.\d) % .* last checkpoint (\d+\.\d) % .*, (\S+\.py)$"
GOES_ON = (
    r"AGAIN  (\d+\.\d) s after the kill (w[12]@demo) has it \(delivery 2\) and goes on from the checkpoint: (\d+\.\d) % .*, "
    r"behind (\S+\.py)$"
)
ADDRESS = r"^  (http://127\.0\.0\.1:\d+/)\?token=(\S+)$"


class StartDemo(Protocol):
    """What the `start_demo` fixture is."""

    def __call__(self, *arguments: str) -> ManagedProcess:
        """Start the demo on the test's database."""


@pytest.fixture
def demo_env(redis_url: str, redis_client: redis.Redis, commands_dir: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A demo's environment; after the test it has left no process that talks to Redis, and no temporary directory."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    before = _clients(redis_client)
    yield {**Commands(redis_url, commands_dir).env, "REDIS_URL": redis_url, "TMPDIR": str(temporary)}
    assert list(temporary.iterdir()) == []
    assert _clients(redis_client) == before


@pytest.fixture
def start_demo(demo_env: dict[str, str], tmp_path: Path) -> Iterator[StartDemo]:
    """A factory of demos."""
    started = list[ManagedProcess]()

    def start(*arguments: str) -> ManagedProcess:
        command = [sys.executable, "-m", "example_project.demo", *arguments]
        demo = ManagedProcess("demo", command, tmp_path / "demo.log", env=demo_env, cwd=REPO_ROOT)
        started.append(demo)
        demo.start()
        return demo

    yield start
    for demo in started:
        demo.close()


def _clients(client: redis.Redis) -> set[str]:
    """The connections to the client's database."""
    mine = str(client.connection_pool.connection_kwargs["db"])
    return {entry["id"] for entry in cast("list[dict[str, str]]", client.client_list()) if entry["db"] == mine}


@pytest.fixture
def commands_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "commands"
    directory.mkdir()
    return directory


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


def test_what_the_demo_names_to_look_further_works(start_demo: StartDemo, redis_url: str, commands_dir: Path) -> None:
    """K1, K7: each command as it is printed, while the demo stays; and the lines for Python."""
    demo = start_demo("--stay", "--root", str(REPO_ROOT / "example_project"))
    demo.wait_for_log(r">>> for entry in .*\n", 60)
    output = demo.logs()
    commands = re.findall(r"^  \$ (celery -A example_project jobs .*)$", output, re.MULTILINE)
    assert [command.split()[4] for command in commands] == ["list", "show", "logs", "doctor"], output
    env = {**Commands(redis_url, commands_dir).env, "REDIS_URL": redis_url}

    def printed(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=env, cwd=REPO_ROOT, check=True, capture_output=True, text=True).stdout

    said = {command.split()[4]: printed("-m", *shlex.split(command)) for command in commands}
    assert "index_sources" in said["list"]
    assert "index_sources" in said["show"]
    assert "indexed" in said["logs"]
    code = "\n".join(re.findall(r"^  >>> (.*)$", output, re.MULTILINE))
    shown = re.sub(r"^(handle\..*)$", r"print(\1)", code, flags=re.MULTILINE)
    assert "AttemptRecord(number=1" in printed("-c", shown)
    demo.signal(signal.SIGINT)
    assert demo.wait(30) == 128 + signal.SIGINT


def test_a_demo_whose_redis_ends_names_what_leaves_it_running() -> None:
    """What is printed is what can be typed: nothing that asks a Redis which is gone."""
    found: list[list[str]] = []
    screen = Screen(io.StringIO())
    for own, running in ((True, False), (True, True), (False, False)):
        server = RedisServer("redis://:secret@127.0.0.1:7/0", "7.0", cast("subprocess.Popen[bytes]", object()) if own else None)
        view = cast("JobView", SimpleNamespace(handle=SimpleNamespace(id="0123456789")))
        text = "\n".join(further(screen, server, view, running=running))
        found.append(re.findall(r"\$ (?:celery -A example_project jobs )?(\S+)", text))
        assert ("secret" in text) == (own and running), "a password of the user's is not shown"
    assert [[word for word in words if word != "source"] for words in found] == [
        ["python"], ["export", "list", "show", "logs", "doctor", "python"], ["list", "show", "logs", "python"],
    ]  # fmt: skip


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


def test_a_board_shows_jobs_of_all_kinds_until_ctrl_c(start_demo: StartDemo, redis_url: str) -> None:
    """K4: at the address that is printed once, with a token that lets a browser in; then the board is gone."""
    demo = start_demo("--board")
    address = demo.wait_for_log(ADDRESS, 60)
    assert httpx.get(address[1]).status_code == 401
    with httpx.Client(follow_redirects=True, timeout=10) as browser:
        assert browser.get(f"{address[1]}?token={address[2]}").url == address[1]

        def shows(path: str, text: str) -> None:
            wait_until(lambda: text in browser.get(address[1] + path).text, f"{text} on the page {path}", 40)

        for state in ("running", "retrying", "failed", "cancelled", "done"):
            shows(f"?q=state:{state}", f'data-state="{state}"')
        shows("failures", "HTTP Error &lt;number&gt;: Not Found")
        shows("workers", "w1@demo")
        shows("queues", "w1@demo, w2@demo")
    demo.signal(signal.SIGINT)
    assert demo.wait(30) == 128 + signal.SIGINT
    output = demo.logs()
    assert output.count(address[2]) == 1
    assert re.search(r"fetch_page +RETRY +429 Too Many Requests: attempt 2 in 20.0 s", output), output
    assert re.search(r"pack_sources +CANCEL after \d+\.\d s: not needed any more", output), output
    assert "SIGINT: stopping board, workers and Redis" in output
    assert "Traceback" not in output
    with pytest.raises(httpx.ConnectError):
        httpx.get(address[1])


def test_a_board_is_shown_in_a_terminal(demo_env: dict[str, str]) -> None:
    """K4: with a panel of the jobs below the address; Ctrl-C, from the keyboard, ends all."""
    command = [sys.executable, "-m", "example_project.demo", "--board", "--pool", "threads"]
    with Terminal(command, demo_env, 100, 40) as terminal:
        text = terminal.wait_for(lambda text: "?token=" in text and "index_sources  " in text, "the address and a job", 60)
        assert "Jobs are sent in turns until Ctrl-C" in text
        terminal.type("\x03")
        code, text = terminal.end(30)
    assert code == 128 + signal.SIGINT
    assert text.count("?token=") == 1
    assert "Traceback" not in text


def test_the_boards_jobs_come_one_by_one_and_are_never_too_many() -> None:
    """Whoever looks for an hour has a machine that still does other things."""
    assert due(100.0, 100.0 - PACE, ENOUGH - 1)
    assert not due(100.0, 100.1 - PACE, ENOUGH - 1)
    assert due(100.0, 100.0, FEW - 1)
    assert not due(100.0, 0.0, ENOUGH)
