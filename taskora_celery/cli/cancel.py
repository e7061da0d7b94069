"""``jobs cancel``."""

from __future__ import annotations

import getpass
import socket
import sys
from collections import Counter
from collections.abc import Sequence

import click

from taskora_celery.cancelling import cancel_job
from taskora_celery.cli.drawing import short_ids, state_text
from taskora_celery.cli.params import as_json, duration, resolved, some_ids, states, text, typed_ids
from taskora_celery.cli.session import CANCELLED, DONE, FAILED, NOT_FOUND, USAGE, Failure, JobsCommand, Session
from taskora_celery.cli.text import one_line
from taskora_celery.cli.waiting import end_of, following
from taskora_celery.documents import encoded, receipt_document
from taskora_celery.listing import ALL
from taskora_celery.reading import LOOK_EVERY
from taskora_celery.records import CancelReceipt
from taskora_celery.views import ENDED, GOING, QUEUED, JobFilter, JobView

__all__ = ["command"]

_CODES = {"unknown": NOT_FOUND, "too_late": CANCELLED}
_WORDS = {"too_late": "too late", "unknown": "not found", "would_cancel": "would be cancelled"}


@click.command(cls=JobsCommand, name="cancel", short_help="Stop jobs.")
@some_ids
@click.option("--reason", callback=text, help="Why; it is stored and shown.")
@click.option("--grace", callback=duration, help="How long a handler may take to stop by itself: 90s, 10m. Default: its task's.")
@click.option("--all", "everything", is_flag=True, help="All jobs that have not ended.")
@click.option("--task", metavar="GLOB", help="All jobs of tasks with such a name.")
@click.option("--state", "wanted_states", callback=states, multiple=True, help="All jobs in these states: running, retrying, …")
@click.option("--queued", is_flag=True, help="The ids are whole, and of jobs that were sent: also those no worker has begun.")
@click.option("--dry-run", is_flag=True, help="Only say which jobs that would be.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--wait", is_flag=True, help="Wait until the jobs that run have ended.")
@as_json
@click.pass_context
def command(
    ctx: click.Context,
    ids: tuple[str, ...],
    reason: str | None,
    grace: float | None,
    task: str | None,
    wanted_states: frozenset[str],
    *,
    everything: bool,
    queued: bool,
    dry_run: bool,
    yes: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Stop jobs, and say what that came to for each: cancelled, requested (it runs, and will stop), or too late."""
    session: Session = ctx.obj
    bulk = everything or task is not None or bool(wanted_states)
    _check(ids, wanted_states, bulk=bulk, queued=queued)
    views = _listed(session, JobFilter(wanted_states or GOING, task)) if bulk else []
    job_ids = [view.id for view in views] if bulk else _named(session, ids, queued=queued)
    teller = _Teller(session, job_ids, as_json=as_json)
    if not job_ids:
        session.output.note("No job is like that; nothing was cancelled.")
    elif dry_run:
        known = {view.id: view for view in views or _known(session, job_ids)}
        for job_id in job_ids:
            teller.tell(CancelReceipt(job_id, "would_cancel", 0, reason), known.get(job_id))
    else:
        if bulk and not yes:
            _ask(session, views)
        _cancel(session, teller, job_ids, reason, grace, queued=queued, wait=wait)
    ctx.exit(teller.code)


def _check(ids: tuple[str, ...], wanted_states: frozenset[str], *, bulk: bool, queued: bool) -> None:
    """Look whether what was typed goes together.

    :raises click.UsageError: it does not.
    """
    if bulk and ids:
        raise click.UsageError("either ids, or --all, --task, --state: not both.")
    if QUEUED in wanted_states or (bulk and queued):
        raise click.UsageError("jobs that wait in a queue are in no list: give their whole ids, with --queued.")
    if wanted_states & ENDED:
        raise click.UsageError(f"what has ended cannot be cancelled; --state takes {', '.join(sorted(GOING - {QUEUED}))}.")


def _listed(session: Session, wanted: JobFilter) -> list[JobView]:
    """Return the jobs in the list that are wanted.

    :raises Failure: there is no list.
    """
    if not session.reader.indexed:
        raise Failure("this app keeps no list of its jobs (taskora_index_limit is 0): give ids", USAGE)
    return session.reader.views(wanted, ALL, session.now_ms())


def _named(session: Session, ids: tuple[str, ...], *, queued: bool) -> list[str]:
    """Return the jobs that are meant by ids; those of queued jobs, of which nothing is known yet, as they were typed."""
    return list(dict.fromkeys(typed_ids(ids))) if queued and ids else resolved(session, ids)


def _ask(session: Session, views: Sequence[JobView]) -> None:
    """Ask whether these jobs are to be cancelled.

    :raises Failure: nobody is there to answer, or the answer is no.
    """
    jobs = f"{len(views)} job" + ("s" if len(views) > 1 else "")
    if sys.stdin is None or not sys.stdin.isatty():
        raise Failure(f"this would cancel {jobs}; nobody can be asked here: say -y", USAGE)
    session.on_interrupt = "Nothing was cancelled."
    for task, count in Counter(view.status.name for view in views).most_common():
        session.output.note(f"{count:>5}  {one_line(task)}")
    if not click.confirm(f"Cancel {jobs}?", err=True):
        raise Failure("nothing was cancelled", FAILED)


def _known(session: Session, job_ids: Sequence[str]) -> list[JobView]:
    """Return the jobs that have a record."""
    now_ms = session.now_ms()
    records = zip(job_ids, session.reader.store.records(job_ids), strict=True)
    return [session.reader.seen(job_id, record, now_ms) for job_id, record in records if record is not None]


class _Teller:
    """Prints what requests came to, and keeps the exit code."""

    def __init__(self, session: Session, job_ids: Sequence[str], *, as_json: bool) -> None:
        self._output = session.output
        self._as_json = as_json
        self._shorts = short_ids(job_ids)
        self._outcomes: Counter[str] = Counter()

    @property
    def code(self) -> int:
        """The exit code for all of them."""
        return next((code for outcome, code in _CODES.items() if self._outcomes[outcome]), DONE)

    def tell(self, receipt: CancelReceipt, view: JobView | None = None) -> None:
        """Print one; with the job's task and state where they are given."""
        self._outcomes[receipt.outcome] += 1
        output, word = self._output, _WORDS.get(receipt.outcome, receipt.outcome)
        if self._as_json:
            output.write(encoded(receipt_document(receipt)))
        elif output.terminal:
            style = "yellow" if receipt.outcome in _CODES else "green"
            what = [] if view is None else [one_line(view.status.name), state_text(view)]
            output.write("  ".join([one_line(self._shorts[receipt.id]), *what, output.paint(word, style)]))
        else:
            output.write(f"{one_line(receipt.id)}\t{word}")


def _cancel(
    session: Session,
    teller: _Teller,
    job_ids: Sequence[str],
    reason: str | None,
    grace: float | None,
    *,
    queued: bool,
    wait: bool,
) -> None:
    """Send all requests; then wait for the ends of the jobs that run, where that is wanted.

    Whatever ends it, each request that was sent is told.
    """
    running: dict[str, CancelReceipt] = {}
    by = _who()
    try:
        for job_id in job_ids:
            receipt = cancel_job(session.app, job_id, reason, grace=grace, queued=queued, by=by)
            if wait and receipt.outcome == "requested":
                running[job_id] = receipt
            else:
                teller.tell(receipt)
        if running:
            session.on_interrupt = "Not waiting any more; the requests stand."
            _wait(session, teller, running)
    finally:
        for receipt in running.values():
            teller.tell(receipt)


def _wait(session: Session, teller: _Teller, running: dict[str, CancelReceipt]) -> None:
    """Wait until these have ended; what has is told, and taken out."""
    for changes in following(session, list(running)).rounds(LOOK_EVERY):
        for change in changes:
            end = end_of(session, change)
            if end is not None:
                receipt = running.pop(change.id)
                outcome = "cancelled" if end[0] == "cancelled" else "too_late"
                teller.tell(CancelReceipt(receipt.id, outcome, receipt.requested_ms, receipt.reason))


def _who() -> str:
    """Return who asks, for the job's journal."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):  # a container's user without a name
        return socket.gethostname()
