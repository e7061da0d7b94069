"""The faces that live: the board, streams and followers over bytes that nobody of ours wrote. None fails, and none obeys them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from taskora_celery import JobHandle, JobNotFoundError, StoreUnavailableError
from taskora_celery.board.access import SecretAuth
from taskora_celery.board.app import Board
from taskora_celery.encoding import pack
from taskora_celery.inspecting import Replied, Round, answer_of
from taskora_celery.reporter.listener import Listener
from taskora_celery.rounds import Inspector
from taskora_celery.runtime import Runtime
from taskora_celery.sse import server_sent_events
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.protocol import Shutdown
from taskora_celery.store.redis import RedisStore
from tests.support.asgi import Answer, asked
from tests.support.boards import SECRET
from tests.support.executions import NOW_MS
from tests.support.hostile import JOB, KEYS, damaged_jobs, garbage, write, write_foreign
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis
    from celery import Celery

    Whole = tuple[Celery, dict[str, Any]]

FUZZ = settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ONE = {"id": JOB}
PAGES: tuple[tuple[str, dict[str, str]], ...] = (
    ("/", {}), ("/", {"q": "worker:w1"}), ("/job", ONE), ("/job", {**ONE, "level": "info", "text": "e"}), ("/failures", {}),
    ("/workers", {}), ("/queues", {}), ("/job/logs", ONE), ("/job/logs", {**ONE, "attempt": "1", "text": "a"}), ("/metrics", {}),
    ("/cancel", {"q": "state:running"}),
)  # fmt: skip
STREAMS: tuple[tuple[str, dict[str, str]], ...] = (
    ("/events", {}),
    ("/job/events", ONE),
    ("/failures/events", {}),
    ("/workers/events", {}),
    ("/queues/events", {}),
)
#: Markup in what jobs say, whatever page it comes to.
MARKUP = b"<b>hostile</b>"


@pytest.fixture(autouse=True)
def _nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """No page waits for workers: their answers are another test's."""
    monkeypatch.setattr("taskora_celery.inspecting.ANSWER_TIMEOUT", 0.01)
    monkeypatch.setattr(Inspector, "seen", lambda self, wait: Round(NOW_MS))


async def _ask(board: Board, path: str, query: dict[str, str], patience: float = 10.0) -> Answer:
    answer = await asked(board, path, query, {"authorization": f"Bearer {SECRET}"}, patience=patience)
    answer.body.decode()
    assert MARKUP not in answer.body or path == "/job/logs", f"{path} {query} obeys what a job says"
    return answer


async def _go_through(app: Celery, *, expected: set[int], pages: Any = PAGES, streams: Any = ()) -> None:
    board = Board(app, SecretAuth(SECRET), ("localhost",), read_only=False)
    try:
        for path, query in pages:
            answer = await _ask(board, path, query)
            assert answer.status in expected, (path, query, answer)
        for path, query in streams:
            answer = await _ask(board, path, query, patience=0.05)
            assert answer.status == 200, (path, query, answer)
    finally:
        board.close()


