"""The commands over a Redis that holds one job of each kind: what they print, and how they end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.cli.session import CANCELLED as TOO_LATE
from taskora_celery.cli.session import DONE as OK
from taskora_celery.cli.session import INTERRUPTED, NOT_FOUND, TIMED_OUT, USAGE
from taskora_celery.cli.text import rows_of
from taskora_celery.documents import AttemptDocument, DetailDocument, JobDocument, LogDocument, ReceiptDocument
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.runtime import Runtime
from tests.support.executions import ScriptedExecution
from tests.support.scripted_jobs import CANCELLED, DONE, FAILED, IMPORT, MAIL, RENDER, SHOWN_MS, Shell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskora_celery.store.protocol import JobStore

AT_80 = """\
ID        TASK         STATE      PROGRESS      ATTEMPT  AGE  BEAT  LAST REASON
7ee1047d  …rts.render  running    48% 12s left  3/4      2m   1s    ConnectionE…
15b5ade6  mail.send    retrying   next in 8s    2/5      41s  -     SMTPRespons…
c045a489  import.csv   STALLED    25%           1/3      9m   72s   no sign of …
2d9f80aa  import.csv   failed     -             1/3      15m  -     ValueError:…
90c3b1de  …rts.render  done       100%          1/4      21m  -
f31b77c2  import.csv   cancelled  -             1/3      2h   -     wrong file
"""
AT_120 = """\
ID        TASK            STATE      PROGRESS               ATTEMPT  AGE  BEAT  LAST REASON
7ee1047d  reports.render  running    ████░░░░ 48% 12s left  3/4      2m   1s    ConnectionError: refused
15b5ade6  mail.send       retrying   next in 8s             2/5      41s  -     SMTPResponseException: SMTP 421 try lat…
c045a489  import.csv      STALLED    ██░░░░░░ 25%           1/3      9m   72s   no sign of life from w2@host
2d9f80aa  import.csv      failed     -                      1/3      15m  -     ValueError: line 7: no such column: pri…
90c3b1de  reports.render  done       100%                   1/4      21m  -
f31b77c2  import.csv      cancelled  -                      1/3      2h   -     wrong file
"""
PIPED = f"""\
{RENDER}\treports.render\trunning\t48% 12s left\t3/4\t2m\t1s\tConnectionError: refused\tw1@host
{MAIL}\tmail.send\tretrying\tnext in 8s\t2/5\t41s\t-\tSMTPResponseException: SMTP 421 try later\tw1@host
{IMPORT}\timport.csv\tSTALLED\t25%\t1/3\t9m\t72s\tno sign of life from w2@host\tw2@host
{FAILED}\timport.csv\tfailed\t-\t1/3\t15m\t-\tValueError: line 7: no such column: price\tw1@host
{DONE}\treports.render\tdone\t100%\t1/4\t21m\t-\t-\tw1@host
{CANCELLED}\timport.csv\tcancelled\t-\t1/3\t2h\t-\twrong file\tw1@host
"""


@pytest.fixture
def store(shop: Shell) -> JobStore:
    return Runtime.of(shop.app).readable()


def ids(done: Any) -> list[str]:
    return [line.split("\t")[0] for line in done.stdout.splitlines()]


def lines(done: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- list --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "expected"), [(80, AT_80), (120, AT_120)])
def test_the_table_fits_the_terminal(shop: Shell, columns: int, expected: str) -> None:
    """K3: exactly so."""
    assert shop.run("list", terminal=True, columns=columns).stdout == expected


@pytest.mark.parametrize("columns", range(20, 130, 7))
def test_no_line_is_wider_than_the_terminal(shop: Shell, columns: int) -> None:
    """K3: down to widths at which only id, task and state are left."""
    shown = shop.run("list", terminal=True, columns=columns).stdout.splitlines()
    assert max(map(len, shown)) <= max(columns, 31)


def test_piped_it_is_for_programs(shop: Shell) -> None:
    """K3: no colour, no cutting, tab-separated, no heading; nothing on the standard error."""
    done = shop.run("list", columns=40, NO_COLOR="")
    assert (done.stdout, done.stderr, done.exit_code) == (PIPED, "", OK)


def test_colours_are_there_where_they_are_wanted(shop: Shell) -> None:
    """K3: on a terminal, unless they are refused; in a pipe where they are forced."""
    assert "\x1b[36mrunning\x1b[0m" in shop.run("list", terminal=True, NO_COLOR="", CLICOLOR_FORCE="1").stdout
    assert "\x1b[" in shop.run("list", NO_COLOR="", CLICOLOR_FORCE="1").stdout
    assert "\x1b[" not in shop.run("list", NO_COLOR="1", CLICOLOR_FORCE="1").stdout


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--state", "running"], [RENDER]),
        (["--state", "failed,STALLED", "--state", "RETRY"], [MAIL, IMPORT, FAILED]),
        (["--state", "success"], [DONE]),
        (["--task", "import.*"], [IMPORT, FAILED, CANCELLED]),
        (["--task", "*.render", "--state", "done"], [DONE]),
        (["--worker", "w2"], [IMPORT]),
        (["--worker", "w?@host", "--limit", "2"], [RENDER, MAIL]),
        (["--since", "2m"], [RENDER, MAIL, IMPORT]),
        (["--since", "1d", "--limit", "4"], [RENDER, MAIL, IMPORT, FAILED]),
        (["--since", "30s"], []),
    ],
)
def test_jobs_are_chosen(shop: Shell, flags: Sequence[str], expected: Sequence[str]) -> None:
    """K3: by state, task, worker and time; those that go on come first, then the last change."""
    assert ids(shop.run("list", *flags)) == expected


@pytest.mark.parametrize("flags", [["--state", "lots"], ["--since", "soon"], ["--limit", "0"], ["--watch", "x"]])
def test_a_wrong_option_is_named(shop: Shell, flags: Sequence[str]) -> None:
    """K3: exit code 2, and what would be right."""
    done = shop.run("list", *flags)
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert flags[1] in done.stderr


def test_the_keys_of_json_are_stable(shop: Shell) -> None:
    """K3: each key is always there, in the same order; instants are RFC 3339 in UTC."""
    documents = lines(shop.run("list", "-j"))
    assert [document["id"] for document in documents] == [RENDER, MAIL, IMPORT, FAILED, DONE, CANCELLED]
    assert {tuple(document) for document in documents} == {JobDocument.__struct_fields__}
    render, mail = documents[:2]
    assert render["progress"] == {"current": 12, "total": 25, "percent": 48.0, "message": "rendering"}
    assert (render["state"], render["celery_state"], render["seconds_left"]) == ("running", "STARTED", 12.0)
    assert (render["created"], render["ended"]) == ("2026-09-21T14:20:50.000Z", None)
    assert mail["next_attempt"] == "2026-09-21T14:23:28.000Z"


def test_an_empty_list_says_why(shop: Shell, store: JobStore, redis_url: str) -> None:
    """K3: on the standard error; it is no failure."""
    done = shop.run("list", "--task", "nobody")
    assert (done.stdout, done.stderr, done.exit_code) == ("", "No job is like that.\n", OK)
    assert shop.run("list", "--state", "queued").stderr.startswith("Jobs that wait in a queue are not listed: ")
    store.note([], [], 0)
    shop.app.conf.taskora_key_prefix = "elsewhere:"
    Runtime.forget(shop.app)
    assert shop.run("list", terminal=True).stderr.startswith("No jobs yet.")
    shop.app.conf.taskora_index_limit = 0
    Runtime.forget(shop.app)
    for flags in ([], ["--task", "nobody"], ["--state", "queued"]):
        assert shop.run("list", *flags).stderr == "This app keeps no list of its jobs: taskora_index_limit is 0.\n"


def test_without_a_list_only_whole_ids_are_found(shop: Shell) -> None:
    """K3: "none is like that" would be a lie: nobody knows."""
    shop.app.conf.update(taskora_index_limit=0, taskora_key_prefix="unlisted:")
    Runtime.forget(shop.app)
    ScriptedExecution(Runtime.of(shop.app).readable(), RENDER)
    assert shop.run("show", RENDER).exit_code == OK
    done = shop.run("show", RENDER[:8])
    assert (done.exit_code, "ids are to be whole" in done.stderr) == (NOT_FOUND, True)
    done = shop.run("cancel", "--all", "-y")
    assert (done.exit_code, "keeps no list of its jobs" in done.stderr) == (USAGE, True)


def test_wrong_settings_are_told(shop: Shell) -> None:
    """K3, L4: in the setting's own words."""
    shop.app.conf.taskora_log_limits = 7
    Runtime.forget(shop.app)
    done = shop.run("list")
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert "did you mean 'taskora_log_limit'?" in done.stderr


