"""Samples as text: Prometheus's exposition format 0.0.4, and OpenMetrics 1.0."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from taskora_celery.metrics.families import Family, Sample

__all__ = ["OPENMETRICS", "PROMETHEUS", "exposition", "wants_openmetrics"]

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_LABEL = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})


def wants_openmetrics(accept: str) -> bool:
    """Say whether who asks with this ``Accept`` header wants OpenMetrics rather than Prometheus's own text."""
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0, "*/*": 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        try:
            weights[kind] = max(weights.get(kind, 0.0), float(weight))
        except ValueError:
            continue
    wanted = weights["application/openmetrics-text"]
    return wanted > 0 and wanted >= max(weights["text/plain"], weights["*/*"])


def exposition(samples: Iterable[Sample], *, openmetrics: bool = False) -> str:
    """Return samples as text; those of one metric stand together."""
    lines: list[str] = []
    for metric, own in groupby(samples, key=lambda sample: sample.family):
        lines += _head(metric, openmetrics)
        lines += [_line(sample) for sample in own]
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def _head(metric: Family, openmetrics: bool) -> list[str]:
    # OpenMetrics names a counter without the suffix that its samples have.
    name = metric.name.removesuffix("_total") if openmetrics and metric.kind == "counter" else metric.name
    return [f"# HELP {name} {metric.help.translate(_HELP)}", f"# TYPE {name} {metric.kind}"]


def _line(sample: Sample) -> str:
    labels = ",".join(f'{label}="{value.translate(_LABEL)}"' for label, value in sample.labels)
    value = sample.value
    number = str(int(value)) if value == int(value) else repr(value)
    return f"{sample.family.name}{sample.suffix}{{{labels}}} {number}" if labels else (
        f"{sample.family.name}{sample.suffix} {number}"
    )  # fmt: skip
