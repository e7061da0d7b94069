"""What is counted of jobs, before the store is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskora_celery import tally
from taskora_celery.records import Outcome
from taskora_celery.reporter.changes import Changes, begin_counts, end_counts, log_counts
from taskora_celery.store.protocol import Begin, Ended
from taskora_celery.tally import BOUNDS, Count, Tally, duration_counts, pack_count, unpack_count, without_users

LABEL = st.text(st.characters(min_codepoint=32, blacklist_characters="\x7f", codec="utf-8"), min_size=1, max_size=120)


def begin(**fields: object) -> Begin:
    return Begin(**{"id": "job-1", "name": "shop.add", "attempt": 1, "worker": "w1", "created_ms": 1_000, "now_ms": 3_000,
                    "queue": "mail", **fields})  # type: ignore[arg-type]  # fmt: skip


@given(st.lists(LABEL, max_size=3))
def test_a_count_s_name_is_read_as_it_was_meant(labels: list[str]) -> None:
    """K5: whatever text users call their tasks and queues."""
    count = Count("attempts", ("SUCCESS",), tuple(labels))
    assert unpack_count(pack_count(count)) == count
    assert unpack_count(without_users(pack_count(count))) == Count("attempts", ("SUCCESS",))


@given(st.text(max_size=300))
def test_any_label_is_bounded_and_harms_no_other(text: str) -> None:
    """K5: control characters are what a name is taken apart by, and nobody's label is a megabyte."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    packed = pack_count(Count("retries", (), (text, "second")))
    metric, fixed, users = unpack_count(packed).metric, unpack_count(packed).fixed, unpack_count(packed).open
    assert (metric, fixed, users[1:]) == ("retries", (), ("second",))
    assert 1 <= len(users[0]) <= tally.LABEL_CHARS


@given(st.text(max_size=100))
def test_a_name_of_a_newer_version_is_read_without_harm(name: str) -> None:
    """K5: what it is, another version knows."""
    assert isinstance(unpack_count(name), Count)


@pytest.mark.parametrize(
    ("seconds", "le"), [(0.0, "0.01"), (0.01, "0.01"), (0.011, "0.05"), (3_600.0, "3600"), (99_999.0, "+Inf"), (-5.0, "0.01")]
)
def test_a_duration_falls_into_the_bucket_that_bounds_it(seconds: float, le: str) -> None:
    """K5: bounds are inclusive, as Prometheus has them; clocks that differ make no negative sum."""
    (bucket, one), (total, ms) = duration_counts("queue_wait", seconds, ("mail",))
    assert (bucket, one) == (Count("queue_wait", ("le", le), ("mail",)), 1)
    assert (total, ms) == (Count("queue_wait", ("sum",), ("mail",)), max(int(seconds * 1000), 0))


def test_the_bounds_grow() -> None:
    """K5: a bucket is found by bisection."""
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_counts_add_up_and_are_told_once() -> None:
    """K5: what could not be told is told with what has come since."""
    counts = Tally()
    counts.add([(Count("a"), 2), (Count("b"), 1), (Count("a"), 1)])
    taken = counts.take()
    assert taken == {"a": 3, "b": 1}
    assert not counts
    counts.add([(Count("a"), 1)])
    counts.give_back(taken)
    assert counts.take() == {"a": 4, "b": 1}


def test_a_tally_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """K5: tasks whose names are made up as they come cannot fill the memory of a worker while the store is away."""
    monkeypatch.setattr(tally, "COUNTS_KEPT", 3)
    counts = Tally()
    counts.add([(Count("attempts", ("SUCCESS",), (f"task-{n}",)), 1) for n in range(10)])
    assert {unpack_count(name): number for name, number in counts.take().items()} == {
        **{Count("attempts", ("SUCCESS",), (f"task-{n}",)): 1 for n in range(3)}, Count("attempts", ("SUCCESS",)): 7,
    }  # fmt: skip


def test_a_first_delivery_tells_how_long_it_waited() -> None:
    """K5: in its queue; not what waited for its time, is tried again, or whose creation nobody has stamped."""
    assert dict(begin_counts(begin())) == {Count("queue_wait", ("le", "2.5"), ("mail",)): 1,
                                              Count("queue_wait", ("sum",), ("mail",)): 2_000}  # fmt: skip
    for other in (begin(attempt=2), begin(redelivered=True), begin(created_ms=0), begin(queue=None)):
        assert not begin_counts(other)


def test_an_end_tells_how_and_after_how_long() -> None:
    """K5: and of a retry the class of the exception, never its text."""
    counted = Tally()
    counted.add(end_counts(begin(), Ended(Outcome.RETRY, 3_400, "order 17 is locked", "OSError")))
    names = counted.take()
    assert {unpack_count(name): number for name, number in names.items()} == {
        Count("attempts", ("RETRY",), ("shop.add",)): 1,
        Count("attempt_duration", ("le", "0.5"), ("shop.add",)): 1,
        Count("attempt_duration", ("sum",), ("shop.add",)): 400,
        Count("retries", (), ("shop.add", "OSError")): 1,
    }
    assert "17" not in "".join(names)


def test_logs_are_counted_by_level_and_losses_by_themselves() -> None:
    """K5, F3: what is no log entry is none."""
    assert dict(log_counts("shop.add", [2, 2, 4, 10], 3)) == {
        Count("log_records", ("info",), ("shop.add",)): 2, Count("log_records", ("error",), ("shop.add",)): 1,
        Count("dropped", ("log",)): 3,
    }  # fmt: skip


def test_changes_say_what_is_so_in_the_end() -> None:
    """K3, K5: of a job that began and ended between two turns, that it has ended; both are counted."""
    changes = Changes()
    changes.begun(begin())
    changes.begun(begin(id="job-2"))
    changes.ended(begin(), Ended(Outcome.SUCCESS, 3_100))
    going, ended, counts = changes.take()
    assert (going, ended) == (["job-2"], ["job-1"])
    assert counts[pack_count(Count("attempts", ("SUCCESS",), ("shop.add",)))] == 1
    assert changes.take() == ([], [], {})


def test_what_could_not_be_told_does_not_undo_what_came_since() -> None:
    """K3, L1: the job has ended meanwhile."""
    changes = Changes()
    changes.begun(begin())
    told = changes.take()
    changes.ended(begin(), Ended(Outcome.SUCCESS, 3_100))
    changes.gather()
    changes.give_back(*told)
    going, ended, counts = changes.take()
    assert (going, ended) == ([], ["job-1"])
    assert counts[pack_count(Count("queue_wait", ("le", "2.5"), ("mail",)))] == 1


def test_in_an_outage_the_newest_changes_are_kept_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """K5, L1: bounded, and the sums are right all the same."""
    monkeypatch.setattr("taskora_celery.reporter.changes.CHANGES_KEPT", 3)
    changes = Changes()
    for n in range(10):
        changes.ended(begin(id=f"job-{n}"), Ended(Outcome.SUCCESS, 3_100))
        changes.gather()
    _, ended, counts = changes.take()
    assert ended == ["job-7", "job-8", "job-9"]
    assert counts[pack_count(Count("attempts", ("SUCCESS",), ("shop.add",)))] == 10