def test_a_wrong_option_of_the_redis_for_job_records_is_told(shop: Shell) -> None:
    """K3, L4: as at a worker's start; redis-py would raise a TypeError."""
    shop.app.conf.result_backend += "?sockettimeout=1"
    Runtime.forget(shop.app)
    done = shop.run("list")
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert "argument 'sockettimeout'" in done.stderr


def test_an_app_without_redis_is_told_what_to_set(shop: Shell) -> None:
    """K3, L2: it has no job records."""
    shop.app.conf.result_backend = "cache+memory://"
    Runtime.forget(shop.app)
    done = shop.run("list")
    assert (done.exit_code, "taskora_redis_url" in done.stderr) == (USAGE, True)


def test_records_that_have_expired_are_not_listed(shop: Shell, store: JobStore) -> None:
    """K3: the index is a moment behind the records."""
    store.note(["gone-long-ago"], [], SHOWN_MS)
    assert "gone-long-ago" not in shop.run("list").stdout


def test_jobs_that_have_ended_meanwhile_push_out_none_that_runs(shop: Shell, store: JobStore) -> None:
    """K3: those that go on come first, however many the index still takes for such."""
    late = [f"late-{n}" for n in range(60)]
    for job_id in late:
        ScriptedExecution(store, job_id, now_ms=SHOWN_MS - 60_000).end()
    store.note(late, [], SHOWN_MS)
    first, *_ = ids(shop.run("list", "--limit", "1"))
    assert first == RENDER
    assert len(ids(shop.run("list", "--limit", "1000"))) == 66, "each once"


