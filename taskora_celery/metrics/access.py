"""Who may ask a server of ours, the exporter or the board: decisions about addresses, ``Host`` and ``Authorization``."""

from __future__ import annotations

import base64
import contextlib
import hmac
import ipaddress
import re
from collections.abc import Collection

__all__ = ["Access", "host_names", "is_known_host", "is_loopback"]

#: A name or an address, and perhaps a port.
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?", re.ASCII)


def is_loopback(host: str) -> bool:
    """Say whether an address is this machine's own alone; a name other than ``localhost`` is not known to be."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_known_host(host: str | None, names: Collection[str]) -> bool:
    """Say whether a ``Host`` header is one of this machine's own names, or one of ``names``; a port is not looked at.

    A page of somebody else's, under a name that was made to lead here, is asked under that name.
    """
    found = _HOST.fullmatch(host or "")
    if found is None:
        return False
    name = found["name"].strip("[]").rstrip(".").lower()
    return is_loopback(name) or name in {known.lower() for known in names}


def host_names(names: Collection[str]) -> tuple[str, ...]:
    """Return the names under which a board may be asked for, as :func:`is_known_host` takes them.

    :raises TypeError: it is one text, and not several.
    :raises ValueError: one is no name: it has a scheme, a path, a port or a wildcard.
    """
    if isinstance(names, str):
        raise TypeError(f"allow_hosts={names!r} is one text: give a list of names, such as [{names!r}]")
    for name in names:
        if not _is_name(name):
            raise ValueError(f"{name!r} is no name of a host: give it alone, without scheme, port, path and wildcard")
    return tuple(name.strip("[]").rstrip(".") for name in names)


def _is_name(name: str) -> bool:
    found = _HOST.fullmatch(name)
    if found is not None:
        return found["name"] == name
    with contextlib.suppress(ValueError):  # an address of IPv6 without its brackets
        ipaddress.ip_address(name)
        return True
    return False


class Access:
    """The rules of one server.

    ``auth`` is ``user:password`` (HTTP Basic) or a token alone (Bearer), None for nobody to ask. Where nobody is asked, only
    names of this machine are answered: a page in somebody's browser, under a name that was made to lead here, gets nothing.
    """

    def __init__(self, auth: str | None, hosts: Collection[str] = ()) -> None:
        self._expected = None if auth is None else _header(auth).encode()
        self._hosts = hosts
        #: What a client is told to send, as in ``WWW-Authenticate``.
        self.scheme = 'Basic realm="taskora"' if auth and ":" in auth else "Bearer"

    def knows(self, host: str | None) -> bool:
        """Say whether a request with this ``Host`` header is meant for this server."""
        anywhere = self._expected is not None and not self._hosts
        return anywhere or is_known_host(host, self._hosts)

    def admits(self, authorization: str | None) -> bool:
        """Say whether a request with this ``Authorization`` header comes from who knows the secret."""
        if self._expected is None:
            return True
        return hmac.compare_digest(self._expected, (authorization or "").encode("utf-8", "replace"))


def _header(auth: str) -> str:
    if ":" in auth:
        return "Basic " + base64.b64encode(auth.encode()).decode()
    return f"Bearer {auth}"
