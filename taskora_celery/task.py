"""``ContextTask``: the base class that gives every task of an app its context."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.app.task import Task
from celery.utils.functional import head_from_fun

from taskora_celery.context import Context, current_context
from taskora_celery.delivery import CREATED_HEADER
from taskora_celery.django import OnCommit
from taskora_celery.eager import EagerJobHandle
from taskora_celery.entry import eager_contexts, execute, retrying_locally
from taskora_celery.errors import JobStalledError
from taskora_celery.execution import execution_of
from taskora_celery.frames import from_handler
from taskora_celery.handle import JobHandle
from taskora_celery.handler import Handler
from taskora_celery.injection import ContextParameter, find_parameter, without_parameter
from taskora_celery.options import BY_SETTING, check_names, check_options, complete_options, is_left_alone, named, unset_options
from taskora_celery.outcomes import GivenBack, as_hook
from taskora_celery.reading import checked_id
from taskora_celery.standin import TaskApp, app_here, hand_over_app
from taskora_celery.typed import P, R, TypedTask

__all__ = ["ContextTask"]

#: Marks a ``run`` that this module has wrapped, so that a subclass does not wrap it again.
_MARK = "taskora_handler"
#: Named, not imported: this layer does not know the worker's. Celery loads it by its name when a worker starts.
_WORKER_STEPS = (
    "taskora_celery.worker.start:CheckSettings",
    "taskora_celery.worker.step:KeeperStep",
    "taskora_celery.worker.stats:StatsStep",
)
_CONSUMER_STEPS = (
    "taskora_celery.worker.revoke:RevokeStep",
    "taskora_celery.worker.watching:WatchStep",
    "taskora_celery.worker.step:RecallStep",
    "taskora_celery.worker.step:HandoverStep",
)
_WORKER_REQUEST = "taskora_celery.worker.request:JobRequest"


#: Celery's own tasks that are nobody's jobs; ``celery.map`` and its kin run the user's.
_CELERY_OWN = frozenset({
    "celery.accumulate", "celery.backend_cleanup", "celery.chain", "celery.chord", "celery.chord_unlock", "celery.group",
})  # fmt: skip


class ContextTask(OnCommit, TypedTask[P, R]):
    """Celery's ``Task``, with a context for the handler and a :class:`~taskora_celery.JobHandle` for the caller.

    ``Celery(task_cls=ContextTask)`` makes it the base of all tasks of an app, ``@app.task(base=ContextTask)`` of one. The
    handler takes the context in the parameter annotated ``Context``, or named ``ctx``; one that takes none finds it with
    ``current_context()``. ``tracked=False`` leaves a task entirely alone.

    ``heartbeat_timeout`` is the silence, in seconds, after which the job counts as stalled: it must show life (``ctx.heartbeat``,
    ``progress``, ``checkpoint`` or ``log``) so often, else it is given up and delivered again, as when its worker dies. With None
    a job is never given up while its worker lives. It turns ``acks_late`` and ``reject_on_worker_lost`` on unless they are set.
    ``max_stalls`` is how often a job may be lost or stalled and delivered again before it fails with ``JobStalledError``; None:
    any number of times. Where a task sets neither, ``taskora_heartbeat_timeout`` and ``taskora_max_stalls`` of the app do.
    """

    abstract = True
    tracked = True
    heartbeat_timeout: Any = BY_SETTING
    max_stalls: Any = BY_SETTING
    cancel_grace: Any = 10.0
    on_cancel: Any = None
    #: Celery's hook for what stands for a message in the worker's parent.
    Request = _WORKER_REQUEST

    #: Where the handler takes its context, None where it takes none.
    taskora_parameter: ContextParameter | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _instrument(cls)
        hand_over_app(cls)

    @classmethod
    def bind(cls, app: Any) -> Any:
        """Bind the task to an app as Celery does; what it leaves to the app's settings is filled in."""
        unset = unset_options(cls)
        bound = super().bind(app)
        complete_options(cls, app, unset)
        return bound

    @classmethod
    def _get_app(cls) -> Any:
        app = cls._app
        # What is not bound yet is bound at the first use, by Celery's own.
        return app_here(app if app is not None and cls.__bound__ else super()._get_app())

    #: The task's app, or what stands in for it here.
    app = TaskApp()

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Install the worker's part on the app, once; Celery calls this before it reads ``app.steps``."""
        super().on_bound(app)
        _check_tracked(cls)  # the configuration's task_annotations have been applied by now
        if cls.name in _CELERY_OWN:
            cls.tracked = False
        if is_left_alone(cls, app):
            cls.Request = Task.Request
        app.steps["worker"].update(_WORKER_STEPS)
        app.steps["consumer"].update(_CONSUMER_STEPS)

    @functools.cached_property
    def taskora_logger(self) -> Any:
        """The logger to which entries of ``ctx.log`` are repeated: the task's own, below Celery's task loggers."""
        # Not get_task_logger(self.name): a task may be called like a user's package, whose logger that would take over.
        return logging.getLogger(f"celery.task.{self.name}")

    @property
    def ctx(self) -> Context:
        """The context of the job that is running in this thread, greenlet or coroutine.

        :raises NoActiveJobError: none is.
        """
        return current_context()

    if not TYPE_CHECKING:  # for type checkers, TypedTask says which arguments fit

        def apply_async(
            self,
            args: Any = None,
            kwargs: Any = None,
            task_id: str | None = None,
            producer: Any = None,
            link: Any = None,
            link_error: Any = None,
            shadow: str | None = None,
            **options: Any,
        ) -> Any:
            """Send the task as Celery does, and return a :class:`~taskora_celery.JobHandle`.

            The context is never passed: the worker fills it in. The creation time travels in a header.

            :raises TypeError: a context is among the arguments, the arguments do not fit (as with plain Celery), or ``task_id``
                is no text; nothing was sent.
            """
            if task_id:
                checked_id(task_id)
            _refuse_context(self, args, kwargs)
            headers = options.get("headers") or {}
            if self.tracked and CREATED_HEADER not in headers:
                options["headers"] = {**headers, CREATED_HEADER: _created_ms(self, task_id)}
            # By name: the next class may be a mixin that knows the first two, and takes the rest as options.
            result = super().apply_async(
                args, kwargs, task_id=task_id, producer=producer, link=link, link_error=link_error, shadow=shadow, **options
            )  # fmt: skip
            if isinstance(result, JobHandle):
                result.sent = True
                result.queued = self.Request is not Task.Request  # a task that is left alone asks nobody before it runs
            return result

    def apply(self, *args: Any, **kwargs: Any) -> EagerJobHandle[R]:
        """Run the task here and now, with a context that lives in memory; return an :class:`EagerJobHandle`."""
        collected = eager_contexts.get()
        # Celery follows a retry by a call of this from within: the same job, and the list goes on.
        contexts = collected if collected and kwargs.get("retries") else []
        token = eager_contexts.set(contexts)
        try:
            result = super().apply(*args, **kwargs)
        finally:
            eager_contexts.reset(token)
        return EagerJobHandle.of(result, contexts)

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: Any = None,
        throw: bool = True,
        eta: Any = None,
        countdown: Any = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Any:
        """Retry as Celery does, and record it: every road to a retry comes through here."""
        if isinstance(exc, JobStalledError | GivenBack):
            raise exc  # by `autoretry_for`: neither is a failure of the handler
        do = functools.partial(
            super().retry, args, kwargs, exc=exc, throw=throw, eta=eta, countdown=countdown, max_retries=max_retries, **options
        )
        execution = execution_of(self.request)
        if execution is None:
            return retrying_locally(self, do, exc, countdown, eta)
        return execution.retrying(do, max_retries, exc, countdown, eta)

    def replace(self, sig: Any) -> Any:
        """Replace this task by another as Celery does; the log goes on under the same id."""
        execution = execution_of(self.request)
        if execution is not None:
            execution.replaced()
        return super().replace(sig)

    def AsyncResult(self, task_id: str, **kwargs: Any) -> JobHandle[R]:  # noqa: N802 - Celery's name
        """Return the handle of a job of this task, which may be on its way: following it waits for its start."""
        handle = JobHandle(task_id, backend=self.backend, task_name=self.name, app=self._get_app(), **kwargs)
        handle.sent = True
        return handle


