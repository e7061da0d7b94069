"""What is shipped for Prometheus and Grafana names what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import taskora_celery
from taskora_celery.cli.exporter import PORT
from taskora_celery.metrics.families import FAMILIES, Family, family

DOCS = Path(taskora_celery.__file__).parent.parent / "docs"
ALERTS = yaml.safe_load((DOCS / "monitoring" / "alerts.yml").read_text("utf-8"))
DASHBOARD = json.loads((DOCS / "monitoring" / "dashboard.json").read_text("utf-8"))

#: A metric, and the selector behind it.
_SERIES = re.compile(r"\b(taskora_\w+)(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\bby \(([^)]*)\)")
_HISTOGRAM_SUFFIX = re.compile(r"_(bucket|sum|count)$")
_SHOWN = re.compile(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}")


def rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def targets() -> list[dict[str, Any]]:
    return [target for panel in DASHBOARD["panels"] for target in panel["targets"]]


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [target["expr"] for target in targets()]


def named_in(expression: str) -> set[Family]:
    """The metrics that an expression names; fails where there is none, or a label that it has not."""
    found = set()
    for name, selector in _SERIES.findall(expression):
        base = _HISTOGRAM_SUFFIX.sub("", name)
        metric = family(name if name in {known.name for known in FAMILIES} else base)
        assert (metric.kind == "histogram") == (name != metric.name), f"{name} has no series of its own"
        labels = {label.split("=")[0].rstrip("!~ ") for label in selector.split(",") if label}
        assert labels <= {*metric.fixed, *metric.open}, f"{name} has none of the labels {labels}"
        found.add(metric)
    return found


@pytest.mark.parametrize("expression", expressions())
def test_each_expression_names_metrics_and_labels_that_there_are(expression: str) -> None:
    """K5: and is whole."""
    metrics = named_in(expression)
    assert metrics
    labels = {label for metric in metrics for label in (*metric.fixed, *metric.open)} | {"le"}
    for grouping in _GROUPING.findall(expression):
        assert {label.strip() for label in grouping.split(",")} <= labels
    assert expression.count("(") == expression.count(")")
    for metric in metrics:
        if metric.kind == "counter":
            assert re.search(rf"(rate|increase)\({metric.name}", expression), "a counter is read by how it grows"


def test_there_are_three_alert_rules_that_say_what_to_do() -> None:
    """K5: by Prometheus's own format."""
    assert [rule["alert"] for rule in rules()] == ["TaskoraStoreDown", "TaskoraJobsStall", "TaskoraJobsFail"]
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"critical", "warning"}
        shown = {label for text in rule["annotations"].values() for label in re.findall(r"\$labels\.(\w+)", text)}
        kept = {label.strip() for grouping in _GROUPING.findall(rule["expr"]) for label in grouping.split(",")}
        assert shown <= kept


def test_the_dashboard_shows_every_metric() -> None:
    """K5: from the data source that is chosen, each panel once and in its place."""
    assert {metric for target in targets() for metric in named_in(target["expr"])} == set(FAMILIES)
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for panel in panels)
    cells = [(panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y) for panel in panels
             for x in range(panel["gridPos"]["w"]) for y in range(panel["gridPos"]["h"])]  # fmt: skip
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    for target in targets():
        kept = {label.strip() for grouping in _GROUPING.findall(target["expr"]) for label in grouping.split(",")}
        assert set(_SHOWN.findall(target["legendFormat"])) <= kept


def metrics_table() -> str:
    rows = []
    for metric in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in (*metric.open, *metric.fixed)) or "-"
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n")
    return "".join(rows)


def test_the_docs_list_the_metrics_as_they_are() -> None:
    """K5: the table is made from the one place that defines them; the port is the one in force."""
    page = (DOCS / "metrics.md").read_text("utf-8")
    assert metrics_table() in page
    assert page.count(str(PORT)) >= 2


def test_the_configuration_of_prometheus_reads_the_exporter() -> None:
    """K5: it is YAML, names the rules that are shipped, and asks at the port in force."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```", (DOCS / "metrics.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    told = yaml.safe_load(block)
    assert [(DOCS / "monitoring" / name).is_file() for name in told["rule_files"]] == [True]
    (scrape,) = told["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"127.0.0.1:{PORT}"]}]
