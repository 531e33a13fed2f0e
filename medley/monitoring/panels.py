"""What the dashboard shows, row by row, and what to do when a panel looks wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from deployments.router.dispatch import BLIND_S
from deployments.telemetry import (
    BATCH_SIZE,
    BUSY,
    COLD_START,
    DEMAND,
    DISCOVERY_AGE,
    ERRORS,
    IN_FLIGHT,
    METRICS,
    QUEUE_WAIT,
    REPLICAS,
    REQUESTS,
    STATE,
    TOKENS,
    UNPLACED,
    WANTED,
    Kind,
    Metric,
)
from medley.monitoring.objectives import LATENCIES
from medley.monitoring.promql import VLLM_SERIES, gauge_by, names, quantile, rate_by, series, series_in
from medley.monitoring.rules import BURN, LIMIT, SPEEDS
from models.catalog import Catalog
from models.tasks import chat

# The models chosen at the top of the dashboard.
CHOSEN = ("model", "=~", "$model")
CHOSEN_FOR_VLLM = '{model_name=~"$model"}'


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel; `limit` draws it as a dashed line."""

    expr: str
    legend: str
    limit: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """
    Attributes:
        unit: as Grafana names them.
        kind: the panel type of Grafana.
        levels: values from which on the panel is yellow, orange, red.
        colours: of the lines whose legend ends in a word.
    """

    title: str
    description: str
    unit: str
    targets: tuple[Target, ...]
    kind: str = "timeseries"
    stacked: bool = False
    levels: tuple[float, ...] = ()
    colours: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def rows(catalog: Catalog, metrics: Iterable[Metric] = METRICS) -> list[Row]:
    """Without what no task of the catalog has. A metric that no panel here shows gets a plain one at the end."""
    metrics = tuple(metrics)
    tasks = {spec.task.name for spec in catalog.values()}
    absent = {name for one in metrics if one.tasks is not None and not one.tasks & tasks for name in names(one)}
    absent |= set(VLLM_SERIES) if chat.TASK.name not in tasks else set()
    designed = [TRAFFIC, ERRORS_ROW, LATENCY, QUEUE, TOKENS_ROW, BATCH, BUSY_ROW, STATES, COLD]
    shown = {name for row in designed for panel in row.panels for one in panel.targets for name in series_in(one.expr)}
    others = tuple(plain_panel(metric) for metric in metrics if not shown & set(names(metric)))
    return [row for row in (_without(absent, row) for row in (*designed, Row("More", others))) if row.panels]


def _without(absent: set[str], row: Row) -> Row:
    panels = [
        replace(panel, targets=tuple(one for one in panel.targets if not series_in(one.expr) & absent))
        for panel in row.panels
    ]
    return Row(row.title, tuple(panel for panel in panels if any(not target.limit for target in panel.targets)))


