"""A real Flower beside a real worker: what its API says, and what a browser shows of its pages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import gates, jobs, reporting_jobs, stopping_jobs
from tests.support.apps import pointed_at
from tests.support.flower_server import CONFIG, Flower
from tests.support.recorded import recorded
from tests.support.redis_server import RedisServer
from tests.support.reporting_jobs import MARKUP
from tests.support.reports import watch
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from tests.support.worker_fixtures import SharedWorker, StartWorker

pytest.importorskip("flower")
pytestmark = [pytest.mark.flower, pytest.mark.parametrize("pool", ["prefork"], indirect=True, scope="session")]

#: The directory in which to leave a picture of a job's page: docs/images.
SCREENSHOTS = os.environ.get("TASKORA_TEST_SCREENSHOTS")


@pytest.fixture(scope="module")
def _flowers(shared_worker: SharedWorker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Flower]]:
    """One as it comes, and one with the import line in its configuration."""
    directory = tmp_path_factory.mktemp("flower")
    with (
        Flower(shared_worker.redis_url, directory / "stock") as stock,
        Flower(shared_worker.redis_url, directory / "configured", CONFIG) as configured,
        pointed_at(jobs.app, shared_worker.redis_url),
    ):
        for flower in (stock, configured):
            flower.wait_ready()
            # It asks the workers for events five seconds after its start: ours was started without ``-E``.
            wait_until(lambda: flower.task(jobs.add.delay(1, 2).id), "the first event", 30, 0.5)  # noqa: B023 - called here
        yield {"stock": stock, "configured": configured}


@pytest.fixture
def stock(request: pytest.FixtureRequest, _flowers: dict[str, Flower], jobs_app: Celery) -> Flower:
    """Flower without any configuration."""
    watch(request.node, _flowers["stock"])
    return _flowers["stock"]


@pytest.fixture
def configured(request: pytest.FixtureRequest, _flowers: dict[str, Flower], jobs_app: Celery) -> Flower:
    """Flower with the one line."""
    watch(request.node, _flowers["configured"])
    return _flowers["configured"]


class Pages:
    """Flower's pages in the browser."""

    def __init__(self, browser: Any, flower: Flower) -> None:
        self.browser = browser
        self._flower = flower

    def open_task(self, job_id: str) -> dict[str, str]:
        """Open a job's page; return its rows."""
        self.browser.get(self._flower.url(f"/task/{job_id}"))
        names = [element.text for element in self.all(".detail-row > dt")]
        return dict(zip(names, [element.text for element in self.all(".detail-row > dd")], strict=True))

    def open_list(self, path: str = "/tasks") -> list[str]:
        """Open the list of jobs; return the names of its columns."""
        self.browser.get(self._flower.url(path))
        wait_until(lambda: self.all("#tasks-table tbody tr"), "the list")
        return [element.get_property("textContent") for element in self.all(".dataTables_scrollHead th")]

    def rows(self) -> list[list[str]]:
        """The rows of the list that is open, in one go: it may be drawn anew at any time."""
        script = "return [...document.querySelectorAll('#tasks-table tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
        return [row for row in self.browser.execute_script(script) if len(row) > 1]

    def filter(self, state: str, job_id: str) -> None:
        """Click on a state's filter, and wait until the list shows that state alone, the job's row with it."""
        self.click(f"[data-task-state={state}]")
        wait_until(lambda: self.row(job_id) and all(state in row for row in self.rows()), f"the job among the {state}")

    def row(self, job_id: str) -> list[str]:
        """One job's row, empty where it is not shown."""
        return next((row for row in self.rows() if any(job_id[:8] in cell for cell in row)), [])

    def all(self, selector: str) -> list[Any]:
        """The elements of a selector."""
        return list(self.browser.find_elements("css selector", selector))

    def click(self, selector: str) -> None:
        """Click on an element, as a person would."""
        self.browser.find_element("css selector", selector).click()

    def obeyed(self) -> bool:
        """Whether text of a job has become a part of the page."""
        return bool(self.browser.execute_script("return !!window.obeyed || !!document.querySelector('img[src=x]')"))

    def picture(self, name: str) -> None:
        """Leave a picture of the page, where one is wanted."""
        if SCREENSHOTS:
            size = self.browser.get_window_size()
            self.browser.set_window_size(1_000, 1_130)
            self.browser.save_screenshot(str(Path(SCREENSHOTS) / name))
            self.browser.set_window_size(size["width"], size["height"])


