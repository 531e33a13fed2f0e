"""rules.yml: what Prometheus computes ahead (recording rules), and when it calls somebody (alerts).

An objective alerts on two windows at once, as Google's SRE workbook has it (chapter 5, "multiwindow, multi-burn-rate
alerts"): the long one says that it matters, the short one that it still goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deployments.router.dispatch import BLIND_S
from deployments.telemetry import DEMAND, DISCOVERY_AGE, QUEUE_WAIT, REPLICAS, REQUESTS, STATE, UNPLACED
from medley.monitoring.objectives import AVAILABILITY, Objective
from medley.monitoring.promql import gauge_by, quantile, rate_by, series

RUNBOOK = "docs/runbook.md"
LIMIT = "medley:slo_limit_seconds"
BURN = "medley:slo_burn:rate"
BAD = "medley:slo_bad:increase"
RECORDING_GROUP, ALERTING_GROUP = "medley-slo", "medley-alerts"


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a budget burns when somebody is called, and over which windows that is measured."""

    name: str
    severity: str
    times: float
    short: str
    long: str
    long_hours: int


SPEEDS = (Speed("Fast", "page", 14.4, "5m", "1h", 1), Speed("Slow", "ticket", 6, "30m", "6h", 6))
# With little traffic one bad request is a large share. Fewer bad ones than this in the long window raise no alert.
FEWEST_BAD = 5
REFUSED_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Rule:
    """A recording rule."""

    record: str
    expr: str
    labels: dict[str, str]

    def document(self) -> dict[str, Any]:
        return {"record": self.record, "expr": self.expr, "labels": self.labels}


@dataclass(frozen=True, slots=True)
class Alert:
    """
    Attributes:
        hold: how long the expression must be true, as Prometheus writes durations.
        description: what to do.
        anchor: of the section in the runbook.
    """

    name: str
    expr: str
    severity: str
    summary: str
    description: str
    anchor: str
    hold: str = "0m"

    @property
    def annotations(self) -> dict[str, str]:
        return {
            "summary": self.summary,
            "description": self.description,
            "runbook_url": f"{RUNBOOK}#{self.anchor}",
        }

    def document(self) -> dict[str, Any]:
        hold = {} if self.hold == "0m" else {"for": self.hold}
        labels = {"severity": self.severity}
        return {"alert": self.name, "expr": self.expr, **hold, "labels": labels, "annotations": self.annotations}


def rules_document(promises: list[Objective]) -> dict[str, Any]:
    """The content of rules.yml."""
    return {
        "groups": [
            {"name": RECORDING_GROUP, "rules": [rule.document() for rule in recording_rules(promises)]},
            {"name": ALERTING_GROUP, "rules": [alert.document() for alert in alerts(promises)]},
        ]
    }


def recording_rules(promises: list[Objective]) -> list[Rule]:
    """Limits, burn rates and counts of bad requests: one series for each model and indicator."""
    return [rule for promise in promises for rule in _recorded(promise)]


def _recorded(promise: Objective) -> Iterator[Rule]:
    if promise.limit is not None:
        yield Rule(LIMIT, promise.limit_line(), promise.labels)
    for speed in SPEEDS:
        for window in (speed.short, speed.long):
            yield Rule(f"{BURN}{window}", promise.burn(window), promise.labels)
        yield Rule(f"{BAD}{speed.long}", f"{promise.bad(speed.long)} * {speed.long_hours * 3600}", promise.labels)


def alerts(promises: list[Objective]) -> list[Alert]:
    """Those of the objectives, then those that need none."""
    indicators = dict.fromkeys(promise.indicator for promise in promises)
    return [*(_burn_alert(one, speed) for one in indicators for speed in SPEEDS), *_other_alerts()]


@dataclass(frozen=True, slots=True)
class Advice:
    alert: str
    anchor: str
    what: str
    do: str


ADVICE = {
    "time_to_first_token": Advice(
        "FirstTokenLate",
        "first-token-late",
        "the first token comes later than promised",
        "Look at queue wait first: if it is high, raise max_replicas or lower max_ongoing_requests. If it is low, "
        "prompts are long or the machine is busy with something else.",
    ),
    "time_per_output_token": Advice(
        "TokensSlow",
        "tokens-slow",
        "tokens follow each other more slowly than promised",
        "Too many answers are written at once: lower max_ongoing_requests or raise max_replicas. Check that nothing "
        "else runs on the replica's cores or GPU.",
    ),
    "duration": Advice(
        "RequestsSlow",
        "requests-slow",
        "whole answers take longer than promised",
        "Compare with queue wait: if it is high, raise max_replicas; if it is low, the requests themselves are larger "
        "or the engine is slower than before.",
    ),
    AVAILABILITY: Advice(
        "RequestsFail",
        "requests-fail",
        "more requests end in a server error than promised",
        "See in the panel of errors which code it is. model_starting and model_failed: GET /readyz has the cause. "
        "replica_lost and engine_failed: the replica's log has it. deadline_exceeded: the model is too slow.",
    ),
}


