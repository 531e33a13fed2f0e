"""Where metrics go, and what the table of them promises."""

import re

import pytest

from deployments import telemetry
from deployments.metering import MemoryMeter
from deployments.telemetry import COUNTERS, IN_FLIGHT, METRICS, QUEUE_WAIT, REQUESTS, STATE, Kind, Metric

HISTOGRAMS = [metric for metric in METRICS if metric.kind is Kind.HISTOGRAM]


def test_a_counter_is_summed_a_gauge_is_its_last_value_a_histogram_is_counted():
    meter = MemoryMeter()
    for value in (3, 1):
        meter.write(REQUESTS, value, "a", "chat", "200")
        meter.write(IN_FLIGHT, value, "a")
        meter.write(QUEUE_WAIT, value, "a", "chat")
    assert meter.total(REQUESTS, "a", "chat", "200") == 4
    assert meter.total(IN_FLIGHT, "a") == 1
    assert meter.total(QUEUE_WAIT, "a", "chat") == 2


def test_labels_tell_series_apart():
    meter = MemoryMeter()
    meter.write(STATE, 1.0, "a", "ready")
    meter.write(STATE, 0.0, "a", "loading")
    assert (meter.total(STATE, "a", "ready"), meter.total(STATE, "a", "loading")) == (1, 0)


@pytest.mark.parametrize("metric", [REQUESTS, IN_FLIGHT, QUEUE_WAIT])
def test_what_was_never_written_is_nothing_and_asking_writes_nothing(metric):
    meter = MemoryMeter()
    assert meter.total(metric, *metric.labels) == 0
    assert not meter.values


@pytest.mark.parametrize("labels", [(), ("a",), ("a", "chat", "200", "more")])
def test_a_wrong_number_of_labels_is_refused_by_the_metrics_name(labels):
    with pytest.raises(ValueError, match="medley_requests"):
        MemoryMeter().write(REQUESTS, 1, *labels)


def test_the_table_has_every_metric_once():
    ours = {value for value in vars(telemetry).values() if isinstance(value, Metric)} | set(COUNTERS.values())
    assert set(METRICS) == {metric for metric in ours if metric.tasks != frozenset()}
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_are_as_prometheus_asks(metric):
    assert re.fullmatch(r"medley_[a-z_]+", metric.name)
    # Ray adds it to counters itself.
    assert not metric.name.endswith("_total")
    assert metric.series == f"ray_{metric.name}" + ("_total" if metric.kind is Kind.COUNTER else "")
    if any(word in metric.help for word in ("Seconds", "Time between")):
        assert metric.name.endswith("_seconds")
    assert metric.help.endswith(".")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_labels_are_few_and_never_of_one_request(metric):
    known = {"model", "task", "status", "code", "direction", "state", "device", "variant", "phase"}
    assert set(metric.labels) <= known
    assert metric.labels[:1] in ((), ("model",))  # without, it is of the router itself


def test_only_histograms_have_buckets_and_theirs_rise():
    assert [metric.name for metric in METRICS if metric.buckets] == [metric.name for metric in HISTOGRAMS]
    for metric in HISTOGRAMS:
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert metric.buckets[0] > 0
