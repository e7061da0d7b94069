"""More tasks of the app in `tests.support.jobs`: those that report progress and write logs."""

# mypy: allow-untyped-decorators
# Celery itself carries no types.
# ruff: noqa: G010 - `ctx.log` looks like a logger to the linter

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery.utils.log import get_task_logger

from taskora_celery import Context
from tests.support import gates
from tests.support.jobs import app

task_logger = get_task_logger(__name__)
other_logger = logging.getLogger("shop.warehouse")


# --- progress ----------------------------------------------------------------------------------------------------------


class Opaque:
    """A value that has no plain form."""

    def __repr__(self) -> str:
        return "<Opaque>"


def _circular() -> dict[str, Any]:
    value: dict[str, Any] = {"name": "loop"}
    value["self"] = value
    return value


ODD_VALUES: dict[str, Callable[[], Any]] = {
    "opaque": lambda: {"what": Opaque(), "n": 1},
    "nan": lambda: float("nan"),
    "infinite": lambda: {"rate": float("inf")},
    "circular": _circular,
    "huge": lambda: {"text": "x" * 5_000_000},
    "surrogate": lambda: "file-\udcff",
    "large_int": lambda: 2**200,
}


@app.task
def report_at_gates(values: list[Any], ctx: Context) -> str:
    """Report one value after another, and stop at a gate after each."""
    for value in values:
        ctx.progress(value)
        gates.stop_at(ctx.id)
    ctx.progress(100)
    return "done"


@app.task
def report_steps(ctx: Context) -> str:
    """Report steps, then track an iterable; stop after each."""
    ctx.progress(3, total=8, message="reading")
    gates.stop_at(ctx.id)
    for _ in ctx.track(range(40), message="writing"):
        pass
    return "done"


@app.task
def report_odd(names: list[str], ctx: Context) -> str:
    """Report values that no store takes as they are, and stop at a gate after each."""
    for name in names:
        ctx.progress(ODD_VALUES[name]())
        gates.stop_at(ctx.id)
    ctx.progress(100)
    return "unharmed"


@app.task(ignore_result=True)
def report_unasked(ctx: Context) -> None:
    """Report progress in a job whose result nobody wants."""
    ctx.progress(50)
    gates.stop_at(ctx.id)


@app.task(bind=True, max_retries=3)
def keep_over_retry(self: Any, ctx: Context) -> Any:
    """Report and save in the first attempt, show what is left of it in the second, save nothing in the third."""
    if ctx.attempt == 1:
        ctx.progress({"rows": 40})
        ctx.checkpoint([40, "rows"])
        raise ctx.retry(delay=0, reason="once more")
    gates.stop_at(ctx.id)
    return ctx.last_checkpoint


@app.task
def progress_until_open(ctx: Context) -> None:
    """Report progress until the gate is opened, or something ends the process."""
    gates.count(ctx.id, "starts")
    n = 0
    with gates.gate_client() as client:
        while not gates.is_open(client, ctx.id):
            n += 1
            ctx.progress(n)
            gates.count(ctx.id, "reports")
            time.sleep(0.002)


@app.task
def report_and_return(n: int, ctx: Context) -> int:
    """Report at the very end."""
    ctx.progress(n)
    ctx.log.info(f"entry {n}")
    return n


@app.task
def report_and_fail(n: int, ctx: Context) -> None:
    """Report at the very end, and fail."""
    ctx.progress(n)
    ctx.log.error(f"entry {n}")
    raise ValueError(f"no {n}, password=hunter2")


# --- logs --------------------------------------------------------------------------------------------------------------


@app.task
def log_many(count: int, ctx: Context) -> int:
    """Write numbered entries."""
    for n in range(count):
        ctx.log.info("entry", n=n)
    return count


@app.task
def log_text(text: str, ctx: Context) -> None:
    """Write what comes from elsewhere."""
    ctx.log.info(text)


@app.task
def log_levels(ctx: Context) -> None:
    """Write an entry of each level."""
    ctx.log.debug("a debug entry")
    ctx.log.info("an info entry", {"row": 1}, column="b")
    ctx.log.warn("a warn entry")
    ctx.log.warning("a warning entry")
    ctx.log.error("an error entry")
    try:
        raise KeyError("missing")
    except KeyError:
        ctx.log.exception("an exception entry")


@app.task(max_retries=2)
def log_over_retry(ctx: Context) -> str:
    """Write, stop at a gate and write again, in two attempts."""
    ctx.log.info("begin", attempt=ctx.attempt)
    gates.stop_at(ctx.id)
    ctx.log.info("end", attempt=ctx.attempt)
    if ctx.attempt == 1:
        raise ctx.retry(delay=0, reason="second half")
    return "done"


@app.task
def log_by_logging(with_structlog: bool, ctx: Context) -> None:
    """Write to the standard library's loggers, as code does that knows no context."""
    task_logger.info("from the task logger", extra={"order": 7})
    other_logger.warning("from another logger")
    ctx.log.info("from ctx.log")
    if with_structlog:
        import structlog

        structlog.configure(
            processors=[structlog.stdlib.render_to_log_kwargs],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        structlog.get_logger(task_logger.name).warning("from structlog", shelf="b4")


@app.task
def tell_secrets(ctx: Context) -> None:
    """Put secrets where secrets should not be."""
    ctx.log.info("login", user="ann", password="hunter2", deep={"list": [{"api_key": "k-1234"}]}, iban="DE02")
    ctx.progress({"user": "ann", "token": "t-5678", "deep": {"Authorization": "Bearer abcdefgh"}, "iban": "DE02"})
    raise ctx.retry(delay=0, reason="login failed: password=hunter2") if ctx.attempt == 1 else ValueError("token=t-5678")


def hide_iban(key: str, value: Any) -> Any:
    """A user's own rule of what is hidden."""
    return "[no iban]" if key == "iban" else value


# --- faults ------------------------------------------------------------------------------------------------------------


@app.task
def survive_outage(before: int, after: int, ctx: Context) -> int:
    """Write numbered entries before and after a gate, with progress."""
    for n in range(before + after):
        if n == before:
            gates.stop_at(ctx.id)
        ctx.log.info("entry", n=n)
        ctx.progress(n + 1)
    return before + after
