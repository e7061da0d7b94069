"""Fault 23, and all else that a board refuses: through a real server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection

from taskora_celery import JobHandle
from taskora_celery.board import board_app
from taskora_celery.board.access import HEADERS, SecretAuth
from taskora_celery.board.actions import FORM_BYTES
from taskora_celery.board.app import Board
from taskora_celery.cancelling import cancel_job
from taskora_celery.runtime import Runtime
from tests.support.boards import FROM_HERE, SECRET, Shop, client_of, running
from tests.support.browser import served
from tests.support.pages import code_of
from tests.support.scripted_jobs import shop_app
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery
    from starlette.requests import Request

PAGES = ("/", "/job?id=x", "/events", "/job/events?id=x", "/job/logs?id=x", "/metrics", "/static/board.js", "/cancel", "/nothing")
ACTIONS = ("/job/cancel?id=job-1", "/cancel")


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Cookie": "taskora_board_x=1"}])
def test_without_the_token_nothing_is_shown(shop_board: Shop, path: str, headers: dict[str, str]) -> None:
    """Fault 23: no token, wrong token; files and metrics included."""
    answer = httpx.get(shop_board.url + path, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "import" not in answer.text


@pytest.mark.parametrize("path", PAGES)
def test_every_answer_has_the_headers_that_keep_it_in_its_place(shop_board: Shop, path: str) -> None:
    """K4: pages, streams, files and errors."""
    expected = {name.lower(): value for name, value in HEADERS.items()}
    with shop_board.client() as client, client.stream("GET", path) as answer:
        assert {name: answer.headers[name] for name in expected} == expected
    for refused in (httpx.get(shop_board.url + path), httpx.get(shop_board.url + path, headers={"Host": "evil.example"})):
        assert {name: refused.headers[name] for name in expected} == expected
    csp = expected["content-security-policy"]
    assert csp.startswith("default-src 'none'; ")
    assert "unsafe" not in csp


def test_the_token_leads_to_a_cookie_and_out_of_the_address(shop_board: Shop) -> None:
    """K4: it stays in no history, and no script can read the cookie."""
    with httpx.Client(base_url=shop_board.url) as browser:
        answer = browser.get(f"/job?id=a%20b&token={SECRET}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/job?id=a+b")
        assert answer.headers["set-cookie"].endswith("; Path=/; HttpOnly; SameSite=Strict")
        assert SECRET not in answer.headers["set-cookie"]
        assert browser.get("/").status_code == 200
        assert browser.get("/?token=wrong").status_code == 200, "who is in already stays in"
    secured = httpx.get(f"{shop_board.url}/?token={SECRET}", headers={"X-Forwarded-Proto": "https"})
    assert secured.headers["set-cookie"].endswith("; Secure"), "behind a proxy that speaks TLS"


def test_a_token_in_the_address_of_an_action_lets_nobody_in(shop_board: Shop) -> None:
    """K4: it is for the one address that was printed; whatever changes something needs the cookie."""
    answer = httpx.post(f"{shop_board.url}/cancel?token={SECRET}", data={"ids": "[]", "count": "0"}, headers=FROM_HERE)
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)


def test_a_token_leads_to_no_other_host(shop_board: Shop) -> None:
    """Fault 23: a path of two slashes would be another host's name."""
    answer = httpx.get(f"{shop_board.url}//evil.example/?token={SECRET}")
    assert answer.headers["location"] == "/evil.example/"


@pytest.mark.parametrize("path", PAGES)
def test_a_foreign_host_is_told_nothing(shop_board: Shop, path: str) -> None:
    """Fault 23: DNS rebinding, with or without the token."""
    for headers in ({"Host": "evil.example"}, {"Host": "evil.example", "Authorization": f"Bearer {SECRET}"}):
        assert httpx.get(shop_board.url + path, headers=headers).status_code == 421


