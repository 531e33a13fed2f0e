"""The dashboard as Grafana reads it, and the two files by which Grafana finds Prometheus and the dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deployments.telemetry import STATE
from medley.monitoring.panels import Panel, Row, Target

SCHEMA_VERSION = 42
WIDTH, HEIGHT = 24, 8
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
LETTERS = "ABCDEFGH"
COLOURS = ("yellow", "orange", "red")
MODEL_VALUES = f"label_values({STATE.series}, model)"


def dashboard(rows: list[Row]) -> dict[str, Any]:
    """The content of grafana/medley.json."""
    return {
        "uid": "medley",
        "title": "Medley",
        "description": "Written by `medley monitoring`. Change it there, or save a copy under another name.",
        "tags": ["medley"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_datasource_variable(), _model_variable()]},
        "panels": list(_laid_out(rows)),
    }


def datasources_document() -> dict[str, Any]:
    """grafana/provisioning/datasources/medley.yml: a Prometheus on the same machine."""
    source = {"name": "Prometheus", "type": "prometheus", "access": "proxy", "url": "http://127.0.0.1:9090"}
    return {"apiVersion": 1, "datasources": [source | {"isDefault": True}]}


def providers_document() -> dict[str, Any]:
    """grafana/provisioning/dashboards/medley.yml: where the dashboard lies. Grafana fills the variable in."""
    provider = {"name": "Medley", "type": "file", "options": {"path": "$MEDLEY_MONITORING/grafana"}}
    return {"apiVersion": 1, "providers": [provider]}


def _laid_out(rows: list[Row]) -> Iterator[dict[str, Any]]:
    """Each row's heading, and its panels beside each other below."""
    number, top = 0, 0
    for row in rows:
        number += 1
        yield _heading(row, number, top)
        top += 1
        per_line = min(3, len(row.panels))
        for position, panel in enumerate(row.panels):
            number += 1
            width = WIDTH // per_line
            line, column = divmod(position, per_line)
            place = {"x": column * width, "y": top + line * HEIGHT, "w": width, "h": HEIGHT}
            yield _panel(panel, number, place)
        top += HEIGHT * -(-len(row.panels) // per_line)


def _heading(row: Row, number: int, top: int) -> dict[str, Any]:
    place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    instant = panel.kind == "bargauge"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "targets": [_target(target, LETTERS[index], instant) for index, target in enumerate(panel.targets)],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": _thresholds(panel.levels),
                **({"custom": _drawing(panel)} if panel.kind == "timeseries" else {}),
            },
            "overrides": [
                *(_dashed(LETTERS[index]) for index, target in enumerate(panel.targets) if target.limit),
                *(_coloured(word, colour) for word, colour in panel.colours),
            ],
        },
        "options": OPTIONS[panel.kind],
    }


def _target(target: Target, letter: str, instant: bool) -> dict[str, Any]:
    return {
        "refId": letter,
        "datasource": DATASOURCE,
        "expr": target.expr,
        "legendFormat": target.legend,
        "editorMode": "code",
        "instant": instant,
        "range": not instant,
    }


OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "state-timeline": {"mergeValues": True, "showValue": "never", "legend": {"showLegend": False}},
    "bargauge": {
        "orientation": "horizontal",
        "displayMode": "basic",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
}


def _thresholds(levels: tuple[float, ...]) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}]
    steps += [{"color": colour, "value": level} for colour, level in zip(COLOURS, levels, strict=False)]
    return {"mode": "absolute", "steps": steps}


def _drawing(panel: Panel) -> dict[str, Any]:
    return {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 20 if panel.stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if panel.levels else "off"},
    }


def _dashed(letter: str) -> dict[str, Any]:
    return {
        "matcher": {"id": "byFrameRefID", "options": letter},
        "properties": [
            {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}},
            {"id": "color", "value": {"mode": "fixed", "fixedColor": "red"}},
        ],
    }


def _coloured(word: str, colour: str) -> dict[str, Any]:
    return {
        "matcher": {"id": "byRegexp", "options": f"/ {word}$/"},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
    }


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}


def _model_variable() -> dict[str, Any]:
    return {
        "name": "model",
        "label": "Model",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": MODEL_VALUES, "refId": "model"},
        "definition": MODEL_VALUES,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }
