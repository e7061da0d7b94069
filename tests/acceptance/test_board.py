"""The board in a real browser: live, by keyboard, with hostile text, without scripts, and with a real worker."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import HTMLResponse

from taskora_celery.board.access import SecretAuth
from taskora_celery.board.app import Board
from taskora_celery.board.listfeed import ListFeed
from taskora_celery.board.outbox import Outbox, frame
from tests.support import reporting_jobs, scripted_jobs
from tests.support.boards import SECRET, running
from tests.support.browser import served
from tests.support.chromium import emulate
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from tests.support.boards import Shop

pytest.importorskip("selenium")
pytestmark = pytest.mark.board

HOSTILE = '<img src=x onerror="window.obeyed=1"><script>window.obeyed=1</script>\'"&amp;\x1b[31m\u202egnp.exe\u2066\x00'
#: Runs in each page before anything else, outside of its policy: what the page's own scripts and policy complain of.
_LISTEN = """
window.complaints = [];
addEventListener('error', e => complaints.push('error: ' + (e.message || e.target.src || e.target.href)), true);
addEventListener('unhandledrejection', e => complaints.push('rejection: ' + e.reason));
document.addEventListener('securitypolicyviolation', e => complaints.push('policy: ' + e.violatedDirective + ' ' + e.blockedURI));
"""


#: The controls of a page that have no name.
_UNNAMED = """
const controls = [...document.querySelectorAll('input:not([type=hidden]), select, button:not([hidden]), progress')];
const named = e => e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim();
return controls.filter(e => !named(e)).map(e => e.outerHTML);
"""


class Pages:
    """The board's pages in the browser."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        self.url = url

    def open(self, path: str = "/") -> None:
        """Open a page, and wait until it is live, where it has a stream."""
        self.browser.get(self.url + path)
        if self.one("body").get_attribute("data-stream"):
            wait_until(lambda: self.text("#connection") == "live", "the stream")

    def all(self, selector: str) -> list[Any]:
        """The elements of a selector."""
        return list(self.browser.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        """The first element of a selector."""
        return self.browser.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        """What an element says, in one go: it may be drawn anew at any time; empty where it is not there."""
        script = "const e = document.querySelector(arguments[0]); return e && !e.hidden ? e.innerText.replace(/\\s+/g, ' ') : ''"
        return str(self.browser.execute_script(script, selector))

    def run(self, script: str) -> Any:
        """Run a script in the page."""
        return self.browser.execute_script(script)

    def press(self, *keys: str) -> None:
        """Press keys, as a person would, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def focused(self) -> str:
        """Which job's link has the focus, or which element."""
        return str(self.run("const e = document.activeElement; return e.id || e.pathname + e.search"))

    def wait_for(self, selector: str, part: str) -> None:
        """Wait until an element says something."""
        wait_until(lambda: part in self.text(selector), f"{part!r} in {selector}, which says {self.text(selector)!r}")

    def is_well(self) -> None:
        """Fail where a script has failed, the policy was violated, or text of a job has become a part of the page."""
        assert self.run("return complaints") == []
        assert not self.run("return !!window.obeyed || !!document.querySelector('main img, main script')")


@pytest.fixture
def pages(browser: Any, shop_board: Shop) -> Iterator[Pages]:
    """The pages of a board without jobs; the browser has been let in."""
    yield from _let_in(browser, shop_board.url)


def _let_in(browser: Any, url: str) -> Iterator[Pages]:
    listening = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _LISTEN})
    pages = Pages(browser, url)
    pages.browser.get(f"{url}/?token={SECRET}")
    yield pages
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": listening["identifier"]})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    browser.get("about:blank")
    browser.delete_all_cookies()


# --- live ----------------------------------------------------------------------------------------------------------------


