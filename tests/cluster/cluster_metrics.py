"""What the cluster's processes say to Prometheus, read where Prometheus would."""

import json
import re
from pathlib import Path

import httpx
from patience import patience

DISCOVERY = Path("/tmp/medley/ray/prom_metrics_service_discovery.json")


def samples() -> dict[str, float]:
    """Every series with its labels, and its value."""
    found = {}
    for target in json.loads(DISCOVERY.read_text())[0]["targets"]:
        text = httpx.get(f"http://{target}/metrics", trust_env=False, timeout=patience()).raise_for_status().text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        found |= {series: float(value) for series, value in lines}
    return found


def names() -> set[str]:
    return {re.split(r"[{ ]", series, maxsplit=1)[0] for series in samples()}


def total(name: str, *labels: str) -> float:
    """The sum over the series of a name that have all these labels, each such as `status="200"`."""
    return sum(
        value
        for series, value in samples().items()
        if series.startswith(name + "{") and all(label in series for label in labels)
    )


def vllm_tokens() -> float:
    """vLLM's own count of all tokens it wrote."""
    return total("ray_vllm_generation_tokens_total")
