"""alerts_test.yml: for each alert a little history of series in which it fires, and then stops (`promtool test rules`).

Histories are written in promtool's way: `0+60x30` starts at 0 and grows by 60, 30 times, once a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from deployments.telemetry import ERRORS, QUEUE_WAIT, REQUESTS, STATE, Metric
from medley.monitoring.objectives import Objective
from medley.monitoring.promql import bound, series
from medley.monitoring.rules import ALERTING_GROUP, RECORDING_GROUP, SPEEDS, Alert, alerts, burn_alert_name
from models.specs import Task

# A model that slo.yaml says nothing of: it has its task's promise.
ANY_MODEL = "a-model"
BAD_MINUTES, GOOD_MINUTES = 40, 60


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    Attributes:
        labels: of the alert, when it fires.
        fires, quiet: minutes after the start.
    """

    alert: str
    labels: dict[str, str]
    history: dict[str, str]
    fires: int
    quiet: int


def alert_tests_document(promises: list[Objective]) -> dict[str, Any]:
    """The content of alerts_test.yml."""
    by_name = {alert.name: alert for alert in alerts(promises)}
    return {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "group_eval_order": [RECORDING_GROUP, ALERTING_GROUP],
        "tests": [
            _test(history, list(found), by_name)
            for history, found in groupby(scenarios(promises), key=lambda scenario: scenario.history)
        ],
    }


def scenarios(promises: list[Objective]) -> list[Scenario]:
    return [
        *(scenario for promise in promises for scenario in _of_promise(promise)),
        *_of_states(),
        *_of_queue(promises),
    ]


def _test(history: dict[str, str], found: list[Scenario], by_name: dict[str, Alert]) -> dict[str, Any]:
    return {
        "name": ", ".join(dict.fromkeys(scenario.alert for scenario in found)),
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in history.items()],
        "alert_rule_test": [case for scenario in found for case in _cases(scenario, by_name[scenario.alert])],
    }


def _cases(scenario: Scenario, alert: Alert) -> Iterator[dict[str, Any]]:
    model = scenario.labels.get("model", "")
    annotations = {name: text.replace("{{ $labels.model }}", model) for name, text in alert.annotations.items()}
    expected = {"exp_labels": {"severity": alert.severity, **scenario.labels}, "exp_annotations": annotations}
    yield {"eval_time": f"{scenario.fires}m", "alertname": alert.name, "exp_alerts": [expected]}
    yield {"eval_time": f"{scenario.quiet}m", "alertname": alert.name, "exp_alerts": []}


def _of_promise(promise: Objective) -> Iterator[Scenario]:
    """Sixty requests a minute, all of them bad for forty minutes, then all good."""
    labels = {"model": promise.model or ANY_MODEL, "task": promise.task.value}
    grow = f"0+60x{BAD_MINUTES + GOOD_MINUTES}"
    stand, then_grow = f"0x{BAD_MINUTES}", f"60+60x{GOOD_MINUTES}"
    if promise.limit is None:
        stop = f"0+60x{BAD_MINUTES} {60 * BAD_MINUTES}x{GOOD_MINUTES}"
        history = {
            _named(REQUESTS, labels | {"status": "500"}): grow,
            _named(ERRORS, labels | {"code": "engine_failed"}): stop,
        }
    else:
        within = _named(promise.metric, labels | {"le": bound(promise.limit)}, "_bucket")
        history = {within: f"{stand} {then_grow}", _named(promise.metric, labels, "_count"): grow}
    for speed in SPEEDS:
        found = {"model": labels["model"], **promise.labels}
        # The short window is all good again after it has passed once.
        quiet = BAD_MINUTES + (10 if speed.short == "5m" else 45)
        yield Scenario(burn_alert_name(promise.indicator, speed), found, history, BAD_MINUTES - 5, quiet)


def _of_states() -> Iterator[Scenario]:
    model = {"model": ANY_MODEL}
    for state, minutes in {"failed": 1, "loading": 15, "draining": 20}.items():
        history = {_named(STATE, model | {"state": state}): f"1x{minutes + 5} 0x20"}
        yield Scenario(f"MedleyModel{state.capitalize()}", model, history, minutes + 3, minutes + 10)
    gone_and_back = {_named(STATE, model | {"state": "ready"}): "1x5 stale _x10 1x20"}
    yield Scenario("MedleyRouterSilent", {}, gone_and_back, 12, 25)


def _of_queue(promises: list[Objective]) -> Iterator[Scenario]:
    model = {"model": ANY_MODEL, "task": Task.CHAT.value}
    refused = {
        _named(REQUESTS, model | {"status": "200"}): "0+60x120",
        _named(REQUESTS, model | {"status": "429"}): "0+6x40 240x80",
    }
    yield Scenario("MedleyRequestsRefused", {"model": ANY_MODEL}, refused, 30, 60)
    # As in the alert: the first token's limit where there is one, otherwise the whole answer's.
    limits = {(one.task, one.indicator): one for one in promises if one.model is None}
    for task in dict.fromkeys(promise.task for promise in promises):
        promise = limits.get((task, "time_to_first_token")) or limits.get((task, "duration"))
        if promise and promise.limit:
            yield Scenario("MedleyQueueLong", {"model": ANY_MODEL}, _long_queue(promise, promise.limit), 30, 60)


def _long_queue(promise: Objective, limit: float) -> dict[str, str]:
    """Everybody waits for longer than the limit; later nobody does."""
    labels = {"model": ANY_MODEL, "task": promise.task.value}
    return {
        _named(promise.metric, labels, "_count"): "0+60x120",
        _named(QUEUE_WAIT, labels | {"le": bound(QUEUE_WAIT.buckets[0])}, "_bucket"): "0x40 60+60x80",
        _named(QUEUE_WAIT, labels | {"le": bound(limit)}, "_bucket"): "0x40 60+60x80",
        _named(QUEUE_WAIT, labels | {"le": "+Inf"}, "_bucket"): "0+60x120",
    }


def _named(metric: Metric, labels: dict[str, str], part: str = "") -> str:
    has = {label: value for label, value in labels.items() if label in (*metric.labels, "le")}
    return series(metric, *((label, "=", value) for label, value in has.items()), part=part)
