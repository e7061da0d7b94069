"""The board's pages Failures, Workers and Queues, through a real server, and over a Redis that is broker and store."""

from __future__ import annotations

import html
import re
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from celery import Celery

from taskora_celery import ContextTask
from taskora_celery.board.access import SecretAuth
from taskora_celery.board.app import Board
from taskora_celery.board.pages.failures import search_of
from taskora_celery.board.pages.workers import jobs_of
from taskora_celery.board.search import SEARCH_CHARS, filter_of
from taskora_celery.failures import FailureGroup
from taskora_celery.inspecting import Answer, Round
from taskora_celery.lease.waiting import Waiting
from taskora_celery.records import Outcome
from taskora_celery.rounds import Inspector
from taskora_celery.runtime import Runtime
from taskora_celery.workers import WorkerState, WorkerView
from tests.support.boards import SECRET, Client, Shop, running
from tests.support.eager_apps import tasks_of_their_own
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Nobody listens there.
NOWHERE = "redis://:hunter2@localhost:1/0"
#: What somebody may call a thing, to see what the page makes of it: markup, and a mark that turns the direction of text.
HOSTILE = "<script>alert(1)</script>\u202e\"'"


def board_on(broker: str, store: str, **conf: Any) -> Shop:
    app = Celery("shop", broker=broker, backend=store, set_as_current=False, task_cls=ContextTask)
    app.conf.update(conf)
    return Shop(app, "", Board(app, SecretAuth(SECRET), (), read_only=False))


@pytest.fixture
def shop(redis_url: str) -> Iterator[Shop]:
    """An app on Redis without workers, and its board."""
    with tasks_of_their_own():
        shop = board_on(redis_url, redis_url, task_routes={"mail.*": {"queue": "mail"}})
        with running(shop.board) as url:
            shop.url = url
            yield shop
        Runtime.forget(shop.app)


@pytest.fixture
def client(shop: Shop) -> Iterator[Client]:
    with shop.client() as client:
        yield client


def page(client: Client, path: str, status: int = 200) -> str:
    """A page's source; each is checked for what all pages must have."""
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    assert "<script>" not in answer.text
    assert "\u202e" not in answer.text
    if status == 200:
        _check_tables(answer.text)
    return answer.text


def _check_tables(source: str) -> None:
    """Each cell has its heading: in a column, or, on a narrow screen, by itself."""
    for table in re.findall(r"<table.*?</table>", source, re.DOTALL):
        columns = table.count('role="columnheader" scope="col"')
        assert 'role="table" aria-label' in table
        for row in re.findall(r'<tr role="row" class="row">.*?</tr>', table, re.DOTALL):
            assert row.count('<td role="cell"') == columns


def text_of(source: str) -> str:
    """What is read on a page: its text without markup, in one line; a dash where nothing is known."""
    main = source[source.index("<main") :] if "<main" in source else source
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", main)).split()).replace("\N{EN DASH}", "-")


def rows_of(source: str) -> list[str]:
    return [text_of(row) for row in re.findall(r'<tr role="row" class="row">.*?</tr>', source, re.DOTALL)]


def links_of(source: str, name: str = "open") -> list[str]:
    """Where the rows' links lead."""
    return [html.unescape(link) for link in re.findall(rf'<a class="{name}" href="([^"]*)"', source)]


def fail(shop: Shop, job_id: str, reason: str | None, error: str | None = "ValueError", name: str = "import.csv") -> None:
    shop.end(shop.begin(job_id, name), Outcome.FAILURE, reason, error)


def look(shop: Shop) -> Round:
    """Let the first round be over."""
    found = wait_until(lambda: Inspector.of(shop.app).seen(5.0), "the first round")
    assert isinstance(found, Round)
    return found


# --- Failures ------------------------------------------------------------------------------------------------------------


