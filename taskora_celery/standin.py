"""Which app a task works with: its own, or one that stands in for it during a block, as in the test kit, which sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["TaskApp", "app_here", "hand_over_app", "standing_in"]

#: From a task's app to what stands in for it in this context; None: nothing does.
_find: ContextVar[Callable[[Any], Any] | None] = ContextVar("taskora_stand_in", default=None)


def app_here(app: Any) -> Any:
    """Return the app that a task of ``app`` works with in this context."""
    find = _find.get()
    return app if find is None else find(app)


class TaskApp:
    """The attribute ``app`` of a task. Celery's own descriptor for it takes twice as long, and a job asks some ten times."""

    def __get__(self, task: Any, cls: Any = None) -> Any:
        return (type(task) if cls is None else cls)._get_app()  # noqa: SLF001 - Celery's method, which the task overrides

    def __set__(self, task: Any, app: Any) -> None:
        task.bind(app)


@contextmanager
def standing_in(find: Callable[[Any], Any]) -> Iterator[None]:
    """Let ``find(app)`` stand in for each app, for the tasks that are called and sent in this block (in this thread)."""
    token = _find.set(find)
    try:
        yield
    finally:
        _find.reset(token)


def hand_over_app(cls: Any) -> None:
    """Leave the question for a task's app to its base class: ``@app.task`` writes the app into the new class itself."""
    app = vars(cls).get("app")
    if app is not None:
        cls._app = app
        del cls.app