# --- as it comes ---------------------------------------------------------------------------------------------------------


def test_a_running_job_shows_its_progress_and_then_its_result(stock: Flower, browser: Any) -> None:
    """K1: as text, in the API and on the page; with Terminate, since the state is Flower's own."""
    handle = reporting_jobs.report_steps.delay()
    shown = stock.wait_for(handle.id, "STARTED", "37.5% 3/8 reading")
    assert (shown["name"], shown["args"], shown["retries"]) == (reporting_jobs.report_steps.name, "()", 0)
    pages = Pages(browser, stock)
    rows = pages.open_task(handle.id)
    assert (rows["Status"], rows["Result"]) == ("STARTED", "37.5% 3/8 reading")
    assert [button.text for button in pages.all(".detail-actions button")] == ["Terminate"]
    listed = stock.api("/api/tasks?state=STARTED")
    assert listed[handle.id]["result"] == "37.5% 3/8 reading"
    gates.open_gate(handle.id)
    assert stock.wait_for(handle.id, "SUCCESS")["result"] == "'done'"
    assert pages.open_task(handle.id)["Result"] == "'done'"
    assert handle.id not in stock.api("/api/tasks?state=STARTED")


def test_terminate_and_revoke_on_the_page_end_jobs_of_ours(stock: Flower, browser: Any) -> None:
    """K1, G8: a running one, which goes on reporting until it is ended, and one that waits."""
    pages = Pages(browser, stock)
    running, waiting = reporting_jobs.progress_until_open.delay(), stopping_jobs.mark.apply_async(countdown=60)
    wait_until(lambda: stock.task(running.id).get("result"), "its progress")
    pages.open_task(running.id)
    pages.click("#task-terminate")
    stock.wait_for(running.id, "REVOKED")
    assert pages.open_task(running.id)["Status"] == "REVOKED"
    assert running.state == "REVOKED"
    stock.wait_for(waiting.id, "RECEIVED")
    pages.open_task(waiting.id)
    pages.click("#task-revoke")
    recorded(waiting, "REVOKED")
    stock.api(f"/api/task/revoke/{waiting.id}", {})
    assert stock.task(running.id)["state"] == "REVOKED"


def test_terminate_by_the_api_ends_a_job_of_ours(stock: Flower) -> None:
    """K1, G8: what scripts call."""
    handle = reporting_jobs.progress_until_open.delay()
    wait_until(lambda: stock.task(handle.id).get("result"), "its progress")
    stock.api(f"/api/task/revoke/{handle.id}?terminate=true", {})
    stock.wait_for(handle.id, "REVOKED")


def test_reasons_and_attempts_are_shown_and_the_filters_know_the_states(stock: Flower, browser: Any) -> None:
    """K1, I4: RETRY with its reason, the next attempt with its number, FAILURE; each is found by its filter alone."""
    pages = Pages(browser, stock)
    handle = reporting_jobs.fail_in_steps.delay("x", retry_delay=8.0)
    stock.wait_for(handle.id, "STARTED", "50% 1/2 shelf 1")
    pages.open_list()
    pages.filter("STARTED", handle.id)
    gates.open_gate(handle.id)
    retried = stock.wait_for(handle.id, "RETRY")
    assert "shop is closed" in retried["exception"]
    assert "shop is closed" in pages.open_task(handle.id)["Exception"]
    pages.open_list()
    pages.filter("RETRY", handle.id)
    second = stock.wait_for(handle.id, "STARTED", "50% 1/2 shelf 2 · attempt 2/3")
    assert second["retries"] == 1
    gates.open_gate(handle.id)
    stock.wait_for(handle.id, "FAILURE")
    assert "sold out" in pages.open_task(handle.id)["Exception"]
    pages.open_list("/tasks?state=FAILURE")
    wait_until(lambda: pages.row(handle.id), "the job among the failed")


# --- with the one line ---------------------------------------------------------------------------------------------------


