"""The project's Celery app, as Celery's documentation has it, with one line changed where `SHOP_TASK_CLS` says so."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.support.django_project.settings")

app = Celery("shop", task_cls=os.environ.get("SHOP_TASK_CLS") or None)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
