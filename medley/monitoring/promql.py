"""PromQL, built from the table of metrics so that a name or label that does not exist is an error here."""

from __future__ import annotations

import re

from deployments.telemetry import Kind, Metric

# Series of others that panels use. They have no row in the table; a test asks a real cluster for them.
VLLM_SERIES = ("ray_vllm_num_requests_running", "ray_vllm_num_requests_waiting", "ray_vllm_kv_cache_usage_perc")
RAY_SERIES = ("ray_node_mem_used", "ray_node_mem_total", "ray_node_cpu_utilization")

# Grafana's name for a window that fits the scrape interval and the zoom.
RATE_WINDOW = "$__rate_interval"
# `le` and the labels of the aggregations that Prometheus makes itself.
BUCKET_LABEL = "le"

Matcher = tuple[str, str, str]  # label, operator, value


def series(metric: Metric, *matchers: Matcher, part: str = "") -> str:
    """A selector such as `ray_medley_requests_total{task="chat"}`.

    Args:
        part: `_bucket`, `_count` or `_sum`, for histograms.

    Raises:
        ValueError: the metric has no such label.
    """
    for label, _, _ in matchers:
        check_label(metric, label)
    inside = ",".join(f'{label}{operator}"{value}"' for label, operator, value in matchers)
    return f"{metric.series}{part}" + (f"{{{inside}}}" if inside else "")


def rate_by(labels: str, metric: Metric, *matchers: Matcher, part: str = "", window: str = RATE_WINDOW) -> str:
    """A counter's growth per second, summed over routers and replicas."""
    for label in labels.split(", "):
        check_label(metric, label)
    return f"sum by ({labels}) (rate({series(metric, *matchers, part=part)}[{window}]))"


def gauge_by(how: str, labels: str, metric: Metric, *matchers: Matcher) -> str:
    """A gauge over routers or replicas: their `sum` or their `max`."""
    for label in labels.split(", "):
        check_label(metric, label)
    return f"{how} by ({labels}) ({series(metric, *matchers)})"


def quantile(share: float, metric: Metric, *matchers: Matcher, window: str = RATE_WINDOW) -> str:
    """A histogram's quantile for each model."""
    return f"histogram_quantile({share}, {rate_by('model, le', metric, *matchers, part='_bucket', window=window)})"


def bound(limit: float) -> str:
    """A bucket's bound as Ray writes it."""
    return repr(float(limit))


def check_label(metric: Metric, label: str) -> None:
    if label not in metric.labels and not (label == BUCKET_LABEL and metric.kind is Kind.HISTOGRAM):
        raise ValueError(f"{metric.name} has no label {label!r}; it has {', '.join(metric.labels)}")


def names(metric: Metric) -> list[str]:
    """The series that Prometheus has of a metric."""
    parts = ("_bucket", "_count", "_sum") if metric.kind is Kind.HISTOGRAM else ("",)
    return [metric.series + part for part in parts]


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_MATCHERS_AND_RANGES = re.compile(r"\{[^}]*\}|\[[^\]]*\]")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_NAME = re.compile(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\()(?![\w:])")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}
_NUMBERS = {"inf", "nan"}


def series_in(expr: str) -> set[str]:
    """The series an expression reads. Functions, labels and keywords are not among them."""
    for noise in (_STRING, _MATCHERS_AND_RANGES, _GROUPING):
        expr = noise.sub(" ", expr)
    return {name for name in _NAME.findall(expr) if name.lower() not in _WORDS | _NUMBERS}