def test_all_of_many_jobs_are_looked_at(shop: Shell, store: JobStore) -> None:
    """K3: a filter looks on until it has enough."""
    for n in range(120):
        ScriptedExecution(store, f"many-{n:03d}", name="one.kind" if n else "other.kind").end()
        store.note([], [f"many-{n:03d}"], SHOWN_MS - 1_000 + n)
    assert ids(shop.run("list", "--task", "other.*", "--limit", "1")) == ["many-000"]
    assert len(ids(shop.run("list", "--task", "one.*", "--limit", "100"))) == 100


class Rounds:
    """In place of the sleep between two looks: changes something at each, and presses Ctrl-C at the end."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)

    def __call__(self, seconds: float) -> None:
        if not self.steps:
            raise KeyboardInterrupt
        self.steps.pop(0)()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_list_that_is_watched(shop: Shell, store: JobStore, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """K3: in place on a terminal; in a pipe only what has changed. Ctrl-C ends it with 130."""
    change = ScriptedExecution(store, "new-job-1", now_ms=SHOWN_MS, name="mail.send")
    rounds = Rounds(lambda: None, lambda: store.note([change.id], [], SHOWN_MS))
    monkeypatch.setattr("taskora_celery.cli.list.time.sleep", rounds)
    done = shop.run("list", "--watch=1s", "--limit", "3", terminal=terminal)
    assert (done.exit_code, done.stderr) == (INTERRUPTED, "Not watching any more; the jobs go on.\n")
    if terminal:
        assert done.stdout.count("every 1s  1 running, 1 retrying, 1 STALLED") == 1, "what is the same is not drawn again"
        assert "every 1s  2 running, 1 retrying" in done.stdout
    else:
        assert ids(done) == [RENDER, MAIL, IMPORT, "new-job-1"]


@pytest.mark.parametrize("columns", [20, 30, 40, 80])
def test_a_list_that_is_watched_fits_the_terminal(shop: Shell, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """K3: what has scrolled away cannot be redrawn in place, also where no line of the table fits."""
    monkeypatch.setattr("taskora_celery.cli.list.time.sleep", Rounds())
    done = shop.run("list", "--watch=1s", terminal=True, columns=columns, LINES="12")
    assert done.stdout.startswith("2026-09-21")
    assert sum(rows_of(line, columns) for line in done.stdout.splitlines()) < 12
    assert "7ee1047d" in done.stdout


@pytest.mark.parametrize(("terminal", "flags"), [(True, ["-j"]), (False, ["-j"]), (False, [])])
def test_a_list_that_is_watched_tells_of_an_outage_once(
    shop: Shell, store: JobStore, monkeypatch: pytest.MonkeyPatch, terminal: bool, flags: list[str]
) -> None:  # fmt: skip
    """K3: also where JSON goes to a terminal, in which no picture says it."""

    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("refused")

    steps = Rounds(lambda: monkeypatch.setattr(store, "listed", away), lambda: None)
    monkeypatch.setattr("taskora_celery.cli.list.time.sleep", steps)
    done = shop.run("list", "--watch=1s", *flags, terminal=terminal)
    assert done.stderr.splitlines() == [
        "The job records cannot be reached, trying again: refused", "Not watching any more; the jobs go on.",
    ]  # fmt: skip


# --- show --------------------------------------------------------------------------------------------------------------


def test_a_beginning_of_an_id_is_enough(shop: Shell) -> None:
    """K3: of six characters or more, of any job whose record is there."""
    assert lines(shop.run("show", "-j", RENDER[:6]))[0]["job"]["id"] == RENDER
    assert lines(shop.run("show", "-j", CANCELLED[:20]))[0]["job"]["id"] == CANCELLED
    done = shop.run("show", RENDER[:5])
    assert (done.exit_code, done.stdout) == (NOT_FOUND, "")


def test_a_beginning_of_several_names_them(shop: Shell, store: JobStore) -> None:
    """K3: exit code 2; a whole id is never ambiguous, however others go on."""
    for job_id in ("import-1", "import-12", "import-13"):
        ScriptedExecution(store, job_id).end()
    store.note([], ["import-1", "import-12", "import-13"], SHOWN_MS)
    done = shop.run("show", "import")
    assert done.exit_code == USAGE
    assert done.stderr == "Error: 'import' is the beginning of 3 ids: import-1, import-12, import-13\n"
    assert shop.run("show", "import-1").exit_code == OK


@pytest.mark.parametrize("command", ["show", "logs", "watch", "cancel"])
@pytest.mark.parametrize("job_id", ["unknown-job", "ab", "\x1b[2J", "not-text-\udcff"])
def test_an_unknown_id_answers_at_once(shop: Shell, command: str, job_id: str) -> None:
    """K3, J4: exit code 4, one line, nothing on the standard output."""
    done = shop.run(command, job_id, *(["-f"] if command == "logs" else []))
    assert (done.exit_code, done.stdout) == (NOT_FOUND, "")
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr
    assert ("a beginning of an id has 6 characters or more" in done.stderr) == (len(job_id) < 6)


@pytest.mark.parametrize("command", ["show", "logs", "watch", "cancel"])
def test_an_id_is_wanted(shop: Shell, command: str) -> None:
    """K3: exit code 2; nothing on the standard input is nothing found."""
    assert shop.run(command).exit_code == USAGE
    assert shop.run(command, "-", stdin="\n").exit_code == NOT_FOUND


def test_input_that_is_no_text_is_no_id(shop: Shell) -> None:
    """K3: it is not found, and no traceback."""
    done = shop.run("show", "-", stdin=b"\xff\xfeabcdefgh\n")
    assert (done.exit_code, len(done.stderr.splitlines())) == (NOT_FOUND, 1)
    assert "xfeabcdefgh" in done.stderr


def test_a_reason_that_is_no_text_is_written_out(shop: Shell) -> None:
    """K3, G1: a command line holds bytes; the request is sent all the same."""
    done = shop.run("cancel", "-j", MAIL, "--reason", "line 7: \udcff")
    assert (done.exit_code, lines(done)[0]["reason"]) == (OK, r"line 7: \udcff")


@pytest.mark.parametrize(
    "stdin",
    [
        f"{RENDER}\n{FAILED}\n",
        f"{RENDER}\tx\ty\n\n  {FAILED}  \n",
        f'{{"id":"{RENDER}"}}\n{{"job":{{"id":"{FAILED}"}}}}\n',
        f"{RENDER}\r\n{FAILED[:9]}",
    ],
)
def test_ids_come_from_the_standard_input(shop: Shell, stdin: str) -> None:
    """K3: as they are typed, and as the other commands print them; each once."""
    assert [document["job"]["id"] for document in lines(shop.run("show", "-j", "-", RENDER, stdin=stdin))] == [RENDER, FAILED]


def test_the_trace_of_a_job_is_shown(shop: Shell, store: JobStore) -> None:
    """K6: so that it can be looked up; nothing of it where there is none."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    ScriptedExecution(store, "traced-1", tag="t9", token=9, trace=trace)
    assert f"trace     {trace}" in shop.run("show", "traced-1").stdout
    assert lines(shop.run("show", "-j", "traced-1"))[0]["job"]["trace_id"] == trace
    assert "trace " not in shop.run("show", RENDER).stdout


