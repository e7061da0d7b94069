"""The frames of this package in a handler's exception: what they keep alive, and what they show to nobody's use.

Celery clears the frames of the exception that it stores, not those of its causes; and a pool's process keeps the outcome of its
last job until the next one has ended. An execution whose own exception became another's cause would live as long.

And Celery's pool sends a traceback to the worker's parent with the positions of all instructions of each function in it: our half
dozen would be as much again as Celery's own.
"""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType

__all__ = ["clear_own_frames", "from_handler"]

_PACKAGE = __name__.partition(".")[0]


def clear_own_frames(error: BaseException) -> None:
    """Clear the local variables of this package's frames in an exception, its causes and its groups; never raises.

    The frames stay in the traceback. Those of handlers keep their variables, for whoever reports errors with them; those that
    still run are left as they are.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        exc = waiting.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        _clear(exc.__traceback__)
        waiting += (exc.__cause__, exc.__context__)
        # BaseExceptionGroup, which Python 3.10 has only in a package of its own.
        inner = getattr(exc, "exceptions", None)
        if isinstance(inner, tuple):
            waiting += (each for each in inner if isinstance(each, BaseException))


def from_handler(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first frame on that is not this package's, as people know it; all of it where all are."""
    found = traceback
    while found is not None and _is_own(found):
        found = found.tb_next
    return traceback if found is None else found


def _clear(traceback: TracebackType | None) -> None:
    while traceback is not None:
        if _is_own(traceback):
            with suppress(RuntimeError):  # it runs
                traceback.tb_frame.clear()
        traceback = traceback.tb_next


def _is_own(traceback: TracebackType) -> bool:
    return str(traceback.tb_frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE
