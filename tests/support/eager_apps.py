"""Apps without a worker, a broker or Redis, for tests of what happens at the caller and in eager runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import Celery, _state
from celery.app import builtins

from taskora_celery import ContextTask

if TYPE_CHECKING:
    from collections.abc import Iterator


def eager_app(task_cls: type[Any] | str = ContextTask, **settings: Any) -> Celery:
    """An app that runs each task in the call that would send it."""
    app = Celery("eager", broker="memory://", backend="cache+memory://", task_cls=task_cls, set_as_current=False)
    app.conf.update({"task_always_eager": True, **settings})
    app.finalize()
    return app


@contextmanager
def tasks_of_their_own() -> Iterator[None]:
    """Around a test: the apps that it makes have Celery's own tasks and theirs.

    `@app.task` and `shared_task` share each task with all apps that are made later: with those of the next test, and, where a
    module of jobs was imported, with those of this one.
    """
    before = set(_state._on_app_finalizers)
    _state._on_app_finalizers.intersection_update({found for found in before if found.__module__ == builtins.__name__})
    try:
        yield
    finally:
        _state._on_app_finalizers.clear()
        _state._on_app_finalizers.update(before)


def defined(source: str, **names: Any) -> Any:
    """The function `f` that a module with this source and these names holds."""
    namespace: dict[str, Any] = {"__name__": "handlers", **names}
    exec(compile(source, "<handler>", "exec", dont_inherit=True), namespace)
    return namespace["f"]


def outcome(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a call returns, or the text of its error."""
    try:
        return call(*args, **kwargs)
    except (TypeError, AttributeError) as error:
        return str(error)
