"""Place orders in transactions that are committed and rolled back; print how many messages wait at each point, as JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import cast

import django
import redis

from .celery import app

if __name__ == "__main__":
    django.setup()

    from django.core.management import call_command
    from django.db import transaction

    from .shop.models import Order
    from .shop.tasks import confirm

    call_command("migrate", run_syncdb=True, verbosity=0)
    broker = redis.Redis.from_url(os.environ["BROKER_URL"])
    waiting: dict[str, int] = {}

    def look(when: str) -> None:
        """Count the messages."""
        waiting[when] = cast("int", broker.llen("celery"))

    with transaction.atomic():
        order = Order.objects.create(name="committed")
        confirm.delay_on_commit(order.pk)
        confirm.apply_async_on_commit((order.pk,), task_id="committed", headers={"trace": "t1"})
        look("before the commit")
    look("after the commit")
    try:
        with transaction.atomic():
            order = Order.objects.create(name="rolled back")
            confirm.delay_on_commit(order.pk)
            confirm.apply_async_on_commit((order.pk,), task_id="rolled back")
            raise LookupError
    except LookupError:
        look("after the rollback")
    order = Order.objects.create(name="no transaction")
    confirm.apply_async_on_commit((order.pk,), task_id="no transaction")
    look("without a transaction")
    sys.stdout.write(json.dumps(waiting))
    app.close()