def _instrument(cls: type[ContextTask]) -> None:
    """Wrap the class's handler, so that it runs as a job and gets its context; leave an untracked one as it is.

    ``run`` is looked up over the whole MRO: it may come from a mixin that is no task. The wrapper replaces only the attribute
    of this class. It sets no ``__wrapped__``: Celery's annotations would unwrap it, and lose the context.
    """
    if "on_cancel" in vars(cls):
        cls.on_cancel = as_hook(vars(cls)["on_cancel"])
    raw = next(vars(base)["run"] for base in cls.__mro__ if "run" in vars(base))
    if raw is vars(Task)["run"]:
        return
    fun = raw.__get__(None, cls) if hasattr(raw, "__get__") else raw
    if not hasattr(fun, _MARK):
        # A partial has a `__get__` since Python 3.13, which only warns that it will bind one day.
        bound = hasattr(raw, "__get__") and not isinstance(raw, staticmethod | classmethod | functools.partial)
        signature, cls.taskora_parameter = find_parameter(fun, bound=bound)
        if cls.tracked:
            _wrap(cls, fun, signature, bound=bound)
    _check_tracked(cls)
    check_names(cls)
    check_options(cls)


def _check_tracked(cls: type[ContextTask]) -> None:
    if not isinstance(cls.tracked, bool):
        raise TypeError(f"task {named(cls)}: tracked={cls.tracked!r} is neither True nor False")
    if not cls.tracked and cls.taskora_parameter is not None:
        raise TypeError(
            f"task {named(cls)}: tracked=False leaves the task alone, but its handler takes a context; drop one of them"
        )


