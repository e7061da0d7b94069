"""Task options of this library: what they may be, what they default to, and what follows from them."""

# mypy: allow-untyped-decorators, allow-subclassing-any

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, Task

from taskora_celery import Context, ContextTask
from taskora_celery.options import BY_SETTING
from tests.support.eager_apps import tasks_of_their_own

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _own_tasks() -> Iterator[None]:
    with tasks_of_their_own():
        yield


def app_with(**conf: Any) -> Celery:
    app = Celery("shop", broker="memory://", set_as_current=False, task_cls=ContextTask)
    app.conf.update(conf)
    return app


def bound(app: Celery | None = None, **options: Any) -> Any:
    """A task with these options."""

    def work(ctx: Context) -> None:
        """Do nothing."""

    app = app or app_with()
    return app.task(work, name="shop.work", **options)._get_current_object()


def late(task: Any) -> tuple[Any, Any]:
    return task.acks_late, task.reject_on_worker_lost


# --- what they may be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("heartbeat_timeout", "30", "heartbeat_timeout='30' is not a duration: give seconds or a timedelta"),
        ("heartbeat_timeout", True, "heartbeat_timeout=True is not a duration: give seconds or a timedelta"),
        ("heartbeat_timeout", -1, "heartbeat_timeout=-1.0 is not a duration: give 0 or more seconds"),
        ("heartbeat_timeout", float("nan"), "heartbeat_timeout=nan is not a duration: give 0 or more seconds"),
        ("heartbeat_timeout", 0, "heartbeat_timeout=0 is too short: at least 0.5 seconds, or None for never"),
        ("heartbeat_timeout", timedelta(milliseconds=400), "is too short: at least 0.5 seconds, or None for never"),
        ("tracked", "no", "tracked='no' is neither True nor False"),
        ("tracked", None, "tracked=None is neither True nor False"),
        ("max_stalls", "1", "max_stalls='1' is not a whole number, or None for no limit"),
        ("max_stalls", 1.5, "max_stalls=1.5 is not a whole number, or None for no limit"),
        ("max_stalls", True, "max_stalls=True is not a whole number, or None for no limit"),
        ("max_stalls", -1, "max_stalls=-1 is negative: 0 fails at the first loss, None never"),
    ],
)
def test_a_wrong_option_is_refused_where_the_task_is_defined(option: str, value: Any, words: str) -> None:
    """L4: by the task's name, with the value and what to give instead; not in the first job that hangs."""
    with pytest.raises((TypeError, ValueError)) as caught:
        bound(**{option: value})
    assert str(caught.value).startswith("task shop.work: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("heartbeat_timeot", "heartbeat_timeout"),
        ("max_stall", "max_stalls"),
        ("cancel_grance", "cancel_grace"),
        ("oncancel", "on_cancel"),
    ],
)
def test_a_slip_in_an_options_name_is_told(slip: str, meant: str) -> None:
    """L4: Celery takes any name; as an attribute it would do nothing, without a word."""
    with pytest.warns(UserWarning, match=f"task shop.work: there is no option '{slip}': did you mean '{meant}'?"):
        bound(**{slip: 5})


def test_what_is_nobodys_option_is_left_alone() -> None:
    """A6: a task may have attributes of its own, and overrides what it inherits."""

    class Base(ContextTask):
        abstract = True
        tracker = 1
        heartbeat = 5
        max_rows = 10

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound(base=Base, timeout=5, ignore_result=True, tracker=2, heartbeat_timeout=5)


def test_a_wrong_option_of_a_class_is_refused_where_it_is_written() -> None:
    """L4: class-based tasks are looked at before they are bound to an app."""
    with pytest.raises(ValueError, match=r"task shop.import: max_stalls=-1 is negative"):

        class Import(ContextTask):
            name = "shop.import"
            max_stalls = -1

            def run(self) -> None:
                """Do nothing."""


@pytest.mark.parametrize(("value", "expected"), [(0.5, 0.5), (30, 30.0), (timedelta(minutes=1), 60.0), (None, None)])
def test_a_heartbeat_timeout_is_a_duration_or_none(value: Any, expected: float | None) -> None:
    """D4: a `timedelta` is accepted wherever a duration is."""
    found = bound(heartbeat_timeout=value).heartbeat_timeout
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("value", [0, 1, 5, None])
def test_max_stalls_is_a_number_or_none(value: int | None) -> None:
    """D6: 0 fails at the first loss, None never."""
    assert bound(max_stalls=value).max_stalls == value


