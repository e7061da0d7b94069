"""The board's pages for everybody: as axe sees them, with jobs in all states, in both themes, on two screens; and by keyboard."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from taskora_celery.records import Outcome
from taskora_celery.rounds import Inspector
from tests.acceptance.test_board import Pages, pages  # noqa: F401 - a fixture
from tests.support import scripted_jobs
from tests.support.chromium import emulate
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.boards import Shop

pytest.importorskip("selenium")
pytestmark = pytest.mark.board

#: A package that carries a current axe-core; what it is made for, Playwright, is not used.
CARRIER = "axe_playwright_python"
#: What axe calls that which keeps somebody from using a page.
GRAVE = frozenset({"serious", "critical"})
#: Rules of WCAG 2.2, A and AA (contrast among them), and what is good practice.
_RUN = """
const done = arguments[arguments.length - 1];
const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
axe.run(document, {runOnly: tags}).then(done, error => done({error: String(error)}));
"""
#: What can be reached by Tab, in the order of the page, and what has the focus.
_REACHABLE = """
window.reachable = [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')]
    .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled && e.type !== 'hidden');
return reachable.map(e => e.outerHTML.slice(0, 120));
"""
_FOCUSED = """
const style = getComputedStyle(document.activeElement);
return [reachable.indexOf(document.activeElement), style.outlineStyle !== 'none' && style.outlineWidth !== '0px'];
"""


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core."""
    found = importlib.util.find_spec(CARRIER)  # it is not imported
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"no axe-core: pip install {CARRIER.replace('_', '-')}")
    return (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


def complaints(pages: Pages, axe: str) -> list[str]:  # noqa: F811
    """What axe finds grave in the page, each with its element."""
    pages.run(axe)
    result: dict[str, Any] = pages.browser.execute_async_script(_RUN)
    assert "error" not in result, result
    assert len(result["passes"]) > 10, "it has looked"
    return [
        f"{found['impact']} {found['id']}: {node['html'][:200]} ({json.dumps(node['any'][:1])[:400]})"
        for found in result["violations"]
        for node in found["nodes"]
        if found["impact"] in GRAVE
    ]


def fill(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Jobs in all states, a worker that is gone, a queue that nobody takes from; return each page's address."""
    monkeypatch.setattr(scripted_jobs, "SHOWN_MS", int(time.time() * 1000))
    scripted_jobs.write_jobs(shop.store)
    for state in (Outcome.REJECTED, Outcome.IGNORED):
        shop.end(shop.begin(state.lower(), "mail.send"), state, "not for us")
    shop.app.send_task("mail.send", queue="mail")
    shop.client().get("/queues")
    wait_until(lambda: Inspector.of(shop.app).seen(5.0), "the first round")
    jobs = {name: getattr(scripted_jobs, name) for name in ("RENDER", "MAIL", "IMPORT", "FAILED", "DONE", "CANCELLED")}
    return {
        "Jobs": "/",
        "Jobs, none found": "/?q=nothing",
        "Jobs, a search that is none": "/?q=" + quote("state:nonsense"),
        "Job, not known": "/job?id=nobody",
        **{f"Job {name}": f"/job?id={job_id}" for name, job_id in jobs.items()},
        "Cancel": "/cancel",
        "Failures": "/failures",
        "Failures, none": "/failures?since=1s",
        "Workers": "/workers",
        "Queues": "/queues",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_grave(
    pages: Pages,  # noqa: F811
    shop_board: Shop,
    axe: str,
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    scheme: str,
) -> None:
    """K4: names, roles, order and contrast (AA) of all pages."""
    addresses = fill(shop_board, monkeypatch)
    emulate(pages.browser, width, 900, scheme)
    found: dict[str, list[str]] = {}
    for name, address in addresses.items():
        pages.open(address)
        found[name] = complaints(pages, axe)
    pages.open("/")
    pages.press("j")
    found["Jobs, a row that has the focus"] = complaints(pages, axe)
    pages.press("?")
    found["the keys"] = complaints(pages, axe)
    assert {name: said for name, said in found.items() if said} == {}


def test_axe_finds_what_is_wrong(pages: Pages, axe: str) -> None:  # noqa: F811
    """The check above would see a field without a name, and text that is too faint."""
    pages.open("/")
    pages.run("document.getElementById('main').innerHTML = '<input><p id=faint>faint</p>'")
    pages.run("const e = document.getElementById('faint'); e.style.color = '#bbb'; e.style.background = '#fff'")
    assert {said.split(":")[0] for said in complaints(pages, axe)} == {"critical label", "serious color-contrast"}


@pytest.mark.parametrize("page", ["Jobs", "Job RENDER", "Failures", "Workers", "Queues"])
def test_tab_goes_through_a_page_in_its_order_and_is_seen(
    pages: Pages,  # noqa: F811
    shop_board: Shop,
    monkeypatch: pytest.MonkeyPatch,
    page: str,
) -> None:
    """K4: everything that can be pressed is reached, from the way past the navigation on, and shows that it has the focus."""
    from selenium.webdriver.common.keys import Keys

    pages.open(fill(shop_board, monkeypatch)[page])
    reachable = pages.run(_REACHABLE)
    assert 'class="skip"' in reachable[0]
    seen = []
    for _ in reachable:
        pages.press(Keys.TAB)
        seen.append(pages.run(_FOCUSED))
    assert seen == [[at, True] for at in range(len(reachable))], reachable
    pages.is_well()


def test_the_pages_are_gone_through_by_keyboard(pages: Pages, shop_board: Shop, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """K4: the navigation's links, each page telling which it is, and the way past them."""
    from selenium.webdriver.common.keys import Keys

    fill(shop_board, monkeypatch)
    pages.open("/")

    def go(tabs: int, name: str, path: str) -> None:
        pages.press(*[Keys.TAB] * tabs, Keys.ENTER)
        wait_until(lambda: pages.run("return location.pathname") == path, f"the page {name}")
        wait_until(lambda: pages.text("nav [aria-current=page]") == name, f"{name} as the page that is open")

    # The way past the navigation and the app's name come before the pages.
    go(4, "Failures", "/failures")
    go(5, "Workers", "/workers")
    go(6, "Queues", "/queues")
    go(3, "Jobs", "/")
    pages.press(Keys.TAB, Keys.ENTER, Keys.TAB)
    assert pages.focused() == "q", "what comes first behind the navigation"