def test_a_job_is_shown_with_all_that_is_known(shop: Shell) -> None:
    """K3: the keys are stable; attempts, and the last ten entries."""
    (document,) = lines(shop.run("show", "-j", RENDER))
    assert tuple(document) == DetailDocument.__struct_fields__
    assert tuple(document["job"]) == JobDocument.__struct_fields__
    assert {tuple(attempt) for attempt in document["attempts"]} == {AttemptDocument.__struct_fields__}
    assert {tuple(entry) for entry in document["last_logs"]} == {LogDocument.__struct_fields__}
    assert [attempt["outcome"] for attempt in document["attempts"]] == ["RETRY", "RETRY", None]
    assert len(document["last_logs"]) == 6


def test_a_traceback_comes_from_the_result_backend(shop: Shell) -> None:
    """K3: with ``--traceback``; one that it does not have is no failure."""
    try:
        raise ValueError("line 7")
    except ValueError as exc:
        shop.app.backend.store_result(FAILED, exc, "FAILURE", traceback="Traceback …\nValueError: line 7\x1b[2J")
    text = shop.run("show", "--traceback", FAILED, terminal=True).stdout
    assert text.endswith("TRACEBACK\nTraceback …\nValueError: line 7\\x1b[2J\n")
    assert lines(shop.run("show", "--traceback", "-j", FAILED))[0]["traceback"].startswith("Traceback …")
    assert lines(shop.run("show", "--traceback", "-j", DONE))[0]["traceback"] is None
    shop.app.backend.store_result(FAILED, ValueError(), "FAILURE", traceback="Traceback …\nValueError: password=hunter2")
    assert "hunter2" not in shop.run("show", "--traceback", FAILED).stdout, "F7: as on the board"
    shop.app.backend.client.delete(f"celery-task-meta-{FAILED}")


