"""Flower's configuration: columns for progress and attempt, and each job's attempts and log on its page."""

from taskora_celery.flower import format_task, tasks_columns

__all__ = ["format_task", "tasks_columns"]
