"""kombu's sweep, run by the test: in gevent and eventlet workers it does not run while they are idle (celery#4976)."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery


@contextmanager
def sweeping(app: Celery, visibility_timeout: float) -> Iterator[None]:
    """Meanwhile, put back at once whatever was not renewed for the app's visibility timeout, by kombu's own code.

    The timeout (seconds) is named, so that a test cannot sweep by another than it means.
    """
    stop, failures = threading.Event(), list[BaseException]()

    def sweep() -> None:
        try:
            with app.connection_for_read() as connection:
                channel = connection.default_channel
                assert channel.qos.visibility_timeout == visibility_timeout
                while not stop.wait(0.05):
                    channel.qos.restore_visible(interval=1)
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=sweep, name="sweep")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failures, failures
