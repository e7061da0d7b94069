"""``celery -A app jobs …``: see and steer jobs from a shell (rule K3).

Every call of ``celery`` imports this package, so it imports click and nothing else; a command's module is imported when it runs.
"""

from taskora_celery.cli.group import jobs

__all__ = ["jobs"]
