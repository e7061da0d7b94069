"""Who may see a board, and who may act: decisions about headers alone."""

from __future__ import annotations

import pytest

from taskora_celery.board.access import HEADERS, SecretAuth, comes_from_here, is_led_here, new_secret
from taskora_celery.metrics.access import host_names, is_known_host


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "127.8.8.8", "[::1]:8000", "board.shop", "Board.Shop:443"]
)
def test_a_board_answers_under_its_own_names(host: str) -> None:
    """K4: this machine's, and those that were allowed; ports do not matter."""
    assert is_known_host(host, ["BOARD.shop"])


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "board.shop.evil",
        "10.0.0.1",
        "[",
        "a@localhost:x",
    ],
)
def test_a_board_answers_under_no_other_name(host: str | None) -> None:
    """K4, Fault 23: a name that somebody made to lead here is not ours."""
    assert not is_known_host(host, ["board.shop"])


@pytest.mark.parametrize("name", ["https://board.shop", "board.shop:443", "*.shop", "board.shop/jobs", "", "a b", "[::1]:80"])
def test_a_name_that_no_request_could_have_is_refused(name: str) -> None:
    """K4: at once, and not by refusing each request later."""
    with pytest.raises(ValueError, match="is no name of a host: give it alone"):
        host_names(["board.shop", name])


def test_names_may_be_given_as_people_write_them() -> None:
    """K4: but one text is not a list of its letters."""
    assert host_names(["board.shop.", "[fe80::1]", "fe80::2", "10.0.0.1"]) == ("board.shop", "fe80::1", "fe80::2", "10.0.0.1")
    assert is_known_host("[FE80::1]:80", host_names(["[fe80::1]"]))
    with pytest.raises(TypeError, match=r"allow_hosts='board.shop' is one text: give a list of names, such as \['board.shop'\]"):
        host_names("board.shop")


@pytest.mark.parametrize(
    ("headers", "here"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-site", "origin": "http://a", "host": "a"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "http://a:1", "host": "a:1"}, True),
        ({"origin": "https://A:1", "host": "a:1"}, True),
        ({"origin": "http://a:2", "host": "a:1"}, False),
        ({"origin": "http://evil.example", "host": "a"}, False),
        ({"origin": "null", "host": "a"}, False),
        ({"origin": "http://[", "host": "["}, False),
        ({"host": "a"}, False),
        ({}, False),
    ],
)
def test_what_changes_something_comes_from_a_page_of_ours(headers: dict[str, str], here: bool) -> None:
    """K4, Fault 23: `Sec-Fetch-Site` decides; without it `Origin` is to be `Host`; without both nobody knows."""
    assert comes_from_here(headers) is here


@pytest.mark.parametrize(
    ("site", "mode", "dest", "led"),
    [
        ("cross-site", "navigate", "document", True),
        ("same-site", "navigate", "document", True),
        ("same-origin", "navigate", "document", False),
        ("none", "navigate", "document", False),
        ("cross-site", "navigate", "iframe", False),
        ("cross-site", "no-cors", "script", False),
    ],
)
def test_a_link_on_another_site_leads_a_person_here(site: str, mode: str, dest: str, led: bool) -> None:
    """K4: the browser asks again with its cookie, once; a frame or a script of theirs does not."""
    assert is_led_here({"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}) is led
    assert not is_led_here({})


def test_what_each_answer_says_of_itself_is_spelled_out() -> None:
    """K4: only the board's own files, in no frame, from no cache, with no word to others; none may go without being missed."""
    assert dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; ")) == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self'", "connect-src": "'self'",
        "form-action": "'self'", "base-uri": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    assert {name: value for name, value in HEADERS.items() if name != "Content-Security-Policy"} == {
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    }  # fmt: skip


def test_a_token_lets_in_by_address_by_header_and_by_cookie() -> None:
    """K4: and the cookie does not tell it."""
    auth = SecretAuth(secret := new_secret())
    cookie = auth.set_cookie("/jobs", secure=True)
    assert cookie.endswith("; Path=/jobs; HttpOnly; SameSite=Strict; Secure")
    assert secret not in cookie
    assert "Secure" not in auth.set_cookie("", secure=False)
    assert auth.opens(secret)
    assert auth.who({"cookie": f"odd=[{{; {cookie.partition(';')[0]}; other=1"})
    assert auth.who({"authorization": f"Bearer {secret}"})


@pytest.mark.parametrize("token", [None, "", "wrong", "é", "\ud800"])
def test_a_wrong_token_lets_nobody_in(token: str | None) -> None:
    """K4, Fault 23: whatever it is made of."""
    auth = SecretAuth("right")
    assert not auth.opens(token)
    assert auth.who({"authorization": f"Bearer {token}"}) is None
    assert auth.who({"cookie": f"{auth.cookie}={token}"}) is None
    assert auth.who({"cookie": f"{auth.cookie}=right"}) is None
    assert auth.who({}) is None


def test_a_user_with_a_password_is_asked_by_the_browser() -> None:
    """K4: HTTP Basic, with the user's name for the logs; no token opens it."""
    auth = SecretAuth("alice:s3cret")
    assert auth.challenge.startswith("Basic")
    assert auth.who({"authorization": "Basic YWxpY2U6czNjcmV0"}) == "alice"
    assert auth.who({"authorization": "Basic YWxpY2U6d3Jvbmc="}) is None
    assert not auth.opens("alice:s3cret")


def test_two_boards_have_two_cookies() -> None:
    """K4: cookies know no ports."""
    assert SecretAuth("a").cookie != SecretAuth("b").cookie
    assert new_secret() != new_secret()
