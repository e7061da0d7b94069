"""An ordinary Celery app whose tasks have a context: ``celery -A example_project worker``."""

from example_project.celery import app

__all__ = ["app"]
