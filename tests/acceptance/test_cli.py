"""``celery -A app jobs …`` beside real workers: in a terminal, and piped."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery import JobHandle
from taskora_celery.cli.session import CANCELLED, FAILED, INTERRUPTED, NOT_FOUND, PIPE_CLOSED, TIMED_OUT, UNREACHABLE, USAGE
from tests.support import fault_jobs, gates, jobs, reporting_jobs, stopping_jobs
from tests.support.commands import Commands
from tests.support.redis_server import free_port
from tests.support.waiting import wait_until
from tests.support.worker import REPO_ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import redis
    from celery import Celery

    from tests.support.relay import Relay
    from tests.support.worker_fixtures import SharedWorker


#: A reader does not see the pool; what the record says in each is for other tests.
one_pool = pytest.mark.parametrize("pool", ["threads"], indirect=True, scope="session")


@one_pool
def test_a_running_job_is_listed_on_a_terminal(shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands) -> None:
    """K3: id, task, state, progress, attempt; and the table fits."""
    handle = reporting_jobs.report_steps.delay()
    gates.wait_at(handle.id)
    wait_until(handle.get_progress, "the progress")
    code, text = jobs_command.terminal("list", "--state", "running", columns=120).end()
    gates.open_gate(handle.id)
    assert code == 0
    heading, *rows = text.splitlines()
    assert heading.split() == ["ID", "TASK", "STATE", "PROGRESS", "ATTEMPT", "AGE", "BEAT", "LAST", "REASON"]
    row = next(row for row in rows if row.startswith(handle.id[:8]))
    assert all(part in row for part in ("report_steps", "running", "███░░░░░ 37%", "1/4"))
    assert max(map(len, rows)) <= 120


@one_pool
def test_a_job_is_watched_in_place_until_it_ends(shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands) -> None:
    """K3: a bar, the message, the last log lines, redrawn; at the end the picture stays, and the exit code is 0."""
    handle = reporting_jobs.report_at_gates.delay([{"current": 1, "total": 4, "percent": 25.0, "message": "one"}, 50])
    gates.wait_at(handle.id)
    with jobs_command.terminal("watch", handle.id[:12]) as terminal:
        terminal.wait_for(lambda text: "25%" in text and "1/4 one" in text, "the first quarter")
        gates.open_gate(handle.id)
        gates.wait_at(handle.id)
        terminal.wait_for(lambda text: "50%" in text and "one" not in text, "the second quarter in place of the first")
        gates.open_gate(handle.id)
        code, text = terminal.end()
    assert code == 0
    assert text.splitlines()[0].startswith(f"{handle.id[:8]}  tests.support.reporting_jobs.report_at_gates  done")
    assert text.count(handle.id[:8]) == 1, "it was drawn in one place"
    assert "100%" in text


@one_pool
@pytest.mark.parametrize("terminal", [True, False])
def test_the_exit_code_says_how_a_job_ended(
    shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands, terminal: bool
) -> None:
    """K3: 1 failed, 3 cancelled."""
    failed = reporting_jobs.report_and_fail.delay(7)
    cancelled = stopping_jobs.obey.delay("sleep")
    gates.wait_at(cancelled.id)
    cancelled.cancel("wrong file", wait=True)
    wait_until(lambda: failed.state == "FAILURE", "the failure")
    if terminal:
        code, text = jobs_command.terminal("watch", failed.id).end()
        assert (code, "ValueError: no 7, password=[redacted]" in text) == (FAILED, True)
        assert jobs_command.terminal("watch", cancelled.id).end()[0] == CANCELLED
    else:
        assert jobs_command.run("watch", failed.id).returncode == FAILED
        done = jobs_command.run("watch", "-j", failed.id, cancelled.id)
        assert done.returncode == FAILED
        assert {json.loads(line)["state"] for line in done.stdout.splitlines()} == {"failed", "cancelled"}


@one_pool
def test_ctrl_c_ends_the_watching_and_not_the_job(shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands) -> None:
    """K3: 130, and it says that the job goes on."""
    handle = reporting_jobs.report_steps.delay()
    gates.wait_at(handle.id)
    with jobs_command.terminal("watch", handle.id) as terminal:
        terminal.wait_for(lambda text: "running" in text, "the job")
        terminal.type("\x03")
        code, text = terminal.end()
    assert code == INTERRUPTED
    assert f"job {handle.id} goes on" in " ".join(text.split())
    gates.open_gate(handle.id)
    assert handle.get(timeout=20) == "done"


@one_pool
def test_watching_ends_at_its_timeout(shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands) -> None:
    """K3: 124, and the job goes on."""
    handle = reporting_jobs.report_steps.delay()
    gates.wait_at(handle.id)
    done = jobs_command.run("watch", handle.id, "--timeout", "0.2s")
    gates.open_gate(handle.id)
    assert (done.returncode, "goes on" in done.stderr) == (TIMED_OUT, True)
    assert "running" in done.stdout


@one_pool
def test_followed_logs_cross_a_retry_and_end_with_the_job(
    shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands
) -> None:
    """K3, F5: each entry as it comes; a line marks where the attempts meet."""
    handle = reporting_jobs.log_over_retry.delay()
    gates.wait_at(handle.id)
    with jobs_command.terminal("logs", "-f", handle.id) as terminal:
        terminal.wait_for(lambda text: text == "INFO  begin  attempt=1", "the first entry while the job runs")
        gates.open_gate(handle.id)
        gates.wait_at(handle.id)
        terminal.wait_for(lambda text: "INFO  begin  attempt=2" in text, "the second attempt")
        gates.open_gate(handle.id)
        code, text = terminal.end()
    assert code == 0
    worker = handle.record().worker
    assert text.splitlines() == [
        "INFO  begin  attempt=1", "INFO  end  attempt=1", "── attempt 1 is retried: second half; attempt 2 in 0s ──",
        f"── attempt 2 on {worker} ──", "INFO  begin  attempt=2", "INFO  end  attempt=2", f"{handle.id} done",
    ]  # fmt: skip


@one_pool
def test_followed_logs_go_on_after_a_lost_connection(
    shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands
) -> None:
    """K3, F5: without gap or repeat, and it says so."""
    handle = reporting_jobs.survive_outage.delay(30, 30)
    gates.wait_at(handle.id)
    follower = jobs_command.pipe("logs", "-f", "-j", handle.id)
    assert follower.stdout is not None
    lines = [follower.stdout.readline() for _ in range(30)]
    with gates.gate_client() as client:
        _cut_connections(client)
    gates.open_gate(handle.id)
    rest, told = follower.communicate(timeout=60)
    entries = [json.loads(line) for line in [*lines, *rest.splitlines()]]
    assert [entry["meta"]["n"] for entry in entries] == list(range(60))
    assert follower.returncode == 0
    assert "Redis cannot be reached, trying again: " in told
    assert told.endswith(f"Redis is back.\n{handle.id} done\n")


def _cut_connections(client: redis.Redis) -> None:
    own = client.client_id()
    for found in client.client_list():
        if int(found["id"]) != own and found["name"] != gates.CLIENT_NAME:
            client.client_kill_filter(_id=found["id"])


@one_pool
def test_a_job_is_seen_to_stall_with_its_worker_and_to_go_on_with_another(unswept: Relay, tmp_path: Path) -> None:
    """K3, D5, D6: the list says where it was lost; who follows its log crosses over to the next delivery."""
    commands = Commands(unswept.redis_url, tmp_path, "tests.support.fault_jobs:app")
    first = unswept.worker()
    handle = fault_jobs.stand_watched.delay()
    wait_until(lambda: handle.get_progress() == 1, "the first delivery's report")
    with contextlib.closing(commands):
        terminal = commands.terminal("logs", "-f", handle.id, columns=200)
        terminal.wait_for(lambda text: "INFO  delivered  delivery=1" in text, "the first delivery's entry")
        first.kill()
        stalled = f"{handle.id}\tfaults.stand_watched\tSTALLED\t1%\t1/4\t"
        listed = wait_until(lambda: [line for line in commands.run("list").stdout.splitlines() if stalled in line], "the stall")
        assert listed[0].endswith(f"\tno sign of life from {first.hostname}\t{first.hostname}")
        second = unswept.another()
        terminal.wait_for(lambda text: "INFO  delivered  delivery=2" in text, "the second delivery's entry")
        gates.open_gate(handle.id, "delivery2")
        code, text = terminal.end()
    assert code == 0
    # That it was lost is an entry of its own where somebody found out before the next delivery began.
    begin, *between, end, done = [line for line in text.splitlines() if not line.startswith("── attempt 1 was lost: ")]
    assert (begin, end, done) == ("INFO  delivered  delivery=1", "INFO  delivered  delivery=2", f"{handle.id} done")
    assert between == [f"── attempt 1 (delivery 2) on {second.hostname} ──"]


@one_pool
def test_what_a_job_logs_cannot_steer_the_terminal(shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands) -> None:
    """K3: a title, a cleared screen, a turned line: shown, not obeyed."""
    handle = reporting_jobs.log_text.delay("\x1b]0;owned\x07\x9b2J\u202eoverwritten\rSUCCESS\nINFO  forged")
    handle.get(timeout=20)
    for kind in ("xterm", "dumb"):
        terminal = jobs_command.terminal("logs", handle.id, env={"TERM": kind})
        code, text = terminal.end()
        assert code == 0
        assert text.splitlines() == [
            r"INFO  \x1b]0;owned\x07\x9b2J\u202eoverwritten\x0dSUCCESS",
            "        INFO  forged",
        ]
        assert not {"\x07", "\x9b", "\u202e"} & set(terminal.written)


@one_pool
def test_a_running_job_is_cancelled_and_waited_for(shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands) -> None:
    """K3, G1, G7: the outcome is printed; who asks once more gets the same answer."""
    handle = stopping_jobs.obey.delay("sleep")
    gates.wait_at(handle.id)
    done = jobs_command.run("cancel", handle.id, "--reason", "wrong file", "--wait")
    assert (done.returncode, done.stdout) == (0, f"{handle.id}\tcancelled\n")
    assert handle.record().reason == "wrong file"
    again = jobs_command.run("cancel", handle.id)
    assert (again.returncode, again.stdout) == (done.returncode, done.stdout)


def test_many_are_cancelled_after_a_question(start_worker: Any, jobs_app: Celery, jobs_command: Commands) -> None:
    """K3: the question has the count; a no cancels nothing, and without a terminal nobody is asked."""
    start_worker(pool="threads", concurrency=3)
    handles = [stopping_jobs.obey.delay("sleep") for _ in range(3)]
    for handle in handles:
        gates.wait_at(handle.id)
    wait_until(lambda: len(jobs_command.run("list").stdout.splitlines()) == 3, "three jobs in the list")
    piped = jobs_command.run("cancel", "--all")
    assert (piped.returncode, piped.stdout) == (USAGE, "")
    assert "3 jobs" in piped.stderr
    closed = subprocess.run(
        ["/bin/sh", "-c", '"$@" <&-', "sh", *jobs_command.command("cancel", "--all")], cwd=REPO_ROOT, env=jobs_command.env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (closed.returncode, closed.stdout, closed.stderr) == (USAGE, "", piped.stderr)
    with jobs_command.terminal("cancel", "--task", "*.obey") as terminal:
        terminal.wait_for(lambda text: "3  tests.support.stopping_jobs.obey\nCancel 3 jobs? [y/N]" in text, "the question")
        terminal.type("n\n")
        assert terminal.end()[0] == FAILED
    assert {handle.record().state for handle in handles} == {"STARTED"}
    with jobs_command.terminal("cancel", "--task", "*.obey") as terminal:
        terminal.wait_for(lambda text: "Cancel 3 jobs? [y/N]" in text, "the question")
        terminal.type("y\n")
        code, text = terminal.end()
    assert (code, text.count("requested")) == (0, 3)
    for handle in handles:
        wait_until(lambda handle=handle: handle.record().state == "REVOKED", "the end")  # type: ignore[misc]


def test_a_job_that_waits_in_its_queue_is_cancelled_by_its_whole_id(jobs_app: Celery, jobs_command: Commands) -> None:
    """K3, G2: it has no record yet, so the caller says that it was sent."""
    handle = jobs.add.delay(1, 2)
    assert jobs_command.run("cancel", handle.id).returncode == NOT_FOUND
    done = jobs_command.run("cancel", "--queued", handle.id)
    assert (done.returncode, done.stdout) == (0, f"{handle.id}\tcancelled\n")
    assert JobHandle(handle.id, app=jobs_app).state == "REVOKED"


@one_pool
def test_ids_go_through_a_pipe(shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands) -> None:
    """K3: ``-`` reads what ``list`` and ``list -j`` print."""
    handle = jobs.add.delay(1, 2)
    handle.get(timeout=20)
    wait_until(lambda: handle.id in jobs_command.run("list", "--limit", "1000").stdout, "the job in the list")
    for flag in ((), ("-j",)):
        listed = jobs_command.run("list", "--task", "*.add", "--limit", "1000", *flag)
        line = next(line for line in listed.stdout.splitlines() if handle.id in line)
        shown = jobs_command.run("show", "-", "-j", stdin=line + "\n")
        assert json.loads(shown.stdout)["job"]["id"] == handle.id


@one_pool
def test_a_reader_that_goes_away_is_no_error(shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands) -> None:
    """K3: ``| head`` ends the command without a word."""
    handle = reporting_jobs.log_many.delay(5_000)
    handle.get(timeout=20)
    process = jobs_command.pipe("logs", handle.id)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(20) == PIPE_CLOSED


def test_without_redis_one_line_says_so(jobs_command: Commands) -> None:
    """K3: 69, the password hidden."""
    url = f"redis://:secret@localhost:{free_port()}/0"
    for command in (["list"], ["watch", "abcdefgh"], ["logs", "-f", "abcdefgh"], ["cancel", "abcdefgh"]):
        done = jobs_command.run(*command, env={"RESULT_BACKEND": url})
        assert (done.returncode, done.stdout) == (UNREACHABLE, "")
        assert len(done.stderr.splitlines()) == 1
        assert "secret" not in done.stderr
        assert "Connection refused" in done.stderr


def test_without_an_app_it_is_refused(jobs_command: Commands) -> None:
    """K3: Celery would hand over a default app, on a broker that nobody named."""
    done = jobs_command.run("list", app=False)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr == "Error: which app? Say it before the command: celery -A your_app jobs …\n"
    assert jobs_command.run("list", "--help", app=False).returncode == 0, "help needs no app"


@one_pool
def test_a_list_is_watched_in_place(shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands) -> None:
    """K3: a job that begins meanwhile appears; Ctrl-C ends it."""
    with jobs_command.terminal("list", "--watch=0.1s", "--task", "*.report_steps", "--state", "running") as terminal:
        terminal.wait_for(lambda text: "every 0.1s  no jobs" in text, "the empty list")
        handle = reporting_jobs.report_steps.delay()
        gates.wait_at(handle.id)
        terminal.wait_for(lambda text: handle.id[:8] in text and "37%" in text, "the job")
        gates.open_gate(handle.id)
        terminal.wait_for(lambda text: "no jobs" in text and handle.id[:8] not in text, "the empty list again")
        terminal.type("\x03")
        code, text = terminal.end()
    assert (code, text.count("every 0.1s")) == (INTERRUPTED, 1)
    assert text.endswith("Not watching any more; the jobs go on.")


@one_pool
def test_the_set_up_is_looked_at(shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands) -> None:
    """K7: from the command line, with the worker's own answer; what is wrong with an app of tests is wrong."""
    done = jobs_command.run("doctor", "-j", "--timeout", "2s")
    assert done.returncode in {0, FAILED}, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode == FAILED) == any(finding["level"] == "wrong" for finding in found)
    assert any(shared_worker.hostname in finding["message"] for finding in found if finding["check"] == "workers")
    assert all(finding["advice"] for finding in found if finding["level"] != "ok")


@one_pool
def test_metrics_are_served(shared_worker: SharedWorker, jobs_app: Celery, jobs_command: Commands) -> None:
    """K5: until it is told to end, where nobody else can reach it; the address is on the standard output."""
    process = jobs_command.pipe("exporter", "--port", "0")
    assert process.stdout is not None
    url = process.stdout.readline().removeprefix("metrics: ").strip()
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert b"taskora_up 1" in answer.read()
    process.terminate()
    assert process.wait(10) == 0
    assert jobs_command.run("exporter", app=False).returncode == USAGE