def test_the_first_job_appears_and_a_row_lives(pages: Pages, shop_board: Shop) -> None:
    """K4: the empty page teaches, and fills by itself; then rows go on, and new ones wait behind a button."""
    pages.open()
    assert "No jobs yet" in pages.text("#empty")
    job = shop_board.begin("job-1")
    pages.wait_for("#rows", "import.csv")
    pages.wait_for("#connection", "live")
    job.progress({"current": 12, "total": 25, "percent": 48.0, "message": "rendering"})
    pages.wait_for("#rows", "48%")
    assert "12/25 rendering" in pages.text("#rows")
    pages.wait_for("#chips", "running 1")
    wait_until(lambda: pages.browser.title == "1 running · Jobs · shop", "the title")
    shop_board.begin("job-2", name="mail.send")
    pages.wait_for("#news", "1 new")
    assert len(pages.all("tr.row")) == 1, "nothing moves under the pointer"
    pages.one("#news").click()
    pages.wait_for("#rows", "mail.send")
    shop_board.end(job, "FAILURE", "no such column", "KeyError")
    pages.wait_for("#rows", "KeyError: no such column")
    pages.is_well()


def test_an_empty_page_waits_for_what_is_true(pages: Pages, shop_board: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """K4: what a feed knew before the page was made is no reason to load it again and again."""
    loads, looks, look = [], [], ListFeed.look

    def greet(_: ListFeed, outbox: Outbox) -> None:
        loads.append(1)
        outbox.latest("what was told before", frame("list", {"ids": ["has-just-ended"]}))

    async def looked(feed: ListFeed) -> None:
        await look(feed)
        looks.append(1)

    pages.browser.get("about:blank")
    monkeypatch.setattr(ListFeed, "greet", greet)
    monkeypatch.setattr(ListFeed, "look", looked)
    pages.open("/?q=state:running")
    wait_until(lambda: len(looks) >= 3, "three looks")
    assert len(loads) == 1
    shop_board.begin("job-1")
    pages.wait_for("#rows", "import.csv")
    wait_until(lambda: len(looks) >= 6 and len(loads) >= 2, "the stream of the page that has it")
    assert len(loads) == 2, "for the job, and for nothing else"
    pages.is_well()


def test_each_kind_of_job_is_told_by_word_and_shape(pages: Pages, shop_board: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """K4: no state is told by its colour alone."""
    monkeypatch.setattr(scripted_jobs, "SHOWN_MS", int(time.time() * 1000))
    scripted_jobs.write_jobs(shop_board.store)
    emulate(pages.browser, 1280, 900, "light")
    pages.open()
    pages.wait_for("#chips", "stalled 1")
    states = pages.run(
        "return [...document.querySelectorAll('.state')].map(e => [e.textContent, e.querySelector('use').href.baseVal])"
    )
    words = ["running", "retrying", "stalled", "failed", "done", "cancelled"]
    assert states == [[word, f"#shape-{word}"] for word in words]
    assert pages.run("return [...document.querySelectorAll('progress')].map(e => e.ariaLabel)")[0] == "progress of reports.render"
    pages.open(f"/job?id={scripted_jobs.RENDER}")
    assert pages.one("#log").get_attribute("role") == "log"
    pages.is_well()


def test_a_job_is_followed_to_its_end(pages: Pages, shop_board: Shop) -> None:
    """K4: head, log, attempts and title; follow pauses on scroll, and says how many lines wait."""
    job = shop_board.begin("job-1")
    job.logs(*(f"line {n}" for n in range(100)))
    pages.open("/job?id=job-1")
    at_end = "const l = document.getElementById('log'); return l.scrollHeight - l.scrollTop - l.clientHeight < 24"
    assert pages.run(at_end)
    job.logs("line 100")
    pages.wait_for("#log", "line 100")
    assert pages.run(at_end)
    pages.run("document.getElementById('log').scrollTop = 0")
    wait_until(lambda: pages.one("#follow").get_attribute("aria-pressed") == "false", "the pause")
    job.logs("line 101", "line 102")
    pages.wait_for("#waiting", "2 new lines")
    assert not pages.run(at_end)
    pages.one("#waiting").click()
    assert pages.run(at_end)
    job.progress({"percent": 99.9})
    pages.wait_for("#head", "99%")
    shop_board.end(job)
    pages.wait_for("#head", "done")
    wait_until(lambda: pages.browser.title == "done · import.csv · shop", "the title")
    assert not pages.text("#connection")
    assert not pages.one("#cancel").is_displayed()
    pages.is_well()


def test_a_log_is_filtered_in_the_page(pages: Pages, shop_board: Shop) -> None:
    """K4: by text, level and attempt; the filter is in the address, and lines that come are filtered, too."""
    job = shop_board.begin("job-1")
    job.logs("apple", "pear")
    pages.open("/job?id=job-1")
    pages.one("#text").send_keys("pea")
    wait_until(lambda: len([line for line in pages.all(".line") if line.is_displayed()]) == 1, "one line")
    assert "text=pea" in pages.browser.current_url
    job.logs("apple pie", "peach")
    pages.wait_for("#log", "peach")
    assert [line.is_displayed() for line in pages.all(".line")] == [False, True, False, True]
    pages.browser.refresh()
    wait_until(lambda: len(pages.all(".line")) == 2, "the same from the server")
    pages.is_well()


def test_ages_count_on_and_a_log_wraps_or_does_not(pages: Pages, shop_board: Shop) -> None:
    """K4: time goes on without a word from the server; wide lines are the reader's choice."""
    shop_board.begin("job-1").logs("word " * 200)
    pages.open("/job?id=job-1")
    age = "return document.querySelector('#head [data-ago]').textContent"
    before = pages.run(age)
    wait_until(lambda: pages.run(age) != before, "a second to pass")
    wide = "const l = document.getElementById('log'); return l.scrollWidth > l.clientWidth"
    assert not pages.run(wide)
    pages.one("#wrap").click()
    assert pages.run(wide)
    assert pages.one("#wrap").get_attribute("aria-pressed") == "false"
    pages.is_well()


def test_what_has_left_the_page_is_found_all_the_same(pages: Pages, shop_board: Shop) -> None:
    """K4: a page keeps the newest lines of a long log, and says so; from then on the filter is the server's."""
    job = shop_board.begin("job-1")
    job.logs("the first")
    pages.open("/job?id=job-1")
    pages.wait_for("#log", "the first")
    assert pages.text("#earlier") == ""
    last = "return document.querySelector('.line:last-child .tx').textContent"
    for at in range(0, 5_000, 1_000):  # in one go they would be too many for a connection
        job.logs(*(f"line {n}" for n in range(at, at + 1_000)))
        wait_until(lambda at=at: pages.run(last) == f"line {at + 999}", "the last line")  # type: ignore[misc]
    pages.wait_for("#earlier", "Earlier lines are not shown here")
    assert pages.run("return document.getElementById('log').childElementCount") == 5_000
    pages.one("#text").send_keys("the first\n")
    pages.wait_for("#log", "the first")
    pages.is_well()


def test_a_lost_connection_is_taken_up_again(browser: Any, shop_board: Shop, pages: Pages) -> None:
    """K4: without a gap, by the position of the last line."""
    job = shop_board.begin("job-1")
    job.logs("one")
    pages.open("/job?id=job-1")
    for outbox in list(shop_board.board.audience._viewers):
        outbox.close()
    job.logs("two")
    pages.wait_for("#log", "two")
    lines = [line.text.split("\n")[-1] for line in pages.all(".line .tx")]
    assert lines == ["one", "two"]
    pages.is_well()


# --- hostile text ----------------------------------------------------------------------------------------------------------


def test_text_of_jobs_is_shown_and_not_obeyed(pages: Pages, shop_board: Shop) -> None:
    """K4, Fault 23: lines, reasons, task names, ids, workers, progress, results; markup and control characters alike."""
    job_id = f"id {HOSTILE[:-1]} /../?&#"
    job = shop_board.begin(job_id, name=f"task {HOSTILE}", worker=f"w {HOSTILE}")
    job.logs(f"line {HOSTILE}")
    job.progress({"percent": 10, "message": f"message {HOSTILE}"})
    pages.open()
    pages.wait_for("#rows", "message <img src=x")
    pages.one("tr.row a.open").click()
    pages.wait_for("#log", "line <img src=x")
    for part in ("#head", "#log", "#attempts"):
        assert "<script>" in pages.text(part) or part == "#attempts"
        assert "\u202e" not in pages.text(part)
        assert "\x1b" not in pages.text(part)
    assert r"\x1b[31m\u202egnp.exe\u2066\x00" in pages.text("#log")
    pages.wait_for("#connection", "live")
    job.logs(f"live {HOSTILE}")
    pages.wait_for("#log", "live <img")
    assert r"\u202e" in pages.run("return [...document.querySelectorAll('.tx')].at(-1).textContent")
    pages.one("#cancel summary").click()
    pages.one("#reason").send_keys("because <b>&")
    pages.one("#cancel form button").click()
    pages.wait_for("#log", "cancel requested by the board: because <b>&")
    shop_board.end(job, "REVOKED", f"reason {HOSTILE}", "JobCancelledError")
    pages.wait_for("#head", "reason <img")
    pages.is_well()
    pages.open("/?q=%3Cscript%3Ealert(1)%3C/script%3E")
    pages.is_well()


# --- keyboard, and pages for everybody ---------------------------------------------------------------------------------------


def test_the_list_and_a_job_are_used_by_keyboard(pages: Pages, shop_board: Shop) -> None:
    """K4: / j k Enter f c ?; keys that are typed into a field are text."""
    from selenium.webdriver.common.keys import Keys

    for number in range(3):
        shop_board.begin(f"job-{number}")
    pages.open()
    pages.press("j")
    first = pages.focused()
    pages.press("j", "j", "j")
    assert pages.focused() != first
    pages.press("k", "k")
    assert pages.focused() == first
    pages.press("/")
    assert pages.focused() == "q"
    pages.press("jk?")
    assert pages.one("#q").get_attribute("value") == "jk?"
    pages.press(Keys.ESCAPE)
    assert pages.focused() != "q"
    pages.press("?")
    assert pages.one("#keys").is_displayed()
    pages.press("?")
    assert not pages.one("#keys").is_displayed()
    pages.press("j", Keys.ENTER)
    wait_until(lambda: "/job?id=" in pages.browser.current_url, "the job's page")
    pages.press("f")
    assert pages.one("#follow").get_attribute("aria-pressed") == "false"
    pages.press("c")
    assert pages.focused() == "reason"
    pages.press("by keyboard", Keys.ENTER)
    pages.wait_for("#log", "by keyboard")
    pages.is_well()


def test_a_focused_row_keeps_the_focus_while_it_is_drawn_anew(pages: Pages, shop_board: Shop) -> None:
    """K4: who walks the list by keyboard is not thrown out of it by each report."""
    job = shop_board.begin("job-1")
    pages.open()
    pages.press("j")
    job.progress({"percent": 5, "message": "on"})
    pages.wait_for("#rows", "5%")
    assert pages.focused() == "/job?id=job-1"


def test_all_of_it_works_without_scripts(pages: Pages, shop_board: Shop) -> None:
    """K4: links, and plain forms; a cancel, too."""
    shop_board.begin("job-1").logs("one", "two")
    shop_board.begin("job-2", name="mail.send")
    pages.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    pages.browser.get(pages.url)
    assert "ago" not in pages.one("#rows").text
    pages.one("#q").send_keys("import")
    pages.one(".search button").click()
    wait_until(lambda: len(pages.all("tr.row")) == 1, "the search")
    pages.one("tr.row a.open").click()
    wait_until(lambda: pages.all("#log-filter"), "the job's page")
    pages.one("#text").send_keys("two")
    pages.one("#log-filter .noscript").click()
    wait_until(lambda: len(pages.all(".line")) == 1, "the filter")
    pages.one("#cancel summary").click()
    pages.one("#reason").send_keys("no scripts")
    pages.one("#cancel form button").click()
    wait_until(lambda: "The job was asked to stop." in pages.browser.page_source, "the cancel")
    pages.browser.get(pages.url + "/cancel?q=mail")
    pages.one("#count").send_keys("1")
    pages.one("form.stack button").click()
    wait_until(lambda: "asked to stop: they run" in pages.browser.page_source, "the cancel of many")


def test_jobs_are_cancelled_from_an_address_of_which_browsers_say_little(browser: Any, shop_board: Shop) -> None:
    """K4: plain HTTP, and not loopback: no `Sec-Fetch-Site`, and no `Origin` for a form that is sent without a script."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # nothing is sent: only the way is looked up
        host = probe.getsockname()[0]
    if host.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    shop_board.begin("job-1")
    shop_board.begin("job-2")
    with running(Board(shop_board.app, SecretAuth(SECRET), (host,), read_only=False), host) as url:
        story = _let_in(browser, url)
        pages = next(story)
        pages.open("/job?id=job-1")
        pages.one("#cancel summary").click()
        pages.one("#cancel form button").click()
        pages.wait_for("main", "The job was asked to stop.")
        pages.open("/cancel?q=id:job-2")
        pages.one("#count").send_keys("1")
        pages.one("form.stack button").click()
        pages.wait_for("main", "asked to stop: they run")
        pages.is_well()
        list(story)


def test_a_link_from_another_site_leads_in(pages: Pages, shop_board: Shop) -> None:
    """K4: to who was let in, though browsers keep the cookie back at first; and the address, from wherever it is opened."""
    shop_board.begin("job-1")

    async def chat(scope: Any, receive: Any, send: Any) -> None:
        page = f"<a href='{shop_board.url}/job?id=job-1'>job</a> <a href='{shop_board.url}/?token={SECRET}'>board</a>"
        await HTMLResponse(page)(scope, receive, send)

    with served(chat) as url:
        elsewhere = url.replace("127.0.0.1", "localhost")
        pages.browser.get(elsewhere)
        pages.browser.find_element("link text", "job").click()
        pages.wait_for("#head", "import.csv")
        pages.wait_for("#connection", "live")
        pages.browser.delete_all_cookies()
        pages.browser.get(shop_board.url)
        pages.wait_for("main", "Who are you?")
        pages.browser.get(elsewhere)
        pages.browser.find_element("link text", "board").click()
        pages.wait_for("#rows", "import.csv")
        assert "token" not in pages.browser.current_url
        pages.is_well()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_the_screen(pages: Pages, shop_board: Shop, width: int, scheme: str) -> None:
    """K4: rows become cards below 640 pixels; long words break."""
    job = shop_board.begin("job-" + "x" * 200, name="task." + "y" * 200, worker="w@" + "z" * 200)
    job.logs("word" * 500)
    job.progress({"percent": 30, "message": "m" * 300})
    job.end_in_retry("r" * 400, 60)
    emulate(pages.browser, width, 900, scheme)
    for path in ("/", f"/job?id={job.id}", "/cancel", "/?q=nothing", "/job?id=nobody"):
        pages.open(path)
        assert pages.run("return document.documentElement.scrollWidth <= innerWidth"), path
        assert pages.all("h1"), "each page has a heading"
    pages.open()
    assert pages.run("return getComputedStyle(document.querySelector('tr.row')).display") == (
        "flex" if width < 640 else "table-row"
    )
    for path in ("/", f"/job?id={job.id}", "/cancel"):
        pages.open(path)
        assert pages.run(_UNNAMED) == [], "each control has a name"


# --- a real worker -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["prefork"], indirect=True, scope="session")
def test_a_real_job_is_seen_and_cancelled(browser: Any, shared_worker: Any, jobs_app: Celery) -> None:
    """K4: from the handler to the page, and from the page to the handler."""
    with running(Board(jobs_app, SecretAuth(SECRET), (), read_only=False)) as url:
        story = _let_in(browser, url)
        pages = next(story)
        handle = reporting_jobs.progress_until_open.delay()
        wait_until(lambda: handle.get_progress() is not None, "its progress")
        pages.open(f"/?q=id:{handle.id}")
        assert "running" in pages.text("#rows")
        pages.one("tr.row a.open").click()
        pages.wait_for("#connection", "live")
        began = time.monotonic()
        pages.one("#cancel summary").click()
        pages.one("#reason").send_keys("seen enough")
        pages.one("#cancel form button").click()
        pages.wait_for("#head", "cancelled")
        assert time.monotonic() - began < 20
        assert "cancel requested by the board: seen enough" in pages.text("#log")
        assert handle.state == "REVOKED"
        pages.is_well()
        list(story)
