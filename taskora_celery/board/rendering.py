"""From values to pages: the templates, and what they may call. All text is escaped, and shows its control characters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import escape

from taskora_celery._version import __version__
from taskora_celery.board.pages import Page
from taskora_celery.board.rows import short_id
from taskora_celery.texts import cut_line, duration_text, one_line, visible
from taskora_celery.times import age, clock, moment
from taskora_celery.views import STATES

__all__ = ["Renderer", "shown_lines"]


def shown_lines(text: str) -> str:
    """Return a text of several lines, whose control characters other than tabs are written out."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in text.replace("\r\n", "\n").split("\n"))


def _finalized(value: Any) -> Any:
    """Return what a template puts out for a value: a text without markup shows its control characters."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


class Renderer:
    """Renders templates for one board. Safe to use from several threads."""

    def __init__(self, app_name: str, pages: Mapping[str, Page], *, read_only: bool) -> None:
        self.read_only = read_only
        self._environment = Environment(
            loader=PackageLoader("taskora_celery.board"), autoescape=True, undefined=StrictUndefined, finalize=_finalized,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._environment.filters.update(
            age=age, clock=clock, moment=moment, line=one_line, cut=cut_line, duration=duration_text, short=short_id,
            lines=lambda text: escape(shown_lines(text)), json=lambda value: escape(json.dumps(value)), raw=escape,
        )  # fmt: skip
        self._environment.globals.update(
            app_name=app_name, version=__version__, read_only=read_only, states=tuple(dict.fromkeys(STATES.values())),
            links=(("", "Jobs"), *((page.name, page.title) for page in pages.values())),
        )  # fmt: skip

    def render(self, template: str, root: str, **context: Any) -> str:
        """Return a rendered template; ``root`` is the path under which the board is mounted, without a slash at its end."""

        def href(path: str = "", **query: Any) -> str:
            return address(root, path, **query)

        return self._environment.get_template(template).render(href=href, root=root, **context)


def address(root: str, path: str = "", **query: Any) -> str:
    """Return the address of a page of the board; what is None or empty is left out of the query."""
    kept = {name: value for name, value in query.items() if value not in {None, ""}}
    # Halves of surrogate pairs have no UTF-8 form; an id that has one cannot be asked for, but a list may still hold it.
    found = urlencode(kept, quote_via=quote, errors="replace")
    return f"{root}/{path}" + (f"?{found}" if found else "")