# --- what they default to ------------------------------------------------------------------------------------------------


def test_without_a_word_a_job_need_not_show_life_and_may_be_lost_once() -> None:
    """D3, D6: the defaults."""
    task = bound()
    assert (task.heartbeat_timeout, task.max_stalls) == (None, 1)


@pytest.mark.parametrize("value", [30, 30.0, timedelta(seconds=30)])
def test_the_app_decides_for_tasks_that_do_not_say(value: Any) -> None:
    """D4, D6: `taskora_heartbeat_timeout` and `taskora_max_stalls`."""
    app = app_with(taskora_heartbeat_timeout=value, taskora_max_stalls=None)
    task = bound(app)
    assert (task.heartbeat_timeout, type(task.heartbeat_timeout), task.max_stalls) == (30.0, float, None)
    assert late(task) == (True, True)


@pytest.mark.parametrize("conf", [{"taskora_heartbeat_timeout": None, "taskora_max_stalls": None}])
def test_the_app_may_leave_both_off(conf: dict[str, Any]) -> None:
    """D4, D6: None is a value, and not the lack of one."""
    task = bound(app_with(**conf))
    assert (task.heartbeat_timeout, task.max_stalls) == (None, None)


def test_the_word_of_the_task_counts_before_that_of_the_app() -> None:
    """D4, D6: also where it is None."""
    app = app_with(taskora_heartbeat_timeout=30, taskora_max_stalls=5)
    task = bound(app, heartbeat_timeout=None, max_stalls=0)
    assert (task.heartbeat_timeout, task.max_stalls) == (None, 0)


def test_upper_case_settings_are_understood() -> None:
    """L4: `CELERY_TASKORA_HEARTBEAT_TIMEOUT` in a Django settings module."""
    app = Celery("shop", set_as_current=False, task_cls=ContextTask)

    class Module:
        CELERY_BROKER_URL = "memory://"
        CELERY_TASKORA_HEARTBEAT_TIMEOUT = 12
        CELERY_TASKORA_MAX_STALLS = 3

    app.config_from_object(Module, namespace="CELERY")
    task = bound(app)
    assert (task.heartbeat_timeout, task.max_stalls) == (12.0, 3)


@pytest.mark.parametrize("conf", [{"taskora_heartbeat_timeout": "soon"}, {"taskora_max_stalls": -1}])
def test_a_wrong_setting_is_told_by_the_worker_and_not_by_the_first_task(conf: dict[str, Any]) -> None:
    """L4: in its own name; a task that is bound before the worker looks at its settings takes the default."""
    task = bound(app_with(**conf))
    assert (task.heartbeat_timeout, task.max_stalls) == (None, 1)


def test_annotations_set_options_like_the_task_itself() -> None:
    """A4: `task_annotations` is Celery's way to set options from the configuration; they are checked, too."""
    app = app_with(task_annotations={"shop.work": {"heartbeat_timeout": timedelta(seconds=9), "max_stalls": 4}})
    task = bound(app)
    assert (task.heartbeat_timeout, task.max_stalls, late(task)) == (9.0, 4, (True, True))
    with pytest.raises(ValueError, match=r"task \S*work: max_stalls=-4 is negative"):
        bound(app_with(task_annotations={"*": {"max_stalls": -4}}))


def test_a_mark_of_what_is_not_set_says_what_it_is() -> None:
    """Habit 11: it is the value that people see on a class which no app has."""
    assert repr(BY_SETTING) == "BY_SETTING"
    assert ContextTask.heartbeat_timeout is BY_SETTING
    assert ContextTask.max_stalls is BY_SETTING


# --- what follows --------------------------------------------------------------------------------------------------------


def test_a_heartbeat_timeout_turns_late_acknowledgement_on() -> None:
    """D8: a message that is acknowledged before the job ends could not be delivered again."""
    assert late(bound(heartbeat_timeout=5)) == (True, True)


