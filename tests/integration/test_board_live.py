"""The streams: what a viewer is told, in which order, after which interruption, and how they end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from taskora_celery.board.access import SecretAuth
from taskora_celery.board.app import Board
from taskora_celery.runtime import Runtime
from tests.support.boards import FROM_HERE, SECRET, client_of, running
from tests.support.redis_server import RedisServer
from tests.support.scripted_jobs import shop_app
from tests.support.waiting import wait_until
from tests.support.worker import REPO_ROOT, worker_env

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.boards import Shop, Stream


def texts(stream: Stream) -> list[str]:
    """What the lines say that were told."""
    return [re.sub(r".*<span class=\"tx\">|</span></div>\s*$", "", e.data["html"]) for e in stream.told if e.name == "line"]


# --- the list ------------------------------------------------------------------------------------------------------------


def test_the_list_says_which_jobs_there_are_and_tells_each_row(shop_board: Shop) -> None:
    """K4: rows at once, new ids as a list, counts by state; a row goes on being told while it changes, and when it ends."""
    job = shop_board.begin("job-1")
    with shop_board.client() as client, client.watching("/events") as stream:
        assert stream.until("list").data == {"ids": ["job-1"]}
        job.progress({"percent": 40, "message": "reading"})
        assert "reading" in stream.until("row", "40%").data["html"]
        shop_board.begin("job-2", name="mail.send")
        stream.until_all(("list", '["job-2", "job-1"]'), ("chips", "running <b>2</b>"))
        shop_board.end(job, "FAILURE", "no such column", "KeyError")
        stream.until_all(("row", "KeyError: no such column"), ("chips", "failed <b>1</b>"))


def test_a_search_is_told_its_own_jobs(shop_board: Shop) -> None:
    """K4: filters live in the address, of the stream, too."""
    shop_board.begin("job-1")
    shop_board.begin("job-2", name="mail.send")
    with shop_board.client() as client:
        with client.watching("/events?q=task:mail") as stream:
            assert stream.until("list").data == {"ids": ["job-2"]}
        assert client.get("/events?q=state:nonsense").status_code == 400


def test_progress_is_coalesced_for_each_job(shop_board: Shop) -> None:
    """K4: at most ten frames a second and job; the last of them is told."""
    job = shop_board.begin("job-1")
    with shop_board.client() as client, client.watching("/events") as stream:
        stream.until("row")
        began = time.monotonic()
        for n in range(1, 301):
            job.progress({"current": n, "total": 1000, "percent": n / 10})
        stream.until("row", "300/1000")
        took = time.monotonic() - began
    rows = [event for event in stream.told if event.name == "row"]
    assert len(rows) <= 3 + took * 10


# --- a job ---------------------------------------------------------------------------------------------------------------


def test_a_job_is_told_line_by_line_and_its_end_last(shop_board: Shop) -> None:
    """K4: with the journal's position as `id`; the page's title carries the state."""
    job = shop_board.begin("job-1")
    job.logs("one")
    with shop_board.client() as client, client.watching("/job/events?id=job-1&after=-1") as stream:
        assert stream.until("line").id == "0"
        job.logs("two", "three")
        job.progress({"percent": 48})
        assert stream.until("head", "48%").data["title"] == "48% running · import.csv"
        job.logs("four")
        shop_board.end(job)
        last = stream.until("head", "done").data
        assert (last["over"], last["title"]) == (True, "done · import.csv")
        assert texts(stream) == ["one", "two", "three", "four"]
        assert "done" in stream.until("attempts", "done").data["html"]


@pytest.mark.parametrize("others", [0, 1])
def test_a_viewer_that_comes_back_misses_nothing_and_is_told_nothing_twice(shop_board: Shop, others: int) -> None:
    """K4: by `Last-Event-ID`, wherever it left, and whether or not somebody else is looking."""
    job = shop_board.begin("job-1")
    job.logs("0", "1", "2")
    path = "/job/events?id=job-1&after=-1"
    with shop_board.client() as client, contextlib.ExitStack() as stack:
        looking = [stack.enter_context(client.watching(path)) for _ in range(others)]
        for other in looking:
            other.until("line", ">2<")
        with client.watching(path) as stream:
            stream.until("line", ">1<")
        job.logs("3", "4")
        position = stream.told[-1].id
        with client.watching("/job/events?id=job-1&after=0", position) as again:
            again.until("line", ">4<")
            job.logs("5")
            again.until("line", ">5<")
            assert texts(again) == ["2", "3", "4", "5"]
        for other in looking:
            other.until("line", ">5<")
            assert texts(other) == ["0", "1", "2", "3", "4", "5"]


def test_a_position_that_is_not_in_the_journal_is_one_viewer_s_own_affair(shop_board: Shop) -> None:
    """K4: who claims one, or was there when the id was another job's, is told all; the others are told nothing twice."""
    job = shop_board.begin("job-1")
    job.logs("0", "1")
    with shop_board.client() as client, client.watching("/job/events?id=job-1&after=99999999") as claiming:
        claiming.until("head")
        with client.watching("/job/events?id=job-1&after=-1") as other:
            other.until("line", ">1<")
            for text in ("2", "3"):
                job.logs(text)
                other.until("line", f">{text}<")
            claiming.until("line", ">3<")
    assert texts(other) == texts(claiming) == ["0", "1", "2", "3"]


