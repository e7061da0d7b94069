"""Events for monitors: what one holds, when it is sent, and what an outage of the broker does to jobs."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Connection

from taskora_celery import Context, ContextTask
from taskora_celery.events import EVENT_BYTES, STARTED, EventSender, EventSink, WatchFlag, bounded
from taskora_celery.redaction import Redactor
from taskora_celery.settings import Settings
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 10.0  # seconds


class Request(SimpleNamespace):
    """What a running job's request tells."""

    def __init__(self, **fields: Any) -> None:
        told = {"id": "job-1", "retries": 0, "hostname": "w1@host", "args": (1,), "kwargs": {}}
        super().__init__(**{**told, "argsrepr": "(1, 'token=t-5678')", "kwargsrepr": "{'password': 'x'}", **fields})


def work(ctx: Context) -> None:
    """Do nothing."""


class Rig:
    """A sender whose dispatcher keeps what it is given."""

    def __init__(self, **settings: Any) -> None:
        self.app = Celery("shop", broker="memory://", set_as_current=False, task_cls=ContextTask)
        self.task = self.app.task(work, name="shop.work", max_retries=3, shared=False)
        self.request = Request()
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.failing: Exception | None = None
        #: Cleared, the broker lets everybody wait.
        self.answers = threading.Event()
        self.answers.set()
        self.opened = 0
        self.sender = EventSender(self.app, Settings(**settings), Redactor())
        self.sender._dispatcher_of = self._dispatcher  # type: ignore[method-assign]
        self.flag = WatchFlag.of(self.app, make=True)
        assert self.flag is not None
        self.flag.set(True)

    def _dispatcher(self, hostname: str) -> Any:
        self.opened += 1
        return SimpleNamespace(hostname=hostname, send=self._send)

    def _send(self, kind: str, **fields: Any) -> None:
        self.answers.wait(TIMEOUT)
        if self.failing is not None:
            raise self.failing
        self.sent.append((kind, fields))

    def sink(self, **request: Any) -> EventSink:
        self.request = Request(**request)
        sink = self.sender.sink_for(self.task, self.request)
        assert sink is not None
        return sink

    def wait(self, number: int = 1) -> dict[str, Any]:
        """The nth event's fields."""
        wait_until(lambda: len(self.sent) >= number, f"event {number}", TIMEOUT)
        return self.sent[number - 1][1]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.answers.set()
    made.sender.close()


# --- what it holds -------------------------------------------------------------------------------------------------------


def test_an_event_tells_all_of_a_job(rig: Rig) -> None:
    """K1, F7: a monitor that has just begun to listen knows name, arguments without secrets, attempt and progress."""
    rig.sink(retries=1).write({"current": 12, "total": 25, "percent": 48.0, "message": "rendering"})
    told = rig.wait()
    assert rig.sent[0][0] == STARTED
    assert abs(told.pop("started") - time.time()) < TIMEOUT
    assert told == {
        "uuid": "job-1",
        "name": "shop.work",
        "args": "(1, 'token=[redacted]')",
        "kwargs": "{'password': '[redacted]'}",
        "retries": 1,
        "attempt": 2,
        "max_attempts": 4,
        "progress": {"current": 12, "total": 25, "percent": 48.0, "message": "rendering"},
        "result": "48% 12/25 rendering · attempt 2/4",
    }


def test_arguments_without_a_text_of_the_publishers_are_shown_all_the_same(rig: Rig) -> None:
    """K1: a publisher that is no Celery may leave it out."""
    rig.sink(argsrepr=None, kwargsrepr=None).write(1)
    assert (rig.wait()["args"], rig.wait()["kwargs"]) == ("(1,)", "{}")


@pytest.mark.parametrize("text", ["x", "\u1f600", "\U0001f600", "<", '"'])
def test_an_event_is_4_kb_at_most(text: str) -> None:
    """K1: whatever its texts are; the arguments give way first."""
    fields = {"uuid": "u" * 36, "name": "shop.work", "result": text * 200, "progress": {"current": 1, "message": text * 200}}
    for size in (10, 1_000, 100_000):
        event = bounded(fields, {"args": text * size, "kwargs": text * size})
        assert len(json.dumps(event)) <= EVENT_BYTES
        assert event["result"] == text * 200
    small = bounded({"uuid": "u"}, {"args": "(1,)", "kwargs": "{}"})
    assert (small["args"], small["kwargs"]) == ("(1,)", "{}")


