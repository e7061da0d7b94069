"""Settings: defined, validated and documented in one place."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from taskora_celery.errors import SettingsError
from taskora_celery.runtime import endpoint_of, settings_of
from taskora_celery.settings import PREFIX, REDIS_SCHEMES, Settings, settings_table
from taskora_celery.worker.start import CheckSettings
from tests.support.eager_apps import tasks_of_their_own

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _own_tasks() -> Iterator[None]:
    with tasks_of_their_own():
        yield


def refused(**conf: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.from_conf({f"taskora_{name}": value for name, value in conf.items()})
    return str(caught.value)


def app_with(**conf: Any) -> Celery:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(conf)
    return app


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("taskora_flush_intervall", "taskora_flush_interval"),
        ("taskora_redis", "taskora_redis_url"),
        ("taskora_url", "taskora_redis_url"),
        ("taskora_ttl", "taskora_record_ttl"),
        ("taskora_redact_key", "taskora_redact_keys"),
        ("taskora_loglimit", "taskora_log_limit"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_valid_one(wrong: str, right: str) -> None:
    """L4: a typing error must not silently do nothing."""
    with pytest.raises(SettingsError, match=f"unknown setting '{wrong}': did you mean '{right}'"):
        Settings.from_conf({wrong: 1})


def test_settings_of_others_are_ignored() -> None:
    """L4: the mapping is `app.conf`."""
    assert Settings.from_conf({"broker_url": "x", "task": 1, "taskor": 2}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_url", 5), ("redis_url", ""), ("redis_url", "localhost:6379"), ("redis_url", "http://h"), ("redis_url",
        "redis://h:port"),
        ("key_prefix", ""), ("key_prefix", "a{b}"), ("key_prefix", 1), ("record_ttl", 0), ("record_ttl", "1h"),
        ("record_ttl", True),
        ("flush_interval", 0), ("flush_interval", -1), ("flush_interval", float("nan")), ("flush_interval", None),
        ("heartbeat_timeout", 0), ("heartbeat_timeout", 0.4), ("heartbeat_timeout", "soon"), ("heartbeat_timeout", True),
        ("max_stalls", -1), ("max_stalls", 1.5), ("max_stalls", True), ("max_stalls", "1"),
        ("backend_interval", 0.01), ("lease_interval", 0), ("log_limit", 0), ("log_limit", 1.5), ("log_limit", True),
        ("log_limit", "10"),
        ("log_entry_bytes", 1), ("value_bytes", None), ("checkpoint_bytes", -1), ("buffer_limit", 0), ("final_flush_timeout", 0),
        ("capture_logging", "all"), ("capture_logging", 1), ("capture_logging", None), ("redact_keys", "password"),
        ("redact_keys", [1]),
        ("redact_keys", 5), ("redact", 5), ("redact", "nodots"), ("track", "some"), ("track", True),
        ("final_flush_timeout", 10**400),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(name: str, value: Any) -> None:
    """L4: the message names the setting and shows the value."""
    message = refused(**{name: value})
    assert f"taskora_{name}={value!r} " in message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("record_ttl", timedelta(hours=1), 3600.0), ("record_ttl", None, None), ("flush_interval", 1, 1.0),
        ("capture_logging", "root", "root"),
        ("capture_logging", False, False), ("redact_keys", ["iban"], ("iban",)), ("redact_keys", ("a", "b"), ("a", "b")),
        ("redact", "shop.privacy.hide", "shop.privacy.hide"), ("redact", len, len), ("track", "context", "context"),
        ("redis_url", None, None), ("heartbeat_timeout", timedelta(minutes=1), 60.0), ("heartbeat_timeout", 0.5, 0.5),
        ("heartbeat_timeout", None, None), ("max_stalls", 0, 0), ("max_stalls", 7, 7), ("max_stalls", None, None),
    ],
)  # fmt: skip
def test_right_values_are_taken(name: str, value: Any, expected: Any) -> None:
    """L4: durations as numbers or timedelta, lists of either kind."""
    assert getattr(Settings.from_conf({f"taskora_{name}": value}), name) == expected


@pytest.mark.parametrize("scheme", REDIS_SCHEMES)
def test_every_scheme_that_can_be_connected_to_is_accepted(scheme: str) -> None:
    """L3: plain, TLS, unix socket, Sentinel, Cluster."""
    url = f"{scheme}://localhost:26379/0"
    assert Settings.from_conf({"taskora_redis_url": url}).redis_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://:hunter2@h",
        "redis://u:hunter2@h:x",
        "redis://u:hun/ter2@h:1",
        "redis://:hunter2/hunter2@h:6379/0",
        "redus://host/0?password=hunter2",
        ":hunter2@host",
        "https://u:p%40hunter2@h",
    ],
)
def test_a_password_in_a_wrong_url_is_not_shown(url: str) -> None:
    """L4, F7: the message ends up in logs and tickets."""
    message = refused(redis_url=url)
    assert "hunter2" not in message
    assert "hun" not in message.replace("taskora", "")
    assert "taskora_redis_url" in message


def test_upper_case_names_are_understood() -> None:
    """L4: `CELERY_TASKORA_LOG_LIMIT` in a Django settings module."""
    app = Celery("shop", set_as_current=False)

    class Module:
        CELERY_BROKER_URL = "memory://"
        CELERY_TASKORA_LOG_LIMIT = 77
        CELERY_TASKORA_REDACT_KEYS = ("iban",)

    app.config_from_object(Module, namespace="CELERY")
    found = settings_of(app)
    assert (found.log_limit, found.redact_keys) == (77, ("iban",))


def test_an_unknown_name_in_a_namespace_is_refused_too() -> None:
    """L4: otherwise Django users are the ones who never learn."""
    app = Celery("shop", set_as_current=False)

    class Module:
        CELERY_BROKER_URL = "memory://"
        CELERY_TASKORA_LOG_LIMITS = 77

    app.config_from_object(Module, namespace="CELERY")
    with pytest.raises(SettingsError, match="did you mean 'taskora_log_limit'"):
        settings_of(app)


def test_settings_given_to_the_app_itself_are_read() -> None:
    """L4: `Celery(taskora_log_limit=…)`, `app.conf.taskora_…` and `conf.update` are the same."""
    app = Celery("shop", set_as_current=False, changes={"taskora_log_limit": 5})
    app.conf.taskora_flush_interval = 0.5
    app.conf.update(taskora_track="context")
    found = settings_of(app)
    assert (found.log_limit, found.flush_interval, found.track) == (5, 0.5, "context")


def test_without_settings_all_have_their_defaults() -> None:
    """L4: no set-up beyond the base class."""
    assert settings_of(app_with()) == Settings()


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_setting_has_a_meaning_and_a_default_that_passes_its_own_check(field: dataclasses.Field[Any]) -> None:
    """L4: the one place that defines them is also the documentation."""
    assert field.metadata["meaning"].endswith(".")
    assert field.metadata["check"](field.default) == field.default


def test_the_table_has_a_row_for_every_setting() -> None:
    """The docs' table is made from the definitions."""
    rows = settings_table().splitlines()
    assert rows[:2] == ["| setting | default | meaning |", "|---|---|---|"]
    assert [row.split("`")[1] for row in rows[2:]] == [PREFIX + field.name for field in dataclasses.fields(Settings)]
    assert all(row.count("|") == 4 for row in rows)


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"taskora_log_limt": 1}, "taskora_log_limit"),
        ({"taskora_flush_interval": "fast"}, "taskora_flush_interval='fast'"),
        ({"taskora_lease_interval": 30, "broker_transport_options": {"visibility_timeout": 30}}, "taskora_lease_interval=30"),
        ({"taskora_heartbeat_timeout": 0.1}, "taskora_heartbeat_timeout=0.1 is wrong: at least 0.5 seconds"),
        ({"taskora_max_stalls": -1}, "taskora_max_stalls=-1 is wrong: at least 0"),
        (
            {"taskora_heartbeat_timeout": "5"},
            "taskora_heartbeat_timeout='5' is wrong: not a duration: give seconds or a timedelta",
        ),
        ({"taskora_flush_interval": -1}, "taskora_flush_interval=-1 is wrong: not a duration: give 0 or more seconds"),
        (
            {"taskora_redact": "no.such.module.hide"},
            "taskora_redact='no.such.module.hide' cannot be imported: No module named 'no'",
        ),
        ({"taskora_redis_url": "sentinel://h:26379/0"}, "master_name"),
    ],
)
def test_a_worker_with_a_bad_setting_does_not_start(conf: dict[str, Any], words: str) -> None:
    """L4: it ends with the name, the value and what to do, and not with the first job."""

    class Parent:
        app = app_with(**conf)

    with pytest.raises(SystemExit, match=words):
        CheckSettings(Parent())


