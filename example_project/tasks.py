"""Three jobs: a long one that reports, one that must try again, and one as it was before."""

# mypy: allow-untyped-decorators
# Celery itself carries no types.

import re
import time
import urllib.error
import urllib.request
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import Any

from example_project.celery import app
from example_project.sources import Statistics, default_root, find_sources, parse, remaining
from taskora_celery import Context

#: A checkpoint after this many files: at most so many are read twice when a worker is lost.
CHECKPOINT_EVERY = 25
#: A pause after this many files: under gevent and eventlet nothing else runs until this job waits for something, and what
#: keeps its lease alive takes a few turns.
PAUSE_EVERY = 5
#: Seconds to wait for a page.
FETCH_TIMEOUT = 10.0


# Silent for 3 seconds, it counts as lost, and another worker goes on from its checkpoint; each progress is a sign of life.
@app.task(heartbeat_timeout=3)
def index_sources(data: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Read every Python file below ``data["root"]`` (default: the standard library) and return what was counted."""
    root = Path(data.get("root") or default_root())
    paths = find_sources(root)
    saved = ctx.last_checkpoint or {"path": None, "statistics": None}
    statistics = Statistics.load(saved["statistics"])
    todo = remaining(paths, saved["path"])
    done = len(paths) - len(todo)
    if done:
        ctx.log.info("going on from the checkpoint", path=saved["path"], files=done, of=len(paths))
    else:
        ctx.log.info("indexing", root=str(root), files=len(paths))
    for n, path in enumerate(todo, done + 1):
        index_file(root, path, statistics, ctx)
        ctx.progress(n, total=len(paths), message=path)
        if n % CHECKPOINT_EVERY == 0:
            ctx.checkpoint({"path": path, "statistics": statistics.dump()})
            ctx.log.debug("checkpoint", path=path, files=n, of=len(paths))
        if n % PAUSE_EVERY == 0:
            time.sleep(0.001)
    ctx.log.info("indexed", files=statistics.files, unparsable=statistics.unparsable)
    return statistics.report(root)


def index_file(root: Path, path: str, statistics: Statistics, ctx: Context) -> None:
    """Count one file; one that cannot be parsed is logged, and the job goes on."""
    try:
        tree, lines = parse(root / path)
    except (OSError, SyntaxError, ValueError, RecursionError) as exc:
        statistics.add_unparsable()
        line = getattr(exc, "lineno", None)
        error = getattr(exc, "msg", None) or str(exc)
        ctx.log.warning("cannot parse", path=path, line=line, error=f"{type(exc).__name__}: {error}")
        return
    if (longest := statistics.add(path, tree, lines)) is not None:
        ctx.log.info("longest function so far", function=longest.name, lines=longest.lines, path=path)


@app.task(max_retries=5, retry_backoff=1)
def fetch_page(data: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Fetch ``data["url"]``; wait as long as a busy server asks for, and back off from one that is down."""
    url = data["url"]
    ctx.log.info("requesting", url=url)
    try:
        with urllib.request.urlopen(url, timeout=FETCH_TIMEOUT) as response:
            body = response.read()
            status = response.status
    except urllib.error.HTTPError as exc:
        with exc:
            if exc.code == HTTPStatus.TOO_MANY_REQUESTS:
                raise ctx.retry(delay=retry_after(exc), reason="429 Too Many Requests") from exc
            if exc.code == HTTPStatus.SERVICE_UNAVAILABLE:
                raise ctx.retry(reason="503 Service Unavailable") from exc
        raise
    ctx.log.info("fetched", status=status, bytes=len(body))
    return {"url": url, "status": status, "bytes": len(body), "attempts": ctx.attempt}


def retry_after(error: urllib.error.HTTPError) -> float | None:
    """Return the seconds of a ``Retry-After`` header; None (the task's own backoff) where it has none, or a date."""
    value = error.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None


@app.task
def word_count(text: str) -> dict[str, Any]:
    """Count words: a handler from before, without a context, unchanged."""
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    return {"words": words.total(), "distinct": len(words), "most_common": words.most_common(3)}
