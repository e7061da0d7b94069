"""From counts and records to the text that Prometheus reads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.metrics import collect, samples
from taskora_celery.metrics.access import Access, is_loopback
from taskora_celery.metrics.collect import FRESH_FOR, Collector
from taskora_celery.metrics.families import FAMILIES, FROM_COUNTS, Sample, family
from taskora_celery.metrics.samples import count_samples, job_samples
from taskora_celery.metrics.text import exposition, wants_openmetrics
from taskora_celery.records import Outcome
from taskora_celery.store.memory import MemoryStore
from taskora_celery.store.protocol import Snapshot
from taskora_celery.tally import OTHER, Count, Tally, duration_counts, pack_count
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.manual_clock import ManualClock
from tests.support.scripted_store import ScriptedStore


def packed(*counts: tuple[Count, int]) -> dict[str, int]:
    return {pack_count(count): number for count, number in counts}


def values(found: Any, openmetrics: bool = False) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What Prometheus's own parser reads in our text."""
    parse = parse_openmetrics if openmetrics else parse_prometheus
    text = exposition(found, openmetrics=openmetrics)
    read = [sample for metric in parse(text) for sample in metric.samples]
    series = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in read}
    assert len(series) == len(read), "a series stands there twice"
    return series


def value(found: Any, series: str, **labels: str) -> float:
    return values(found)[series, frozenset(labels.items())]


ALL = packed(
    (Count("attempts", ("SUCCESS",), ("shop.add",)), 5), (Count("retries", (), ("shop.add", "OSError")), 2),
    (Count("stalled", ("redelivered",), ("shop.add",)), 1), (Count("log_records", ("warn",), ("shop.add",)), 7),
    (Count("dropped", ("log",)), 3), (Count("store_errors"), 4), *duration_counts("attempt_duration", 2.0, ("shop.add",)),
    *duration_counts("queue_wait", 0.2, ("mail",)), *duration_counts("cancel_latency", 0.02, ("shop.add",)),
)  # fmt: skip


def record(state: str, name: str = "shop.add", alive_ms: int = NOW_MS) -> Snapshot:
    return Snapshot({"s": state, "n": name, "h": alive_ms}, 0)


def everything() -> list[Sample]:
    return [Sample(family("taskora_up"), (), 1), *job_samples([record("STARTED")], 0, NOW_MS), *count_samples(ALL)]


@pytest.mark.parametrize("openmetrics", [False, True], ids=["Prometheus", "OpenMetrics"])
def test_each_metric_is_read_by_prometheus_s_own_parser(openmetrics: bool) -> None:
    """K5: names, types and labels as documented, in both formats."""
    parse = parse_openmetrics if openmetrics else parse_prometheus
    read = {metric.name: metric for metric in parse(exposition(everything(), openmetrics=openmetrics))}
    assert read.keys() == {metric.name.removesuffix("_total") for metric in FAMILIES}
    for metric in FAMILIES:
        found = read[metric.name.removesuffix("_total")]
        assert (found.type, found.documentation) == (metric.kind, metric.help)
        labels = {label for sample in found.samples for label in sample.labels}
        assert labels == {*metric.fixed, *metric.open, *({"le"} if metric.kind == "histogram" else ())}


@pytest.mark.parametrize("openmetrics", [False, True], ids=["Prometheus", "OpenMetrics"])
def test_counts_are_what_they_were(openmetrics: bool) -> None:
    """K5: outcomes in lower case, as label values are."""
    found = values(everything(), openmetrics)
    assert found["taskora_job_attempts_total", frozenset({("name", "shop.add"), ("outcome", "success")})] == 5
    assert found["taskora_job_retries_total", frozenset({("name", "shop.add"), ("exception", "OSError")})] == 2
    assert found["taskora_job_stalled_total", frozenset({("name", "shop.add"), ("action", "redelivered")})] == 1
    assert found["taskora_job_log_records_total", frozenset({("name", "shop.add"), ("level", "warn")})] == 7
    assert found["taskora_dropped_records_total", frozenset({("kind", "log")})] == 3
    assert found["taskora_store_errors_total", frozenset()] == 4


def test_what_could_happen_and_never_has_is_0() -> None:
    """K5: to Prometheus, from nothing to 1 is no increase: the alert would not see the first stall."""
    found = values(count_samples(packed((Count("attempts", ("SUCCESS",), ("shop.add",)), 1))))
    for action in ("redelivered", "failed"):
        assert found["taskora_job_stalled_total", frozenset({("name", "shop.add"), ("action", action)})] == 0
    for kind in ("log", "report"):
        assert found["taskora_dropped_records_total", frozenset({("kind", kind)})] == 0
    assert not {name for name, _ in values(count_samples({}))} & {"taskora_job_stalled_total", "taskora_job_attempts_total"}