def test_failures_are_in_groups_that_lead_to_their_jobs(shop: Shop, client: Client) -> None:
    """K4: count, what went wrong, and a sample; the link finds the jobs of the group and no other."""
    for number in range(3):
        fail(shop, f"csv-{number}", f"line {number}: no such column: 'price'")
    fail(shop, "csv-9", "line 1: too long")
    fail(shop, "mail-1", "line 1: no such column: 'price'", name="mail.send")
    shop.end(shop.begin("done-1"), Outcome.SUCCESS)
    source = page(client, "/failures")
    rows = rows_of(source)
    assert rows[0].startswith("3 ValueError line <number>: no such column: <text> import.csv")
    assert "csv-2 , the job that failed last line 2: no such column: 'price'" in rows[0]
    assert len(rows) == 3
    assert "5 of the 6 jobs whose state changed last have failed." in text_of(source)
    listed = page(client, links_of(source)[0])
    assert [f"csv-{n}" in listed for n in range(3)] == [True, True, True]
    assert not any(other in listed for other in ("csv-9", "mail-1", "done-1"))
    sample = re.search(r'href="([^"]*/job\?id=csv-2)"', source)
    assert sample is not None
    assert "no such column" in page(client, sample[1])


def test_what_jobs_say_is_shown_and_not_obeyed(shop: Shop, client: Client) -> None:
    """K4: markup and marks of direction, in a task's name, a message, an id."""
    fail(shop, f"job {HOSTILE}", f"no {HOSTILE} here", f"Error{HOSTILE}", name=f"task {HOSTILE}")
    source = page(client, "/failures")
    assert "\\u202e" in source
    assert "<script>alert(1)</script>" in text_of(source)
    page(client, links_of(source)[0])


def test_only_what_failed_in_this_time_is_counted(shop: Shop, client: Client) -> None:
    """K4: the time is a filter in the address."""
    old = ScriptedExecution(shop.store, "old-1", now_ms=int(time.time() * 1000) - 7_200_000)
    old.end(Outcome.FAILURE, "long ago")
    shop.store.note([], ["old-1"], old.now_ms)
    fail(shop, "new-1", "just now")
    assert "long ago" in page(client, "/failures")
    source = page(client, "/failures?since=1h")
    assert "long ago" not in source
    assert "just now" in source
    assert re.search(r'href="/failures\?since=1h" aria-current="true">the last hour', source)
    assert "just now" in page(client, "/failures?since=90m")
    assert "'soon' is no duration" in html.unescape(page(client, "/failures?since=soon", 400))
    assert "more than a hundred years" in page(client, "/failures?since=" + "9" * 400 + "d", 400)


def test_a_page_without_failures_says_what_there_would_be(shop: Shop, client: Client) -> None:
    """K4: empty states teach."""
    assert "A job that fails for good is counted here" in page(client, "/failures")
    assert "No jobs in this time" in page(client, "/failures?since=1h")
    shop.end(shop.begin("done-1"), Outcome.SUCCESS)
    assert "None of the 1 jobs whose state changed last has failed." in text_of(page(client, "/failures"))


def test_failures_come_by_themselves(shop: Shop, client: Client) -> None:
    """K4: the live part takes the place of the one before."""
    with client.watching("/failures/events") as stream:
        stream.until("fragment", "A job that fails for good")
        fail(shop, "csv-1", "no such column")
        fresh = stream.until("fragment", "no such column").data["html"]
    assert rows_of(fresh)[0].startswith("1 ValueError no such column import.csv")
    assert "data-ago=" in fresh, "how long ago is the script's to say"
    assert stream.told[-1].data["title"] == "1 failed · Failures"


GROUP = FailureGroup("import.csv", "ValueError", "line <number>: no such column", 1, 0, 0, "job-1", "line 7: no such column")


@pytest.mark.parametrize(
    ("changes", "search"),
    [
        ({}, 'state:failed task:"import.csv" reason:"no such column"'),
        ({"pattern": "", "message": ""}, 'state:failed task:"import.csv" reason:"ValueError"'),
        ({"pattern": 'a "quoted thing', "message": 'a "quoted thing'}, 'state:failed task:"import.csv" reason:"quoted thing"'),
        ({"task": 'a "b"', "error": "", "pattern": "<number>", "message": "7"}, "state:failed"),
        ({"task": "", "pattern": " ", "message": " ", "error": ""}, "state:failed"),
        ({"task": "t" * SEARCH_CHARS}, 'state:failed reason:"no such column"'),
    ],
)
def test_a_group_s_search_can_always_be_read(changes: dict[str, str], search: str) -> None:
    """K4: whatever people call their tasks."""
    found = search_of(msgspec.structs.replace(GROUP, **changes))
    assert found == search
    assert filter_of(found).states == {"failed"}