def _wrap(cls: type[ContextTask], fun: Callable[..., Any], signature: inspect.Signature | None, *, bound: bool) -> None:
    if inspect.isasyncgenfunction(fun):
        raise TypeError(
            f"task {named(cls)}: its handler is an async generator, and a job has one result: report what it yields with "
            "ctx.progress() or ctx.log, and return at the end"
        )
    parameter = cls.taskora_parameter
    cls.run = _wrapper(fun, Handler(fun, parameter, takes_self=bound), signature)  # type: ignore[method-assign]
    if parameter is not None:
        _hide_parameter(cls, fun, parameter, bound=bound)


def _wrapper(fun: Callable[..., Any], handler: Handler, signature: inspect.Signature | None) -> Callable[..., Any]:
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return execute(self, handler, args, kwargs)
        except BaseException as exc:  # noqa: BLE001 - whatever a handler raises: it is raised again
            # Below Celery's tracer comes this line, and then the handler. Not a bare `raise`, which keeps all in Python 3.10.
            raise exc.with_traceback(from_handler(exc.__traceback__))  # noqa: B904 - it is the same

    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        if hasattr(fun, name):
            setattr(run, name, getattr(fun, name))
    if signature is not None:
        seen = without_parameter(signature, handler.parameter.name) if handler.parameter else signature
        if not handler.takes_self:  # the wrapper is a method in either case
            self_ = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
            seen = seen.replace(parameters=[self_, *seen.parameters.values()])
        run.__signature__ = seen  # type: ignore[attr-defined]
    setattr(run, _MARK, handler)
    return run


def _hide_parameter(cls: type[ContextTask], fun: Any, parameter: ContextParameter, *, bound: bool) -> None:
    """Leave the context out where Celery looks at the arguments of a caller."""
    # Celery does not look behind a decorator here: one that takes anything lets anything through.
    checked = inspect.signature(fun, follow_wrapped=False)
    if "__header__" in vars(cls) and parameter.name in checked.parameters:
        cls.__header__ = _header(cls, fun, without_parameter(checked, parameter.name), bound)
    dump = vars(cls).get("_dump_pydantic_arguments")
    if dump is not None:
        cls._dump_pydantic_arguments = staticmethod(_dump_without(dump.__func__, parameter))


def _header(cls: type[ContextTask], fun: Any, seen: inspect.Signature, bound: bool) -> Any:
    """Return Celery's check of a caller's arguments, for the signature that callers see."""

    def stub(*_: Any, **__: Any) -> None:
        """Carry a signature."""

    stub.__name__ = stub.__qualname__ = getattr(fun, "__name__", "run")
    stub.__module__ = getattr(fun, "__module__", __name__)
    stub.__signature__ = seen  # type: ignore[attr-defined]
    app = vars(cls).get("app")
    return staticmethod(head_from_fun(stub, bound=bound)) if app is None else app.type_checker(stub, bound=bound)


def _dump_without(dump: Callable[..., Any], parameter: ContextParameter) -> Callable[..., Any]:
    """Return Celery's pydantic dump for arguments without the context: it binds them to the handler's whole signature."""

    def dump_arguments(args: Any, kwargs: Any) -> Any:
        if not isinstance(args or (), list | tuple) or not isinstance(kwargs or {}, dict):
            return dump(args, kwargs)
        placeholder = object()
        filled = parameter.fill(tuple(args or ()), dict(kwargs or {}), placeholder)
        dumped = dump(*filled)
        if dumped[0] is filled[0] and dumped[1] is filled[1]:
            return args, kwargs
        return parameter.dropped(dumped[0], dumped[1], placeholder)

    return dump_arguments


def _created_ms(task: ContextTask, task_id: str | None) -> int:
    """Return when the job that is being sent was created: what is sent by itself, to run again, keeps its time."""
    execution = execution_of(task.request)
    ctx = current_context(None) if execution is None else execution.ctx
    return ctx.timestamp if ctx is not None and ctx.id == task_id else int(time.time() * 1000)


def _refuse_context(task: ContextTask, args: Any, kwargs: Any) -> None:
    # What is neither is left to Celery, which has its own words for it.
    by_position = args if isinstance(args, list | tuple) else ()
    by_name = kwargs if isinstance(kwargs, dict) else {}
    parameter = task.taskora_parameter
    name = "ctx" if parameter is None else parameter.name
    named = parameter is not None and name in by_name
    if named or any(isinstance(value, Context) for value in (*by_position, *by_name.values())):
        raise TypeError(f"{task.name}() got a context for {name!r}: callers leave it out, the worker fills it in")
