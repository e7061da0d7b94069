"""Gathering what the doctor looks at: from the app, its servers and its workers. Blocks for a few seconds at most."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
from kombu.utils.url import maybe_sanitize_url

from taskora_celery.about import checked_recovery, checked_settings, package_versions, version_of
from taskora_celery.doctor.facts import Facts, ServerFacts, TaskFacts, WorkerFacts
from taskora_celery.errors import SettingsError, StoreUnavailableError
from taskora_celery.inspecting import Replied, replies
from taskora_celery.runtime import broker_endpoint_of
from taskora_celery.settings import Settings
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.server import server_report, try_records

__all__ = ["gather", "tasks_of", "worker_facts"]

#: How long a server may take to answer, in seconds.
SERVER_TIMEOUT = 5.0
#: The exchange to which workers send events.
_EVENTS = "celeryev"
#: What workers listen to themselves, to hear of one another.
_GOSSIP = "worker."


def gather(app: Any, timeout: float = 1.0) -> Facts:
    """Return all that can be found out; ``timeout`` is how long workers have to answer, in seconds."""
    tasks_error = _import_tasks(app)
    settings, store, settings_error = _settings_of(app)
    broker = broker_endpoint_of(app)
    servers = _servers(app, broker, store, "" if settings is None else settings.key_prefix)
    facts = Facts(
        package_versions(), servers, tasks=tasks_of(app), tasks_error=tasks_error, settings_error=settings_error,
        flower=version_of("flower"),
    )  # fmt: skip
    try:
        recovery = checked_recovery(app, None if settings is None else settings.lease_interval)
    except SettingsError as exc:
        facts = msgspec.structs.replace(facts, settings_error=settings_error or str(exc))
    else:
        if recovery is not None:
            facts = msgspec.structs.replace(
                facts, visibility_timeout=recovery.visibility_timeout, sweep_interval=recovery.sweep_interval,
                sweep_warning=recovery.warning,
            )  # fmt: skip
    if any("broker" in server.role and server.error is not None for server in servers):
        return facts
    try:
        with app.connection_for_read() as connection:
            if _failure_of(connection) is None:
                workers, monitored = _workers(app, connection, timeout), _is_monitored(connection)
                facts = msgspec.structs.replace(facts, workers=workers, monitored=monitored)
    except Exception as exc:  # noqa: BLE001 - the transport's or the driver's: what they say is what is wrong
        return msgspec.structs.replace(facts, workers_error=f"{type(exc).__name__}: {exc}")
    return facts


def worker_facts(replied: Replied) -> WorkerFacts:
    """Return what a worker's reply to ``stats`` says.

    Its clock was read between the question and the reply, so by the difference to the nearer one it is wrong at least.
    """
    about = replied.answer.get("taskora") if isinstance(replied.answer, Mapping) else None
    if not isinstance(about, Mapping):
        return WorkerFacts(replied.worker)
    clock = float(about.get("clock", replied.sent))
    ahead = clock - replied.received if clock > replied.received else min(clock - replied.sent, 0.0)
    return WorkerFacts(
        replied.worker, str(about.get("version")), dict(about.get("packages", {})), ahead, about.get("events"),
        about.get("visibility_timeout"),
    )  # fmt: skip


def tasks_of(app: Any) -> tuple[TaskFacts, ...]:
    """Return the app's own tasks."""
    found = []
    for name, task in sorted(app.tasks.items()):
        if not name.startswith("celery."):
            limits = [limit for limit in (task.time_limit, task.soft_time_limit) if limit is not None]
            found.append(TaskFacts(name, max(map(float, limits), default=None), early=not task.acks_late))
    return tuple(found)


def _import_tasks(app: Any) -> str | None:
    """Import the app's modules as a worker does; return why that failed, None where it did not."""
    try:
        app.loader.import_default_modules()
    except Exception as exc:  # noqa: BLE001 - users' modules: what they raise is what is wrong
        return f"{type(exc).__name__}: {exc}"
    return None


def _settings_of(app: Any) -> tuple[Settings | None, Endpoint | None, str | None]:
    """Return the settings, where records are kept, and what is wrong with the settings."""
    try:
        return *checked_settings(app), None
    except SettingsError as exc:
        return None, None, str(exc)


def _servers(app: Any, broker: Endpoint | None, store: Endpoint | None, prefix: str) -> tuple[ServerFacts, ...]:
    found = []
    if broker is None:
        found.append(_other_broker(app))
    elif broker.same_account(store):
        return (_with_trial(_redis_facts("broker and store", broker), store, prefix),)
    else:
        found.append(_redis_facts("broker", broker))
    if store is not None:
        found.append(_with_trial(_redis_facts("store", store), store, prefix))
    return tuple(found)


def _with_trial(facts: ServerFacts, store: Endpoint | None, prefix: str) -> ServerFacts:
    """Look whether job records can be kept there."""
    if store is None or facts.error is not None:
        return facts
    try:
        trial = try_records(store, prefix, SERVER_TIMEOUT)
    except (StoreUnavailableError, SettingsError) as exc:
        return msgspec.structs.replace(facts, refuses=str(exc).removeprefix(f"{store.shown()}: "))
    return msgspec.structs.replace(facts, refuses=trial.write, deaf=trial.hear, prefix=store.global_keyprefix + prefix)


def _redis_facts(role: str, endpoint: Endpoint) -> ServerFacts:
    try:
        report = server_report(endpoint, SERVER_TIMEOUT)
    except (StoreUnavailableError, SettingsError) as exc:
        return ServerFacts(role, endpoint.shown(), str(exc).removeprefix(f"{endpoint.shown()}: "))
    return ServerFacts(role, endpoint.shown(), None, report.version, report.ahead, report.maxmemory_policy, report.maxmemory)


def _other_broker(app: Any) -> ServerFacts:
    """Look at a broker that is not Redis."""
    try:
        connection = app.connection_for_read()
    except Exception as exc:  # noqa: BLE001 - no such transport, or its driver is not installed
        url = maybe_sanitize_url(app.conf.broker_read_url or app.conf.broker_url)
        return ServerFacts("broker", url, f"{type(exc).__name__}: {exc}")
    with connection:
        return ServerFacts("broker", connection.as_uri(), _failure_of(connection))  # the URI is without its password


def _failure_of(connection: Any) -> str | None:
    """Connect to the broker; return why that failed, None where it did not."""
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=SERVER_TIMEOUT)
    except Exception as exc:  # noqa: BLE001 - each transport has errors of its own
        return str(exc) or type(exc).__name__
    return None


def _workers(app: Any, connection: Any, timeout: float) -> tuple[WorkerFacts, ...] | None:
    """Ask all workers on this broker; None where it has no broadcasts."""
    replied = replies(app, connection, "stats", timeout)
    if replied is None:
        return None
    found = {reply.worker: worker_facts(reply) for reply in replied}
    return tuple(found[name] for name in sorted(found))


def _is_monitored(connection: Any) -> bool:
    """Say whether something (Flower, ``celery events``) has a queue for events on this broker."""
    table = getattr(connection.default_channel, "get_table", None)
    if table is not None:
        with suppress(Exception):  # nobody is bound, and some transports raise for that
            return any(not str(key).startswith(_GOSSIP) for key, _, _ in table(_EVENTS))
    return False
