"""Prometheus' text, as the cluster's nodes expose it: read, compared with an earlier reading, turned into rates."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from deployments.telemetry import Kind, Metric

# Ray's list of targets, under `medley up` and in a pod.
TARGETS = tuple(Path(folder, "prom_metrics_service_discovery.json") for folder in ("/tmp/medley/ray", "/tmp/ray"))
PREFIX = "ray_medley_"
WORKER = re.compile(r'WorkerId="(\w+)"')
PATIENCE_S = 5

Labels = frozenset[tuple[str, str]]
Series = tuple[str, Labels]  # the name of a sample and its labels


@dataclass(frozen=True, slots=True)
class Scrape:
    """What the targets said at one moment.

    Attributes:
        values: of Medley's own series, by target.
        written: what each process wrote last, as a hash: another one means that it reported again.
        gaps: targets that did not answer.
    """

    at: float
    values: Mapping[str, Mapping[Series, float]] = field(default_factory=dict)
    written: Mapping[str, int] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()

    def samples(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values of every series of this name that has these labels."""
        wanted = labels.items()
        return [
            (dict(own), value)
            for values in self.values.values()
            for (series, own), value in values.items()
            if series == name and wanted <= own
        ]

    def gauge(self, metric: Metric, **labels: str) -> float | None:
        """The sum over the processes that report it; None when none does."""
        found = [value for _, value in self.samples(metric.series, **labels)]
        return sum(found) if found else None

    def workers(self) -> set[str]:
        """The processes that report anything of Medley's."""
        found = {dict(own).get("WorkerId", "") for values in self.values.values() for _, own in values}
        return found - {""}


def targets(files: Iterable[Path] = TARGETS) -> list[str]:
    """Addresses that Ray names for Prometheus, from the first of the files that there is; none when no cluster has
    run."""
    for file in files:
        with contextlib.suppress(OSError, ValueError):
            groups = json.loads(file.read_text())
            return [target for group in groups for target in group.get("targets", [])]
    return []


def scrape(client: httpx.Client, addresses: Iterable[str]) -> Scrape:
    """Read every target once. Those that do not answer are named in `gaps`."""
    values: dict[str, dict[Series, float]] = {}
    written: dict[str, int] = {}
    gaps = []
    for address in addresses:
        try:
            text = client.get(f"http://{address}/metrics", timeout=PATIENCE_S).raise_for_status().text
            values[address] = parse(text)
            written |= written_by_worker(text)
        except (httpx.HTTPError, ValueError):
            gaps.append(address)
    return Scrape(time.time(), values, written, tuple(gaps))


def parse(text: str) -> dict[Series, float]:
    """Medley's series. The rest, which is nearly all, is not even parsed.

    Raises:
        ValueError: it is not Prometheus' format.
    """
    lines = [line for line in text.splitlines() if line.removeprefix("# TYPE ").startswith(PREFIX)]
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families("\n".join(lines) + "\n")
        for sample in family.samples
    }


def written_by_worker(text: str) -> dict[str, int]:
    """A hash of all that each process reports: Ray does not say when a figure was reported."""
    written: dict[str, int] = defaultdict(int)
    for line in text.splitlines():
        if match := WORKER.search(line):
            written[match[1]] ^= hash(line)
    return written


@dataclass(frozen=True, slots=True)
class Difference:
    """What happened between two scrapes."""

    before: Scrape
    after: Scrape

    @property
    def seconds(self) -> float:
        return self.after.at - self.before.at

    def rate(self, metric: Metric, **labels: str) -> float | None:
        """Per second, of a counter; None when no process reports it."""
        increases = self.increases(metric.series, **labels)
        return sum(value for _, value in increases) / self.seconds if increases and self.seconds > 0 else None

    def quantile(self, q: float, metric: Metric, **labels: str) -> float | None:
        """Of what a histogram observed between the scrapes; None when it observed nothing."""
        assert metric.kind is Kind.HISTOGRAM
        buckets: dict[float, float] = defaultdict(float)
        for own, value in self.increases(f"{metric.series}_bucket", **labels):
            buckets[float(own["le"])] += value
        return quantile(q, buckets)

    def increases(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """How much each series grew.

        A series whose value fell was reset and has counted from 0 since. A new series counts from 0 too, unless its
        target did not answer the first time: then it is left out.
        """
        wanted, found = labels.items(), []
        for target in self.after.values.keys() & self.before.values.keys():
            old = self.before.values[target]
            for series, value in self.after.values[target].items():
                if series[0] == name and wanted <= series[1]:
                    before = old.get(series, 0.0)
                    found.append((dict(series[1]), value - before if value >= before else value))
        return found


def quantile(q: float, buckets: Mapping[float, float]) -> float | None:
    """As histogram_quantile of Prometheus: linear between the bounds of the bucket that holds it.

    Args:
        buckets: cumulative counts by upper bound, infinity included.

    Returns:
        None when nothing was counted. The highest finite bound when the quantile lies above it.
    """
    bounds = sorted(buckets)
    if not bounds or bounds[-1] != math.inf or buckets[math.inf] <= 0 or len(bounds) < 2:
        return None
    rank, lower, below = q * buckets[math.inf], 0.0, 0.0
    for bound in bounds[:-1]:
        count = max(below, buckets[bound])
        if count >= rank:
            return lower + (bound - lower) * (rank - below) / (count - below) if count > below else bound
        lower, below = bound, count
    return bounds[-2]
