"""The example project's coroutine, without a worker."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")

from example_project.flaky_server import RETRY_AFTER, FlakyServer  # noqa: E402 - behind what it needs
from example_project.tasks import client_of, fetch_pages, pause_behind  # noqa: E402
from taskora_celery import LocalContext, local_context  # noqa: E402
from tests.support.loops import turns_until  # noqa: E402


@pytest.mark.parametrize(
    ("status", "headers", "pause"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 2.0),
        (503, {}, 1.0),
        (200, {}, None),
        (404, {}, None),
    ],
)
def test_how_long_a_page_is_waited_for(status: int, headers: dict[str, str], pause: float | None) -> None:
    """As the server asks for, where it does so in seconds; else longer each time."""
    assert pause_behind(httpx.Response(status, headers=headers), requests=2) == pause


def test_steady_pages_come_at_once_by_one_client_and_are_reported() -> None:
    """M1, E1: all at the same time, over connections that are kept."""
    ctx = local_context()

    async def fetch(urls: list[str]) -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        return await fetch_pages({"urls": urls}, ctx=ctx), client_of(loop) is client_of(loop)

    with FlakyServer() as server:
        result, shared = asyncio.run(fetch([f"{server.url}/steady/{n}" for n in range(5)]))
    assert shared
    assert [page["requests"] for page in result["pages"]] == [1] * 5
    assert ctx.get_progress()["percent"] == 100.0


def test_a_cancel_ends_it_while_it_waits() -> None:
    """M2: it does not wait as long as the server has asked for."""

    async def cancelled(url: str, ctx: LocalContext) -> None:
        fetching = asyncio.ensure_future(fetch_pages({"urls": [url]}, ctx=ctx))
        await turns_until(lambda: any(entry.message == "asking again" for entry in ctx.get_logs()), "the answer of the server")
        fetching.cancel()
        await fetching

    began = time.monotonic()
    with FlakyServer() as server, pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled(f"{server.url}/orders", local_context()))
    assert time.monotonic() - began < RETRY_AFTER
