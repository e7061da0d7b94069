"""Who may see the metrics: pure decisions about addresses, the ``Host`` header and ``Authorization``."""

from __future__ import annotations

import base64
import hmac
import ipaddress
from collections.abc import Collection

__all__ = ["Access", "is_loopback"]


def is_loopback(host: str) -> bool:
    """Say whether an address is this machine's own alone; a name other than ``localhost`` is not known to be."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Access:
    """The rules of one server.

    ``auth`` is ``user:password`` (HTTP Basic) or a token alone (Bearer), None for nobody to ask. Where nobody is asked, only
    names of this machine are answered: a page in somebody's browser, under a name that was made to lead here, gets nothing.
    """

    def __init__(self, auth: str | None, hosts: Collection[str] = ()) -> None:
        self._expected = None if auth is None else _header(auth).encode()
        self._hosts = frozenset(host.lower() for host in hosts)
        #: What a client is told to send, as in ``WWW-Authenticate``.
        self.scheme = 'Basic realm="taskora"' if auth and ":" in auth else "Bearer"

    def knows(self, host: str | None) -> bool:
        """Say whether a request with this ``Host`` header is meant for this server."""
        if self._expected is not None and not self._hosts:
            return True
        name = _name_of(host or "")
        return is_loopback(name) or name.lower() in self._hosts

    def admits(self, authorization: str | None) -> bool:
        """Say whether a request with this ``Authorization`` header may see the metrics."""
        if self._expected is None:
            return True
        return hmac.compare_digest(self._expected, (authorization or "").encode("utf-8", "replace"))


def _header(auth: str) -> str:
    if ":" in auth:
        return "Basic " + base64.b64encode(auth.encode()).decode()
    return f"Bearer {auth}"


def _name_of(host: str) -> str:
    """Return the name in a ``Host`` header, less its port."""
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
