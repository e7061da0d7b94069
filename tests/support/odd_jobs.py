"""More tasks of the app in `tests.support.jobs`: those that say what no store takes as it is, and what no page should obey."""

# mypy: allow-untyped-decorators, disallow-any-decorated=False
# Celery itself carries no types.
# ruff: noqa: G010 - `ctx.log` looks like a logger to the linter

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taskora_celery import Context
from tests.support import gates
from tests.support.jobs import app
from tests.support.reporting_jobs import ODD_VALUES

__all__ = ["VALUES", "app"]

#: Characters of a huge text, and about as many bytes of a huge structure.
HUGE = 100_000_000


class Failing:
    """A value that raises whatever is asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")

    def __iter__(self) -> Any:
        raise RuntimeError("no items")


VALUES: dict[str, Callable[[], Any]] = {
    **ODD_VALUES,
    "huge": lambda: "h" * HUGE,
    "huge list": lambda: ["h" * 1_000_000] * (HUGE // 1_000_000),
    "huge bytes": lambda: b"\xff" * HUGE,
    "not utf-8": lambda: b"caf\xe9 \xff",
    "failing": Failing,
}


@app.task(name="odd.say", max_retries=1)
def say(kind: str, ctx: Context) -> str:
    """Say a value as progress, as a message, in meta, and as the reason of a retry where it is a text; then end well."""
    value = VALUES[kind]()
    if ctx.attempt == 1:
        ctx.progress(value)
        ctx.log.info(value)
        ctx.log.warn("in meta", {"value": value, kind: 1}, deep=[{"value": value}])
        gates.stop_at(ctx.id)
        raise ctx.retry(delay=0, reason=value if isinstance(value, str) else kind)
    return "unharmed"


@app.task(name="odd.result", ignore_result=False)
def result(kind: str, ctx: Context) -> Any:
    """Return a value."""
    ctx.progress(1)
    return VALUES[kind]()


@app.task(name="odd.fail")
def fail(kind: str, ctx: Context) -> None:
    """Fail with a value for the reason."""
    raise ValueError("long " * 10_000 if kind == "long" else VALUES[kind]())


@app.task(name="odd.text", max_retries=1)
def text(said: str, key: str, ctx: Context) -> None:
    """Say a text everywhere, with a key, in two attempts; fail with it."""
    ctx.progress(1, total=2, message=said)
    ctx.log.info(said, {key: said, "nested": {key: [said]}})
    if ctx.attempt == 1:
        raise ctx.retry(delay=0, reason=said)
    raise ValueError(said)


@app.task(name="odd.long_line")
def long_line(size: int, ctx: Context) -> None:
    """Log one line of so many characters."""
    ctx.log.info("l" * size)