def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was told of errors that nobody foresaw."""
    return [record.getMessage() for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}]


@FUZZ
@given(data=st.data())
def test_no_page_and_no_stream_of_the_board_fails(
    whole_job: Whole, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    """K4, fault 18, fault 22: 200, or 404 where there is no record; no stream ends with an error, and text is text."""
    app, kept = whole_job
    job = data.draw(damaged_jobs(kept), label="job")
    job["journal"].append(b"90 1 1 " + pack((1, NOW_MS, [(2, 0, MARKUP.decode(), {"key": MARKUP.decode()})])))
    write(redis_client, job)
    caplog.clear()
    asyncio.run(_go_through(app, expected={200, 404}, streams=STREAMS))
    assert _told(caplog) == []


@pytest.mark.parametrize("kind", ["string", "list", "set"])
def test_the_board_over_another_programs_keys(whole_job: Whole, redis_client: redis.Redis, kind: str) -> None:
    """Fault 22: a job whose key holds something else is no reason for an error of the server."""
    app, kept = whole_job
    write(redis_client, kept)
    write_foreign(redis_client, kind)
    asyncio.run(_go_through(app, expected={200, 404, 503}, streams=STREAMS))


@FUZZ
@given(data=st.data())
def test_an_index_that_is_garbage_is_looked_through(whole_job: Whole, redis_client: redis.Redis, data: st.DataObject) -> None:
    """L3, K4: ids that are none, and instants that no clock shows; what is left of the index is shown."""
    app, kept = whole_job
    write(redis_client, kept)
    recent, going = KEYS.index
    scores = st.floats(allow_nan=False) | st.integers(-(2**60), 2**60).map(float)
    for key in (recent, going):
        redis_client.delete(key)
        members = data.draw(st.dictionaries(garbage, scores, max_size=5), label=key)
        redis_client.zadd(key, {**members, JOB: NOW_MS})
        redis_client.pexpire(key, 60_000)
    redis_client.hset(KEYS.counts, mapping={data.draw(garbage): data.draw(garbage)})
    asyncio.run(_go_through(app, expected={200, 404}))
    store = Runtime.of(app).readable()
    assert JOB in {job_id for job_id, _ in store.listed(100)}
    assert store.counts()


async def _frames(handle: JobHandle[Any], timeout: float) -> list[bytes]:
    return [frame async for frame in server_sent_events(handle, timeout=timeout)]


async def _read_by_loop(handle: JobHandle[Any]) -> None:
    reads: list[Callable[[], Awaitable[Any]]] = [
        handle.astatus, handle.aget_progress, handle.aget_logs, handle.ahistory, lambda: handle.acancel("again"),
    ]  # fmt: skip
    for read in reads:
        try:
            await read()
        except (JobNotFoundError, StoreUnavailableError):
            continue
    for following in (handle.aevents(timeout=0.05), handle.afollow_logs(timeout=0.05)):
        try:
            async for _ in following:
                pass
        except (JobNotFoundError, TimeoutError):
            continue
    for frame in await _frames(handle, 0.05):
        for line in frame.decode().splitlines():
            if line.startswith("data: "):
                json.loads(line.removeprefix("data: "))


@FUZZ
@given(data=st.data())
def test_no_follower_and_no_stream_raises_for_damaged_records(
    whole_job: Whole, redis_client: redis.Redis, data: st.DataObject
) -> None:
    """J2, fault 22: the asynchronous twins, both followers, and the frames for browsers, each of which is JSON."""
    app, kept = whole_job
    job = data.draw(damaged_jobs(kept), label="job")
    if data.draw(st.booleans(), label="runs"):
        job["record"][b"s"] = b"STARTED"
    write(redis_client, job)
    handle: JobHandle[Any] = JobHandle(JOB, app=app)
    with contextlib.suppress(JobNotFoundError, TimeoutError):
        list(handle.follow_logs(timeout=0.05))
    asyncio.run(_read_by_loop(handle))


@pytest.mark.parametrize("value", [b"\x81\xc0\x01", b"\xc7\x01\x07x", b"\x81\x92\x01\x02\x03"])
def test_what_json_has_no_form_for_is_shown_as_its_repr(whole_job: Whole, redis_client: redis.Redis, value: bytes) -> None:
    """J2, K3: MessagePack of another version's: an extension, a key that is no text."""
    app, kept = whole_job
    record = {**kept["record"], b"p": b"\x93" + value + pack(NOW_MS) + b"\xc0", b"s": b"SUCCESS"}
    write(redis_client, {**kept, "record": record})
    frames = asyncio.run(_frames(JobHandle(JOB, app=app), 1.0))
    assert b"event: progress" in b"".join(frames)
    assert b"event: outcome" in frames[-1]


# --- what is announced --------------------------------------------------------------------------------


def test_announcements_that_are_garbage_are_passed_over(whole_job: Whole, redis_client: redis.Redis, redis_url: str) -> None:
    """G1: who hears them hears the next one, and ends for none of them."""
    store = RedisStore(Endpoint(redis_url))
    heard: list[Any] = []
    listener = Listener(store, heard.append, lambda: None)
    listener.start()
    wait_until(lambda: listener.ready, "the listener")
    since = listener.ready_since
    deep = b"\x91" * 100_000 + b"\xc0"
    odd = b"c\x98\xa1a\x01\xc0\xc0\xc2\xc0" + deep
    for data in (b"", b"c", b"s", b"x", b"c\xff", b"s" + deep, b"c" + deep, odd, b"\x00" * 10_000):
        redis_client.publish(KEYS.announcements, data)
    store.shut_down("w1@host")
    wait_until(lambda: bool(heard), "the announcement behind them")
    assert heard == [Shutdown("w1@host")]
    assert listener.ready_since == since, "it has heard all of it on one connection"
    listener.stop()
    store.close()


