"""Files below k8s/ that are written from others: serve configs, rules, the dashboard. A test finds a stale one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from medley.k8s.overlays import FOLDER, Object, OverlayError, Settings, overlays, settings_of
from medley.monitoring.files import files
from medley.monitoring.prometheus import DROPPED_LABELS, KEPT_SERIES
from models.slo import load_slo

HEADER = "# Written by `medley k8s generate` from {}. Change that instead.\n"
# What production promises; rules of the starter cluster lie in monitoring/.
PROFILE = "gpu"
MONITORING = Path("components/monitoring")


def generated(root: Path = Path()) -> dict[Path, str]:
    """Texts by path, from the project's folder.

    Raises:
        OverlayError: what they are made from cannot be read.
    """
    texts = {overlay / "serve_config.yaml": serve_config(overlay, root) for overlay in overlays(root / FOLDER)}
    return texts | {root / FOLDER / MONITORING / name: text for name, text in monitoring(root).items()}


def serve_config(overlay: Path, root: Path) -> str:
    settings = settings_of(overlay)
    source = root / settings.serve_config
    try:
        document = yaml.safe_load(source.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise OverlayError(f"{source} cannot be read: {error}") from None
    return HEADER.format(f"{settings.serve_config} and medley.yaml") + as_yaml(for_kubernetes(document, settings))


def for_kubernetes(document: Mapping[str, Any], settings: Settings) -> Object:
    """A serve config, as the pods of a RayService need it: a proxy on each of them, reachable from others.

    Raises:
        OverlayError: a label selector names an application that the config does not have.
    """
    names = [application["name"] for application in document["applications"]]
    if strangers := set(settings.label_selectors) - set(names):
        raise OverlayError(f"label_selectors: {settings.serve_config} has no {', '.join(sorted(strangers))}.")
    applications = [with_settings(application, settings) for application in document["applications"]]
    http = {**document["http_options"], "host": "0.0.0.0"}
    return {**document, "proxy_location": "EveryNode", "http_options": http, "applications": applications}


def with_settings(application: Mapping[str, Any], settings: Settings) -> Object:
    name, args = application["name"], dict(application.get("args") or {})
    if name == "router":
        args |= settings.router
    if labels := settings.label_selectors.get(name):
        args["label_selector"] = labels
    return {**application, "args": args}


def monitoring(root: Path) -> dict[str, str]:
    """What of `medley monitoring` Prometheus Operator and Grafana's sidecar take, by the file's name."""
    texts = files(load_slo(root / "slo.yaml"), PROFILE)
    rules: Object = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "medley"},
        "spec": yaml.safe_load(texts[Path("rules.yml")]),
    }
    header = HEADER.format(f"deployments/telemetry.py and slo.yaml (profile {PROFILE})")
    return {
        "rules.yaml": header + as_yaml(rules),
        "pod-monitor.yaml": header + as_yaml(pod_monitor()),
        "medley.json": texts[Path("grafana/medley.json")],
    }


def pod_monitor() -> Object:
    """Scrapes the pods of Ray as monitoring/prometheus.yml does the processes of one machine."""
    endpoint = {
        "interval": "15s",
        "metricRelabelings": [
            {"sourceLabels": ["__name__"], "regex": "|".join(KEPT_SERIES), "action": "keep"},
            {"regex": "|".join(DROPPED_LABELS), "action": "labeldrop"},
        ],
    }
    pods = {"matchExpressions": [{"key": "ray.io/node-type", "operator": "In", "values": ["head", "worker"]}]}
    ports = ("metrics", "as-metrics", "dash-metrics")
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "medley"},
        "spec": {"selector": pods, "podMetricsEndpoints": [{"port": port, **endpoint} for port in ports]},
    }


def as_yaml(document: Object) -> str:
    return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=120)


class _Plain(yaml.SafeDumper):
    """Without anchors: each place says what it has."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
