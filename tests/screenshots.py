"""Pictures of the board with the demo's jobs: all pages, in both themes, on two screens. ``python -m tests.screenshots``.

All go to ``build/screenshots``; those that the documentation shows go to ``docs/images``, too (``tox run -e screenshots``).
"""

from __future__ import annotations

import base64
import io
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from tests.support.chromium import chromium, emulate
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Colour = tuple[int, int, int]

_ROOT = Path(__file__).resolve().parents[1]
ALL = _ROOT / "build" / "screenshots"
SHOWN = _ROOT / "docs" / "images"
#: The pictures that are shown, and as what.
NAMES = {
    "jobs-light-1280": "board",
    "job-light-1280": "board-job",
    "failures-light-1280": "board-failures",
    "workers-light-1280": "board-workers",
    "queues-light-1280": "board-queues",
    "jobs-dark-1280": "board-dark",
    "job-light-390": "board-small",
}
#: The screens, in pixels: their width, and their height.
SCREENS = {1280: 560, 390: 844}
#: So much of a long page is in its picture.
LONGEST = {1280: 1000, 390: 844}
#: Flat colours make small files.
COLOURS = 96
#: Seconds in which there is what a picture should show.
PATIENCE = 180.0
#: And in which a page that is live has its stream.
CONNECTED_WITHIN = 3.0
_ADDRESS = re.compile(r"^  (http://\S+\?token=\S+)$")
#: What is to be true of a page before it is taken. The long job is looked at in the middle of its work.
_READY = {
    "jobs": """
        const chips = [...document.querySelectorAll('#chips .chip b')];
        const word = e => e.parentElement.textContent.trim().split(' ')[0];
        const found = Object.fromEntries(chips.map(e => [word(e), Number(e.textContent)]));
        const wanted = {running: 2, retrying: 1, failed: 3, cancelled: 1, done: 4};
        return Object.entries(wanted).every(([state, number]) => found[state] >= number)
            && document.getElementById('news').hidden && [...document.querySelectorAll('progress')].some(e => e.value > 10)""",
    "job": """
        const bar = document.querySelector('progress'), log = document.getElementById('log');
        return bar && log && bar.value > 30 && bar.value < 85 && log.children.length > 8""",
    "failures": "return document.querySelectorAll('tr.row').length > 1",
    "workers": "return document.querySelectorAll('.s-done').length > 1",
    "queues": "return document.querySelectorAll('[data-label=depth]').length > 0",
}


@contextmanager
def demo() -> Iterator[str]:
    """Run the demo; yield the address of its board."""
    command = [sys.executable, "-m", "example_project.demo", "--board"]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = next(filter(None, map(_ADDRESS.match, process.stdout)), None)
            if found is None:
                raise SystemExit(f"the demo ended with code {process.wait()}")
            yield found[1]
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def address_of(browser: Any, base: str, page: str) -> str:
    """Return a page's address; that of the job is of a long one that runs."""
    if page == "jobs":
        return f"{base}?limit=9"
    if page != "job":
        return base + page
    browser.get(f"{base}?q=task:index_sources+state:running")
    links = browser.find_elements("css selector", "tr.row a.open")
    return f"{links[-1].get_attribute('href')}&level=info" if links else base


def ready(browser: Any, base: str, page: str) -> bool:
    """Open a page, and say whether it is live and shows what it should."""
    browser.get(address_of(browser, base, page))
    live = "return document.getElementById('connection').dataset.state === 'live'"
    try:
        wait_until(lambda: browser.execute_script(live), "the stream", CONNECTED_WITHIN)
    except AssertionError:  # the job has ended meanwhile, and has none
        return False
    return bool(browser.execute_script(_READY[page]))


def picture(browser: Any, width: int) -> Image.Image:
    """Return a picture of the page, of all of it where that is not much."""
    needed = browser.execute_script("return Math.ceil(document.querySelector('footer').getBoundingClientRect().bottom + scrollY)")
    clip = {"x": 0, "y": 0, "width": width, "height": min(needed, LONGEST[width]), "scale": 1}
    options = {"format": "png", "clip": clip, "captureBeyondViewport": True}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", options)
    return Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")


def few(counts: Mapping[Colour, int]) -> list[Colour]:
    """Return the colours that tell most: each is the farthest from those before it, and one of many pixels counts more."""
    chosen = [max(counts, key=counts.__getitem__)]
    apart = {colour: distance(colour, chosen[0]) for colour in counts}
    while len(chosen) < min(COLOURS, len(counts)):
        chosen.append(max(counts, key=lambda colour: apart[colour] * counts[colour] ** 0.5))
        apart = {colour: min(far, distance(colour, chosen[-1])) for colour, far in apart.items()}
    return chosen


def distance(one: Colour, other: Colour) -> int:
    """Return how far two colours are apart, squared."""
    return sum((left - right) ** 2 for left, right in zip(one, other, strict=True))


def save(image: Image.Image, name: str) -> None:
    """Write a picture in few colours, once or twice."""
    found = image.getcolors(image.width * image.height) or []
    counts = {cast("Colour", colour): count for count, colour in found}
    colours = few(counts)
    nearest = {colour: min(range(len(colours)), key=lambda at: distance(colour, colours[at])) for colour in counts}
    small = Image.new("P", image.size)
    small.putpalette([value for colour in colours for value in colour])
    data = image.tobytes()
    small.putdata([nearest[pixel] for pixel in zip(data[::3], data[1::3], data[2::3], strict=True)])
    small.save(ALL / f"{name}.png", optimize=True)
    if name in NAMES:
        small.save(SHOWN / f"{NAMES[name]}.png", optimize=True)


def take(browser: Any, base: str, page: str) -> None:
    """Take a page's pictures, in both themes and on both screens."""
    for width, height in SCREENS.items():
        for scheme in ("light", "dark"):
            emulate(browser, width, height, scheme)
            wait_until(lambda: ready(browser, base, page), f"what the page {page} should show", PATIENCE, 0.5)
            save(picture(browser, width), f"{page}-{scheme}-{width}")


def main() -> None:
    """Take all pictures."""
    ALL.mkdir(parents=True, exist_ok=True)
    with demo() as address, chromium() as browser:
        browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        browser.get(address)
        base = address.partition("?")[0]
        for page in ("jobs", "job", "failures", "workers", "queues"):
            take(browser, base, page)


if __name__ == "__main__":
    main()
