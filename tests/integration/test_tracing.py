"""What OpenTelemetry is told of jobs: on the spans of its own Celery instrumentation, read by its SDK's in-memory exporter."""

# mypy: allow-untyped-decorators
# Celery itself carries no types.

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from taskora_celery import Context, JobHandle
from taskora_celery.store.protocol import CancelRequest
from tests.support.executions import NOW_MS, ScriptedExecution
from tests.support.scripted_store import ScriptedStore
from tests.support.traced import traced, traced_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
pytest.importorskip("opentelemetry.instrumentation.celery", reason="opentelemetry-instrumentation-celery is not installed")

TRACE = "0af7651916cd43dd8448eb211c80319c"
#: What a publisher whose trace this is puts into the message.
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@pytest.fixture
def app(store: ScriptedStore) -> Iterator[Celery]:
    with traced_app(store, task_acks_late=True) as app:
        yield app


@pytest.fixture
def spans() -> Iterator[Any]:
    """All spans that end in the test, as the SDK has them."""
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = CeleryInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    yield exporter
    instrumentor.uninstrument()
    provider.shutdown()


def ran(spans: Any) -> list[Any]:
    return [span for span in spans.get_finished_spans() if span.name.startswith("run/")]


def ours(span: Any) -> dict[str, Any]:
    return {name: value for name, value in span.attributes.items() if name.startswith(("taskora.", "error."))}


def test_a_job_s_span_says_which_attempt_it_is_and_how_it_ended(app: Celery, spans: Any) -> None:
    """K6: on the span that is there; there is no second one."""

    @app.task
    def work(ctx: Context) -> str:
        return "done"

    assert traced(work) == ("SUCCESS", "done")
    assert [span.name for span in spans.get_finished_spans()] == [f"run/{work.name}"]
    assert ours(ran(spans)[0]) == {"taskora.job.attempt": 1, "taskora.job.outcome": "success"}


def test_a_failure_says_which_exception_it_was(app: Celery, spans: Any) -> None:
    """K6: its class; the text is the span's own business."""

    @app.task
    def work(ctx: Context) -> None:
        raise KeyError("order 17")

    assert traced(work)[0] == "FAILURE"
    assert ours(ran(spans)[0]) == {"taskora.job.attempt": 1, "taskora.job.outcome": "failure", "error.type": "KeyError"}


def test_a_retry_says_why(app: Celery, spans: Any) -> None:
    """K6, F7: redacted, as everything that leaves the process is; the attempt after it has a span of its own."""

    @app.task(max_retries=3)
    def work(ctx: Context) -> None:
        raise ctx.retry(delay=1, reason="rate limited", exc=OSError("429"))

    assert traced(work)[0] == "RETRY"
    traced(work, retries=1)
    assert [ours(span) for span in ran(spans)] == [
        {
            "taskora.job.attempt": attempt, "taskora.job.outcome": "retry", "taskora.retry.reason": "rate limited",
            "error.type": "OSError",
        }
        for attempt in (1, 2)
    ]  # fmt: skip


def test_a_cancelled_job_ends_as_revoked(app: Celery, store: ScriptedStore, spans: Any) -> None:
    """K6, G6: whatever the handler had returned."""

    @app.task
    def work(ctx: Context) -> str:
        ctx.progress(1)
        store.cancel(CancelRequest(ctx.id, NOW_MS, "no longer wanted"))
        assert ctx.signal.wait(5)
        return "too late"

    traced(work)
    assert ours(ran(spans)[0]) == {
        "taskora.job.attempt": 1, "taskora.job.outcome": "revoked", "error.type": "JobCancelledError",
    }  # fmt: skip


def test_a_delivery_that_counts_no_more_says_so(app: Celery, store: ScriptedStore, spans: Any) -> None:
    """K6, D7: two spans of one job with an outcome would be one too many."""

    @app.task
    def work(ctx: Context) -> None:
        ctx.progress(1)
        ScriptedExecution(store, ctx.id, attempt=ctx.attempt, redelivered=True, tag="t2", token=2)

    traced(work)
    assert ours(ran(spans)[0])["taskora.job.outcome"] == "superseded"


def test_the_trace_is_in_the_record(app: Celery, store: ScriptedStore, spans: Any) -> None:
    """K6: that of the publisher, where it has one."""

    @app.task
    def work(ctx: Context) -> None:
        ctx.progress(1)

    traced(work, task_id="job-1", **PARENT)
    assert ran(spans)[0].context.trace_id == int(TRACE, 16)
    assert JobHandle("job-1", app=app).record().trace_id == TRACE


def test_an_async_handler_finds_the_span(app: Celery, spans: Any) -> None:
    """K6, M1: what it starts itself belongs below the job's span."""

    @app.task
    async def work(ctx: Context) -> str:
        from opentelemetry import trace

        return f"{trace.get_current_span().get_span_context().span_id:x}"

    state, span_id = traced(work)
    assert (state, span_id) == ("SUCCESS", f"{ran(spans)[0].context.span_id:x}")
    assert ours(ran(spans)[0])["taskora.job.outcome"] == "success"


def test_without_an_instrumentation_nothing_is_said(app: Celery, store: ScriptedStore) -> None:
    """K6: OpenTelemetry is there, and nobody has made a span."""

    @app.task
    def work(ctx: Context) -> str:
        return "done"

    assert traced(work, task_id="job-1", **PARENT) == ("SUCCESS", "done")
    assert JobHandle("job-1", app=app).record().trace_id is None


def test_nothing_of_opentelemetry_is_imported() -> None:
    """K6: not with the package, and not by a job; where somebody else has, it is found."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from taskora_celery import Context; from tests.support.traced import traced, traced_app\n"
        "from tests.support.scripted_store import ScriptedStore\n"
        "with traced_app(ScriptedStore()) as app:\n"
        "    @app.task\n"
        "    def work(ctx: Context) -> None: ctx.progress(1)\n"
        "    assert traced(work)[0] == 'SUCCESS'\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry.')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
