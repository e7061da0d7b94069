"""Finding the context parameter of a handler, and filling it in."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from taskora_celery.context import Context

__all__ = ["ContextParameter", "find_parameter", "without_parameter"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

#: ``Context`` as people write it in an annotation that cannot be evaluated (imported only for type checkers, say).
_TEXT = re.compile(
    r"(?:(?:\w+\.)*Optional\[\s*(?:\w+\.)*Context\s*\]"
    r"|(?:None\s*\|\s*)?(?:\w+\.)*Context(?:\s*\|\s*None)?)"
)


class ContextParameter:
    """Where a handler takes its context."""

    __slots__ = ("index", "keyword_only", "name")

    def __init__(self, name: str, index: int, *, keyword_only: bool) -> None:
        """``index`` counts the parameters before it that may be given by position, without ``self``."""
        self.name = name
        self.index = index
        self.keyword_only = keyword_only

    def fill(self, args: tuple[Any, ...], kwargs: dict[str, Any], ctx: Any) -> Arguments:
        """Return the arguments with the context among them; one that is there already stays (``super().run(data, ctx)``)."""
        if isinstance(kwargs.get(self.name), Context):
            return args, kwargs
        at = self.index
        if not self.keyword_only and len(args) >= at:
            if len(args) > at and isinstance(args[at], Context):
                return args, kwargs
            return (*args[:at], ctx, *args[at:]), kwargs
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
    except (
        TypeError,
        ValueError,
    ):  # a callable of C: it takes what it takes, and finds its context with current_context()
        return None, None
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
    return signature, ContextParameter(
        parameter.name, parameters.index(parameter), keyword_only=parameter.kind is parameter.KEYWORD_ONLY
    )


def without_parameter(signature: inspect.Signature, name: str) -> inspect.Signature:
    """Return the signature that callers see.

    Leaving out a parameter may put one without a default behind one that has it (``def f(data=None, ctx=None, *, x)`` is
    fine, but a checker must be told the truth): kinds and defaults of the others stay as they are.
    """
    return signature.replace(parameters=[p for key, p in signature.parameters.items() if key != name])


def _is_context(annotation: Any, fun: Callable[..., Any]) -> bool:
    if isinstance(annotation, str):
        return _text_is_context(annotation, fun)
    if annotation is Context:
        return True
    return any(option is Context for option in getattr(annotation, "__args__", ())) and _is_optional(annotation)


def _is_optional(annotation: Any) -> bool:
    options = set(annotation.__args__)
    return options == {Context, type(None)}


def _text_is_context(text: str, fun: Callable[..., Any]) -> bool:
    text = text.strip().strip("\"'")
    if "Context" not in text:
        return False
    scope = getattr(inspect.unwrap(fun), "__globals__", {})
    try:
        value = eval(text, dict(scope))  # noqa: S307 - the handler's own annotation, as typing.get_type_hints does it
    except Exception:  # noqa: BLE001 - a name that only type checkers import: judge by the text
        return _TEXT.fullmatch(text) is not None
    return not isinstance(value, str) and _is_context(value, fun)


def _name(fun: Callable[..., Any]) -> str:
    return f"{getattr(fun, '__module__', '?')}.{getattr(fun, '__qualname__', fun)}"