def test_a_follower_is_not_misled_by_what_is_said_on_a_jobs_channel(whole_job: Whole, redis_client: redis.Redis) -> None:
    """J2: a message there only says that there may be something to read, whatever it says."""
    app, kept = whole_job
    write(redis_client, {**kept, "record": {**kept["record"], b"s": b"STARTED"}})
    handle: JobHandle[Any] = JobHandle(JOB, app=app)
    events = handle.events(timeout=20)
    for _ in range(3):
        next(events)
    for data in (b"", b"\xff\xfe", b"x" * 100_000):
        redis_client.publish(KEYS.channel(JOB), data)
    redis_client.hset(KEYS.of(JOB)[0], "s", "SUCCESS")
    redis_client.publish(KEYS.channel(JOB), b"\x00")
    assert list(events)[-1].data["state"] == "SUCCESS"


# --- what workers answer, and what results say ------------------------------------------------------------

odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just("\ud800") | st.just("9" * 400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("\ud800"), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
abouts = st.fixed_dictionaries({}, optional={"queues": odd, "version": odd, "packages": odd, "active": odd, "clock": odd})
stats = odd | st.fixed_dictionaries(
    {}, optional={"pool": odd | st.fixed_dictionaries({"implementation": odd, "max-concurrency": odd}), "taskora": odd | abouts}
)


@settings(FUZZ, max_examples=30)
@example(replies={"w1": {"pool": {"implementation": "a.\ud800:b", "max-concurrency": 9**99}, "taskora": {"queues": ["\ud800"]}}})
@example(replies={"w1": {"taskora": {"version": "\ud800", "packages": {"celery": "\udfff"}, "queues": ["q" * 10_000] * 2_000}}})
@given(replies=st.dictionaries(st.text(max_size=6), stats, max_size=3))
def test_workers_that_answer_anything_are_shown(whole_job: Whole, redis_client: redis.Redis, replies: dict[str, Any]) -> None:
    """K4: one that is not understood is there, and no more is said of it; the others are seen."""
    app, kept = whole_job
    write(redis_client, kept)
    answers = {name: answer_of(Replied(name, answer, 1.0, NOW_MS / 1000)) for name, answer in replies.items()}
    found = Round(NOW_MS, frozenset(answers), answers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inspector, "seen", lambda self, wait: found)
        asyncio.run(_go_through(app, expected={200}, pages=(("/workers", {}), ("/queues", {}))))


@settings(FUZZ, max_examples=30)
@example(
    meta=json.dumps({"status": "SUCCESS", "parent_id": "\ud800", "group_id": "\ud800", "children": [[["\ud800", None], None]]})
)
@example(meta=json.dumps({"status": [], "result": {}}))
@example(meta=json.dumps({"status": "\ud800", "result": "\ud800", "traceback": "\ud800", "args": "\ud800"}))
@given(
    meta=st.dictionaries(
        st.sampled_from(["status", "result", "args", "kwargs", "traceback", "parent_id", "group_id", "children", "task_id"]), odd
    ).map(json.dumps) | st.text(max_size=9) | odd.map(json.dumps)
)  # fmt: skip
def test_a_result_that_is_garbage_hides_no_record(whole_job: Whole, redis_client: redis.Redis, meta: str) -> None:
    """K4: the page has what the record has, and says what else cannot be said."""
    app, kept = whole_job
    write(redis_client, kept)
    redis_client.set(app.backend.get_key_for_task(JOB), meta.encode("utf-8", "surrogatepass"), ex=60)
    asyncio.run(_go_through(app, expected={200}, pages=(("/job", ONE),)))
    asyncio.run(_read_by_loop(JobHandle(JOB, app=app)))
