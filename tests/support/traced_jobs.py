"""An app whose worker is instrumented as OpenTelemetry's documentation has it; its spans go to the file ``SPANS``."""

# mypy: allow-untyped-decorators
# Celery itself carries no types.

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_process_init

from taskora_celery import Context, ContextTask

app = Celery(
    "traced_jobs", broker=os.environ.get("BROKER_URL", "memory://"),
    backend=os.environ.get("RESULT_BACKEND", "cache+memory://"), task_cls=ContextTask,
)  # fmt: skip
app.conf.update(result_expires=600, broker_connection_retry_on_startup=True)


@app.task(max_retries=3)
def flaky(ctx: Context) -> str | None:
    """Be tried twice; return the trace that the handler finds itself in."""
    from opentelemetry import trace

    if ctx.attempt == 1:
        raise ctx.retry(delay=0, reason="not yet", exc=TimeoutError("slow"))
    return f"{trace.get_current_span().get_span_context().trace_id:032x}"


def instrument(path: str) -> None:
    """Instrument this process, and write its spans to a file as they end."""
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class ToFile(SpanExporter):  # type: ignore[misc]
        def export(self, spans: Any) -> Any:
            with Path(path).open("a") as out:
                for span in spans:
                    told = {"name": span.name, "trace": f"{span.context.trace_id:032x}", "attributes": dict(span.attributes)}
                    out.write(json.dumps(told) + "\n")
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ToFile()))
    CeleryInstrumentor().instrument(tracer_provider=provider)


if "SPANS" in os.environ:

    @worker_init.connect(weak=False)
    def _in_worker(sender: Any, **_: Any) -> None:
        if "prefork" not in str(sender.pool_cls):
            instrument(os.environ["SPANS"])

    @worker_process_init.connect(weak=False)
    def _in_child(**_: Any) -> None:
        instrument(os.environ["SPANS"])
