"""The shop's tasks; neither knows which base it has."""

# mypy: allow-untyped-decorators

from __future__ import annotations

from typing import Any

from celery import shared_task

from taskora_celery import current_context

from .models import Order


@shared_task(bind=True)
def confirm(self: Any, order_id: int) -> list[Any]:
    """Confirm an order, which must be in the database by now."""
    name = Order.objects.get(pk=order_id).name
    ctx = current_context(None)
    if ctx is not None:
        for n in range(5):
            ctx.log.info("confirming", n=n)
    return [name, type(self).__mro__[1].__mro__[1].__name__, ctx is not None]
