"""Let the test process's own copy of an app talk to the Redis of the test at hand."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from kombu import pools

from taskora_celery.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery


def _forget_connections(app: Celery) -> None:
    """Drop what Celery cached of its broker and its backend; `Celery._after_fork` does the same, less the backend."""
    pools.reset()
    backend = app._backend
    if backend is not None and hasattr(backend, "result_consumer"):
        with contextlib.suppress(AttributeError):  # rpc's cannot be stopped before it was started
            backend.result_consumer.stop()
        # Before 5.7 the end of each result that is still somewhere would look for the server again, for a minute.
        backend.result_consumer._pubsub = None
        if hasattr(backend, "client"):
            backend.client.connection_pool.disconnect()
    app._pool = None
    app.amqp._producer_pool = None
    app._backend_cache = None
    app._local = threading.local()
    runtime = Runtime._by_app.pop(app, None)  # its settings and its store are those of the configuration before
    if runtime is not None:
        runtime.close()


@contextlib.contextmanager
def pointed_at(app: Celery, broker_url: str, result_backend: str | None = None, **settings: Any) -> Iterator[Celery]:
    """Point an app at a broker and a result backend (default: the same Redis), and back again afterwards."""
    changes = {"broker_url": broker_url, "result_backend": result_backend or broker_url, **settings}
    missing = object()
    before = {name: app.conf.get(name, missing) for name in changes}
    _forget_connections(app)
    app.conf.update(changes)
    try:
        yield app
    finally:
        _forget_connections(app)
        for name, value in before.items():
            if value is missing:
                app.conf.pop(name, None)
            else:
                app.conf[name] = value