def test_a_histogram_s_buckets_are_cumulative() -> None:
    """K5: as Prometheus has them; sum and count go with them."""
    counts = Tally()
    for seconds in (0.2, 0.4, 2.0, 99_999.0):
        counts.add(duration_counts("queue_wait", seconds, ("mail",)))
    found = list(count_samples(counts.take()))
    buckets = {le: value(found, "taskora_job_queue_wait_seconds_bucket", queue_name="mail", le=le)
               for le in ("0.1", "0.5", "1.0", "2.5", "14400.0", "+Inf")}  # fmt: skip
    assert buckets == {"0.1": 0, "0.5": 2, "1.0": 2, "2.5": 3, "14400.0": 3, "+Inf": 4}
    assert value(found, "taskora_job_queue_wait_seconds_sum", queue_name="mail") == pytest.approx(100_001.6)
    assert value(found, "taskora_job_queue_wait_seconds_count", queue_name="mail") == 4


def test_a_bucket_of_another_version_keeps_its_place() -> None:
    """K5: who drew other bounds has counted no less."""
    found = list(count_samples(packed((Count("queue_wait", ("le", "0.3"), ("mail",)), 2))))
    assert value(found, "taskora_job_queue_wait_seconds_bucket", queue_name="mail", le="0.5") == 2
    assert value(found, "taskora_job_queue_wait_seconds_bucket", queue_name="mail", le="0.1") == 0


def test_what_a_newer_version_counts_is_left_out() -> None:
    """K5: an outcome or a metric that this one does not know."""
    found = count_samples(packed((Count("attempts", ("PAUSED",), ("a",)), 1), (Count("attempts", (), ("a",)), 1),
                                 (Count("weather", ("wet",)), 1), (Count("queue_wait", ("max",), ("a",)), 1)))  # fmt: skip
    shown = {sample.family.name for sample in found if sample.value}
    assert shown == set()


def test_what_found_no_room_is_shown_as_other() -> None:
    """K5: under one label, also where a user's own label is called the same."""
    counts = packed((Count("attempts", ("SUCCESS",)), 2), (Count("attempts", ("SUCCESS",), (OTHER,)), 3),
                    (Count("retries"), 1), *duration_counts("attempt_duration", 1.0, ()))  # fmt: skip
    found = list(count_samples(counts))
    assert value(found, "taskora_job_attempts_total", name=OTHER, outcome="success") == 5
    assert value(found, "taskora_job_retries_total", name=OTHER, exception=OTHER) == 1
    assert value(found, "taskora_job_attempt_duration_seconds_count", name=OTHER) == 1


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=50), max_size=5), st.booleans())
def test_no_label_breaks_the_text(names: list[str], openmetrics: bool) -> None:
    """K5: users call their tasks and queues what they like."""
    tally = Tally()
    for name in names:
        tally.add([(Count("attempts", ("SUCCESS",), (name,)), 1), *duration_counts("queue_wait", 1.0, (name,))])
    found = values(count_samples(tally.take()), openmetrics)
    assert sum(number for (name, _), number in found.items() if name == "taskora_job_attempts_total") == len(names)


def test_each_state_has_a_gauge() -> None:
    """K5: in the words of all faces; a job that has ended since is no job that goes on, and neither is an expired one."""
    states = ["STARTED", "STARTED", Outcome.RETRY, Outcome.LOST, Outcome.REJECTED, Outcome.SUCCESS, "PAUSED"]
    found = list(job_samples([None, *map(record, states)], 0, NOW_MS))
    assert {dict(sample.labels).get("state"): sample.value for sample in found if sample.family.name == "taskora_jobs"} == {
        "running": 2, "retrying": 1, "stalled": 1, "rejected": 1,
    }  # fmt: skip


def test_no_job_is_0_jobs() -> None:
    """K5: an alert on a series that is not there never fires, and never ends."""
    assert value(list(job_samples([], 0, NOW_MS)), "taskora_jobs", state="running") == 0


def test_the_oldest_sign_of_life_of_each_task_is_shown() -> None:
    """K5: never one line for each job."""
    running = [
        record("STARTED", "a", NOW_MS - 5_000),
        record("STARTED", "a", NOW_MS - 90_000),
        record("STARTED", "b", NOW_MS + 50),
    ]
    found = list(job_samples([*running, record(Outcome.RETRY, "c", 0)], 0, NOW_MS))
    ages = {dict(sample.labels)["name"]: sample.value for sample in found if sample.family.name.endswith("age_seconds")}
    assert ages == {"a": 90.0, "b": 0.0}


