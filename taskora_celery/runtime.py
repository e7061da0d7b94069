"""What one app has in one process: its settings, its store, its reporter. The task layer's only shared state."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, ref

from celery.local import maybe_evaluate
from kombu.utils.compat import detect_environment

from taskora_celery.capture import install_capture
from taskora_celery.clock import SYSTEM_CLOCK, Clock
from taskora_celery.context import Context
from taskora_celery.errors import SettingsError, StoreNotConfiguredError, StoreUnavailableError
from taskora_celery.events import EventSender
from taskora_celery.lease.protocol import Lease
from taskora_celery.lease.resolve import lease_for
from taskora_celery.loop import JobLoop
from taskora_celery.outcomes import log_once
from taskora_celery.redaction import Redactor
from taskora_celery.reporter.listener import Listener
from taskora_celery.reporter.report import JobReport
from taskora_celery.reporter.reporter import Reporter
from taskora_celery.settings import REDIS_SCHEMES, Settings
from taskora_celery.stopping import KEPT_FOR, Stopper
from taskora_celery.store.aio import AsyncRedisReader
from taskora_celery.store.announcements import unpacked
from taskora_celery.store.connect import Endpoint, query_options
from taskora_celery.store.loops import LoopConnections
from taskora_celery.store.protocol import CancelRequest, JobStore, Shutdown
from taskora_celery.store.redis import RedisStore
from taskora_celery.store.values import RedisValues
from taskora_celery.tracing import tracing_api

__all__ = [
    "Runtime", "broker_endpoint_of", "endpoint_of", "is_redis", "is_redis_backend", "lookup_setting", "redactor_of",
    "result_endpoint", "settings_of",
]  # fmt: skip

logger = logging.getLogger("taskora_celery")

#: Kept where results never expire: a record without a TTL would stay for ever.
_DEFAULT_TTL = 86_400.0


#: Where Celery's own backends on Redis are; what is derived from them may keep its results elsewhere.
_REDIS_BACKENDS = "celery.backends.redis"
#: Settings of Celery's that its backend heeds and our client does not.
_BESIDE_THE_URL = (
    "redis_backend_credential_provider", "redis_db", "redis_host", "redis_password", "redis_port", "redis_username",
)  # fmt: skip


class Runtime:
    """One app's parts in this process. Made at the first use, made anew after a fork; threads may share it.

    :meth:`of` is the way to it: one per app and process, forgotten with the app.
    """

    _by_app: ClassVar[WeakKeyDictionary[Any, Runtime]] = WeakKeyDictionary()
    _lock = threading.Lock()

    def __init__(self, app: Any, store: JobStore | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.pid = os.getpid()
        self.settings = settings_of(app)
        self.redactor = redactor_of(self.settings)
        endpoint = endpoint_of(app, self.settings)
        self.store = store or (None if endpoint is None else _open_store(app, self.settings, endpoint))
        self.clock = clock
        self.reporter = self._new_reporter(app)
        self.stopper = self._new_stopper()
        #: What monitors hear of this process's jobs.
        self.events = EventSender(app, self.settings, self.redactor)
        #: Where the coroutines of this process's jobs run.
        self.loop = JobLoop(detect_environment())
        self.listener = self._new_listener()
        self._hearers: list[Callable[[Any], None]] = []
        #: OpenTelemetry's API where this process uses it; known with the first job.
        self.tracing: Any = None
        self._ready = False
        #: Held by the first job, for which others wait. Reentrant: a time limit that lands in it must not leave it locked.
        self._preparing = threading.RLock()
        self.loops = LoopConnections()
        self._values: RedisValues | None = None

    # --- its parts: a subclass may have others, and `use` puts it in force -----------------------------------------------

    def _new_reporter(self, app: Any) -> Reporter:
        return Reporter(
            self.store, self.settings, self.redactor, open_lease=partial(_open_lease, ref(app)), on_stopping=self._on_stopping,
            clock=self.clock,
        )  # fmt: skip

    def _new_stopper(self) -> Stopper:
        return Stopper(detect_environment(), self.reporter.flush, self.clock)

    def _new_listener(self) -> Listener | None:
        return None if self.store is None else Listener(self.store, self._on_announcement, self.reporter.look)

    def new_context(self, *args: Any, **options: Any) -> Context:
        """Return the context of a job that is about to begin; the arguments are those of :class:`Context`."""
        return Context(*args, **options)

    # --- one for each app ----------------------------------------------------------------------------------------------

    @classmethod
    def use(cls, app: Any, runtime: Runtime) -> None:
        """Let this be the app's runtime in this process, from its first use on."""
        with cls._registry_lock():
            cls._by_app[maybe_evaluate(app)] = runtime

    @classmethod
    def of(cls, app: Any) -> Runtime:
        """Return the app's runtime in this process."""
        app = maybe_evaluate(app)
        runtime = cls._by_app.get(app)
        if runtime is None or runtime.pid != os.getpid():
            with cls._registry_lock():
                runtime = cls._by_app.get(app)
                if runtime is None or runtime.pid != os.getpid():
                    # The parent's, if there was one, is dropped unclosed: its thread and connections are the parent's.
                    runtime = cls._by_app[app] = cls(app)
        return runtime

    @classmethod
    def forget(cls, app: Any) -> None:
        """Close the app's runtime and forget it: the next use reads the app's configuration anew."""
        with cls._registry_lock():
            runtime = cls._by_app.pop(maybe_evaluate(app), None)
        if runtime is not None and runtime.pid == os.getpid():
            runtime.close()

    @classmethod
    def _registry_lock(cls) -> threading.Lock:
        return cls._lock

    def prepare(self) -> None:
        """Make this process ready to run jobs: capture of logging, and the last flush at its end. Returns when that is done."""
        if self._ready:
            return
        with self._preparing:
            if not self._ready:
                self._prepare()
                self._ready = True

    def _prepare(self) -> None:
        self.tracing = tracing_api()
        install_capture(self.settings.capture_logging)
        log_once()
        if self.listener is not None:
            self.listener.start()
        from celery.signals import worker_process_shutdown, worker_shutdown

        # A prefork child ends in os._exit: this signal is the last that it hears. What fails here is only logged by Celery.
        worker_process_shutdown.connect(self._on_shutdown, weak=False, dispatch_uid=f"taskora-{id(self)}")
        worker_shutdown.connect(self._on_shutdown, weak=False, dispatch_uid=f"taskora-{id(self)}")

    def readable(self) -> JobStore:
        """Return the store.

        :raises StoreNotConfiguredError: no Redis is known to keep job records in.
        """
        if self.store is None:
            raise StoreNotConfiguredError
        return self.store

    def async_reader(self) -> AsyncRedisReader:
        """Return the reader for the running event loop, which owns its connections.

        :raises StoreNotConfiguredError: no Redis is known to keep job records in.
        """
        store = self.readable()
        if not isinstance(store, RedisStore):
            raise StoreNotConfiguredError("the store of this app cannot be read from an event loop")
        return AsyncRedisReader(self.loops.redis(store.endpoint), store)

    def values(self, endpoint: Endpoint) -> RedisValues:
        """Return the reader of results for threads; an app has one result backend. Nothing is connected yet."""
        values = self._values
        if values is None or values.endpoint != endpoint:
            values = self._values = RedisValues(endpoint)
        return values

    def close(self) -> None:
        """Flush what can be flushed, and give up threads and connections."""
        if self.listener is not None:
            self.listener.stop()
        self.loop.stop()
        self.stopper.stop()
        self.reporter.close()
        self.events.close()
        if self.store is not None:
            self.store.close()
        if self._values is not None:
            self._values.close()

    def hear(self, on_announcement: Callable[[Any], None]) -> None:
        """Hand announcements on, from now on."""
        self._hearers.append(on_announcement)
        if self.listener is not None:
            self.listener.start()

    def _on_announcement(self, announcement: CancelRequest | Shutdown) -> None:
        for on_announcement in self._hearers:
            on_announcement(announcement)
        self.stopper.announced(announcement)

    def may_be_cancelled(self, job_id: str) -> bool:
        """Say whether somebody may have wanted a job to stop in the last ``KEPT_FOR`` seconds, as far as this process has heard.

        No I/O. True where announcements have not been heard for so long without a gap.
        """
        since = None if self.listener is None else self.listener.ready_since
        return since is None or self.clock.time() - since < KEPT_FOR or self.stopper.has_heard(job_id)

    def cancel_request(self, job_id: str) -> CancelRequest | None:
        """Return the request to cancel that is in force for a job; None where there is none, or the store is away."""
        request = unpacked((self.record(job_id) or {}).get("j", b""))
        return request if isinstance(request, CancelRequest) else None

    def record(self, job_id: str) -> dict[str, Any] | None:
        """Return a job's record as the store has it; None where there is none, or the store is away."""
        try:
            found = None if self.store is None else self.store.read(job_id)
        except StoreUnavailableError:
            return None
        return None if found is None else found.fields

    def _on_stopping(self, report: JobReport) -> bool:
        """Somebody wants a job of this process to stop, says the store; its announcement was missed, or is on its way.

        Return false where more may follow: the request is a plain revoke, or could not be read.
        """
        request = self.cancel_request(report.id)
        if request is not None:
            self.stopper.cancel(request)
        return request is not None and not request.gently

    def _on_shutdown(self, **_: object) -> None:
        if self.pid == os.getpid():
            self.close()


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held it in the moment of the fork.
    Runtime._lock = threading.Lock()  # noqa: SLF001 - this module's own


