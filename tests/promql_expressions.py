"""What Prometheus is asked by the files that `medley monitoring` writes."""

from __future__ import annotations

from dataclasses import dataclass

from medley.monitoring.objectives import objectives
from medley.monitoring.panels import rows
from medley.monitoring.promql import RATE_WINDOW
from medley.monitoring.rules import alerts, recording_rules
from models.catalog import load_catalog
from models.slo import Slo


@dataclass(frozen=True, slots=True)
class Query:
    """
    Attributes:
        where: the panel, rule or alert that asks.
        expr: PromQL that Prometheus can evaluate, without variables of Grafana.
    """

    where: str
    expr: str


def expressions(slo: Slo, profile: str) -> list[Query]:
    """Every PromQL expression of the dashboard, the recording rules and the alerts, ready to be evaluated."""
    promises = objectives(slo, profile)
    panels = [panel for row in rows(load_catalog()) for panel in row.panels]
    return [
        *(Query(f"panel {panel.title}", plain(target.expr)) for panel in panels for target in panel.targets),
        *(Query(f"rule {rule.record} {rule.labels}", rule.expr) for rule in recording_rules(promises)),
        *(Query(f"alert {alert.name}", alert.expr) for alert in alerts(promises)),
    ]


def plain(expr: str) -> str:
    """An expression of the dashboard with Grafana's variables filled in: all models, five minutes."""
    return expr.replace(RATE_WINDOW, "5m").replace("$model", ".*")
