"""The user's function, and where it takes the context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taskora_celery.context import Context
from taskora_celery.injection import ContextParameter

__all__ = ["Handler"]


class Handler:
    """The user's function, and where it takes the context."""

    __slots__ = ("fun", "parameter", "takes_self")

    def __init__(self, fun: Callable[..., Any], parameter: ContextParameter | None, *, takes_self: bool) -> None:
        self.fun = fun
        self.parameter = parameter
        self.takes_self = takes_self

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Context | None:
        """Return the context that a direct caller passed, if any."""
        return None if self.parameter is None else self.parameter.given(args, kwargs)

    def call(self, task: Any, ctx: Context | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function with the context filled in."""
        if self.parameter is not None:
            args, kwargs = self.parameter.fill(args, kwargs, ctx)
        return self.fun(task, *args, **kwargs) if self.takes_self else self.fun(*args, **kwargs)
