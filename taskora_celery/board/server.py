"""The board as a server of its own."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

from taskora_celery.board.app import Board

__all__ = ["BoardServer", "bound", "url_of"]

#: A connection that does not end by itself is cut after so many seconds of a shutdown.
SHUTDOWN_SECONDS = 1


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; port 0 is any that is free.

    :raises OSError: the address is in use, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host.strip("[]"), port), family=family, backlog=512)


def url_of(listener: socket.socket) -> str:
    """Return the address of what listens."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


class BoardServer(uvicorn.Server):
    """A uvicorn whose shutdown ends the streams first: it waits for its connections, and a stream has no end of its own."""

    def __init__(self, board: Board) -> None:
        config = uvicorn.Config(
            board, log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS, timeout_keep_alive=20,
        )  # fmt: skip
        super().__init__(config)
        self._board = board

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then the rest."""
        self._board.close()
        await super().shutdown(sockets)

    def serve_on(self, listener: socket.socket) -> Any:
        """Serve until a signal comes."""
        return self.run(sockets=[listener])
