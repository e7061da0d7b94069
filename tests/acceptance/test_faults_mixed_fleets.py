"""Publishers and workers without the library, and records of a version before: they work, or are told of."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest

from taskora_celery import JobHandle
from tests.support import fault_jobs, gates
from tests.support.fault_jobs import starts
from tests.support.recorded import recorded
from tests.support.relay import PLAIN_APP
from tests.support.waiting import wait_until
from tests.support.worker import REPO_ROOT

if TYPE_CHECKING:
    import redis

    from tests.support.relay import Relay

#: Fields that older versions do not know: the delivery's tag and token, losses, refused reports.
NEW_FIELDS = ("l", "o", "x", "y")

PUBLISHER = """
import json, sys
from celery import Celery
app = Celery("shop", broker=sys.argv[1], backend=sys.argv[1])
sent = [app.send_task("faults.mark"), app.send_task("faults.stand_late", countdown=0.1)]
assert not any(name.startswith("taskora") for name in sys.modules)
print(json.dumps([result.id for result in sent]))
print(sent[0].get(timeout=30), file=sys.stderr)
"""


def test_a_publisher_without_the_library_is_served(swept: Relay) -> None:
    """Fault 22, A2, B4: its jobs have a context, a record, and the time of their first receipt as their creation."""
    swept.worker()
    published = subprocess.run(
        [sys.executable, "-c", PUBLISHER, swept.redis_url], cwd=REPO_ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert published.returncode == 0, published.stderr
    assert published.stderr.strip() == "1", "the plain publisher reads the result"
    mark, stand = [JobHandle(job_id, app=fault_jobs.app) for job_id in json.loads(published.stdout)]
    assert recorded(mark).delivery == 1
    wait_until(lambda: stand.get_progress() == 1, "the start")
    gates.open_gate(stand.id, "delivery1")
    found = stand.get(timeout=20)
    assert found["timestamp"] == recorded(stand).started_ms
    assert [entry.meta for entry in stand.get_logs()] == [{"delivery": 1}]


# --- workers without the library ---------------------------------------------------------------------------------------


def started(job_id: str, number: int) -> bool:
    """Wait for a start of a job, and say whether its worker has the library."""
    wait_until(lambda: len(starts(job_id)) >= number, f"start {number}", timeout=30)
    return cast("bool", starts(job_id)[number - 1]["library"])


@pytest.mark.parametrize("pool", ["prefork", "threads"], indirect=True, scope="session")
def test_workers_with_and_without_the_library_take_over_from_one_another(swept: Relay) -> None:
    """Fault 22: a job goes from a worker with the library to one without and back, each of them killed, and ends once.

    Its record knows of the deliveries that the library has seen.
    """
    first = swept.worker()
    handle = fault_jobs.fleet.delay(3)
    assert started(handle.id, 1) is True
    plain = swept.another(PLAIN_APP)
    first.kill()
    assert started(handle.id, 2) is False
    plain.kill()  # before its lease runs out: it does not renew it
    last = swept.another()
    assert handle.get(timeout=30) == {"start": 3, "library": True}
    assert len(starts(handle.id)) == 3
    status = recorded(handle)
    assert (status.worker, status.attempt) == (last.hostname, 1)
    assert [record.outcome for record in handle.history()] == ["LOST", "SUCCESS"]


@pytest.mark.parametrize("pool", ["prefork"], indirect=True, scope="session")
def test_a_job_that_a_worker_without_the_library_ends_is_over(swept: Relay) -> None:
    """Fault 22: its result is there for everybody, and its message is gone; its record says that nobody told of the end."""
    first = swept.worker()
    handle = fault_jobs.fleet.delay(2)
    assert started(handle.id, 1) is True
    plain = swept.another(PLAIN_APP)
    first.kill()
    assert handle.get(timeout=30) == {"start": 2, "library": False}
    with swept.client() as client:
        wait_until(lambda: not client.hlen("unacked") and not client.llen("celery"), "the acknowledgement", timeout=10)
    swept.another()
    plain.kill()
    assert fault_jobs.mark.delay().get(timeout=20) == 1
    assert len(starts(handle.id)) == 2
    assert handle.record().state in {"STARTED", "LOST"}, "whether anybody saw the first worker's end"
    assert list(handle.follow_logs(timeout=20)) == [], "who follows it is not kept waiting"


# --- records of older versions -----------------------------------------------------------------------------------------


def make_old(client: redis.Redis, handle: Any) -> None:
    """Make a job's record one that an older version wrote."""
    assert client.hdel(f"taskora:{{{handle.id}}}:job", *NEW_FIELDS) >= 2


def test_records_of_older_versions_are_gone_on_with(swept: Relay) -> None:
    """Fault 22: of a job that runs during the upgrade, of one whose worker is replaced, and of one that has ended."""
    first = swept.worker()
    with swept.client() as client:
        ended = fault_jobs.mark.delay()
        assert ended.get(timeout=20) == 1
        recorded(ended)
        running = [fault_jobs.stand_late.delay() for _ in range(min(swept.slots, 2))]
        for handle in running:
            wait_until(lambda job=handle: job.get_progress() == 1, "the start")  # type: ignore[misc]
        for handle in [ended, *running]:
            make_old(client, handle)
        assert (ended.record().state, ended.record().stalls, ended.record().refused) == ("SUCCESS", 0, 0)
        if len(running) > 1:
            gates.open_gate(running[0].id, "delivery1")
            assert running[0].get(timeout=20)["delivery"] == 1
            assert recorded(running[0]).stalls == 0
    taken_over = running[-1]
    second = swept.another()
    first.kill()
    wait_until(lambda: taken_over.get_progress() == 2, "the second start", timeout=20)
    gates.open_gate(taken_over.id, "delivery2")
    found = taken_over.get(timeout=20)
    assert (found["delivery"], found["checkpoint"]) == (2, {"row": 100})
    assert [record["outcome"] for record in found["history"]] == ["LOST"]
    assert (recorded(taken_over).worker, recorded(taken_over).stalls) == (second.hostname, 1)
    again = fault_jobs.mark.apply_async(task_id=ended.id)
    wait_until(lambda: len(starts(ended.id)) == 2, "the job that was sent anew")
    assert recorded(again).delivery == 1
