"""The live board (rule K4): an ASGI application that shows an app's jobs, and stops them. It needs the extra ``board``."""

from taskora_celery.board.app import Board, board_app

__all__ = ["Board", "board_app"]
