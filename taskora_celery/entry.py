"""Where Celery's tracer comes in: a task's body is run in the way that its request asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import partial
from inspect import iscoroutine
from typing import Any

from celery.exceptions import Retry

from taskora_celery.context import Context, activate, current_context, deactivate
from taskora_celery.coroutines import CoroutineInterrupt, awaited, check_result, run_coroutine
from taskora_celery.delivery import attempt_of
from taskora_celery.errors import RetryError
from taskora_celery.execution import Execution
from taskora_celery.frames import clear_own_frames
from taskora_celery.handler import Handler
from taskora_celery.local import LocalContext, local_context
from taskora_celery.redaction import Redactor
from taskora_celery.runtime import Runtime
from taskora_celery.scheduling import delay_of, max_attempts, reason_of, schedule

__all__ = ["eager_contexts", "execute", "retrying_locally"]

#: Collects the contexts of eager runs, for the handle that ``apply()`` returns.
eager_contexts: ContextVar[list[LocalContext] | None] = ContextVar("taskora_eager_contexts", default=None)


def execute(task: Any, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a task's body in the way that its request asks for: a job, an eager run, a direct call, or a nested one."""
    if not task.tracked:  # a subclass or the configuration switched it off, after the handler was wrapped
        return handler.call(task, None, args, kwargs)
    request = task.request
    current = current_context(None)
    # `super().run(…)`, or another task called directly inside this job: the same job, the same context.
    if (
        current is not None
        and (request.called_directly or request.id == current.id)
        and handler.given(args, kwargs) in (None, current)
    ):
        return handler.call(task, current, args, kwargs)
    if request.called_directly or request.is_eager:
        return _run_local(task, request, handler, args, kwargs)
    runtime = Runtime.of(task.app)
    if handler.parameter is None and runtime.settings.track == "context" and not handler.may_await:
        return handler.call(task, None, args, kwargs)
    try:
        return Execution(task, request, runtime).run(handler, args, kwargs)
    except BaseException as exc:
        clear_own_frames(exc)
        raise


def _run_local(task: Any, request: Any, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    collected = eager_contexts.get() if request.is_eager else None
    ctx = handler.given(args, kwargs) or local_context(
        task.name,
        request.id,
        attempt=attempt_of(request.retries),
        max_attempts=max_attempts(task),
        before=collected[-1] if collected else None,
    )
    if collected is not None and isinstance(ctx, LocalContext):
        collected.append(ctx)
    if handler.is_async and request.called_directly:
        return awaited(ctx, lambda: handler.awaited(handler.call(task, ctx, args, kwargs)))
    token = activate(ctx)
    try:
        result = handler.call(task, ctx, args, kwargs)
        if handler.may_await and iscoroutine(result):
            if request.called_directly:
                return awaited(ctx, partial(handler.awaited, result))
            result = _await(task, request, ctx, handler.awaited(result))
        elif not request.called_directly:
            result = check_result(task, result)
        ctx.returned()
    except RetryError as error:
        if request.called_directly:
            raise
        return schedule(task, request, error, time.time(), Redactor())
    else:
        return result
    finally:
        deactivate(token)


def _await(task: Any, request: Any, ctx: Context, coro: Coroutine[Any, Any, Any]) -> Any:
    """Run an eager coroutine; this thread waits for it, whatever loop runs in it."""
    loop = Runtime.of(task.app).loop
    interrupt = CoroutineInterrupt(ctx.signal, loop)
    interrupt.open()
    try:
        return run_coroutine(loop, coro, task, request, ctx, interrupt)
    finally:
        interrupt.close()


def retrying_locally(task: Any, do: Callable[[], Any], exc: Any, countdown: Any, eta: Any) -> Any:
    """Record a retry around Celery's own ``Task.retry`` in an eager run."""
    try:
        return do()
    except Retry:
        collected = eager_contexts.get()
        if collected:
            reason, error = reason_of(exc, Redactor())
            collected[-1].retried(reason, error, delay_of(task, countdown, eta, time.time()))
        raise
