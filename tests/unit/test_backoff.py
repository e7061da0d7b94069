"""When a job runs again, and when a store is asked again."""

from __future__ import annotations

import random

import pytest
from celery.utils.time import get_exponential_backoff_interval

from taskora_celery.backoff import OUTAGE_PAUSE_FIRST, OUTAGE_PAUSE_MAX, RetryPolicy, outage_pause, retry_delay


@pytest.mark.parametrize("factor", [1, 2, 5.0])
@pytest.mark.parametrize("ceiling", [10, 600])
def test_the_delay_is_the_one_that_celery_computes_for_autoretry(factor: float, ceiling: float) -> None:
    """I2: `retry_backoff` and `retry_backoff_max` mean the same on either road to a retry."""
    policy = RetryPolicy(retry_backoff=factor, retry_backoff_max=ceiling, retry_jitter=False)
    for retries in range(12):
        expected = get_exponential_backoff_interval(factor=factor, retries=retries, maximum=ceiling, full_jitter=False)
        assert retry_delay(policy, retries) == expected


def test_without_a_backoff_the_default_delay_is_used_exactly() -> None:
    """I2: `default_retry_delay`, without jitter."""
    assert retry_delay(RetryPolicy(default_retry_delay=7.5), 3) == 7.5


def test_jitter_draws_between_nothing_and_the_whole_delay() -> None:
    """I2: Celery's full jitter."""
    policy = RetryPolicy(retry_backoff=4, retry_backoff_max=100)
    delays = [retry_delay(policy, 3, random.Random(seed)) for seed in range(300)]
    assert 0 <= min(delays) < 3
    assert 29 < max(delays) <= 32


@pytest.mark.parametrize("retries", [64, 1_000, 10**9])
def test_the_delay_stays_at_its_ceiling_for_ever(retries: int) -> None:
    """I2: a job with unlimited retries does not overflow."""
    assert retry_delay(RetryPolicy(retry_backoff=2, retry_jitter=False), retries) == 600.0


def test_an_outage_is_asked_about_ever_more_seldom_up_to_a_ceiling() -> None:
    """L1: doubling, half of it at random."""
    rand = random.Random(1)
    for failures in (1, 2, 5, 10, 1_000):
        top = min(OUTAGE_PAUSE_MAX, OUTAGE_PAUSE_FIRST * 2 ** min(failures - 1, 32))
        for _ in range(50):
            assert top / 2 <= outage_pause(failures, rand) <= top


def test_a_fleet_does_not_come_back_in_one_beat() -> None:
    """L1: two processes that failed at the same moment ask at different ones."""
    assert len({outage_pause(8, random.Random(seed)) for seed in range(20)}) == 20
