"""The user's function, and where it takes the context."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from taskora_celery.context import Context
from taskora_celery.injection import ContextParameter

__all__ = ["Handler"]


class Handler:
    """The user's function, and where it takes the context."""

    __slots__ = ("_dump", "fun", "is_async", "may_await", "parameter", "takes_self")

    def __init__(self, fun: Callable[..., Any], parameter: ContextParameter | None, *, takes_self: bool) -> None:
        self.fun = fun
        self.parameter = parameter
        self.takes_self = takes_self
        #: Whether it returns a coroutine.
        self.is_async = inspect.iscoroutinefunction(fun)
        #: Whether it may: a decorator that is no coroutine function hands on what it wraps, or runs it to its end itself.
        self.may_await = self.is_async or inspect.iscoroutinefunction(inspect.unwrap(fun))
        self._dump = _pydantic_dump(fun) if self.may_await else None

    def awaited(self, coro: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """Return the coroutine, whose result is as Celery wants it: ``pydantic=True`` dumps only what it is given at once."""
        # No wrapper without need: one that is cancelled before its first step leaves a coroutine that was never awaited.
        return coro if self._dump is None else _dumped(coro, self._dump)

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Context | None:
        """Return the context that a direct caller passed, if any."""
        return None if self.parameter is None else self.parameter.given(args, kwargs)

    def call(self, task: Any, ctx: Context | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function with the context filled in."""
        if self.parameter is not None:
            args, kwargs = self.parameter.fill(args, kwargs, ctx)
        return self.fun(task, *args, **kwargs) if self.takes_self else self.fun(*args, **kwargs)


async def _dumped(coro: Coroutine[Any, Any, Any], dump: Callable[[Any], Any]) -> Any:
    return dump(await coro)


def _pydantic_dump(fun: Any) -> Callable[[Any], Any] | None:
    """Return what Celery's wrapper for ``pydantic=True`` does to a returned model, None where there is no such wrapper.

    It keeps the model's base class and the options of the dump in its closure, and nowhere else.
    """
    if not inspect.isfunction(fun) or not hasattr(fun, "__wrapped__"):
        return None
    kept = inspect.getclosurevars(fun).nonlocals
    base, options = kept.get("BaseModel"), kept.get("dump_kwargs")
    if not isinstance(base, type) or not isinstance(options, dict):
        return None
    return lambda result: result.model_dump(**options) if issubclass(type(result), base) else result
