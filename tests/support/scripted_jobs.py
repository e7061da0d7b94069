"""A list of jobs as a user may find it, written to a store without any worker; and the commands, run in this process."""

# mypy: allow-untyped-decorators
# Celery itself carries no types.

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner

from taskora_celery import ContextTask
from taskora_celery.cli import jobs, session
from taskora_celery.cli.terminal import Output
from taskora_celery.records import Outcome
from taskora_celery.runtime import Runtime
from taskora_celery.store.journal import encode
from taskora_celery.store.protocol import Report
from tests.support.executions import NOW_MS, ScriptedExecution

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskora_celery.store.protocol import JobStore

#: The moment of all commands, in milliseconds.
SHOWN_MS = NOW_MS + 600_000
RENDER = "7ee1047d-41c2-4a3e-9d2f-0c8b5f6f2d11"
MAIL = "15b5ade6-93d0-4f3c-8a55-6de3c0f7a1b2"
IMPORT = "c045a489-2f6a-4d8c-b7a0-95f1f3e0c7d4"
FAILED = "2d9f80aa-6f0e-4f52-9a37-51c5a4b8e3f6"
DONE = "90c3b1de-7a44-4c6b-8f02-3e7d9b6a5c18"
CANCELLED = "f31b77c2-0d5e-4b19-a6c8-74e2d0f9b3a5"
_INFO, _WARN = 2, 3


def shop_app(url: str) -> Celery:
    """An app with three tasks."""
    app = Celery("shop", broker="memory://", backend=url, set_as_current=False, task_cls=ContextTask)

    def nothing() -> None:
        """Never run."""

    app.task(nothing, name="reports.render", shared=False, max_retries=3)
    app.task(nothing, name="mail.send", shared=False, max_retries=4)
    app.task(nothing, name="import.csv", shared=False, max_retries=2, heartbeat_timeout=60)
    return app


def write_jobs(store: JobStore) -> None:
    """Write one job of each kind, as their workers would have."""
    _write_render(store)
    mail = _begun(store, MAIL, "mail.send", ago=34, created=41)
    mail.end_in_retry("SMTP 421 try later", 6, "SMTPResponseException")
    mail = _begun(store, MAIL, "mail.send", ago=10, created=41, attempt=2)
    mail.end_in_retry("SMTP 421 try later", 16, "SMTPResponseException")
    csv = _begun(store, IMPORT, "import.csv", ago=72, created=550, worker="w2@host")
    csv.progress(25)
    failed = _begun(store, FAILED, "import.csv", ago=900, created=900)
    failed.logs("reading orders.csv")
    failed.end(Outcome.FAILURE, "line 7: no such column: price", "ValueError")
    done = _begun(store, DONE, "reports.render", ago=1_300, created=1_301)
    done.progress({"current": 25, "total": 25, "percent": 100.0, "message": "done"})
    done.logs("rendering 25 pages", "written to report.pdf")
    done.end()
    cancelled = _begun(store, CANCELLED, "import.csv", ago=8_000, created=8_000)
    cancelled.end(Outcome.REVOKED, "wrong file", "JobCancelledError")
    for at, (job_id, ended) in enumerate(
        [(CANCELLED, True), (DONE, True), (FAILED, True), (IMPORT, False), (MAIL, False), (RENDER, False)]
    ):
        store.note([] if ended else [job_id], [job_id] if ended else [], SHOWN_MS - (5_000_000 if ended else 60_000) + at)


def _begun(store: JobStore, job_id: str, name: str, *, ago: float, created: float, **fields: Any) -> ScriptedExecution:
    """A delivery that began so many seconds ago of a job that was sent so many seconds ago."""
    now_ms, created_ms = SHOWN_MS - int(ago * 1000), SHOWN_MS - int(created * 1000)
    return ScriptedExecution(store, job_id, name=name, now_ms=now_ms, created_ms=created_ms, **fields)


def _write_render(store: JobStore) -> None:
    for attempt, ago in ((1, 120), (2, 60)):
        render = _begun(store, RENDER, "reports.render", ago=ago, created=150, attempt=attempt)
        entries = [
            (_INFO, render.now_ms, "rendering 25 pages", {"source": "orders.csv"}, None),
            (_WARN, render.now_ms + 1_900, "the printer does not answer", None, None),
        ]
        store.report([Report(RENDER, render.fence, render.now_ms, batches=encode(attempt, entries, 100))])
        render.end_in_retry("refused", 20, "ConnectionError")
    render = _begun(store, RENDER, "reports.render", ago=13, created=150, attempt=3)
    render.logs("rendering 25 pages", "page 12: a picture is missing")
    render.now_ms = SHOWN_MS - 1_000
    render.progress({"current": 12, "total": 25, "percent": 48.0, "message": "rendering"})


class Shell:
    """Runs ``celery -A shop jobs …`` in this process, at the moment `SHOWN_MS`."""

    def __init__(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = app
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(session.Session, "now_ms", staticmethod(lambda: SHOWN_MS))

    def run(self, *arguments: str, terminal: bool = False, columns: int = 100, stdin: str | bytes = "", **env: str) -> Any:
        """Run a command to its end; as if in a terminal of so many columns, or piped. The streams come apart."""
        environment = {"COLUMNS": str(columns), "LINES": "40", "NO_COLOR": "1", **env}
        with self._monkeypatch.context() as patch:
            if terminal:
                patch.setattr(session, "Output", _TerminalOutput)
            context = CLIContext(self.app, no_color=False, workdir=None)
            return CliRunner().invoke(jobs, arguments, obj=context, env=environment, input=stdin, catch_exceptions=False)

    def line(self, line: str) -> tuple[str, str, int]:
        """Run a line as it stands in the documentation, pipes included; return both outputs and the exit code."""
        stdin, notes, code = "", "", 0
        *before, last = line.split(" | ")
        for command in (*before, last):
            if command.startswith("celery -A shop jobs "):
                arguments = shlex.split(command.removeprefix("celery -A shop jobs "))
                done = self.run(*arguments, terminal=command is last, columns=112, stdin=stdin)
                stdin, notes, code = done.stdout, notes + done.stderr, done.exit_code
            else:
                stdin = subprocess.run(command, shell=True, input=stdin, capture_output=True, text=True, check=True).stdout
        return stdin, notes, code


class _TerminalOutput(Output):
    """Draws as on a terminal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.terminal = self.live = True


@pytest.fixture
def shop(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A shell for an app with a list of jobs in the test's database."""
    app = shop_app(redis_url)
    write_jobs(Runtime.of(app).readable())
    yield Shell(app, monkeypatch)
    Runtime.forget(app)
