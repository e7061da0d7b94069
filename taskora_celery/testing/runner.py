"""``run_job``: from a task and its arguments to what became of it."""

from __future__ import annotations

import inspect
from typing import Any

from celery.canvas import Signature
from celery.local import Proxy

from taskora_celery.task import ContextTask
from taskora_celery.testing.conditions import OPTIONS, Conditions
from taskora_celery.testing.rehearsal import Rehearsal
from taskora_celery.testing.result import JobRun

__all__ = ["JobRunner", "run_job"]


class JobRunner:
    """Runs jobs under the same conditions; each run has a clock, a store and a queue of its own.

    The options are those of :class:`Conditions`: ``cancel_at``, ``cancel_reason``, ``cancel_grace``, ``timeout_at``,
    ``shutdown_at``, ``lease_lost_at``, ``deliver_twice``, ``store_down``, ``max_deliveries``. A runner holds no state and may be
    used again, and from several threads.
    """

    def __init__(self, **options: Any) -> None:
        """Check the options.

        :raises TypeError: there is no such option, or a value is of the wrong type.
        :raises ValueError: a value is out of range.
        """
        self._conditions = Conditions().with_options(options)

    def __call__(self, **options: Any) -> JobRunner:
        """Return a runner with these options over those of this one; errors are those of the constructor."""
        made = JobRunner()
        made._conditions = self._conditions.with_options(options)
        return made

    def run(self, task: Any, /, *args: Any, **kwargs: Any) -> JobRun:
        """Run a task with these arguments, all of which are the handler's, and follow it to its end.

        ``task`` is a task of :class:`~taskora_celery.ContextTask`, or a signature of one, whose options count as in
        ``apply_async``: ``run(work.s(1).set(link=other.s(), queue="slow"))``. Arguments and result travel encoded, as in
        production. Blocks while the handler runs; its delays and sleeps take no time.

        :raises TypeError: it is no such task, or its handler does not take the arguments.
        :raises ValueError: an option has no meaning for this task, or without another one.
        :raises NotReachedError: something was to happen at a moment that did not come.
        :raises RuntimeError: the job was delivered ``max_deliveries`` times and has not ended.
        """
        self._conditions.check_run()
        options: dict[str, Any] = {}
        if isinstance(task, Signature):
            args, kwargs, options = (*task.args, *args), {**task.kwargs, **kwargs}, dict(task.options)
            task = task.type if task.subtask_type is None else None
        task = _itself(task)
        if not isinstance(task, ContextTask):
            raise TypeError(f"{task!r} cannot be run here: give a task whose base is ContextTask, or a signature of one")
        return Rehearsal(task, self._conditions).play(args, kwargs, options)


def run_job(task: Any, /, *args: Any, **kwargs: Any) -> JobRun:
    """Run a handler with no broker and no Redis; return what became of it and all that it reported.

    ``kwargs`` with the name of an option of :class:`JobRunner` (``cancel_at=3``) say what is to happen, all others are the
    handler's. Where the handler has a parameter of that name, use ``JobRunner(cancel_at=3).run(task, cancel_at=…)``.

    :raises TypeError: the handler has a parameter with the name of an option that is given; else as :meth:`JobRunner.run`.
    :raises ValueError: an option is out of range, or has no meaning here.
    :raises NotReachedError: something was to happen at a moment that did not come.
    """
    options = {name: kwargs.pop(name) for name in OPTIONS & kwargs.keys()}
    ambiguous = sorted(options.keys() & _parameters(task))
    if ambiguous:
        name = ambiguous[0]
        raise TypeError(
            f"{name}= is an option of run_job() and a parameter of the handler: use "
            f"JobRunner({name}=…).run(task, …) for the one, and .run(task, {name}=…) for the other"
        )
    return JobRunner(**options).run(task, *args, **kwargs)


def _itself(task: Any) -> Any:
    """Return what stands behind Celery's proxies: ``@app.task`` and ``@shared_task`` return one."""
    while issubclass(type(task), Proxy):
        task = task._get_current_object()  # noqa: SLF001 - Celery's own protocol
    return task


def _parameters(task: Any) -> frozenset[str]:
    task = task.type if isinstance(task, Signature) else _itself(task)
    try:
        return frozenset(inspect.signature(task.run).parameters)
    except (AttributeError, TypeError, ValueError, KeyError):
        return frozenset()
