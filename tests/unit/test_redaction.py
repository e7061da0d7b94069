"""What must not be seen is taken out before anything is written or emitted."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import time
from typing import Any

import pytest

from taskora_celery import Context
from taskora_celery.encoding import to_plain
from taskora_celery.redaction import DEFAULT_KEYS, REDACTED, TEXT_CHARS, Redactor
from taskora_celery.reporter.taking import plain_entry, plain_progress
from taskora_celery.store.memory import MemoryStore
from tests.support.traced import traced, traced_app

SECRET = "hunter2hunter2"


@pytest.mark.parametrize("key", DEFAULT_KEYS)
def test_each_default_key_hides_its_value(key: str) -> None:
    """F7: the default list."""
    assert Redactor().value(key, SECRET) == REDACTED


@pytest.mark.parametrize(
    "key",
    [
        "PASSWORD", "dbPassword", "db_password", "DBPassword", "password_hash", "X-Api-Key", "apiKey", "APIKey", "XApiKey",
        "AWSSecretKey", "accessToken", "access token", "Set-Cookie", "Authorization", "user.credentials", "private-key",
        "SSHPassphrase",
    ],
)  # fmt: skip
def test_spelling_does_not_matter(key: str) -> None:
    """F7: snake, kebab, camel and shouting case name the same thing."""
    assert Redactor().hides(key)


@pytest.mark.parametrize(
    "key", ["author", "tokenizer", "passenger", "secretary", "cookies_eaten_by_monsters_x", "max_tokens", "pwdx", ""]
)
def test_words_that_only_look_alike_are_shown(key: str) -> None:
    """F7: hiding too much makes a log worthless."""
    assert not Redactor().hides(key)


def test_keys_can_be_added() -> None:
    """F7: `taskora_redact_keys` is added to the default list."""
    redactor = Redactor(["iban", "Tax-Number"])
    assert [redactor.hides(key) for key in ("customer_iban", "taxNumber", "password")] == [True, True, True]


def test_secrets_are_hidden_at_any_depth() -> None:
    """F7: in mappings within lists within mappings."""
    value = {"a": [{"b": {"headers": {"Authorization": SECRET, "Accept": "*/*"}}}], "token": {"deep": SECRET}}
    plain = to_plain(value, Redactor(), 10_000).value
    assert plain == {"a": [{"b": {"headers": {"Authorization": REDACTED, "Accept": "*/*"}}}], "token": REDACTED}


def test_a_repr_that_is_stored_for_want_of_better_is_cleaned_too() -> None:
    """F7, E2: an object's repr may print its fields."""

    class Client:
        def __repr__(self) -> str:
            return f"<Client password='{SECRET}' host='db'>"

    plain = to_plain({"client": Client()}, Redactor(), 10_000)
    assert SECRET not in plain.value["client"]
    assert "host='db'" in plain.value["client"]


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}", f"password: {SECRET}", f"PASSWORD = '{SECRET}'",
        f'{{"api_key": "{SECRET}"}}', f"('x', token='{SECRET}')",
        f"https://user:{SECRET}@example.com/path", f"redis://:{SECRET}@host:6379/0", f"Authorization: Bearer {SECRET}",
        f"got header Bearer {SECRET}", f"url?access_token={SECRET}&page=2", f"db_password={SECRET}, host=x", f"Basic {SECRET}",
    ],
)  # fmt: skip
def test_secrets_in_free_text_are_hidden(text: str) -> None:
    """F7: reasons, and the repr of arguments."""
    shown = Redactor().text(text)
    assert SECRET not in shown
    assert REDACTED in shown
    assert Redactor().text(shown) == shown, "it may come by again"


