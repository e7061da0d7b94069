"""From a URL to a client of Redis: what is said of it, and what is refused; nothing is connected."""

from __future__ import annotations

import pytest

from taskora_celery.errors import SettingsError
from taskora_celery.store.connect import Endpoint, check


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://user@localhost/0", "redis://user@localhost/0"),
        ("redis://:hunter2@localhost:6379/0", "redis://:***@localhost:6379/0"),
        ("rediss://user:hunter2@localhost/0", "rediss://user:***@localhost/0"),
        ("redis://:hun@ter2@localhost/0", "redis://:***@localhost/0"),
        ("redis://:hun/ter2@localhost/0", "redis://:***@localhost/0"),
        ("redis://:hun#ter2@localhost/0", "redis://:***@localhost/0"),
        ("redis://user:hun?ter2@localhost/0", "redis://user:***@localhost/0"),
        ("redis://[::1:hunter2@localhost/0", "redis://[:***@localhost/0"),
        ("redis://localhost/0?password=hunter2&db=1", "redis://localhost/0?password=***&db=1"),
        ("rediss://localhost/0?db=1&ssl_password=hunter2", "rediss://localhost/0?db=1&ssl_password=***"),
        ("redis://localhost:6379/0?client_name=a@b", "redis://localhost:6379/0?client_name=a@b"),
        ("unix://:hunter2@/run/redis.sock", "unix://:***@/run/redis.sock"),
        ("sentinel://:hunter2@a:1;sentinel://:hunter2@b:2", "sentinel://:***@a:1;sentinel://:***@b:2"),
    ],
)
def test_a_url_is_shown_without_its_passwords(url: str, shown: str) -> None:
    """F7: logs and errors name the Redis; a password with a character that should have been escaped is one, too."""
    assert Endpoint(url).shown() == shown


@pytest.mark.parametrize("password", ["hun/ter2", "hun#ter2", "hun?ter2", "[hunter2"])
def test_a_url_that_is_none_is_refused_without_telling_the_password(password: str) -> None:
    """F7, L4: Python's own words for it would show the part that stands where a port should."""
    with pytest.raises(SettingsError, match="%2F") as raised:
        check(Endpoint(f"redis://:{password}@localhost:6379/0"))
    assert "hun" not in str(raised.value)
    assert raised.value.__cause__ is None
