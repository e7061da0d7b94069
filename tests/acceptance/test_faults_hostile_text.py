"""Text that a terminal, a page, a stream or a log would obey: it is stored and shown as data on every face."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery import JobCancelledError, JobHandle, server_sent_events
from taskora_celery.flower import Records, ShownTask
from taskora_celery.runtime import Runtime
from tests.support import gates, jobs, odd_jobs, outage_jobs
from tests.support.apps import pointed_at
from tests.support.commands import Commands
from tests.support.pools import pools
from tests.support.recorded import recorded
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.worker_fixtures import StartWorker

#: A title, a cleared screen, colours, a carriage return, a forged line, markup, turned text, a frame of a stream, a secret.
HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m\rSUCCESS\n[2026-01-01 00:00:00,000: INFO/MainProcess] forged\n\nevent: outcome\ndata: {}\n\n"
    "<script>alert(1)</script><img src=x onerror=alert(1)>&amp;\u202eterces\u2066\u200b\u2028\x00\x85 password=hunter2"
)
KEYS = ["__proto__", "constructor", "<b>", "\x1b[31m", "a\nb", "", "ключ", "../../etc/hosts"]
#: What no face that people read may contain: these are obeyed by terminals, or turn lines around.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\u2028]")
IDS = [
    "a b", "x{y}z", "{}", "%7B", "../../etc/passwd", "<b>id</b>", "\x1b[31mred", "line\nbreak", "ключ-🗝", "*", "[a-z]?", "-rf",
    "__proto__", "'; FLUSHALL; --", "a" * 2_000, "taskora:{other}:job",
]  # fmt: skip


@pools("threads")
def test_hostile_text_is_data_on_every_face(pool: str, start_worker: StartWorker, redis_url: str, tmp_path: Path) -> None:
    """Fault 18, F6, F7, K1, K3: as it was said by the handle, and in JSON; escaped on a terminal, in Flower, in the log."""
    worker = start_worker("tests.support.odd_jobs:app", pool=pool, concurrency=2)
    written = worker.log_size()
    commands = Commands(redis_url, tmp_path)
    with pointed_at(jobs.app, redis_url):
        handles = [odd_jobs.text.delay(HOSTILE, key) for key in KEYS]
        for handle, key in zip(handles, KEYS, strict=True):
            with pytest.raises(ValueError, match="owned"):
                handle.get(timeout=20)
            recorded(handle, "FAILURE")
            _is_as_it_was_said(handle, key)
            _streams(handle, key)
            _is_text_in_flower(handle)
        _is_escaped_on_a_terminal(commands, handles[0])
        _is_json(commands, handles[0])
        assert not STEERING.search("".join(_own_lines(worker.logs()[written:])))


def _is_as_it_was_said(handle: Any, key: str) -> None:
    entries = handle.get_logs()
    assert [entry.attempt for entry in entries] == [1, 2]
    for entry in entries:
        assert entry.message == HOSTILE
        assert entry.meta == {key: HOSTILE, "nested": {key: [HOSTILE]}}
    assert handle.get_progress()["message"] == HOSTILE
    for record in handle.history():
        assert record.reason == HOSTILE.replace("hunter2", "[redacted]"), "reasons are free text, and cleaned"


def _streams(handle: Any, key: str) -> None:
    """Server-Sent Events: one frame per event, each of one line of JSON, whatever the text was."""

    async def read() -> bytes:
        return b"".join([frame async for frame in server_sent_events(handle, timeout=5)])

    frames = asyncio.run(read()).decode().strip("\n").split("\n\n")
    shapes = {tuple(line.partition(": ")[0] for line in frame.split("\n")) for frame in frames if not frame.startswith(":")}
    assert shapes == {("id", "event", "data")}
    told = [
        (frame.split("\n")[1], json.loads(frame.split("\n")[2].removeprefix("data: "))) for frame in frames if frame[0] == "i"
    ]
    assert [data["message"] for name, data in told if name == "event: log"] == [HOSTILE, HOSTILE]
    assert [data["meta"][key] for name, data in told if name == "event: log"] == [HOSTILE, HOSTILE]
    assert [name for name, _ in told].count("event: outcome") == 1
    assert told[-1][1]["state"] == "FAILURE"


def _is_text_in_flower(handle: Any) -> None:
    """Flower escapes HTML; what steers a reader is written out before."""
    shown = ShownTask({"uuid": handle.id}, Records(jobs.app))
    lines = [str(getattr(shown, name)) for name in shown._fields if name.startswith(("log ", "attempt", "progress"))]
    assert len([line for line in lines if "owned" in line]) >= 4
    assert not [line for line in lines if STEERING.search(line) or "\n" in line]


def _is_escaped_on_a_terminal(commands: Commands, handle: Any) -> None:
    for arguments in (("show", handle.id), ("logs", handle.id), ("list",)):
        terminal = commands.terminal(*arguments, columns=160)
        code, text = terminal.end()
        assert code == 0, text
        assert "owned" in text
        assert not {"\x07", "\x9b", "\u202e", "\u2066", "\x85"} & set(terminal.written)
        assert "\x1b]0;" not in terminal.written
        assert not [line for line in text.splitlines() if line.startswith(("[2026-01-01", "event: outcome"))]
    # In a pipe the text of a log is left as it is; a table is escaped there, too.
    assert not STEERING.search(commands.run("list").stdout)


def _is_json(commands: Commands, handle: Any) -> None:
    lines = [json.loads(line) for line in commands.run("logs", "-j", handle.id).stdout.splitlines()]
    assert [line["message"] for line in lines if "message" in line] == [HOSTILE, HOSTILE]
    (shown,) = commands.run("show", "-j", handle.id).stdout.splitlines()
    assert json.loads(shown)["job"]["progress"]["message"] == HOSTILE


def _own_lines(text: str) -> list[str]:
    """The lines of the job's own log; what Celery says of an exception is Celery's."""
    return [line for line in text.splitlines() if "odd.text[" in line and "owned" in line and "Task odd.text" not in line]


@pools("threads")
def test_a_line_of_ten_megabytes_is_cut_and_marked(pool: str, start_worker: StartWorker, redis_url: str, tmp_path: Path) -> None:
    """Fault 18, F3: on the way to the store, so that no reader and no console ever gets it."""
    worker = start_worker("tests.support.odd_jobs:app", pool=pool)
    with pointed_at(jobs.app, redis_url):
        handle = odd_jobs.long_line.delay(10_000_000)
        handle.get(timeout=20)
        (entry,) = handle.get_logs()
        assert entry.message.startswith("lllll")
        assert entry.message.endswith("[cut]")
        assert len(entry.message) < 10_000
        assert len(worker.logs()) < 100_000
        assert len(Commands(redis_url, tmp_path).run("logs", handle.id).stdout) < 20_000


@pools("threads")
def test_odd_ids_are_names_and_nothing_else(pool: str, start_worker: StartWorker, redis_url: str, tmp_path: Path) -> None:
    """Fault 18, L3, G2, G3: each id is one job of its own, for logs, lists, streams and cancels, and no pattern or path."""
    start_worker("tests.support.outage_jobs:app", pool=pool, concurrency=2)
    commands = Commands(redis_url, tmp_path)
    with pointed_at(jobs.app, redis_url):
        handles = [outage_jobs.count.apply_async(task_id=job_id) for job_id in IDS]
        for handle in handles:
            assert handle.get(timeout=20) == 1
            assert recorded(handle).logs == 1
            assert [entry.meta for entry in JobHandle(handle.id, app=jobs.app).get_logs()] == [{"n": 0}]
        store = Runtime.of(jobs.app).readable()
        wait_until(lambda: len(store.listed(100)) == len(IDS), "all in the index", 20)
        listed = {json.loads(line)["id"] for line in commands.run("list", "-j").stdout.splitlines()}
        assert listed == set(IDS)
        assert not STEERING.search(commands.run("list").stdout)
        for job_id in ("line\nbreak", "*"):
            shown = commands.run("show", "-j", "--", job_id)
            assert json.loads(shown.stdout)["job"]["id"] == job_id, shown.stderr
        running = outage_jobs.talk.apply_async((0, 0.01), task_id="x{y}z*\n<b>")
        gates.wait_at(running.id)
        assert running.cancel("enough").outcome == "requested"
        gates.open_gate(running.id)
        with pytest.raises(JobCancelledError):
            running.get(timeout=20)
        assert {record.state for record in map(JobHandle.record, handles)} == {"SUCCESS"}
