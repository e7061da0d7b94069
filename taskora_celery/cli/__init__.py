"""The commands of ``celery -A app jobs``, one module each."""
