"""Five jobs: a long one that reports, one that runs a process, one that must try again, a coroutine, and one as it was before."""

# mypy: allow-untyped-decorators
# Celery itself carries no types.

import asyncio
import functools
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from example_project.celery import app
from example_project.sources import Statistics, default_root, find_sources, parse, remaining
from taskora_celery import Context, start_process

#: A checkpoint after this many files: at most so many are read twice when a worker is lost.
CHECKPOINT_EVERY = 25
#: A pause after this many files, which ends the job where it should stop. Under gevent and eventlet nothing else runs until this
#: job waits for something, and what keeps its lease alive takes a few turns.
PAUSE_EVERY = 5
#: Seconds to wait for a page.
FETCH_TIMEOUT = 10.0
#: Connections to all servers together, and how often a page is asked for.
CONNECTIONS = 20
TRIES = 5


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
            ctx.sleep(0.001)
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


def remove_partial(ctx: Context, data: dict[str, Any]) -> None:
    """Remove what a cancelled :func:`pack_sources` has written."""
    partial = partial_of(data)
    if partial.exists():
        ctx.log.info("removing", file=partial.name, bytes=partial.stat().st_size)
        partial.unlink()


@app.task(cancel_grace=10, on_cancel=remove_partial)
def pack_sources(data: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Pack every Python file below ``data["root"]`` into ``data["target"]``; a process does it, which ends with the job."""
    root, target, partial = Path(data.get("root") or default_root()), Path(data["target"]), partial_of(data)
    total = len(find_sources(root))
    ctx.log.info("packing", root=str(root), files=total)
    command = [sys.executable, "-m", "example_project.packer", str(root), str(partial)]
    with start_process(ctx, command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as packer:
        assert packer.stdout is not None
        for n, line in enumerate(packer.stdout, 1):
            ctx.progress(n, total=total, message=line.rstrip("\n"))
    partial.rename(target)
    ctx.log.info("packed", file=target.name, bytes=target.stat().st_size)
    return {"file": str(target), "files": total, "bytes": target.stat().st_size}


def partial_of(data: dict[str, Any]) -> Path:
    """Return the file that :func:`pack_sources` writes before it is whole."""
    return Path(f"{data['target']}.part")


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
                raise ctx.retry(delay=retry_after(exc.headers.get("Retry-After")), reason="429 Too Many Requests") from exc
            if exc.code == HTTPStatus.SERVICE_UNAVAILABLE:
                raise ctx.retry(reason="503 Service Unavailable") from exc
        raise
    ctx.log.info("fetched", status=status, bytes=len(body))
    return {"url": url, "status": status, "bytes": len(body), "attempts": ctx.attempt}


def retry_after(header: str | None) -> float | None:
    """Return the seconds of a ``Retry-After`` header; None (one's own backoff) where there is none, or it is a date."""
    return float(header) if header is not None and header.isdecimal() else None


@functools.cache
def client_of(_loop: asyncio.AbstractEventLoop) -> httpx.AsyncClient:
    """Return the client of an event loop, whose connections belong to it. A worker process has one loop: its jobs share them."""
    timeout = httpx.Timeout(FETCH_TIMEOUT, pool=None)  # who waits for a free connection is not late
    return httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(max_connections=CONNECTIONS))


@app.task(autoretry_for=(httpx.TransportError,), max_retries=5, retry_backoff=1)
async def fetch_pages(data: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Fetch all of ``data["urls"]`` at once, and return what became of each; a cancel ends it at the ``await`` where it is."""
    urls = data["urls"]
    ctx.log.info("fetching", pages=len(urls))
    client = client_of(asyncio.get_running_loop())
    pages, fetching = [], [asyncio.ensure_future(fetch(client, url, ctx)) for url in urls]
    try:
        for page in asyncio.as_completed(fetching):
            pages.append(await page)
            ctx.progress(len(pages), total=len(urls), message=pages[-1]["url"])
    finally:  # at a cancel or an error the others end with it
        for unfinished in fetching:
            unfinished.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
    found = sum(page["status"] == HTTPStatus.OK for page in pages)
    ctx.log.info("fetched", pages=found, of=len(urls), requests=sum(page["requests"] for page in pages))
    return {"pages": pages, "bytes": sum(page["bytes"] for page in pages)}


async def fetch(client: httpx.AsyncClient, url: str, ctx: Context) -> dict[str, Any]:
    """Fetch one page; wait as long as a busy server asks for, and back off from one that is down, while others go on."""
    for requests in range(1, TRIES + 1):
        response = await client.get(url)
        wait = pause_behind(response, requests)
        if wait is None or requests == TRIES:
            break
        ctx.log.info("asking again", url=url, status=response.status_code, seconds=wait)
        await asyncio.sleep(wait)
    return {"url": url, "status": response.status_code, "bytes": len(response.content), "requests": requests}


def pause_behind(response: httpx.Response, requests: int) -> float | None:
    """Return the seconds to wait before a page is asked for again; None where its answer is the last word."""
    if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        wait = retry_after(response.headers.get("Retry-After"))
        return float(requests) if wait is None else wait
    return 0.25 * 2**requests if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE else None


@app.task
def word_count(text: str) -> dict[str, Any]:
    """Count words: a handler from before, without a context, unchanged."""
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    return {"words": words.total(), "distinct": len(words), "most_common": words.most_common(3)}