def test_sticky_keeps_the_text_before_the_arguments() -> None:
    """K1: the result takes the text's place when the job succeeds; the arguments stay."""
    rig = Rig(flower_events="sticky")
    rig.sink().write(48)
    assert rig.wait()["args"] == "[48%] (1, 'token=[redacted]')"
    rig.sender.close()


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (48, {"current": 48, "total": 100, "percent": 48.0}),
        (150, {"current": 150}),
        (math.inf, {}),
        ({"current": 1, "total": 4}, {"current": 1, "total": 4, "percent": 25.0}),
        ({"current": 12, "total": None, "message": "a\nb"}, {"current": 12, "message": "a b"}),
        ({"current": "a", "percent": math.nan, "total": True}, {}),
        ({"rows": 40}, {}),
        ("half", {}),
        (None, {}),
        ([1], {}),
        (True, {}),
    ],
)
def test_the_progress_in_an_event_is_numbers_and_a_message(rig: Rig, value: Any, numbers: dict[str, Any]) -> None:
    """K1: who reads an event can calculate with it."""
    rig.sink().write(value)
    assert rig.wait()["progress"] == numbers


def test_the_time_left_goes_by_the_pace_since_the_first_report(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """K1: a job that goes on from a checkpoint at 40% has not done those 40 in its first second; a new round begins anew."""
    now = 1_000.0
    monkeypatch.setattr("taskora_celery.events.time.time", lambda: now)
    sink = rig.sink()
    lines = [(40, 0), (41, 0.5), (46, 2), (46.0, 4), (99.95, 5), (100, 6), ("no", 7), (0, 10), (20, 12)]
    for number, (value, later) in enumerate(lines, 1):
        now = 1_000.0 + later
        sink.write(value)
        rig.wait(number)
    assert [fields["result"] for _, fields in rig.sent] == [
        "40%", "41%", "46% · 18 s left", "46% · 36 s left", "99.9% · 0.004 s left", "100%", "no", "0%", "20% · 8 s left",
    ]  # fmt: skip


# --- when it is sent -----------------------------------------------------------------------------------------------------


def test_false_makes_no_events() -> None:
    """K1: nor for what is recovered."""
    rig = Rig(flower_events=False)
    assert rig.sender.sink_for(rig.task, rig.request) is None
    rig.sender.retried("w1@host", "job-1", "shop.work", "lost")
    assert rig.sent == []


def test_a_task_that_sends_no_events_sends_none_of_these(rig: Rig) -> None:
    """K1: ``send_events`` is Celery's option."""
    rig.task.send_events = False
    assert rig.sender.sink_for(rig.task, rig.request) is None
    rig.sender.retried("w1@host", "job-1", "shop.work", "lost")
    assert rig.sent == []


def test_what_nobody_watches_costs_no_connection_and_no_thread(rig: Rig) -> None:
    """K1: a worker without ``-E`` that nobody has asked for events."""
    assert rig.flag is not None
    rig.flag.set(False)
    rig.sink().write(1)
    rig.sender.retried("w1@host", "job-1", "shop.work", "lost")
    assert (rig.opened, rig.sender._thread._thread) == (0, None)


def test_where_no_worker_has_made_a_flag_nobody_watches() -> None:
    """K1: a process that is no worker's."""
    app = Celery("other", broker="memory://", set_as_current=False)
    assert not EventSender(app, Settings(), Redactor()).watched


def test_nothing_is_sent_behind_the_end(rig: Rig) -> None:
    """K1: a late event would put progress in the place of the result, and flip RETRY back."""
    sink = rig.sink()
    sink.write(1)
    rig.wait()
    sink.close()
    sink.write(2)
    sink._value = 3, 0  # also what the reporter wrote in the moment of the end
    assert sink.send()
    rig.sink().write(4)
    rig.wait(2)
    assert [fields["result"] for _, fields in rig.sent] == ["1%", "4%"]


def test_the_end_waits_for_an_event_that_is_on_its_way(rig: Rig) -> None:
    """K1: so that no monitor hears of it behind the outcome."""
    rig.answers.clear()
    sink = rig.sink()
    sink.write(1)
    wait_until(sink._lock.locked, "the event on its way", TIMEOUT)

    def close() -> None:
        sink.close()
        rig.sent.append(("closed", {}))

    ended = threading.Thread(target=close)
    ended.start()
    rig.answers.set()
    ended.join(TIMEOUT)
    assert [kind for kind, _ in rig.sent] == [STARTED, "closed"]


def test_the_latest_value_is_sent(rig: Rig) -> None:
    """K1: what was said while the event before was on its way is one event."""
    rig.answers.clear()
    sink = rig.sink()
    sink.write(1)
    wait_until(sink._lock.locked, "the event on its way", TIMEOUT)
    sink.write(2)
    sink.write(3)
    rig.answers.set()
    assert rig.wait(2)["result"] == "3%"


# --- outages -------------------------------------------------------------------------------------------------------------


def test_a_job_may_have_more_to_show_at_any_step_of_a_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """K1: the turn is torn by none, and what comes is sent in the same turn."""
    monkeypatch.setattr(rig.sender, "_thread", SimpleNamespace(start=lambda: None, wake=lambda: None, stop=lambda: None))
    jobs = [(rig.sink(id=f"job-{number}"), rig.request) for number in range(100)]  # a sink does not keep its request alive
    offered = iter([sink for sink, _ in jobs])

    def step(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code is not EventSender._turn.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and (sink := next(offered, None)) is not None:
            sink.write(1)
        return step

    next(offered).write(1)
    before = sys.gettrace()
    sys.settrace(step)
    try:
        assert rig.sender._turn() is None
    finally:
        sys.settrace(before)
    assert len(rig.sent) == len({fields["uuid"] for _, fields in rig.sent}) == len(jobs)


def test_an_outage_is_told_once_and_what_is_running_is_shown_when_it_is_over(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """K1, L1: no error leaves it, and nothing is repeated but the latest progress of jobs that still run."""
    rig.failing = ConnectionError("refused")
    ended, running = rig.sink(), rig.sink()
    request = rig.request
    for n in range(3):
        ended.write(n)
        running.write(n)
    wait_until(lambda: rig.sender._outage.failures >= 2, "the second attempt", TIMEOUT)
    ended.close()
    rig.failing = None
    assert rig.wait()["result"] == "2%"
    assert request.id == "job-1"
    assert [record.message for record in caplog.records] == ["events for monitors cannot be sent: refused; jobs go on"]
    assert len(rig.sent) == 1


def test_an_outage_does_not_hold_up_who_reports(rig: Rig) -> None:
    """K1, L1: the reporter's thread only puts a value down."""
    rig.answers.clear()
    sinks = [rig.sink(id=f"job-{n}") for n in range(20)]
    began = time.monotonic()
    for sink in sinks:
        sink.write(1)
    for sink in sinks[1:]:
        sink.close()
    assert time.monotonic() - began < 1.0


def test_a_broker_that_is_away_is_not_waited_for_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """K1: left to itself, kombu would try again for seconds."""
    app = Celery("away", broker="redis://127.0.0.1:1/0", set_as_current=False)
    sender = EventSender(app, Settings(), Redactor())
    began = time.monotonic()
    assert not sender.send(STARTED, "w1@host", {"uuid": "job-1"})
    assert time.monotonic() - began < 1.5
    assert len(caplog.records) == 1


def test_a_broker_that_is_away_is_left_alone_for_a_while(rig: Rig) -> None:
    """K1, L1: who recovers jobs does not wait once for each of them."""
    rig.failing = ConnectionError("refused")
    for n in range(100):
        rig.sender.retried("w1@host", f"job-{n}", "shop.work", "lost")
    assert rig.opened == 1


def test_a_sender_that_is_closed_gives_up_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """K1: one connection of its own, opened with the first event."""
    given_up: list[Any] = []
    monkeypatch.setattr(Connection, "collect", lambda self, **_: given_up.append(self))
    app = Celery("memory", broker="memory://", set_as_current=False)
    sender = EventSender(app, Settings(), Redactor())
    assert sender.send(STARTED, "w1@host", {"uuid": "job-1"})
    first = sender._dispatcher
    assert sender.send(STARTED, "w1@host", {"uuid": "job-1"})
    assert sender._dispatcher is first
    sender.close()
    assert given_up == [first.connection]
