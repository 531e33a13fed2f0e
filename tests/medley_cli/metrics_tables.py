"""The tables of docs/metrics.md, as the code has them."""

from __future__ import annotations

from deployments.telemetry import METRICS, Kind, Metric
from medley.monitoring.promql import RAY_SERIES, VLLM_SERIES


def metrics_table() -> str:
    """One line for each metric, in Markdown."""
    lines = ["| series | kind | labels | models of | what |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *map(_row, METRICS)]) + "\n"


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    tasks = "all" if metric.tasks is None else ", ".join(sorted(metric.tasks))
    return f"| `{metric.series}` | {metric.kind} | {labels} | {tasks} | {metric.help} |"


def buckets_table() -> str:
    """The bounds of each histogram: the limits that slo.yaml may name."""
    lines = ["| histogram | bucket bounds |", "|---|---|"]
    histograms = (metric for metric in METRICS if metric.kind is Kind.HISTOGRAM)
    rows = (f"| `{one.series}` | {', '.join(f'{bucket:g}' for bucket in one.buckets)} |" for one in histograms)
    return "\n".join([*lines, *rows]) + "\n"


def others_list() -> str:
    """Series of Ray and vLLM that the scrape configuration keeps."""
    return "\n".join(f"- `{name}`" for name in (*VLLM_SERIES, *RAY_SERIES)) + "\n"