def test_a_retry_and_the_next_attempt_are_told(shop_board: Shop) -> None:
    """K4: a row for each attempt, with its reason, and when the next one begins."""
    job = shop_board.begin("job-1")
    with shop_board.client() as client, client.watching("/job/events?id=job-1") as stream:
        job.end_in_retry("refused", 20, "ConnectionError")
        attempts = stream.until("attempts", "ConnectionError: refused").data["html"]
        assert "data-next=" in attempts
        shop_board.begin("job-1", attempt=2)
        assert "running" in stream.until("attempts", ">2<").data["html"]


def test_the_title_of_a_tab_obeys_no_text_of_a_job(shop_board: Shop) -> None:
    """K4, Fault 23: what the page's script puts there is as harmless as what the template did, and fits."""
    shop_board.begin("job-1", name="task \u202egnp.exe\x1b" + "x" * 1_000)
    with shop_board.client() as client, client.watching("/job/events?id=job-1") as stream:
        title = stream.until("head").data["title"]
    assert title.startswith(r"running · task \u202egnp.exe\x1bxxx")
    assert len(title) < 200


def test_an_expired_job_says_so(shop_board: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """K4: and its stream is not a wait for nothing."""
    monkeypatch.setattr("taskora_celery.following.GONE_AFTER", 0.2)
    monkeypatch.setattr("taskora_celery.aio.LOOK_EVERY", 0.1)
    with shop_board.client() as client, client.watching("/job/events?id=nobody") as stream:
        assert stream.until("gone").data == {}


def test_a_viewer_that_does_not_read_is_told_what_was_left_out(shop_board: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """K4: all lines come, or are counted in a gap; what waits for it is bounded, and the others are told at their speed."""
    monkeypatch.setattr("taskora_celery.board.outbox.LINES_WAITING", 100)
    job, path = shop_board.begin("job-1"), "/job/events?id=job-1&after=-1"
    with shop_board.client() as client, client.watching(path) as slow, client.watching(path) as quick:
        slow.until("head")
        for at in range(0, 6_000, 50):
            job.logs(*(f"{n} " + "x" * 2_000 for n in range(at, at + 50)))
            quick.until("line", f">{at + 49} ")
        job.logs("the last")
        slow.until("line", ">the last<")
    assert len([event for event in quick.told if event.name == "line"]) >= 6_000
    left_out = sum(event.data["count"] for event in slow.told if event.name == "gap")
    assert left_out > 0
    assert left_out + len([event for event in slow.told if event.name == "line"]) == 6_001


def test_a_stream_on_which_nothing_happens_shows_that_it_is_there(shop_board: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """K4: proxies close what is silent, and a viewer that has gone is noticed by what cannot be sent."""
    monkeypatch.setattr("taskora_celery.board.stream.HEARTBEAT", 0.1)
    with shop_board.client() as client, client.stream("GET", "/job/events?id=nobody", timeout=10) as response:
        assert any(line == ":" for line in response.iter_lines())


def test_streams_end_in_good_order_with_their_board(redis_url: str) -> None:
    """K4: the last piece is whole, so a browser takes it for an end and not for a failure."""
    app = shop_app(redis_url)
    with contextlib.ExitStack() as stack:
        with running(Board(app, SecretAuth(SECRET), (), read_only=False)) as url:
            stream = stack.enter_context(stack.enter_context(client_of(url)).watching("/events"))
            stream.until("list")
        assert all(line.startswith(("event:", "data:", ":")) or not line for line in stream.reading.lines)
    Runtime.forget(app)


def test_all_viewers_share_one_reader(shop_board: Shop, redis_client: Any) -> None:
    """K4: thirty viewers of lists and jobs, and three connections to Redis: commands, subscriptions, pages."""
    for number in range(5):
        shop_board.begin(f"job-{number}")
    ours = {client["id"] for client in redis_client.client_list()}
    with shop_board.client() as client:
        client._transport = httpx.HTTPTransport(limits=httpx.Limits(max_connections=100))
        opened = [client.watching(f"/job/events?id=job-{n % 5}" if n % 2 else "/events") for n in range(30)]
        streams = [one.__enter__() for one in opened]
        for stream in streams:
            stream.next()
        wait_until(lambda: redis_client.pubsub_numsub(*_channels(redis_client)), "the subscriptions")
        others = [one for one in redis_client.client_list() if one["id"] not in ours]
        assert len(others) <= 3, [(one["cmd"], one["name"]) for one in others]
        for one in opened:
            one.__exit__(None, None, None)
    wait_until(lambda: not _channels(redis_client), "the subscriptions to be taken back")
    assert not shop_board.board.audience._feeds


def _channels(client: Any) -> list[bytes]:
    return [name for name in client.pubsub_channels() if name.endswith(b":changed")]


# --- Redis away ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def frail(_redis_binary: str) -> Iterator[RedisServer]:
    """A Redis that a test may stop."""
    with RedisServer(binary=_redis_binary) as server:
        yield server


def test_an_outage_is_told_and_waited_for(frail: RedisServer) -> None:
    """K4: on a page that is open, and on one that is opened; the password is nobody's business."""
    app = shop_app(frail.url())
    board = Board(app, SecretAuth(SECRET), (), read_only=False)
    with running(board) as url, client_of(url) as client, client.watching("/events") as stream:
        stream.until("list")
        frail.stop()
        assert stream.until("outage").data["text"].startswith("Redis cannot be reached; trying again.")
        with client.watching("/events") as late:
            assert late.until("outage").data["text"].startswith("Redis cannot be reached")
        away = client.get("/")
        assert (away.status_code, away.headers["refresh"]) == (503, "5")
        assert "Redis cannot be reached" in away.text
        frail.start()
        assert stream.until("outage").data == {"text": None}
        assert client.get("/").status_code == 200
    Runtime.forget(app)


@pytest.mark.parametrize(
    ("path", "form"), [("/cancel", {"ids": '["a", "b"]', "count": "2"}), ("/job/cancel?id=a", {"reason": "wrong"})]
)
def test_an_action_that_meets_an_outage_does_not_come_again_by_itself(
    frail: RedisServer, path: str, form: dict[str, str]
) -> None:
    """K4: nobody knows what of it was done, so a person is to look first; a page that came again would ask for all jobs."""
    app = shop_app(frail.url())
    with running(Board(app, SecretAuth(SECRET), (), read_only=False)) as url, client_of(url) as client:
        client.get("/")
        frail.stop()
        answer = client.post(path, data=form, headers=FROM_HERE)
        assert (answer.status_code, "refresh" in answer.headers) == (503, False)
        assert "it is not known what of that was done" in answer.text
    Runtime.forget(app)


def test_a_password_is_never_shown() -> None:
    """K4: not in the page of an outage."""
    app = shop_app("redis://user:hunter2@127.0.0.1:1/0")
    board = Board(app, SecretAuth(SECRET), (), read_only=False)
    with running(board) as url, client_of(url) as client:
        for path in ("/", "/job?id=x", "/cancel"):
            page = client.get(path)
            assert page.status_code == 503
            assert "127.0.0.1:1" in page.text
            assert "hunter2" not in page.text
    Runtime.forget(app)


# --- the command -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(redis_url: str, tmp_path: Path) -> Iterator[Any]:
    """Start ``jobs board`` with these arguments."""
    from tests.support.commands import Commands

    commands = Commands(redis_url, tmp_path)

    def start(*arguments: str) -> subprocess.Popen[str]:
        return commands.pipe("board", "--port", "0", *arguments)

    yield start
    commands.close()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_real_board_ends_within_two_seconds_with_open_streams(command: Any, sig: signal.Signals) -> None:
    """K4: its generators end; uvicorn alone would wait for them for ever."""
    process = command()
    line = process.stdout.readline()
    found = re.fullmatch(r"board: (http://127\.0\.0\.1:\d+/)\?token=(\S+)\n", line)
    assert found, line
    url, token = found.groups()
    with client_of(url, token) as client, client.watching("/events") as one, client.watching("/job/events?id=x") as other:
        one.until("list")
        assert not other.reading.response.is_closed
        began = time.monotonic()
        process.send_signal(sig)
        process.wait(10)
        assert time.monotonic() - began < 2
    assert process.returncode == (0 if sig is signal.SIGTERM else 130)
    notes = process.stderr.read()
    assert notes == ("" if sig is signal.SIGTERM else "The board has ended; the jobs go on.\n"), "no stream had to be cut"


def test_a_real_uvicorn_ends_with_the_streams_of_a_mounted_board(redis_url: str, tmp_path: Path) -> None:
    """K4: the streams see that their server wants to end, which does not tell an application before they have."""
    (tmp_path / "site_app.py").write_text(
        "import os\nfrom starlette.applications import Starlette\nfrom taskora_celery.board import board_app\n"
        "from tests.support.scripted_jobs import shop_app\n"
        "site = Starlette()\nsite.mount('/jobs', board_app(shop_app(os.environ['SITE_REDIS']), auth=None))\n"
    )
    env = {**os.environ, **worker_env(redis_url), "SITE_REDIS": redis_url}
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
    command = [sys.executable, "-m", "uvicorn", "site_app:site", "--port", "0"]
    process = subprocess.Popen(command, cwd=REPO_ROOT, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = ""
        while not url:
            found = re.search(r"http://127.0.0.1:\d+", process.stderr.readline())
            url = found[0] if found else ""
        with httpx.stream("GET", f"{url}/jobs/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            began = time.monotonic()
            process.terminate()
            process.wait(10)
            assert time.monotonic() - began < 2
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_the_command_refuses_what_is_not_safe(command: Any) -> None:
    """K4: another address without a secret of its own; an empty secret; a port that is taken."""
    for arguments, code, says in (
        (("--host", "0.0.0.0"), 2, "--host 0.0.0.0 can be reached from outside: give --auth, or listen on 127.0.0.1"),
        (("--auth", ":"), 2, "--auth is empty"),
        (("--auth", "alice:"), 2, "--auth has a user, and no password"),
        (
            ("--allow-host", "https://board.shop"),
            2,
            "'--allow-host': 'https://board.shop' is no name of a host",
        ),
        (("--auth", "\udcff"), 2, "--auth is no UTF-8 text"),
        (("--port", "65536"), 2, "Invalid value for '--port': 65536 is not in the range"),
        (("--host", "a b", "--auth", "x"), 1, "cannot listen on a b"),
        (("--host", "203.0.113.1", "--auth", "x"), 1, "cannot listen on 203.0.113.1"),
    ):
        process = command(*arguments)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (code, "")
        assert says in err


def test_a_secret_of_ones_own_is_not_printed(command: Any) -> None:
    """K4: who gave it knows it."""
    process = command("--auth", "alice:hunter2", "--read-only")
    url = process.stdout.readline().removeprefix("board: ").strip()
    assert "hunter2" not in url
    assert httpx.get(url).status_code == 401
    page = httpx.get(url, auth=("alice", "hunter2"))
    assert "No jobs yet" in page.text
    assert "celery -A tests.support.jobs:app worker" in page.text
    assert httpx.post(f"{url}cancel", auth=("alice", "hunter2"), headers=FROM_HERE).status_code == 403
    metrics = httpx.get(f"{url}metrics", auth=("alice", "hunter2"))
    assert "taskora_up 1" in metrics.text
    process.terminate()
    process.wait(10)


def test_without_its_extra_the_command_says_what_to_install(redis_url: str) -> None:
    """K4: one clear error; and nothing of the board is imported before the command is called."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['starlette', 'uvicorn', 'jinja2']))\n"
        "from celery.bin.base import CLIContext; from click.testing import CliRunner; from taskora_celery.cli import jobs\n"
        "from tests.support.scripted_jobs import shop_app\n"
        f"context = CLIContext(shop_app({redis_url!r}), no_color=True, workdir=None)\n"
        "done = CliRunner().invoke(jobs, ['board'], obj=context)\n"
        "import json; print(json.dumps([done.exit_code, done.output]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, check=True, timeout=60)
    exit_code, output = json.loads(done.stdout)
    assert exit_code == 1
    assert output.startswith('Error: the board needs packages of its own: pip install "taskora-celery[board]"')


def test_without_its_extra_an_import_says_what_to_install() -> None:
    """K4: who mounts the board reads what is missing and how to get it, not the name of a package that is not theirs."""
    code = (
        "import sys; sys.modules['starlette'] = None\n"
        "try:\n    from taskora_celery.board import board_app\n"
        "except ModuleNotFoundError as exc:\n    print(exc.name, exc, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, check=True, timeout=60)
    name, words = done.stdout.splitlines()
    assert name.startswith("starlette")
    assert words == f'the board needs packages of its own: pip install "taskora-celery[board]" ({name} is not installed)'