# --- Workers -------------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_gone_with_its_job_is_told_of(shop: Shop, client: Client) -> None:
    """K4: offline with n running jobs, and the link leads to them."""
    now_ms = int(time.time() * 1000)
    for number in range(2):
        ScriptedExecution(shop.store, f"lost-{number}", worker="w1@shop", now_ms=now_ms - 60_000)
    ScriptedExecution(shop.store, "here-1", worker="w2@shop", now_ms=now_ms + 600_000)
    shop.store.note(["lost-0", "lost-1", "here-1"], [], now_ms)
    look(shop)
    source = page(client, "/workers")
    rows = rows_of(source)
    assert rows[0].startswith("w1@shop offline with 2 running jobs - 2")
    assert rows[1].startswith("w2@shop no answer - 1")
    assert '#shape-stalled"></use></svg>offline' in source
    listed = page(client, links_of(source)[0])
    assert [name in listed for name in ("lost-0", "lost-1", "here-1")] == [True, True, False]


def test_what_workers_are_called_is_shown_and_not_obeyed(shop: Shop, client: Client) -> None:
    """K4: a worker's name is its user's."""
    ScriptedExecution(shop.store, "job-1", worker=HOSTILE, now_ms=int(time.time() * 1000) - 60_000)
    shop.store.note(["job-1"], [], NOW_MS)
    look(shop)
    assert "\\u202e" in page(client, "/workers")
    assert "\\u202e" in page(client, "/workers?queue=" + HOSTILE)


def test_where_no_worker_answers_the_page_says_how_to_start_one(shop: Shop, client: Client) -> None:
    """K4: with the exact command; and for a queue, with it."""
    look(shop)
    assert "No worker answered" in page(client, "/workers")
    assert "celery -A shop worker</code>" in page(client, "/workers")
    source = page(client, "/workers?queue=big reports")
    assert "celery -A shop worker -Q 'big reports'" in text_of(source)