def test_a_worker_without_redis_is_warned_once_with_the_settings_name(caplog: pytest.LogCaptureFixture) -> None:
    """L2: job records are off, and the log says how to turn them on."""

    class Parent:
        app = app_with()

    CheckSettings(Parent())
    (record,) = caplog.records
    assert (record.levelname, "taskora_redis_url" in record.message) == ("WARNING", True)


@pytest.mark.parametrize(("broker", "times"), [("amqp://rabbit", 1), ("redis://c/1", 0), ("memory://", 0)])
def test_a_worker_on_rabbitmq_is_warned_once_that_nothing_is_renewed(
    caplog: pytest.LogCaptureFixture, broker: str, times: int
) -> None:
    """D10: at its start, with the name of what to set; on other brokers there is no such thing."""

    class Parent:
        app = app_with(broker_url=broker, taskora_redis_url="redis://a/1")

    CheckSettings(Parent())
    assert [record.levelname for record in caplog.records if "consumer_timeout" in record.message] == ["WARNING"] * times


@pytest.mark.parametrize(("timeout", "told"), [(30, True), (3600, False)])
def test_a_slow_sweep_is_told_of_when_the_worker_starts(caplog: pytest.LogCaptureFixture, timeout: int, told: bool) -> None:
    """D11: with what is in force, where kombu's sweep is slower than the timeout suggests."""

    class Parent:
        app = app_with(
            broker_url="redis://c/1", taskora_redis_url="redis://a/1", broker_transport_options={"visibility_timeout": timeout}
        )

    caplog.set_level("INFO", "taskora_celery.worker")
    CheckSettings(Parent())
    assert f"a dead worker's messages come back {timeout} s after its last renewal" in caplog.text
    assert ("Set unacked_restore_interval=1" in caplog.text) is told


