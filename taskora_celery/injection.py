"""Finding the context parameter of a handler, and filling it in."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, ForwardRef, Union, get_args, get_origin

from taskora_celery.context import Context

__all__ = ["ContextParameter", "find_parameter", "without_parameter"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

#: ``Context`` as people write it in an annotation that cannot be evaluated (imported only for type checkers, say).
_TEXT = re.compile(
    r"(?!.*\bcelery\.)"  # Celery has a Context of its own
    r"(?:(?:\w+\.)*Optional\[\s*(?:\w+\.)*Context\s*\]"
    r"|(?:None\s*\|\s*)?(?:\w+\.)*Context(?:\s*\|\s*None)?)"
)


class ContextParameter:
    """Where a handler takes its context."""

    __slots__ = ("before", "index", "keyword_only", "name")

    def __init__(self, parameter: inspect.Parameter, before: list[inspect.Parameter]) -> None:
        """``before`` are the parameters before it, without ``self``."""
        self.name = parameter.name
        self.index = len(before)
        self.keyword_only = parameter.kind is parameter.KEYWORD_ONLY
        #: The parameters before one that can only be given by position: their defaults must be, too.
        self.before = before if parameter.kind is parameter.POSITIONAL_ONLY else None

    def fill(self, args: tuple[Any, ...], kwargs: dict[str, Any], ctx: Any) -> Arguments:
        """Return the arguments with the context among them; one that is there already stays (``super().run(data, ctx)``)."""
        if isinstance(kwargs.get(self.name), Context):
            return args, kwargs
        at = self.index
        if not self.keyword_only and len(args) >= at:
            if len(args) > at and isinstance(args[at], Context):
                return args, kwargs
            return (*args[:at], ctx, *args[at:]), kwargs
        if self.before is not None:
            defaults = [p.default for p in self.before[len(args) :] if p.default is not p.empty]
            return (*args, *defaults, ctx), kwargs
        kwargs[self.name] = ctx
        return args, kwargs

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Context | None:
        """Return the context that a caller passed, if any."""
        passed = kwargs.get(self.name)
        if passed is None and not self.keyword_only and len(args) > self.index:
            passed = args[self.index]
        return passed if isinstance(passed, Context) else None

    @staticmethod
    def dropped(args: Any, kwargs: Any, placeholder: Any) -> Arguments:
        """Return arguments without the value that :meth:`fill` put in as ``placeholder``."""
        kept = {key: value for key, value in (kwargs or {}).items() if value is not placeholder}
        return tuple(value for value in args or () if value is not placeholder), kept


def find_parameter(fun: Callable[..., Any], *, bound: bool) -> tuple[inspect.Signature | None, ContextParameter | None]:
    """Return a handler's signature (None where it has none) and its context parameter (None where it takes none).

    It is the parameter annotated ``Context``, else the one named ``ctx``. ``bound`` says that the first parameter is ``self``.

    :raises TypeError: two parameters are annotated ``Context``.
    """
    try:
        signature = inspect.signature(fun)
    except (TypeError, ValueError):
        return None, None  # a callable of C: it takes what it takes, and code that it calls has current_context()
    parameters = list(signature.parameters.values())[1 if bound else 0 :]
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    annotated = [p for p in named if _is_context(p.annotation, fun)]
    if len(annotated) > 1:
        raise TypeError(
            f"{_name(fun)} has {len(annotated)} parameters annotated Context ({', '.join(p.name for p in annotated)}): keep one"
        )
    chosen = annotated or [p for p in named if p.name == "ctx" and p.annotation in (p.empty, Any, "Any")]
    if not chosen:
        return signature, None
    parameter = chosen[0]
    return signature, ContextParameter(parameter, parameters[: parameters.index(parameter)])


def without_parameter(signature: inspect.Signature, name: str) -> inspect.Signature:
    """Return the signature that callers see; kinds and defaults of the other parameters stay as they are."""
    return signature.replace(parameters=[p for key, p in signature.parameters.items() if key != name])


def _is_context(annotation: Any, fun: Callable[..., Any]) -> bool:
    if isinstance(annotation, str):
        return _text_is_context(annotation, fun)
    if isinstance(annotation, ForwardRef):
        return _text_is_context(annotation.__forward_arg__, fun)
    if get_origin(annotation) in (Union, UnionType):
        options = [option for option in get_args(annotation) if option is not type(None)]
        return len(options) == 1 and _is_context(options[0], fun)
    return annotation is Context


def _text_is_context(text: str, fun: Callable[..., Any]) -> bool:
    text = text.strip().strip("\"'")
    scope = getattr(inspect.unwrap(fun), "__globals__", {})
    try:
        value = eval(text, dict(scope))  # noqa: S307 - the handler's own annotation, as typing.get_type_hints does it
    except Exception:  # noqa: BLE001 - a name that only type checkers import: judge by the text
        return _TEXT.fullmatch(text) is not None
    return not isinstance(value, str) and _is_context(value, fun)


def _name(fun: Callable[..., Any]) -> str:
    return f"{getattr(fun, '__module__', '?')}.{getattr(fun, '__qualname__', fun)}"
