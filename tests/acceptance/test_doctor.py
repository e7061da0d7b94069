"""The doctor among real workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskora_celery import __version__
from taskora_celery.doctor.checks import Level, diagnose
from taskora_celery.doctor.gather import gather
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker_fixtures import StartWorker


def test_workers_say_what_they_are(start_worker: StartWorker, jobs_app: Celery) -> None:
    """K7: the version of this library on each, its clock, its timeout, and whether it sends events."""
    start_worker(pool="threads", hostname="loud@test", args=["-E"])
    start_worker(pool="solo", hostname="silent@test")
    facts = gather(jobs_app, 2.0)
    assert facts.workers is not None
    silent, loud = sorted(facts.workers, key=lambda worker: worker.events is True)
    assert (loud.name, loud.version, loud.events) == ("loud@test", __version__, True)
    assert (silent.name, silent.version, silent.events) == ("silent@test", __version__, False)
    assert loud.ahead is not None
    assert abs(loud.ahead) < 1.0
    assert loud.visibility_timeout == 3600.0
    assert loud.packages == facts.packages
    (events,) = [finding for finding in diagnose(facts) if finding.check == "events"]
    assert "silent@test" in events.message
    assert "loud@test" not in events.message


def test_a_worker_without_this_library_in_the_same_database_is_found(
    start_worker: StartWorker, jobs_app: Celery
) -> None:  # fmt: skip
    """K7: of another app, as Celery comes; alone it would be nobody's business."""
    start_worker(pool="solo", hostname="ours@test")
    assert not [finding for finding in diagnose(gather(jobs_app, 2.0)) if (finding.check, finding.level) == ("workers", "wrong")]
    start_worker("tests.support.plain_jobs:app", pool="solo", hostname="plain@test")
    wait_until(lambda: len(gather(jobs_app, 1.0).workers or ()) == 2, "both workers answer")
    found = [finding for finding in diagnose(gather(jobs_app, 2.0)) if finding.check == "workers"]
    assert [finding.level for finding in found] == [Level.OK, Level.WRONG]
    assert "plain@test" in found[1].message