@pytest.mark.parametrize("path", ACTIONS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_an_action_from_elsewhere_changes_nothing(shop_board: Shop, path: str, headers: dict[str, str]) -> None:
    """Fault 23: a foreign origin, with the secret that a browser would send along."""
    shop_board.begin("job-1")
    with shop_board.client() as client:
        form = {"reason": "evil", "ids": '["job-1"]', "count": "1"}
        assert client.post(path, data=form, headers=headers).status_code == 403
    assert "j" not in shop_board.store.read("job-1").fields  # type: ignore[union-attr]


@pytest.mark.parametrize("path", ACTIONS)
def test_no_change_on_get(shop_board: Shop, path: str) -> None:
    """Fault 23: a GET for an action, whatever its query says; another method is none, either."""
    shop_board.begin("job-1")
    query = "reason=evil&ids=%5B%22job-1%22%5D&count=1"
    with shop_board.client() as client:
        answer = client.get(f"{path}{'&' if '?' in path else '?'}{query}", headers=FROM_HERE)
        assert answer.status_code == (200 if path == "/cancel" else 405), "the one asks, the other is no page"
        assert client.put(path, headers=FROM_HERE).status_code == 405
        assert client.request("DELETE", path, headers=FROM_HERE).status_code == 405
    assert "j" not in shop_board.store.read("job-1").fields  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2f..%2fsettings.py", "/static//etc/passwd", "/static/%00",
        "/static/", "/..;/", "/%2e%2e/", "//", "/job/../metrics/..", "/static/..\\..\\app.py",
    ],
)  # fmt: skip
def test_path_tricks_lead_nowhere(shop_board: Shop, path: str) -> None:
    """Fault 23: sent as they are, byte by byte."""
    host, port = shop_board.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\nConnection: close\r\n\r\n"
        raw.sendall(request.encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split(b" ")[1] in {b"404", b"400"}, answer[:200]
    assert b"root:" not in answer
    assert b"import" not in answer


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("GET", "/nothing", "There is no page with this address."),
        ("GET", "/static/nothing", "There is no page with this address."),
        ("PUT", "/job", "Method Not Allowed"),
        ("POST", "/static/board.js", "Method Not Allowed"),
    ],
)
def test_what_there_is_not_is_a_page_that_leads_back(shop_board: Shop, method: str, path: str, says: str) -> None:
    """K4: with the style of the board, and a link to its list, wherever it was looked for."""
    with shop_board.client() as client:
        answer = client.request(method, path, headers=FROM_HERE)
    assert answer.status_code in {404, 405}
    assert says in answer.text
    assert 'href="/static/board.css?' in answer.text
    assert 'href="/">To the jobs<' in answer.text


def test_a_read_only_board_stops_nothing(redis_url: str) -> None:
    """K4: and offers no way to."""
    app = shop_app(redis_url)
    board = Board(app, SecretAuth(SECRET), (), read_only=True)
    with running(board) as url, client_of(url) as client:
        for path in ACTIONS:
            assert client.post(path, data={"count": "0", "ids": "[]"}, headers=FROM_HERE).status_code == 403
        Shop(app, url, board).begin("job-1")
        pages = [client.get(path) for path in ("/", "/job?id=job-1", "/cancel")]
    assert [page.status_code for page in pages] == [200, 200, 404]
    assert all("Cancel" not in page.text for page in pages)
    assert "read-only" in pages[0].text
    Runtime.forget(app)


def test_a_form_is_a_form_and_not_larger_than_one(shop_board: Shop) -> None:
    """K4: what else is sent is refused before it is read."""
    with shop_board.client() as client:
        assert client.post("/cancel", json={"ids": []}, headers=FROM_HERE).status_code == 415
        assert client.post("/cancel", data={"ids": "x" * FORM_BYTES}, headers=FROM_HERE).status_code == 413
        assert client.post("/cancel", data={"ids": "{", "count": "1"}, headers=FROM_HERE).status_code == 400
        assert client.post("/cancel", data={"ids": '["job-1"]', "count": "2"}, headers=FROM_HERE).status_code == 400