def test_tasks_that_are_too_many_share_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """K5: those that are silent longest have their own."""
    monkeypatch.setattr(samples, "NAMES_SHOWN", 2)
    running = [record("STARTED", f"task-{n}", NOW_MS - n * 1_000) for n in range(5)]
    found = list(job_samples(running, 0, NOW_MS))
    ages = {dict(sample.labels)["name"]: sample.value for sample in found if sample.family.name.endswith("age_seconds")}
    assert ages == {"task-4": 4.0, "task-3": 3.0, OTHER: 2.0}


def test_every_count_has_a_metric() -> None:
    """K5: what the writers count is shown."""
    assert {metric.name for metric in FROM_COUNTS.values()} == {
        metric.name for metric in FAMILIES
    } - {"taskora_up", "taskora_jobs", "taskora_job_heartbeat_age_seconds"}  # fmt: skip


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5", False),
        ("application/openmetrics-text;q=none", False),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(accept: str, wanted: bool) -> None:
    """K5: Prometheus says what it likes best."""
    assert wants_openmetrics(accept) is wanted


def test_who_asks_in_the_same_second_gets_the_same_answer() -> None:
    """K5: a second Prometheus, or an impatient browser, costs the store nothing."""
    clock, store = ManualClock(), ScriptedStore()
    collector = Collector(store, clock)
    first = collector.samples()
    store.note([], [], NOW_MS, {"store_errors": 1})
    assert collector.samples() is first
    clock.advance(FRESH_FOR)
    assert value(collector.samples(), "taskora_store_errors_total") == 1


def test_a_store_that_is_away_is_said_to_be_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """K5: a count of 0 would be a lie; it is told in the log once."""

    class Away(MemoryStore):
        away = True

        def counts(self) -> dict[str, int]:
            if self.away:
                raise StoreUnavailableError("refused")
            return super().counts()

    clock, store = ManualClock(), Away()
    collector = Collector(store, clock)
    for _ in range(3):
        assert values(collector.samples()) == {("taskora_up", frozenset()): 0}
        clock.advance(FRESH_FOR)
    assert len(caplog.records) == 1
    store.away = False
    assert value(collector.samples(), "taskora_up") == 1


def test_what_has_ended_is_not_read_again() -> None:
    """K5: a job that was noted to go on behind its end would cost each scrape a read, until its record expires."""
    store = MemoryStore()
    ScriptedExecution(store, "ended").end()
    ScriptedExecution(store, "running")
    store.note(["ended", "running"], [], NOW_MS)
    Collector(store).samples()
    assert [job_id for job_id, _ in store.listed(10, going=True)] == ["running"]


def test_where_too_many_jobs_go_on_the_oldest_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """K5: a scrape is bounded, and a hung job is among those that it looks at; the others are counted."""
    monkeypatch.setattr(collect, "JOBS_READ", 2)
    store = MemoryStore()
    for n in range(5):
        ScriptedExecution(store, f"job-{n}", now_ms=NOW_MS + n)
        store.note([f"job-{n}"], [], NOW_MS + n)
    found = Collector(store, ManualClock()).samples()
    assert (value(found, "taskora_jobs", state="running"), value(found, "taskora_jobs", state="unread")) == (2, 3)
    assert value(found, "taskora_job_heartbeat_age_seconds", name="shop.work") == 1_000.0, "of the first of all"


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("LOCALHOST", True), ("0.0.0.0", False),
     ("::", False), ("10.0.0.5", False), ("metrics.shop", False), ("localhost.evil.example", False), ("", False)],
)  # fmt: skip
def test_an_address_of_this_machine_alone_is_known(host: str, own: bool) -> None:
    """K4, K5: what is not known to be one is none."""
    assert is_loopback(host) is own


@pytest.mark.parametrize(
    ("host", "known"),
    [("localhost:10818", True), ("127.0.0.1", True), ("[::1]:10818", True), ("exporter.shop:10818", True),
     ("EXPORTER.shop", True), ("evil.example", False), (None, False), ("", False), ("[", False)],
)  # fmt: skip
def test_a_page_under_another_name_gets_nothing(host: str | None, known: bool) -> None:
    """K4: a name that was made to lead to this machine (DNS rebinding) is none of ours."""
    assert Access(None, ["exporter.shop"]).knows(host) is known
    assert Access("secret").knows(host)


def test_the_secret_is_wanted_where_there_is_one() -> None:
    """K4: as Prometheus sends it: ``basic_auth`` or ``authorization``."""
    assert Access(None).admits(None)
    basic, bearer = Access("scraper:hunter2"), Access("hunter2")
    assert basic.admits("Basic c2NyYXBlcjpodW50ZXIy")
    assert bearer.admits("Bearer hunter2")
    for wrong in (None, "", "Bearer", "Bearer hunter3", "Basic c2NyYXBlcjpodW50ZXIz", "Bearer hünter2", "hunter2"):
        assert not basic.admits(wrong)
        assert not bearer.admits(wrong)
