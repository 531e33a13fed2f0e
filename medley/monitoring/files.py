"""All files of `medley monitoring`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from medley.monitoring.alert_tests import alert_tests_document
from medley.monitoring.grafana import dashboard, datasources_document, providers_document
from medley.monitoring.objectives import objectives
from medley.monitoring.panels import rows
from medley.monitoring.prometheus import prometheus_document
from medley.monitoring.rules import rules_document
from models.catalog import load_catalog
from models.slo import Slo

HEADER = (
    "# Written by `medley monitoring` from deployments/telemetry.py and slo.yaml (profile {}). Change those instead.\n"
)


def files(slo: Slo, profile: str) -> dict[Path, str]:
    """Texts by path below the output folder.

    Raises:
        ValueError: a promise that cannot be measured; KeyError: no such profile.
    """
    promises = objectives(slo, profile)
    documents = {
        "prometheus.yml": prometheus_document(),
        "rules.yml": rules_document(promises),
        "alerts_test.yml": alert_tests_document(promises),
        "grafana/provisioning/datasources/medley.yml": datasources_document(),
        "grafana/provisioning/dashboards/medley.yml": providers_document(),
    }
    texts = {Path(name): HEADER.format(profile) + _yaml(document) for name, document in documents.items()}
    texts[Path("grafana/medley.json")] = json.dumps(dashboard(rows(load_catalog())), indent=2) + "\n"
    return texts


def _yaml(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False, width=120)