def test_half_a_form_does_nothing_and_is_no_failure(shop_board: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """K4, Fault 23: who leaves in the middle of it fills no log with tracebacks."""
    caplog.set_level("DEBUG", "taskora_celery.board")
    shop_board.begin("job-1")
    host, port = shop_board.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            f"POST /job/cancel?id=job-1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\n"
            "Sec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 100"), "the form is being read"
        raw.sendall(b"reason=")
    wait_until(lambda: "has gone" in caplog.text, "the end of the connection to be noticed")
    assert "failed" not in caplog.text
    assert "j" not in shop_board.store.read("job-1").fields  # type: ignore[union-attr]


def test_a_hundred_open_streams_do_not_keep_the_others_out(shop_board: Shop) -> None:
    """Fault 23: and they are forgotten when they have gone."""
    shop_board.begin("job-1")
    with contextlib.ExitStack() as streams, shop_board.client() as client:
        client._transport = httpx.HTTPTransport(limits=httpx.Limits(max_connections=200))
        paths = ["/events", "/job/events?id=job-1"] * 50
        opened = [streams.enter_context(client.watching(path)) for path in paths]
        assert all(stream.next() for stream in opened)
        assert shop_board.board.audience.viewers == 100
        assert client.get("/").status_code == 200
    wait_until(lambda: not shop_board.board.audience.viewers, "the viewers to be forgotten")


def test_who_asks_for_the_head_of_a_stream_is_no_viewer(shop_board: Shop) -> None:
    """Fault 23: a stream without a body would hold its connection, and a viewer's place, for as long as somebody likes."""
    with shop_board.client() as client:
        for path in ("/events", "/job/events?id=x", "/workers/events"):
            head = client.head(path)
            assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")
            assert client.get("/static/icon.svg", timeout=5).status_code == 200, "over the same connection"
    assert not shop_board.board.audience.viewers


def test_more_viewers_than_there_is_room_for_are_told_to_come_back(shop_board: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """K4: a bound on what one process keeps."""
    monkeypatch.setattr("taskora_celery.board.app.VIEWERS", 1)
    with shop_board.client() as client, client.watching("/events") as stream:
        stream.next()
        assert client.get("/events").status_code == 503


# --- mounted in another application ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(app: Celery, **options: Any) -> Iterator[str]:
    """A board under /jobs of somebody's application."""
    site = Starlette()
    board = board_app(app, **options)
    site.mount("/jobs", board)
    with served(site) as url:
        yield url
        board.close()


def user_of(request: Request) -> str | None:
    return request.headers.get("x-user")


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = shop_app(redis_url)
    yield app
    Runtime.forget(app)


def test_a_mounted_board_says_who_may_see_it(app: Celery) -> None:
    """K4: `auth=` must be given, and be something that can be asked."""
    with pytest.raises(TypeError, match="auth"):
        board_app(app)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"allow_hosts='shop\.example' is one text"):
        board_app(app, auth=None, allow_hosts="shop.example")
    with pytest.raises(TypeError, match="auth='secret' cannot be called"):
        board_app(app, auth="secret")  # type: ignore[arg-type]


def test_a_mounted_board_asks_its_application(app: Celery) -> None:
    """K4: who is nobody sees nothing; all links and files are under the mount; any host, since the application decides."""
    with mounted(app, auth=user_of) as url:
        assert httpx.get(f"{url}/jobs/").status_code == 403
        page = httpx.get(f"{url}/jobs/", headers={"X-User": "alice", "Host": "shop.example"})
        assert page.status_code == 200
        links = [part.split('"')[0] for part in page.text.split('href="')[1:] if not part.startswith("#")]
        assert links
        assert all(link.startswith("/jobs/") for link in links)
        assert 'data-stream="/jobs/events' in page.text
        assert httpx.get(f"{url}/jobs/static/board.js", headers={"X-User": "alice"}).status_code == 200


