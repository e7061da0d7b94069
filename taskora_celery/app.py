"""``Celery`` and ``shared_task`` as Celery has them, with ``ContextTask`` as the base of tasks, and with types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import celery

from taskora_celery.task import ContextTask

__all__ = ["Celery", "shared_task"]

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from datetime import datetime, timedelta
    from typing import Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

    import typing_extensions

    from taskora_celery.typed import FunctionTask

    Q = ParamSpec("Q")
    S = TypeVar("S")
    T = TypeVar("T", bound=ContextTask)
    B = typing_extensions.TypeVar("B", Literal[True], Literal[False], default=Literal[False])

    class _Decorator(Generic[B]):
        """Makes a task of a function; where ``B`` is ``Literal[True]``, the function's first parameter is the task."""

        @overload
        def __call__(
            self: _Decorator[Literal[True]], fun: Callable[Concatenate[Any, Q], Coroutine[Any, Any, S]], /
        ) -> FunctionTask[Q, S, Coroutine[Any, Any, S]]: ...
        @overload
        def __call__(self: _Decorator[Literal[True]], fun: Callable[Concatenate[Any, Q], S], /) -> FunctionTask[Q, S, S]: ...
        @overload
        def __call__(
            self: _Decorator[Literal[False]], fun: Callable[Q, Coroutine[Any, Any, S]], /
        ) -> FunctionTask[Q, S, Coroutine[Any, Any, S]]: ...
        @overload
        def __call__(self: _Decorator[Literal[False]], fun: Callable[Q, S], /) -> FunctionTask[Q, S, S]: ...
        def __call__(self, fun: Any, /) -> Any:
            """Make a task."""

    class TaskDecorator(Protocol):
        """``app.task`` and ``shared_task``; an option that is not named here becomes an attribute of the task."""

        @overload
        def __call__(self, fun: Callable[Q, Coroutine[Any, Any, S]], /) -> FunctionTask[Q, S, Coroutine[Any, Any, S]]: ...
        @overload
        def __call__(self, fun: Callable[Q, S], /) -> FunctionTask[Q, S, S]: ...
        @overload
        def __call__(self, *, pydantic: Literal[True], **options: Any) -> Callable[[Callable[..., Any]], ContextTask]: ...
        @overload
        def __call__(
            self,
            *,
            bind: B = ...,
            name: str | None = ...,
            base: type[Any] | None = ...,
            typing: bool = ...,
            autoretry_for: Sequence[type[BaseException]] = ...,
            dont_autoretry_for: Sequence[type[BaseException]] = ...,
            retry_kwargs: Mapping[str, Any] = ...,
            retry_backoff: bool | float = ...,
            retry_backoff_max: float = ...,
            retry_jitter: bool = ...,
            max_retries: int | None = ...,
            default_retry_delay: float = ...,
            throws: Sequence[type[BaseException]] = ...,
            acks_late: bool | None = ...,
            acks_on_failure_or_timeout: bool | None = ...,
            reject_on_worker_lost: bool | None = ...,
            time_limit: float | None = ...,
            soft_time_limit: float | None = ...,
            rate_limit: str | float | None = ...,
            ignore_result: bool = ...,
            track_started: bool = ...,
            serializer: str = ...,
            queue: str = ...,
            priority: int | None = ...,
            expires: float | datetime | None = ...,
            tracked: bool = ...,
            heartbeat_timeout: float | timedelta | None = ...,
            max_stalls: int | None = ...,
            cancel_grace: float | timedelta = ...,
            on_cancel: Callable[..., object] | None = ...,
            **options: Any,
        ) -> _Decorator[B]: ...


class Celery(celery.Celery):  # type: ignore[misc]
    """Celery's own app; its tasks are ``ContextTask`` unless ``task_cls`` says otherwise, and type checkers know what they take.

    ``Celery("shop", …)`` of this class is ``celery.Celery("shop", task_cls=ContextTask, …)``, with ``app.task`` and
    ``app.register_task`` typed: callers pass no context, ``delay`` and ``apply_async`` check their arguments, and the handle's
    ``get()`` returns what the handler returns.
    """

    task_cls = ContextTask

    if TYPE_CHECKING:
        conf: Any
        task: TaskDecorator

        @overload
        def register_task(self, task: T, **options: Any) -> T: ...
        @overload
        def register_task(self, task: type[T], **options: Any) -> T: ...
        def register_task(self, task: Any, **options: Any) -> Any:
            """Register a task that is a class, or an instance of it; return the instance."""


if TYPE_CHECKING:
    shared_task: TaskDecorator
else:

    def shared_task(*args: Any, **options: Any) -> Any:
        """Do what ``celery.shared_task`` does, with ``base=ContextTask`` where no base is given; typed like ``Celery.task``."""
        return celery.shared_task(*args, **{"base": ContextTask, **options})
