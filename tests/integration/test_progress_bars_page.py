"""The examples of docs/progress-bars.md: FastAPI, Django, and the page in a browser."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from taskora_celery import JobHandle
from taskora_celery.runtime import Runtime
from taskora_celery.store.protocol import Reply
from tests.support.apps import pointed_at
from tests.support.browser import served
from tests.support.executions import ScriptedExecution
from tests.support.pages import DOCS
from tests.support.waiting import wait_until
from tests.support.worker import REPO_ROOT, worker_env

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

for needed in ("django", "fastapi"):
    pytest.importorskip(needed)

from fastapi import FastAPI  # noqa: E402
from fastapi.responses import HTMLResponse  # noqa: E402

from tests.support import progress_page as page  # noqa: E402 - its code imports what was asked for

DONE = {"state": "SUCCESS", "percent": 100.0, "message": "importing", "reason": None}
WAITING = {"state": "PENDING", "percent": None, "message": None, "reason": None}


@pytest.fixture
def job(redis_url: str) -> Iterator[JobHandle]:
    """A job of the page that has ended, in the test's Redis."""
    with pointed_at(page.app, "memory://", redis_url):
        execution = ScriptedExecution(Runtime.of(page.app).readable())
        execution.progress({"current": 2, "total": 2, "percent": 100.0, "message": "importing"})
        execution.end()
        yield JobHandle("job-1", app=page.app)


def names_of(stream: str) -> list[str]:
    return re.findall(r"^event: (\w+)$", stream, re.MULTILINE)


def test_the_job_reports_as_the_page_says() -> None:
    """E7: one report for each row."""
    handle = page.import_rows.apply(({"rows": 2},))
    assert handle.get() == 2
    assert page.shown(handle.record()) == DONE


def test_the_views_of_fastapi(job: JobHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """J2: progress, the stream, a cancel that comes too late; and what nobody knows waits. And the page itself."""
    (tmp_path / "bar.html").write_text(html(told=False))
    monkeypatch.chdir(tmp_path)

    async def ask() -> tuple[Any, ...]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=page.api), base_url="http://shop") as client:
            return (
                (await client.get("/jobs/job-1")).json(),
                (await client.get("/jobs/nobody")).json(),
                (await client.post("/jobs/job-1/cancel")).json(),
                names_of((await client.get("/jobs/job-1/events")).text),
                (await client.post("/imports?rows=3")).json(),
                (await client.get("/?job=job-1")).text,
            )

    progress, unknown, receipt, events, sent, shown = asyncio.run(ask())
    assert shown == html(told=False)
    assert (progress, unknown, receipt) == (DONE, WAITING, {"outcome": "too_late"})
    assert events == ["state", "progress", "outcome"]
    assert len(sent["id"]) == 36


def test_the_views_of_django(job: JobHandle, redis_url: str) -> None:
    """J2: the same, from a site of its own."""
    site = subprocess.run(
        [sys.executable, "-m", "tests.support.progress_page", job.id],
        env={**worker_env(redis_url), "BROKER_URL": "memory://", "PATH": "/usr/bin:/bin"},
        cwd=REPO_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert site.returncode == 0, site.stderr
    said = json.loads(site.stdout)
    assert (said["progress"], said["unknown"], said["cancel"], said["by GET"]) == (DONE, WAITING, {"outcome": "too_late"}, 405)
    assert names_of(said["events"]) == ["state", "progress", "outcome"]
    assert len(said["sent"]["id"]) == 36


def test_many_jobs_are_one_bar(job: JobHandle) -> None:
    """J4: what nobody knows counts as nothing."""
    assert page.together([job, JobHandle("nobody", app=page.app)]) == 50.0


def html(*, told: bool) -> str:
    """The page in plain HTML, as it is, or with the events in place of asking."""
    text = (DOCS / "progress-bars.md").read_text("utf-8")
    plain: str
    (plain,) = re.findall(r"^```html\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (events,) = re.findall(r"^```js\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    asking = "\nlook();\n"
    assert plain.count(asking) == 1
    return plain.replace(asking, f"\n{events}") if told else plain


@pytest.mark.flower
@pytest.mark.parametrize("told", [False, True], ids=["asking", "told"])
def test_the_page_in_a_browser(redis_url: str, browser: Any, told: bool) -> None:
    """J2: busy, then so far, then stopped by its button; what the job says is text."""
    site = FastAPI()
    site.get("/", response_class=HTMLResponse)(lambda: html(told=told))
    site.mount("", page.api)
    with pointed_at(page.app, "memory://", redis_url), served(site) as url:
        execution = ScriptedExecution(Runtime.of(page.app).readable())
        execution.progress({"current": 1, "total": 4, "percent": 25.0, "message": "<b>importing</b>"})
        browser.get(f"{url}/?job=job-1")
        wait_until(lambda: shown_in(browser) == ("25", "<b>importing</b>", None), "the progress")
        browser.find_element("id", "stop").click()
        wait_until(lambda: execution.progress(30) is Reply.STOPPING, "the request")
        execution.end("REVOKED", "by its user")
        wait_until(lambda: shown_in(browser) == ("30", "by its user", "true"), "the end")
        browser.get("about:blank")  # it holds a connection to a server that is about to end


def shown_in(browser: Any) -> tuple[Any, ...]:
    """The bar, the text, and whether the button is off."""
    bar, text, stop = (browser.find_element("id", name) for name in ("bar", "text", "stop"))
    return bar.get_attribute("value"), text.text, stop.get_attribute("disabled")