os.register_at_fork(after_in_child=_after_fork_in_child)


def settings_of(app: Any) -> Settings:
    """Return the validated settings of an app; a Django-style ``namespace`` and upper case names are understood.

    :raises SettingsError: an unknown ``taskora_*`` name, or a wrong value.
    """
    app.conf.get("broker_url")  # loads the configuration: until then `app.conf` is a stand-in that does not know its namespace
    conf = app.conf
    prefix = (getattr(conf, "prefix", "") or "").lower()
    names = set()
    for key in conf:
        name = str(key).lower()
        if prefix and name.startswith(prefix):
            name = name[len(prefix) :]
        if name.startswith("taskora_"):
            names.add(name)
    return Settings.from_conf({name: _lookup(conf, name) for name in names})


def lookup_setting(app: Any, name: str, default: Any) -> Any:
    """Return one setting as it stands in the app's configuration, unchecked; ``default`` where it does not."""
    app.conf.get("broker_url")  # loads the configuration, see above
    for key in (f"taskora_{name}", f"TASKORA_{name.upper()}"):
        try:
            return app.conf[key]
        except KeyError:
            continue
    return default


def _lookup(conf: Any, name: str) -> Any:
    for key in (name, name.upper()):
        try:
            return conf[key]
        except KeyError:
            continue
    return None


