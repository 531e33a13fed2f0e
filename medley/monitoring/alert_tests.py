"""alerts_test.yml: for each alert a little history of series in which it fires, and then stops (`promtool test rules`).

All histories stand beside each other in one test, each of a model of its own, so that every rule is evaluated once a
minute for all of them: promtool's work grows with the number of promises, not with its square. Only the alerts of
routers have a test to themselves: any series would end the one for silence.

Histories are written in promtool's way: `0+60x30` starts at 0 and grows by 60, 30 times, once a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deployments.telemetry import (
    DEMAND,
    DISCOVERY_AGE,
    ERRORS,
    QUEUE_WAIT,
    REPLICAS,
    REQUESTS,
    STATE,
    UNPLACED,
    Metric,
)
from medley.monitoring.objectives import Objective
from medley.monitoring.promql import bound, series
from medley.monitoring.rules import ALERTING_GROUP, RECORDING_GROUP, SPEEDS, Alert, alerts, burn_alert_name
from models.tasks import chat

# Long enough that the long windows are still full of it when the short ones are all good again: what stops an alert
# then is its short window. As short as that allows, because every rule is evaluated in every minute.
BAD_MINUTES, GOOD_MINUTES = 20, 40


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    Attributes:
        labels: of the alert, when it fires.
        fires, quiet: minutes after the start.
        waits: it fires first in the minute `fires`, because its expression must hold for a while.
    """

    alert: str
    labels: dict[str, str]
    history: dict[str, str]
    fires: int
    quiet: int
    waits: bool = False


def alert_tests_document(promises: list[Objective]) -> dict[str, Any]:
    """The content of alerts_test.yml."""
    by_name = {alert.name: alert for alert in alerts(promises)}
    return {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "group_eval_order": [RECORDING_GROUP, ALERTING_GROUP],
        "tests": [
            one_test("alerts of one model", scenarios(promises), by_name),
            one_test("alerts of routers", [_silence(), _blindness()], by_name),
        ],
    }


def scenarios(promises: list[Objective]) -> list[Scenario]:
    """Histories that do not disturb each other: no two give different values to the same series."""
    return [
        *(scenario for promise in promises for scenario in _of_promise(promise)),
        *_of_states(),
        _of_refusals(),
        *_of_growth(),
        *_of_queue(promises),
    ]


def one_test(name: str, found: list[Scenario], by_name: dict[str, Alert]) -> dict[str, Any]:
    """Raises ValueError: two histories have a series in common and differ in it."""
    histories: dict[str, str] = {}
    for scenario in found:
        for one, values in scenario.history.items():
            if histories.setdefault(one, values) != values:
                raise ValueError(f"two histories differ in {one}")
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in histories.items()],
        "alert_rule_test": [
            case
            for alert in dict.fromkeys(scenario.alert for scenario in found)
            for case in _cases(by_name[alert], [scenario for scenario in found if scenario.alert == alert])
        ],
    }


def _cases(alert: Alert, found: list[Scenario]) -> Iterator[dict[str, Any]]:
    """All alerts of that name that are expected at each time; promtool fails on any other."""
    times = {minute for one in found for minute in (one.fires, one.quiet, *([one.fires - 1] if one.waits else []))}
    for minute in sorted(times):
        firing = [_expected(one, alert) for one in found if one.fires <= minute < one.quiet]
        yield {"eval_time": f"{minute}m", "alertname": alert.name, "exp_alerts": firing}


def _expected(scenario: Scenario, alert: Alert) -> dict[str, Any]:
    model = scenario.labels.get("model", "")
    annotations = {name: text.replace("{{ $labels.model }}", model) for name, text in alert.annotations.items()}
    return {"exp_labels": {"severity": alert.severity, **scenario.labels}, "exp_annotations": annotations}


def _of_promise(promise: Objective) -> Iterator[Scenario]:
    """Sixty requests a minute, all of them bad for a while, then all good."""
    # A model that slo.yaml says nothing of has its task's promise.
    labels = {"model": promise.model or f"{promise.task}-{promise.indicator}", "task": promise.task}
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
        quiet = BAD_MINUTES + (7 if speed.short == "5m" else 32)
        yield Scenario(burn_alert_name(promise.indicator, speed), found, history, BAD_MINUTES - 5, quiet)