def test_without_one_celerys_defaults_stand() -> None:
    """A6: nothing changes for a task that does not ask for it."""
    task, plain = bound(), Celery("plain", broker="memory://", set_as_current=False).task(bound, name="plain")
    assert late(task) == (plain.acks_late, plain.reject_on_worker_lost)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"acks_late": False}, (False, True)),
        ({"reject_on_worker_lost": False}, (True, False)),
        ({"acks_late": False, "reject_on_worker_lost": False}, (False, False)),
        ({"acks_late": True, "reject_on_worker_lost": True}, (True, True)),
    ],
)
@pytest.mark.parametrize("where", ["task", "annotations"])
def test_what_is_set_stays_as_it_is(options: dict[str, Any], expected: tuple[bool, bool], where: str) -> None:
    """D8: on unless set, by the task or by the configuration's annotations."""
    if where == "task":
        task = bound(heartbeat_timeout=5, **options)
    else:
        task = bound(app_with(task_annotations={"shop.work": options}), heartbeat_timeout=5)
    assert late(task) == expected


@pytest.mark.parametrize("options", [{}, {"acks_late": False, "reject_on_worker_lost": False}])
def test_what_celery_fills_in_on_a_parent_is_not_set_by_anybody(options: dict[str, Any]) -> None:
    """D8: a task may derive from one that is bound; what its class says counts, what `bind` left there does not."""
    app = app_with()

    class Parent(ContextTask):
        name = "shop.parent"

        def run(self) -> None:
            """Do nothing."""

    for name, value in options.items():
        setattr(Parent, name, value)
    app.register_task(Parent())

    class Child(Parent):
        name = "shop.child"
        heartbeat_timeout = 5

    app.register_task(Child())
    assert late(app.tasks["shop.parent"]) == (False, options.get("reject_on_worker_lost"))
    assert late(app.tasks["shop.child"]) == ((False, False) if options else (True, True))


def test_binding_twice_changes_nothing() -> None:
    """A4: Celery binds a task again when it is asked for its app."""
    task = bound(heartbeat_timeout=5)
    type(task).bind(task.app)
    assert (task.heartbeat_timeout, late(task)) == (5.0, (True, True))


# --- tasks that are left alone -------------------------------------------------------------------------------------------


def untracked(app: Celery, **options: Any) -> Any:
    def work() -> None:
        """Do nothing."""

    return app.task(work, name="shop.untracked", **options)._get_current_object()


@pytest.mark.parametrize(("conf", "options"), [({}, {"tracked": False}), ({"taskora_track": "context"}, {})])
def test_a_task_that_is_left_alone_has_celerys_options_and_celerys_request(conf: dict[str, Any], options: dict[str, Any]) -> None:
    """A7, D4: nobody would see its signs of life, so none are asked for; without a fence."""
    task = untracked(app_with(taskora_heartbeat_timeout=30, **conf), **options)
    assert (task.heartbeat_timeout, late(task)) == (None, (False, None))
    assert task.Request == Task.Request


def test_celerys_own_tasks_are_left_alone() -> None:
    """A7: they are nobody's jobs; a chord's unlocking that is acknowledged late would be counted twice."""
    app = app_with(taskora_heartbeat_timeout=30)
    app.finalize()
    task = app.tasks["celery.chord_unlock"]
    assert (task.heartbeat_timeout, late(task), task.Request) == (None, (False, None), Task.Request)


@pytest.mark.parametrize(("conf", "options"), [({}, {"tracked": False}), ({"taskora_track": "context"}, {})])
def test_a_heartbeat_timeout_on_a_task_that_is_left_alone_is_refused(conf: dict[str, Any], options: dict[str, Any]) -> None:
    """A7, L4: never a silent no-op."""
    with pytest.raises(ValueError, match=r"task \S+: heartbeat_timeout=5.* not tracked; drop it, or track the task"):
        untracked(app_with(**conf), heartbeat_timeout=5, **options)


def test_a_task_that_takes_a_context_is_tracked_in_either_case() -> None:
    """A7: `taskora_track="context"` is about the others."""
    task = bound(app_with(taskora_track="context", taskora_heartbeat_timeout=30))
    assert (task.heartbeat_timeout, task.Request) == (30.0, "taskora_celery.worker.request:JobRequest")
