"""The live board (rule K4): an ASGI application that shows an app's jobs, and stops them. It needs the extra ``board``."""

from taskora_celery.texts import missing_extra

try:
    from taskora_celery.board.app import Board, board_app
except ImportError as exc:
    if exc.name is None or exc.name.startswith("taskora_celery"):
        raise
    raise ModuleNotFoundError(missing_extra("the board", "board", exc.name), name=exc.name) from exc

__all__ = ["Board", "board_app"]
