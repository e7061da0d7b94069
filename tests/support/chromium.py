"""A headless Chromium, driven by Selenium."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_BROWSER = "no chromedriver: install one (Debian: `apt-get install chromium chromium-driver`)"
#: As root, without a screen, and without a word to anybody but the page.
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,900",
)  # fmt: skip
#: Pages are asked for within so many seconds.
_LOAD_TIMEOUT = 30


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Open a browser with a profile of its own; chromedriver has to be there."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        binary = shutil.which("chromium")
        if binary is not None:
            options.binary_location = binary
        opened = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        opened.set_page_load_timeout(_LOAD_TIMEOUT)
        try:
            yield opened
        finally:
            opened.quit()


def emulate(browser: Any, width: int, height: int, scheme: str) -> None:
    """Give a page so many pixels, as on a telephone where they are few, and a theme, ``light`` or ``dark``."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
