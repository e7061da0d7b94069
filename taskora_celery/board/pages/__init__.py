"""What a page of the board is, and the table of those that are files of their own.

A page is a module here with a :class:`Page` called ``PAGE``, and a template for its live part. The server asks for its context
when somebody opens it, renders ``template`` around it, and, while somebody looks, asks again every ``every`` seconds, once for
all who see it with the same filters: what comes out of ``fragment`` then takes the place of the element that holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec

from taskora_celery.listing import JobsReader

__all__ = ["TABLE", "Ask", "FilterError", "Page", "pages", "titled"]

#: The pages besides the list of jobs, in the order in which they are linked; each is the ``PAGE`` of the module of its name.
TABLE = ("failures", "workers", "queues")


class FilterError(ValueError):
    """What somebody wrote into a filter means nothing; the text says what would."""


class Ask(msgspec.Struct, frozen=True):
    """What a page is asked with."""

    app: Any
    #: For this call alone: it is not used from two threads at once.
    reader: JobsReader
    #: The query of the address, the last value of each name; it comes from outside, and may hold anything.
    filters: Mapping[str, str]
    #: Milliseconds since the epoch.
    now_ms: int
    #: What the app is called in ``celery -A``.
    called: str


class Page(msgspec.Struct, frozen=True):
    """One page. ``name`` is its path, and ``title`` what the link to it says."""

    name: str
    title: str
    #: The template of the live part: an HTML fragment, in which the context's names are known.
    fragment: str
    #: Returns the context. It may block (it runs in a thread, one page at a time), and may raise
    #: :class:`~taskora_celery.StoreUnavailableError` (the page says so, and tries again) and :class:`FilterError`. Its ``news``,
    #: a few words, goes before the title of the browser's tab, where there is any.
    context: Callable[[Ask], Mapping[str, Any]]
    #: The template of the whole page; it extends ``base.html``. The default puts the live part under the title.
    template: str = "page.html"
    #: Seconds between two looks.
    every: float = 2.0
    #: Called with the app in a thread of its own, before somebody is shown the whole page: it may wait for a second or two for
    #: what the context will find at hand, and nobody else waits for it.
    ready: Callable[[Any], object] | None = None


def titled(page: Page, context: Mapping[str, Any]) -> str:
    """Return the title of the browser's tab: what there is to know at a glance, and the page's title."""
    return " · ".join(part for part in (context.get("news"), page.title) if part)


def pages() -> dict[str, Page]:
    """Return the pages of the table, by name."""
    homes = {name: f"{__name__}.{name}" for name in TABLE}
    return {name: import_module(home).PAGE for name, home in homes.items() if find_spec(home) is not None}