@pytest.mark.parametrize(
    "text", ["rate limited", "3 of 10 rows: done", "https://example.com/a?page=2", "ratio=0.5", "Basics: done"]
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    """F7: a reason must stay readable."""
    assert Redactor().text(text) == text


def test_the_rest_of_a_url_stays_readable() -> None:
    """F7: which host was it?"""
    assert (
        Redactor().text(f"cannot reach redis://app:{SECRET}@db.internal:6379/0")
        == f"cannot reach redis://app:{REDACTED}@db.internal:6379/0"
    )


def test_the_users_hook_sees_each_value_with_its_key() -> None:
    """F7: and what it returns is written."""
    seen: list[tuple[str, Any]] = []

    def hook(key: str, value: Any) -> Any:
        seen.append((key, value))
        return "***" if key == "email" else value

    plain = to_plain({"email": "a@b.c", "n": 1, "in": {"email": "d@e.f"}}, Redactor(hook=hook), 10_000).value
    assert plain == {"email": "***", "n": 1, "in": {"email": "***"}}
    assert ("n", 1) in seen


def test_the_hook_is_asked_for_texts_and_messages_too() -> None:
    """F7: reasons and messages have no key of their own, so they get one."""
    redactor = Redactor(hook=lambda key, value: f"{key}!")
    assert redactor.text("why", "reason") == "reason!"
    assert plain_entry((2, 1.0, "hello", None, None), redactor, 1_000)[2] == "message!"


def test_a_hook_that_raises_hides_the_value() -> None:
    """F7: it neither leaks nor fails the job."""

    def hook(key: str, value: Any) -> Any:
        raise KeyError(key)

    redactor = Redactor(hook=hook)
    assert redactor.value("name", "Ann") == REDACTED
    assert redactor.text("why") == REDACTED


def test_what_a_hook_returns_may_be_anything() -> None:
    """F7, E2: a text that has no UTF-8 form, an object, an endless structure."""
    returned: list[Any] = ["\udcff", object(), [[]]]
    for value in returned:
        redactor = Redactor(hook=lambda key, _, value=value: value)  # type: ignore[misc]
        plain_entry((2, 1.0, "hello", {"a": 1}, None), redactor, 1_000)
        plain_progress(({"a": 1}, None, None), redactor, 1_000, 1)


def test_progress_and_meta_are_redacted() -> None:
    """F7: both ways to the store lead through it."""
    redactor = Redactor()
    assert plain_progress(({"token": SECRET}, None, None), redactor, 1_000, 1)[0] == {"token": REDACTED}
    assert plain_entry((2, 1.0, "m", {"token": SECRET}, None), redactor, 1_000)[3] == {"token": REDACTED}


def test_the_traceback_of_an_entry_is_cleaned() -> None:
    """F7: it ends in the text of an exception, which is cleaned wherever else it is shown; the rest stays readable."""
    trace = f'File "shop.py", line 3\nValueError: cannot log in with password={SECRET}'
    stored = plain_entry((4, 1.0, "m", {"traceback": trace, "row": 7}, None), Redactor(), 1_000)[3]
    assert stored == {"traceback": trace.replace(SECRET, REDACTED), "row": 7}


def test_what_celery_writes_of_a_retry_shows_no_secret() -> None:
    """F7: its log line, its state, its event and its traceback are all made of these exceptions."""
    with traced_app(MemoryStore()) as app:

        @app.task(name="redaction.logs_in", max_retries=1)
        def logs_in(ctx: Context) -> None:
            try:
                raise ConnectionError(f"token={SECRET}")
            except ConnectionError as exc:
                raise ctx.retry(delay=60, reason=f"refused, password={SECRET}", exc=exc) from None

        state, again = traced(logs_in)
        assert (state, str(again.exc)) == ("RETRY", f"refused, password={REDACTED} (retry in 60 s)")
        assert (SECRET in str(again), again.exc.cause) == (False, f"ConnectionError: token={REDACTED}")
        assert SECRET not in str(again.__context__)
        state, end = traced(logs_in, retries=1)
        assert (state, end.reason, SECRET in str(end)) == ("FAILURE", f"refused, password={REDACTED}", False)


def test_the_cache_of_keys_does_not_grow_for_ever() -> None:
    """F7: a job that uses row numbers as keys must not fill the memory."""
    redactor = Redactor()
    for n in range(6_000):
        redactor.hides(f"row{n}")
    assert len(redactor._cache) <= 4_096
    assert redactor.hides("late_password")


@pytest.mark.parametrize(
    "text",
    ["a-" * 500_000, "_" * 1_000_000, "password-" * 100_000, "password " * 100_000, "a" * 1_000_000, "a://b:" * 100_000],
    ids=["hyphens", "underscores", "names", "words", "letters", "addresses"],
)
def test_no_text_takes_long(text: str) -> None:
    """Fault 17: an error message may be anything; without bounds these take minutes, with the interpreter's lock."""
    started = time.thread_time()
    cleaned = Redactor().text(f"x=1 {text} ://:=")
    assert time.thread_time() - started < 2.0
    assert len(cleaned) < 2 * TEXT_CHARS


def test_a_secret_behind_a_long_name_is_hidden() -> None:
    """F7: a name is as long as names are."""
    assert "hunter2" not in Redactor().text("settings-of_the_shop-" * 20 + "db_password_of_the_primary=hunter2")


@pytest.mark.parametrize("hook", [None, lambda key, value: value], ids=["no hook", "hook"])
def test_a_text_can_be_encoded_whatever_was_in_it(hook: Any) -> None:
    """Fault 17: a reason that holds a file name which is no UTF-8 must not end the report of a whole process."""
    assert Redactor(hook=hook).text("no such file: caf\udce9") == "no such file: caf\\udce9"