def burn_alert_name(indicator: str, speed: Speed) -> str:
    return f"Medley{ADVICE[indicator].alert}{speed.name}Burn"


def _burn_alert(indicator: str, speed: Speed) -> Alert:
    advice, one = ADVICE[indicator], f'{{indicator="{indicator}"}}'
    return Alert(
        name=burn_alert_name(indicator, speed),
        expr=(
            f"{BURN}{speed.short}{one} > {speed.times} and {BURN}{speed.long}{one} > {speed.times} "
            f"and {BAD}{speed.long}{one} >= {FEWEST_BAD}"
        ),
        severity=speed.severity,
        summary=f"{{{{ $labels.model }}}}: {advice.what}.",
        description=(
            f"In the last {speed.long} and the last {speed.short} the budget of bad requests was spent more than "
            f"{speed.times:g} times too fast. {advice.do}"
        ),
        anchor=advice.anchor,
    )


def _other_alerts() -> list[Alert]:
    return [
        Alert(
            "MedleyRouterSilent",
            # A counter of a router that died stays where it was; a gauge is gone in half a minute.
            f"absent({STATE.series})",
            "page",
            "No router tells the state of its models.",
            "Either nothing serves, or Prometheus cannot scrape. Ask GET /readyz; then see Prometheus's targets.",
            "router-silent",
            hold="2m",
        ),
        Alert(
            "MedleyControlPlaneSilent",
            f"max({series(DISCOVERY_AGE)}) > {BLIND_S:g}",
            "page",
            "A router has learnt nothing of its models for half a minute.",
            "Requests still reach the replicas that were known before, but no replica is replaced, started or stopped. "
            "See whether Serve's controller and Ray's GCS answer.",
            "control-plane-silent",
            hold="1m",
        ),
        Alert(
            "MedleyModelFailed",
            _in_state("failed"),
            "page",
            "{{ $labels.model }} could not be started.",
            "GET /readyz has the cause and the remedy. Mend it, then deploy with another release.",
            "model-failed",
            hold="1m",
        ),
        Alert(
            "MedleyModelLoading",
            _in_state("loading"),
            "ticket",
            "{{ $labels.model }} has been starting for more than a quarter of an hour.",
            "GET /readyz names the phase. schedule: there is no room for the replica. fetch: the weights come slowly. "
            "Other phases: the replica's log.",
            "model-loading",
            hold="15m",
        ),
        Alert(
            "MedleyModelDraining",
            _in_state("draining"),
            "ticket",
            "{{ $labels.model }} has been draining for more than twenty minutes.",
            "A request that does not end holds an old replica. It ends at graceful_shutdown_timeout_s; if not, end the "
            "replica's process.",
            "model-draining",
            hold="20m",
        ),
        Alert(
            "MedleyQueueLong",
            # Where no first token is promised, as for embeddings, the whole answer's limit counts.
            f"{quantile(0.95, QUEUE_WAIT, window='5m')} > on (model) 0.5 * "
            f'({LIMIT}{{indicator="time_to_first_token"}} or on (model) {LIMIT}{{indicator="duration"}})',
            "ticket",
            "{{ $labels.model }}: one request in twenty waits for more than half of the promised time before any work.",
            "Raise max_replicas, or lower max_queued_requests so that the rest is refused at once with 429.",
            "queue-long",
            hold="5m",
        ),
        Alert(
            "MedleyRequestsRefused",
            f"{rate_by('model', REQUESTS, ('status', '=', '429'), window='10m')} "
            f"/ {rate_by('model', REQUESTS, window='10m')} > {REFUSED_SHARE}",
            "ticket",
            "{{ $labels.model }}: more than 5 % of the requests are refused with 429.",
            "More is asked than can be answered in time. The panel of errors has the code. at_capacity: raise "
            "max_replicas, or choose a faster variant. no_room: add a node. queue_full: raise max_queued_requests.",
            "requests-refused",
            hold="5m",
        ),
        Alert(
            "MedleyNoRoom",
            f"{gauge_by('max', 'model', UNPLACED)} > 0",
            "ticket",
            "{{ $labels.model }}: a replica that its demand asks for has no room.",
            "No node has what a replica needs free, so requests beyond what runs are refused. Take a model out, add a "
            "node, or lower max_replicas. medley doctor says in numbers what is missing.",
            "no-room",
            hold="5m",
        ),
        Alert(
            "MedleyDemandUnserved",
            f"{gauge_by('max', 'model', DEMAND)} > on (model) {gauge_by('max', 'model', REPLICAS)}",
            "ticket",
            "{{ $labels.model }} has been asked for more than its replicas can serve for ten minutes.",
            "What is beyond it is refused. Raise max_replicas, or choose a faster variant. If fewer replicas run than "
            "max_replicas allows, see why they do not come: medley status.",
            "demand-unserved",
            hold="10m",
        ),
    ]


def _in_state(state: str) -> str:
    # Every router says it; one that has not heard yet must not hide it.
    return f"{gauge_by('max', 'model', STATE, ('state', '=', state))} == 1"
