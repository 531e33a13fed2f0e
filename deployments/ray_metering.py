"""Metrics through Ray. Each process reports to its node's agent, which Prometheus scrapes."""

from __future__ import annotations

from ray.util import metrics

from deployments.metering import Meter, NoMeter
from deployments.telemetry import METRICS, Kind, Metric


def ray_meter(enabled: bool) -> Meter:
    return RayMeter() if enabled else NoMeter()


class RayMeter:
    def __init__(self):
        self._metrics = {metric.name: _as_rays(metric) for metric in METRICS}

    def write(self, metric: Metric, value: float, *labels: str) -> None:
        target = self._metrics[metric.name]
        tags = dict(zip(metric.labels, labels, strict=True))
        if isinstance(target, metrics.Counter):
            if value > 0:  # Ray rejects an increase of 0
                target.inc(value, tags)
        elif isinstance(target, metrics.Gauge):
            target.set(value, tags)
        else:
            target.observe(value, tags)


def _as_rays(metric: Metric) -> metrics.Counter | metrics.Gauge | metrics.Histogram:
    match metric.kind:
        case Kind.COUNTER:
            return metrics.Counter(metric.name, metric.help, metric.labels)
        case Kind.GAUGE:
            return metrics.Gauge(metric.name, metric.help, metric.labels)
        case Kind.HISTOGRAM:
            return metrics.Histogram(metric.name, metric.help, list(metric.buckets), metric.labels)
