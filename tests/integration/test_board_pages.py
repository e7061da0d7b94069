"""The pages as they come from the server: what they hold, without a browser."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery.board.access import SecretAuth
from taskora_celery.board.actions import BULK_MOST
from taskora_celery.board.app import Board
from taskora_celery.runtime import Runtime
from tests.support.boards import FROM_HERE, SECRET, Shop, client_of, running
from tests.support.scripted_jobs import FAILED, IMPORT, MAIL, RENDER, shop_app, write_jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.boards import Client


@pytest.fixture
def client(shop_board: Shop) -> Iterator[Client]:
    """A client of a board with one job of each kind."""
    write_jobs(shop_board.store)
    with shop_board.client() as client:
        yield client


def ids(html: str) -> list[str]:
    return [part.split('"')[0] for part in html.split('href="/job?id=')[1:]]


def test_the_list_has_a_row_for_each_job(client: Client) -> None:
    """K4: those that go on first; state in words, counts in chips, all of it without a script."""
    page = client.get("/").text
    assert ids(page)[:3] == [RENDER, MAIL, IMPORT]
    assert len(ids(page)) == 6
    for part in ("48%", "12/25 rendering", "ConnectionError: refused", "no sign of life from w2@host", "stalled <b>", "3/4"):
        assert part in page


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("state:failed", [FAILED]),
        ("mail", [MAIL]),
        ("reason:column worker:w1", [FAILED]),
        (f"id:{RENDER[:7]}", [RENDER]),
        ("x", []),
    ],
)
def test_a_search_is_in_the_address(client: Client, search: str, found: list[str]) -> None:
    """K4: and its field says it again."""
    page = client.get("/", params={"q": search}).text
    assert ids(page) == found
    assert f'value="{search}"' in page
    assert ("No job is like that" in page) is (not found)


def test_a_wrong_search_is_one_message(client: Client) -> None:
    """K4: what is wrong, and what would be right; the text stays in its field."""
    answer = client.get("/", params={"q": 'queue:"<b>"'})
    assert answer.status_code == 400
    assert "queue: is nothing to search for: id:, task:, state:, worker:, reason:" in answer.text
    assert "data-stream" not in answer.text


def test_more_is_shown_on_demand(client: Client) -> None:
    """K4: the list is bounded, and says how to see more."""
    page = client.get("/", params={"limit": 2}).text
    assert len(ids(page)) == 2
    assert 'href="/?limit=4"' in page
    assert "limit=500" in client.get("/", params={"limit": 100_000}).text, "and no more than that"
    for limit in ("x", "9" * 5_000):
        assert len(ids(client.get("/", params={"limit": limit}).text)) == 6


def test_a_job_has_all_that_is_known_of_it(client: Client, shop_board: Shop) -> None:
    """K4: head, attempts with their reasons, log, and the line for a shell."""
    page = client.get("/job", params={"id": RENDER}).text
    for part in (
        "reports.render", "after 20 s", "the printer does not answer", "will be tried again in 20 s: ConnectionError: refused",
        "<i>source</i>=orders.csv", f"celery -A shop jobs logs -f {RENDER}", "48%", "Cancel this job",
    ):  # fmt: skip
        assert part in page, part
    over = client.get("/job", params={"id": FAILED}).text
    assert "data-stream" not in over, "what has ended has nothing to tell"
    assert "ValueError: line 7: no such column: price" in over
    assert f"celery -A shop jobs show {FAILED}" in over


def test_what_the_backend_has_is_shown_folded_and_redacted(client: Client, shop_board: Shop) -> None:
    """K4, F7: arguments where `result_extended` is set, result, traceback, and the jobs around it."""
    backend = shop_board.app.backend
    meta: dict[str, Any] = {
        "status": "FAILURE", "task_id": FAILED, "parent_id": "the-parent", "children": [[["the-child", None], None]],
        "args": [{"password": "hunter2"}], "kwargs": {"n": 1}, "traceback": "Traceback\n  token=hunter2\n<b>",
        "result": {"exc_type": "ValueError", "exc_module": "builtins", "exc_message": ["no <b>"]},
    }  # fmt: skip
    family = {FAILED: meta, "the-parent": {"status": "SUCCESS", "parent_id": "the-root"}, "the-root": {"status": "SUCCESS"}}
    for job_id, found in family.items():
        backend.set(backend.get_key_for_task(job_id), json.dumps(found))
    page = client.get("/job", params={"id": FAILED}).text
    assert "hunter2" not in page
    for part in (
        "[redacted]",
        "<summary>Traceback</summary>",
        "no &lt;b&gt;",
        "/job?id=the-parent",
        "/job?id=the-root",
        "/job?id=the-child",
    ):
        assert part in page, part
    for job_id in family:
        backend.delete(backend.get_key_for_task(job_id))


@pytest.mark.parametrize("above", ["PENDING", "circle"])
def test_a_root_that_cannot_be_found_is_not_made_up(client: Client, shop_board: Shop, above: str) -> None:
    """K4: a parent whose result has expired may have had one itself; and what was written by others may be anything."""
    backend = shop_board.app.backend
    family = {FAILED: "a-parent", "a-parent": FAILED} if above == "circle" else {FAILED: "a-parent"}
    for job_id, parent in family.items():
        backend.set(backend.get_key_for_task(job_id), json.dumps({"status": "SUCCESS", "parent_id": parent}))
    page = client.get("/job", params={"id": FAILED}).text
    assert "/job?id=a-parent" in page
    assert "<dt>Root" not in page
    for job_id in family:
        backend.delete(backend.get_key_for_task(job_id))


def test_a_result_backend_that_hangs_holds_up_nothing(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """K4: the page shows the record, and says what is missing; other pages, and the board's end, wait for nothing."""
    monkeypatch.setattr("taskora_celery.board.backend.ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app = shop_app(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        app.conf.taskora_redis_url = redis_url
        shop = Shop(app, "", Board(app, SecretAuth(SECRET), (), read_only=False))
        with running(shop.board) as shop.url, shop.client() as client:
            for number in range(10):
                shop.begin(f"job-{number}").logs("a line")
                page = client.get(f"/job?id=job-{number}").text
                assert "a line" in page
                assert "cannot be asked for arguments, result and traceback: it has not answered for 0.2 s" in page
            assert "job-9" in client.get("/").text
    Runtime.forget(app)


def test_a_log_is_filtered_by_the_server_too(client: Client) -> None:
    """K4: for pages without scripts, and for logs that are longer than a page."""
    page = client.get("/job", params={"id": RENDER, "level": "warn", "attempt": "2"}).text
    assert page.count("the printer does not answer") == 1
    assert "rendering 25 pages" not in page
    assert 'data-whole="no"' in page
    assert client.get("/job", params={"id": RENDER, "level": "loud"}).status_code == 400
    for attempt in ("x", "9" * 5_000):
        assert client.get("/job", params={"id": RENDER, "attempt": attempt}).status_code == 400


def test_a_long_log_shows_its_end_and_the_download_has_all(client: Client, shop_board: Shop) -> None:
    """K4: NDJSON, as `jobs logs -j` writes it, in a stream, with the filters of the page."""
    job = shop_board.begin("long one/1")
    for at in range(0, 1_500, 100):
        job.logs(*(f"line {n}" for n in range(at, at + 100)))
    page = client.get("/job", params={"id": job.id}).text
    assert "1000 earlier lines are not shown here" in page
    assert "line 1499<" in page
    assert "line 999<" not in page
    answer = client.get("/job/logs", params={"id": job.id})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-disposition"] == 'attachment; filename="long_one_1.ndjson"'
    lines = [json.loads(text) for text in answer.text.splitlines()]
    assert [entry["message"] for entry in lines] == [f"line {n}" for n in range(1_500)]
    assert lines[0]["id"] == job.id
    some = client.get("/job/logs", params={"id": job.id, "text": "line 77", "attempt": "1", "level": "info"}).text
    assert len(some.splitlines()) == 11
    for text in ("message", "long one", '":'):  # not of the lines, but of the documents that they are in
        assert client.get("/job/logs", params={"id": job.id, "text": text}).text == "", "the lines that the page would show"


def test_a_wrong_id_is_explained(client: Client) -> None:
    """K4: mistyped, still queued, or expired."""
    for path in ("/job", "/job/logs"):
        answer = client.get(path, params={"id": "no <b>such"})
        assert answer.status_code == 404
        assert "There is no record of &#39;no &lt;b&gt;such&#39;" in answer.text
        assert "taskora_record_ttl" in answer.text


def test_the_form_has_room_for_as_many_jobs_as_it_offers(client: Client) -> None:
    """K4: users choose ids, and may choose long ones; what is larger still is told what to do."""
    long_ids = json.dumps([f"{n}/" + "reports of customers 2026/" * 8 for n in range(BULK_MOST)])
    done = client.post("/cancel", data={"ids": long_ids, "count": str(BULK_MOST)}, headers=FROM_HERE)
    assert f"<b>{BULK_MOST}</b></td><td>not found" in done.text
    larger = client.post("/cancel", data={"ids": long_ids * 8, "count": "1"}, headers=FROM_HERE)
    assert larger.status_code == 413
    assert "cancel fewer jobs at once" in larger.text


def test_many_are_cancelled_by_their_number(client: Client, shop_board: Shop) -> None:
    """K4: what would be cancelled is said, with its number, which is to be typed; only those jobs are."""
    ask = client.get("/cancel", params={"q": "task:import"}).text
    assert "This cancels <b>1</b> job that match <code>task:import</code>" in ask or "<b>1</b> job" in ask
    assert "nothing to cancel" in client.get("/cancel", params={"q": "state:done"}).text
    ids_field = json.dumps([IMPORT, FAILED])
    wrong = client.post("/cancel", data={"ids": ids_field, "count": "3"}, headers=FROM_HERE)
    assert wrong.status_code == 400
    assert "nothing was cancelled" in wrong.text
    assert "j" not in shop_board.store.read(IMPORT).fields  # type: ignore[union-attr]
    many = {"ids": json.dumps([IMPORT, *map(str, range(BULK_MOST))]), "count": str(BULK_MOST + 1)}
    assert client.post("/cancel", data=many, headers=FROM_HERE).status_code == 400, "a thousand go at once"
    done = client.post("/cancel", data={"ids": ids_field, "count": " 2 ", "reason": "all wrong"}, headers=FROM_HERE)
    assert "asked to stop" in done.text
    assert "too late" in done.text
    assert '<span class="tag">stopping</span>' in client.get("/", params={"q": f"id:{IMPORT}"}).text


def test_a_failure_of_the_board_tells_nothing_of_itself(
    client: Client, shop_board: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """K4: to who looks; its own log has it, and the headers are those of every answer."""

    async def fail(*_: Any) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(shop_board.board.hub, "listing", fail)
    answer = client.get("/")
    assert (answer.status_code, answer.headers["cache-control"]) == (500, "no-store")
    assert "Something went wrong" in answer.text
    assert "secret" not in answer.text
    assert "a secret of the inside" in caplog.text


def test_an_app_without_a_list_says_so(redis_url: str) -> None:
    """K4: an empty page that would never fill is explained."""
    app = shop_app(redis_url)
    app.conf.taskora_index_limit = 0
    with running(Board(app, SecretAuth(SECRET), (), read_only=False)) as url, client_of(url) as client:
        assert "This app keeps no list of its jobs" in client.get("/").text
    Runtime.forget(app)


@pytest.mark.parametrize(
    ("main", "called", "command"),
    [("shop", None, "-A shop "), ("shop", "my proj.celery", "-A &#39;my proj.celery&#39; "), (None, None, "-A your_app ")],
)
def test_commands_name_the_app_as_it_was_called(redis_url: str, main: str | None, called: str | None, command: str) -> None:
    """K4: the exact command: what Celery finds behind -A is seldom the name that the app gives itself."""
    app = shop_app(redis_url)
    app.main = main
    shop = Shop(app, "", Board(app, SecretAuth(SECRET), (), read_only=False, called=called))
    with running(shop.board) as shop.url, shop.client() as client:
        assert f"celery {command}worker" in client.get("/").text
        assert f"celery {command}worker -Q mail" in client.get("/workers?queue=mail").text
        job = shop.begin("job-1")
        assert f"celery {command}jobs logs -f {job.id}" in client.get("/job?id=job-1").text
    Runtime.forget(app)


def test_metrics_are_served_too(client: Client) -> None:
    """K5: behind the same door."""
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert 'taskora_jobs{state="running"} 2' in answer.text
