"""What losses add to the counts. The stores count those that they are told of; nobody else sees all of them."""

from __future__ import annotations

from taskora_celery.records import Outcome
from taskora_celery.store.protocol import Loss, Lost
from taskora_celery.tally import Count, pack_count

__all__ = ["counts_of_loss", "loss_counts"]


def counts_of_loss(loss: Loss, lost: Lost) -> dict[str, int]:
    """Return what a loss that the store was told of adds, by the names in the store."""
    outcome = Outcome.LOST
    if lost.ended:
        outcome = Outcome.REVOKED if lost.cancelled else loss.state or Outcome.FAILURE
    stalled = loss.counts and loss.state is None and not lost.cancelled
    return {pack_count(count): number for count, number in loss_counts(loss.name, outcome, stalled=stalled)}


def loss_counts(name: str, outcome: str = Outcome.LOST, *, stalled: bool = True) -> list[tuple[Count, int]]:
    """Return what the loss of a delivery adds: how its attempt ended, and what was done if it is the job's own."""
    found = [(Count("attempts", (outcome,), (name,)), 1)]
    if stalled:
        found.append((Count("stalled", ("redelivered" if outcome == Outcome.LOST else "failed",), (name,)), 1))
    return found