def test_hints_are_for_people(shop: Shell) -> None:
    """K3: on the standard error of a terminal, with the app as it was named."""
    assert shop.run("show", RENDER, terminal=True).stderr.split("\n")[1] == "celery -A shop jobs watch 7ee1047d"
    assert shop.run("show", DONE, terminal=True).stderr == "\ncelery -A shop jobs logs 90c3b1de\n"
    assert shop.run("show", RENDER).stderr == ""


@pytest.mark.parametrize(("job_id", "typed"), [("import-2026-11-25", "import-2026-11-25"), ("a; rm -rf b", "'a; rm -rf b'")])
def test_a_hint_can_be_copied(shop: Shell, store: JobStore, job_id: str, typed: str) -> None:
    """K3: ids of people's own begin alike, and may hold what a shell obeys."""
    ScriptedExecution(store, job_id, now_ms=SHOWN_MS).end()
    assert shop.run("show", job_id, terminal=True).stderr == f"\ncelery -A shop jobs logs {typed}\n"


def test_without_a_list_a_hint_has_the_whole_id(shop: Shell, store: JobStore) -> None:
    """K3: a beginning could not be looked up."""
    shop.app.conf.taskora_index_limit = 0
    Runtime.forget(shop.app)
    assert shop.run("show", DONE, terminal=True).stderr == f"\ncelery -A shop jobs logs {DONE}\n"


