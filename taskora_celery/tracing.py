"""What OpenTelemetry is told of a job: attributes on the span that its Celery instrumentation has made (rule K6).

Nothing is imported here. Where a span was made, OpenTelemetry's API is in ``sys.modules``; where it is not, there is no span.
"""

from __future__ import annotations

import sys
from typing import Any

from taskora_celery.records import Outcome
from taskora_celery.store.protocol import Ended

__all__ = ["JobSpan", "tracing_api"]


def tracing_api() -> Any:
    """Return OpenTelemetry's API if this process uses it, else None. Asked once, by a process's first job."""
    return sys.modules.get("opentelemetry.trace")


class JobSpan:
    """The span of one delivery; one that does nothing where there is none."""

    __slots__ = ("_span", "trace_id")

    def __init__(self, api: Any, attempt: int) -> None:
        """Find the span that is current; ``api`` is what :func:`tracing_api` has returned."""
        self._span = None
        #: 32 hexadecimal digits, empty where there is no trace.
        self.trace_id = ""
        if api is None:
            return
        span = api.get_current_span()
        context = span.get_span_context()
        if context.is_valid:
            self.trace_id = f"{context.trace_id:032x}"
        if span.is_recording():
            self._span = span
            span.set_attribute("taskora.job.attempt", attempt)

    def ended(self, ended: Ended) -> Ended:
        """Tell how the delivery ended, and return it; said twice, the last holds."""
        span = self._span
        if span is not None:
            span.set_attribute("taskora.job.outcome", ended.state.lower())
            if ended.state == Outcome.RETRY and ended.reason:
                span.set_attribute("taskora.retry.reason", ended.reason)
            if ended.error:
                span.set_attribute("error.type", ended.error)
        return ended

    def superseded(self) -> None:
        """Tell that this delivery counts no more."""
        if self._span is not None:
            self._span.set_attribute("taskora.job.outcome", "superseded")
