"""How soon a dead worker's messages come back, by the broker's settings (rule D11)."""

from __future__ import annotations

import re
from typing import Any

import pytest

from taskora_celery.errors import SettingsError
from taskora_celery.lease.recovery import Recovery, recovery_of


@pytest.mark.parametrize(
    ("options", "configurable", "expected"),
    [
        ({}, True, Recovery(3600, 100)),
        ({"visibility_timeout": 30}, True, Recovery(30, 100)),
        ({"visibility_timeout": 30, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}, True, Recovery(30, 1)),
        ({"visibility_timeout": 30, "unacked_restore_interval": 1}, True, Recovery(30, 10)),
        ({"visibility_timeout": 30, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}, False, Recovery(30, 100)),
        ({"visibility_timeout": None}, True, Recovery(3600, 100)),
        ({"unacked_restore_interval": 0, "unacked_restore_throttle": 3}, True, Recovery(3600, 30)),
    ],
)
def test_what_is_in_force_is_named(options: dict[str, Any], configurable: bool, expected: Recovery) -> None:
    """D11: the effective visibility timeout and sweep interval, kombu's defaults where nothing is set."""
    assert recovery_of(options, configurable=configurable) == expected


def test_a_sweep_that_is_slower_than_the_timeout_is_warned_of() -> None:
    """D11: with the way out; one that is not is no matter."""
    warning = Recovery(30, 100).warning
    assert warning is not None
    assert "every 100 s" in warning
    assert "unacked_restore_interval=1" in warning
    assert Recovery(3600, 100).warning is None


def test_the_workers_log_has_one_line_of_it() -> None:
    """D11: with the way out, where there is need of one."""
    assert Recovery(3600, 100).told == "taskora_celery: a dead worker's messages come back 3600 s after its last renewal"
    assert (
        Recovery(30, 100).told
        == f"taskora_celery: a dead worker's messages come back 30 s after its last renewal; {Recovery(30, 100).warning}"
    )


@pytest.mark.parametrize("name", ["visibility_timeout", "unacked_restore_interval", "unacked_restore_throttle"])
@pytest.mark.parametrize("value", ["30", True, [1]])
def test_an_option_that_is_no_number_is_named(name: str, value: Any) -> None:
    """L4, D11: at the worker's start, before kombu fails with it at the first message."""
    with pytest.raises(SettingsError, match=re.escape(f"{name}={value!r}")):
        recovery_of({name: value}, configurable=True)
