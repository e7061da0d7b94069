"""From counts and records to samples: pure functions."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from taskora_celery.metrics.families import FROM_COUNTS, Family, Sample, family
from taskora_celery.records import LEVELS, Outcome
from taskora_celery.store.protocol import Snapshot
from taskora_celery.tally import BOUNDS, OTHER, Count, label_text, unpack_count
from taskora_celery.views import GOING, STATES

__all__ = ["BEGUN", "UNREAD", "count_samples", "job_samples"]

#: The states of a job that has begun and not ended, in the words that all faces use.
BEGUN = {name: word for name, word in STATES.items() if word in GOING and name != "PENDING"}
#: The state of jobs that were not looked at: there are too many.
UNREAD = "unread"
#: So many tasks have a heartbeat's age of their own, those that are silent longest.
NAMES_SHOWN = 500
#: What has no place among these is of a newer version.
_FIXED = {
    "outcome": frozenset({*Outcome.FINAL, Outcome.RETRY, Outcome.REJECTED, Outcome.LOST}),
    "action": frozenset({"redelivered", "failed"}),
    "level": frozenset(LEVELS),
    "kind": frozenset({"log", "report"}),
}
_BUCKETS = (*(repr(bound) for bound in BOUNDS), "+Inf")


def job_samples(records: Iterable[Snapshot | None], unread: int, now_ms: int) -> Iterator[Sample]:
    """Return what the records of jobs that go on say; ``unread`` more were not read."""
    states: Counter[str] = Counter(dict.fromkeys(BEGUN.values(), 0))
    oldest: dict[str, int] = {}
    for record in records:
        state = None if record is None else BEGUN.get(record.fields.get("s", ""))
        if record is None or state is None:  # it has ended since: the index is a moment behind
            continue
        states[state] += 1
        if state == "running":
            name = label_text(record.fields.get("n", ""))
            oldest[name] = min(oldest.get(name, now_ms), record.fields.get("h", now_ms))
    if unread:
        states[UNREAD] = unread
    for state, number in states.items():
        yield Sample(family("taskora_jobs"), (("state", state),), number)
    silent = sorted(oldest.items(), key=lambda item: item[1])
    if len(silent) > NAMES_SHOWN:
        silent[NAMES_SHOWN:] = [(OTHER, silent[NAMES_SHOWN][1])]
    for name, alive_ms in silent:
        age = max(now_ms - alive_ms, 0) / 1000
        yield Sample(family("taskora_job_heartbeat_age_seconds"), (("name", name),), age)


def count_samples(counts: Mapping[str, int]) -> Iterator[Sample]:
    """Return what the store's counts say, metric by metric; names of a newer version are left out.

    What has never happened is 0 where it is known what could: from nothing to 1 is no increase to Prometheus, so an alert would
    not see the first stall of a task that has run before, nor the first loss.
    """
    found: dict[str, list[tuple[Count, int]]] = defaultdict(list)
    for name, number in counts.items():
        count = unpack_count(name)
        found[count.metric].append((count, number))
    names: set[tuple[str, ...]] = {count.open for count, _ in found["attempts"] if len(count.open) == 1}
    could: dict[str, Iterable[tuple[str, ...]]] = {"stalled": sorted(names), "dropped": [()]}
    for metric, metric_family in FROM_COUNTS.items():
        known = sorted(found[metric], key=lambda item: (item[0].open, item[0].fixed))
        if metric_family.kind == "histogram":
            yield from _histograms(metric_family, known)
        elif not (metric_family.fixed or metric_family.open):
            yield Sample(metric_family, (), sum(number for _, number in known))
        else:
            never = [(Count(metric, (value,), open_), 0) for open_ in could.get(metric, ())
                     for value in sorted(_FIXED[metric_family.fixed[0]])]  # fmt: skip
            yield from _counters(metric_family, [*never, *known])


def _counters(metric_family: Family, found: Sequence[tuple[Count, int]]) -> Iterator[Sample]:
    series: Counter[tuple[tuple[str, str], ...]] = Counter()
    for count, number in found:
        fixed = tuple(zip(metric_family.fixed, count.fixed, strict=False))
        if len(count.fixed) == len(metric_family.fixed) and all(value in _FIXED[label] for label, value in fixed):
            shown = tuple((label, value.lower()) for label, value in fixed)
            series[_users(metric_family, count) + shown] += number
    for labels, number in series.items():
        yield Sample(metric_family, labels, number)


def _histograms(metric_family: Family, found: Sequence[tuple[Count, int]]) -> Iterator[Sample]:
    buckets: dict[tuple[tuple[str, str], ...], list[int]] = {}
    sums: Counter[tuple[tuple[str, str], ...]] = Counter()
    for count, number in found:
        labels = _users(metric_family, count)
        own = buckets.setdefault(labels, [0] * len(_BUCKETS))
        if count.fixed[:1] == ("sum",):
            sums[labels] += number
        elif (at := _bucket(count)) is not None:
            own[at] += number
    for labels, own in buckets.items():
        total = 0
        for le, number in zip(_BUCKETS, own, strict=True):
            total += number
            yield Sample(metric_family, (*labels, ("le", le)), total, "_bucket")
        yield Sample(metric_family, labels, sums[labels] / 1000, "_sum")
        yield Sample(metric_family, labels, total, "_count")


def _bucket(count: Count) -> int | None:
    """Return the bucket that a count belongs into, also where another version drew the bounds; None where it is none."""
    try:
        _, bound = count.fixed
        return bisect_left(BOUNDS, float(bound))
    except ValueError:
        return None


def _users(metric_family: Family, count: Count) -> tuple[tuple[str, str], ...]:
    values = count.open if len(count.open) == len(metric_family.open) else (OTHER,) * len(metric_family.open)
    return tuple(zip(metric_family.open, values, strict=True))
