"""Writes metrics. telemetry.py has the table of them."""

from __future__ import annotations

from collections import defaultdict
from typing import Protocol

from deployments.telemetry import Kind, Metric


class Meter(Protocol):
    def write(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to a counter, set a gauge or observe a histogram.

        Args:
            labels: the values of the metric's labels, in the order of the table.
        """
        ...


class MemoryMeter:
    """Keeps metrics in memory, for tests and for a router without a cluster."""

    def __init__(self):
        self.values: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)

    def write(self, metric: Metric, value: float, *labels: str) -> None:
        if len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name} has the labels {metric.labels}, not {len(labels)} of them")
        self.values[metric.name, *labels].append(value)

    def total(self, metric: Metric, *labels: str) -> float:
        """A counter's sum, a gauge's last value or a histogram's number of observations."""
        values = self.values.get((metric.name, *labels), [])
        if metric.kind is Kind.HISTOGRAM:
            return len(values)
        return (values[-1] if values else 0.0) if metric.kind is Kind.GAUGE else sum(values)


class NoMeter:
    """Discards metrics, when they are switched off."""

    def write(self, metric: Metric, value: float, *labels: str) -> None:
        return None