def test_a_websocket_is_refused_before_anybody_is_asked(app: Celery) -> None:
    """K4: a mounted board is offered what its server takes; it has no use for one, and `auth` knows requests alone."""
    told: list[Any] = []

    async def send(message: Any) -> None:
        told.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/events", "root_path": "", "query_string": b"", "headers": []}
    asyncio.run(board_app(app, auth=None)(scope, receive, send))
    assert told == [{"type": "websocket.close", "code": 1008}]


def test_a_coroutine_may_decide_and_hosts_may_be_named(app: Celery) -> None:
    """K4: as applications have it."""

    async def who(request: Request) -> bool:
        return "x-user" in request.headers

    with mounted(app, auth=who, allow_hosts=["shop.example"]) as url:
        headers = {"X-User": "alice", "Host": "shop.example"}
        assert httpx.get(f"{url}/jobs/", headers=headers).status_code == 200
        assert httpx.get(f"{url}/jobs/", headers={"Host": "shop.example"}).status_code == 403
        assert httpx.get(f"{url}/jobs/", headers={**headers, "Host": "evil.example"}).status_code == 421


def test_a_mounted_board_without_auth_only_shows_and_only_here(app: Celery) -> None:
    """K4: `auth=None` forces read-only, also against `read_only=False`."""
    with mounted(app, auth=None, read_only=False) as url:
        assert "read-only" in httpx.get(f"{url}/jobs/").text
        assert httpx.get(f"{url}/jobs/", headers={"Host": "evil.example"}).status_code == 421
        assert httpx.post(f"{url}/jobs/cancel", headers=FROM_HERE).status_code == 403


class _Users(AuthenticationBackend):
    """Knows its users by a header: enough for a test."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        user = conn.headers.get("x-user")
        return (AuthCredentials(["staff"] if user == "alice" else []), SimpleUser(user)) if user else None


def test_the_example_of_the_docs_works(redis_url: str) -> None:
    """K4: as it stands there, in an application that knows its users."""
    examples: dict[str, Any] = {}
    exec(code_of("board.md").replace('"redis://"', repr(redis_url)), examples)
    examples["site"].add_middleware(AuthenticationMiddleware, backend=_Users())
    with served(examples["site"]) as url:
        assert httpx.get(f"{url}/jobs/", headers={"X-User": "alice"}).status_code == 200
        assert httpx.get(f"{url}/jobs/", headers={"X-User": "bob"}).status_code == 403
        assert httpx.get(f"{url}/jobs/").status_code == 403
    Runtime.forget(examples["celery_app"])


def test_who_cancels_stands_in_the_log_of_the_job(shop_board: Shop, app: Celery) -> None:
    """K4: every action, with who and why."""
    shop_board.begin("job/1 ü")
    shop_board.begin("job-2")
    with mounted(app, auth=user_of) as url, httpx.Client(base_url=url, headers={"X-User": "alice", **FROM_HERE}) as client:
        answer = client.post("/jobs/job/cancel", params={"id": "job/1 ü"}, data={"reason": "wrong file"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/jobs/job?id=job%2F1%20%C3%BC&cancel=requested")
        page = client.get(answer.headers["location"]).text
        assert "cancel requested by alice: wrong file" in page
        assert "The job was asked to stop." in page
        form = {"ids": '["job-2", "gone"]', "count": "2", "reason": "all wrong, token=hunter2"}
        done = client.post("/jobs/cancel", data=form)
        assert done.status_code == 200
        assert "asked to stop" in done.text
        assert "not found" in done.text
    event = next(event for event in JobHandle("job-2", app=app).events(timeout=10) if event.kind == "cancel")
    assert (event.data["by"], event.data["reason"]) == ("alice", "all wrong, token=[redacted]"), "F7: redacted, too"
    assert cancel_job(app, "job-2").outcome == "requested"