# --- logs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--level", "warn"], ["the printer does not answer"] * 2),
        (["--level", "WARNING"], ["the printer does not answer"] * 2),
        (["--attempt", "3"], ["rendering 25 pages", "page 12: a picture is missing"]),
        (["--grep", "^page|source="], ["rendering 25 pages", "rendering 25 pages", "page 12: a picture is missing"]),
        (["--since", "70s", "--level", "warn"], ["the printer does not answer"]),
        (["-n", "1"], ["page 12: a picture is missing"]),
        (["-n", "0"], []),
        (["--tail", "2", "--level", "warn"], ["the printer does not answer"] * 2),
    ],
)
def test_entries_are_chosen(shop: Shell, flags: Sequence[str], expected: Sequence[str]) -> None:
    """K3: by level, attempt, text and time; the newest."""
    entries = lines(shop.run("logs", "-j", RENDER, *flags))
    assert [entry["message"] for entry in entries] == expected
    assert {tuple(entry) for entry in entries} <= {LogDocument.__struct_fields__}


def test_several_jobs_have_prefixes(shop: Shell) -> None:
    """K3: by time; without them where they are not wanted."""
    with_them = shop.run("logs", FAILED, DONE).stdout.splitlines()
    assert with_them == [
        "90c3b1de | INFO  rendering 25 pages", "90c3b1de | INFO  written to report.pdf", "2d9f80aa | INFO  reading orders.csv",
    ]  # fmt: skip
    without = shop.run("logs", "--no-prefix", FAILED, DONE).stdout.splitlines()
    assert without == [line.partition(" | ")[2] for line in with_them]


def test_entries_that_are_not_kept_are_told(shop: Shell, store: JobStore) -> None:
    """K3, F3: a gap is marked; in JSON, where it would be no entry, it is told beside it."""
    execution = ScriptedExecution(store, "gap-job-1")
    execution.logs("one")
    execution.logs("four", first=3)
    assert shop.run("logs", "gap-job-1").stdout == "INFO  one\n── 2 entries are not kept any more ──\nINFO  four\n"
    done = shop.run("logs", "-j", "gap-job-1")
    assert ([entry["seq"] for entry in lines(done)], done.stderr) == (
        [0, 3], "gap-job-1: 2 entries are not kept any more\n",
    )  # fmt: skip


def test_in_a_pipe_text_is_left_as_it_is(shop: Shell, store: JobStore) -> None:
    """K3: escaping is for terminals; JSON writes out what steers one by itself."""
    ScriptedExecution(store, "raw-job-1").logs("\x1b[31mred\x9b\u202e\t日本")
    assert shop.run("logs", "raw-job-1").stdout == "INFO  \x1b[31mred\x9b\u202e\t日本\n"
    assert shop.run("logs", "raw-job-1", terminal=True).stdout == "INFO  \\x1b[31mred\\x9b\\u202e    日本\n"
    raw = shop.run("logs", "-j", "raw-job-1").stdout
    assert '"message":"\\u001b[31mred\\u009b\\u202e\\t日本"' in raw


