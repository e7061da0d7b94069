"""What must not be seen is taken out before anything is written or emitted (rule F7)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["DEFAULT_KEYS", "REDACTED", "TRACEBACK", "Redactor"]

REDACTED = "[redacted]"
#: The key of a log entry's traceback, which ends in the text of an exception: free text, as a reason is.
TRACEBACK = "traceback"

#: A key is hidden when these words stand in it, in this order, whatever parts them (``X-Api-Key``, ``apiKey``, ``api_key``).
DEFAULT_KEYS = (
    "password", "passwd", "pwd", "passphrase", "secret", "token", "api_key", "apikey", "access_key", "private_key",
    "authorization", "credential", "credentials", "cookie", "set_cookie", "session_id", "sessionid", "csrf", "csrftoken",
)  # fmt: skip

#: Keys come from code, so there are few; a job that makes them up must not grow the cache without end.
_CACHE_LIMIT = 4096

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATORS = re.compile(r"[^a-z0-9]+")
#: So many characters of a free text are looked at and kept: reasons and representations are for people.
TEXT_CHARS = 20_000
#: Names around a secret are shorter. Without a bound, each hyphen of a long text would be a place to begin from and to run to the
#: text's end: minutes, with the interpreter's lock, for an error message of some ten thousand characters.
_NAME_CHARS = 64
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]{0,31}://[^\s/:@]*:)[^\s@/]+(?=@)", re.IGNORECASE)
_BEARER = re.compile(r"\b(?P<head>bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)


def _words(key: str) -> str:
    return "_" + _SEPARATORS.sub("_", _CAMEL.sub("_", key).lower()).strip("_") + "_"


class Redactor:
    """Hides values by the name of their key, and secrets inside free text.

    ``keys`` are added to :data:`DEFAULT_KEYS`. ``hook(key, value)`` is the user's own rule: it is called for every value
    that has a key, and for texts with the key ``"reason"``, ``"message"``, ``"arguments"``, ``"traceback"`` or ``"repr"``; what
    it returns is used. A hook that raises hides the value. Safe to use from several threads: the cache is only a cache.
    """

    __slots__ = ("_cache", "_needles", "_text", "hook")

    def __init__(self, keys: Iterable[str] = (), hook: Callable[[str, Any], Any] | None = None) -> None:
        self._needles = tuple(dict.fromkeys(_words(key) for key in (*DEFAULT_KEYS, *keys)))
        self._cache: dict[str, bool] = {}
        self.hook = hook
        names = "|".join(re.escape(n.strip("_")).replace("_", "[_ -]?") for n in self._needles)
        self._text = re.compile(
            rf"(?P<head>(?<![A-Za-z0-9])[\w-]{{0,{_NAME_CHARS}}}?(?:{names})(?![A-Za-z0-9])[\w-]{{0,{_NAME_CHARS}}}"
            r"[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic)\s+)?)"
            # What is hidden already stays as it is: a reason passes through here more than once on its way.
            rf"(?!(?:(?:bearer|basic)\s+)?{re.escape(REDACTED)})"
            r"[^\s\"',;&)}\]]+",
            re.IGNORECASE,
        )

    def hides(self, key: str) -> bool:
        """Say whether a value under this key is hidden."""
        known = self._cache.get(key)
        if known is None:
            words = _words(key)
            known = any(needle in words for needle in self._needles)
            if len(self._cache) < _CACHE_LIMIT:
                self._cache[key] = known
        return known

    def value(self, key: str, value: Any) -> Any:
        """Return what may be seen of a value under this key."""
        if self.hides(key):
            return REDACTED
        if key == TRACEBACK and type(value) is str:
            return self.text(value, key)
        return self._hooked(key, value) if self.hook is not None else value

    def text(self, text: str, key: str = "message") -> str:
        """Return free text (a reason, the repr of arguments) without the secrets that can be told by their name.

        Only its first ``TEXT_CHARS`` characters are looked at, and returned. What has no UTF-8 form is escaped.
        """
        text = text[:TEXT_CHARS]
        if "://" in text:
            text = _URL_PASSWORD.sub(rf"\g<head>{REDACTED}", text)
        if "=" in text or ":" in text:
            text = self._text.sub(rf"\g<head>{REDACTED}", text)
        text = _BEARER.sub(rf"\g<head> {REDACTED}", text)
        if self.hook is not None:
            text = str(self._hooked(key, text))
        # Lone surrogates (a file name that is not UTF-8) have no UTF-8 form.
        return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")

    def _hooked(self, key: str, value: Any) -> Any:
        assert self.hook is not None
        try:
            return self.hook(key, value)
        except Exception:  # noqa: BLE001 - the user's rule failed: hide, do not leak, and do not hurt the job
            return REDACTED
