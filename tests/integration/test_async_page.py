"""The examples of docs/async.md run, as a user would run them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from celery import states

from taskora_celery.runtime import Runtime
from tests.support.executions import ScriptedExecution
from tests.support.pages import code_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def page(redis_url: str) -> Iterator[dict[str, Any]]:
    """What the page defines, pointed at the test's Redis."""
    namespace: dict[str, Any] = {"__name__": "async.md"}
    exec(compile(code_of("async.md"), "async.md", "exec", dont_inherit=True), namespace)
    namespace["app"].conf.update(broker_url="memory://", result_backend=redis_url)
    yield namespace
    Runtime.forget(namespace["app"])


@pytest.mark.parametrize("site", ["site", "api"], ids=["starlette", "fastapi"])
def test_the_examples_stream_a_job(page: dict[str, Any], site: str) -> None:
    """J2: three lines, for either; a client that comes back is told the rest."""
    execution = ScriptedExecution(Runtime.of(page["app"]).readable())
    execution.logs("a", "b")
    execution.progress(50)
    execution.end()

    async def get(headers: dict[str, str]) -> str:
        transport = httpx.ASGITransport(app=page[site])
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            response = await client.get("/jobs/job-1/events", headers=headers)
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            return response.text

    whole = [frame.split("\n") for frame in asyncio.run(get({})).split("\n\n")[:-1]]
    assert [lines[1] for lines in whole] == ["event: state", "event: log", "event: log", "event: progress", "event: outcome"]
    assert json.loads(whole[-1][2].removeprefix("data: "))["state"] == "SUCCESS"
    rest = asyncio.run(get({"Last-Event-ID": whole[1][0].removeprefix("id: ")}))
    assert [frame.split("\n") for frame in rest.split("\n\n")[:-1]] == whole[2:]


def test_the_example_of_results_awaits_all(page: dict[str, Any]) -> None:
    """J2: and the task of the page runs."""
    handles = [page["import_rows"].AsyncResult(f"job-{n}") for n in range(3)]
    for n, handle in enumerate(handles):
        page["app"].backend.store_result(handle.id, n, states.SUCCESS)
    assert asyncio.run(page["results"](handles)) == [0, 1, 2]
    assert page["import_rows"].apply(({"rows": 3},)).get() == 3
