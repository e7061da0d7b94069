"""What runs in the worker's parent process; the only package that knows Celery's worker."""
