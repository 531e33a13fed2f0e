"""prometheus.yml: where to scrape, and what to keep of it."""

from __future__ import annotations

from typing import Any

from medley.monitoring.promql import RAY_SERIES, VLLM_SERIES

# Ray writes it when it starts, and again when a node joins or leaves.
DISCOVERY_FILE = "/tmp/medley/ray/prom_metrics_service_discovery.json"
JOB = "ray"
# The same on every series. All other labels tell series apart: without WorkerId two replicas would write the same one.
DROPPED_LABELS = ("otel_scope_.*", "Version", "SessionName")
# Serve and Ray export hundreds of series more.
KEPT_SERIES = ("ray_medley_.*", *VLLM_SERIES, *RAY_SERIES)


def prometheus_document() -> dict[str, Any]:
    """The content of prometheus.yml."""
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {
                "job_name": JOB,
                "file_sd_configs": [{"files": [DISCOVERY_FILE]}],
                "metric_relabel_configs": [
                    {"source_labels": ["__name__"], "regex": "|".join(KEPT_SERIES), "action": "keep"},
                    {"regex": "|".join(DROPPED_LABELS), "action": "labeldrop"},
                ],
            }
        ],
    }