def test_following_a_job_that_has_ended_ends(shop: Shell) -> None:
    """K3, F5: with how it ended, on the standard error."""
    done = shop.run("logs", "-f", FAILED)
    assert (done.stdout, done.exit_code) == ("INFO  reading orders.csv\n", OK)
    assert done.stderr == f"{FAILED} failed: ValueError: line 7: no such column: price\n"


@pytest.mark.parametrize("command", [["logs", "-f"], ["watch"]])
def test_a_record_that_expires_meanwhile_is_not_found(
    shop: Shell, store: JobStore, monkeypatch: pytest.MonkeyPatch, command: Sequence[str]
) -> None:
    """K3: exit code 4: its end, and some of its entries, nobody has seen."""
    ScriptedExecution(store, "expiring-1").logs("one")
    read, reads = store.read, []

    def expiring(*args: Any, **options: Any) -> Any:
        reads.append(args)
        return read(*args, **options) if len(reads) < 3 else None

    for name, seconds in (("following.GONE_AFTER", 0.05), ("cli.logs.LOOK_EVERY", 0.1), ("cli.watch.TICK", 0.1)):
        monkeypatch.setattr(f"taskora_celery.{name}", seconds)
    monkeypatch.setattr(store, "read", expiring)
    done = shop.run(*command, "expiring-1")
    assert (done.exit_code, "one" in done.stdout or command == ["watch"]) == (NOT_FOUND, True)


def test_a_wrong_pattern_or_level_is_told(shop: Shell) -> None:
    """K3: exit code 2."""
    done = shop.run("logs", "--grep", "(", RENDER)
    assert (done.exit_code, "'(' is no regular expression" in done.stderr) == (USAGE, True)
    done = shop.run("logs", "--level", "loud", RENDER)
    assert (done.exit_code, "'loud' is no level: one of debug, info, warn, error" in done.stderr) == (USAGE, True)


# --- watch -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job_ids", "code"), [([DONE], 0), ([FAILED], 1), ([CANCELLED], 3), ([DONE, CANCELLED], 3), ([CANCELLED, FAILED, DONE], 1)]
)
def test_the_exit_code_is_that_of_the_jobs(shop: Shell, job_ids: Sequence[str], code: int) -> None:
    """K3: 0 succeeded, 1 failed, 3 cancelled; of several the worst."""
    assert shop.run("watch", *job_ids).exit_code == code
    assert shop.run("watch", *job_ids, terminal=True).exit_code == code


def test_a_watch_that_times_out_says_what_it_knows(shop: Shell) -> None:
    """K3: 124; in JSON as in the list."""
    done = shop.run("watch", "-j", RENDER, DONE, "--timeout", "0.05s")
    assert (done.exit_code, [document["state"] for document in lines(done)]) == (TIMED_OUT, ["running", "done"])
    assert done.stderr == f"Timed out after 0.05s. Not watching any more; job {RENDER} goes on.\n"
    assert lines(done)[0] == lines(shop.run("list", "-j", "--limit", "1"))[0]


@pytest.mark.parametrize("columns", [20, 40, 60, 200])
def test_a_picture_fits_the_terminal(shop: Shell, columns: int) -> None:
    """K3: a line that wraps could not be redrawn in place; and no more lines than there are rows."""
    done = shop.run("watch", RENDER, MAIL, IMPORT, FAILED, "--timeout", "0.05s", terminal=True, columns=columns, LINES="14")
    picture = done.stdout.splitlines()
    assert max(map(len, picture)) <= columns
    assert len(picture) <= 12
    assert sum(line.startswith(("7ee1047d", "15b5ade6", "c045a489")) for line in picture) == 3


# --- cancel ------------------------------------------------------------------------------------------------------------


def outcomes(done: Any) -> dict[str, str]:
    return dict(line.split("\t") for line in done.stdout.splitlines())