def test_an_answer_is_shown_with_all_that_it_says(shop: Shop, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """K4: slots, pool, queues, versions; what it does not say is not made up."""
    now_ms = int(time.time() * 1000)
    told = Answer("w1@shop", now_ms, "prefork", 8, 3, ("celery", "mail"), "1.0", "5.7.0")
    plain = Answer("w2@shop", now_ms, "solo", 1, None, ("reports",))
    found = Round(now_ms, frozenset({"w1@shop", "w2@shop"}), {"w1@shop": told, "w2@shop": plain})
    monkeypatch.setattr(Inspector, "seen", lambda *_: found)
    source = page(client, "/workers")
    assert rows_of(source) == [
        "w1@shop online 3/8 0 0s celery, mail prefork 1.0, Celery 5.7.0",
        "w2@shop online -/1 0 0s reports solo without taskora-celery",
    ]
    assert [row.split()[0] for row in rows_of(page(client, "/workers?queue=mail"))] == ["w1@shop"]


@pytest.mark.parametrize(("path", "part"), [("/workers", "No worker answered"), ("/queues", "celery 0 - 0 mail 0 - 0")])
def test_who_opens_a_page_first_is_shown_the_first_round(shop: Shop, client: Client, path: str, part: str) -> None:
    """K4: the first paint shows what there is, without a script; nobody else waits for that."""
    assert part in text_of(page(client, path))


def test_who_opens_the_page_first_is_not_kept_waiting(shop: Shop, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """K4: before the first round is over the pages say that it is under way, and nobody is offline."""
    monkeypatch.setattr(Inspector, "seen", lambda *_: None)
    ScriptedExecution(shop.store, "job-1", worker="w1@shop", now_ms=int(time.time() * 1000) - 60_000)
    shop.store.note(["job-1"], [], NOW_MS)
    source = page(client, "/workers")
    assert "Workers are being asked." in source
    assert rows_of(source)[0].startswith("w1@shop not known")
    assert "Queues are being asked." in page(client, "/queues")


@pytest.mark.parametrize(
    ("name", "search"),
    [("w1@shop", 'state:running,stalled worker:"w1@shop"'), ('w"1', None), ("w" * SEARCH_CHARS, None)],
)
def test_a_worker_s_search_can_always_be_read(name: str, search: str | None) -> None:
    """K4: or there is none."""
    found = jobs_of(WorkerView(name, WorkerState.OFFLINE))
    assert found == search
    assert found is None or filter_of(found).worker == f"*{name}*"


# --- Queues --------------------------------------------------------------------------------------------------------------


def test_messages_that_nobody_takes_are_warned_of_with_the_command(shop: Shop, client: Client) -> None:
    """K4: and a queue that is empty is not; how old the next job is, is known from its message."""
    created_ms = int(time.time() * 1000) - 600_000
    shop.app.send_task("mail.send", headers={"taskora_created": created_ms})
    look(shop)
    source = page(client, "/queues")
    assert "1 message waits in mail , and no worker takes it. Start one: celery -A shop worker -Q mail" in text_of(source)
    assert rows_of(source) == ["mail 1 10m none", "celery 0 - 0"]
    assert source.count("Start one") == 1
    assert "<title>1 without a worker · Queues · shop</title>" in source
    assert links_of(source)[0] == "/workers?queue=mail"


def test_a_queue_that_somebody_takes_from_is_not_warned_of(
    shop: Shop, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """K4: nor one of which that is not known; what the broker does not say is said to be not known."""
    now_ms = int(time.time() * 1000)
    answers = {f"w{n}@shop": Answer(f"w{n}@shop", now_ms, queues=("mail",)) for n in range(7)}
    waiting = {"mail": Waiting(5, None), "celery": Waiting(), "old": Waiting(2, None, 1)}
    found = Round(now_ms, frozenset(answers), answers, None, waiting, None, 3)
    monkeypatch.setattr(Inspector, "seen", lambda *_: found)
    source = page(client, "/queues")
    assert "Start one" not in source
    assert rows_of(source) == [
        "mail 5 not known 7 w0@shop, w1@shop, w2@shop, w3@shop, w4@shop and 2 more",
        "old 2 not known 1",
        "celery not known not known 0",
    ]
    assert "3 more queues were not looked at" in source


def test_many_queues_without_a_worker_are_told_of_in_few_words(
    shop: Shop, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """K4: whoever has none has no worker at all."""
    found = Round(NOW_MS, waiting={f"q{n}": Waiting(1) for n in range(14)})
    monkeypatch.setattr(Inspector, "seen", lambda *_: found)
    source = page(client, "/queues")
    assert source.count("Start one") == 10
    assert "4 more queues wait for a worker" in source


def test_a_queue_comes_and_goes_by_itself(shop: Shop, client: Client) -> None:
    """K4: the warning appears with the message."""
    look(shop)
    with client.watching("/queues/events") as stream:
        stream.until("fragment", "mail")
        shop.app.send_task("mail.send")
        fresh = stream.until("fragment", "Start one").data["html"]
    assert rows_of(fresh)[0].startswith("mail 1 not known none")


# --- where nothing can be asked --------------------------------------------------------------------------------------------


@pytest.fixture
def _own_tasks() -> Iterator[None]:
    with tasks_of_their_own():
        yield


@pytest.mark.usefixtures("_own_tasks")
@pytest.mark.parametrize(
    ("broker", "workers", "queues"),
    [
        (NOWHERE, "Workers cannot be asked: ", "Queues cannot be asked: "),
        ("memory://pages", "No worker answered", "celery 0 - 0"),
    ],
    ids=["the broker is away", "the broker is in memory"],
)
def test_a_broker_that_says_nothing_is_a_state_and_no_failure(redis_url: str, broker: str, workers: str, queues: str) -> None:
    """K4: never an exception page, and never a password."""
    shop = board_on(broker, redis_url)
    with running(shop.board) as shop.url, shop.client() as client:
        look(shop)
        for path, part in (("/workers", workers), ("/queues", queues)):
            source = page(client, path)
            assert part in text_of(source)
            assert "hunter2" not in source
    Runtime.forget(shop.app)


@pytest.mark.usefixtures("_own_tasks")
def test_where_the_records_are_away_the_pages_say_so(redis_url: str) -> None:
    """K4: with the board's own word for it; it tries again."""
    shop = board_on(redis_url, NOWHERE)
    with running(shop.board) as shop.url, shop.client() as client:
        for path in ("/failures", "/workers", "/queues"):
            source = page(client, path, 503)
            assert "Redis cannot be reached" in source
            assert "hunter2" not in source
    Runtime.forget(shop.app)


@pytest.mark.usefixtures("_own_tasks")
def test_without_a_list_of_jobs_there_are_no_failures_to_see(redis_url: str) -> None:
    """K4: the setting is named."""
    shop = board_on(redis_url, redis_url, taskora_index_limit=0)
    with running(shop.board) as shop.url, shop.client() as client:
        assert "taskora_index_limit" in page(client, "/failures")
    Runtime.forget(shop.app)
