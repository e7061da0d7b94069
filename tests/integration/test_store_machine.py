"""Both stores, driven by a state machine with all that the protocol has: they agree with each other and with the rules."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from taskora_celery.store.connect import Endpoint
from taskora_celery.store.redis import RedisStore
from tests.support.store_machine import INDEX_LIMIT, LOG_LIMIT, TTL, StoreMachine

if TYPE_CHECKING:
    import redis

WHOLE = bool(os.environ.get("TASKORA_TEST_MODEL"))


def test_both_stores_keep_the_rules_whatever_comes_in_whatever_order(redis_url: str, redis_client: redis.Redis) -> None:
    """O3, B2 to B6, D6, D7, E3, E6, E8, F2 to F4, G1, G2, G7, I4, L3: every call of the protocol, repeats, caps, and time."""

    class Machine(StoreMachine):
        redis_store = RedisStore(Endpoint(redis_url), ttl=TTL, log_limit=LOG_LIMIT, index_limit=INDEX_LIMIT)
        client = redis_client

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=1_000 if WHOLE else 60,
            stateful_step_count=40 if WHOLE else 25,
            deadline=None,
            derandomize=not WHOLE,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    Machine.redis_store.close()