def plain_panel(metric: Metric) -> Panel:
    """A panel that follows from the metric's kind, unit and labels."""
    labels = ", ".join(metric.labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    unit = "s" if metric.name.endswith("_seconds") else "short"
    if metric.kind is Kind.HISTOGRAM:
        return Panel(metric.name, metric.help, unit, _quantiles(metric))
    if metric.kind is Kind.COUNTER:
        return Panel(metric.name, metric.help, "cps", (Target(rate_by(labels, metric, CHOSEN), legend),))
    return Panel(metric.name, metric.help, unit, (Target(gauge_by("max", labels, metric, CHOSEN), legend),))


def _quantiles(metric: Metric) -> tuple[Target, ...]:
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return tuple(Target(quantile(share, metric, CHOSEN), f"{{{{model}}}} {name}") for name, share in shares.items())


def _against_limit(indicator: str, title: str, description: str) -> Panel:
    limit = Target(
        f'max by (model) ({LIMIT}{{indicator="{indicator}",model=~"$model"}})', "{{model}} limit", limit=True
    )
    return Panel(title, description, "s", (*_quantiles(LATENCIES[indicator][0]), limit))


REFUSED = rate_by("model", REQUESTS, CHOSEN, ("status", "=", "429"))

TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            "Requests",
            "Answered, by model. None where there should be some: ask GET /readyz, then look at what is in front.",
            "reqps",
            (Target(rate_by("model", REQUESTS, CHOSEN), "{{model}}"),),
        ),
        Panel(
            "Requests by status",
            "429: more is asked than can be answered in time, see Refused with 429. 422: too large for the promise, "
            "see medley doctor. 499: the client left, often because it waited too long. 5xx: see Errors.",
            "reqps",
            (Target(rate_by("status", REQUESTS, CHOSEN), "{{status}}"),),
            stacked=True,
        ),
        Panel(
            "Requests in flight",
            "Being answered or waiting. If it rises while requests per second do not, the model is at its limit: raise "
            "max_replicas.",
            "short",
            (Target(gauge_by("sum", "model", IN_FLIGHT, CHOSEN), "{{model}}"),),
        ),
    ),
)
ERRORS_ROW = Row(
    "Errors",
    (
        Panel(
            "Errors by code",
            "docs/api.md says what each code means; docs/runbook.md what to do. invalid_value and its like are the "
            "client's.",
            "reqps",
            (Target(rate_by("model, code", ERRORS, CHOSEN), "{{model}} {{code}}"),),
        ),
        Panel(
            "Refused with 429",
            "Share of the requests. Above 5 %, see the code under Errors: at_capacity, raise max_replicas or choose a "
            "faster variant; no_room, add a node; queue_full, raise max_queued_requests. After too_busy more may come.",
            "percentunit",
            (Target(f"{REFUSED} / {rate_by('model', REQUESTS, CHOSEN)}", "{{model}}"),),
            levels=(0.01, 0.03, 0.05),
        ),
        Panel(
            "Error budget, burn rate over an hour",
            "1: just what slo.yaml allows. 6 for hours or 14.4 for an hour calls somebody. The panel of the indicator, "
            "below, says how far it is off.",
            "suffix: x",
            (Target(f'max by (model, indicator) ({BURN}1h{{model=~"$model"}})', "{{model}} {{indicator}}"),),
            levels=(1, *sorted(speed.times for speed in SPEEDS)),
        ),
    ),
)
LATENCY = Row(
    "Latency against what is promised",
    (
        _against_limit(
            "time_to_first_token",
            "Time to the first token",
            "Streamed chat. Above the limit: if queue wait is high, raise max_replicas; if not, prompts are long.",
        ),
        _against_limit(
            "time_per_output_token",
            "Time per output token",
            "Streamed chat, the mean over an answer. Above the limit: too many answers at once, so lower "
            "max_ongoing_requests or raise max_replicas.",
        ),
        _against_limit(
            "duration",
            "Duration of whole answers",
            "Successful requests. Above the limit: compare with queue wait and with tokens per second.",
        ),
    ),
)
QUEUE = Row(
    "Queue",
    (
        Panel(
            "Queue wait",
            "From the router's call to the start of work. It should be near zero: what waits, waits for a replica.",
            "s",
            _quantiles(QUEUE_WAIT),
        ),
        Panel(
            "Waiting inside vLLM",
            "Requests that wait for room in the batch or in the KV cache. Often above zero: lower max_ongoing_requests "
            "or raise max_replicas. Absent while the engine is idle.",
            "short",
            (Target(f"sum by (model_name) (ray_vllm_num_requests_waiting{CHOSEN_FOR_VLLM})", "{{model_name}}"),),
        ),
    ),
)
TOKENS_ROW = Row(
    "Tokens",
    (
        Panel(
            "Tokens read and written",
            "The work that is done. If it stays flat while requests rise, the engine is at its limit.",
            "suffix: tokens/s",
            (Target(rate_by("model, direction", TOKENS, CHOSEN), "{{model}} {{direction}}"),),
        ),
        Panel(
            "KV cache of vLLM in use",
            "The fullest replica. Near 100 % requests are put back and done again: raise max_replicas or lower "
            "max_model_len. Absent while the engine is idle.",
            "percentunit",
            (Target(f"max by (model_name) (ray_vllm_kv_cache_usage_perc{CHOSEN_FOR_VLLM})", "{{model_name}}"),),
            levels=(0.8, 0.9, 0.95),
        ),
    ),
)
BATCH = Row(
    "Batch",
    (
        Panel(
            "Batch size",
            "Inputs worked on at once, by quantile. 1 under load means that requests come one by one: nothing to mend.",
            "short",
            _quantiles(BATCH_SIZE),
        ),
        Panel(
            "Requests in vLLM's batch",
            "Answers that are written at once, all replicas together. Absent while the engine is idle.",
            "short",
            (Target(f"sum by (model_name) (ray_vllm_num_requests_running{CHOSEN_FOR_VLLM})", "{{model_name}}"),),
        ),
    ),
)
BUSY_ROW = Row(
    "Busy devices",
    (
        Panel(
            "Devices at work",
            "Busy seconds per second. Near the number of devices that the replicas hold: raise max_replicas. Near zero "
            "for days: min_replicas 0 gives them back.",
            "short",
            (Target(rate_by("model, device", BUSY, CHOSEN), "{{model}} {{device}}"),),
        ),
        Panel(
            "CPU of the nodes",
            "All programs on the machine. At 100 % for long: fewer models on it, or a larger machine.",
            "percent",
            (Target("max by (ip) (ray_node_cpu_utilization)", "{{ip}}"),),
        ),
        Panel(
            "Memory of the nodes",
            "All programs on the machine. Ray ends processes from 95 % on: take a model out before that.",
            "percentunit",
            (Target("max by (ip) (ray_node_mem_used) / max by (ip) (ray_node_mem_total)", "{{ip}}"),),
            levels=(0.8, 0.9, 0.95),
        ),
    ),
)
STATES = Row(
    "State and replicas",
    (
        Panel(
            "State",
            "failed: GET /readyz has the cause and the remedy. loading for long: it has the phase.",
            "short",
            (Target(f"{gauge_by('max', 'model, state', STATE, CHOSEN)} == 1", "{{model}} {{state}}"),),
            kind="state-timeline",
            colours=(("failed", "red"), ("loading", "yellow"), ("draining", "orange"), ("scaled_to_zero", "blue")),
        ),
        Panel(
            "Replicas",
            "Those that take requests. Fewer than min_replicas: one is starting, or there is no room for it.",
            "short",
            (Target(gauge_by("max", "model", REPLICAS, CHOSEN), "{{model}}"),),
        ),
        Panel(
            "Demand in replicas",
            "Work that is asked, admitted or refused, as so many fully used replicas, beside those that are wanted. "
            "Demand above what is wanted: raise max_replicas. Without room: no node can hold another replica.",
            "short",
            (
                Target(gauge_by("max", "model", DEMAND, CHOSEN), "{{model}} demand"),
                Target(gauge_by("max", "model", WANTED, CHOSEN), "{{model}} wanted"),
                Target(gauge_by("max", "model", UNPLACED, CHOSEN), "{{model}} without room"),
            ),
        ),
        Panel(
            "Age of what routers know",
            "The oldest. A second while all is well. Growing: Serve's controller or Ray's GCS does not answer.",
            "s",
            (Target(f"max({series(DISCOVERY_AGE)})", "seconds"),),
            levels=(5, 15, BLIND_S),
        ),
    ),
)
COLD = Row(
    "Cold start",
    (
        Panel(
            "Last start, by phase",
            "The slowest replica. schedule: no room. fetch: fetch weights before (medley fetch). load: slow disk. "
            "compile and warm_up: the variant's own.",
            "s",
            (Target(gauge_by("max", "model, variant, phase", COLD_START, CHOSEN), "{{model}} {{variant}} {{phase}}"),),
            kind="bargauge",
        ),
    ),
)