def endpoint_of(app: Any, settings: Settings) -> Endpoint | None:
    """Return where this app's job records are, None where no Redis is known."""
    conf = app.conf
    if settings.redis_url is not None:
        options = query_options(settings.redis_url)
        url = settings.redis_url
        if "master_name" in options and url.startswith("sentinel"):
            url = url.split("?", 1)[0]
        return Endpoint(url, None, options.get("master_name"))
    if is_redis(conf.result_backend):
        return _endpoint(conf.result_backend, conf.redis_backend_use_ssl, conf.result_backend_transport_options)
    return broker_endpoint_of(app)


def broker_endpoint_of(app: Any) -> Endpoint | None:
    """Return where the broker is that messages are read from, None where it is not Redis."""
    broker = app.conf.broker_read_url or app.conf.broker_url
    return _endpoint(broker, app.conf.broker_use_ssl, app.conf.broker_transport_options) if is_redis(broker) else None


def is_redis_backend(backend: Any) -> bool:
    """Say whether a result backend is one of Celery's own on Redis."""
    return type(backend).__module__ == _REDIS_BACKENDS


def result_endpoint(app: Any, backend: Any) -> Endpoint | None:
    """Return where a result backend is; None where it is no Redis, or is reached by more than its URL and its options say."""
    url = app.conf.result_backend
    if not is_redis_backend(backend) or not is_redis(url) or backend.url not in {url, url.split("+", 1)[-1]}:
        return None
    if any(app.conf.get(name) for name in _BESIDE_THE_URL) or "credential_provider" in url:
        return None
    return _endpoint(url, app.conf.redis_backend_use_ssl, app.conf.result_backend_transport_options)


def _scheme(url: Any) -> str:
    return url.split("://", 1)[0] if isinstance(url, str) and "://" in url else ""


def is_redis(url: Any) -> bool:
    """Say whether a broker or a result backend is Redis, by its URL."""
    return _scheme(url) in REDIS_SCHEMES


def _endpoint(url: str, ssl: Any, options: Any) -> Endpoint:
    options = options or {}
    if url.startswith(("sentinel://", "sentinels://")):
        url = url.rstrip(";")
    elif ";" in url:  # kombu's list of brokers to fail over between: the first is the one in use
        url = url.split(";", 1)[0]
    return Endpoint(
        url,
        dict(ssl) if isinstance(ssl, dict) else ({} if ssl else None),
        options.get("master_name"),
        options.get("sentinel_kwargs"),
        options.get("global_keyprefix") or "",
    )


def _open_store(app: Any, settings: Settings, endpoint: Endpoint) -> JobStore:
    return RedisStore(
        endpoint,
        prefix=settings.key_prefix,
        ttl=settings.record_ttl or _seconds(app.conf.result_expires) or _DEFAULT_TTL,
        log_limit=settings.log_limit,
        index_limit=settings.index_limit,
        timeout=settings.final_flush_timeout,
    )


def _open_lease(app: Any) -> Lease:
    # By weak reference: the registry forgets an app's runtime only when nothing in it holds the app.
    return lease_for(app())


def _seconds(value: Any) -> float:
    return float(value.total_seconds() if hasattr(value, "total_seconds") else value or 0)


def redactor_of(settings: Settings) -> Redactor:
    """Return the redactor of these settings.

    :raises SettingsError: ``taskora_redact`` names nothing that can be imported and called.
    """
    hook: Any = settings.redact
    if isinstance(hook, str):
        from celery.utils.imports import symbol_by_name

        try:
            hook = symbol_by_name(hook)
        except (ImportError, AttributeError, ValueError) as exc:
            raise SettingsError(f"setting taskora_redact={hook!r} cannot be imported: {exc}") from exc
    if hook is not None and not callable(hook):
        raise SettingsError(f"setting taskora_redact={settings.redact!r} is wrong: not a callable (key, value) -> value")
    return Redactor(settings.redact_keys, hook)
