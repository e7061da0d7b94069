"""One Redis for the coroutines of a loop: its two connections, under everything that can happen to who uses them."""

from __future__ import annotations

import asyncio
import gc
import random
import warnings
from typing import TYPE_CHECKING

import pytest

from taskora_celery.errors import StoreUnavailableError
from taskora_celery.store.asyncredis import AsyncRedis
from taskora_celery.store.connect import Endpoint
from taskora_celery.store.wire import Script
from tests.support.loops import clients_of, turns_until
from tests.support.redis_server import free_port

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    import redis

CHANGE = Script(b"redis.call('SETEX', KEYS[1], 600, ARGV[1]); redis.call('PUBLISH', KEYS[1], ''); return ARGV[1]", 1)
WATCHERS, ROUNDS = 20, 40


async def _change(shared: AsyncRedis, name: str, value: int) -> None:
    await shared.run(CHANGE, [name, value])


def _run(body: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a loop of its own, and fail for whatever it left unclosed."""
    gc.collect()  # what others left is not ours
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(body)
        gc.collect()
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []


def test_who_watches_hears_of_each_change_whatever_the_others_do(redis_url: str, redis_client: redis.Redis) -> None:
    """F5, J2: entering, leaving, being cancelled and losing the connection, all at once."""

    async def run() -> None:
        shared = AsyncRedis(Endpoint(redis_url))
        told = 0

        async def watch(seed: int) -> None:
            nonlocal told
            rand, rounds = random.Random(seed), 0
            while rounds < ROUNDS:
                name = f"channel-{rand.randrange(5)}"
                try:
                    async with shared.watch(name) as watching:
                        await _change(shared, name, rounds)
                        assert await watching.wait(20), "a change behind the entry was not heard of"
                        told, rounds = told + 1, rounds + 1
                        await asyncio.sleep(rand.random() / 500)
                except StoreUnavailableError:  # the connection was lost: enter anew
                    await asyncio.sleep(0)

        async def disturb(seed: int, watchers: list[asyncio.Task[None]]) -> None:
            rand = random.Random(seed)
            while not all(task.done() for task in watchers):
                other = asyncio.create_task(watch(seed))
                await asyncio.sleep(rand.random() / 100)
                other.cancel()
                await asyncio.wait({other})
                if seed == 0 and rand.random() < 0.1:
                    await asyncio.to_thread(redis_client.client_kill_filter, _type="pubsub")

        watchers = [asyncio.create_task(watch(100 + n)) for n in range(WATCHERS)]
        await asyncio.gather(*watchers, *(disturb(n, watchers) for n in range(5)))
        assert told >= WATCHERS * ROUNDS
        assert shared._channels.watches == {}
        await turns_until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "the end of all tasks")
        assert clients_of(redis_client, _type="pubsub") == []
        await shared.close()

    _run(run())


def test_each_gets_its_own_answer_whoever_is_cancelled(redis_url: str, redis_client: redis.Redis) -> None:
    """J2: an answer that nobody wants any more is not the next one's."""
    for n in range(50):
        redis_client.set(f"key-{n}", n, ex=600)

    async def run() -> None:
        shared, rand = AsyncRedis(Endpoint(redis_url)), random.Random(1)
        for _ in range(100):
            asked = {n: asyncio.create_task(shared.get(f"key-{n}")) for n in range(50)}
            for _turn in range(rand.randrange(8)):
                await asyncio.sleep(0)
            every = rand.random() < 0.3  # then the connection is given up, too
            for n, task in asked.items():
                if every or n % 3:
                    task.cancel()
            answers = await asyncio.gather(*asked.values(), return_exceptions=True)
            for n, answer in enumerate(answers):
                assert isinstance(answer, asyncio.CancelledError) or answer == str(n).encode()
        await shared.close()

    _run(run())


def test_a_redis_that_is_not_there_is_told_to_all_at_once(redis_url: str) -> None:
    """L1: without a second try for each."""
    endpoint = Endpoint(f"redis://:hunter2@127.0.0.1:{free_port()}/0")

    async def run() -> None:
        shared = AsyncRedis(endpoint)

        async def watch() -> None:
            async with shared.watch("channel"):
                pass

        asked = [shared.get("a") for _ in range(500)] + [watch() for _ in range(500)]
        answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
        assert {type(answer) for answer in answers} == {StoreUnavailableError}
        assert all("127.0.0.1" in str(answer) and "hunter2" not in str(answer) for answer in answers)
        await shared.close()

    _run(run())


def test_closing_tells_who_waits(redis_url: str) -> None:
    """L1: nobody waits for a connection that is gone."""

    async def run() -> None:
        shared = AsyncRedis(Endpoint(redis_url))

        async def watch() -> None:
            async with shared.watch("channel") as watching:
                entered.set()
                await watching.wait(60)

        entered = asyncio.Event()
        waiting = asyncio.create_task(watch())
        await entered.wait()
        await shared.close()
        with pytest.raises(StoreUnavailableError, match="closed"):
            await waiting

    _run(run())


def test_a_key_whose_name_is_no_text_is_a_key(redis_url: str) -> None:
    """J4: an id is the user's; one that cannot be encoded hurts no other command of its pipeline."""

    async def run() -> None:
        shared = AsyncRedis(Endpoint(redis_url))
        await _change(shared, "job-\udcff", 5)
        answers = await asyncio.gather(shared.get("job-\udcff"), shared.get("other"))
        assert list(answers) == [b"5", None]
        await shared.close()

    _run(run())


def test_a_read_that_is_cancelled_leaves_nothing_to_the_next(redis_url: str) -> None:
    """J2: a client hangs up, and the next request is another's; also where nobody else has asked."""

    async def run() -> None:
        shared, rand = AsyncRedis(Endpoint(redis_url)), random.Random(1)
        long = "x" * 1_000_000
        for n in range(200):
            given_up = asyncio.ensure_future(shared.run(CHANGE, ["channel", long if n % 2 else n]))
            for _ in range(rand.randrange(12)):
                await asyncio.sleep(0)
            given_up.cancel()
            for _ in range(rand.randrange(4)):
                await asyncio.sleep(0)
            assert int(await shared.run(CHANGE, ["channel", n])) == n
            await asyncio.wait({given_up})
        await shared.close()

    _run(run())
