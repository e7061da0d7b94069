"""The options of a task that concern its end from outside."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from taskora_celery import Context, ContextTask
from tests.support.eager_apps import eager_app, tasks_of_their_own


def task_with(**options: Any) -> Any:
    """A task as `@app.task(**options)` makes it."""
    with tasks_of_their_own():

        def work(ctx: Context) -> None:
            """Do nothing."""

        return eager_app().task(name="work", **options)(work)


@pytest.mark.parametrize(("given", "expected"), [(3, 3.0), (0, 0.0), (2.5, 2.5), (timedelta(minutes=1), 60.0)])
def test_a_grace_is_a_duration_in_seconds(given: Any, expected: float) -> None:
    """G4: the units are those of every duration."""
    assert task_with(cancel_grace=given).cancel_grace == expected


def test_the_grace_is_ten_seconds_where_nothing_is_said() -> None:
    """G4: the default."""
    assert task_with().cancel_grace == 10.0


@pytest.mark.parametrize("given", ["5", None, True, [5]])
def test_a_grace_of_a_wrong_type_is_a_type_error(given: Any) -> None:
    """L4: named with its task, when it is defined."""
    with pytest.raises(TypeError, match=r"task \S*work: cancel_grace=.* is not a duration"):
        task_with(cancel_grace=given)


@pytest.mark.parametrize("given", [-1, float("nan"), float("inf")])
def test_a_grace_that_makes_no_sense_is_a_value_error(given: Any) -> None:
    """L4: as above."""
    with pytest.raises(ValueError, match=r"task \S*work: cancel_grace=.* is not a duration"):
        task_with(cancel_grace=given)


@pytest.mark.parametrize("given", ["clean", 5, True, ["clean"]])
def test_a_hook_that_cannot_be_called_is_a_type_error(given: Any) -> None:
    """L4, G5: found when the task is defined, not when somebody cancels."""
    with pytest.raises(TypeError, match=r"task \S*work: on_cancel=.* is not a function \(ctx, \*args, \*\*kwargs\)"):
        task_with(on_cancel=given)


def takes_nothing() -> None: ...


def takes_context(ctx: Any) -> None: ...


def takes_all(ctx: Any, *args: Any, **kwargs: Any) -> None: ...


def takes_data(ctx: Any, data: Any, limit: int = 1) -> None: ...


def takes_more(ctx: Any, data: Any, limit: int) -> None: ...


def handle_data(data: dict[str, Any], ctx: Context) -> None: ...


@pytest.mark.parametrize("hook", [takes_all, takes_data, print, partial(takes_more, limit=1)])
def test_a_hook_that_fits_its_handler_is_taken(hook: Any) -> None:
    """G5: it is called with the context and the handler's arguments."""
    with tasks_of_their_own():
        assert eager_app().task(name="work", on_cancel=hook)(handle_data).on_cancel is hook


@pytest.mark.parametrize("hook", [takes_nothing, takes_context, takes_more])
def test_a_hook_that_does_not_fit_its_handler_is_a_type_error(hook: Any) -> None:
    """L4, G5: found when the task is defined: when it is called, its error is only a line in the log."""
    with (
        tasks_of_their_own(),
        pytest.raises(TypeError, match=r"task work: on_cancel\(.* cannot be called as on_cancel\(ctx, data\): "),
    ):
        eager_app().task(name="work", on_cancel=hook)(handle_data)


def test_a_method_is_checked_likewise() -> None:
    """L4, G5: behind its ``self``."""
    with pytest.raises(TypeError, match=r"cannot be called as on_cancel\(ctx, data, limit=\)"):

        class Work(ContextTask):
            def run(self, data: dict[str, Any], ctx: Context, *, limit: int) -> None: ...

            def on_cancel(self, ctx: Any, data: Any) -> None: ...

    class Fits(ContextTask):
        def run(self, data: dict[str, Any], ctx: Context, *, limit: int) -> None: ...

        def on_cancel(self, ctx: Any, data: Any, limit: int) -> None: ...

    assert Fits.on_cancel is not None


def test_a_class_is_checked_as_a_function_is() -> None:
    """L4: class-based tasks, too."""
    with pytest.raises(ValueError, match=r"task \S*Work: cancel_grace"):

        class Work(ContextTask):
            cancel_grace = -1

            def run(self) -> None:
                """Do nothing."""


def test_an_option_is_inherited_and_can_be_taken_back() -> None:
    """G5: as every option of Celery's."""

    def clean(ctx: Context) -> None:
        """Do nothing."""

    class Base(ContextTask):
        abstract = True
        cancel_grace = 2
        on_cancel: Any = clean

    class Tidy(Base):
        name = "tidy"

        def run(self) -> None:
            """Do nothing."""

    class Untidy(Base):
        name = "untidy"
        on_cancel = None

        def run(self) -> None:
            """Do nothing."""

    assert (Tidy().on_cancel, Untidy().on_cancel) == (clean, None)
    assert (Tidy.cancel_grace, Untidy.cancel_grace) == (2.0, 2.0)
