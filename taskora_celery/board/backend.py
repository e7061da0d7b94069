"""What the result backend says of a job, for pages that do not wait for ever: it is any database, and may not answer at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

from taskora_celery.background import Background
from taskora_celery.extended import BackendFacts, backend_facts

__all__ = ["ANSWER_SECONDS", "BackendDesk"]

#: A page waits so many seconds for the result backend; then it says so, and shows what the record has.
ANSWER_SECONDS = 3.0
#: So many questions wait; a page whose question is dropped waits for nothing longer than the others.
QUESTIONS = 1_000


class BackendDesk:
    """Asks an app's result backend, one question after the other. :meth:`facts` and :meth:`close` are one event loop's.

    Thread contract: a daemon thread (``taskora-board-backend``) begins with the first question and ends after :meth:`close`. It
    is never waited for: where the backend hangs, it ends with the process.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._questions: deque[tuple[str, asyncio.Future[BackendFacts]]] = deque(maxlen=QUESTIONS)
        self._thread = Background("taskora-board-backend", self._turn)
        self._closed = False

    async def facts(self, job_id: str) -> BackendFacts:
        """Return what the result backend knows of a job; where it has not answered in time, that. Never raises for it."""
        answer: asyncio.Future[BackendFacts] = asyncio.get_running_loop().create_future()
        self._questions.append((job_id, answer))
        self._thread.start()
        self._thread.wake()
        done, _ = await asyncio.wait({answer}, timeout=0.0 if self._closed else ANSWER_SECONDS)
        if done:
            return answer.result()
        answer.cancel()
        return BackendFacts(failure=f"it has not answered for {ANSWER_SECONDS:g} s")

    def close(self) -> None:
        """Let the thread end when it has answered what was asked."""
        self._closed = True
        self._thread.wake()

    def _turn(self) -> None:
        while self._questions:
            job_id, answer = self._questions.popleft()
            if answer.done():  # nobody waits for it any more
                continue
            with self._thread.waiting():  # it may take long, and no fork is to wait for it
                facts = backend_facts(self._app, job_id)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                answer.get_loop().call_soon_threadsafe(_tell, answer, facts)
        if self._closed:
            self._thread.stop()  # by itself, so that nobody waits


def _tell(answer: asyncio.Future[BackendFacts], facts: BackendFacts) -> None:
    if not answer.done():
        answer.set_result(facts)