def _of_states() -> Iterator[Scenario]:
    for state, minutes in {"failed": 1, "loading": 15, "draining": 20}.items():
        model = {"model": state}
        history = {_named(STATE, model | {"state": state}): f"1x{minutes + 5} 0x{GOOD_MINUTES}"}
        yield Scenario(f"MedleyModel{state.capitalize()}", model, history, minutes, minutes + 6, waits=True)


def _silence() -> Scenario:
    gone_and_back = {_named(STATE, {"model": "ready", "state": "ready"}): "1x5 stale _x10 1x10"}
    return Scenario("MedleyRouterSilent", {}, gone_and_back, 8, 18, waits=True)


def _blindness() -> Scenario:
    hangs_and_is_back = {_named(DISCOVERY_AGE, {}): "1x3 61+60x5 1x20"}
    return Scenario("MedleyControlPlaneSilent", {}, hangs_and_is_back, 5, 10, waits=True)


def _of_refusals() -> Scenario:
    model = {"model": "refused"}
    labels = model | {"task": chat.TASK.name}
    refused = {
        _named(REQUESTS, labels | {"status": "200"}): f"0+60x{BAD_MINUTES + GOOD_MINUTES}",
        _named(REQUESTS, labels | {"status": "429"}): f"0+6x{BAD_MINUTES} {6 * BAD_MINUTES}x{GOOD_MINUTES}",
    }
    # A rate needs two samples, so it holds from the first minute on.
    return Scenario("MedleyRequestsRefused", model, refused, 6, BAD_MINUTES + 12, waits=True)


def _of_growth() -> Iterator[Scenario]:
    waits = {_named(UNPLACED, {"model": "unplaced"}): f"1x10 0x{GOOD_MINUTES}"}
    yield Scenario("MedleyNoRoom", {"model": "unplaced"}, waits, 5, 11, waits=True)
    model = {"model": "demanded"}
    beyond = {_named(DEMAND, model): f"2.7x15 1.9x{GOOD_MINUTES}", _named(REPLICAS, model): f"2x{15 + GOOD_MINUTES}"}
    yield Scenario("MedleyDemandUnserved", model, beyond, 10, 16, waits=True)


def _of_queue(promises: list[Objective]) -> Iterator[Scenario]:
    # As in the alert: the first token's limit where there is one, otherwise the whole answer's.
    limits = {(one.task, one.indicator): one for one in promises if one.model is None}
    for task in dict.fromkeys(promise.task for promise in promises):
        promise = limits.get((task, "time_to_first_token")) or limits.get((task, "duration"))
        if promise and promise.limit:
            model = {"model": f"{task}-queue"}
            history = _long_queue(promise, promise.limit, model | {"task": task})
            yield Scenario("MedleyQueueLong", model, history, 6, BAD_MINUTES + 7, waits=True)


def _long_queue(promise: Objective, limit: float, labels: dict[str, str]) -> dict[str, str]:
    """One in ten waits for longer than the limit; later nobody does."""
    at_once = f"0+54x{BAD_MINUTES} {54 * BAD_MINUTES + 60}+60x{GOOD_MINUTES}"
    everybody = f"0+60x{BAD_MINUTES + GOOD_MINUTES}"
    return {
        _named(promise.metric, labels, "_count"): everybody,
        _named(QUEUE_WAIT, labels | {"le": bound(QUEUE_WAIT.buckets[0])}, "_bucket"): at_once,
        _named(QUEUE_WAIT, labels | {"le": bound(limit)}, "_bucket"): at_once,
        _named(QUEUE_WAIT, labels | {"le": "+Inf"}, "_bucket"): everybody,
    }


def _named(metric: Metric, labels: dict[str, str], part: str = "") -> str:
    has = {label: value for label, value in labels.items() if label in (*metric.labels, "le")}
    return series(metric, *((label, "=", value) for label, value in has.items()), part=part)