@pytest.mark.parametrize(
    ("conf", "url"),
    [
        ({"taskora_redis_url": "redis://a/1", "result_backend": "redis://b/1", "broker_url": "redis://c/1"}, "redis://a/1"),
        ({"result_backend": "redis://b/1", "broker_url": "redis://c/1"}, "redis://b/1"),
        ({"result_backend": "rpc://", "broker_url": "redis://c/1"}, "redis://c/1"),
        ({"broker_url": "redis://c/1;redis://d/1"}, "redis://c/1"),
        ({"broker_url": "amqp://c", "result_backend": "cache+memory://"}, None),
    ],
)
def test_records_are_kept_where_the_nearest_redis_is(conf: dict[str, Any], url: str | None) -> None:
    """L2: the setting, else the result backend, else the broker, else nowhere."""
    endpoint = endpoint_of(app_with(**conf), Settings.from_conf(conf))
    assert (endpoint.url if endpoint else None) == url


def test_the_transports_options_go_with_its_url() -> None:
    """L3: prefix, TLS and Sentinel's master are the user's, given once."""
    conf = {
        "result_backend": "sentinel://a:1/0;sentinel://b:1/0",
        "result_backend_transport_options": {"master_name": "m", "global_keyprefix": "t:", "sentinel_kwargs": {"password": "p"}},
        "redis_backend_use_ssl": {"ssl_cert_reqs": "none"},
    }
    endpoint = endpoint_of(app_with(**conf), Settings())
    assert endpoint is not None
    assert (endpoint.master_name, endpoint.global_keyprefix, endpoint.sentinel_kwargs) == ("m", "t:", {"password": "p"})
    assert endpoint.ssl == {"ssl_cert_reqs": "none"}
