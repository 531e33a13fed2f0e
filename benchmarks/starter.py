"""The starter cluster's config, as benchmarks change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
ROUTER = "router"


def starter(*models: str, promises: str | None = None) -> dict[str, Any]:
    """
    Args:
        models: which run beside the router; all if none is named.
        promises: the router's. None lets everybody in, for a benchmark that measures how fast answers come: with
            promises, Medley refuses what would be late, and a quick refusal is no answer.
    """
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    wanted = {*models, ROUTER} if models else {one["name"] for one in document["applications"]}
    document["applications"] = [one for one in document["applications"] if one["name"] in wanted]
    router_of(document)["args"]["promises"] = promises
    return document


def delivered_promises() -> str:
    """The profile that the router has in the config as it is delivered."""
    return router_of(yaml.safe_load((ROOT / "serve_config.yaml").read_text()))["args"]["promises"]


def router_of(document: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in document["applications"] if one["name"] == ROUTER)