def test_one_line_adds_columns_attempts_and_the_log(configured: Flower, browser: Any) -> None:
    """K2: the list has Progress and Attempt, a job's page has its attempts with reasons, and the last lines of its log."""
    pages = Pages(browser, configured)
    handle = reporting_jobs.fail_in_steps.delay("orders.csv", retry_delay=0.0)
    plain = jobs.untracked.delay(1)
    gates.open_gate(handle.id)
    configured.wait_for(handle.id, "STARTED", "50% 1/2 shelf 2 · attempt 2/3")
    configured.wait_for(plain.id, "SUCCESS")
    columns = pages.open_list()
    assert columns[:5] == ["Name", "UUID", "State", "Progress", "Attempt"]
    wait_until(lambda: pages.row(handle.id), "the job's row")
    state, progress, attempt = pages.row(handle.id)[2:5]
    assert (state, attempt) == ("STARTED", "2/3")
    assert progress.startswith("50% 1/2 shelf 2")
    assert pages.row(plain.id)[2:5] == ["SUCCESS", "", ""]
    rows = pages.open_task(handle.id)
    pages.picture("flower.png")
    assert rows["Progress"].startswith("50% 1/2 shelf 2")
    assert rows["Attempt"] == "2/3"
    assert rows["Attempt 1"].startswith("RETRY after ")
    assert rows["Attempt 1"].endswith(" s on shared-prefork@test · shop is closed: orders.csv · next in 0 s")
    assert rows["Attempt 2"].startswith("running since ")
    logs = [text for name, text in rows.items() if name.startswith("Log ")]
    assert logs == ["INFO looking attempt=1", "INFO looking attempt=2"]
    gates.open_gate(handle.id)
    configured.wait_for(handle.id, "FAILURE")
    failed = pages.open_task(handle.id)["Attempt 2"]
    assert re.fullmatch(r"FAILURE after [\d.]+ s on shared-prefork@test · ValueError: sold out", failed)


def test_text_of_jobs_does_not_become_html(stock: Flower, configured: Flower, browser: Any) -> None:
    """K1, K2: progress, log lines, fields, reasons, arguments and errors are not to be trusted."""
    handle = reporting_jobs.report_markup.delay(MARKUP)
    for flower in (stock, configured):
        flower.wait_for(handle.id, "STARTED", f"50% 1/2 {MARKUP}")
    gates.open_gate(handle.id)
    for flower in (stock, configured):
        flower.wait_for(handle.id, "STARTED", f"50% 1/2 {MARKUP} · attempt 2/3")
        pages = Pages(browser, flower)
        rows = pages.open_task(handle.id)
        assert MARKUP in rows["Result"]
        assert rows["Arguments"].startswith("('<img src=x onerror=")
        assert not pages.obeyed()
        pages.open_list("/tasks?state=STARTED")
        wait_until(lambda: pages.row(handle.id), "the job's row")  # noqa: B023 - called here
        assert not pages.obeyed()
    assert MARKUP in rows["Progress"]
    assert MARKUP in rows["Attempt 1"]
    assert sum(text.count(MARKUP) for name, text in rows.items() if name.startswith("Log ")) == 2 * 3, "message, key and value"
    assert pages.row(handle.id)[3].startswith(f"50% 1/2 {MARKUP}")
    gates.open_gate(handle.id)
    configured.wait_for(handle.id, "FAILURE")
    pages.open_task(handle.id)
    assert not pages.obeyed()
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])", MARKUP)
    assert pages.obeyed(), "the control"


def test_pages_work_without_the_store(pool: str, start_worker: StartWorker, redis_url: str, tmp_path: Path, browser: Any) -> None:
    """K2, L1: the columns are empty, the page comes at once, and what events tell is there."""
    with RedisServer() as store:
        conf = jobs.configured(taskora_redis_url=store.url(0))
        start_worker(pool=pool, args=["-E"], env=conf)
        with (
            Flower(redis_url, tmp_path / "flower", CONFIG, conf) as flower,
            pointed_at(jobs.app, redis_url, taskora_redis_url=store.url(0)),
        ):
            flower.wait_ready()
            pages = Pages(browser, flower)
            handle = reporting_jobs.report_steps.delay()
            flower.wait_for(handle.id, "STARTED", "37.5% 3/8 reading")
            pages.open_list()
            wait_until(lambda: pages.row(handle.id), "the job's row")
            assert pages.row(handle.id)[3].startswith("37.5% 3/8 reading")
            assert pages.row(handle.id)[4] == "1/4"
            store.process.kill()
            rows = pages.open_task(handle.id)
            assert rows["Result"] == "37.5% 3/8 reading"
            assert "Progress" not in rows
            pages.open_list()
            wait_until(lambda: pages.row(handle.id), "the job's row")
            assert pages.row(handle.id)[2:5] == ["STARTED", "", ""]
            gates.open_gate(handle.id)
            flower.wait_for(handle.id, "SUCCESS")
            assert flower.logs().count("job records cannot be read") == 1
