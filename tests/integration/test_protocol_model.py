"""The protocol is searched: every order of the round trips of a few workers, with every fault, for what must never happen."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from taskora_celery.store.connect import Endpoint
from taskora_celery.store.redis import RedisStore
from tests.support.model_replay import MemoryReplay, RedisReplay
from tests.support.model_search import BrokenError, Found, first_of, search
from tests.support.protocol_model import Bounds, Rules

if TYPE_CHECKING:
    import redis

    from taskora_celery.store.memory import MemoryStore

#: Each takes seconds; together they let everything happen beside everything else that matters to it.
SCENES = {
    "a retry, a requeue and a cancel": Bounds(retries=1, cancels=1, requeues=1),
    "two cancels and a fault": Bounds(cancels=2, faults=1),
    "a retry and a fault": Bounds(retries=1, faults=1),
    "two faults among three workers": Bounds(workers=3, faults=2),
    "two faults and a cancel": Bounds(faults=2, cancels=1),
    "a lost answer, a fault and a cancel": Bounds(lost_answers=1, faults=1, cancels=1),
    "a lost request, a fault and a retry": Bounds(lost_requests=1, faults=1, retries=1),
    "a store that forgets, and a cancel": Bounds(wipes=1, cancels=1, faults=1),
}
#: Minutes in all.
LARGER = {
    "three faults and a cancel": Bounds(faults=3, cancels=1),
    "a retry, a cancel and a fault among three workers": Bounds(workers=3, retries=1, cancels=1, faults=1),
    "two lost answers and a fault": Bounds(lost_answers=2, faults=1, retries=1),
    "a lost request, a lost answer and a cancel": Bounds(lost_requests=1, lost_answers=1, cancels=1, faults=1),
    "two faults, and a store that forgets": Bounds(wipes=1, faults=2),
}
WHOLE = bool(os.environ.get("TASKORA_TEST_MODEL"))
CHOSEN = {**SCENES, **LARGER} if WHOLE else SCENES
#: So many paths of each scene are taken in Redis: they are spread over all.
PATHS = 1_000 if WHOLE else 60


@functools.cache
def searched(scene: str) -> Found:
    """What a scene comes to, with the in-memory store beside the model."""
    return search(CHOSEN[scene], twin=MemoryReplay())


@pytest.mark.parametrize("scene", CHOSEN)
def test_no_order_of_round_trips_breaks_what_is_promised(scene: str) -> None:
    """D6, D7, G2, G3, G7, faults 4 to 8, 11 and 12: searched to the end; the in-memory store takes every single step as well.

    In every state: one outcome at most; without an outcome a message that is not gone; no more losses counted than there were,
    no handler called without a reason; a cancel that was acknowledged and the outcome agree. In every step: who does not hold
    the fence changes nothing, and nobody removes a message of a job that has no outcome. From every state an end can be reached.
    """
    assert searched(scene).ends


@pytest.mark.parametrize(
    ("rules", "bounds", "broken"),
    [
        (Rules(fence=False), Bounds(faults=1), "D7|one outcome"),
        (Rules(claim=False), Bounds(faults=1, retries=1), "D6|D7|D3"),
        (Rules(cancel_decides_end=False), Bounds(cancels=1), "G7"),
        (Rules(put_back_is_nobodys=False), Bounds(faults=1), "D6|D3"),
    ],
)
def test_the_search_finds_what_each_guard_is_for(rules: Rules, bounds: Bounds, broken: str) -> None:
    """D6, D7, G7: a model without one of its guards breaks, so what holds does not hold by chance."""
    with pytest.raises(BrokenError, match=broken):
        search(bounds, rules)


def test_a_store_without_its_guard_is_found() -> None:
    """D7: where the store does otherwise than the model, the search says in which step."""

    class Careless(MemoryReplay):
        def fork(self) -> MemoryReplay:
            other = super().fork()
            _accepts_any_fence(other.store, other.id)
            return other

    with pytest.raises(BrokenError, match="the answer is ACCEPTED, expected SUPERSEDED"):
        search(Bounds(faults=1), twin=Careless())


def _accepts_any_fence(store: MemoryStore, job_id: str) -> None:
    write = store._write
    store._write = lambda report: write(  # type: ignore[method-assign]
        type(report)(report.id, store._jobs[job_id].fields["f"], report.now_ms, ended=report.ended)
        if job_id in store._jobs else report
    )  # fmt: skip


@pytest.mark.parametrize("scene", CHOSEN)
def test_the_real_scripts_and_channels_take_the_same_paths(redis_url: str, redis_client: redis.Redis, scene: str) -> None:
    """D6, D7, G7: Redis answers as the model does, and its records, claims and messages are where the model has them."""
    bounds = CHOSEN[scene]
    paths = list(searched(scene).paths())
    app, store = Celery("model", broker=redis_url), RedisStore(Endpoint(redis_url))
    replay = RedisReplay(app, store, redis_client, bounds.workers)
    try:
        for path in paths[:: max(len(paths) // PATHS, 1)]:
            replay.run(first_of(bounds), path)
    finally:
        replay.close()
        store.close()
