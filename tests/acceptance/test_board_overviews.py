"""The pages Failures, Workers and Queues in a real browser: live, by keyboard, on any screen, and without scripts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from taskora_celery.rounds import Inspector
from tests.acceptance.test_board import HOSTILE, Pages, pages  # noqa: F401 - a fixture
from tests.support.chromium import emulate
from tests.support.executions import ScriptedExecution
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.boards import Shop

pytest.importorskip("selenium")
pytestmark = pytest.mark.board

PATHS = ("/failures", "/workers", "/queues")


def lose(shop: Shop, job_id: str, worker: str) -> None:
    """A job runs on a worker of which nothing was heard for a minute."""
    now_ms = int(time.time() * 1000)
    ScriptedExecution(shop.store, job_id, name="import.csv", worker=worker, now_ms=now_ms - 60_000)
    shop.store.note([job_id], [], now_ms)


def fill(shop: Shop, text: str = "") -> None:
    """Something for each of the pages."""
    for number in range(2):
        shop.end(
            shop.begin(f"job-{number}{text}", f"import.csv{text}"), "FAILURE", f"line {number}: no such column {text}", "KeyError"
        )
    shop.end(shop.begin(f"mail{text}", f"mail.send{text}"), "FAILURE", f"refused {text}", f"OSError{text}")
    lose(shop, f"lost-1{text}", f"w1@shop{text}")
    lose(shop, f"lost-2{text}", f"w2@shop{text}")
    shop.app.send_task("mail.send", queue=f"mail{text}")
    wait_until(lambda: Inspector.of(shop.app).seen(5.0), "the first round")


def test_they_live_and_the_title_says_what_matters(pages: Pages, shop_board: Shop) -> None:  # noqa: F811
    """K4: what goes wrong appears by itself, and a tab that nobody sees says so."""
    pages.open("/failures")
    assert "A job that fails for good" in pages.text("#live")
    shop_board.end(shop_board.begin("job-1"), "FAILURE", "line 7: no such column", "KeyError")
    pages.wait_for("#live", "KeyError line <number>: no such column")
    assert pages.browser.title == "1 failed · Failures · shop"
    assert pages.run("return document.querySelector('[data-ago]').textContent"), "the script says how long ago"
    pages.is_well()
    pages.open("/workers")
    lose(shop_board, "lost-1", "w1@shop")
    pages.wait_for("#live", "w1@shop offline with 1 running job")
    assert pages.browser.title == "1 offline with jobs · Workers · shop"
    pages.is_well()
    pages.open("/queues")
    shop_board.app.send_task("mail.send", queue="mail")
    pages.wait_for("#live", "celery -A shop worker -Q mail")
    assert pages.browser.title == "1 without a worker · Queues · shop"
    pages.is_well()


@pytest.mark.parametrize(
    ("path", "leads_to"), [("/failures", "state:failed"), ("/workers", "worker:"), ("/queues", "/workers?queue=")]
)
def test_their_rows_are_walked_and_opened_by_keyboard(
    pages: Pages,  # noqa: F811
    shop_board: Shop,
    path: str,
    leads_to: str,
) -> None:
    """K4: j, k and Enter, as in the list of jobs; whoever walks them keeps his place while they are drawn anew."""
    from urllib.parse import unquote

    from selenium.webdriver.common.keys import Keys

    fill(shop_board)
    pages.open(path)
    pages.press("j")
    first = pages.focused()
    pages.press("j")
    assert pages.focused() != first
    pages.press("k")
    assert pages.focused() == first
    pages.run("document.querySelector('#live table').id = 'old'")
    shop_board.app.send_task("mail.send", queue="mail")
    shop_board.end(shop_board.begin("job-9", "import.csv"), "FAILURE", "line 9: no such column", "KeyError")
    lose(shop_board, "lost-3", "w1@shop")
    wait_until(lambda: not pages.all("#old"), "the page is drawn anew")
    assert pages.focused() == first
    pages.press(Keys.ENTER)
    wait_until(lambda: leads_to in unquote(pages.browser.current_url), "the row's page")
    pages.is_well()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_they_fit_any_screen_with_whatever_people_call_things(
    pages: Pages,  # noqa: F811
    shop_board: Shop,
    width: int,
    scheme: str,
) -> None:
    """K4: rows become cards below 640 pixels, long words break, text is shown and not obeyed, and each table has a name."""
    fill(shop_board, HOSTILE.replace("\x00", "") + "y" * 120)
    emulate(pages.browser, width, 900, scheme)
    for path in PATHS:
        pages.open(path)
        assert pages.run("return document.documentElement.scrollWidth <= innerWidth"), path
        assert "<script>" in pages.text("#live")
        assert r"\u202e" in pages.text("#live")
        assert pages.run("return [...document.querySelectorAll('#live table')].every(e => e.getAttribute('aria-label'))")
        display = pages.run("return getComputedStyle(document.querySelector('tr.row')).display")
        assert display == ("flex" if width < 640 else "table-row")
        pages.is_well()


def test_they_say_the_same_without_scripts(pages: Pages, shop_board: Shop) -> None:  # noqa: F811
    """K4: the first paint is the server's; times stand in it."""
    fill(shop_board)
    pages.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    for path, part in zip(PATHS, ("no such column", "offline with 1 running job", "celery -A shop worker -Q mail"), strict=True):
        pages.browser.get(pages.url + path)
        assert part in " ".join(pages.one("main").text.split())
        assert pages.one("#live time").text
    pages.browser.get(pages.url + "/failures")
    pages.one("#live a.open").click()
    wait_until(lambda: len(pages.all("tr.row")) == 2, "the group's jobs")
