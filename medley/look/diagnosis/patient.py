"""What is known of a model whose health is in question, and what a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from medley.look.application_status import START_FAILED, ApplicationStatus, failure_message, model_args, status_of
from medley.look.exposition import Scrape
from medley.look.live import Live, replicas_of
from models.catalog import load_catalog
from models.specs import ModelSpec, VariantSpec


@dataclass(frozen=True, slots=True)
class Finding:
    """
    Attributes:
        text: what was found, in numbers where there are any; further lines are details.
        next: what to do. Empty where nothing is wrong.
    """

    ok: bool
    text: str
    next: str = ""


def fine(text: str) -> Finding:
    return Finding(True, text)


def wrong(text: str, next: str) -> Finding:
    return Finding(False, text, next)


# Replicas that end one after another, so that it is no accident.
REPEATEDLY = 2


@dataclass(frozen=True)
class Patient:
    """
    Attributes:
        model: its id, perhaps a wrong one; None asks after the cluster alone.
        processes: how many of the cluster run on this machine.
        client: for the edge.
        metrics: one scrape; empty where no process reports.
        last_start_s: seconds that its last start took, as a deploy saw it; None when not known.
        logs: the folder of Serve's logs.
        here: the folder where serve configs may lie.
    """

    model: str | None
    live: Live
    processes: int
    client: httpx.Client
    metrics: Scrape
    last_start_s: float | None
    logs: Path
    here: Path = Path()

    @property
    def name(self) -> str:
        return self.model or ""

    @cached_property
    def application(self) -> dict[str, Any]:
        """What Serve says of it; empty when it is not deployed."""
        return self.live.applications.get(self.name, {})

    @cached_property
    def status(self) -> ApplicationStatus:
        return status_of(self.live, self.name)

    @cached_property
    def spec(self) -> ModelSpec:
        """What the catalog has under this name. Only after it is known to be there."""
        return load_catalog()[self.name]

    @cached_property
    def variant(self) -> VariantSpec:
        """The variant that was deployed, else the default one."""
        args = model_args(self.application)
        return args.variant_spec if args else self.spec.variant(None)

    def replicas(self, *states: str) -> list[dict[str, Any]]:
        """Its replicas in these states."""
        return [one for one in replicas_of(self.application) if one["state"] in states]

    @property
    def starting(self) -> list[dict[str, Any]]:
        return self.replicas("STARTING", "UPDATING", "RECOVERING", "PENDING_MIGRATION")

    @property
    def running(self) -> list[dict[str, Any]]:
        return self.replicas("RUNNING")

    @cached_property
    def starts_failed(self) -> bool:
        """Whether replicas of the version asked for failed to start, and none has started since."""
        told = (self.live.models or {}).get(self.name, {})
        return bool(
            self.application.get("status") == "DEPLOY_FAILED"
            or failure_message(self.application).startswith(START_FAILED)
            or (told.get("cause") and not self.status.takes_requests and not self.running and not self.is_unhealthy)
        )

    @property
    def is_unhealthy(self) -> bool:
        deployments = self.application.get("deployments", {}).values()
        return "UNHEALTHY" in [self.application.get("status"), *(one.get("status") for one in deployments)]

    @cached_property
    def ended(self) -> int:
        """Replicas that started since the last deploy and have ended, where none runs and none was to be taken away."""
        if self.running:
            return 0
        deployed_s = self.application.get("last_deployed_time_s", 0)
        return sum(
            one.get("start_time_s", 0) >= deployed_s
            for deployment in self.application.get("deployments", {}).values()
            for one in deployment.get("recent_dead_replicas") or []
            if _never_scales_to_zero(deployment)
        )

    @property
    def keeps_dying(self) -> bool:
        return self.ended >= REPEATEDLY


def _never_scales_to_zero(deployment: dict[str, Any]) -> bool:
    autoscaling = (deployment.get("deployment_config") or {}).get("autoscaling_config")
    return bool(deployment.get("target_num_replicas")) and (not autoscaling or autoscaling.get("min_replicas", 1) > 0)
