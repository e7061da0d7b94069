"""What the one line in ``flowerconfig.py`` gives Flower, without Flower."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.events.state import State, Task

from taskora_celery import ContextTask
from taskora_celery import flower as face
from taskora_celery.errors import StoreUnavailableError
from taskora_celery.flower import Records, ShownTask, tasks_columns
from taskora_celery.runtime import Runtime
from tests.support.executions import ScriptedExecution
from tests.support.pages import DOCS, blocks_of
from tests.support.scripted_store import ScriptedStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskora_celery import Context

MARKUP = "<img src=x onerror='alert(1)'>"


def work(ctx: Context) -> None:
    """Do nothing."""


class Rig:
    """An app whose records are in memory, and what events have told Flower of one of its jobs."""

    def __init__(self) -> None:
        self.app = Celery("shop", broker="memory://", set_as_current=False, task_cls=ContextTask)
        self.app.task(work, name="shop.work", max_retries=3, shared=False)
        self.store = ScriptedStore()
        Runtime._by_app[self.app] = Runtime(self.app, self.store)
        self.records = Records(self.app)
        self.flower = State()

    def told(self, job_id: str = "job-1") -> Any:
        """The copy that Flower hands over."""
        for clock, kind in enumerate(("task-received", "task-started"), 1):
            fields = {"uuid": job_id, "name": "shop.work", "hostname": "w1@host", "timestamp": 5.0, "local_received": 5.0}
            self.flower.event({**fields, "type": kind, "clock": clock, "args": "(1,)"})
        return copy.copy(self.flower.tasks[job_id])

    def shown(self, job_id: str = "job-1") -> ShownTask:
        return ShownTask(self.told(job_id).as_dict(), self.records)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    Runtime.forget(made.app)


def test_a_row_of_the_list_has_progress_and_attempt(rig: Rig) -> None:
    """K2: besides all that events told, in one look at the record."""
    ScriptedExecution(rig.store, attempt=2).progress({"current": 12, "total": 25, "percent": 48.0, "message": "rendering"})
    told = rig.told().as_dict()
    row = rig.shown().as_dict()
    assert (row.pop("progress"), row.pop("attempt")) == ("48% 12/25 rendering", "2/4")
    assert row == told
    assert (row["state"], row["args"], row["worker"].hostname) == ("STARTED", "(1,)", "w1@host")


def test_a_jobs_page_has_its_attempts_with_reasons_and_the_end_of_its_log(rig: Rig) -> None:
    """K2, B6, F2: one line each; ours first, then Celery's."""
    first = ScriptedExecution(rig.store)
    first.logs("connecting")
    first.end_in_retry("refused")
    second = ScriptedExecution(rig.store, attempt=2)
    second.logs(*[f"row {n}" for n in range(30)])
    again = ScriptedExecution(rig.store, attempt=2, redelivered=True)
    again.logs("on again\nwith it")
    shown = rig.shown()
    fields = shown._fields
    assert fields[:5] == ("progress", "attempt", "attempt 1", "attempt 2", "attempt 2, delivery 2")
    assert fields[-len(Task._fields) :] == Task._fields
    texts = [getattr(shown, name) for name in fields[2:5]]
    assert texts[0] == "RETRY after 2 s on w1@host · OSError: refused · next in 5 s"
    assert texts[1].startswith("LOST ")
    assert texts[2] == "running since 14:13:20.000 on w1@host"
    assert shown.attempt == "2/4, delivery 2"
    log = fields[5 : -len(Task._fields)]
    assert len(log) == face.LOG_TAIL
    assert log[-1].startswith("log ")
    assert log[-1].endswith(" 14:13:20.000")
    assert getattr(shown, log[-1]) == "INFO on again with it"


def test_a_job_that_nobody_recorded_is_shown_as_events_tell_it(rig: Rig) -> None:
    """K2: another base's task, or a record that has expired: each row has each column."""
    row = rig.shown("other").as_dict()
    assert (row["progress"], row["attempt"], row["state"]) == (None, None, "STARTED")
    assert rig.shown("other")._fields == ("progress", "attempt", *Task._fields)


def test_a_store_that_is_away_is_asked_once_and_then_left_alone(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K2, L1: a page of a hundred rows does not wait a hundred times."""
    ScriptedExecution(rig.store).progress(1)
    asked: list[str] = []

    def read(job_id: str, skip: int | None = None, *, attempts: bool = False) -> None:
        asked.append(job_id)
        raise StoreUnavailableError("refused")

    monkeypatch.setattr(rig.store, "read", read)
    rows = [rig.shown().as_dict() for _ in range(100)]
    assert {row["progress"] for row in rows} == {None}
    assert asked == ["job-1"]
    assert [record.message.split(":")[0] for record in caplog.records] == ["job records cannot be read"]
    monkeypatch.undo()
    rig.records._outage.ask_at = 0.0
    assert rig.shown().progress == "1%"


@pytest.mark.parametrize("broken", ["taskora_no_such_setting", "taskora_key_prefix"])
def test_whatever_fails_a_row_has_its_columns(broken: str, caplog: pytest.LogCaptureFixture) -> None:
    """K2: Flower would show the row without them, and the browser an error instead of the list."""
    app = Celery("broken", broker="memory://", set_as_current=False, task_cls=ContextTask)
    app.conf[broken] = ""
    records = Records(app)
    rows = [ShownTask({"uuid": "job-1", "name": "shop.work"}, records).as_dict() for _ in range(3)]
    assert all(row["progress"] is row["attempt"] is None for row in rows)
    assert len(caplog.records) == 1


def test_without_a_store_the_columns_are_empty(caplog: pytest.LogCaptureFixture) -> None:
    """K2, L2: no Redis anywhere."""
    app = Celery("bare", broker="memory://", set_as_current=False, task_cls=ContextTask)
    row = ShownTask({"uuid": "job-1", "name": "shop.work"}, Records(app)).as_dict()
    assert (row["progress"], row["attempt"], caplog.records) == (None, None, [])


def test_flower_takes_what_is_imported_for_what_it_is(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """K2: Flower's options want a plain function and a text; it is called with the app that Flower was started with."""
    import types

    monkeypatch.setattr(face, "_records", lambda: rig.records)
    assert type(face.format_task) is types.FunctionType
    assert {"progress", "attempt", "state", "uuid"} <= set(tasks_columns.split(","))
    ScriptedExecution(rig.store).progress(7)
    assert face.format_task(rig.told()).progress == "7%"


def test_times_are_in_the_apps_zone(rig: Rig) -> None:
    """K2: as Flower's own."""
    rig.app.conf.timezone = "Asia/Tokyo"
    ScriptedExecution(rig.store)
    shown = rig.shown()
    assert shown._fields[2] == "attempt 1"
    assert getattr(shown, "attempt 1") == "running since 23:13:20.000 on w1@host"


def test_the_line_of_the_page_is_that_of_the_example() -> None:
    """K2: it gives what Flower's configuration asks for, and the example project has it."""
    (line,) = blocks_of("flower.md")
    names: dict[str, Any] = {}
    exec(line, names)
    assert (names["format_task"], names["tasks_columns"]) == (face.format_task, face.tasks_columns)
    assert line in (DOCS.parent / "example_project" / "flowerconfig.py").read_text("utf-8")
