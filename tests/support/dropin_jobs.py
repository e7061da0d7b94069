"""One set of tasks on two bases, Celery's and ours: the worker runs `plain` or `ours`, and both must behave alike."""

# mypy: allow-untyped-decorators, allow-subclassing-any

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, cast

import redis
from celery import Celery, Task, signals
from celery.exceptions import Ignore, Reject

from taskora_celery import ContextTask

_TTL = 600  # seconds
_URL = os.environ.get("BROKER_URL", "memory://")


class BrokenError(Exception):
    """An exception of the user's own, with arguments."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)


_Registered = tuple[Callable[..., Any], dict[str, Any]]
_tasks: list[_Registered] = []


def task(fun: Any = None, **options: Any) -> Any:
    """Remember a function as a task of both apps."""
    if fun is None:
        return lambda fun: task(fun, **options)
    _tasks.append((fun, options))
    return fun


REQUEST_FIELDS = [
    "id", "task", "args", "kwargs", "retries", "root_id", "parent_id", "group", "group_index", "chain", "chord", "correlation_id",
    "called_directly", "is_eager", "expires", "timelimit", "utc", "callbacks", "errbacks", "shadow", "ignore_result",
    "replaced_task_nesting", "stamped_headers", "stamps",
]  # fmt: skip


def note(job_id: str, value: Any, topic: str = "note") -> None:
    """In a worker: leave something for the test."""
    with redis.Redis.from_url(_URL) as client:
        client.rpush(f"{topic}:{job_id}", json.dumps(value))
        client.expire(f"{topic}:{job_id}", _TTL)


def _on_signal(signal: Any, sender: Any, **kwargs: Any) -> None:
    name = signal.name
    request = kwargs.get("request") or sender.request
    job_id = kwargs.get("task_id") or request.id
    value = kwargs.get("retval", kwargs.get("result", kwargs.get("exception", kwargs.get("reason"))))
    shown = [name, sender.name, kwargs.get("state"), value if isinstance(value, int | list | None) else repr(value)]
    note(job_id, [*shown, sorted(kwargs.keys() - {"runtime"}), list(kwargs.get("args") or ())], "signal")


# --- the tasks: as people write them who have never heard of a context ---


@task
def add(x: int, y: int = 0) -> int:
    return x + y


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@task
def fail(text: str = "no") -> None:
    raise ValueError(text)


@task
def fail_deep() -> None:
    def deeper() -> None:
        raise BrokenError(7, "deep")

    try:
        raise OSError("the cause")
    except OSError:
        deeper()


@task
def leave(how: str) -> None:
    raise {"ignore": Ignore(), "reject": Reject("no", requeue=False)}[how]


@task(bind=True, acks_late=True)
def reject_once(self: Any) -> bool:
    if not self.request.delivery_info["redelivered"]:
        raise Reject("once more", requeue=True)
    return bool(self.request.delivery_info["redelivered"])


@task(bind=True, max_retries=2)
def retry(self: Any, how: str) -> list[Any]:
    if how == "exhaust with":
        raise self.retry(exc=BrokenError(3, "last"), countdown=0)
    if how == "exhaust":
        raise self.retry(countdown=0)
    if how == "more" and self.request.retries < 4:
        raise self.retry(countdown=0, max_retries=9)
    if how == "arguments":
        raise self.retry(args=("changed",), countdown=0)
    if how == "unthrown" and not self.request.retries:
        self.retry(countdown=0, throw=False)
        note(self.request.id, "went on")
    if how == "twice" and self.request.retries < 2:
        raise self.retry(countdown=0)
    return [how, self.request.retries]


@task(bind=True, autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), retry_backoff=False, default_retry_delay=0)
def autoretry(self: Any, how: str) -> int:
    if how == "refused":
        raise FileNotFoundError("gone")
    if how == "always" or self.request.retries < 2:
        raise OSError("no answer")
    return cast("int", self.request.retries)


@task(bind=True)
def replace(self: Any, how: str) -> Any:
    add = self.app.tasks["add"]
    if how == "task":
        raise self.replace(add.s(1, 2))
    if how == "chain":
        raise self.replace(add.s(1, 2) | add.s(3))
    from celery import group

    raise self.replace(group(add.s(n) for n in range(3)))


@task(bind=True)
def request(self: Any) -> dict[str, Any]:
    seen = self.request
    info = seen.delivery_info
    return {
        **{name: getattr(seen, name) for name in REQUEST_FIELDS},
        "priority": info["priority"],
        "queue": info["routing_key"],
        "headers": {key: value for key, value in (seen.headers or {}).items() if not key.startswith("taskora_")},
    }


@task(bind=True)
def call_others(self: Any) -> list[Any]:
    add = self.app.tasks["add"]
    handle = add.delay(1, 1)
    return [add(2, 2), self.request.called_directly, add.apply((3, 3)).result, type(handle.id).__name__]


@task(bind=True)
def custom_state(self: Any) -> str:
    self.update_state(state="COUNTING", meta={"n": 3})
    note(self.request.id, "counting")
    with redis.Redis.from_url(_URL) as client:
        client.blpop([f"go:{self.request.id}"], timeout=30)
    return "done"


@task(soft_time_limit=1)
def overrun() -> None:
    time.sleep(30)


@task(ignore_result=True, bind=True)
def ignored(self: Any) -> int:
    note(self.request.id, "ran")
    return 1


@task
def on_error(request: Any, exc: Exception, traceback: Any) -> None:
    note(request.id, repr(exc))


@task
def on_error_by_id(job_id: str) -> None:
    note(job_id, "by id")


class Hooks(Task):
    """A class task, less its base."""

    name = "hooked"

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        note(task_id, ["before_start", list(args), kwargs])

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note(task_id, ["on_success", retval, list(args), kwargs])

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(task_id, ["on_failure", repr(exc), list(args), kwargs, type(einfo).__name__])

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(task_id, ["on_retry", repr(exc), list(args), kwargs, type(einfo).__name__])

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(task_id, ["after_return", status, repr(retval), list(args), kwargs, type(einfo).__name__])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note(self.request.id, "__call__")
        return super().__call__(*args, **kwargs)

    def run(self, how: str, size: int = 1) -> Any:
        if how == "fail":
            raise ValueError(how)
        if how == "retry" and not self.request.retries:
            raise self.retry(countdown=0)
        return how * size


# --- the apps ---


if os.environ.get("DROPIN_SIGNALS"):
    for _signal in (signals.task_prerun, signals.task_postrun, signals.task_success, signals.task_failure, signals.task_retry):
        _signal.connect(_on_signal, weak=False)


def made(name: str, base: type[Any]) -> Celery:
    """An app with all tasks on this base."""
    app = Celery(
        name, broker=_URL, backend=os.environ.get("RESULT_BACKEND", "cache+memory://"), task_cls=base, set_as_current=False
    )
    app.conf.update(result_expires=600, result_extended=True, broker_connection_retry_on_startup=True)
    for fun, options in _tasks:
        app.task(name=fun.__name__, shared=False, **options)(fun)
    app.register_task(type("Hooked", (Hooks, base), {})())
    return app


plain = made("plain", Task)
ours = made("ours", ContextTask)