def test_each_outcome_is_printed(shop: Shell, store: JobStore) -> None:
    """K3, G7: too late is an exit code, and the others are cancelled all the same."""
    done = shop.run("cancel", RENDER, MAIL, FAILED, "--reason", "wrong file")
    assert outcomes(done) == {RENDER: "requested", MAIL: "cancelled", FAILED: "too late"}
    assert done.exit_code == TOO_LATE
    shown = lines(shop.run("list", "-j", "--limit", "2"))
    assert (shown[0]["cancelling"], shown[0]["reason"]) == (True, "asked to stop: wrong file")
    again = shop.run("cancel", "-j", FAILED)
    assert (tuple(lines(again)[0]), lines(again)[0]["outcome"]) == (ReceiptDocument.__struct_fields__, "too_late")
    once_more = lines(shop.run("cancel", "-j", MAIL))[0]
    assert (once_more["outcome"], once_more["reason"]) == ("cancelled", "wrong file")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--all"], {RENDER, MAIL, IMPORT}), (["--task", "import.*"], {IMPORT}), ([RENDER], {RENDER}),
        (["--state", "retrying,stalled"], {MAIL, IMPORT}), (["--task", "mail.*", "--state", "running"], set()),
    ],
)  # fmt: skip
def test_a_dry_run_changes_nothing(shop: Shell, flags: Sequence[str], expected: set[str]) -> None:
    """K3: it says which jobs that would be; none that has ended, and no question."""
    before = shop.run("list").stdout
    done = shop.run("cancel", *flags, "--dry-run")
    assert done.exit_code == OK
    assert outcomes(done) == dict.fromkeys(expected, "would be cancelled")
    assert shop.run("list").stdout == before


def test_many_are_cancelled_without_a_question_where_that_is_said(shop: Shell) -> None:
    """K3: ``-y``; without it and without a terminal nothing happens."""
    done = shop.run("cancel", "--all")
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert done.stderr == "Error: this would cancel 3 jobs; nobody can be asked here: say -y\n"
    assert outcomes(shop.run("cancel", "--all", "-y")) == {RENDER: "requested", MAIL: "cancelled", IMPORT: "requested"}


@pytest.mark.parametrize(
    "flags",
    [
        ["--all", RENDER], ["--state", "done"], ["--state", "running,failed"], ["--grace", "x", RENDER],
        # Who wants to stop what waits must not stop what runs, nor be told that nothing waits.
        ["--all", "--queued"], ["--task", "*", "--queued"], ["--state", "queued"], ["--state", "queued,running"],
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(shop: Shell, flags: Sequence[str]) -> None:
    """K3: exit code 2, and nothing is cancelled."""
    done = shop.run("cancel", *flags, "-y")
    assert (done.exit_code, done.stdout) == (USAGE, "")


def test_nobody_to_cancel_is_no_failure(shop: Shell) -> None:
    """K3: a script that cleans up runs twice."""
    done = shop.run("cancel", "--task", "nobody", "-y")
    assert (done.exit_code, done.stdout, done.stderr) == (OK, "", "No job is like that; nothing was cancelled.\n")


def test_a_wait_ends_with_the_job(shop: Shell, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """K3: the outcome is what came of it; Ctrl-C leaves the request standing."""
    job = ScriptedExecution(store, "wait-job-1")
    asked = store.cancel

    def cancel(*args: Any, **options: Any) -> Any:
        outcome = asked(*args, **options)
        job.end("REVOKED")
        return outcome

    monkeypatch.setattr(store, "cancel", cancel)
    assert outcomes(shop.run("cancel", "--wait", "wait-job-1")) == {"wait-job-1": "cancelled"}


def test_ctrl_c_while_waiting_leaves_the_request(shop: Shell, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """K3: 130, and it says so; what was requested is told, whatever becomes of it."""

    def interrupted(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "watch", interrupted)
    done = shop.run("cancel", "--wait", RENDER)
    assert (done.exit_code, done.stderr) == (INTERRUPTED, "Not waiting any more; the requests stand.\n")
    assert done.stdout == f"{RENDER}\trequested\n"
    assert shop.run("cancel", RENDER).stdout == f"{RENDER}\trequested\n"
